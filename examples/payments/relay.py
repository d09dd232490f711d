"""Sends what lies in the outbox to the bank: `python -m examples.payments.relay URL BANK`.

Start it as often as you like: relays share the work. `BANK` is the bank's address, `http://127.0.0.1:8001`.
"""

from __future__ import annotations

import sys

import anyio
import httpx

from resilient import Backoff, CircuitBreaker, Honoured, Pipeline
from resilient.http import PipelineTransport
from resilient.idempotency import Message, Outbox, Relay, format_key


async def main(url: str, bank: str) -> None:
    """Relay until Ctrl-C."""
    # While the bank is down the circuit is open: such attempts are not counted, and no message is parked for them.
    transport = PipelineTransport(Pipeline(Honoured(), CircuitBreaker(cooldown=0.2)), httpx.AsyncHTTPTransport())
    async with httpx.AsyncClient(base_url=bank, transport=transport) as client, Outbox(url) as outbox:

        async def deliver(message: Message) -> None:
            headers = {"Idempotency-Key": format_key(message.key), "Content-Type": "application/json"}
            response = await client.post("/bookings", content=message.payload, headers=headers)
            response.raise_for_status()

        relay = Relay(
            outbox,
            deliver,
            topics=["bookings"],
            lease=1.0,  # short, as the service's: so that this example is
            timeout=2.0,
            backoff=Backoff(base=0.05, cap=1.0),
            attempts=100,
            poll=0.05,
        )
        print("relaying", flush=True)
        await relay.run()


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[2])
