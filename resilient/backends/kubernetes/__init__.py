"""A client of Kubernetes' API server: lists, watches, single requests; configuration of a pod or from a kubeconfig."""

from __future__ import annotations

from resilient.backends.kubernetes.access import Access
from resilient.backends.kubernetes.api import Api, ApiFailed, Event
from resilient.backends.kubernetes.finding import find_access

__all__ = ["Access", "Api", "ApiFailed", "Event", "find_access"]
