"""Ask instances over HTTP how busy they are."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import final

from resilient.balancing.orca import HEADER, load_of
from resilient.http.connections import Connectivity
from resilient.http.package import Package
from resilient.instance import Instance
from resilient.machines.load import Load

__all__ = ["HttpProbes"]


@final
class HttpProbes:
    """Probes with a GET of a path, over connections of their own; a `balancing.Probe`.

    `like` says, before the first one, which scheme and package the calls have that they are for.
    """

    __slots__ = ("_connectivity", "_name", "_package", "_path", "_scheme")

    def __init__(self, name: str, path: str, connectivity: Connectivity) -> None:
        self._name = name
        self._path = path
        self._connectivity = connectivity
        self._scheme = "http"
        self._package: Package | None = None

    def like(self, scheme: str, package: Package) -> None:
        """Ask as calls are made."""
        self._scheme, self._package = scheme, package

    async def __call__(self, instance: Instance) -> Load:
        """Ask one; raise `LookupError` for an answer that does not say it."""
        package = self._package
        assert package is not None  # a probe follows a call
        if self._connectivity.retire_the_gone():
            while (transport := self._connectivity.take_idle()) is not None:
                await transport.aclose()
        connections = self._connectivity.to(instance, self._scheme, package)
        url = package.module.URL(f"{self._scheme}://{instance.address}{self._path}")
        request = package.Request("GET", url, headers={"Host": self._name}, extensions={"sni_hostname": self._name})
        response = await connections.transport.handle_async_request(request)
        try:
            await response.aread()
        finally:
            await response.aclose()
        load = load_of(response.headers) if response.is_success else None
        if load is None or load.in_flight is None:
            raise LookupError(
                f"GET {url} returned {response.status_code} without the header {HEADER}: TEXT named_metrics.rif=..."
            )
        return load

    async def aclose(self) -> None:
        """Close the connections."""
        async with AsyncExitStack() as stack:
            for transport in self._connectivity.take_all():
                stack.push_async_callback(transport.aclose)
