"""A Consul of the tests: the fake of `resilient.testing`, in a process of its own, so that it can be killed."""

from __future__ import annotations

import sys
from typing import Any

import httpx

from tests.servers.process import Server


class Consul(Server):
    """A fake agent. What was registered is lost when it ends, as with a real one that runs in `-dev` mode."""

    name = "consul"

    def command(self) -> list[str]:
        return [sys.executable, "-m", "resilient.testing.consul", self.address]

    def answers(self) -> bool:
        try:
            return httpx.get(f"http://{self.address}/v1/status/leader", timeout=1.0).status_code == 200
        except httpx.TransportError as error:
            raise OSError(str(error)) from error

    def services(self) -> dict[str, Any]:
        """What is registered, by id."""
        found: dict[str, Any] = httpx.get(f"http://{self.address}/v1/agent/services", timeout=10.0).json()
        return found

    def deregister(self, identity: str) -> None:
        httpx.put(f"http://{self.address}/v1/agent/service/deregister/{identity}", timeout=10.0).raise_for_status()
