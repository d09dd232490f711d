"""The file with which people and tools outside a cluster find it."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn, cast, final

from resilient.backends.kubernetes.access import Access, read
from resilient.errors import DiscoveryError

__all__ = ["load_kubeconfig"]

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_LARGEST = 4 * 1024 * 1024

_UNSUPPORTED = {
    "exec": "a plugin that is run (exec)",
    "auth-provider": "an auth-provider",
    "username": "user name and password",
    "password": "user name and password",
    "as": "impersonation (as)",
    "as-uid": "impersonation (as-uid)",
    "as-groups": "impersonation (as-groups)",
    "as-user-extra": "impersonation (as-user-extra)",
}
"""Of a user. No plugin is run: it could ask questions, and would run with all the rights of this process."""


def load_kubeconfig(path: Path, context: str | None = None) -> Access:
    """Read the `context` (the file's `current-context`) of a kubeconfig in YAML or JSON.

    Tokens, token files and client certificates are understood, inline or as files. YAML needs PyYAML, the extra
    `kubernetes`. Raises `DiscoveryError` for anything else.
    """
    return _Kubeconfig(path).access(context)


@final
class _Kubeconfig:
    def __init__(self, path: Path) -> None:
        self._path = path.expanduser()
        content = read(self._path)
        if len(content) > _LARGEST:
            self._refuse(f"is larger than {_LARGEST} bytes")
        document = self._parse(content)
        if not isinstance(document, Mapping):
            self._refuse("is no kubeconfig")
        self._document = cast("Mapping[str, Any]", document)

    def access(self, name: str | None) -> Access:
        if name is None:
            name = self._text(self._document, "current-context", "it")
            if not name:
                self._refuse("has no current-context; name one, with the option context")
        context = self._named("contexts", "context", name)
        where = f"the context {name!r}"
        cluster_name, user_name = self._text(context, "cluster", where), self._text(context, "user", where)
        cluster = self._named("clusters", "cluster", cluster_name or "")
        user = self._named("users", "user", user_name) if user_name else _NOTHING
        where = f"the cluster {cluster_name!r}"
        for key, what in (("insecure-skip-tls-verify", "to trust whoever answers"), ("proxy-url", "a proxy")):
            if cluster.get(key):
                self._refuse(f"has {where} with {key}: {what} is not supported")
        for key, what in _UNSUPPORTED.items():
            if user.get(key):
                self._refuse(
                    f"has the user {user_name!r} with {what}, which is not supported; "
                    "a service account's token or a client certificate is"
                )
        token_file = self._text(user, "tokenFile", "the user")
        return Access(
            server=self._text(cluster, "server", where) or "",
            namespace=self._text(context, "namespace", where) or "default",
            ca=self._bytes(cluster, "certificate-authority"),
            token=None if token_file else self._text(user, "token", "the user"),
            token_file=self._beside(token_file) if token_file else None,
            certificate=self._bytes(user, "client-certificate"),
            key=self._bytes(user, "client-key"),
            server_name=self._text(cluster, "tls-server-name", where),
        )

    def _parse(self, content: bytes) -> object:
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            pass
        try:
            yaml: Any = import_module("yaml")
        except ImportError:
            self._refuse(
                "is not JSON, and to read YAML takes PyYAML: pip install 'resilient-mesh[kubernetes]', "
                "or write JSON: kubectl config view --raw -o json"
            )
        try:
            return yaml.safe_load(content)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            self._refuse(f"is neither JSON nor YAML: {str(error).splitlines()[0]}")

    def _named(self, kinds: str, kind: str, name: str) -> Mapping[str, Any]:
        """Find one of the entries of a list."""
        found: dict[str, Mapping[str, Any]] = {}
        entries = self._document.get(kinds)
        for entry in cast("list[object]", entries) if isinstance(entries, list) else []:
            fields = cast("Mapping[str, Any]", entry) if isinstance(entry, Mapping) else _NOTHING
            body: object = fields.get(kind)
            if isinstance(body, Mapping):
                found.setdefault(str(fields.get("name")), cast("Mapping[str, Any]", body))
        if name not in found:
            self._refuse(f"has no {kind} {name!r}; it has {', '.join(found) or 'none'}")
        return found[name]

    def _text(self, fields: Mapping[str, Any], key: str, where: str) -> str | None:
        value = fields.get(key)
        if value is None or value == "":
            return None
        if not isinstance(value, str):
            self._refuse(f"has no text for {key} of {where}")
        return value

    def _bytes(self, fields: Mapping[str, Any], key: str) -> bytes | None:
        """Read what stands inline, or in a file beside; inline counts, if there are both."""
        inline = self._text(fields, f"{key}-data", "its entry")
        if inline is not None:
            try:
                return base64.b64decode(inline, validate=False)
            except (binascii.Error, ValueError):
                self._refuse(f"has a {key}-data that is not base64")
        file = self._text(fields, key, "its entry")
        return None if file is None else read(self._beside(file))

    def _beside(self, file: str) -> Path:
        return self._path.parent / Path(file).expanduser()

    def _refuse(self, why: str) -> NoReturn:
        raise DiscoveryError(f"{self._path} {why}")
