"""Several sets of tables in one database, as one: for whoever makes them by command."""

from __future__ import annotations

from typing import final

from resilient.backends.store import Schema

__all__ = ["Schemas"]


@final
class Schemas:
    """All the tables that a store may use, of which each set has its own version."""

    def __init__(self, *parts: Schema) -> None:
        self._parts = parts

    def statements(self) -> list[str]:
        """What makes the tables in an empty database."""
        # Each part begins with the table of versions; once is enough.
        return list(dict.fromkeys(statement for part in self._parts for statement in part.statements()))

    def migrate(self) -> list[str]:
        """Make the tables, or bring them up to date; return what was run."""
        return [statement for part in self._parts for statement in part.migrate()]
