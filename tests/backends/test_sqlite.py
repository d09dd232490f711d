"""What only SQLite has: a file, one writer, and transactions that handlers can reach."""

from __future__ import annotations

import gc
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import anyio
import pytest

from resilient.backends.sqlite import BlockingSQLiteStore, SQLiteStore
from resilient.backends.store import BlockingTransaction, Busy, Replay, Run
from resilient.errors import StoreUnavailable

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path: Path) -> BlockingSQLiteStore:
    store = BlockingSQLiteStore(tmp_path / "claims.db", busy_timeout=0.5)
    with sqlite3.connect(tmp_path / "claims.db") as connection:
        connection.execute("CREATE TABLE effects (name TEXT UNIQUE)")
    connection.close()
    return store


def begin(store: BlockingSQLiteStore, key: str = "k", *, lease: float = 30.0) -> Run:
    answer = store.begin("s", key, b"", owner="o", lease=lease, ttl=60.0)
    assert isinstance(answer, Run)
    return answer


def opened(store: BlockingSQLiteStore, key: str = "k") -> BlockingTransaction:
    transaction = store.transaction(begin(store, key))
    assert transaction is not None
    return transaction


def effects(store: BlockingSQLiteStore) -> list[str]:
    connection = sqlite3.connect(store.database.path)
    try:
        return [name for (name,) in connection.execute("SELECT name FROM effects ORDER BY name")]
    finally:
        connection.close()


def insert(connection: sqlite3.Connection, name: str) -> None:
    connection.execute("INSERT INTO effects VALUES (?)", (name,))


def answer(store: BlockingSQLiteStore, key: str = "k") -> object:
    return store.begin("s", key, b"", owner="o", lease=30.0, ttl=60.0)


def test_effect_and_record_appear_together(store: BlockingSQLiteStore) -> None:
    transaction = opened(store)
    insert(transaction.connection, "a")
    assert effects(store) == []
    assert isinstance(answer(store), Busy)
    assert transaction.commit(b"result", ttl=60.0)
    assert effects(store) == ["a"]
    assert answer(store) == Replay(b"result")


def test_rolled_back_is_as_if_nothing_had_happened(store: BlockingSQLiteStore) -> None:
    transaction = opened(store)
    insert(transaction.connection, "a")
    transaction.rollback()
    assert effects(store) == []
    assert isinstance(answer(store), Busy)


def test_a_handler_cannot_end_the_transaction_by_accident(store: BlockingSQLiteStore) -> None:
    transaction = opened(store)
    connection = transaction.connection
    insert(connection, "a")
    for accident in (connection.commit, connection.rollback, connection.close, connection.__enter__):
        with pytest.raises(RuntimeError):
            accident()
    with pytest.raises(RuntimeError, match="commits"):
        connection.executescript("SELECT 1")
    transaction.rollback()
    assert effects(store) == []


def test_a_handler_may_use_savepoints(store: BlockingSQLiteStore) -> None:
    transaction = opened(store)
    connection = transaction.connection
    insert(connection, "a")
    connection.execute("SAVEPOINT mine")
    insert(connection, "b")
    connection.execute("ROLLBACK TO mine")
    connection.execute("RELEASE mine")
    assert transaction.commit(b"", ttl=60.0)
    assert effects(store) == ["a"]


def test_an_effect_that_was_committed_by_hand_never_runs_again(store: BlockingSQLiteStore) -> None:
    """A crash right after it leaves the effect without a record; the guard was committed with it."""
    transaction = opened(store)
    insert(transaction.connection, "a")
    transaction.connection.execute("COMMIT")
    assert answer(store) == Replay(None)
    assert transaction.commit(b"result", ttl=60.0)
    assert answer(store) == Replay(b"result")
    assert effects(store) == ["a"]


def test_a_transaction_that_an_error_undid_is_not_recorded(store: BlockingSQLiteStore) -> None:
    """The handler caught the error and went on writing: none of it may stay."""
    first = opened(store, "first")
    insert(first.connection, "taken")
    first.commit(b"", ttl=60.0)
    transaction = opened(store)
    connection = transaction.connection
    insert(connection, "lost")
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute("INSERT OR ROLLBACK INTO effects VALUES ('taken')")
    insert(connection, "stray")
    assert not transaction.commit(b"result", ttl=60.0)
    assert effects(store) == ["taken"]
    assert isinstance(answer(store), Busy)


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_code_that_outlives_the_transaction_cannot_write(store: BlockingSQLiteStore, end: str) -> None:
    transaction = opened(store)
    connection = transaction.connection
    insert(connection, "a")
    if end == "commit":
        transaction.commit(b"", ttl=60.0)
    else:
        transaction.rollback()
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        insert(connection, "stray")
    assert "stray" not in effects(store)


def test_the_connection_of_one_claim_is_not_that_of_the_next(store: BlockingSQLiteStore) -> None:
    first = opened(store, "a")
    first.connection.row_factory = sqlite3.Row
    first.connection.execute("CREATE TEMP TABLE left_behind (x)")
    first.commit(b"", ttl=60.0)
    second = opened(store, "b")
    assert second.connection is not first.connection
    assert second.connection.row_factory is None
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        second.connection.execute("SELECT * FROM left_behind")
    second.rollback()


def test_a_connection_is_closed_when_nothing_refers_to_it(store: BlockingSQLiteStore) -> None:
    transaction = opened(store)
    transaction.commit(b"", ttl=60.0)
    store.close()
    del transaction
    gc.collect()
    # The last connection that closes removes the log.
    assert not store.database.path.with_name("claims.db-wal").exists()


def test_the_guard_refuses_a_claim_that_was_taken_over(store: BlockingSQLiteStore) -> None:
    zombie = begin(store, lease=0.001)
    deadline = time.monotonic() + 5
    while isinstance(answer(store), Busy):
        assert time.monotonic() < deadline
    assert store.transaction(zombie) is None
    assert isinstance(begin(store, "other"), Run)  # and the write lock is free again


def test_a_writer_that_does_not_end_makes_others_fail_closed(store: BlockingSQLiteStore) -> None:
    transaction = opened(store)
    with pytest.raises(StoreUnavailable, match=r"write lock was not free within 0\.5 s"):
        begin(store, "other")
    transaction.rollback()
    begin(store, "other")


def test_a_writer_of_another_process_is_waited_for_and_then_reported(store: BlockingSQLiteStore) -> None:
    begin(store)
    other = sqlite3.connect(store.database.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="locked"):
        begin(store, "other")
    assert isinstance(answer(store), Busy)  # reading needs no lock
    other.execute("ROLLBACK")
    other.close()
    begin(store, "other")


def test_a_transaction_that_could_not_be_opened_keeps_nobody_waiting(store: BlockingSQLiteStore) -> None:
    run = begin(store)
    other = sqlite3.connect(store.database.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="locked") as kept:
        store.transaction(run)
    other.execute("ROLLBACK")
    other.close()
    begin(store, "other")
    assert kept.value is not None  # and its traceback, which refers to all that was going on


def test_a_transaction_that_nobody_ends_ends_with_whoever_held_it(store: BlockingSQLiteStore) -> None:
    """An event loop that is shut down may drop it."""
    transaction = opened(store)
    insert(transaction.connection, "a")
    del transaction
    gc.collect()
    begin(store, "other")
    assert effects(store) == []


def test_all_stores_of_one_file_queue_together(store: BlockingSQLiteStore) -> None:
    transaction = opened(store)
    second = BlockingSQLiteStore(store.database.path, busy_timeout=0.1)
    with pytest.raises(StoreUnavailable, match="of this process"):
        begin(second, "other")
    transaction.rollback()
    begin(second, "other")


def test_a_change_of_the_working_directory_does_not_lead_to_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = BlockingSQLiteStore("claims.db")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    begin(store)
    store.close()
    assert (tmp_path / "claims.db").exists()
    assert list(Path.cwd().iterdir()) == []


def test_every_commit_is_synced_to_disk(store: BlockingSQLiteStore) -> None:
    transaction = opened(store)
    assert transaction.connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert transaction.connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    transaction.rollback()


def test_on_connect_prepares_every_connection(tmp_path: Path) -> None:
    def prepare(connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.row_factory = lambda cursor, row: {"foreign_keys": row[0]}  # any other shape than our own

    store = BlockingSQLiteStore(tmp_path / "a.db", on_connect=prepare)
    transaction = opened(store)
    assert transaction.connection.execute("PRAGMA foreign_keys").fetchone() == {"foreign_keys": 1}
    assert transaction.commit(b"result", ttl=60.0)
    assert answer(store) == Replay(b"result")
    store.close()


def test_the_clock_of_sqlite_is_that_of_the_world(tmp_path: Path) -> None:
    """The formula, not the function that newer releases have."""
    connection = sqlite3.connect(":memory:")
    before = time.time()
    (now,) = connection.execute(f"SELECT {BlockingSQLiteStore.clock}").fetchone()
    connection.close()
    assert before - 0.002 <= now / 1000 <= time.time() + 0.002


def test_leases_end_by_the_clock_of_sqlite(store: BlockingSQLiteStore) -> None:
    first = begin(store, lease=0.05)
    deadline = time.monotonic() + 5
    while isinstance(second := answer(store), Busy):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert isinstance(second, Run)
    assert second.fence > first.fence


@pytest.mark.parametrize(
    ("path", "message"),
    [("missing/claims.db", "unable to open"), ("text.db", "not a database"), (".", "unable to open")],
)
def test_a_file_that_cannot_be_used_fails_closed_and_names_itself(tmp_path: Path, path: str, message: str) -> None:
    (tmp_path / "text.db").write_text("hello " * 100)
    store = BlockingSQLiteStore(tmp_path / path)
    with pytest.raises(StoreUnavailable, match=message) as raised:
        begin(store)
    assert str(tmp_path / path) in str(raised.value)


def test_tables_of_a_newer_release_are_refused(store: BlockingSQLiteStore) -> None:
    begin(store)
    connection = sqlite3.connect(store.database.path)
    with connection:
        connection.execute("UPDATE resilient_schema SET version = 99")
    connection.close()
    with pytest.raises(StoreUnavailable, match="version 99, made by a newer release"):
        begin(BlockingSQLiteStore(store.database.path))


def test_the_users_own_version_number_is_left_alone(store: BlockingSQLiteStore) -> None:
    connection = sqlite3.connect(store.database.path)
    connection.execute("PRAGMA user_version = 7")
    begin(store)
    assert connection.execute("PRAGMA user_version").fetchone() == (7,)
    connection.close()


def test_threads_share_it(store: BlockingSQLiteStore) -> None:
    def one(number: int) -> bool:
        run = store.begin("s", str(number % 20), b"", owner="o", lease=30.0, ttl=60.0)
        if not isinstance(run, Run):
            return False
        transaction = store.transaction(run)
        assert transaction is not None
        insert(transaction.connection, run.key)
        return transaction.commit(b"", ttl=60.0)

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(one, range(200))) == 20
    assert len(effects(store)) == 20


def test_those_who_wait_for_a_transaction_do_not_keep_it_from_ending(tmp_path: Path, backend: str) -> None:
    """One thread, occupied by somebody who waits for the write lock, and the holder has to commit."""

    async def main() -> None:
        async with SQLiteStore(tmp_path / "claims.db", threads=1, busy_timeout=30.0) as store:
            run = await store.begin("s", "a", b"", owner="o", lease=30.0, ttl=60.0)
            assert isinstance(run, Run)
            transaction = await store.transaction(run)
            assert transaction is not None
            async with anyio.create_task_group() as group:
                for key in "bcd":
                    group.start_soon(partial(store.begin, "s", key, b"", owner="o", lease=30.0, ttl=60.0))
                await anyio.wait_all_tasks_blocked()
                assert await transaction.commit(b"", ttl=60.0)

    anyio.run(main, backend=backend)


def test_many_processes_may_be_the_first_to_use_a_file(tmp_path: Path) -> None:
    program = (
        "import sys; from resilient.backends.sqlite import BlockingSQLiteStore as S\n"
        "s = S(sys.argv[1]); sys.stdin.readline()\n"
        "print(type(s.begin('s', 'k', b'', owner='o', lease=30.0, ttl=60.0)).__name__)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "claims.db")]
    processes = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    said = sorted(process.communicate(timeout=20)[0].strip() for process in processes)
    assert said == ["Busy", "Busy", "Busy", "Run"]


def run_program(program: str, *arguments: str) -> str:
    command = [sys.executable, "-W", "error::ResourceWarning", "-c", program, *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=20).stdout


FORK = """
import gc, os, sys
from resilient.backends.sqlite import BlockingSQLiteStore
from resilient.errors import StoreUnavailable

path, close = sys.argv[1], sys.argv[2] == "close"
parent = BlockingSQLiteStore(path)
begin = lambda store, key: type(store.begin("s", key, b"", owner="o", lease=30.0, ttl=60.0)).__name__
begin(parent, "before")
run = parent.begin("s", "written", b"", owner="o", lease=30.0, ttl=60.0)
gc.disable()  # the connection of an effect is part of a cycle
parent.transaction(run).rollback()
if close:
    parent.close()
pid = os.fork()
if pid == 0:
    new, other = BlockingSQLiteStore(path), BlockingSQLiteStore(path + "2")
    for store, name in ((parent, "inherited"), (new, "new"), (other, "other")):
        try:
            print(name, begin(store, name))
        except StoreUnavailable as error:
            print(name, "refused:", error)
    sys.stdout.flush()
    sys.exit(0)
os.waitpid(pid, 0)
print("parent", begin(parent, "after"))
"""


def test_a_forked_child_of_a_parent_with_an_open_file_is_refused(tmp_path: Path) -> None:
    lines = run_program(FORK, str(tmp_path / "claims.db"), "keep").splitlines()
    assert [line.split(":")[0] for line in lines] == ["inherited refused", "new refused", "other Run", "parent Run"]
    assert "close the store before forking" in lines[0]


def test_a_forked_child_of_a_parent_that_had_closed_it_is_served(tmp_path: Path) -> None:
    lines = run_program(FORK, str(tmp_path / "claims.db"), "close").splitlines()
    assert lines == ["inherited Run", "new Run", "other Run", "parent Run"]


def test_a_thread_that_a_cancellation_left_behind_cannot_tear_the_effect(store: BlockingSQLiteStore) -> None:
    """It goes on inserting while the transaction is undone under it."""
    transaction = opened(store)
    connection = transaction.connection
    stop = threading.Event()
    written = []

    def left_behind() -> None:
        number = 0
        while not stop.is_set():
            try:
                insert(connection, f"stray {number}")
                written.append(number)
            except sqlite3.OperationalError:
                return
            number += 1

    thread = threading.Thread(target=left_behind)
    thread.start()
    deadline = time.monotonic() + 5
    while len(written) < 50:
        assert time.monotonic() < deadline
    transaction.rollback()
    thread.join(5)
    stop.set()
    assert not thread.is_alive()
    assert effects(store) == []
