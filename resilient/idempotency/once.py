"""`@once`: a function that takes effect once for each key."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Concatenate, ParamSpec, TypeVar, cast, final, overload

from resilient.backends.clients import ClientCall
from resilient.backends.store import Mode, Replay, Store
from resilient.errors import OutcomeUnknown
from resilient.idempotency.claim import BlockingClaim, Claim
from resilient.idempotency.execution import Execution
from resilient.idempotency.fingerprint import fingerprint_of
from resilient.idempotency.hosts import Host, LoopHost, ThreadHost
from resilient.idempotency.leasing.server import LeasedClients
from resilient.idempotency.terms import Terms
from resilient.runtime import Runtime
from resilient.waiting import drive

__all__ = ["Once", "once"]

P = ParamSpec("P")
T = TypeVar("T")

_LONGEST_KEY = 255


def once(
    store: Store | str,
    *,
    key: Callable[..., Any],
    mode: Mode = "transactional",
    scope: str | None = None,
    fingerprint: Callable[..., Any] | None = None,
    ttl: float = 86_400.0,
    lease: float = 30.0,
    wait: float = 0.0,
    resumable: bool = False,
    dump: Callable[[Any], bytes] | None = None,
    load: Callable[[bytes], Any] | None = None,
    runtime: Runtime | None = None,
) -> Once:
    """Let a function take effect once for each key, and give every retry the first result.

    The decorated function receives a `Claim` first (a plain function a `BlockingClaim`); its callers do not pass it:

    ```python
    import sqlite3

    from resilient import once
    from resilient.idempotency import BlockingClaim

    bank = sqlite3.connect("bank.db")
    bank.execute("CREATE TABLE payments (account TEXT, cents INTEGER)")

    @once("sqlite:///bank.db", key=lambda payment, account, cents: payment)
    def pay(claim: BlockingClaim, payment: str, account: str, cents: int) -> int:
        with claim.transaction() as connection:
            connection.execute("INSERT INTO payments VALUES (?, ?)", (account, cents))
        return cents

    assert pay("payment-1", "alice", 500) == pay("payment-1", "alice", 500) == 500
    assert bank.execute("SELECT count(*) FROM payments").fetchone() == (1,)
    bank.close()
    ```

    `store`
        A store, or its URL.
    `key`
        Is called with the caller's arguments; what it returns, as text of 1 to 255 bytes, names the operation. A
        `ClientCall` is remembered as long as its client may retry it, and not for `ttl`; see `ClientLease`.
    `mode`
        What is guaranteed, see `Mode`. `transactional`, the default, is the only one under which nothing can happen
        twice without the help of others; a store that has no transactions refuses it.
    `scope`
        What keys are unique in; the function's qualified name by default. Name it yourself where the function may move.
    `fingerprint`
        Is called with the caller's arguments; what it returns tells two payloads under one key apart. All arguments
        by default.
    `ttl`
        Seconds for which a result is remembered (a day: longer than any sensible client retries). Later the same key
        is a new operation.
    `lease`
        Seconds after which a silent executor counts as dead (30.0: longer than a pause for garbage or a busy disk;
        a retry after a crash waits that long at most). It is renewed three times in that span.
    `wait`
        Seconds for which a call waits for another one under the same key (0.0: it gets `InProgress` at once). It takes
        over when the other one's lease ends, and does not wait beyond a deadline that it inherits (`serving`).
    `resumable`
        Commit the claim before the function runs, so that it can save recovery points, may take longer than a lease,
        and is taken over with its recovery point when it hangs: one commit more. Without it, a store that can
        (PostgreSQL) keeps claim, effect and record in one transaction, which is open while the function runs, a lease
        at most; one that dies leaves nothing, and is followed at once. Other stores, and other modes, always commit the
        claim first.
    `dump`, `load`
        Turn a result into bytes and back; by default JSON, of values that come back as they were. A result that
        cannot be kept is an error: in a transaction before anything happened, otherwise after it (replays then raise
        `OutcomeUnknown`).
    `runtime`
        Replaces the ambient one.

    A call raises `KeyReused` for another payload under a known key, `InProgress` (with `retry_after`) while another
    executor runs it, `OutcomeUnknown` where it may have run and may not be repeated, `LeaseLost` when the function took
    so long without a heartbeat that somebody else took over, `StoreUnavailable` when the store cannot tell (then
    nothing was run), and whatever the function raises: such a call is not recorded.

    Raises `ValueError` for terms that the store cannot keep, and `TypeError` for a generator function.
    """
    if (dump is None) != (load is None):
        raise ValueError("dump and load are given together, or neither")
    return Once(
        terms=Terms.agree(store, mode=mode, lease=lease, ttl=ttl, runtime=runtime, wait=wait, resumable=resumable),
        key=key,
        scope=scope,
        fingerprint=fingerprint,
        dump=dump or dump_json,
        load=load or json.loads,
    )


@final
class Once:
    """The decorator that `once` returns."""

    def __init__(
        self,
        *,
        terms: Terms,
        key: Callable[..., Any],
        scope: str | None,
        fingerprint: Callable[..., Any] | None,
        dump: Callable[[Any], bytes],
        load: Callable[[bytes], Any],
    ) -> None:
        self._terms = terms
        self._key = key
        self._scope = scope
        self._fingerprint = fingerprint
        self._dump = dump
        self._load = load
        self._clients: LeasedClients | None = None

    @overload
    def __call__(
        self, fn: Callable[Concatenate[Claim, P], Coroutine[Any, Any, T]], /
    ) -> Callable[P, Coroutine[Any, Any, T]]: ...
    @overload
    def __call__(self, fn: Callable[Concatenate[BlockingClaim, P], T], /) -> Callable[P, T]: ...
    def __call__(self, fn: Callable[..., Any], /) -> Callable[..., Any]:
        """Decorate a function."""
        if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
            raise TypeError(f"{fn.__qualname__}: a generator function; a stream has no result to record")
        signature = inspect.signature(fn)
        claim, *parameters = signature.parameters.values()
        signature = signature.replace(parameters=parameters)
        scope = self._scope or f"{fn.__module__}.{fn.__qualname__}"
        decorate = self._decorate_async if inspect.iscoroutinefunction(fn) else self._decorate_plain
        decorated: Any = decorate(fn, scope, signature)
        # The claim is not the caller's to give.
        decorated.__signature__ = signature
        decorated.__annotations__ = {name: kind for name, kind in fn.__annotations__.items() if name != claim.name}
        return cast("Callable[..., Any]", decorated)

    def _decorate_async(self, fn: Callable[..., Any], scope: str, signature: inspect.Signature) -> Callable[..., Any]:
        @functools.wraps(fn)
        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            async def invoke(execution: Execution) -> Any:
                return await fn(Claim(execution), *args, **kwargs)

            return await self._process(LoopHost(), invoke, scope, signature, args, kwargs)

        return wrapped

    def _decorate_plain(self, fn: Callable[..., Any], scope: str, signature: inspect.Signature) -> Callable[..., Any]:
        @functools.wraps(fn)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            async def invoke(execution: Execution) -> Any:
                result = fn(BlockingClaim(execution), *args, **kwargs)
                if inspect.isawaitable(result):
                    if inspect.iscoroutine(result):
                        result.close()
                    raise TypeError(f"{fn.__qualname__} is a plain function, but its result is awaitable")
                return result

            return drive(self._process(ThreadHost(), invoke, scope, signature, args, kwargs))

        return wrapped

    async def _process(
        self,
        host: Host,
        invoke: Callable[[Execution], Awaitable[Any]],
        scope: str,
        signature: inspect.Signature,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        named, fingerprint = self._identify(signature, args, kwargs)
        if isinstance(named, ClientCall):
            begun = await self._leased().begin(self._terms, host, named, "", fingerprint, name=scope)
        else:
            begun = await self._terms.begin(host, scope, named, fingerprint)
        if isinstance(begun, Replay):
            if begun.result is None:
                key = named.key if isinstance(named, ClientCall) else named
                raise OutcomeUnknown(f"{key!r}: it took effect, but its result was not kept; reconcile it")
            return self._load(begun.result)
        try:
            result = await invoke(begun)
        except BaseException:
            await begun.fail()
            raise
        await self._settle(begun, result)
        return result

    async def _settle(self, execution: Execution, result: Any) -> None:
        if execution.released or execution.failed:
            await execution.fail()
            return
        problem: Exception | None = None
        dumped: bytes | None = None
        try:
            dumped = self._dump(result)
        except Exception as error:  # noqa: BLE001 - raised again below, when what happened is settled
            problem = error
        if problem is None:
            await execution.complete(dumped)
            return
        if execution.transactional:
            await execution.fail()
        else:
            # It happened. Giving the key back would let it happen again.
            await execution.complete(None)
            problem.add_note("the function took effect; every retry under this key raises OutcomeUnknown")
        raise problem

    def _identify(
        self, signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[str | ClientCall, bytes]:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        payload = _without_acknowledgements(bound.arguments)
        if self._fingerprint is not None:
            payload = self._fingerprint(*args, **kwargs)
        named = self._key(*args, **kwargs)
        if isinstance(named, ClientCall):
            return named, fingerprint_of(payload)
        return _key_text(named), fingerprint_of(payload)

    def _leased(self) -> LeasedClients:
        if self._clients is None:
            self._clients = LeasedClients(self._terms.store)
        return self._clients


def _without_acknowledgements(arguments: Mapping[str, Any]) -> Any:
    """The payload. What a client acknowledges differs between two attempts of one call."""
    return {name: value.key if isinstance(value, ClientCall) else value for name, value in arguments.items()}


def _key_text(value: Any) -> str:
    text = "" if value is None else str(value)
    if not 0 < len(text.encode()) <= _LONGEST_KEY:
        raise ValueError(f"key={value!r}: a key has 1 to {_LONGEST_KEY} bytes of text")
    return text


def dump_json(value: Any) -> bytes:
    """Return JSON that loads as an equal value of the same types.

    Raises `TypeError` for what would come back as something else, such as a tuple: the first caller and those after it
    have to get the same result.
    """
    _check_json(value)
    return json.dumps(value, separators=(",", ":")).encode()


def _check_json(value: Any) -> None:
    kind = cast("type[object]", type(value))
    if kind is list:
        for item in cast("list[Any]", value):
            _check_json(item)
    elif kind is dict:
        for name, item in cast("dict[Any, Any]", value).items():
            if type(name) is not str:
                raise TypeError(f"a result with the key {name!r} would come back different: JSON has text keys only")
            _check_json(item)
    elif kind not in {str, int, float, bool, type(None)}:
        raise TypeError(
            f"a result of type {kind.__qualname__} would not come back from JSON as it was: return str, int, float, "
            "bool, None, list or dict, or pass dump= and load="
        )
