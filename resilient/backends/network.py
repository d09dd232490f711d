"""Connections that are closed when their handshake is broken off.

httpcore closes a connection whose TLS handshake fails, but not one whose handshake is cancelled: that stays open until
it is garbage.
"""

from __future__ import annotations

from typing import Any, final

import anyio

__all__ = ["tidy"]

_CLOSE = 1.0


def tidy(transport: Any) -> None:
    """Let an `AsyncHTTPTransport` of httpx leave nothing behind when it is cancelled while it connects."""
    pool: Any = getattr(transport, "_pool", None)
    backend = getattr(pool, "_network_backend", None)
    if backend is not None:
        # httpcore takes a backend of one's own, and httpx has no argument for it.
        pool._network_backend = _Backend(backend)  # noqa: SLF001 - see above


@final
class _Backend:
    """Opens connections."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def connect_tcp(self, *args: Any, **kwargs: Any) -> _Stream:
        return _Stream(await self._inner.connect_tcp(*args, **kwargs))


@final
class _Stream:
    """A connection without TLS."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def start_tls(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await self._inner.start_tls(*args, **kwargs)
        except BaseException:
            with anyio.move_on_after(_CLOSE, shield=True):
                await self._inner.aclose()
            raise
