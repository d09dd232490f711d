"""From a URL to what it names."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from resilient.discovery import File, FileRegistry, Static, connect, register
from resilient.instance import Instance

A = Instance(id="a", host="a", port=1)


def test_each_scheme_leads_to_its_source() -> None:
    assert isinstance(connect("static://a:1"), Static)
    assert isinstance(connect("file:///etc/orders.toml"), File)
    assert isinstance(connect("file:///etc/orders.json"), File)
    assert isinstance(connect("file:///run/orders/"), FileRegistry)
    assert isinstance(connect("file://localhost/run/orders/"), FileRegistry)


def test_options_reach_the_source() -> None:
    found = connect("file:///my%20orders.toml?interval=2&on_empty=keep&grace=7")
    assert repr(found) == "File(path='/my orders.toml', interval=2.0, on_empty='keep', grace=7.0)"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("orders", "a discovery URL is scheme://"),
        ("nosuch://orders", "no scheme 'nosuch'; known are .*file, .*static"),
        ("file://", "file:///path/instances.toml, or file:///path/registry/"),
        ("file:///", "file:///path/instances.toml, or file:///path/registry/"),
        ("file://server/instances.toml", "a file is on this machine"),
        ("file:///instances.yaml", "named \\*.toml or \\*.json"),
        ("file:///registry", "the name of a folder ends with a slash"),
        ("file:///registry/?ttl=3", "unknown option 'ttl'; the options of file:// are interval, on_empty, grace"),
        ("file:///registry/?on_empty=panic", "on_empty=panic: one of keep, fail, grace"),
        ("file:///registry/?interval=0", "interval=0: a finite number"),
    ],
)
def test_a_bad_url_is_refused_with_what_is_allowed(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        connect(url)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("static://a:1", "one cannot register at static://"),
        ("file:///instances.toml", "one registers in a folder"),
        ("nosuch://orders", "no scheme 'nosuch'"),
    ],
)
def test_one_registers_only_where_that_is_possible(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        register(url, A)


@pytest.mark.parametrize("ttl", [0.0, 0.01, -1.0, 1e6, float("nan")])
def test_a_time_to_live_is_bounded(ttl: float) -> None:
    with pytest.raises(ValueError, match="a time to live is between"):
        register("file:///registry/", A, ttl=ttl)


def test_nothing_happens_before_it_is_used(tmp_path: Path) -> None:
    connect(f"file://{tmp_path}/registry/")
    assert "ttl=10.0" in repr(register(f"file://{tmp_path}/registry/", A))
    assert list(tmp_path.iterdir()) == []


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Make another package, with a scheme of its own."""
    (folder / "memory_discovery.py").write_text(code)
    metadata = folder / "memory_discovery-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: memory-discovery\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[resilient.discovery]\nmemory = memory_discovery:SCHEME\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "memory_discovery", raising=False)


def test_another_package_adds_a_scheme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
from resilient.discovery import Scheme, Static
from resilient.instance import Instance

def connect(location, runtime):
    location.allow("count")
    count = int(location.options.get("count", "1"))
    return Static(Instance(id=str(n), host=location.authority, port=80) for n in range(count))

SCHEME = Scheme(connect)
"""
    install(tmp_path, monkeypatch, code)
    assert repr(connect("memory://orders?count=2")).count("host='orders'") == 2
    assert "host='orders'" in repr(connect("failover://?first=memory://orders&second=static://a:1"))
    with pytest.raises(ValueError, match="one cannot register at memory://"):
        register("memory://orders", A)
    with pytest.raises(ValueError, match=r"known are .*file, .*memory, .*static"):
        connect("memroy://orders")


def test_another_package_has_a_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says how an entry is written, and nothing of when."""
    code = """
from resilient.discovery import Scheme, Static

DONE = []

class Entry:
    withdrawing = False

    def __init__(self, instance):
        self.instance = instance

    def create(self):
        DONE.append(f"create {self.instance.id}")

    def renew(self):
        DONE.append("renew")

    def withdraw(self):
        DONE.append("withdraw")

    abandon = withdraw

def enter(location, instance, ttl):
    location.allow()
    return lambda runtime: Entry(instance)

SCHEME = Scheme(lambda location, runtime: Static([]), enter)
"""
    install(tmp_path, monkeypatch, code)
    with register("memory://orders", A, ttl=0.1):
        import memory_discovery  # type: ignore[import-not-found] # installed a moment ago

        deadline = time.monotonic() + 30
        while "renew" not in memory_discovery.DONE:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert memory_discovery.DONE[0] == "create a"
    assert memory_discovery.DONE[-1] == "withdraw"


def test_what_is_no_scheme_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "SCHEME = 3\n")
    with pytest.raises(TypeError, match=r"'memory_discovery:SCHEME' of resilient\.discovery: expected a Scheme, got 3"):
        connect("memory://orders")
