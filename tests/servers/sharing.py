"""Servers that every test of this process may use: started for the first who asks, ended with the session."""

from __future__ import annotations

from typing import TypeVar

from tests.servers.process import Server

S = TypeVar("S", bound=Server)

_running: dict[type[Server], Server] = {}


def shared(kind: type[S]) -> S:
    """The server of a kind, serving, whatever the test before did to it. Its data is shared too: take keys of your own.

    For those who may not ask for a fixture; others take one that calls this.
    """
    if kind not in _running:
        _running[kind] = kind().__enter__()
    server = _running[kind]
    assert isinstance(server, kind)
    server.heal()
    return server


def end_all() -> None:
    """End them: the `conftest.py` of the project does."""
    while _running:
        _, server = _running.popitem()
        server.__exit__()
