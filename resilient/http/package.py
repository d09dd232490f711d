"""httpx and its continuation httpx2: the same API on other classes."""

from __future__ import annotations

import sys
from functools import lru_cache
from importlib import import_module
from typing import Any, final

__all__ = ["Package", "package_of"]


@final
class Package:
    """The classes of the package that a request came from.

    A client checks that a response's stream is of its own package, so streams are made here, once a package.
    """

    __slots__ = ("ByteStream", "Headers", "Request", "module", "refused", "timed_out", "transport_error", "unreachable")

    def __init__(self, module: Any) -> None:
        self.module = module
        self.Request: Any = module.Request
        self.Headers: Any = module.Headers
        self.ByteStream: Any = module.ByteStream
        self.unreachable: tuple[type[Exception], ...] = (module.ConnectError, module.ConnectTimeout)
        self.timed_out: type[Exception] = module.TimeoutException
        self.transport_error: type[Exception] = module.TransportError
        # Never sent, and nobody's fault but ours: no place in our pool, a URL without a transport, a malformed request.
        self.refused: tuple[type[Exception], ...] = (
            module.PoolTimeout,
            module.UnsupportedProtocol,
            module.LocalProtocolError,
        )

    @property
    def core(self) -> Any:
        """httpcore, or httpcore2: the connections below. The package itself imports it no earlier than it has to."""
        return import_module(self.module.__name__.replace("httpx", "httpcore"))


@lru_cache(maxsize=8)
def _package(name: str) -> Package:
    return Package(sys.modules[name])


def package_of(message: object) -> Package:
    """The package that a request or an exception belongs to."""
    for kind in type(message).__mro__:
        name = kind.__module__.partition(".")[0]
        if name in {"httpx", "httpx2"}:
            return _package(name)
    raise TypeError(f"{message!r}: neither of httpx nor of httpx2")
