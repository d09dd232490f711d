"""`resilient outbox` and `resilient inbox`."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from resilient.backends.outbox import Settlement
from resilient.cli.app import app
from resilient.errors import StoreUnavailable
from resilient.idempotency import BlockingClaim, Inbox, Outbox


@pytest.fixture
def url(tmp_path: Path) -> str:
    path = tmp_path / "shop.db"
    url = f"sqlite:///{path}"
    outbox = Outbox(url)
    with closing(sqlite3.connect(path)) as connection, connection:
        for key in ("a", "b", "c"):
            outbox.add(connection, "mail", {"to": f"{key}[bold]", "text": "x" * 100}, key=key, group="g")
    (first,) = outbox.blocking.claim(owner="me", limit=1, lease=30.0, attempts=3).messages
    outbox.blocking.settle([Settlement(message=first, state="parked", error="ValueError: no\nsuch address")])
    inbox = Inbox(url, consumer="billing", attempts=1)

    @inbox.handler
    def bill(claim: BlockingClaim, payload: bytes) -> None:
        raise ValueError("unreadable")

    bill(b"\xff", stream="s", position=7)
    outbox.blocking.close()
    inbox.blocking.close()
    return url


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_the_counts_are_shown(url: str) -> None:
    done = run("outbox", "stats", url)
    assert done.exit_code == 0
    assert done.stdout.splitlines()[:5] == ["pending: 2", "in flight: 0", "waiting: 0", "parked: 1", "delivered: 0"]
    assert json.loads(run("outbox", "stats", url, "--json").stdout)["parked"] == 1
    assert run("inbox", "stats", url, "billing").stdout.splitlines()[:2] == ["failing: 0", "parked: 1"]


def test_parked_messages_are_listed(url: str) -> None:
    columns, line = run("outbox", "parked", url).stdout.splitlines()
    assert columns.split() == ["id", "topic", "key", "group", "attempts", "age", "error", "payload"]
    assert line.split()[:5] == ["1", "mail", "a", "g", "1"]
    assert "ValueError: no such address" in line
    assert '"a[bold]"' in line
    assert "xxx..." in line
    document = json.loads(run("outbox", "parked", url, "--json").stdout)
    assert json.loads(document["payload"])["to"] == "a[bold]"
    assert document["error"] == "ValueError: no\nsuch address"
    assert run("outbox", "parked", url, "--after", "1", "--json").stdout == ""


def test_parked_messages_are_requeued_and_discarded(url: str) -> None:
    assert run("outbox", "requeue", url, "1", "99").stdout == "1 requeued\n"
    assert run("outbox", "discard", url, "1").stdout == "0 discarded\n"
    assert json.loads(run("outbox", "stats", url, "--json").stdout)["pending"] == 3


def test_what_a_consumer_could_not_process_is_listed_and_discarded(url: str) -> None:
    document = json.loads(run("inbox", "parked", url, "billing", "--json").stdout)
    age = document.pop("age")
    assert age >= 0
    assert document == {
        "id": 1,
        "key": "s:7",
        "stream": "s",
        "position": 7,
        "attempts": 1,
        "error": "ValueError: unreadable",
        "payload": "\\xff",
    }
    assert "s:7" in run("inbox", "parked", url, "billing").stdout
    assert run("inbox", "discard", url, "shipping", "1").stdout == "0 discarded\n"
    assert run("inbox", "discard", url, "billing", "1").stdout == "1 discarded\n"


@pytest.mark.parametrize(
    ("url", "code", "why"),
    [
        ("memory://", 2, "lies in the database"),
        ("mail://x", 2, "known are"),
        ("sqlite:///missing.db", 2, "there is no such file"),
        ("sqlite:///text.db", 1, "not a database"),
    ],
)
def test_a_database_that_cannot_be_asked_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, code: int, why: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.db").write_text("hello " * 100)
    for command in (["outbox", "stats", url], ["inbox", "stats", url, "billing"]):
        done = run(*command)
        assert done.exit_code == code
        assert why in done.stderr
    assert not Path("missing.db").exists()


def test_the_tables_of_messages_are_made_with_those_of_claims(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    url = f"sqlite:///{path}?migrate=false"
    outbox = Outbox(url)
    inbox = Inbox(url, consumer="billing")
    with closing(sqlite3.connect(path)) as connection:
        with pytest.raises(StoreUnavailable, match=r"outbox_messages have version 0.*resilient store migrate"):
            outbox.add(connection, "mail", {})
        with pytest.raises(StoreUnavailable, match=r"inbox_records have version 0.*resilient store migrate"):
            inbox.advance(connection, "s", 1)
        connection.rollback()
    assert "resilient_inbox_failures" in run("store", "migrate", "--sql", url).stdout
    assert run("store", "migrate", url).exit_code == 0
    with closing(sqlite3.connect(path)) as connection, connection:
        outbox.add(connection, "mail", {})
        assert inbox.advance(connection, "s", 1)
    assert outbox.blocking.stats().pending == 1
    outbox.blocking.close()
    assert "up to date" in run("store", "migrate", url).stdout
