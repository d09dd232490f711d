"""What a picker sees of instances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from resilient.machines.picking import Change


@dataclass
class Stub:
    id: str
    weight: float = 1.0
    active: int = 0
    memory: Any = None


def change(members: Sequence[Stub], before: Sequence[Stub] = ()) -> Change:
    """Those who were there `before`, and are `members` now."""
    added = [one for one in members if not any(one is other for other in before)]
    return Change(members, added, [one for one in before if not any(one is other for other in members)])
