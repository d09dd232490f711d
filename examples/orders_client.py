"""Orders something, again and again, whatever happens: `python examples/orders_client.py FOLDER [COUNT]`.

See `orders_service.py` for the other side.
"""

from __future__ import annotations

import sys
from pathlib import Path

import anyio

import resilient
from resilient import Honoured, Service
from resilient.http import client


async def main(folder: Path, count: int) -> None:
    """Place `count` orders, four a second, and show who took them."""
    orders = Service("orders", f"file://{folder}/registry/", idempotency=Honoured())
    async with orders, client(orders) as http:
        await orders.ready()
        for number in range(count):
            try:
                response = await http.post("/orders", json={"sku": f"A-{number}"})
                print(response.json(), f"after {response.extensions['resilient'].attempt} attempts")
            except (resilient.ResilienceError, OSError) as error:
                print(f"order {number} failed: {error}")
            await anyio.sleep(0.25)
        print(orders.explain())


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]).absolute(), int(sys.argv[2]) if len(sys.argv) > 2 else 20)
