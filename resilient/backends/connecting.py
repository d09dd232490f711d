"""From a URL to a store."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

if TYPE_CHECKING:
    from resilient.backends.store import Store

__all__ = ["connect"]

N = TypeVar("N", int, float)


def connect(url: str) -> Store:
    """Return the store that `url` names. Nothing is opened before the store is used.

    `memory://`
        A new store in this process's memory. Options: `max_records`.
    `sqlite:///orders.db`, `sqlite:////var/lib/orders.db`
        A file, relative to the working directory (three slashes) or absolute (four). Options: `busy_timeout`,
        `threads`, `migrate=false`.
    `postgresql://user@host/orders`
        A database, as libpq reads it, with the options that libpq knows. Ours: `pool_size`, `timeout`, `lock_timeout`,
        `migrate=false`. Takes the extra `postgres`.
    `redis://host:port/0`, `rediss://` over TLS, `valkey://`, `valkeys://`, `unix:///path/of/socket`
        Redis or Valkey; `user:password@` before the host. Options: `tag`, `connections`, `timeout`, `allow_eviction`,
        `replicas`, `wait`, `database` (for `unix://`), `certificates`, `certificate`, `key`.

    Options are query arguments: `sqlite:///orders.db?busy_timeout=2`. Raises `ValueError` for a URL that names no
    store, or an option that it does not have.
    """
    parts = urlsplit(url)
    make = _SCHEMES.get(parts.scheme)
    if make is None:
        raise ValueError(f"store={_shown(parts)!r}: known are {', '.join(f'{scheme}://' for scheme in _SCHEMES)}")
    options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    store = make(parts, options)
    if options:
        raise ValueError(f"store={_shown(parts)!r}: {parts.scheme}:// has no option {', '.join(map(repr, options))}")
    return store


def _memory(parts: SplitResult, options: dict[str, str]) -> Store:
    from resilient.backends.memory import MemoryStore

    if parts.netloc or parts.path:
        raise ValueError(f"store={parts.geturl()!r}: memory:// has neither host nor path")
    return MemoryStore(max_records=_take(options, "max_records", int, 100_000))


def _sqlite(parts: SplitResult, options: dict[str, str]) -> Store:
    from resilient.backends.sqlite import SQLiteStore

    path = unquote(parts.path.removeprefix("/"))
    if parts.netloc or not path:
        raise ValueError(f"store={parts.geturl()!r}: write sqlite:///relative.db or sqlite:////absolute.db")
    return SQLiteStore(
        path,
        busy_timeout=_take(options, "busy_timeout", float, 5.0),
        threads=_take(options, "threads", int, 8),
        migrate=_take_flag(options, "migrate", default=True),
    )


def _postgres(parts: SplitResult, options: dict[str, str]) -> Store:
    from resilient.backends.postgres import PostgresStore

    pool_size = _take(options, "pool_size", int, 10)
    timeout = _take(options, "timeout", float, 5.0)
    lock_timeout = _take(options, "lock_timeout", float, 0.5)
    migrate = _take_flag(options, "migrate", default=True)
    rest = f"?{urlencode(options, quote_via=quote)}" if options else ""
    options.clear()  # libpq's, which names what it does not know
    url = f"postgresql://{parts.netloc}{parts.path}{rest}"
    return PostgresStore(url, pool_size=pool_size, timeout=timeout, lock_timeout=lock_timeout, migrate=migrate)


def _redis(parts: SplitResult, options: dict[str, str]) -> Store:
    from resilient.backends.redis import RedisStore

    return RedisStore(
        parts._replace(query="").geturl(),
        tag=options.pop("tag", "resilient"),
        connections=_take(options, "connections", int, 16),
        timeout=_take(options, "timeout", float, 2.0),
        allow_eviction=_take_flag(options, "allow_eviction", default=False),
        replicas=_take(options, "replicas", int, 0),
        wait=_take(options, "wait", float, 1.0),
        database=_take(options, "database", int, 0),
        certificates=options.pop("certificates", None),
        certificate=options.pop("certificate", None),
        key=options.pop("key", None),
    )


def _shown(parts: SplitResult) -> str:
    """The URL without its password."""
    if parts.password is None:
        return parts.geturl()
    return parts._replace(netloc=f"{parts.username or ''}:***@{parts.netloc.rpartition('@')[2]}").geturl()


def _take(options: dict[str, str], name: str, kind: Callable[[str], N], default: N) -> N:
    if name not in options:
        return default
    text = options.pop(name)
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{name}={text!r}: a number") from None


def _take_flag(options: dict[str, str], name: str, *, default: bool) -> bool:
    text = options.pop(name, str(default).lower())
    if text not in {"true", "false"}:
        raise ValueError(f"{name}={text!r}: true or false")
    return text == "true"


_SCHEMES: dict[str, Callable[[SplitResult, dict[str, str]], Store]] = {
    "memory": _memory,
    "postgresql": _postgres,
    "sqlite": _sqlite,
    **dict.fromkeys(("redis", "rediss", "valkey", "valkeys", "unix"), _redis),
}
