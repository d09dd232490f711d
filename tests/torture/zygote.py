"""A process that has everything imported, uses none of it, and forks a worker whenever it is asked to.

A worker is started in ten milliseconds instead of a second, so that thousands can be killed. The zygote runs no thread
and opens no store: nothing that a fork could tear. It reads one line of JSON a request, `{"role": ..., "config": ...}`,
answers `{"born": pid}`, and tells of every end, `{"died": pid, "code": ...}`. When its input ends, so do its children.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import select
import signal
import sys
import threading
import traceback
from typing import Any

from tests.torture import roles

TICK = 0.01
LATER = (
    "anyio._backends._asyncio",
    "anyio._backends._trio",
    "resilient.backends.postgres",
    "resilient.backends.redis",
    "uvicorn.lifespan.off",
    "uvicorn.loops.asyncio",
    "uvicorn.protocols.http.h11_impl",
)
"""What is otherwise imported when it is first used, by every worker anew."""


def main() -> None:
    for name in LATER:
        importlib.import_module(name)
    children: set[int] = set()
    waiting = b""
    try:
        while True:
            readable, _, _ = select.select([0], [], [], TICK)
            _report(children)
            if not readable:
                continue
            read = os.read(0, 65536)
            if not read:
                return
            *lines, waiting = (waiting + read).split(b"\n")
            for line in lines:
                pid = _fork(json.loads(line))
                children.add(pid)
                _say(born=pid)
    finally:
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _report(children: set[int]) -> None:
    while children:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        children.discard(pid)
        _say(died=pid, code=os.waitstatus_to_exitcode(status))


def _say(**fields: int) -> None:
    os.write(1, json.dumps(fields).encode() + b"\n")


def _fork(request: dict[str, Any]) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()
        logging.disable()  # what is logged here was done on purpose
        roles.ROLES[request["role"]](request["config"])
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _leave_with(parent: int) -> None:
    """Outlive nobody: whoever lost its zygote ends."""
    pause = threading.Event()
    while os.getppid() == parent:
        pause.wait(0.5)
    os._exit(4)


if __name__ == "__main__":
    main()
