"""What the fake Consul knows: services, checks, sessions and keys. No I/O, no clock: time is an argument."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast, final

from resilient.testing._consul_kv import Keys

__all__ = ["Catalog", "Refusal", "duration"]

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d*)?(?:ns|us|µs|ms|s|m|h))+")
_PART = re.compile(r"(\d+(?:\.\d*)?)(ns|us|µs|ms|s|m|h)")

_SERVICE_FIELDS = {
    "ID": str,
    "Name": str,
    "Address": str,
    "Port": int,
    "Tags": list,
    "Meta": dict,
    "Weights": dict,
    "Check": dict,
    "Checks": list,
}
_CHECK_FIELDS = {
    "CheckID": str,
    "Name": str,
    "TTL": str,
    "Status": str,
    "Notes": str,
    "DeregisterCriticalServiceAfter": str,
}
_SESSION_FIELDS = {"Name": str, "TTL": str, "Behavior": str, "LockDelay": str, "Node": str, "Checks": list}
_STATES = ("passing", "warning", "critical")
_SESSION_TTL = (10.0, 86_400.0)
_LOCK_DELAY = 15.0
_UUID = 36


class Refusal(Exception):
    """An answer that is not 200."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def duration(text: str) -> float:
    """Read a duration as Go writes it: 10s, 1m30s, 500ms."""
    if text == "0":
        return 0.0
    if not _DURATION.fullmatch(text):
        raise Refusal(400, f"invalid duration {text!r}: as in 10s, 1m30s or 500ms, with its unit")
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))


@final
@dataclass(slots=True)
class _Check:
    id: str
    name: str
    status: str
    ttl: float
    deregister_after: float | None
    expires: float
    output: str = ""
    critical_since: float | None = None


@final
@dataclass(slots=True)
class _Service:
    id: str
    name: str
    address: str
    port: int
    tags: list[str]
    meta: dict[str, str]
    weights: dict[str, int]
    created: int
    modified: int
    checks: dict[str, _Check] = field(default_factory=dict[str, _Check])


@final
@dataclass(slots=True)
class _Session:
    id: str
    fields: dict[str, Any]
    ttl: float | None
    delay: float
    expires: float
    created: int


@final
class Catalog:
    """The services of one agent, which is the only one of its datacenter."""

    def __init__(
        self, *, node: str, node_address: str, datacenter: str, index: int, shortest_deregistration: float
    ) -> None:
        self.node = node
        self.node_address = node_address
        self.datacenter = datacenter
        self.index = index
        self._shortest_deregistration = shortest_deregistration
        self._node_id = str(uuid.uuid5(uuid.NAMESPACE_DNS, node))
        self._services: dict[str, _Service] = {}
        self._changed: dict[str, int] = {}
        self._sessions: dict[str, _Session] = {}
        self.keys = Keys(self._advance, index)

    def _advance(self) -> int:
        self.index += 1
        return self.index

    # Services

    def register(self, body: Mapping[str, Any], now: float) -> None:
        """Take a service in, or replace it. Checks that it had keep their state."""
        known = _fields("service", body, _SERVICE_FIELDS)
        name = known.get("Name") or ""
        if not name:
            raise Refusal(400, "Missing service name")
        identity = known.get("ID") or name
        old = self._services.get(identity)
        service = _Service(
            id=identity,
            name=name,
            address=known.get("Address", ""),
            port=known.get("Port", 0),
            tags=_strings("Tags", known.get("Tags") or []),
            meta=_table("Meta", known.get("Meta") or {}),
            weights=_weights(known.get("Weights") or {"Passing": 1, "Warning": 1}),
            created=self.index + 1 if old is None else old.created,
            modified=self.index + 1,
        )
        bodies = [known["Check"]] if known.get("Check") else list(known.get("Checks") or ())
        for number, each in enumerate(bodies, 1):
            suffix = "" if len(bodies) == 1 else f":{number}"
            check = self._check(each, f"service:{identity}{suffix}", name, now)
            before = None if old is None else old.checks.get(check.id)
            if before is not None:
                check.status, check.expires, check.critical_since = before.status, before.expires, before.critical_since
            service.checks[check.id] = check
        self._services[identity] = service
        self._touch(service)
        if old is not None and old.name != name:
            self._touch(old)

    def _check(self, body: Mapping[str, Any], default_id: str, service: str, now: float) -> _Check:
        known = _fields("check", body, _CHECK_FIELDS)
        if "TTL" not in known:
            raise Refusal(400, "TTL must be specified: the fake knows no other kind of check")
        ttl = duration(known["TTL"])
        if ttl <= 0:
            raise Refusal(400, "TTL must be > 0 for TTL checks")
        status = known.get("Status") or "critical"  # as a real one: a fresh check has yet to pass
        if status not in _STATES:
            raise Refusal(400, f"Status {status!r}: one of {', '.join(_STATES)}")
        after = known.get("DeregisterCriticalServiceAfter")
        return _Check(
            id=known.get("CheckID") or default_id,
            name=known.get("Name") or f"Service '{service}' check",
            status=status,
            ttl=ttl,
            deregister_after=None if not after else max(duration(after), self._shortest_deregistration),
            expires=now + ttl,
            critical_since=now if status == "critical" else None,
        )

    def deregister(self, identity: str) -> None:
        """Forget a service; one that there is not is forgotten already."""
        service = self._services.pop(identity, None)
        if service is not None:
            self._touch(service)

    def update_check(self, check_id: str, status: str, output: str, now: float) -> None:
        """Let a check pass, warn or fail."""
        for service in self._services.values():
            check = service.checks.get(check_id)
            if check is not None:
                self._set(service, check, status, output, now)
                check.expires = now + check.ttl
                return
        raise Refusal(500, f'CheckID "{check_id}" does not have associated TTL')

    def _set(self, service: _Service, check: _Check, status: str, output: str, now: float) -> None:
        if status != "critical":
            check.critical_since = None
        elif check.status != "critical":
            check.critical_since = now
        if (check.status, check.output) != (status, output):
            check.status, check.output = status, output
            self._touch(service)

    def _touch(self, service: _Service) -> None:
        self.index += 1
        service.modified = self.index
        self._changed[service.name] = self.index

    def agent_service(self, identity: str) -> dict[str, Any]:
        """What the agent says of one of its services."""
        service = self._services.get(identity)
        if service is None:
            raise Refusal(404, f"unknown service ID: {identity}")
        return self._service(service) | {"Datacenter": self.datacenter}

    def agent_services(self) -> dict[str, Any]:
        """All services of the agent, by id."""
        return {identity: self._service(service) for identity, service in self._services.items()}

    def services(self) -> dict[str, list[str]]:
        """All names, with their tags."""
        found: dict[str, set[str]] = {"consul": set()}
        for service in self._services.values():
            found.setdefault(service.name, set()).update(service.tags)
        return {name: sorted(tags) for name, tags in found.items()}

    def index_of(self, name: str) -> int:
        """The index of the last change of a service. One that is not there changes with every other. Never 0."""
        if any(service.name == name for service in self._services.values()):
            return self._changed[name]
        return max(1, self.index)

    def health(self, name: str, *, tags: Iterable[str], passing: bool) -> list[dict[str, Any]]:
        """The instances of a service with their checks."""
        wanted = set(tags)
        return [
            {"Node": self._node(), "Service": self._service(service), "Checks": checks}
            for service in self._services.values()
            if service.name == name and wanted <= set(service.tags)
            for checks in [self._checks(service)]
            if not passing or all(check["Status"] == "passing" for check in checks)
        ]

    def _node(self) -> dict[str, Any]:
        return {
            "ID": self._node_id,
            "Node": self.node,
            "Address": self.node_address,
            "Datacenter": self.datacenter,
            "TaggedAddresses": {"lan": self.node_address, "wan": self.node_address},
            "Meta": {},
            "CreateIndex": 1,
            "ModifyIndex": 1,
        }

    def _service(self, service: _Service) -> dict[str, Any]:
        return {
            "ID": service.id,
            "Service": service.name,
            "Tags": service.tags,
            "Address": service.address,
            "Meta": service.meta,
            "Port": service.port,
            "Weights": service.weights,
            "EnableTagOverride": False,
            "CreateIndex": service.created,
            "ModifyIndex": service.modified,
        }

    def _checks(self, service: _Service) -> list[dict[str, Any]]:
        common = {"Node": self.node, "Notes": "", "CreateIndex": service.created, "ModifyIndex": service.modified}
        node = {"CheckID": "serfHealth", "Name": "Serf Health Status", "Status": "passing", "Output": "", "Type": ""}
        return [
            common | node | {"ServiceID": "", "ServiceName": "", "ServiceTags": []},
            *(
                common
                | {"CheckID": check.id, "Name": check.name, "Status": check.status, "Output": check.output}
                | {"ServiceID": service.id, "ServiceName": service.name, "ServiceTags": service.tags, "Type": "ttl"}
                for check in service.checks.values()
            ),
        ]

    # Sessions

    def create_session(self, body: Mapping[str, Any], now: float) -> str:
        """Begin a session, with or without a time to live."""
        known = _fields("session", body, _SESSION_FIELDS)
        try:
            ttl = duration(known.get("TTL", "")) if known.get("TTL") else 0.0
            delay = duration(known["LockDelay"]) if known.get("LockDelay") else _LOCK_DELAY
        except Refusal as refusal:
            raise Refusal(500, f"Session TTL or LockDelay: {refusal}") from None
        if ttl and not _SESSION_TTL[0] <= ttl <= _SESSION_TTL[1]:
            raise Refusal(500, f"Invalid Session TTL '{ttl * 1e9:.0f}', must be between [10s=24h0m0s]")
        if known.get("Behavior", "release") not in {"release", "delete"}:
            raise Refusal(500, f"Invalid Behavior setting '{known['Behavior']}'")
        self._advance()
        session = _Session(str(uuid.uuid4()), known, ttl or None, delay, now + _grace(ttl or None), self.index)
        self._sessions[session.id] = session
        return session.id

    def has_session(self, identity: str) -> bool:
        """Whether it is going on; what cannot be the id of one is refused."""
        if len(identity) != _UUID:
            raise Refusal(500, f"failed session lookup: index error: UUID must be {_UUID} characters")
        return identity in self._sessions

    def renew_session(self, identity: str, now: float) -> list[dict[str, Any]]:
        """Prolong a session."""
        self.has_session(identity)
        session = self._sessions.get(identity)
        if session is None:
            raise Refusal(404, f"Session id '{identity}' not found")
        session.expires = now + _grace(session.ttl)
        return self.session(identity)

    def destroy_session(self, identity: str, now: float) -> None:
        """End a session, and what it has locked; one that there is not is ended already."""
        self.has_session(identity)
        session = self._sessions.pop(identity, None)
        if session is not None:
            self._advance()
            delete = session.fields.get("Behavior") == "delete"
            self.keys.forsake(identity, delete=delete, delay=session.delay, now=now)

    def session(self, identity: str) -> list[dict[str, Any]]:
        """A list of one session, or of none."""
        self.has_session(identity)
        session = self._sessions.get(identity)
        if session is None:
            return []
        return [
            {
                "ID": session.id,
                "Name": session.fields.get("Name", ""),
                "Node": self.node,
                "TTL": session.fields.get("TTL", ""),
                "Behavior": session.fields.get("Behavior", "release"),
                "CreateIndex": session.created,
                "ModifyIndex": session.created,
            }
        ]

    # Time

    def expire(self, now: float) -> float | None:
        """Do what time has brought about; return the second at which to come again, None if there is none."""
        due: list[float] = []
        for service in list(self._services.values()):
            for check in service.checks.values():
                if check.status != "critical" and check.expires <= now:
                    self._set(service, check, "critical", "TTL expired", now)
                if check.status != "critical":
                    due.append(check.expires)
                elif check.deregister_after is not None and check.critical_since is not None:
                    end = check.critical_since + check.deregister_after
                    if end <= now:
                        self.deregister(service.id)
                        break
                    due.append(end)
        for session in list(self._sessions.values()):
            if session.expires <= now:
                self.destroy_session(session.id, now)
            elif session.ttl is not None:
                due.append(session.expires)
        return min(due, default=None)


def _grace(ttl: float | None) -> float:
    """A session lives at least for its time; a real server gives it up to twice that."""
    return float("inf") if ttl is None else 2.0 * ttl


def _fields(what: str, body: Mapping[str, Any], kinds: Mapping[str, type]) -> dict[str, Any]:
    for key, value in body.items():
        if key not in kinds:
            raise Refusal(400, f"the fake knows no field {key!r} of a {what}; known are {', '.join(kinds)}")
        if value is not None and (not isinstance(value, kinds[key]) or (isinstance(value, bool) and kinds[key] is int)):
            raise Refusal(400, f"Request decode error: {key} is not of type {kinds[key].__name__}")
    return {key: value for key, value in body.items() if value is not None}


def _strings(name: str, values: Iterable[object]) -> list[str]:
    found = list(values)
    if not all(isinstance(value, str) for value in found):
        raise Refusal(400, f"Request decode error: {name} is not a list of strings")
    return cast("list[str]", found)


def _table(name: str, values: Mapping[str, object]) -> dict[str, str]:
    _strings(name, values.values())
    return dict(cast("Mapping[str, str]", values))


def _weights(values: Mapping[str, Any]) -> dict[str, int]:
    found = {"Passing": 1, "Warning": 1} | dict(values)
    if set(found) != {"Passing", "Warning"} or not all(type(value) is int for value in found.values()):
        raise Refusal(400, "Request decode error: Weights are two whole numbers, Passing and Warning")
    if found["Passing"] < 1 or found["Warning"] < 0:
        raise Refusal(400, "Invalid Weights: Passing must be greater than 0, Warning at least 0")
    return found
