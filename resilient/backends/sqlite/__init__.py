"""SQLite: the embedded database, and the claims that are kept in it."""

from __future__ import annotations

from resilient.backends.sqlite.claims import BlockingSQLiteStore, SQLiteStore

__all__ = ["BlockingSQLiteStore", "SQLiteStore"]
