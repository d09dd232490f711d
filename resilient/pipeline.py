"""Policies around a call: the first one listed is the outermost, always."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, ParamSpec, TypeVar, final, overload

from resilient.call import Call, Next, Policy, new_call
from resilient.context import Options, ambient, apply_ambient, surroundings
from resilient.deadline import limited, send
from resilient.order import check_order
from resilient.policies.base import OwnPolicy, Role, has_foreign, of_kind
from resilient.runtime import Runtime
from resilient.stream import Stream, settle
from resilient.verdict import Classifier, classify_function
from resilient.waiting import drive

__all__ = ["Bind", "Pipeline", "Prepare", "bind_nothing", "decorate"]

P = ParamSpec("P")
T = TypeVar("T")
Y = TypeVar("Y")
S = TypeVar("S")

Bind = Callable[[Call], tuple[tuple[Any, ...], dict[str, Any]]]
"""Gives the arguments that an attempt's function is called with."""

Prepare = Callable[[Call], None]
"""Completes a call that begins."""


@final
class Pipeline:
    """Run calls through policies, the first one listed outermost.

    A decorator that keeps the function's exact signature::

        api = Pipeline(Timeout(2.0), Retry(on=OSError), CircuitBreaker())

        @api
        async def price(sku: str) -> float: ...

    It takes async functions, async generator functions (a stream: the call is over when the stream is), and
    plain functions, which run the same policies with no event loop. `run` and `call` are for single calls.
    Pipelines are built once and shared: by tasks, threads and event loops. `Pipeline(*base, Timeout(1.0))`
    builds on another one.

    `classify` judges results and exceptions (`classify_function` by default), `runtime` replaces the ambient one.

    Raises `ValueError` for an order that cannot work, saying what to swap and why, and `TypeError` for what is
    no policy.
    """

    __slots__ = ("chain", "classify", "policies", "runtime")

    def __init__(self, *policies: Policy, classify: Classifier | None = None, runtime: Runtime | None = None) -> None:
        check_order(policies)
        self.policies = policies
        self.classify = classify_function if classify is None else classify
        self.runtime = runtime
        self.chain = _link(policies, send)

    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, T]], /) -> Callable[P, Coroutine[Any, Any, T]]: ...
    @overload
    def __call__(self, fn: Callable[P, AsyncGenerator[Y, S]], /) -> Callable[P, AsyncGenerator[Y, S]]: ...
    @overload
    def __call__(self, fn: Callable[P, AsyncIterator[Y]], /) -> Callable[P, AsyncGenerator[Y, None]]: ...
    @overload
    def __call__(self, fn: Callable[P, T], /) -> Callable[P, T]: ...
    def __call__(self, fn: Callable[..., Any], /) -> Callable[..., Any]:
        """Decorate a function, so that every call of it goes through the policies.

        Raises `TypeError` for a plain function where a policy needs an event loop, and for a generator function.
        """
        return decorate(self, fn, bind_nothing)

    async def run(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Await `fn(*args, **kwargs)` once, through the policies."""

        def invoke(_call: Call) -> Awaitable[T]:
            return fn(*args, **kwargs)

        result: T = await self.chain(self.begin(name_of(fn), invoke, (args, kwargs)))
        return result

    def call(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the plain function `fn(*args, **kwargs)` once, through the policies.

        Raises `TypeError` where a policy needs an event loop, or `fn` turns out to be no plain function.
        """
        plain: Callable[P, T] = _decorate_plain(self, fn, bind_nothing, None)
        return plain(*args, **kwargs)

    def begin(
        self,
        name: str,
        invoke: Callable[[Call], Awaitable[Any]],
        request: Any,
        *,
        repeatable: bool | None = None,
        options: Options | None = None,
    ) -> Call:
        """Make the call of an adapter, to be passed to `chain`.

        It is as `repeatable` as the protocol says and has the adapter's `options`; what surrounds it has the last word.
        """
        here = surroundings()
        call = new_call(name, invoke, request, self.runtime or here.runtime, self.classify, here)
        call.repeatable = repeatable
        if options is not None:
            options.apply(call)
        if not here.plain:
            apply_ambient(call, here)
        return call

    def __iter__(self) -> Iterator[Policy]:
        return iter(self.policies)

    def __repr__(self) -> str:
        return f"Pipeline({', '.join(map(repr, self.policies))})"


def _link(policies: tuple[Policy, ...], innermost: Next[Any]) -> Next[Any]:
    """Link the policies from the innermost outwards, once: a layer is then one frame a call."""
    chain = innermost
    for index in reversed(range(len(policies))):
        policy, below = policies[index], policies[index + 1 :]
        if isinstance(policy, OwnPolicy):
            chain = policy.link(chain, below)
        else:
            lowered = any(isinstance(other, OwnPolicy) and other.role is Role.TIMEOUT for other in below)
            chain = functools.partial(_foreign, policy, _restoring(chain) if lowered else chain)
    return chain


def _restoring(nxt: Next[Any]) -> Next[Any]:
    """Give the call its deadline back: a policy of somebody else's may call `nxt` again."""

    async def restored(call: Call) -> Any:
        deadline = call.deadline
        try:
            return await nxt(call)
        finally:
            call.deadline = deadline

    return restored


def _foreign(policy: Policy, nxt: Next[Any], call: Call) -> Awaitable[Any]:
    return policy(call, nxt)


def bind_nothing(call: Call) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments are those of the caller."""
    request: tuple[tuple[Any, ...], dict[str, Any]] = call.request
    return request


def name_of(fn: Callable[..., Any]) -> str:
    """What a function's calls are called in events and errors."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    name: str | None = getattr(fn, "__qualname__", None)
    return type(fn).__qualname__ if name is None else name


def decorate(
    pipeline: Pipeline, fn: Callable[..., Any], bind: Bind, prepare: Prepare | None = None
) -> Callable[..., Any]:
    """Return `fn` behind the pipeline.

    `bind` completes the arguments of each attempt, `prepare` each call that begins.
    """
    if isinstance(fn, classmethod | staticmethod) or not callable(fn):
        raise TypeError(f"{fn!r}: a pipeline decorates functions; @classmethod and @staticmethod go above it")
    if of_kind(inspect.isasyncgenfunction, fn):
        return _decorate_stream(pipeline, fn, bind, prepare)
    if of_kind(inspect.iscoroutinefunction, fn):
        return _decorate_async(pipeline, fn, bind, prepare)
    return _decorate_plain(pipeline, fn, bind, prepare)


def _decorate_async(
    pipeline: Pipeline, fn: Callable[..., Awaitable[Any]], bind: Bind, prepare: Prepare | None
) -> Callable[..., Any]:
    classify, pinned, name = pipeline.classify, pipeline.runtime, name_of(fn)
    here_now, enter, leave = ambient.get, ambient.set, ambient.reset
    foreign = has_foreign(pipeline.policies)

    def invoke_as_called(call: Call) -> Awaitable[Any]:
        args, kwargs = call.request
        return fn(*args, **kwargs) if kwargs else fn(*args)

    def invoke_bound(call: Call) -> Awaitable[Any]:
        args, kwargs = bind(call)
        return fn(*args, **kwargs)

    invoke: Next[Any] = invoke_as_called if bind is bind_nothing else invoke_bound

    def innermost(call: Call) -> Awaitable[Any]:
        # What `send` does, without another frame for the call that `wrapped` has made the current one. Only policies of
        # others may have changed that since.
        if call.parent is not None or (foreign and here_now() is not call):
            return send(call)
        if call.deadline is not None:
            return limited(call, invoke)
        args, kwargs = call.request  # what `invoke_as_called` does, in this frame
        return fn(*args, **kwargs) if kwargs else fn(*args)

    chain = _link(pipeline.policies, innermost if bind is bind_nothing else send)

    @functools.wraps(fn)
    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        here: Any = here_now()
        if here.plain:
            call = Call()  # what `begin` does, in this frame
            call.name = name
            call.invoke = invoke
            call.request = (args, kwargs)
            call.runtime = pinned or here.runtime
            call.classify = classify
            call.ambient = here
            call.deadline = call.budget = call.ends = call.parent = None
        else:
            call = pipeline.begin(name, invoke, (args, kwargs))
        if prepare is not None:
            prepare(call)
        token = enter(call)
        try:
            return await chain(call)
        finally:
            leave(token)

    return wrapped


def _decorate_plain(
    pipeline: Pipeline, fn: Callable[..., Any], bind: Bind, prepare: Prepare | None
) -> Callable[..., Any]:
    name = name_of(fn)
    for policy in pipeline.policies:
        if isinstance(policy, OwnPolicy) and policy.needs_loop is not None:
            raise TypeError(f"{name} is a plain function, and {policy!r} needs an event loop: {policy.needs_loop}")
    if of_kind(inspect.isgeneratorfunction, fn):
        raise TypeError(f"{name}: a generator function; only async generators can be streamed through policies")

    async def invoke(call: Call) -> Any:
        args, kwargs = bind(call)
        result = fn(*args, **kwargs)
        if hasattr(result, "__await__") or inspect.isgenerator(result) or inspect.isasyncgen(result):
            # Returned as it is, it would run later, outside of all policies.
            if inspect.iscoroutine(result):
                result.close()
            raise TypeError(f"{name} is a plain function, but its result is awaitable, or a generator")
        return result

    @functools.wraps(fn)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        call = pipeline.begin(name, invoke, (args, kwargs))
        call.blocking = True
        if prepare is not None:
            prepare(call)
        return drive(pipeline.chain(call))

    return wrapped


def _decorate_stream(
    pipeline: Pipeline, fn: Callable[..., Any], bind: Bind, prepare: Prepare | None
) -> Callable[..., Any]:
    name = name_of(fn)
    for policy in pipeline.policies:
        if isinstance(policy, OwnPolicy) and policy.moves_tasks:
            raise TypeError(
                f"{name} is an async generator, which cannot move between tasks, as {policy!r} would make it"
            )
    # What flows is the opened stream, not a value that a classifier of results knows.
    classify = replace(pipeline.classify, result=None, discard=Stream.discard)

    @functools.wraps(fn)
    async def wrapped(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        async with AsyncExitStack() as opened:

            async def invoke(call: Call) -> Stream:
                args, kwargs = bind(call)
                return await opened.enter_async_context(Stream(call, fn(*args, **kwargs)))

            root = pipeline.begin(name, invoke, (args, kwargs))
            root.classify = classify
            root.ends = []
            opened.push(settle(root))
            if prepare is not None:
                prepare(root)
            stream: Stream = await pipeline.chain(root)
            while not stream.over:
                try:
                    sent = yield stream.item
                except GeneratorExit:
                    raise
                except BaseException as thrown:  # noqa: BLE001 - it is for the generator to decide
                    await stream.throw(thrown)
                else:
                    await stream.send(sent)

    return wrapped
