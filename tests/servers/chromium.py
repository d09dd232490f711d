"""A real browser for the pages that the project makes: headless Chromium, driven over its DevTools pipe.

No driver and no package of its own is needed: the browser reads JSON commands from one pipe and writes answers and
events to another (`--remote-debugging-pipe`). `python -m tests.servers.chromium` installs it from Debian where it is
missing.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome")
INSTALL = (["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", "chromium"])
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--remote-debugging-pipe",
)
PATIENCE = 40.0


def executable() -> str:
    """The path of the browser, which is installed first where it is missing; an error says what to do if that fails."""
    lock = Path(tempfile.gettempdir()) / "resilient-tests-chromium.lock"
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # another worker of the tests may be installing it
        for name in NAMES:
            if (found := shutil.which(name)) is not None:
                return found
        for command in INSTALL:
            try:
                done = subprocess.run(command, check=False, capture_output=True, text=True)
            except FileNotFoundError:
                raise RuntimeError(f"no Chromium and no apt-get here: install one of {', '.join(NAMES)}") from None
            if done.returncode:
                raise RuntimeError(f"no Chromium, and `{' '.join(command)}` failed: {done.stderr.strip()[-500:]}")
    found = shutil.which("chromium")
    assert found is not None, "the package chromium has no such command"
    return found


class Chromium:
    """A browser with an empty profile: `with Chromium() as browser, browser.tab() as tab: ...`."""

    def __init__(self) -> None:
        self._profile = tempfile.TemporaryDirectory(prefix="resilient-chromium-", ignore_cleanup_errors=True)
        self._numbers = 0
        self._unread = b""
        self._waiting: deque[dict[str, Any]] = deque()
        path = executable()
        theirs_in, self._to = os.pipe()
        self._from, theirs_out = os.pipe()
        # Out of the way of 3 and 4, which are the ends that the browser expects.
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 20) for fd in (theirs_in, theirs_out)]
        self._log = Path(self._profile.name) / "log"
        self._process = os.posix_spawn(
            path,
            [path, *FLAGS, f"--user-data-dir={self._profile.name}", "about:blank"],
            os.environ,
            setpgroup=0,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_OPEN, 2, str(self._log), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
                (os.POSIX_SPAWN_DUP2, high[0], 3),
                (os.POSIX_SPAWN_DUP2, high[1], 4),
            ],
        )
        for fd in (theirs_in, theirs_out, *high):
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        os.killpg(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)
        os.close(self._to)
        os.close(self._from)
        self._profile.cleanup()

    @contextlib.contextmanager
    def tab(self, *, width: int = 1200, height: int = 900, dark: bool = False) -> Iterator[Tab]:
        """A new tab with a window of this size, in a light or a dark mood; a width below 500 is a telephone's."""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = Tab(self, session)
        for domain in ("Page", "Network", "Runtime", "Log"):
            tab.ask(f"{domain}.enable")
        tab.ask("Page.setLifecycleEventsEnabled", enabled=True)
        mobile = width < 500
        tab.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        tab.ask("Emulation.setEmulatedMedia", features=[scheme])
        try:
            yield tab
        finally:
            self.ask("Target.closeTarget", targetId=target)

    def ask(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Send a command and return its result; events that arrive meanwhile are kept."""
        self._numbers += 1
        number = self._numbers
        message = {"id": number, "method": method, "params": params}
        data = json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data) :]
        kept: list[dict[str, Any]] = []
        while (answer := self.next_message(f"the answer to {method}")).get("id") != number:
            kept.append(answer)
        self._waiting.extendleft(reversed(kept))
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        result: dict[str, Any] = answer["result"]
        return result

    def next_message(self, wanted: str) -> dict[str, Any]:
        """The next event or answer; fails if the browser leaves, or says nothing for long."""
        if self._waiting:
            return self._waiting.popleft()
        deadline = time.monotonic() + PATIENCE
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._from], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(self._from, 1 << 20) if ready else b""
            if not data:
                why = "left" if ready else f"said nothing for {PATIENCE:.0f} s"
                raise RuntimeError(f"Chromium {why} before {wanted}: {self._log.read_text()[-1000:]}")
            self._unread += data
        message, _, self._unread = self._unread.partition(b"\0")
        parsed: dict[str, Any] = json.loads(message)
        return parsed


def _is_loaded(event: dict[str, Any], loader: str) -> bool:
    """Is it there, and not the empty page before it?"""
    params = event.get("params", {})
    return event.get("method") == "Page.lifecycleEvent" and (params["name"], params["loaderId"]) == ("load", loader)


class Tab:
    """A page in the browser, and everything that it asked for and complained of."""

    def __init__(self, browser: Chromium, session: str) -> None:
        self._browser = browser
        self._session = session
        self.requests: list[str] = []
        self.complaints: list[str] = []

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command of the DevTools protocol."""
        return self._browser.ask(method, self._session, **params)

    def open(self, url: str) -> None:
        """Load a page and wait until it is there."""
        loader = self.ask("Page.navigate", url=url)["loaderId"]
        while not _is_loaded(event := self._browser.next_message("the page is loaded"), loader):
            self._note(event)
        # What it does right after it was loaded shows up before this answer.
        self.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))")
        while self._browser._waiting:
            self._note(self._browser.next_message("an event"))

    def _note(self, event: dict[str, Any]) -> None:
        match event:
            case {"method": "Network.requestWillBeSent", "params": {"request": {"url": url}}}:
                self.requests.append(url)
            case {"method": "Log.entryAdded", "params": {"entry": entry}}:
                self.complaints.append(entry["text"])
            case {"method": "Runtime.exceptionThrown" | "Runtime.consoleAPICalled", "params": params}:
                self.complaints.append(json.dumps(params))

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression (which a page that forbids scripts cannot forbid its tester)."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']['exception']['description']}")
        return answer["result"].get("value")

    def click(self, selector: str) -> None:
        """Press and release the mouse over the middle of an element."""
        found = f"document.querySelector({json.dumps(selector)})"
        self.evaluate(f"{found}.scrollIntoView({{block: 'nearest'}})")
        x, y = self.evaluate(f"(r => [r.x + r.width / 2, r.y + r.height / 2])({found}.getBoundingClientRect())")
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, path: str | os.PathLike[str], *, whole: bool = True) -> None:
        """Write what the tab shows, or the whole page, as PNG."""
        options: dict[str, Any] = {}
        if whole:
            root = "document.documentElement"
            width, height = self.evaluate(f"[{root}.clientWidth, {root}.scrollHeight]")
            clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
            options = {"captureBeyondViewport": True, "clip": clip}
        shot = self.ask("Page.captureScreenshot", **options)
        Path(path).write_bytes(base64.b64decode(shot["data"]))


if __name__ == "__main__":
    try:
        print(executable())
    except RuntimeError as error:
        sys.exit(str(error))
