"""Discovery: where the instances of a service are, and how one becomes findable.

`connect(url)` returns a source of snapshots, `register(url, instance)` an entry in a registry. Whoever writes a scheme
makes the snapshots with a `Reflector`, where the source can be listed and watched, or with `LastGood`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from resilient.backends.listwatch import Changes, Expired, Listing, Source, SourceFailed
from resilient.discovery.composite import Failover, Union
from resilient.discovery.file import File, FileRegistry
from resilient.discovery.last_good import LastGood, OnEmpty
from resilient.discovery.location import Location
from resilient.discovery.polling import Offload, in_thread, inline
from resilient.discovery.protocol import Discovery, Registration
from resilient.discovery.reflector import Candidate, Reflector
from resilient.discovery.registration import Entry, EntryFactory
from resilient.discovery.schemes import Scheme, connect, register
from resilient.discovery.static import Static

if TYPE_CHECKING:
    from resilient.discovery.dns import Dns, DnsSrv, Family

__all__ = [
    "Candidate",
    "Changes",
    "Discovery",
    "Dns",
    "DnsSrv",
    "Entry",
    "EntryFactory",
    "Expired",
    "Failover",
    "Family",
    "File",
    "FileRegistry",
    "LastGood",
    "Listing",
    "Location",
    "Offload",
    "OnEmpty",
    "Reflector",
    "Registration",
    "Scheme",
    "Source",
    "SourceFailed",
    "Static",
    "Union",
    "connect",
    "in_thread",
    "inline",
    "register",
]

_HOMES = {"Dns": "dns", "DnsSrv": "dns", "Family": "dns"}
"""What needs packages that are not always there, and the modules in which it is."""

if not TYPE_CHECKING:  # a checker would take any misspelt name for an Any

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        return value
