"""Programs out of Debian's packages, unpacked into a cache and never installed: no daemon is started, no user made."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path


def cache() -> Path:
    """The folder with what was unpacked."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "resilient-tests"


def unpacked(name: str, *packages: str) -> Path:
    """The folder that these packages were unpacked into, which is done first where it is missing.

    It takes `apt-get download` and `dpkg`; an error says what to do where they fail.
    """
    folder = cache() / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another worker of the tests may be at it
        done = folder / ".unpacked"
        if not done.exists() or done.read_text() != " ".join(packages):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            _download(folder, packages)
            for package in folder.glob("*.deb"):
                run("dpkg", "-x", str(package), str(folder))
                package.unlink()
            done.write_text(" ".join(packages))
    return folder


def install(command: str, package: str) -> str:
    """The path of a command, whose package (one without a daemon) is installed where it is missing."""
    found = shutil.which(command)
    if found is None:
        run("apt-get", "update")
        run("apt-get", "install", "-y", "--no-install-recommends", package)
        found = shutil.which(command)
    assert found is not None, f"the package {package} has no command {command}"
    return found


def _download(folder: Path, packages: tuple[str, ...]) -> None:
    download = ("apt-get", "download", *packages)
    try:
        run(*download, folder=folder)
    except RuntimeError:
        run("apt-get", "update")  # the lists of what there is were never fetched, or are old
        run(*download, folder=folder)


def run(*command: str, folder: Path | None = None) -> None:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=folder)
    except FileNotFoundError:
        raise RuntimeError(f"no {command[0]} here: install by hand what the tests' servers come from") from None
    if done.returncode:
        raise RuntimeError(f"`{' '.join(command)}` failed: {done.stderr.strip()[-500:]}")
