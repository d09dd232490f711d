"""An API server, and how one is allowed in."""

from __future__ import annotations

import ipaddress
import re
import ssl
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from resilient.errors import DiscoveryError

__all__ = ["Access", "read"]

_SERVER = re.compile(r"(?P<scheme>https?)://\[?(?P<host>[^/:@?#\[\]]+|[0-9a-fA-F:.]+)\]?(?::[0-9]{1,5})?(?:/[^?#]*)?")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """One API server, and the identity that is shown to it. Nothing secret is in its `repr`.

    `token_file` is read for every request, as the kubelet replaces a token long before it expires. `ca`, `certificate`
    and `key` are PEM; without a `ca` those of the system count. `server_name` is whose certificate is expected, if it
    is not that of the server's host.
    """

    server: str
    namespace: str = "default"
    ca: bytes | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    certificate: bytes | None = field(default=None, repr=False)
    key: bytes | None = field(default=None, repr=False)
    server_name: str | None = None

    def __post_init__(self) -> None:
        match = _SERVER.fullmatch(self.server)
        if match is None:
            raise DiscoveryError(f"server={self.server!r} is not the URL of an API server: https://host:port")
        if match["scheme"] == "http" and not _loopback(match["host"]):
            raise DiscoveryError(
                f"server={self.server!r}: http:// is for a proxy on this machine; anybody could read the token"
            )
        if (self.certificate is None) != (self.key is None):
            raise DiscoveryError("a client certificate needs its key, and a key its certificate")

    def bearer(self) -> str | None:
        """Return the token to show now, read from its file if it has one. Blocking."""
        if self.token_file is None:
            return self.token
        token = read(self.token_file).decode("utf-8", "replace").strip()
        if not token:  # without one the server would call us anonymous, and refuse us for that
            raise DiscoveryError(f"{self.token_file} is empty: there is no token to show")
        if not (token.isascii() and token.isprintable()):
            raise DiscoveryError(f"{self.token_file} holds no token")
        return token

    def tls(self) -> ssl.SSLContext | None:
        """Make the TLS context, None for plain HTTP. Blocking: it takes some 20 ms."""
        if self.server.startswith("http:"):
            return None
        try:
            context = ssl.create_default_context(cadata=None if self.ca is None else self.ca.decode("ascii"))
            if self.certificate is not None and self.key is not None:
                _load_pair(context, self.certificate, self.key)
        except (ssl.SSLError, ValueError) as error:
            raise DiscoveryError(f"a certificate or key for {self.server} cannot be read: {error}") from None
        return context


def _load_pair(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """Load a client's certificate, which OpenSSL takes from files only."""
    with tempfile.TemporaryDirectory() as folder:  # for its owner alone
        pair = Path(folder, "pair.pem")
        pair.touch(mode=0o600)
        pair.write_bytes(certificate.rstrip() + b"\n" + key)
        context.load_cert_chain(pair, password="")  # an encrypted key is an error, and no prompt


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read(path: Path) -> bytes:
    """Read a file; what is wrong with it is a `DiscoveryError` that names it."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DiscoveryError(f"{path} cannot be read: {error.strerror or error}") from None
