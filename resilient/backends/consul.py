"""What is said to Consul over its HTTP API, and what its answers mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast, final
from urllib.parse import quote

from resilient.backends.conversation import Conversation, Endpoints, Reply, in_turn, refused
from resilient.backends.listwatch import SourceFailed

__all__ = ["Answer", "Consul"]

_OK, _NOT_FOUND = 200, 404


@final
@dataclass(frozen=True, slots=True)
class Answer:
    """The instances of a service, and the index to wait on from here; 0: this server tells none."""

    index: int
    instances: tuple[Mapping[str, Any], ...]


@final
class Consul:
    """Conversations with the agents of one cluster.

    `max_stale` allows the answers of servers that are not the leader: they may be out of date, but no more than by so
    many seconds since they last heard from it. None: the leader answers.
    """

    def __init__(self, endpoints: Endpoints, *, datacenter: str | None = None, max_stale: float | None = None) -> None:
        self.endpoints = endpoints
        self._datacenter = datacenter
        self._max_stale = max_stale

    def health(
        self, service: str, *, tags: Sequence[str], passing: bool, index: int = 0, wait: float = 0.0
    ) -> Conversation[Answer]:
        """Ask for the instances of a service: at once, or with an `index` once it changes or `wait` seconds passed."""
        params = [("tag", tag) for tag in tags]
        if passing:
            params.append(("passing", "1"))
        if self._datacenter is not None:
            params.append(("dc", self._datacenter))
        if self._max_stale is not None:
            params.append(("stale", ""))
        if index > 0:
            params += [("index", str(index)), ("wait", f"{max(1, round(wait * 1000))}ms")]
        reply = yield from in_turn(
            self.endpoints, "GET", f"/v1/health/service/{quote(service, safe='')}", params=params
        )
        if reply.status != _OK:
            raise refused(reply, f"{service} was not told")
        self._check_leader(reply)
        found = reply.document()
        if not isinstance(found, list):
            raise SourceFailed(f"an answer that is no list: {reply.text!r}")
        told = reply.headers.get("X-Consul-Index", "")
        return Answer(int(told) if told.isdecimal() else 0, tuple(cast("list[Mapping[str, Any]]", found)))

    def _check_leader(self, reply: Reply) -> None:
        """A server without a leader tells what it knew last, which may be nothing."""
        if reply.headers.get("X-Consul-KnownLeader", "true") == "false":
            self.endpoints.turn()
            raise SourceFailed("the server knows no leader")
        contact = reply.headers.get("X-Consul-LastContact", "0")
        if self._max_stale is not None and contact.isdecimal() and int(contact) > self._max_stale * 1000:
            self.endpoints.turn()
            raise SourceFailed(f"the server last heard from its leader {contact} ms ago")

    # The agent

    def register(self, definition: Mapping[str, Any]) -> Conversation[None]:
        """Register a service at the agent, over one of the same id."""
        reply = yield from in_turn(
            self.endpoints,
            "PUT",
            "/v1/agent/service/register",
            params=[("replace-existing-checks", "true")],
            document=definition,
        )
        if reply.status != _OK:
            raise refused(reply, "the registration was refused")

    def service(self, identity: str) -> Conversation[dict[str, Any] | None]:
        """Return what the agent knows of a service of its own; None: nothing."""
        reply = yield from in_turn(self.endpoints, "GET", f"/v1/agent/service/{quote(identity, safe='')}")
        if reply.status == _NOT_FOUND:
            return None
        if reply.status != _OK:
            raise refused(reply, f"{identity} was not told")
        return reply.table()

    def pass_check(self, check: str) -> Conversation[bool]:
        """Say that all is well; False: the agent knows no such check."""
        reply = yield from in_turn(self.endpoints, "PUT", f"/v1/agent/check/pass/{quote(check, safe='')}")
        if reply.status == _OK:
            return True
        if "nknown check" in reply.text or "does not have associated TTL" in reply.text:
            return False
        raise refused(reply, f"{check} was refused")

    def deregister(self, identity: str) -> Conversation[None]:
        """Remove a service from the agent. One that is gone already is fine."""
        reply = yield from in_turn(self.endpoints, "PUT", f"/v1/agent/service/deregister/{quote(identity, safe='')}")
        if reply.status not in {_OK, _NOT_FOUND} and "nknown service" not in reply.text:
            raise refused(reply, f"{identity} was not withdrawn")
