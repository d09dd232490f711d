"""What the fake API server holds: objects with resource versions, and the history of their changes."""

from __future__ import annotations

import base64
import json
import threading
import uuid
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, TypeAlias, cast, final

from resilient.testing.kubernetes.selector import Selector

__all__ = ["RESOURCES", "Change", "Objects", "Refused", "Resource", "refusal"]

Object: TypeAlias = dict[str, Any]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Resource:
    """A kind of object that the fake serves."""

    group: str
    version: str
    plural: str
    kind: str
    bookmark: Mapping[str, Any]
    """The fields that Go cannot leave out of an empty object, as they stand in a bookmark."""

    @property
    def api_version(self) -> str:
        """As objects name it."""
        return f"{self.group}/{self.version}" if self.group else self.version


RESOURCES = (
    Resource(
        "discovery.k8s.io",
        "v1",
        "endpointslices",
        "EndpointSlice",
        {"addressType": "", "endpoints": None, "ports": None},
    ),
    Resource("coordination.k8s.io", "v1", "leases", "Lease", {"spec": {}}),
    Resource("", "v1", "configmaps", "ConfigMap", {}),
)


@final
@dataclass(frozen=True, slots=True)
class Change:
    """One write: the object before and after it, None where there was none or is none."""

    revision: int
    resource: Resource
    before: Object | None
    after: Object | None

    @property
    def namespace(self) -> str:
        """Where it happened."""
        found = self.after or self.before or {}
        return str(found["metadata"]["namespace"])


class Refused(Exception):
    """A `Status` that is an answer: its HTTP code and what stands in it."""

    def __init__(self, code: int, status: Mapping[str, Any]) -> None:
        super().__init__(f"{code} {status.get('message')}")
        self.code = code
        self.status = status


def refusal(code: int, reason: str, message: str, details: Mapping[str, Any] | None = None) -> Refused:
    """Make a refusal in the words of Kubernetes."""
    status: Object = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "details": details,
        "code": code,
    }
    if not reason:
        del status["reason"]
    if details is None:
        del status["details"]
    return Refused(code, status)


@final
class Objects:
    """All objects, and what happened to them since the last compaction. Thread-safe.

    A write raises the resource version by one and wakes whoever waits.
    """

    def __init__(self, revision: int = 100) -> None:
        self.changed = threading.Condition()
        self.revision = revision
        self.oldest = revision
        """History begins here: a watch from before it is expired."""
        self.history: list[Change] = []
        self._objects: dict[tuple[Resource, str, str], Object] = {}

    # -- reading ----------------------------------------------------------------------------------------------------

    def get(self, resource: Resource, namespace: str, name: str) -> Object:
        """Return one object."""
        with self.changed:
            found = self._objects.get((resource, namespace, name))
        if found is None:
            raise refusal(404, "NotFound", f"{_full(resource)} {_quoted(name)} not found", _details(resource, name))
        return _typed(resource, found)

    def page(self, resource: Resource, namespace: str | None, selector: Selector, limit: int, token: str) -> Object:
        """Return a page of objects, in the order of their names, without kinds of their own."""
        with self.changed:
            revision, start = (self.revision, "") if not token else self._resume(token)
            found = self._at(resource, namespace, revision)
        names = sorted(key for key, one in found.items() if key > start and selector.matches(one))
        page = names[:limit] if limit else names
        metadata: Object = {"resourceVersion": str(revision)}
        if len(page) < len(names):
            metadata["continue"] = _token(revision, page[-1] + "\0")
            if not selector:  # who selects is not told how many are left
                metadata["remainingItemCount"] = len(names) - len(page)
        return {
            "kind": f"{resource.kind}List",
            "apiVersion": resource.api_version,
            "metadata": metadata,
            "items": [found[name] for name in page],
        }

    def since(self, resource: Resource, namespace: str | None, revision: int) -> tuple[list[Change], int]:
        """Return what happened after `revision`, and the revision now. Call it with the lock held."""
        if revision < self.oldest:
            raise refusal(410, "Expired", "The resourceVersion for the provided watch is too old.")
        found = [
            change
            for change in self.history
            if change.revision > revision
            and change.resource is resource
            and (namespace is None or change.namespace == namespace)
        ]
        return found, max(self.revision, revision)

    def _at(self, resource: Resource, namespace: str | None, revision: int) -> dict[str, Object]:
        """Return the objects as they were, by /namespace/name or /name."""
        found = {
            (where, name): one
            for (kind, where, name), one in self._objects.items()
            if kind is resource and (namespace is None or where == namespace)
        }
        for change in reversed(self.history):
            if change.revision <= revision or change.resource is not resource:
                continue
            one = cast("Object", change.after or change.before)["metadata"]
            if namespace is None or one["namespace"] == namespace:
                if change.before is None:
                    found.pop((one["namespace"], one["name"]), None)
                else:
                    found[one["namespace"], one["name"]] = change.before
        return {f"/{name}" if namespace else f"/{where}/{name}": one for (where, name), one in found.items()}

    def _resume(self, token: str) -> tuple[int, str]:
        try:
            fields = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
            revision, start = int(fields["rv"]), str(fields["start"]).removesuffix("\0")
        except (ValueError, KeyError, TypeError):
            raise refusal(400, "BadRequest", "continue key is not valid") from None
        if revision == -1:
            return self.revision, start
        if revision < self.oldest:
            expired = refusal(410, "Expired", _TOO_OLD)
            raise Refused(410, {**expired.status, "metadata": {"continue": _token(-1, start + "\0")}})
        return revision, start

    # -- writing ----------------------------------------------------------------------------------------------------

    def create(self, resource: Resource, namespace: str, new: Mapping[str, Any]) -> Object:
        """Add an object."""
        name = str(_metadata(new).get("name") or "")
        if not name:
            raise refusal(422, "Invalid", f"{resource.kind} {_quoted(name)} is invalid: metadata.name: Required value")
        with self.changed:
            if (resource, namespace, name) in self._objects:
                raise refusal(
                    409, "AlreadyExists", f"{_full(resource)} {_quoted(name)} already exists", _details(resource, name)
                )
            return self._write(resource, namespace, name, new, None)

    def replace(self, resource: Resource, namespace: str, name: str, new: Mapping[str, Any]) -> Object:
        """Put another object in the place of one; its resource version, if it has one, has to be the last."""
        with self.changed:
            before = self._objects.get((resource, namespace, name))
            if before is None:
                raise refusal(404, "NotFound", f"{_full(resource)} {_quoted(name)} not found", _details(resource, name))
            expected = _metadata(new).get("resourceVersion")
            if expected and expected != before["metadata"]["resourceVersion"]:
                raise refusal(
                    409,
                    "Conflict",
                    f"Operation cannot be fulfilled on {_full(resource)} {_quoted(name)}: "
                    "the object has been modified; please apply your changes to the latest version and try again",
                    _details(resource, name),
                )
            return self._write(resource, namespace, name, new, before)

    def put(self, resource: Resource, namespace: str, new: Mapping[str, Any]) -> Object:
        """Add an object, or replace it whatever its version."""
        with self.changed:
            name = str(_metadata(new)["name"])
            return self._write(resource, namespace, name, new, self._objects.get((resource, namespace, name)))

    def delete(self, resource: Resource, namespace: str, name: str) -> Object:
        """Take an object away."""
        with self.changed:
            before = self._objects.pop((resource, namespace, name), None)
            if before is None:
                raise refusal(404, "NotFound", f"{_full(resource)} {_quoted(name)} not found", _details(resource, name))
            self._record(resource, before, None)
            return _typed(resource, before)

    def compact(self) -> None:
        """Forget all history: watches and pages from before now are expired."""
        with self.changed:
            self.history.clear()
            self.oldest = self.revision

    def restore(self, revision: int, keep: Callable[[Object], bool]) -> None:
        """Go back to an earlier resource version, as from a backup, with the objects of which `keep` is true."""
        with self.changed:
            self._objects = {key: one for key, one in self._objects.items() if keep(one)}
            self.history.clear()
            self.revision = self.oldest = revision
            self.changed.notify_all()

    def _write(
        self, resource: Resource, namespace: str, name: str, new: Mapping[str, Any], before: Object | None
    ) -> Object:
        after = deepcopy(dict(new))
        after.pop("kind", None)
        after.pop("apiVersion", None)
        given = dict(_metadata(after))
        known = _metadata(before)
        changed = before is None or {**after, "metadata": 0} != {**before, "metadata": 0}
        after["metadata"] = {
            **given,
            "name": name,
            "namespace": namespace,
            "uid": known.get("uid") or str(uuid.uuid4()),
            "resourceVersion": str(self.revision + 1),
            "generation": known.get("generation", 0) + changed,
            "creationTimestamp": known.get("creationTimestamp", "2026-01-01T00:00:00Z"),
        }
        self._objects[resource, namespace, name] = after
        self._record(resource, before, after)
        return _typed(resource, after)

    def _record(self, resource: Resource, before: Object | None, after: Object | None) -> None:
        self.revision += 1
        self.history.append(Change(self.revision, resource, before, after))
        self.changed.notify_all()


_TOO_OLD = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list without "
    "the continue parameter."
)


def _token(revision: int, start: str) -> str:
    fields = {"v": "meta.k8s.io/v1", "rv": revision, "start": start}
    return base64.urlsafe_b64encode(json.dumps(fields, separators=(",", ":")).encode()).decode().rstrip("=")


def _typed(resource: Resource, found: Mapping[str, Any]) -> Object:
    return {"kind": resource.kind, "apiVersion": resource.api_version, **deepcopy(dict(found))}


def _metadata(found: Mapping[str, Any] | None) -> Mapping[str, Any]:
    return (found or {}).get("metadata") or {}


def _full(resource: Resource) -> str:
    return f"{resource.plural}.{resource.group}" if resource.group else resource.plural


def _quoted(name: str) -> str:
    return f'"{name}"'


def _details(resource: Resource, name: str) -> Object:
    group = {"group": resource.group} if resource.group else {}
    return {"name": name, **group, "kind": resource.plural}
