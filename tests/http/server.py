"""A small ASGI server on a socket that it inherits: `python server.py FD`."""

from __future__ import annotations

import asyncio
import json
import sys

import uvicorn


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/drip":
        for _ in range(100):
            await send({"type": "http.response.body", "body": b".", "more_body": True})
            await asyncio.sleep(0.05)
    elif scope["path"] == "/slow":
        await send({"type": "http.response.body", "body": b"slow", "more_body": True})
        await asyncio.sleep(0.3)
        await send({"type": "http.response.body", "body": b"ly", "more_body": True})
    else:
        await asyncio.sleep(0.01)
        host = dict(scope["headers"])[b"host"].decode()
        answer = {"port": scope["server"][1], "client": scope["client"][1], "host": host}
        await send({"type": "http.response.body", "body": json.dumps(answer).encode(), "more_body": True})
    await send({"type": "http.response.body", "body": b""})


if __name__ == "__main__":
    uvicorn.run(app, fd=int(sys.argv[1]), log_level="critical", access_log=False)
