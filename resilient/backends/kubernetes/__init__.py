"""A client of Kubernetes' API server: lists, watches, single requests; configuration of a pod or from a kubeconfig."""

from __future__ import annotations

from resilient.backends.kubernetes.access import Access, find_access
from resilient.backends.kubernetes.api import Api, ApiFailed, Event

__all__ = ["Access", "Api", "ApiFailed", "Event", "find_access"]
