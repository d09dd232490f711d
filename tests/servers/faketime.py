"""A clock that is wrong for a whole process: `python -m tests.servers.faketime` makes sure that there is one."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.servers.debian import unpacked


def library() -> Path:
    """The library to preload, out of Debian's package."""
    folder = unpacked("faketime", "libfaketime")
    return next(folder.glob("usr/lib/*/faketime/libfaketime.so.1"))


def shifted(seconds: int) -> dict[str, str]:
    """The environment of a process whose wall clock is off by so much. Its monotonic clock is right, as they are."""
    return {
        "LD_PRELOAD": str(library()),
        "FAKETIME": f"{seconds:+}",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }


if __name__ == "__main__":
    try:
        print(library())
    except RuntimeError as error:
        sys.exit(str(error))
