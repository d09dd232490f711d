"""What is said to etcd, over the JSON gateway of its version 3 API, and what its answers mean.

Keys and values are base64, 64-bit numbers are strings, and fields of zero are left out: a lease that is dead is
answered with 200 and no `TTL`, an event without a `type` is a put.
"""

from __future__ import annotations

import json
import math
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from resilient.backends.conversation import Ask, Conversation, Endpoints, Reply, in_turn, refused
from resilient.backends.listwatch import Expired, SourceFailed
from resilient.errors import DiscoveryError

__all__ = ["Etcd", "Heard", "KeyValue", "Range", "decode", "encode", "prefix_end"]

_OK, _UNAUTHORIZED = 200, 401
# Without a majority of its cluster a member is silent: so it has to say, instead, that it has lost it.
_REQUIRE_LEADER = {"Grpc-Metadata-hasleader": "true"}


@final
@dataclass(frozen=True, slots=True)
class KeyValue:
    """A key. `value` is None if it was deleted at `revision`; `lease` is "0" without one."""

    key: str
    value: bytes | None
    revision: int
    lease: str = "0"


@final
@dataclass(frozen=True, slots=True)
class Range:
    """All keys at one revision of one cluster."""

    cluster: str
    revision: int
    keys: tuple[KeyValue, ...]


@final
@dataclass(frozen=True, slots=True)
class Heard:
    """One message of a watch. `created` is its first.

    `revision` is how far the server is. That all events up to there have been told is true only of a message that is
    neither the first nor has events.
    """

    cluster: str
    revision: int
    created: bool
    events: tuple[KeyValue, ...]

    @property
    def told(self) -> int:
        """Up to where all events have been told; 0: it does not say."""
        if self.events:
            return max(event.revision for event in self.events)
        return 0 if self.created else self.revision


@final
class Etcd:
    """Conversations with one cluster. `api` is "v3", or "v3beta" for etcd 3.3; `credentials` are user and password."""

    def __init__(self, endpoints: Endpoints, *, api: str = "v3", credentials: tuple[str, str] | None = None) -> None:
        self.endpoints = endpoints
        self._api = api
        self._credentials = credentials
        self._token: str | None = None

    # Keys

    def range(self, prefix: str, *, limit: int) -> Conversation[Range]:
        """Read all keys that begin with `prefix`; more than `limit` are a `DiscoveryError`."""
        answer = yield from self._ask(
            "kv/range", key=encode(prefix), range_end=encode(prefix_end(prefix)), limit=str(limit)
        )
        if answer.get("more"):
            raise DiscoveryError(f"there are more than {limit} keys under {prefix}")
        header = _header(answer)
        return Range(*header, tuple(_key_value(each) for each in answer.get("kvs", ())))

    def put(self, key: str, value: bytes, lease: str) -> Conversation[None]:
        """Write a key, over whatever it holds, for as long as the lease lives."""
        yield from self._ask("kv/put", key=encode(key), value=encode(value), lease=lease)

    def put_if_absent(self, key: str, value: bytes, lease: str) -> Conversation[str]:
        """Write a key if there is none; return the lease that it has then, "0" for none."""
        put = {"key": encode(key), "value": encode(value), "lease": lease}
        answer = yield from self._ask(
            "kv/txn",
            compare=[{"target": "CREATE", "key": encode(key), "result": "EQUAL", "create_revision": "0"}],
            success=[{"request_put": put}],
            failure=[{"request_range": {"key": encode(key)}}],
        )
        if answer.get("succeeded"):
            return lease
        try:
            found = answer["responses"][0]["response_range"]["kvs"][0]
        except (KeyError, IndexError, TypeError):
            raise DiscoveryError(f"an answer of etcd that nobody understands: {answer!r}") from None
        return _key_value(found).lease

    # Leases

    def grant(self, ttl: float) -> Conversation[str]:
        """Get a lease of at least so many seconds, whole ones; return its id."""
        answer = yield from self._ask("lease/grant", TTL=str(max(1, math.ceil(ttl))))
        if not answer.get("ID"):
            raise DiscoveryError(f"no lease was granted: {answer!r}")
        return str(answer["ID"])

    def keep_alive(self, lease: str) -> Conversation[bool]:
        """Prolong a lease; False: it is dead."""
        answer = yield from self._ask("lease/keepalive", ID=lease)
        result: Mapping[str, Any] = answer.get("result") or {}
        return int(result.get("TTL", 0)) > 0

    def revoke(self, lease: str) -> Conversation[None]:
        """End a lease, and with it the keys that it holds. One that is dead already is fine."""
        reply = yield from self._reply("lease/revoke", {"ID": lease})
        if reply.status != _OK and "lease not found" not in reply.text:
            raise refused(reply, "the lease was not revoked")

    # Watches

    def watch(self, prefix: str, revision: int) -> Conversation[Ask]:
        """Return what to ask for a stream of the changes from `revision` on."""
        yield from self._authenticate()
        wanted = {
            "key": encode(prefix),
            "range_end": encode(prefix_end(prefix)),
            "start_revision": str(revision),
            "progress_notify": True,
        }
        return Ask(
            method="POST",
            url=f"{self.endpoints.current}/{self._api}/watch",
            headers=self._headers() | {"Accept-Encoding": "identity"},
            document={"create_request": wanted},
        )

    def forget_token(self) -> None:
        """Log in anew before the next request."""
        self._token = None

    @staticmethod
    def hear(line: bytes) -> Heard:
        """Read a message of a watch. One that ends it is an `Expired` or a `SourceFailed`: no more will follow it.

        The stream itself may never end then.
        """
        try:
            message = json.loads(line)
            if "error" in message:
                raise SourceFailed(f"the watch was refused: {message['error']}")
            result = message["result"]
            if int(result.get("compact_revision", 0)):
                raise Expired(f"the revision is compacted up to {result['compact_revision']}")
            if result.get("canceled"):
                raise SourceFailed(f"the watch was cancelled: {result.get('cancel_reason', 'no reason was given')}")
            events = tuple(_event(each) for each in result.get("events", ()))
            return Heard(*_header(result), bool(result.get("created")), events)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DiscoveryError(f"a message of etcd that nobody understands: {line[:200]!r}") from error

    # How it is asked

    def _ask(self, path: str, **fields: object) -> Conversation[dict[str, Any]]:
        reply = yield from self._reply(path, fields)
        if reply.status != _OK:
            raise refused(reply, f"{path} was refused")
        return reply.table()

    def _reply(self, path: str, fields: Mapping[str, object]) -> Conversation[Reply]:
        reply = yield from self._once(path, fields)
        if self._credentials is not None and (reply.status == _UNAUTHORIZED or "invalid auth token" in reply.text):
            self._token = None  # it has expired, or the server that issued it has forgotten it
            reply = yield from self._once(path, fields)
        return reply

    def _once(self, path: str, fields: Mapping[str, object]) -> Conversation[Reply]:
        yield from self._authenticate()
        url = f"/{self._api}/{path}"
        return (yield from in_turn(self.endpoints, "POST", url, headers=self._headers(), document=fields))

    def _authenticate(self) -> Conversation[None]:
        if self._credentials is None or self._token is not None:
            return
        user, password = self._credentials
        url = f"/{self._api}/auth/authenticate"
        reply = yield from in_turn(self.endpoints, "POST", url, document={"name": user, "password": password})
        if reply.status != _OK:
            raise refused(reply, f"{user} was not let in")
        self._token = str(reply.table().get("token", ""))

    def _headers(self) -> dict[str, str]:
        return _REQUIRE_LEADER if self._token is None else {**_REQUIRE_LEADER, "Authorization": self._token}


def encode(content: str | bytes) -> str:
    """Write a key or a value as the gateway wants it."""
    return b64encode(content.encode() if isinstance(content, str) else content).decode()


def decode(text: str) -> bytes:
    """Read a key or a value."""
    return b64decode(text, validate=True)


def prefix_end(prefix: str) -> bytes:
    """Return the first key that is beyond all that begin with `prefix`, which is not empty."""
    key = bytearray(prefix.encode())  # no byte of UTF-8 is the highest there is
    key[-1] += 1
    return bytes(key)


def _header(answer: Mapping[str, Any]) -> tuple[str, int]:
    header = answer["header"]
    return str(header.get("cluster_id", "")), int(header["revision"])


def _key_value(found: Mapping[str, Any]) -> KeyValue:
    key = decode(found["key"]).decode(errors="replace")
    value = decode(found.get("value", ""))
    return KeyValue(key, value, int(found.get("mod_revision", 0)), str(found.get("lease", "0")))


def _event(found: Mapping[str, Any]) -> KeyValue:
    event = _key_value(found["kv"])
    return KeyValue(event.key, None, event.revision) if found.get("type", "PUT") == "DELETE" else event
