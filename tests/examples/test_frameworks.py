"""The payments of `examples/frameworks/`, under uvicorn: the same questions to each framework."""

from __future__ import annotations

import importlib.util
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.asgi.serving import served

FRAMEWORKS = Path(__file__).parents[2] / "examples" / "frameworks"


@pytest.mark.parametrize("name", ["starlette", "fastapi", "litestar", "django"])
def test_a_payment_is_taken_once(tmp_path: Path, name: str) -> None:
    module = f"{name}_payments"
    spec = importlib.util.spec_from_file_location(module, FRAMEWORKS / f"{module}.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules[module] = example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    database = tmp_path / "payments.db"

    with served(example.make_app(str(database))) as url, httpx.Client(base_url=url) as client:

        def pay(key: str | None, cents: int, account: str = "alice") -> httpx.Response:
            headers = {"authorization": f"Bearer {account}"} | ({} if key is None else {"idempotency-key": f'"{key}"'})
            # uvicorn closes a connection after an exception, and a client that comes back too soon would run into that.
            return client.post("/payments", json={"cents": cents}, headers={**headers, "connection": "close"})

        first, retry = pay("1", 500), pay("1", 500)
        assert (first.status_code, first.json()) == (retry.status_code, retry.json()) == (201, {"number": 1})
        assert ("idempotency-replayed" in first.headers, retry.headers["idempotency-replayed"]) == (False, "true")
        assert pay("1", 5000).status_code == 422
        assert pay("1", 500, "bob").json() == {"number": 2}
        assert pay(None, 500).status_code == 400
        refusals = [pay("2", 0) for _ in range(2)]
        assert [response.status_code for response in refusals] == [402, 402]
        assert refusals[1].headers["idempotency-replayed"] == "true"
        bugs = [pay("3", 13) for _ in range(2)]
        assert [response.status_code for response in bugs] == [500, 500]
        assert "idempotency-replayed" not in bugs[1].headers
        assert client.get("/payments").status_code == 405
    with closing(sqlite3.connect(database)) as connection:
        payments = connection.execute("SELECT account, cents FROM payments ORDER BY id").fetchall()
    assert payments == [("alice", 500), ("bob", 500)]
