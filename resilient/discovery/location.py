"""The grammar that all discovery URLs share."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn, final
from urllib.parse import unquote

__all__ = ["Location"]

_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<path>/[^?#]*)?(?:\?(?P<query>[^#]*))?")
_SECRETS = re.compile(r"(?<=://)[^/?#@]*(?=@)|(?<=[?&]token=)[^&#]*")
_ENDPOINT = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.%]+)\]|(?P<host>[^:\[\]]+))(?::(?P<port>[0-9]{1,5}))?")


@final
@dataclass(frozen=True, slots=True)
class Location:
    """A discovery URL taken apart: `scheme://authority/path?option=value&option=value`.

    In the path and in the values, `%26` stands for `&`, `%25` for `%`, and so on; a `+` is a plus.

    The methods read what a scheme expects and raise `ValueError`, with what is allowed, for anything else.
    """

    url: str
    scheme: str
    authority: str
    path: str
    """With its percent escapes resolved; empty, or beginning with a slash."""
    options: Mapping[str, str]

    @classmethod
    def parse(cls, url: str) -> Location:
        """Take `url` apart."""
        match = _URL.fullmatch(url)
        shown = _SECRETS.sub("***", url)
        if match is None:
            raise ValueError(
                f"url={shown!r}: a discovery URL is scheme://authority/path?option=value, with a lower-case scheme"
            )
        options: dict[str, str] = {}
        for pair in match["query"].split("&") if match["query"] else ():
            name, separator, value = map(unquote, pair.partition("="))
            if not (name and separator):
                raise ValueError(f"url={shown!r}: options are name=value, with & between them")
            if name in options:
                raise ValueError(f"url={shown!r}: each option is given once")
            options[name] = value
        return cls(url, match["scheme"], match["authority"], unquote(match["path"] or ""), options)

    @property
    def shown(self) -> str:
        """The URL as it may stand in logs and messages: without passwords and tokens."""
        return _SECRETS.sub("***", self.url)

    def refuse(self, why: str) -> NoReturn:
        """Raise the `ValueError` that says what is wrong with this URL."""
        raise ValueError(f"url={self.shown!r}: {why}")

    def allow(self, *names: str) -> None:
        """Refuse options of any other name."""
        for name in self.options:
            if name not in names:
                allowed = (
                    f"the options of {self.scheme}:// are {', '.join(names)}" if names else f"{self.scheme}:// has none"
                )
                self.refuse(f"unknown option {name!r}; {allowed}")

    def seconds(self, name: str, default: float) -> float:
        """Read an option that is a duration."""
        text = self.options.get(name)
        if text is None:
            return default
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value > 0):
            self.refuse(f"{name}={text}: a finite number of seconds, more than 0")
        return value

    def choice(self, name: str, default: str, allowed: Sequence[str]) -> str:
        """Read an option that is one of a few words."""
        value = self.options.get(name, default)
        if value not in allowed:
            self.refuse(f"{name}={value}: one of {', '.join(allowed)}")
        return value

    def credentials(self) -> tuple[str, str] | None:
        """Read `user:password@` before the authority; special characters in them are percent-encoded."""
        before, at, _ = self.authority.rpartition("@")
        if not at:
            return None
        user, colon, password = before.partition(":")
        if not (user and colon):
            self.refuse("credentials are user:password@, with special characters percent-encoded")
        return unquote(user), unquote(password)

    def endpoints(self, *, credentials: bool = False) -> tuple[tuple[str, int], ...]:
        """Read an authority that is `host:port,host:port`; an IPv6 address stands in brackets.

        `credentials` says that some may stand before it.
        """
        return self._endpoints(self.authority.rpartition("@")[2] if credentials else self.authority, None)

    def servers(self, name: str, port: int) -> tuple[tuple[str, int], ...]:
        """Read an option that is `host:port,host:port`, each with `port` if it has none; not given, it is empty."""
        text = self.options.get(name)
        return () if text is None else self._endpoints(text, port)

    def _endpoints(self, text: str, default: int | None) -> tuple[tuple[str, int], ...]:
        found: list[tuple[str, int]] = []
        for part in text.split(","):
            match = _ENDPOINT.fullmatch(part)
            port = None if match is None else match["port"] or default
            if match is None or port is None:
                shown = f"***{part[part.rindex('@') :]}" if "@" in part else part
                self.refuse(f"{shown!r} is no host:port (an IPv6 address stands in brackets)")
            found.append((match["v6"] or match["host"], int(port)))
        return tuple(found)
