"""A fake API server of Kubernetes, for tests of whatever finds services in a cluster."""

from __future__ import annotations

from resilient.testing.kubernetes.objects import RESOURCES, Objects, Resource
from resilient.testing.kubernetes.requests import Seen
from resilient.testing.kubernetes.server import FakeApiServer

__all__ = ["RESOURCES", "FakeApiServer", "Objects", "Resource", "Seen"]
