"""Instances that are known beforehand."""

from __future__ import annotations

import anyio
import pytest

from resilient.discovery import Static, connect
from resilient.instance import Instance
from resilient.snapshot import Snapshot
from resilient.testing import virtual_time

A = Instance(id="a:1", host="a", port=1)


def only(discovery, backend: str) -> Snapshot:
    """The one snapshot that comes, and after it nothing."""

    async def main() -> Snapshot:
        found: list[Snapshot] = []
        with anyio.move_on_after(3600.0):
            async for snapshot in discovery.watch():
                found.append(snapshot)  # noqa: PERF401 - it never ends
        (only_one,) = found
        return only_one

    return virtual_time.run(main, backend=backend)


def test_it_yields_its_instances_once_and_waits_for_ever(backend: str) -> None:
    assert only(Static([A]), backend) == Snapshot(version=1, instances=(A,))


def test_each_watch_begins_with_the_present(backend: str) -> None:
    discovery = Static([A])
    assert only(discovery, backend) == only(discovery, backend)


def test_the_url_names_hosts_and_ports(backend: str) -> None:
    found = only(connect("static://a:1,[::1]:2"), backend)
    assert found.instances == (A, Instance(id="[::1]:2", host="::1", port=2))


def test_what_is_repeated_counts_once(backend: str) -> None:
    assert only(connect("static://a:1,a:1"), backend).instances == (A,)


def test_weights_and_zones_are_for_all_or_for_each(backend: str) -> None:
    found = only(connect("static://a:1,b:2?weight=3,0.5&zone=eu"), backend)
    assert [(one.weight, one.zone) for one in found.instances] == [(3.0, "eu"), (0.5, "eu")]


def test_no_instances_are_a_set_like_any_other(backend: str) -> None:
    assert only(Static([]), backend) == Snapshot(version=1, instances=())


def test_it_shows_what_it_holds() -> None:
    assert "'a:1'" in repr(Static([A]))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("static://", "is no host:port"),
        ("static://a", "is no host:port"),
        ("static://a:0", "port=0: "),
        ("static://a:1/path", "has no path"),
        ("static://a:1?weight=heavy", "could not convert"),
        ("static://a:1?weight=-1", "a weight is a finite number"),
        ("static://a:1,b:2,c:3?weight=1,2", "one value, or one for each of the 3 instances"),
        ("static://a:1,a:1?weight=1,2", "two instances with the id 'a:1'"),
        ("static://a:1?wieght=1", "unknown option 'wieght'; the options of static:// are weight, zone"),
    ],
)
def test_a_bad_url_is_refused_with_what_is_allowed(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        connect(url)
    assert str(caught.value).startswith(f"url={url!r}: ")
