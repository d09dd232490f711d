"""Effects in the slot of their record: written with it in one step, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from resilient.backends.redis import RedisEffect, RedisStore
from resilient.backends.redis.effects import tag_of
from resilient.backends.store import BlockingTransaction, Replay, Run
from resilient.errors import LeaseLost, StoreUnavailable
from tests.backends.redis.faces import begin, play, run
from tests.servers.process import free_port
from tests.servers.sharing import shared
from tests.servers.valkey import Redis, Valkey


class Shop:
    """A store, and what a test looks at from outside."""

    def __init__(self, server: Valkey, tag: str) -> None:
        self.server = server
        self.store = RedisStore(server.url, tag=tag)
        self.place = self.store.slot_key

    def began(self, key: str = "k", lease: float = 30.0) -> Run:
        answer = self.store.blocking.begin("s", key, b"", owner="", lease=lease, ttl=60)
        assert isinstance(answer, Run)
        return answer

    def opened(self, run: Run | None = None) -> BlockingTransaction:
        transaction = self.store.blocking.transaction(run or self.began())
        assert transaction is not None
        return transaction

    def ask(self, command: str, name: str, *args: Any) -> Any:
        return self.server.ask(command, self.place(name), *args)

    def state(self) -> str:
        record = self.store.blocking.lookup("s", "k")
        assert record is not None
        return record.state


@pytest.fixture(params=[Valkey, Redis], ids=["valkey", "redis"])
def shop(request: pytest.FixtureRequest, tag: str) -> Iterator[Shop]:
    shop = Shop(shared(request.param), tag)
    yield shop
    shop.store.blocking.close()


def test_an_effect_and_its_record_are_written_together(valkey: Valkey, store: RedisStore, face: str) -> None:
    async def scenario(through):
        transaction = await through.transaction(await run(through))
        assert transaction is not None
        transaction.connection.execute("INCRBY", store.slot_key("sold"), 2)
        transaction.connection.execute("RPUSH", store.slot_key("orders"), "k")
        assert valkey.ask("EXISTS", store.slot_key("sold")) == 0
        assert await transaction.commit(b"result", ttl=60)
        assert await begin(through) == Replay(b"result")

    play(face, store, scenario)
    assert valkey.ask("GET", store.slot_key("sold")) == b"2"
    assert valkey.ask("LRANGE", store.slot_key("orders"), 0, -1) == [b"k"]


def test_functions_that_write_the_effect_may_be_coroutines_or_not(valkey: Valkey, store: RedisStore, face: str) -> None:
    def plain(connection: RedisEffect, by: int) -> str:
        connection.execute("INCRBY", store.slot_key("sold"), by)
        return "plain"

    async def coroutine(connection: RedisEffect, by: int) -> str:
        connection.execute("INCRBY", store.slot_key("sold"), by)
        return "coroutine"

    async def scenario(through):
        transaction = await through.transaction(await run(through))
        assert transaction is not None
        assert await transaction.call(plain, 1) == "plain"
        if face == "plain":
            with pytest.raises(TypeError, match="pass a plain function"):
                await transaction.call(coroutine, 2)
        else:
            assert await transaction.call(coroutine, 2) == "coroutine"
        assert await transaction.commit(None, ttl=60)

    play(face, store, scenario)
    assert valkey.ask("GET", store.slot_key("sold")) == (b"1" if face == "plain" else b"3")


def test_what_is_rolled_back_writes_nothing(valkey: Valkey, store: RedisStore, face: str) -> None:
    async def scenario(through):
        first = await run(through)
        transaction = await through.transaction(first)
        assert transaction is not None
        transaction.connection.execute("INCRBY", store.slot_key("sold"), 2)
        await transaction.rollback()
        with pytest.raises(RuntimeError, match="is over"):
            transaction.connection.execute("INCRBY", store.slot_key("sold"), 2)
        with pytest.raises(RuntimeError, match="is over"):
            transaction.connection.expect(None, "GET", store.slot_key("sold"))
        assert not await transaction.commit(b"result", ttl=60)
        another = await through.transaction(first)
        assert another is not None
        assert await another.commit(b"result", ttl=60)

    play(face, store, scenario)
    assert valkey.ask("EXISTS", store.slot_key("sold")) == 0


def test_nothing_is_written_once_somebody_else_has_taken_over(valkey: Valkey, store: RedisStore, face: str) -> None:
    """A transaction here holds nothing, so this can happen between its beginning and its end."""

    async def scenario(through):
        zombie = await run(through)
        transaction = await through.transaction(zombie)
        assert transaction is not None
        transaction.connection.execute("INCRBY", store.slot_key("sold"), 2)
        await through.heartbeat(zombie, lease=0.0)
        successor = await run(through)
        with pytest.raises(LeaseLost, match="nothing is written"):
            await transaction.commit(b"zombie", ttl=60)
        assert await through.transaction(zombie) is None
        assert await through.complete(successor, b"successor", ttl=60)
        assert await begin(through) == Replay(b"successor")

    play(face, store, scenario)
    assert valkey.ask("EXISTS", store.slot_key("sold")) == 0


def test_whatever_a_refused_command_had_before_it_is_put_back(shop: Shop) -> None:
    """The server undoes nothing when a script fails halfway: this is what does."""
    shop.ask("SET", "number", "7", "PX", 60_000)
    shop.ask("HSET", "table", "a", "1")
    shop.ask("RPUSH", "list", "x")
    shop.ask("XADD", "stream", "5-1", "a", "b")
    before = [shop.ask("DUMP", name) for name in ("number", "table", "list", "stream")]
    first = shop.began()
    transaction = shop.opened(first)
    for command, name, *args in (
        ("INCRBY", "number", 5),
        ("PERSIST", "number"),
        ("HINCRBY", "table", "a", 3),
        ("DEL", "table"),
        ("SET", "new", "thing"),
        ("SADD", "members", "me"),
        ("XADD", "stream", "*", "c", "d"),
        ("INCRBY", "list", 1),  # which is none
        ("SET", "after", "it"),
    ):
        transaction.connection.execute(command, shop.place(name), *args)
    with pytest.raises(StoreUnavailable, match=r"INCRBY .*list: WRONGTYPE .*; nothing was written"):
        transaction.commit(b"result", ttl=60)
    assert [shop.ask("DUMP", name) for name in ("number", "table", "list", "stream")] == before
    assert 0 < shop.ask("PTTL", "number") <= 60_000
    assert [shop.ask("EXISTS", name) for name in ("new", "members", "after")] == [0, 0, 0]
    assert shop.state() == "running"
    assert shop.opened(first).commit(b"nothing after all", ttl=60)  # the claim is as it was


def test_a_single_command_that_is_refused_changes_nothing(shop: Shop) -> None:
    shop.ask("SET", "number", "seven")
    transaction = shop.opened()
    transaction.connection.execute("INCR", shop.place("number"))
    with pytest.raises(StoreUnavailable, match=r"INCR .*not an integer.*nothing was written"):
        transaction.commit(b"result", ttl=60)
    assert shop.ask("GET", "number") == b"seven"
    assert shop.state() == "running"


@pytest.mark.parametrize(
    ("command", "args"),
    [
        ("HSET", ["field without a value"]),
        ("SET", ["v", "PX", "soon"]),
        ("XADD", ["0-0", "a", "b"]),
        ("LSET", [0, "x"]),
    ],
)
def test_commands_that_the_server_does_not_understand_change_nothing(
    shop: Shop, command: str, args: list[str | int]
) -> None:
    transaction = shop.opened()
    transaction.connection.execute("INCR", shop.place("before"))
    transaction.connection.execute(command, shop.place("key"), *args)
    with pytest.raises(StoreUnavailable, match="nothing was written"):
        transaction.commit(b"result", ttl=60)
    assert shop.ask("EXISTS", "before") == 0
    assert shop.state() == "running"


@pytest.mark.parametrize("missing", ["dump", "restore", "pttl", "incr", "sadd"])
def test_what_is_not_permitted_changes_nothing(shop: Shop, tag: str, missing: str) -> None:
    rights = ["+@all", f"-{missing}", "~*"]
    shop.server.ask("ACL", "SETUSER", tag, "on", ">mine", *rights)
    store = RedisStore(f"redis://{tag}:mine@{shop.server.address}", tag=tag).blocking
    transaction = store.transaction(shop.began())
    assert transaction is not None
    transaction.connection.execute("INCR", shop.place("sold"))
    transaction.connection.execute("SADD", shop.place("orders"), "k")
    with pytest.raises(StoreUnavailable, match=r"(?i)permission|can't run"):
        transaction.commit(b"result", ttl=60)
    store.close()
    shop.server.ask("ACL", "DELUSER", tag)
    assert [shop.ask("EXISTS", name) for name in ("sold", "orders")] == [0, 0]
    assert shop.state() == "running"


def test_a_key_that_may_not_be_read_is_refused_before_anything_is_written(shop: Shop, tag: str) -> None:
    """It could not be put back."""
    rights = ["+@all", f"~resilient:{{{tag}}}:*", f"~{shop.place('sold')}", f"%W~{shop.place('log')}"]
    shop.server.ask("ACL", "SETUSER", tag, "on", ">mine", *rights)
    store = RedisStore(f"redis://{tag}:mine@{shop.server.address}", tag=tag).blocking
    transaction = store.transaction(shop.began())
    assert transaction is not None
    transaction.connection.execute("INCR", shop.place("sold"))
    transaction.connection.execute("RPUSH", shop.place("log"), "k")
    transaction.connection.execute("INCR", shop.place("sold"))
    with pytest.raises(StoreUnavailable, match=r"(?i)permission|can't|access"):
        transaction.commit(b"result", ttl=60)
    store.close()
    shop.server.ask("ACL", "DELUSER", tag)
    assert [shop.ask("EXISTS", name) for name in ("sold", "log")] == [0, 0]
    assert shop.state() == "running"


def test_an_effect_depends_on_what_its_handler_read(shop: Shop) -> None:
    shop.ask("SET", "stock", 5)
    transaction = shop.opened()
    transaction.connection.expect(b"5", "GET", shop.place("stock"))
    transaction.connection.execute("SET", shop.place("stock"), 4)
    shop.ask("SET", "stock", 3)  # somebody else sells two
    with pytest.raises(StoreUnavailable, match=r"GET .*stock: not what was expected; nothing was written"):
        transaction.commit(b"result", ttl=60)
    assert shop.ask("GET", "stock") == b"3"
    assert shop.state() == "running"


@pytest.mark.parametrize(
    ("value", "command", "args"),
    [
        (b"text", "GET", ["text"]),
        ("text", "GET", ["text"]),
        (None, "GET", ["nothing"]),
        (None, "HGET", ["table", "nothing"]),
        (17, "HGET", ["table", "a"]),
        (0, "EXISTS", ["nothing"]),
        (1, "EXISTS", ["text"]),
        (b"hash", "TYPE", ["table"]),
        ("none", "TYPE", ["nothing"]),
        (b"", "GET", ["empty"]),
        (9_007_199_254_740_993, "GET", ["large"]),
    ],
)
def test_whatever_was_read_can_be_expected(
    shop: Shop, value: bytes | str | int | None, command: str, args: list[str]
) -> None:
    shop.ask("SET", "text", "text")
    shop.ask("SET", "empty", "")
    shop.ask("SET", "large", 9_007_199_254_740_993)
    shop.ask("HSET", "table", "a", 17)
    name, *rest = args
    transaction = shop.opened()
    transaction.connection.expect(value, command, shop.place(name), *rest)
    transaction.connection.execute("INCR", shop.place("sold"))
    assert transaction.commit(b"result", ttl=60)
    assert shop.ask("GET", "sold") == b"1"
    other = b"another" if value is None else None
    transaction = shop.opened(shop.began("another"))
    transaction.connection.expect(other, command, shop.place(name), *rest)
    transaction.connection.execute("INCR", shop.place("sold"))
    with pytest.raises(StoreUnavailable, match="not what was expected"):
        transaction.commit(b"result", ttl=60)
    assert shop.ask("GET", "sold") == b"1"


def test_a_condition_that_the_server_refuses_is_none_that_holds(shop: Shop) -> None:
    shop.ask("RPUSH", "list", "x")
    transaction = shop.opened()
    transaction.connection.expect(None, "GET", shop.place("list"))
    with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
        transaction.commit(b"result", ttl=60)
    assert shop.state() == "running"


def test_bytes_arrive_as_they_are(shop: Shop) -> None:
    value = bytes(range(256))
    transaction = shop.opened()
    transaction.connection.execute("set", shop.place("bytes"), value)
    transaction.connection.execute("HSET", shop.place("table").encode(), "ä", 1.5)
    transaction.connection.expect(None, "get", shop.place("bytes"))
    assert transaction.commit(value, ttl=60)
    assert shop.ask("GET", "bytes") == value
    assert shop.ask("HGET", "table", "ä") == b"1.5"


@pytest.mark.parametrize(
    ("command", "key", "message"),
    [
        ("INCR", "sold", r"of another slot.*\{shop\}"),
        ("INCR", "{other}:sold", "of another slot"),
        ("INCR", "{}{shop}", "of another slot"),
        ("INCR", "resilient:{shop}:claim:1:s:k", "of another slot"),
        ("INCR", b"{other}:sold", "of another slot"),
        ("RENAME", "{shop}:sold", "writes exactly one key"),
        ("MSET", "{shop}:sold", "writes exactly one key"),
        ("FLUSHALL", "{shop}:sold", "writes exactly one key"),
        ("EVAL", "{shop}:sold", "writes exactly one key"),
        ("GET", "{shop}:sold", "writes exactly one key"),
    ],
)
def test_what_cannot_be_written_in_one_step_with_the_record_is_refused_at_once(
    command: str, key: str | bytes, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        RedisEffect("shop").execute(command, key)


def test_an_effect_checks_its_arguments() -> None:
    effect = RedisEffect("shop")
    with pytest.raises(ValueError, match="'DEL': not one that writes exactly one key"):
        effect.execute("DEL", "{shop}:a", "{other}:b")
    with pytest.raises(ValueError, match="'INCR': not one that reads one value"):
        effect.expect(b"1", "INCR", "{shop}:a")
    with pytest.raises(TypeError, match="True: the server knows"):
        effect.execute("SET", "{shop}:a", True)
    with pytest.raises(TypeError, match="None: the server knows"):
        effect.execute("SET", "{shop}:a", None)  # type: ignore[arg-type] # that is what is tested
    with pytest.raises(ValueError, match=r"1001 words.*1000 in one command"):
        effect.execute("RPUSH", "{shop}:a", *["x"] * 999)
    for _ in range(5000):
        effect.execute("INCR", "{shop}:a")
    with pytest.raises(ValueError, match=r"2 words.*for 0 more"):
        effect.execute("INCR", "{shop}:a")
    assert repr(effect) == "<5000 commands and 0 conditions of an effect>"


def test_the_largest_effect_is_written(shop: Shop) -> None:
    transaction = shop.opened()
    for _ in range(4500):
        transaction.connection.execute("INCR", shop.place("sold"))
    transaction.connection.execute("RPUSH", shop.place("list"), *["x"] * 998)
    assert transaction.commit(b"result", ttl=60)
    assert shop.ask("GET", "sold") == b"4500"
    assert shop.ask("LLEN", "list") == 998


def test_the_tag_of_a_key_is_what_a_cluster_takes_it_for() -> None:
    cases: list[tuple[str | bytes, bytes]] = [
        ("a{b}c", b"b"),
        ("{b}", b"b"),
        ("a", b"a"),
        ("a{}c", b"a{}c"),
        ("a{}{b}", b"a{}{b}"),
        ("a{b", b"a{b"),
        ("a}b{c}", b"c"),
        ("{{b}}", b"{b"),
        (b"\xff{\xfe}", b"\xfe"),
    ]
    with Valkey(cluster_enabled="yes", cluster_port=str(free_port())) as node:
        for key, tag in cases:
            assert tag_of(key) == tag
            assert node.ask("CLUSTER", "KEYSLOT", key) == node.ask("CLUSTER", "KEYSLOT", tag)
