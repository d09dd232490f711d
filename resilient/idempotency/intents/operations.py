"""Functions whose calls are kept: how their arguments and results become bytes, and how they are found again."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, cast, final

from resilient.call import Attribute, Call
from resilient.context import options
from resilient.idempotency.fingerprint import digest
from resilient.idempotency.once import dump_json
from resilient.policies.base import of_kind
from resilient.verdict import Effect

__all__ = ["JSON", "OPERATION", "Codec", "KeptCall", "Operation"]

Codec: TypeAlias = tuple[Callable[[Any], bytes], Callable[[bytes], Any]]
"""Turns a value into bytes, and back."""

JSON: Codec = (dump_json, json.loads)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """A function that can be called again by its name, with arguments that were kept."""

    name: str
    fn: Callable[..., Any]
    arguments: Codec
    result: Codec

    @property
    def asynchronous(self) -> bool:
        """Whether it has to be awaited."""
        return of_kind(inspect.iscoroutinefunction, self.fn)

    def wrap(self) -> Callable[..., Any]:
        """The function, of whose calls intents can tell which operation they are."""
        fn = self.fn
        if of_kind(inspect.isasyncgenfunction, fn) or of_kind(inspect.isgeneratorfunction, fn):
            raise TypeError(f"{self.name}: a generator function; a stream has no result to keep")

        if self.asynchronous:

            @functools.wraps(fn)
            async def awaited(*args: Any, **kwargs: Any) -> Any:
                with options(attributes={OPERATION: self}):
                    return await fn(*args, **kwargs)

            return awaited

        @functools.wraps(fn)
        def called(*args: Any, **kwargs: Any) -> Any:
            with options(attributes={OPERATION: self}):
                return fn(*args, **kwargs)

        return called

    def load_arguments(self, request: bytes) -> tuple[list[Any], dict[str, Any]]:
        """What it was called with."""
        args, kwargs = self.arguments[1](request)
        return args, kwargs


OPERATION: Attribute[Operation | None] = Attribute("operation of intents", None)


@final
class KeptCall:
    """One call of an operation: what an adapter is for a protocol."""

    def __init__(self, operation: Operation, call: Call) -> None:
        self._operation = operation
        self._call = call

    def keep(self, headers: frozenset[str], limit: int) -> tuple[str, bytes, bytes]:
        """Return the operation's name, its arguments, and their digest."""
        args, kwargs = self._call.arguments
        name = self._operation.name
        try:
            request = self._operation.arguments[0]([list(args), kwargs])
        except TypeError as error:
            error.add_note(f"these are arguments of {name!r}; operation(arguments=(dump, load)) keeps what JSON cannot")
            raise
        if len(request) > limit:
            raise ValueError(f"{name}: its arguments take {len(request)} bytes, and max_body={limit}")
        return name, request, digest([request])

    def lacks(self, request: bytes) -> str | None:
        """Nothing: all arguments are kept."""
        del request
        return None

    async def keep_result(self, result: Any, limit: int) -> bytes | None:
        """Return the result's bytes."""
        data = self._operation.result[0](result)
        return None if len(data) > limit else data

    def load_result(self, data: bytes) -> Any:
        """Make the result again."""
        return self._operation.result[1](data)

    def is_final(self, result: Any) -> bool:
        """Whether it is what the operation came to."""
        return self._call.classify.judge_result(result).verdict.effect is Effect.DONE


def registered(
    operations: dict[str, Operation],
    fn: Callable[..., Any],
    name: str | None,
    arguments: Codec | None,
    result: Codec | None,
) -> Callable[..., Any]:
    """Add `fn` to `operations` and return what is called in its place."""
    known = name or cast("str", getattr(fn, "__qualname__", type(fn).__qualname__))
    if known in operations:
        raise ValueError(f"operation {known!r}: there is one already; give each a name: operation(name=...)")
    operation = Operation(known, fn, arguments or JSON, result or JSON)
    wrapped = operation.wrap()
    operations[known] = operation
    return wrapped
