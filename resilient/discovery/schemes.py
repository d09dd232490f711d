"""From a URL to what it names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from resilient.discovery.location import Location
from resilient.discovery.protocol import Discovery, Registration
from resilient.discovery.registration import EntryFactory, LeasedRegistration
from resilient.instance import Instance
from resilient.runtime import Runtime

__all__ = ["GROUP", "Scheme", "connect", "register"]

GROUP = "resilient.discovery"
"""The entry-point group of other packages' schemes: the name is the scheme, the object a `Scheme`."""

_BUILT_IN = {
    "dns": "resilient.discovery.dns:ADDRESSES",
    "dns+srv": "resilient.discovery.dns:SERVICES",
    "failover": "resilient.discovery.composite:FAILOVER",
    "consul": "resilient.discovery.consul:SCHEME",
    "consuls": "resilient.discovery.consul:SCHEME",
    "etcd": "resilient.discovery.etcd:SCHEME",
    "etcds": "resilient.discovery.etcd:SCHEME",
    "file": "resilient.discovery.file:SCHEME",
    "kubernetes": "resilient.discovery.kubernetes:SCHEME",
    "static": "resilient.discovery.static:SCHEME",
    "union": "resilient.discovery.composite:UNION",
    "zookeeper": "resilient.discovery.zookeeper:SCHEME",
}


@final
@dataclass(frozen=True, slots=True)
class Scheme:
    """What the URLs of one scheme lead to.

    Both functions raise `ValueError` for a URL that they do not understand. None of them connects: that is done when it
    is used.
    """

    connect: Callable[[Location, Runtime | None], Discovery]
    """Gets the runtime that was given to `connect`, or None for the ambient one."""
    register: Callable[[Location, Instance, float], EntryFactory] | None = None
    """Gets the instance and the time to live, and returns what makes its `Entry`, which is kept and withdrawn for it.
    None: one cannot register there."""


def connect(url: str, *, runtime: Runtime | None = None) -> Discovery:
    """Return the source of instances that `url` names.

    Known are `static://host:port,host:port`, `file:///instances.toml` (or `.json`), `file:///registry/` (a folder),
    `dns://host:port`, `dns+srv://_http._tcp.name`, `kubernetes://namespace/service:port`, `etcd://host:port/prefix`,
    `consul://host:port/service`, `zookeeper://host:port/path`, `failover://?name=URL&name=URL`,
    `union://?name=URL&name=URL`, and the schemes that other packages add through the entry-point group
    `resilient.discovery`. Options are query arguments. Nothing is opened before it is watched. `runtime` is the ambient
    one if it is not given.

    Raises `ValueError` for a URL that cannot be understood, and says what is allowed.
    """
    location = Location.parse(url)
    return _find(location).connect(location, runtime)


def register(
    url: str, instance: Instance, *, ttl: float = 10.0, sigterm: bool = True, runtime: Runtime | None = None
) -> Registration:
    """Make `instance` findable at `url` while a block runs: `async with` it, or `with` in plain code.

    The entry is leased: renewed every third of `ttl` seconds (10.0: a crash is noticed within that time, and two
    renewals may be lost), written again if it expired or somebody removed it, and withdrawn at the end of the block,
    also when it is cancelled. If the process dies it expires. The renewals run in the event loop on purpose: a process
    whose loop hangs is not fit to be called.

    SIGTERM ends a Python process without leaving any block. So, if the block is entered in the main thread and nothing
    else handles the signal, the entry is withdrawn first (for which the process waits 5 seconds at most), and then the
    signal ends the process as it would have. A server that handles SIGTERM leaves the block itself, and is left
    alone. `sigterm=False` never touches the signal.

    Raises `ValueError` for a URL that cannot be understood or registered at, and on entry `DiscoveryError` if the first
    write fails. Later trouble is logged and tried again: it never ends the block.
    """
    location = Location.parse(url)
    scheme = _find(location)
    if scheme.register is None:
        location.refuse(f"one cannot register at {location.scheme}://")
    if not 0.1 <= ttl <= 86_400.0:  # noqa: PLR2004 - named in the message
        raise ValueError(f"ttl={ttl!r}: a time to live is between 0.1 seconds and a day")
    enter = scheme.register(location, instance, ttl)
    return LeasedRegistration(location.shown, instance, enter, ttl=ttl, sigterm=sigterm, runtime=runtime)


def _find(location: Location) -> Scheme:
    from importlib.metadata import EntryPoint, entry_points

    name = location.scheme
    if name in _BUILT_IN:
        entry = EntryPoint(name, _BUILT_IN[name], GROUP)
    elif found := entry_points(group=GROUP, name=name):
        entry = next(iter(found))
    else:
        known = sorted({*_BUILT_IN, *entry_points(group=GROUP).names})
        location.refuse(f"no scheme {name!r}; known are {', '.join(known)}")
    scheme = entry.load()
    if not isinstance(scheme, Scheme):
        raise TypeError(f"the entry point {entry.value!r} of {GROUP}: expected a Scheme, got {scheme!r}")
    return scheme
