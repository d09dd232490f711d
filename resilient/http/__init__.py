"""httpx and httpx2 clients through policies, and to the instances of a service."""

from __future__ import annotations

from resilient.http.classify import classify_http
from resilient.http.client import client, sync_client
from resilient.http.exchange import Delivery
from resilient.http.routes import Route
from resilient.http.transport import PipelineTransport, Transport

__all__ = ["Delivery", "PipelineTransport", "Route", "Transport", "classify_http", "client", "sync_client"]
