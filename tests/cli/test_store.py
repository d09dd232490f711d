"""`resilient store`: made, counted and swept."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from resilient.backends import connect
from resilient.backends.store import BlockingStore, Run
from resilient.cli.app import app
from resilient.errors import StoreUnavailable
from tests.servers.postgres import Postgres


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["store", *arguments])


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/claims.db"
    found: str = request.getfixturevalue("postgres_url")
    return found


def begin(store: BlockingStore, key: str = "k") -> Run:
    run = store.begin("s", key, b"", owner="me", lease=0.01, ttl=0.01)
    assert isinstance(run, Run)
    return run


def test_a_store_that_may_not_make_its_tables_names_the_command_that_does(url: str) -> None:
    store = connect(f"{url}?migrate=false").blocking
    with pytest.raises(StoreUnavailable, match=r"claims have version 0, and this release needs 1: .*store migrate"):
        begin(store)
    done = call("migrate", url)
    assert (done.exit_code, "statements were run" in done.output) == (0, True)
    begin(store)
    store.close()
    again = call("migrate", url)
    assert (again.exit_code, "up to date" in again.output) == (0, True)


def test_the_tables_beside_the_claims_are_made_as_well(url: str) -> None:
    core: Any = connect(f"{url}?migrate=false").blocking
    steps = [core.intents().gc, core.clients().collect, core.outbox(keep=1.0).stats, partial(core.inbox().stats, "c")]
    for step in steps:
        with pytest.raises(StoreUnavailable, match="store migrate"):
            step()
    assert call("migrate", url).exit_code == 0
    for step in steps:
        step()
    core.close()


def test_what_is_printed_is_what_makes_the_tables(postgres: Postgres, postgres_url: str) -> None:
    printed = call("migrate", "--sql", "postgresql:///anywhere")
    assert printed.exit_code == 0
    postgres.ask(printed.output, url=postgres_url)
    store = connect(f"{postgres_url}?migrate=false").blocking
    begin(store)
    store.close()


def test_tables_of_a_newer_release_are_left_alone(postgres: Postgres, postgres_url: str) -> None:
    assert call("migrate", postgres_url).exit_code == 0
    postgres.ask("UPDATE resilient_schema SET version = 99", url=postgres_url)
    with pytest.raises(StoreUnavailable, match="version 99, made by a newer release"):
        begin(connect(postgres_url).blocking)
    refused = call("migrate", postgres_url)
    assert (refused.exit_code, "made by a newer release" in refused.output) == (2, True)


def test_a_role_that_may_not_make_tables_is_told_so(postgres: Postgres, postgres_url: str) -> None:
    postgres.ask("DROP ROLE IF EXISTS clerk")
    postgres.ask("CREATE ROLE clerk LOGIN")
    clerk = postgres_url.replace("postgres@", "clerk@")
    with pytest.raises(StoreUnavailable, match="permission denied for schema public: run `resilient store migrate"):
        begin(connect(clerk).blocking)
    assert call("migrate", postgres_url).exit_code == 0
    for grant in (
        "GRANT SELECT ON resilient_schema TO clerk",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON resilient_claims TO clerk",
        "GRANT USAGE, SELECT, UPDATE ON SEQUENCE resilient_claims_fence TO clerk",
    ):
        postgres.ask(grant, url=postgres_url)
    store = connect(clerk).blocking
    assert store.complete(begin(store), b"result", ttl=60.0)
    store.close()


def test_it_is_counted_and_swept(url: str) -> None:
    store = connect(url).blocking
    for key in ("a", "b", "c"):
        assert store.complete(begin(store, key), b"", ttl=0.001)
    kept = begin(store, "kept")
    assert store.complete(kept, b"", ttl=60.0)
    store.close()
    shown = call("stats", url)
    assert (shown.exit_code, "records" in shown.output) == (0, True)
    swept = call("gc", "--batch", "1", url)
    assert (swept.exit_code, "records were removed" in swept.output) == (0, True)
    counted = json.loads(call("stats", "--json", url).output)
    assert (counted["records"], counted["done"], counted["forgotten"]) == (1, 1, 0)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("mysql://host/db", "known are"),
        ("memory://", "has no tables"),
        ("postgresql://127.0.0.1:1/orders", "postgresql://127.0.0.1:1/orders: "),
    ],
)
def test_what_cannot_be_done_is_said(url: str, why: str) -> None:
    refused = call("migrate", url)
    assert (refused.exit_code, why in refused.output) == (2, True)
