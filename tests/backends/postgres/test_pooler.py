"""Behind a pooler that gives each transaction another session."""

from __future__ import annotations

import anyio
import pytest

from resilient.errors import InProgress
from tests.backends.postgres.orders import Orders
from tests.servers.pgbouncer import PgBouncer
from tests.servers.postgres import Postgres


@pytest.mark.parametrize("resumable", [False, True], ids=["one commit", "resumable"])
def test_a_pooler_of_transactions_is_not_noticed(
    postgres: Postgres, postgres_url: str, backend: str, resumable: bool
) -> None:
    async def main() -> None:
        with PgBouncer(postgres) as pooler:
            orders = Orders(postgres, postgres_url, through=pooler.port)
            take = orders.taker(resumable=resumable)
            refused = 0

            async def one(order: str) -> None:
                nonlocal refused
                try:
                    await take(order)
                except InProgress:
                    refused += 1

            names = [f"order {number}" for number in range(6)]
            async with anyio.create_task_group() as group:
                for name in names * 4:
                    group.start_soon(one, name)
            for name in names:
                await take(name)
            assert orders.runs == len(names)
            assert orders.all() == names
            await orders.store.close()

    anyio.run(main, backend=backend)
