"""What is told of a key: events for whoever listens, and one error for whatever a store cannot do."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from typing import Any, final

from resilient.backends.store import Store
from resilient.errors import ResilienceError, StoreUnavailable
from resilient.events import Event, StoreFailed, send_event
from resilient.runtime import Runtime

__all__ = ["Account"]


@final
class Account:
    """Tells the runtime's listener what becomes of the operation `name` under `key`."""

    __slots__ = ("_key", "_name", "_runtime")

    def __init__(self, runtime: Runtime, name: str, key: str) -> None:
        self._runtime = runtime
        self._name = name
        self._key = key

    def tell(self, kind: Callable[..., Event], **facts: Any) -> None:
        """Emit an event of this `kind`; nothing is built where nobody listens."""
        emit = self._runtime.emit
        if emit is not None:
            send_event(emit, kind(at=self._runtime.now(), name=self._name, key=self._key, **facts))

    @contextlib.contextmanager
    def closed_on_failure(self, store: Store) -> Generator[None]:
        """Fail closed: what a store cannot do is never taken for permission."""
        try:
            yield
        except StoreUnavailable as error:
            self.tell(StoreFailed, error=str(error))
            raise
        except ResilienceError:
            raise
        except Exception as error:
            problem = StoreUnavailable(f"{store!r} failed: {error!r}")
            self.tell(StoreFailed, error=str(problem))
            raise problem from error
