"""The call: what flows through every policy, one object a logical call and one child an attempt."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeAlias, TypeVar, cast, final

if TYPE_CHECKING:
    from resilient.budget import RetryBudget
    from resilient.context import Ambient
    from resilient.instance import Instance
    from resilient.runtime import Runtime
    from resilient.verdict import Classifier

__all__ = ["Adapter", "Ask", "Attribute", "Call", "End", "Form", "Next", "Policy", "Priority", "new_call"]

T = TypeVar("T")


class Priority(enum.IntEnum):
    """How much a call matters when not all of them can be served (Google SRE's criticality).

    `CRITICAL` is the default: a person waits for the answer. `CRITICAL_PLUS` is for what is worse to lose
    than that, `SHEDDABLE_PLUS` for batch work that is retried, `SHEDDABLE` for what may fail now and then.
    """

    SHEDDABLE = 0
    SHEDDABLE_PLUS = 1
    CRITICAL = 2
    CRITICAL_PLUS = 3


@final
class Attribute(Generic[T]):
    """A typed name for a value that travels with a call: `TENANT = Attribute("tenant", "")`.

    Two attributes are never the same, even with equal names.
    """

    __slots__ = ("default", "name")
    name: str
    default: T

    def __init__(self, name: str, default: T) -> None:
        self.name = name
        self.default = default

    def __repr__(self) -> str:
        return f"Attribute({self.name!r}, {self.default!r})"


class Form(Protocol):
    """How a call is kept beyond its process: as the bytes of its request, and of its result."""

    def keep(self, headers: frozenset[str], limit: int) -> tuple[str, bytes, bytes]:
        """Return what the request is to be kept as: where it goes, its bytes, and a digest that a repetition shares.

        `headers` names what is kept of them. Raises `ValueError` for a request of which the same bytes cannot be sent
        again, or which are more than `limit`.
        """
        ...

    def lacks(self, request: bytes) -> str | None:
        """Say why this request is not the one that was kept as `request`; None: it is."""
        ...

    async def keep_result(self, result: Any, limit: int) -> bytes | None:
        """Return the bytes of a result, which can still be read; None where they are more than `limit`."""
        ...

    def load_result(self, data: bytes) -> Any:
        """Make a result from its bytes."""
        ...

    def is_final(self, result: Any) -> bool:
        """Whether it is what the operation came to, and not what kept it from being processed."""
        ...


Ask: TypeAlias = Callable[[str, str], Awaitable[tuple[int, bytes]]]
"""Sends a request, of a method to a path, and returns the status and the body of the response."""


class Adapter(Form, Protocol):
    """What a protocol such as HTTP does for policies that keep a call, or have something to ask of the far side."""

    def has_expired(self, result: Any) -> bool:
        """Whether the far side says that it does not know the key's client any more."""
        ...

    def asker(self) -> Ask:
        """What sends requests of the library's own the way that the call goes, also after the call.

        It raises `RuntimeError` when what the calls go through is closed.
        """
        ...


End: TypeAlias = Callable[[BaseException | None], None]
"""Settles something when a stream is over: gets the error that ended it, or None."""


@final
class Call:
    """One logical call, or one attempt of it.

    Policies read it, and make a child with `evolve` for an attempt; what they may change in place is
    `deadline` (only ever lowered; a policy that calls `nxt` again finds the one that it had), `budget` and
    `idempotency_key` (once, by the policy that owns them). A pipeline makes it.
    """

    # What every call reads or sets has a slot. The rest has its default in the class, and so costs only who uses it.
    # There is no `__init__`: entering it from the C of `type.__call__` costs more than all else about a new call.
    __slots__ = (
        "__dict__",
        "ambient",
        "budget",
        "classify",
        "deadline",
        "ends",
        "invoke",
        "name",
        "parent",
        "request",
        "runtime",
    )

    name: str
    """Of the operation, for events, metrics and error messages."""
    attempt: int = 1
    """1, 2, ..."""
    deadline: float | None
    """On the scale of `runtime.now`; None: no limit."""
    priority: Priority = Priority.CRITICAL
    repeatable: bool | None = None
    """May it run twice? By the HTTP method, by an honoured idempotency key, or by `options(idempotent=...)`.

    None: nobody said; then `Retry(on=...)` may still declare it for a function.
    """
    idempotency_key: str | None = None
    """Minted once a logical call; every attempt and hedge carries the same."""
    instance: Instance | None = None
    """Where this attempt goes; set by balancing."""
    tried: list[Instance] | None = None
    """Where attempts of this call went already; shared by all of them. None where nothing is balanced."""
    budget: RetryBudget | None
    """Of the destination: retries and hedges alike are paid from it."""
    classify: Classifier
    """Set by the adapter: HTTP and functions are judged differently."""
    ends: list[End] | None
    """What settles when the stream is over. None: the call is over as soon as it returns."""
    request: Any
    """The `httpx.Request`, or `(args, kwargs)` of a function."""
    runtime: Runtime
    attributes: Mapping[Attribute[Any], Any] | None = None
    invoke: Callable[[Call], Awaitable[Any]]
    """The innermost step."""
    adapter: Adapter | None = None
    """Of the protocol; None for a function."""
    blocking: bool = False
    """A plain function: no event loop, waits use `runtime.pause`."""
    parent: Call | None
    ambient: Ambient
    """The surroundings that the call was made in; what runs inside inherits from them."""
    plain: ClassVar[bool] = False
    """What begins inside a call has something to inherit: see `Ambient.plain`."""

    def evolve(
        self, *, attempt: int | None = None, instance: Instance | None = None, deadline: float | None = None
    ) -> Call:
        """Return a child that differs in what is given and knows its parent.

        A child with an `attempt` is a new attempt: on a stream it starts a list of ends of its own, so that
        discarding it settles what it holds and nothing else. Every other child shares its parent's list.
        """
        child = new_call(self.name, self.invoke, self.request, self.runtime, self.classify, self.ambient)
        vars(child).update(vars(self))
        child.parent = self
        child.budget = self.budget
        child.ends = self.ends
        child.deadline = self.deadline if deadline is None else deadline
        if attempt is not None:
            child.attempt = attempt
            child.ends = None if self.ends is None else []
        if instance is not None:
            child.instance = instance
        return child

    @property
    def remaining(self) -> float | None:
        """Seconds until the deadline (negative once it passed), or None without one."""
        return None if self.deadline is None else self.deadline - self.runtime.now()

    @property
    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What the function was called with; of any other call, its request as the only argument."""
        request = self.request
        if isinstance(request, tuple):
            return cast("tuple[tuple[Any, ...], dict[str, Any]]", request)
        return (request,), {}

    def get(self, attribute: Attribute[T]) -> T:
        """Return the attribute's value on this call, or its default."""
        if self.attributes is None:
            return attribute.default
        value: T = self.attributes.get(attribute, attribute.default)
        return value

    def finish(self, error: BaseException | None, *, upto: Call | None = None) -> None:
        """Run what was to be settled at the end of the stream: inner before outer, this attempt before its parents.

        `upto` stops before that parent: an attempt is discarded while its call goes on. Each end runs exactly
        once, however often this is called, and whatever another end raises.
        """
        ends: list[End] = []
        call: Call | None = self
        while call is not None and call is not upto:
            if call.ends:
                ends += call.ends
                call.ends.clear()  # in place: children that share the list must not run it again
            call = call.parent
        _run(iter(ends), error)

    def __repr__(self) -> str:
        where = "" if self.instance is None else f" to {self.instance.id}"
        return f"<Call {self.name} attempt {self.attempt}{where}>"


def _run(ends: Iterator[End], error: BaseException | None) -> None:
    """Run each of them, whatever another one raises."""
    for end in ends:
        try:
            end(error)
        except BaseException:
            _run(ends, error)
            raise


def new_call(
    name: str,
    invoke: Callable[[Call], Awaitable[Any]],
    request: Any,
    runtime: Runtime,
    classify: Classifier,
    ambient: Ambient,
) -> Call:
    """Make a call of which nothing else is known yet."""
    call = Call()
    call.name = name
    call.invoke = invoke
    call.request = request
    call.runtime = runtime
    call.classify = classify
    call.ambient = ambient
    call.deadline = call.budget = call.ends = call.parent = None
    return call


Next: TypeAlias = Callable[[Call], Awaitable[T]]
"""The rest of the pipeline, as a policy sees it."""


class Policy(Protocol):
    """Anything callable as `await policy(call, nxt)`: an `async def` function is one.

    It calls `nxt` with the call, or a child of it, as often as it likes, and returns what that returned: a
    policy keeps the result's type. What it runs at the same time needs a child each, `call.evolve(attempt=...)`.
    """

    def __call__(self, call: Call, nxt: Next[T], /) -> Awaitable[T]:
        """Run the call through this policy and the rest of the pipeline."""
        ...
