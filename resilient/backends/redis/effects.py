"""What a claim's effect consists of: commands that the server executes together with the record, or not at all."""

from __future__ import annotations

from typing import TypeAlias, final

__all__ = ["RedisEffect", "Value", "tag_of"]

Value: TypeAlias = str | bytes | int | float

_MOST = 10_000
"""Words of an effect: the server does nothing else meanwhile."""
_MOST_AT_ONCE = 1000
"""Words of a command: Lua passes no more than some thousands."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Of each the first word is its one key. Multi-key commands are not among them, nor what waits, moves keys or runs
# scripts.
_WRITES = _words(
    """
    SET SETNX SETEX PSETEX GETSET GETDEL GETEX APPEND SETRANGE INCR INCRBY INCRBYFLOAT DECR DECRBY SETBIT BITFIELD
    DEL UNLINK EXPIRE PEXPIRE EXPIREAT PEXPIREAT PERSIST
    HSET HSETNX HINCRBY HINCRBYFLOAT HDEL
    LPUSH RPUSH LPUSHX RPUSHX LPOP RPOP LSET LREM LTRIM LINSERT
    SADD SREM SPOP
    ZADD ZINCRBY ZREM ZREMRANGEBYRANK ZREMRANGEBYSCORE ZREMRANGEBYLEX ZPOPMIN ZPOPMAX
    XADD XTRIM XDEL XACK PFADD GEOADD
    """
)
# Answered with one value.
_READS = _words(
    """
    EXISTS TYPE GET STRLEN GETRANGE GETBIT BITCOUNT HGET HEXISTS HLEN HSTRLEN LLEN LINDEX SCARD SISMEMBER
    ZCARD ZCOUNT ZSCORE ZRANK XLEN
    """
)
_ONE_KEY = frozenset({"DEL", "UNLINK", "EXISTS"})
"""Would take more."""


def tag_of(key: str | bytes) -> bytes:
    """Return what decides on the slot of a key: the text between its first braces, or the whole key."""
    name = key.encode() if isinstance(key, str) else key
    start = name.find(b"{")
    end = name.find(b"}", start + 1) if start >= 0 else -1
    return name[start + 1 : end] if end > start + 1 else name


@final
class RedisEffect:
    """The `connection` of a claim: collects the commands of its effect, which are executed with its record.

    Nothing is sent before the handler returned. Then the server checks the fence and what was expected, executes the
    commands in order and writes the record, all in one step, or changes nothing. What the handler reads for its effect
    it reads with a client of its own, before; `expect` makes sure that it still holds.
    """

    def __init__(self, tag: str) -> None:
        self._tag = tag
        self._over = False
        self._expected: list[bytes] = []
        self._written: list[bytes] = []
        self._keys: list[bytes] = []
        self._expectations = 0
        self._writes = 0
        self._room = _MOST

    def execute(self, command: str, key: str | bytes, /, *args: Value) -> None:
        """Add a command that writes one key, such as `execute("INCRBY", "{resilient}:sold", 2)`.

        Its reply is nobody's. If the server refuses it (the key holds another type, say), the whole effect is undone:
        the keys that more than one command come to are copied for that, so they should not be huge.

        Raises `ValueError` for a command that does not write exactly one key, and for a key of another slot.
        """
        self._written += self._encode(_WRITES, command, key, args)
        self._writes += 1

    def expect(self, value: str | bytes | int | None, command: str, key: str | bytes, /, *args: Value) -> None:
        """Let the effect depend on what a command reads: `expect(b"17", "GET", "{resilient}:stock")`.

        `value` is the reply as the handler saw it, None for one that is not there. If the command is answered
        differently at the end, nothing is written, and the claim ends in `StoreUnavailable`, to be tried again.

        Raises `ValueError` for a command that does not read one value of one key, and for a key of another slot.
        """
        self._expected += self._encode(_READS, command, key, args)
        self._expected += [b"nothing", b""] if value is None else [b"value", _bytes(value)]
        self._expectations += 1

    def end(self) -> None:
        """Accept nothing more."""
        self._over = True

    @property
    def keys(self) -> list[bytes]:
        """Every key that it touches."""
        return self._keys

    def words(self) -> list[bytes]:
        """The whole of it, as the script reads it."""
        return [b"%d" % self._expectations, *self._expected, b"%d" % self._writes, *self._written]

    def _encode(self, known: frozenset[str], command: str, key: str | bytes, args: tuple[Value, ...]) -> list[bytes]:
        if self._over:
            raise RuntimeError("the transaction of this claim is over: nothing more can be written in it")
        name = command.upper()
        if name not in known or (name in _ONE_KEY and args):
            what = "writes" if known is _WRITES else "reads one value of"
            raise ValueError(f"command={command!r}: not one that {what} exactly one key")
        if tag_of(key) != self._tag.encode() or _bytes(key).startswith(b"resilient:{"):
            raise ValueError(
                f"key={key!r}: of another slot than the record, with which it could not be written in one step; "
                f"name it with {{{self._tag}}} in it, as `slot_key` of the store does"
            )
        words = [name.encode(), _bytes(key), *map(_bytes, args)]
        if len(words) > _MOST_AT_ONCE or len(words) > self._room:
            raise ValueError(
                f"{command!r} has {len(words)} words: an effect has room for {_MOST}, {_MOST_AT_ONCE} in one command, "
                f"and for {self._room} more"
            )
        self._room -= len(words)
        self._keys.append(words[1])
        return [b"%d" % len(words), *words]

    def __repr__(self) -> str:
        return f"<{self._writes} commands and {self._expectations} conditions of an effect>"


def _bytes(value: Value) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise TypeError(f"{value!r}: the server knows bytes, text and numbers")
    return (value if isinstance(value, str) else repr(value)).encode()
