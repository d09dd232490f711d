"""A function that takes effect once for each key: what callers get, and what they may pass."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import anyio
import pytest

from resilient.backends.memory import MemoryStore
from resilient.backends.store import Mode
from resilient.context import current_runtime
from resilient.errors import KeyReused, OutcomeUnknown
from resilient.idempotency import Claim, once

FENCED: list[Mode] = ["fenced", "at_most_once"]


@dataclass(frozen=True)
class Order:
    id: str
    cents: int = 100


@pytest.mark.parametrize("mode", FENCED)
def test_a_retry_gets_the_result_of_the_first_call(run, mode: Mode) -> None:
    calls = []

    @once(MemoryStore(), key=lambda order: order.id, mode=mode)
    async def charge(claim: Claim, order: Order) -> dict[str, Any]:
        calls.append(order)
        return {"charged": order.cents, "fence": claim.fence}

    async def main() -> None:
        tasks = len(anyio.get_running_tasks())
        first = await charge(Order("a"))
        await current_runtime().sleep(1)
        assert len(anyio.get_running_tasks()) == tasks  # its heartbeat has stopped
        assert await charge(order=Order("a")) == first
        assert (await charge(Order("b")))["fence"] > first["fence"]
        assert calls == [Order("a"), Order("b")]

    run(main)


def test_another_payload_under_the_key_does_not_run(run) -> None:
    calls = []

    @once(MemoryStore(), key=lambda order: order.id, mode="fenced")
    async def charge(claim: Claim, order: Order) -> None:
        calls.append(order)

    async def main() -> None:
        await charge(Order("a", 100))
        with pytest.raises(KeyReused):
            await charge(Order("a", 200))
        assert calls == [Order("a", 100)]

    run(main)


def test_the_fingerprint_decides_what_another_payload_is(run) -> None:
    @once(
        MemoryStore(),
        key=lambda order, trace: order.id,
        fingerprint=lambda order, trace: order,
        mode="fenced",
    )
    async def charge(claim: Claim, order: Order, trace: object) -> str:
        return "charged"

    async def main() -> None:
        await charge(Order("a"), object())
        assert await charge(Order("a"), object()) == "charged"
        with pytest.raises(KeyReused):
            await charge(Order("a", 1), None)

    run(main)


def test_arguments_without_a_lasting_value_need_a_fingerprint_of_their_own(run) -> None:
    store = MemoryStore()

    @once(store, key=lambda thing: "k", mode="fenced")
    async def charge(claim: Claim, thing: object) -> None:
        pass

    async def main() -> None:
        with pytest.raises(TypeError, match="pass fingerprint="):
            await charge(object())
        assert (await store.stats()).records == 0

    run(main)


def test_functions_do_not_share_keys_unless_they_share_a_scope(run) -> None:
    store = MemoryStore()

    @once(store, key=lambda k: k, mode="fenced")
    async def one(claim: Claim, k: str) -> str:
        return claim.scope

    @once(store, key=lambda k: k, mode="fenced")
    async def other(claim: Claim, k: str) -> str:
        return claim.scope

    @once(store, key=lambda k: k, mode="fenced", scope="payments")
    async def renamed(claim: Claim, k: str) -> str:
        return claim.scope

    async def main() -> None:
        assert (await one("a")).endswith(".one")
        assert (await other("a")).endswith(".other")
        assert await renamed("a") == "payments"

    run(main)


@pytest.mark.parametrize("mode", FENCED)
def test_a_result_that_cannot_be_kept_after_it_happened_is_never_run_again(run, mode: Mode) -> None:
    calls = []

    @once(MemoryStore(), key=lambda: "k", mode=mode)
    async def work(claim: Claim) -> object:
        calls.append(1)
        return object()

    async def main() -> None:
        with pytest.raises(TypeError, match="object") as raised:
            await work()
        assert raised.value.__notes__ == ["the function took effect; every retry under this key raises OutcomeUnknown"]
        with pytest.raises(OutcomeUnknown, match="not kept"):
            await work()
        assert calls == [1]

    run(main)


@pytest.mark.parametrize(
    "result", [None, True, 0, -1.5, "text", [], [1, [2]], {"a": {"b": [None]}}, float("inf"), "\x00\ud7ff"]
)
def test_a_replay_equals_the_first_result(run, result: object) -> None:
    @once(MemoryStore(), key=lambda: "k", mode="fenced")
    async def work(claim: Claim) -> object:
        return result

    async def main() -> None:
        first, replay = await work(), await work()
        assert first == replay == result
        assert type(first) is type(replay)

    run(main)


@pytest.mark.parametrize("result", [(1,), {1: "a"}, {"a": {1}}, b"x", [(1,)]])
def test_what_json_would_change_is_refused(run, result: object) -> None:
    @once(MemoryStore(), key=lambda: "k", mode="fenced")
    async def work(claim: Claim) -> object:
        return result

    async def main() -> None:
        with pytest.raises(TypeError, match="come back"):
            await work()

    run(main)


def test_other_results_bring_their_own_codec(run) -> None:
    @once(MemoryStore(), key=lambda: "k", mode="fenced", dump=str.encode, load=bytes.decode)
    async def work(claim: Claim) -> str:
        return "caf\xe9"

    async def main() -> None:
        assert await work() == await work() == "caf\xe9"

    run(main)


def test_the_callers_signature_has_no_claim(run) -> None:
    @once(MemoryStore(), key=lambda order, tip=0: order, mode="fenced")
    async def charge(claim: Claim, order: str, tip: int = 0) -> str:
        """Charge an order."""
        return order

    assert str(inspect.signature(charge)) == "(order: 'str', tip: 'int' = 0) -> 'str'"
    assert charge.__name__ == "charge"
    assert charge.__doc__ == "Charge an order."
    assert "claim" not in charge.__annotations__
    assert inspect.iscoroutinefunction(charge)

    async def main() -> None:
        assert await charge("a") == await charge("a", 0) == await charge(tip=0, order="a") == "a"
        with pytest.raises(TypeError, match="missing a required argument: 'order'"):
            await charge()  # type: ignore[call-arg]  # the mistake is the test

    run(main)


@pytest.mark.parametrize("key", [None, "", "x" * 256, "\xe9" * 128])
def test_a_key_has_1_to_255_bytes(run, key: object) -> None:
    @once(MemoryStore(), key=lambda: key, mode="fenced")
    async def work(claim: Claim) -> None:
        pass

    async def main() -> None:
        with pytest.raises(ValueError, match="key="):
            await work()

    run(main)


def test_a_key_may_be_a_number(run) -> None:
    @once(MemoryStore(), key=lambda number: number, mode="fenced")
    async def work(claim: Claim, number: int) -> str:
        return claim.key

    async def main() -> None:
        assert await work(17) == "17"

    run(main)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"mode": "exactly"}, "mode='exactly': the modes are transactional, fenced, at_most_once"),
        ({"mode": "transactional"}, "offers at_most_once, fenced"),
        ({"lease": 0.0}, "lease=0.0"),
        ({"lease": float("inf")}, "lease=inf"),
        ({"ttl": -1.0}, "ttl=-1.0"),
        ({"ttl": float("nan")}, "ttl=nan"),
        ({"dump": str.encode}, "dump and load"),
        ({"load": bytes.decode}, "dump and load"),
    ],
)
def test_terms_that_cannot_be_kept_are_refused_at_once(terms: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        once("memory://", key=lambda: "k", **{"mode": "fenced", **terms})


def test_a_stream_has_no_result_to_record() -> None:
    decorate: Any = once("memory://", key=lambda: "k", mode="fenced")

    async def stream(claim: Claim):
        yield 1

    def generator(claim: Claim):
        yield 1

    for fn in (stream, generator):
        with pytest.raises(TypeError, match="no result to record"):
            decorate(fn)


def test_a_claim_shows_what_it_is(run) -> None:
    @once(MemoryStore(), key=lambda: "k", scope="s", mode="fenced")
    async def work(claim: Claim) -> str:
        assert repr(claim) == f"Claim(scope='s', key='k', fence={claim.fence})"
        return repr(claim)

    run(work)
