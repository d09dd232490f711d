"""The command line."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.core import TyperGroup

from resilient.cli.later import LATER


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60, check=False)


def test_the_demo_offers_what_there_is_to_choose():
    shown = run("-m", "resilient", "demo", "--help")
    assert shown.returncode == 0, shown.stderr
    for option in ("--rate", "--duration", "--seed", "--instances", "--out"):
        assert option in shown.stdout


def test_without_a_command_the_commands_are_listed():
    shown = run("-m", "resilient")
    assert "demo" in shown.stdout


@pytest.mark.parametrize(
    ("option", "told"), [("--rate=0", "rate=0.0"), ("--duration=1", "duration=1.0"), ("--instances=2", "instances=2")]
)
def test_settings_that_cannot_work_are_refused_before_anything_starts(option, told):
    refused = run("-m", "resilient", "demo", option)
    assert refused.returncode == 2
    assert told in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_report_that_could_not_be_written_is_refused_before_anything_starts(tmp_path):
    refused = run("-m", "resilient", "demo", f"--out={tmp_path}")
    assert refused.returncode == 2
    assert "is a directory" in " ".join(refused.stderr.replace("│", " ").split())


def with_a_missing(package: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line where one package is not installed."""
    code = f"import sys; sys.modules[{package!r}] = None; from resilient.cli import main; main()"
    return run("-c", code, *arguments)


@pytest.mark.parametrize(
    ("package", "extra"), [("typer", "cli"), ("rich", "cli"), ("starlette", "demo"), ("uvicorn", "demo")]
)
def test_what_is_not_installed_is_named_with_the_extra_that_brings_it(package, extra):
    refused = with_a_missing(package, "demo")
    assert refused.returncode == 1
    assert f"pip install 'resilient-mesh[{extra}]'" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_the_commands_are_listed_as_they_describe_themselves():
    for name, later in LATER.items():
        command = later.load()
        assert command.get_short_help_str(200) == later.help, name
        assert command.params or isinstance(command, TyperGroup), name


@pytest.mark.parametrize("arguments", [["--help"], ["discover", "--help"], ["discover", "static://10.0.0.1:80"]])
def test_what_needs_no_lab_loads_none(arguments):
    code = "import sys; from resilient.cli import main\ntry: main()\nfinally: print([*sys.modules], file=sys.stderr)"
    told = run("-c", code, *arguments)
    assert "resilient.cli.app" in told.stderr
    assert "10.0.0.1" in told.stdout or "discover" in told.stdout
    for module in ("resilient.lab", "resilient.http", "httpx", "matplotlib"):
        assert f"'{module}" not in told.stderr
    assert ("resilient.discovery'" in told.stderr) == (arguments != ["--help"])


@pytest.mark.parametrize("arguments", [["brew"], ["lab", "brew"]])
def test_a_command_that_there_is_not_is_refused(arguments):
    refused = run("-m", "resilient", *arguments)
    assert refused.returncode == 2
    assert "No such command 'brew'" in refused.stderr


def test_the_command_line_says_who_it_is():
    assert run("-m", "resilient", "--version").stdout.startswith("resilient")
