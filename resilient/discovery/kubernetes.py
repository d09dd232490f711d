"""The instances of a Kubernetes service, from its EndpointSlices."""

from __future__ import annotations

import itertools
import logging
import math
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast, final, get_args

from resilient.backends.kubernetes import Access, Api, ApiFailed, Event, find_access
from resilient.backends.listwatch import Changes, Listing, SourceFailed
from resilient.context import current_runtime
from resilient.discovery.last_good import LastGood, OnEmpty
from resilient.discovery.location import Location
from resilient.discovery.reflector import Candidate, Reflector
from resilient.discovery.schemes import Scheme
from resilient.discovery.slices import Terminating, candidates, key_of, port_in, ports_of
from resilient.errors import DiscoveryError
from resilient.runtime import Runtime
from resilient.snapshot import Snapshot

__all__ = ["SCHEME", "Kubernetes"]

_log = logging.getLogger("resilient.discovery")

_GRACE = 30.0
_DEBOUNCE = 0.1
_NOT_FOUND = 404
_PORTS = range(1, 65536)
_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
_PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9](?:[-a-z0-9]{0,13}[a-z0-9])?")
_PATH = re.compile(r"/([^/:]+):([^/:]+)")
_OPTIONS = ("context", "kubeconfig", "on_empty", "grace", "terminating", "debounce")
_LABEL = "at most 63 lower-case letters, digits and hyphens, none of these at an end"
_SHOWN = 20
"""Ports in a message."""


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Kubernetes:
    """The pods behind a service: `kubernetes://namespace/service:port`, from its EndpointSlices (1.21 or later).

    `namespace`
        Of the service; empty: the pod's own, or that of the kubeconfig's context.
    `port`
        The service's name for the port (`http`), or its number *at the pods*: calls go to the pods, and the number of
        the service (80) is often another one than theirs (8080).
    `kubeconfig`, `context`
        Where the API server is. Without either: the service account in a pod; elsewhere the file that `KUBECONFIG`
        names, or `~/.kube/config`.
    `terminating`
        Whether pods that are being terminated and still serve are called when no other is there: `fallback`, as
        kube-proxy does, or `never`.
    `on_empty`, `grace`
        What happens when no pod is left: see `OnEmpty`. That all pods are unready is such an answer.
    `debounce`
        Changes within so many seconds are one (0.1).

    An instance is a pod, and called what the pod is called, with the beginning of its uid, so that its successor is
    another one. It has the zone of its endpoint, and as metadata `pod`, `node`, `for_zones` (the hints of topology-
    aware routing, with commas) and `terminating`.

    It needs the rights to list and to watch `endpointslices` of the group `discovery.k8s.io` in the namespace. While
    the API server is away, the last good instances stay in force, marked stale. Raises `ValueError` for a bad argument;
    whatever is wrong with the configuration of the cluster is trouble: logged, and tried again.
    """

    service: str
    port: str | int
    namespace: str = ""
    context: str | None = None
    kubeconfig: str | os.PathLike[str] | None = None
    on_empty: OnEmpty = "grace"
    grace: float = _GRACE
    terminating: Terminating = "fallback"
    debounce: float = _DEBOUNCE
    runtime: Runtime | None = field(default=None, repr=False)
    find: Callable[[], Access] | None = field(default=None, repr=False)
    """Finds the API server in another way; blocking, called in a thread."""
    _versions: Iterator[int] = field(init=False, repr=False, default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.service):
            raise ValueError(f"service={self.service!r}: the name of a service is {_LABEL}")
        if self.namespace and not _NAME.fullmatch(self.namespace):
            raise ValueError(f"namespace={self.namespace!r}: the name of a namespace is {_LABEL}")
        fine = self.port in _PORTS if isinstance(self.port, int) else _PORT_NAME.fullmatch(self.port)
        if not fine:
            raise ValueError(
                f"port={self.port!r}: a number between 1 and 65535, or a name of at most 15 lower-case letters, digits "
                "and hyphens, with a letter in it"
            )
        if self.terminating not in get_args(Terminating):
            raise ValueError(f"terminating={self.terminating!r}: one of {', '.join(get_args(Terminating))}")
        if not (math.isfinite(self.debounce) and self.debounce >= 0):
            raise ValueError(f"debounce={self.debounce!r}: a finite number of seconds, at least 0")
        LastGood(self.on_empty, self.grace)  # refuses what is wrong with them

    def watch(self) -> AsyncIterator[Snapshot]:
        """Yield the pods, and again when they change."""
        runtime = self.runtime or current_runtime()
        find = partial(find_access, self.kubeconfig, self.context) if self.find is None else self.find
        return Reflector(
            f"kubernetes://{self.namespace}/{self.service}:{self.port}",
            EndpointSlices(
                Api(find), self.namespace, self.service, self.port, terminating=self.terminating, random=runtime.random
            ),
            known=LastGood(self.on_empty, self.grace, self._versions),
            runtime=runtime,
            debounce=self.debounce,
        )


@final
class EndpointSlices:
    """The slices of a service as a source: an object is a slice, by its name."""

    silence = 660.0
    """Each read has a limit of its own, the watch's and a little more. This is for when it fails."""

    def __init__(
        self,
        api: Api,
        namespace: str,
        service: str,
        port: str | int,
        *,
        terminating: Terminating,
        random: Callable[[], float],
        seconds: tuple[int, int] = (300, 600),
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._service = service
        self._port = port
        self._terminating: Terminating = terminating
        self._random = random
        self._seconds = seconds
        """How long a watch lasts, by lot: what began together must not come back together."""
        self._params = {"labelSelector": f"kubernetes.io/service-name={service}"}
        self._missed = False

    async def listing(self) -> Listing[list[Candidate]]:
        """Return all slices."""
        try:
            found, revision = await self._api.list_all(await self._path(), self._params)
        except ApiFailed as failed:
            if failed.status != _NOT_FOUND:
                raise
            raise DiscoveryError(f"{failed}; EndpointSlices (v1) exist since Kubernetes 1.21") from None
        objects = {key_of(one): candidates(one, self._port, self._terminating) for one in found}
        if not any(objects.values()):
            self._explain(found)
        return Listing(objects, revision)

    async def watch(self, revision: str) -> AsyncGenerator[Changes[list[Candidate]], None]:
        """Yield what changes; events that came together are one change."""
        shortest, longest = self._seconds
        seconds = shortest + round(self._random() * (longest - shortest))
        events = self._api.watch(await self._path(), self._params, revision, seconds)
        try:
            async for batch in events:
                yield self._changes(batch, revision)
        finally:
            await events.aclose()

    def _changes(self, batch: list[Event], revision: str) -> Changes[list[Candidate]]:
        put: dict[str, list[Candidate]] = {}
        removed: dict[str, None] = {}
        for event in batch:
            revision = event.revision or revision
            match event.kind:
                case "ADDED" | "MODIFIED":
                    key = key_of(event.object)
                    put[key] = candidates(event.object, self._port, self._terminating)
                    removed.pop(key, None)
                case "DELETED":  # of a slice, or of the label by which it was found
                    key = key_of(event.object)
                    removed[key] = None
                    put.pop(key, None)
                case "BOOKMARK":
                    pass
                case kind:
                    raise SourceFailed(f"a watch said {kind!r}")
        return Changes(revision, put, removed)

    async def _path(self) -> str:
        namespace = self._namespace or await self._api.namespace()
        return f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"

    def _explain(self, found: list[Mapping[str, Any]]) -> None:
        """Help those who have mistyped a name: Kubernetes says nothing of what is not there."""
        if not found:
            if not self._missed:
                _log.warning("no EndpointSlice belongs to the service %r; does it exist?", self._service)
            self._missed = True
            return
        told = [one for one in found if one.get("endpoints")]
        if told and not any(port_in(one, self._port) for one in told):
            ports = sorted({port for one in told for port in ports_of(one)})
            raise DiscoveryError(
                f"the pods of {self._service} have no port {self._port!r}; they have {', '.join(ports[:_SHOWN])}"
            )


def _connect(location: Location, runtime: Runtime | None) -> Kubernetes:
    location.allow(*_OPTIONS)
    match = _PATH.fullmatch(location.path)
    if match is None:
        location.refuse("kubernetes://namespace/service:port, with the port's name or its number at the pods")
    options = location.options
    try:
        return Kubernetes(
            namespace=location.authority,
            service=match[1],
            port=int(match[2]) if match[2].isdecimal() else match[2],
            context=options.get("context"),
            kubeconfig=options.get("kubeconfig"),
            on_empty=cast("OnEmpty", location.choice("on_empty", "grace", get_args(OnEmpty))),
            grace=location.seconds("grace", _GRACE),
            terminating=cast("Terminating", location.choice("terminating", "fallback", get_args(Terminating))),
            debounce=location.seconds("debounce", _DEBOUNCE),
            runtime=runtime,
        )
    except ValueError as error:
        location.refuse(str(error))


SCHEME = Scheme(_connect)
