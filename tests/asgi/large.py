"""A body of any size goes through a server under a key, and the server's memory stays what it was.

python -m tests.asgi.large --mib 1024     # the long run
"""

from __future__ import annotations

import argparse
import hashlib
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]
MIB = 1_048_576
PATIENCE = 30.0

SERVER = """
import hashlib, sys
import uvicorn
from resilient.asgi import IdempotencyMiddleware

runs = 0

async def app(scope, receive, send):
    global runs
    runs += 1
    digest, more = hashlib.sha256(), True
    while more:
        message = await receive()
        digest.update(message["body"])
        more = message["more_body"]
    await send({"type": "http.response.start", "status": 201, "headers": [(b"x-runs", b"%d" % runs)]})
    await send({"type": "http.response.body", "body": digest.hexdigest().encode()})

app = IdempotencyMiddleware(app, "sqlite:///" + sys.argv[2], max_request=4 << 30)
uvicorn.run(app, fd=int(sys.argv[1]), log_level="critical", lifespan="off")
"""


@dataclass(frozen=True)
class Passage:
    """What became of one body, sent twice and then changed."""

    mib: int
    intact: bool
    """The application read what was sent, and the retry was a replay."""
    changed_is_refused: bool
    runs: int
    grown: float
    """MiB by which the server's peak of memory grew, from after a small request to the end."""
    seconds: float


def content(mib: int, last: bytes = b"") -> Iterator[bytes]:
    block = bytes(range(256)) * (MIB // 256)
    for number in range(mib):
        head = number.to_bytes(8, "big")
        yield head + block[8 : MIB - len(last)] + last if number == mib - 1 else head + block[8:]


def peak_of(process: int) -> float:
    """The most memory that a process ever had, in MiB."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    assert found
    return int(found[1]) / 1024


def pass_through(folder: Path, mib: int) -> Passage:
    """Send a body of `mib` MiB to a server of its own."""
    began = time.monotonic()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        command = [sys.executable, "-c", SERVER, str(listener.fileno()), str(folder / "claims.db")]
        process = subprocess.Popen(command, cwd=ROOT, pass_fds=[listener.fileno()])
    try:
        with httpx.Client(base_url=url, timeout=PATIENCE + mib) as client:

            def send(key: str, body: Iterator[bytes]) -> httpx.Response:
                return client.post("/", content=body, headers={"idempotency-key": key})

            assert send("warm-up", content(4)).status_code == 201
            before = peak_of(process.pid)
            first, retry = send("large", content(mib)), send("large", content(mib))
            changed = send("large", content(mib, last=b"?"))
            grown = peak_of(process.pid) - before
    finally:
        process.terminate()
        process.wait(PATIENCE)
    digest = hashlib.sha256()
    for block in content(mib):
        digest.update(block)
    return Passage(
        mib=mib,
        intact=first.text == retry.text == digest.hexdigest() and "idempotency-replayed" in retry.headers,
        changed_is_refused=changed.status_code == 422,
        runs=int(first.headers["x-runs"]) - 1,
        grown=grown,
        seconds=time.monotonic() - began,
    )


def main() -> int:
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=1024)
    with tempfile.TemporaryDirectory() as folder:
        passage = pass_through(Path(folder), parser.parse_args().mib)
    print(passage)
    return 0 if passage.intact and passage.changed_is_refused and passage.runs == 1 and passage.grown < 16 else 1


if __name__ == "__main__":
    sys.exit(main())
