"""An ASGI server on a socket that it inherits, as well as a file says: `python server.py FD FILE`."""

from __future__ import annotations

import sys
from pathlib import Path

import uvicorn

STATUS = Path(sys.argv[2])


def health() -> int:
    return int(STATUS.read_text())


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    host = dict(scope["headers"])[b"host"].decode()
    status = health() if scope["path"] == "/health" else 200 if host == "orders" else 404
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b"well" * 100_000})


if __name__ == "__main__":
    uvicorn.run(app, fd=int(sys.argv[1]), log_level="critical", access_log=False)
