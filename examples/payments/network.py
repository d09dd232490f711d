"""A network that takes its time with answers: room for whoever is killed between an effect and its answer."""

from __future__ import annotations

import random

import anyio

from resilient.asgi.types import ASGIApp, Message, Receive, Scope, Send


class SlowAnswers:
    """Keeps the answers of an application back for up to `longest` seconds, when everything is committed."""

    def __init__(self, app: ASGIApp, longest: float = 0.1) -> None:
        self.app = app
        self.longest = longest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""

        async def send_late(message: Message) -> None:
            if message["type"] == "http.response.start":
                await anyio.sleep(random.uniform(0.0, self.longest))
            await send(message)

        await self.app(scope, receive, send_late)
