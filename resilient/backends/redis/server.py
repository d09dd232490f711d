"""The way to the server: an address, and a bounded number of connections for each event loop and for plain threads.

A connection carries one conversation at a time, and only one that ended as it should is used for the next: whatever
leaves early, by a cancellation too, leaves an answer behind that the next caller would take for theirs.
"""

from __future__ import annotations

import asyncio
import math
import os
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, final
from urllib.parse import unquote, urlsplit

import anyio

try:
    import redis
    import redis.asyncio
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("Redis needs redis-py: pip install 'resilient-mesh[redis]'", name=error.name) from None

from resilient.errors import StoreUnavailable

__all__ = ["Address", "Commands", "LoopPool", "Lost", "Reply", "ThreadPool"]

Commands: TypeAlias = Sequence[tuple[str | bytes | int, ...]]
Reply: TypeAlias = Any
"""Bytes, a number, None, a list of replies, or the `redis.ResponseError` that a command was answered with."""

_PORT = 6379
_TLS = frozenset({"rediss", "valkeys"})
_PLAIN = frozenset({"redis", "valkey"})


class Lost(Exception):
    """The connection broke before all answers were there: what was sent may have been done."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where the server is, and how to get in.

    `certificates` is the path of a file of authorities to trust in place of the system's, `certificate` and `key` are
    the client's own, all for TLS.
    """

    host: str | None
    """None: `path` is a socket of this machine."""
    port: int = _PORT
    path: str = ""
    database: int = 0
    username: str | None = None
    password: str | None = None
    tls: bool = False
    certificates: str | None = None
    certificate: str | None = None
    key: str | None = None

    @classmethod
    def parse(
        cls,
        url: str,
        *,
        database: int = 0,
        certificates: str | None = None,
        certificate: str | None = None,
        key: str | None = None,
    ) -> Address:
        """Read `redis://user:password@host:port/0`, `rediss://`, `valkey://`, `valkeys://` or `unix:///path`.

        Raises `ValueError`.
        """
        parts = urlsplit(url)
        username = unquote(parts.username) if parts.username else None
        password = unquote(parts.password) if parts.password else None
        path = unquote(parts.path)
        shown = f"{parts.scheme}://{parts.hostname or ''}{parts.path}"  # never the password
        if parts.query or parts.fragment:
            raise ValueError(f"url={shown!r}: options are arguments here; `connect` takes them in the URL")
        if parts.scheme == "unix":
            if parts.hostname or not path:
                raise ValueError(f"url={shown!r}: write unix:///path/of/socket")
            return cls(host=None, path=path, database=database, username=username, password=password)
        if parts.scheme not in _TLS | _PLAIN:
            raise ValueError(f"url={shown!r}: redis://, rediss://, valkey://, valkeys:// or unix://")
        number = path.removeprefix("/")
        if not parts.hostname or (number and not number.isdecimal()):
            raise ValueError(f"url={shown!r}: write {parts.scheme}://host:port/0, where 0 is the number of a database")
        secure = parts.scheme in _TLS
        if not secure and (certificates or certificate or key):
            raise ValueError(f"url={shown!r}: certificates are for rediss:// and valkeys://")
        return cls(
            host=parts.hostname,
            port=parts.port or _PORT,
            database=int(number or database),
            username=username,
            password=password,
            tls=secure,
            certificates=certificates,
            certificate=certificate,
            key=key,
        )

    def __str__(self) -> str:
        return self.path if self.host is None else f"{self.host}:{self.port}"

    def arguments(self) -> dict[str, Any]:
        """What a connection of redis-py is made with, but for timeouts."""
        common: dict[str, Any] = {
            "db": self.database,
            "username": self.username,
            "password": self.password,
            "protocol": 2,  # one form of answers on every server and every release of redis-py
        }
        if self.host is None:
            return {**common, "path": self.path}
        common |= {"host": self.host, "port": self.port}
        if not self.tls:
            return common
        trusted = {"ssl_ca_certs": self.certificates, "ssl_certfile": self.certificate, "ssl_keyfile": self.key}
        return {**common, **trusted, "ssl_cert_reqs": "required", "ssl_check_hostname": True}


class _Limits:
    """What both kinds of pools are bounded by."""

    def __init__(self, address: Address, *, connections: int, timeout: float) -> None:
        if connections < 1:
            raise ValueError(f"connections={connections!r}: at least 1")
        if not 0 < timeout < math.inf:
            raise ValueError(f"timeout={timeout!r}: a finite number of seconds, more than 0")
        self._address = address
        self._connections = connections
        self._timeout = timeout

    def _unreachable(self, error: Exception) -> StoreUnavailable:
        cause = error.__cause__ or error.__context__  # of which some releases of redis-py show only the number
        reason = "" if cause is None or str(cause) in str(error) else f" ({cause})"
        return StoreUnavailable(f"{self._address}: {error}{reason}")

    def _busy(self) -> StoreUnavailable:
        return StoreUnavailable(
            f"{self._address}: all {self._connections} connections were in use for {self._timeout} s"
        )

    def _silent(self) -> StoreUnavailable:
        return StoreUnavailable(f"{self._address}: no answer within {self._timeout} s")


class _LoopConnection(Protocol):
    """What is used of `redis.asyncio.Connection`."""

    async def connect(self) -> None: ...
    async def disconnect(self, nowait: bool = False) -> None: ...  # noqa: FBT001, FBT002 - as redis-py has it
    def pack_commands(self, commands: Commands) -> list[bytes]: ...
    async def send_packed_command(self, command: list[bytes], check_health: bool = True) -> None: ...  # noqa: FBT001, FBT002
    async def read_response(self) -> Reply: ...


class _ThreadConnection(Protocol):
    """What is used of `redis.Connection`."""

    def connect(self) -> None: ...
    def disconnect(self) -> None: ...
    def pack_commands(self, commands: Commands) -> list[bytes]: ...
    def send_packed_command(self, command: list[bytes], check_health: bool = True) -> None: ...  # noqa: FBT001, FBT002
    def read_response(self) -> Reply: ...


@final
class LoopPool(_Limits):
    """The connections of one event loop of asyncio."""

    def __init__(self, address: Address, *, connections: int, timeout: float) -> None:
        super().__init__(address, connections=connections, timeout=timeout)
        self._slots = anyio.Semaphore(connections, fast_acquire=True)
        self._idle: list[_LoopConnection] = []

    async def exchange(self, commands: Commands) -> list[Reply]:
        """Send the commands in one go and return their answers.

        Raises `Lost`, and `StoreUnavailable` where nothing was sent or no answer came in time.
        """
        admitted = False
        try:
            async with asyncio.timeout(self._timeout), self._slots:
                admitted = True
                return await self._converse(commands)
        except TimeoutError:
            raise (self._silent() if admitted else self._busy()) from None

    async def _converse(self, commands: Commands) -> list[Reply]:
        idle = self._idle
        connection = idle.pop() if idle else await self._connect()
        try:
            await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
            answers = [await _read(connection) for _ in commands]
        except BaseException as error:
            await connection.disconnect(nowait=True)
            if isinstance(error, redis.ConnectionError):
                await self.close()  # what happened to one has happened to the others
                raise Lost(str(error)) from error
            raise
        if idle is self._idle:
            idle.append(connection)
        else:  # the pool was closed meanwhile
            await connection.disconnect(nowait=True)
        return answers

    async def _connect(self) -> _LoopConnection:
        # The pool has the only timer: with a timeout of its own, every write of a connection would be a task.
        arguments = self._address.arguments() | {"socket_timeout": None, "socket_connect_timeout": None}
        kind: Any = redis.asyncio.Connection
        if self._address.host is None:
            kind = redis.asyncio.UnixDomainSocketConnection
        elif self._address.tls:
            kind = redis.asyncio.SSLConnection
        connection: _LoopConnection = kind(**arguments)
        try:
            await connection.connect()
        except BaseException as error:
            await connection.disconnect(nowait=True)
            if isinstance(error, redis.RedisError):
                raise self._unreachable(error) from error
            raise
        return connection

    async def close(self) -> None:
        """Close what is idle now, and the rest as soon as it is given back."""
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.disconnect(nowait=True)


async def _read(connection: _LoopConnection) -> Reply:
    try:
        return await connection.read_response()
    except redis.ResponseError as error:
        return error


@final
class ThreadPool(_Limits):
    """The connections of plain functions and worker threads.

    Each of waiting for a connection, making it and waiting for an answer may take `timeout`.
    """

    def __init__(self, address: Address, *, connections: int, timeout: float) -> None:
        super().__init__(address, connections=connections, timeout=timeout)
        self._start_over()

    def _start_over(self) -> None:
        self._slots = threading.Semaphore(self._connections)
        self._idle: deque[_ThreadConnection] = deque()
        self._process = os.getpid()  # last: another thread that sees it must find no connection of the parent's

    def exchange(self, commands: Commands) -> list[Reply]:
        """Send the commands in one go and return their answers. Raises as `LoopPool.exchange` does."""
        if self._process != os.getpid():
            self._start_over()  # a fork: the connections are the parent's
        slots = self._slots
        if not slots.acquire(timeout=self._timeout):
            raise self._busy()
        try:
            return self._converse(commands)
        finally:
            slots.release()

    def _converse(self, commands: Commands) -> list[Reply]:
        idle = self._idle
        try:
            connection = idle.pop()
        except IndexError:
            connection = self._connect()
        try:
            connection.send_packed_command(connection.pack_commands(commands), check_health=False)
            answers = [_read_blocking(connection) for _ in commands]
        except BaseException as error:
            connection.disconnect()
            if isinstance(error, redis.TimeoutError):
                raise self._silent() from error
            if isinstance(error, redis.ConnectionError):
                self.close()  # what happened to one has happened to the others
                raise Lost(str(error)) from error
            raise
        if idle is self._idle:
            idle.append(connection)
        else:
            connection.disconnect()
        return answers

    def _connect(self) -> _ThreadConnection:
        timeouts = {"socket_timeout": self._timeout, "socket_connect_timeout": self._timeout}
        kind: Any = redis.Connection
        if self._address.host is None:
            kind = redis.UnixDomainSocketConnection
        elif self._address.tls:
            kind = redis.SSLConnection
        connection: _ThreadConnection = kind(**self._address.arguments(), **timeouts)
        try:
            connection.connect()
        except BaseException as error:
            connection.disconnect()
            if isinstance(error, redis.TimeoutError):
                raise self._silent() from error
            if isinstance(error, redis.RedisError):
                raise self._unreachable(error) from error
            raise
        return connection

    def close(self) -> None:
        """Close what is idle now, and the rest as soon as it is given back."""
        idle, self._idle = self._idle, deque()
        while idle:
            idle.pop().disconnect()


def _read_blocking(connection: _ThreadConnection) -> Reply:
    try:
        return connection.read_response()
    except redis.ResponseError as error:
        return error
