"""Where the API server is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from resilient.backends.kubernetes.access import Access, read
from resilient.backends.kubernetes.kubeconfig import load_kubeconfig
from resilient.errors import DiscoveryError

__all__ = ["SERVICE_ACCOUNT", "find_access", "in_cluster"]

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds its token, the certificate authority of the API server, and its namespace."""


def find_access(
    kubeconfig: str | os.PathLike[str] | None = None,
    context: str | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    service_account: Path = SERVICE_ACCOUNT,
) -> Access:
    """Find the API server; blocking.

    A kubeconfig if it, or a context, is named; else, in a pod (`KUBERNETES_SERVICE_HOST` is set), the pod's service
    account; else the kubeconfig that `KUBECONFIG` names, or `~/.kube/config`.

    Raises `DiscoveryError`, with what is missing or not supported.
    """
    environment = os.environ if environment is None else environment
    if kubeconfig is None and context is None and environment.get("KUBERNETES_SERVICE_HOST"):
        return in_cluster(environment, service_account)
    if kubeconfig is None:
        kubeconfig = environment.get("KUBECONFIG") or Path("~/.kube/config").expanduser()
        if os.pathsep in str(kubeconfig):
            raise DiscoveryError(f"KUBECONFIG={kubeconfig} names several files; name one, with the option kubeconfig")
    return load_kubeconfig(Path(kubeconfig), context)


def in_cluster(environment: Mapping[str, str], folder: Path = SERVICE_ACCOUNT) -> Access:
    """Return what a pod's environment and its service account say."""
    host, port = environment.get("KUBERNETES_SERVICE_HOST", ""), environment.get("KUBERNETES_SERVICE_PORT") or "443"
    token_file = folder / "token"
    if not token_file.exists():
        raise DiscoveryError(
            f"{token_file} is missing: the pod needs a service account, and automountServiceAccountToken not off"
        )
    namespace = folder / "namespace"
    return Access(
        server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        namespace=read(namespace).decode("utf-8", "replace").strip() if namespace.exists() else "default",
        ca=read(folder / "ca.crt"),
        token_file=token_file,
    )
