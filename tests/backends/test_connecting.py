"""From a URL to a store."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from resilient.backends import connect
from resilient.backends.memory import MemoryStore
from resilient.backends.sqlite import SQLiteStore


def test_memory_is_a_new_store_each_time() -> None:
    assert isinstance(connect("memory://"), MemoryStore)
    assert connect("memory://") is not connect("memory://")
    assert repr(connect("memory://?max_records=7")) == "MemoryStore(max_records=7)"


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///orders.db", "orders.db"),
        ("sqlite:///data/orders.db", "data/orders.db"),
        ("sqlite:////var/lib/orders.db", "/var/lib/orders.db"),
        ("sqlite:///a%20b.db", "a b.db"),
        ("sqlite:///orders.db?busy_timeout=0.5&threads=2", "orders.db"),
    ],
)
def test_sqlite_takes_a_relative_or_an_absolute_path(url: str, path: str) -> None:
    assert repr(connect(url)) == f"SQLiteStore({str(Path(path).absolute())!r})"


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("postgresql://me:secret@db.internal/orders", "postgresql://db.internal/orders"),
        ("postgresql://db.internal:6432/orders?sslmode=require&pool_size=3", "postgresql://db.internal:6432/orders"),
        ("postgresql:///orders?host=/run/postgresql&migrate=false", "postgresql:///run/postgresql/orders"),
        ("postgresql://a:5432,b:5432/orders?target_session_attrs=read-write", "postgresql://a:5432,b:5432/orders"),
    ],
)
def test_postgresql_takes_what_libpq_takes_and_shows_no_password(url: str, name: str) -> None:
    assert repr(connect(url)) == f"PostgresStore({name!r})"


def test_nothing_is_opened_before_the_store_is_used(tmp_path: Path) -> None:
    SQLiteStore(tmp_path / "claims.db")
    connect(f"sqlite:///{tmp_path}/claims.db")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://host/db", "known are memory://, postgresql://, sqlite://"),
        ("claims.db", "known are"),
        ("memory://host", "neither host nor path"),
        ("sqlite://claims.db", "sqlite:///relative.db"),
        ("sqlite://", "sqlite:///relative.db"),
        ("sqlite:///:memory:", "memory://"),
        ("sqlite:///a.db?timeout=1", "no option 'timeout'"),
        ("sqlite:///a.db?threads=0", "threads=0"),
        ("sqlite:///a.db?busy_timeout=0", "busy_timeout=0"),
        ("sqlite:///a.db?busy_timeout=inf", "busy_timeout=inf"),
        ("sqlite:///a.db?busy_timeout=long", "busy_timeout='long': a number"),
        ("memory://?max_records=0", "max_records=0"),
        ("postgresql://host/db?pool_size=0", "pool_size=0"),
        ("postgresql://host/db?timeout=0", "timeout=0"),
        ("postgresql://host/db?timeout=1&lock_timeout=2", "lock_timeout=2"),
        ("postgresql://host/db?lock_timeout=0", "lock_timeout=0"),
        ("postgresql://host/db?migrate=yes", "migrate='yes': true or false"),
        ("postgresql://host/db?pool=5", 'invalid URI query parameter: "pool"'),
    ],
)
def test_a_url_that_names_no_store_is_refused_with_a_reason(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        connect(url)


def test_sqlite_is_loaded_only_by_those_who_use_it() -> None:
    program = "import sys, resilient.idempotency, resilient.asgi; print('sqlite3' in sys.modules)"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"
