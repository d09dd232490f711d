"""Discovery: where the instances of a service are, and how one becomes findable.

`connect(url)` returns a source of snapshots, `register(url, instance)` an entry in a registry.
"""

from __future__ import annotations

from resilient.discovery.file import File, FileRegistry
from resilient.discovery.last_good import LastGood, OnEmpty
from resilient.discovery.location import Location
from resilient.discovery.polling import Offload, in_thread, inline
from resilient.discovery.protocol import Discovery, Registration
from resilient.discovery.schemes import Scheme, connect, register
from resilient.discovery.static import Static

__all__ = [
    "Discovery",
    "File",
    "FileRegistry",
    "LastGood",
    "Location",
    "Offload",
    "OnEmpty",
    "Registration",
    "Scheme",
    "Static",
    "connect",
    "in_thread",
    "inline",
    "register",
]
