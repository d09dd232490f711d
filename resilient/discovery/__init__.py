"""Discovery: where the instances of a service are, and how one becomes findable.

`connect(url)` returns a source of snapshots, `register(url, instance)` an entry in a registry. Whoever writes a scheme
makes the snapshots with a `Reflector`, where the source can be listed and watched, or with `LastGood`.
"""

from __future__ import annotations

from resilient.backends.listwatch import Changes, Expired, Listing, Source, SourceFailed
from resilient.discovery.file import File, FileRegistry
from resilient.discovery.last_good import LastGood, OnEmpty
from resilient.discovery.location import Location
from resilient.discovery.polling import Offload, in_thread, inline
from resilient.discovery.protocol import Discovery, Registration
from resilient.discovery.reflector import Candidate, Reflector
from resilient.discovery.schemes import Scheme, connect, register
from resilient.discovery.static import Static

__all__ = [
    "Candidate",
    "Changes",
    "Discovery",
    "Expired",
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
    "connect",
    "in_thread",
    "inline",
    "register",
]
