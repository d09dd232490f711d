"""What type checkers know of a function whose instance the service chooses. Checked, never run."""
# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import assert_type

from resilient import Instance, Service, Timeout, default_policies

orders = Service("orders", "static://127.0.0.1:8000", policies=[*default_policies(), Timeout(1.0)])


@orders
async def quote(instance: Instance, sku: str, *, count: int = 1) -> float:
    return 1.0


@orders
async def tokens(instance: Instance, text: str) -> AsyncIterator[str]:
    yield text


@orders
async def echo(instance: Instance, text: str) -> AsyncGenerator[str, int]:
    yield text


@orders
def quote_now(instance: Instance, sku: str) -> float:
    return 1.0


class Client:
    @orders.method
    async def get(self, instance: Instance, key: int) -> str:
        return ""

    @orders.method
    async def watch(self, instance: Instance, key: int) -> AsyncIterator[str]:
        yield ""

    @orders.method
    def get_now(self, instance: Instance, key: int) -> str:
        return ""


async def calls(client: Client) -> None:
    assert_type(await quote("a", count=2), float)
    assert_type(tokens("a"), AsyncGenerator[str, None])
    assert_type(echo("a"), AsyncGenerator[str, int])
    assert_type(quote_now("a"), float)
    assert_type(await client.get(1), str)
    assert_type(client.get_now(1), str)
    async for value in client.watch(1):
        assert_type(value, str)
    await quote(1)  # type: ignore[arg-type]
    await quote(Instance(id="a", host="a", port=1), "a")  # type: ignore[call-arg, arg-type]
    await client.get("a")  # type: ignore[arg-type]


@orders  # type: ignore[arg-type]
async def without_an_instance(sku: str) -> float:
    return 1.0


@orders  # type: ignore[arg-type]
async def with_the_instance_by_name(*, instance: Instance, sku: str) -> float:
    return 1.0


async def of_a_client(client: Client, instance: Instance, key: int) -> str:
    return ""


orders(of_a_client)  # type: ignore[arg-type]  # a method wants orders.method
