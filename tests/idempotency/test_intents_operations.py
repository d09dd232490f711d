"""Functions whose calls are written down before they are made."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

import resilient
from resilient.context import current_call
from resilient.errors import DeadlineExceeded, KeyReused, OutcomeUnknown
from resilient.idempotency import Intents, derived
from resilient.pipeline import Pipeline
from resilient.policies.honoured import Honoured
from resilient.policies.retry import Retry
from resilient.policies.timeout import Timeout
from resilient.service import Service
from resilient.testing import virtual_time
from resilient.verdict import Classifier, Verdict

SPACE = "8e03978e-40d5-43e8-bc93-6894a57f9324"


class Till:
    """An operation behind a pipeline; `fail` is raised by the next calls of it, after it has taken effect."""

    def __init__(self, **terms: Any) -> None:
        self.intents = Intents("memory://", **terms)
        self.fail: list[BaseException] = []
        self.effects: dict[str, int] = {}
        self.calls = 0
        keys = derived(SPACE, lambda call: call.arguments[0][0])
        self.pipeline = Pipeline(
            Timeout(9.0), Honoured(keys=keys, intents=self.intents), Retry(attempts=2, budget=None)
        )

        @self.intents.operation(name="charge")
        @self.pipeline
        async def charge(order: str, cents: int, *, note: str = "") -> dict[str, Any]:
            return self.take(order, cents)

        @self.intents.operation(name="charge plainly")
        @self.pipeline
        def charge_plainly(order: str, cents: int) -> dict[str, Any]:
            return self.take(order, cents)

        self.charge, self.charge_plainly = charge, charge_plainly

    def take(self, order: str, cents: int) -> dict[str, Any]:
        call = current_call()
        assert call is not None
        assert call.idempotency_key is not None
        self.calls += 1
        self.effects.setdefault(call.idempotency_key, cents)
        if self.fail:
            raise self.fail.pop(0)
        return {"order": order, "cents": cents}


def test_a_call_is_kept_and_answers_its_repetition(run):
    async def main():
        till = Till()
        assert await till.charge("a", 5, note="x") == {"order": "a", "cents": 5}
        assert await till.charge("a", 5, note="x") == {"order": "a", "cents": 5}
        with pytest.raises(KeyReused):
            await till.charge("a", 5, note="y")
        assert till.calls == 1
        assert await till.intents.open() == []

    run(main)


def test_plain_functions_are_kept_likewise():
    with resilient.context.use_runtime(virtual_time.runtime()):
        till = Till()
        assert till.charge_plainly("a", 5) == till.charge_plainly("a", 5) == {"order": "a", "cents": 5}
        assert till.calls == 1
        till.fail = [ConnectionResetError("reset")] * 2
        with pytest.raises(ConnectionResetError):
            till.charge_plainly("b", 5)
        report = till.intents.blocking.resume()
        assert not report.finished
        resilient.context.current_runtime().pause(9.0)
        report = till.intents.blocking.resume()
        assert [item.result for item in report.finished] == [{"order": "b", "cents": 5}]
        assert len(till.effects) == 2


def test_what_failed_stays_open_and_is_resumed_with_the_same_arguments_and_key(run):
    async def main():
        till = Till()
        till.fail = [ConnectionResetError("reset")] * 2
        with pytest.raises(ConnectionResetError) as caught:
            await till.charge("a", 5, note="x")
        assert any("stays open" in note for note in caught.value.__notes__)
        (intent,) = await till.intents.open()
        assert (intent.scope, json.loads(intent.request)) == ("charge", [["a", 5], {"note": "x"}])
        await resilient.context.current_runtime().sleep(9.0)
        report = await till.intents.resume()
        (item,) = report.finished
        assert (item.intent.key, item.result) == (intent.key, {"order": "a", "cents": 5})
        assert (report.open, report.lapsed) == ([], [])
        assert len(till.effects) == 1
        assert await till.charge("a", 5, note="x") == {"order": "a", "cents": 5}
        assert till.calls == 3

    run(main)


def test_a_call_that_came_too_late_to_be_made_leaves_nothing(run):
    async def main():
        till = Till()
        with resilient.options(deadline=-1.0), pytest.raises(DeadlineExceeded):
            await till.charge("a", 5)
        assert till.calls == 0
        assert await till.intents.open() == []

    run(main)


class Refused(Exception):
    pass


def test_an_exception_that_is_an_answer_leaves_nothing_and_is_asked_again(run):
    async def main():
        intents = Intents("memory://")
        classify = Classifier(error=lambda error: Verdict.ANSWERED)
        calls: list[str] = []

        @intents.operation
        @Pipeline(Honoured(keys=derived(SPACE, lambda call: "a"), intents=intents), classify=classify)
        async def charge() -> None:
            calls.append("")
            raise Refused

        for _ in range(2):
            with pytest.raises(Refused):
                await charge()
        assert len(calls) == 2
        assert await intents.open() == []

    run(main)


@dataclasses.dataclass(frozen=True)
class Order:
    number: int


def test_values_that_json_cannot_say_have_codecs(run):
    async def main():
        intents = Intents("memory://")
        arguments: Any = (lambda given: str(given[0][0].number).encode(), lambda data: ([Order(int(data))], {}))
        result: Any = (lambda order: str(order.number).encode(), lambda data: Order(int(data)))
        fail = [OSError("broke")]

        @intents.operation(arguments=arguments, result=result)
        @Pipeline(Honoured(keys=derived(SPACE, lambda call: call.arguments[0][0].number), intents=intents))
        async def ship(order: Order) -> Order:
            if fail:
                raise fail.pop()
            return Order(order.number + 1)

        with pytest.raises(OSError, match="broke"):
            await ship(Order(1))
        await resilient.context.current_runtime().sleep(2.0)
        assert [item.result for item in (await intents.resume()).finished] == [Order(2)]
        assert await ship(Order(1)) == Order(2)

    run(main)


def test_arguments_that_cannot_be_kept_are_an_error_before_the_call_and_results_after_it(run):
    async def main():
        intents, calls = Intents("memory://", max_body=50), []

        @intents.operation
        @Pipeline(Honoured(keys=derived(SPACE, lambda call: "a"), intents=intents))
        async def ship(what: Any) -> Any:
            calls.append(what)
            return Order(1)

        with pytest.raises(TypeError) as caught:
            await ship(Order(1))
        assert any("operation(arguments=(dump, load))" in note for note in caught.value.__notes__)
        with pytest.raises(ValueError, match="its arguments take 67 bytes, and max_body=50"):
            await ship("x" * 58)
        assert calls == []
        with pytest.raises(TypeError) as caught:
            await ship("x")
        assert any("the call took effect" in note for note in caught.value.__notes__)
        with pytest.raises(OutcomeUnknown, match="too large to be kept"):
            await ship("x")
        assert calls == ["x"]

    run(main)


def test_a_function_that_nobody_could_resume_is_refused_before_it_is_called(run):
    async def main():
        @Pipeline(Honoured(intents=Intents("memory://")))
        async def charge() -> None:
            raise AssertionError

        with pytest.raises(TypeError, match="decorate it with the `operation` of its intents"):
            await charge()

    run(main)


def test_two_operations_cannot_have_one_name_and_streams_are_none():
    intents = Intents("memory://")

    @intents.operation(name="a")
    async def one() -> None: ...

    async def stream() -> Any:
        yield 1

    with pytest.raises(ValueError, match="operation 'a': there is one already"):
        intents.operation(one, name="a")
    with pytest.raises(TypeError, match="a generator function"):
        intents.operation(stream)


def test_a_service_keeps_what_its_functions_are_called_with_and_not_the_instance(run):
    async def main():
        intents = Intents("memory://")
        honoured = Honoured(keys=derived(SPACE, lambda call: call.arguments[0][0]), intents=intents)
        bank = Service("bank", "static://10.0.0.1:80,10.0.0.2:80", idempotency=honoured)

        @intents.operation
        @bank
        async def charge(instance: Any, order: str) -> str:
            return f"{order} at {instance.port}"

        async with bank:
            assert await charge("a") == await charge("a") == "a at 80"

    run(main)
