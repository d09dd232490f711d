"""Options by route."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from typing import Any, final

from resilient.context import Options

__all__ = ["Route", "options_for"]


@final
@dataclass(frozen=True, slots=True)
class Route:
    """Options for the requests to some paths: `Route("/orders/*", Options(timeout=1.0), methods=("GET",))`.

    In `path`, `*` stands for any characters and `?` for one. `methods` limits it to those; none given means
    all. The first route that fits a request gives its options; what the request or the surrounding code says
    itself wins.

    Raises `ValueError` for a path that does not begin with a slash or a star, and for options with an idempotency key;
    `TypeError` for options that are none, and for `methods="POST"`.
    """

    path: str
    options: Options
    methods: tuple[str, ...] = ()
    _pattern: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.path.startswith(("/", "*")):
            raise ValueError(f"path={self.path!r}: a path begins with '/' or '*'")
        if not isinstance(self.options, Options):
            raise TypeError(f"options={self.options!r}: resilient.context.Options(...)")
        if isinstance(self.methods, str):
            raise TypeError(f"methods={self.methods!r}: several of them, such as ('GET', 'POST')")
        if self.options.idempotency_key is not None:
            raise ValueError(f"options={self.options!r}: an idempotency key is that of one call, not of a path")
        object.__setattr__(self, "methods", tuple(method.upper() for method in self.methods))
        # A bracket is one: only the star and the question mark are special.
        object.__setattr__(self, "_pattern", re.compile(translate(self.path.replace("[", "[[]"))))

    def fits(self, request: Any) -> bool:
        """Whether the route is for this request."""
        return (not self.methods or request.method in self.methods) and self._pattern.match(
            request.url.path
        ) is not None


def options_for(request: Any, routes: Sequence[Route], usual: Options | None) -> Options | None:
    """Return the options of the first route that fits, and the usual ones where it says nothing."""
    for route in routes:
        if route.fits(request):
            return route.options.over(usual)
    return usual
