"""`resilient discover`."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from resilient.cli.app import app
from resilient.cli.instances import Look
from resilient.instance import Instance
from resilient.snapshot import Snapshot
from tests.servers.dnsmasq import free_port

ONE = '[[instances]]\nhost = "10.0.0.1"\nport = 80\n'
TWO = ONE + '[[instances]]\nid = "b"\nhost = "10.0.0.2"\nport = 80\nzone = "eu"\nmetadata = { version = "2" }\n'
COMMAND = [sys.executable, "-m", "resilient", "discover"]
PATIENCE = 40.0


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["discover", *arguments])


def test_the_instances_are_shown():
    done = run("static://a:1,b:2?weight=3,1")
    assert done.exit_code == 0
    head, columns, first, second = done.stdout.splitlines()
    assert head == "static://a:1,b:2?weight=3,1  2 instances, version 1"
    assert [line.split() for line in (columns, first, second)] == [["instance", "weight"], ["a:1", "3"], ["b:2", "1"]]


def test_a_program_gets_one_document_and_lines_that_are_not_folded(tmp_path):
    file = tmp_path / "instances.toml"
    file.write_text(TWO)
    done = run(f"file://{file}", "--json")
    document = json.loads(done.stdout)
    assert done.exit_code == 0
    assert (document["version"], document["stale_for"], document["trouble"]) == (1, None, None)
    assert document["instances"][1] == {
        "id": "b",
        "host": "10.0.0.2",
        "port": 80,
        "weight": 1.0,
        "zone": "eu",
        "metadata": {"version": "2"},
    }
    long = ",".join(f"{'x' * 30}{number}:80" for number in range(9))
    assert run(f"static://{long}").stdout.splitlines()[0].endswith("9 instances, version 1")


def test_that_there_are_none_is_an_answer_and_no_success(tmp_path):
    file = tmp_path / "instances.json"
    file.write_text("[]")
    done = run(f"file://{file}")
    assert done.exit_code == 1
    assert "no instances" in done.stdout


def test_no_answer_in_time_says_why(tmp_path):
    done = run(f"file://{tmp_path}/nosuch.toml", "--timeout", "1")
    assert done.exit_code == 1
    assert done.stdout == ""
    assert re.search(r"nosuch\.toml: no answer in 1 s: .*No such file", done.stderr)
    done = run(f"dns://orders.test:80?nameserver=127.0.0.1:{free_port()}", "--timeout", "1")
    assert re.search(r"no answer in 1 s: orders\.test\. A: 127\.0\.0\.1 port .*refused", done.stderr)
    assert run(f"file://{tmp_path}/nosuch.toml", "--watch", "--timeout", "0.2").exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["orders"], "a discovery URL is scheme://"),
        (["gopher://x"], "no scheme 'gopher'; known are consul"),
        (["dns://orders.test"], "is no host:port"),
        (["static://a:1", "--timeout", "0"], "--timeout 0: a finite number of seconds, more than 0"),
        (["static://a:1", "--timeout", "inf"], "--timeout inf: a finite number"),
    ],
)
def test_what_cannot_be_understood_is_refused(arguments, reason):
    done = run(*arguments)
    assert done.exit_code == 2
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


class Watching:
    """A command that runs until the test has seen enough; its output arrives in a terminal, or in a pipe."""

    def __init__(self, *arguments: str, terminal: bool = False) -> None:
        self.seen = ""
        self._reading, writing = pty.openpty() if terminal else os.pipe()
        environment = {**os.environ, "COLUMNS": "100", "LINES": "30", "TERM": "xterm"}
        self.process = subprocess.Popen([*COMMAND, *arguments], stdout=writing, env=environment)
        os.close(writing)

    def until(self, pattern: str) -> re.Match[str]:
        deadline = time.monotonic() + PATIENCE
        while (found := re.search(pattern, self.seen, re.DOTALL)) is None:
            ready, _, _ = select.select([self._reading], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(self._reading, 65536) if ready else b""
            assert data, f"{pattern} did not come: {self.seen}"
            self.seen += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", data.decode())  # without colours and movements
        self.seen = self.seen[found.end() :]
        return found

    def close(self) -> None:
        """Read no more."""
        os.close(self._reading)
        self._reading = -1

    def interrupt(self) -> int:
        """Press Ctrl-C; return how it ended."""
        self.process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # as a terminal says that nobody writes any more
            while os.read(self._reading, 65536):
                pass
        return self.process.wait(PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._reading >= 0:
            self.close()
        self.process.kill()
        self.process.wait()


def replace(file: Path, content: str) -> None:
    temporary = file.with_suffix(".new")
    temporary.write_text(content)
    temporary.replace(file)


def test_in_a_terminal_changes_are_marked_and_staleness_too(tmp_path):
    file = tmp_path / "instances.toml"
    file.write_text(ONE)
    with Watching(f"file://{file}?interval=0.05", "--watch", terminal=True) as watching:
        watching.until(r"1 instance.*10\.0\.0\.1:80")
        replace(file, TWO)
        watching.until(r"2 instances.*\+ +b +10\.0\.0\.2:80 +1 +eu +version=2")
        replace(file, TWO.replace("eu", "us"))
        watching.until("~ +b .* us ")
        replace(file, ONE)
        watching.until(r"1 instance.*- +b +10\.0\.0\.2:80")
        file.unlink()
        watching.until("stale for [0-9]+ s: .*No such file")
        assert watching.interrupt() == 130


def test_in_a_pipe_changes_are_lines(tmp_path):
    file = tmp_path / "instances.toml"
    with Watching(f"file://{file}?interval=0.05", "--watch") as watching:
        file.write_text(ONE)
        watching.until(r"\d\d:\d\d:\d\d  1 instance, version 1\n  10\.0\.0\.1:80 weight=1\n")
        replace(file, TWO.replace("port = 80\n", "port = 80\nweight = 2\n", 1))
        changed = r"~ 10\.0\.0\.1:80 weight=2\n\+ b at 10\.0\.0\.2:80 weight=1 zone=eu version=2\n"
        watching.until(rf"2 instances, version 2\n{changed}")
        replace(file, ONE)
        watching.until(r"~ 10\.0\.0\.1:80 weight=1\n- b at")
        assert watching.interrupt() == 130


def test_a_program_gets_a_document_a_line_and_may_leave(tmp_path):
    file = tmp_path / "instances.toml"
    file.write_text(ONE)
    with Watching(f"file://{file}?interval=0.05", "--watch", "--json") as watching:
        assert json.loads(watching.until(r"\{.*\}\n")[0])["version"] == 1
        file.unlink()
        stale = json.loads(watching.until(r"\{.*\}\n")[0])
        assert stale["stale_for"] > 0
        assert "No such file" in stale["trouble"]
        watching.close()
        replace(file, TWO)
        assert watching.process.wait(PATIENCE) == 0


def test_a_change_is_marked_for_a_moment_and_what_is_gone_goes():
    look = Look("x://", 0.0)
    a, b = (Instance(id=name, host=name, port=80) for name in "ab")

    def shown(now: float) -> list[str]:
        console = Console(width=60)
        with console.capture() as capture:
            console.print(look.view(now))
        return [line.rstrip() for line in capture.get().splitlines()]

    assert shown(3.0) == ["x://  no answer for 3 s"]
    look.trouble = lambda: "silence"
    assert shown(3.0) == ["x://  no answer for 3 s: silence"]
    look.trouble = lambda: None
    look.learn(Snapshot(version=1, instances=(a, b)), 4.0)
    assert [line[:1] for line in shown(4.0)[2:]] == [" ", " "]
    look.learn(Snapshot(version=2, instances=(b,)), 5.0)
    assert shown(14.9)[2].split() == ["-", "a", "a:80", "1"]
    assert [line.split() for line in shown(15.0)[2:]] == [["b", "b:80", "1"]]
    look.learn(Snapshot(version=3, instances=(), stale_since=10.0), 20.0)
    assert shown(31.0) == ["x://  no instances, version 3, stale for 21 s"]
