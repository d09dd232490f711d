"""What the fake API server is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from resilient.testing.kubernetes.objects import RESOURCES, Resource, refusal
from resilient.testing.kubernetes.selector import Selector

__all__ = ["Seen", "locate", "selector_of", "verb_of", "version_of", "whole_of"]


@final
@dataclass(frozen=True, slots=True)
class Seen:
    """A request that the fake has got. `at` is `time.monotonic`."""

    at: float
    method: str
    path: str
    params: Mapping[str, str]
    headers: Mapping[str, str]

    @property
    def watch(self) -> bool:
        """Whether it is a watch."""
        return self.params.get("watch") in {"1", "true"}


def locate(path: str) -> tuple[Resource, str | None, str]:
    """Find out which resource, namespace and name a path means."""
    for resource in RESOURCES:
        prefix = f"/apis/{resource.api_version}/" if resource.group else f"/api/{resource.version}/"
        if not path.startswith(prefix):
            continue
        match path.removeprefix(prefix).split("/"):
            case [plural] if plural == resource.plural:
                return resource, None, ""
            case ["namespaces", namespace, plural] if plural == resource.plural and namespace:
                return resource, namespace, ""
            case ["namespaces", namespace, plural, name] if plural == resource.plural and namespace and name:
                return resource, namespace, name
            case _:
                continue
    raise refusal(404, "NotFound", "the server could not find the requested resource", {})


def verb_of(seen: Seen, name: str) -> str:
    """Name what a request wants, as permissions do."""
    verbs = {"GET": "get", "PUT": "update", "DELETE": "delete"} if name else {"POST": "create"}
    if not name and seen.method == "GET":
        return "watch" if seen.watch else "list"
    if seen.method not in verbs:
        raise refusal(405, "MethodNotAllowed", "the server does not allow this method on the requested resource", {})
    return verbs[seen.method]


def selector_of(seen: Seen) -> Selector:
    """Read `labelSelector`."""
    try:
        return Selector(seen.params.get("labelSelector", ""))
    except ValueError as error:
        raise refusal(400, "BadRequest", str(error)) from None


def whole_of(seen: Seen, name: str) -> int:
    """Read a parameter that is a whole number; 0 if it is not there."""
    text = seen.params.get(name) or "0"
    if not text.isdecimal():
        raise refusal(400, "BadRequest", f'strconv.ParseInt: parsing "{text}": invalid syntax')
    return int(text)


def version_of(seen: Seen) -> int:
    """Read `resourceVersion`, which is refused in other words."""
    text = seen.params.get("resourceVersion") or "0"
    if not text.isdecimal():
        message = f'resourceVersion: Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax'
        raise refusal(500, "", message)
    return int(text)
