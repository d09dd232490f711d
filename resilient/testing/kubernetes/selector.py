"""Label selectors, as the API server understands them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, final

__all__ = ["Selector"]

_REQUIREMENT = re.compile(
    r"\s*(?:"
    r"(?P<absent>!)\s*(?P<a>[\w./-]+)"
    r"|(?P<b>[\w./-]+)\s+(?P<set>in|notin)\s*\((?P<values>[^()]*)\)"
    r"|(?P<c>[\w./-]+)\s*(?P<operator>==|=|!=)\s*(?P<value>[\w.-]*)"
    r"|(?P<d>[\w./-]+)"
    r")\s*(?:,|$)"
)


@final
class Selector:
    """`a=b`, `a==b`, `a!=b`, `a in (b,c)`, `a notin (b,c)`, `a`, `!a`, with commas between: all have to hold.

    Raises `ValueError` for anything else. An empty one matches everything, and is false.
    """

    def __init__(self, text: str) -> None:
        self._requirements: list[tuple[str, bool, frozenset[str] | None]] = []
        """The label, whether it has to be so, and the values, None: any."""
        position = 0
        while position < len(text):
            match = _REQUIREMENT.match(text, position)
            if match is None or match.end() == position:
                raise ValueError(f"unable to parse requirement: {text[position:]!r}")
            position = match.end()
            name = match["a"] or match["b"] or match["c"] or match["d"]
            if match["operator"]:
                values = frozenset({match["value"]})
                self._requirements.append((name, match["operator"] != "!=", values))
            elif match["set"]:
                values = frozenset(value.strip() for value in match["values"].split(","))
                self._requirements.append((name, match["set"] == "in", values))
            else:
                self._requirements.append((name, not match["absent"], None))

    def __bool__(self) -> bool:
        return bool(self._requirements)

    def matches(self, found: Mapping[str, Any] | None) -> bool:
        """Whether an object has such labels; none, which is an object that is not there, has not."""
        if found is None:
            return False
        labels: Mapping[str, str] = found["metadata"].get("labels") or {}
        return all(
            (name in labels and (values is None or labels[name] in values)) == wanted
            for name, wanted, values in self._requirements
        )
