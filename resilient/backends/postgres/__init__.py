"""PostgreSQL: the claims that are kept beside the tables that their effects change."""

from __future__ import annotations

from resilient.backends.postgres.store import BlockingPostgresStore, PostgresStore

__all__ = ["BlockingPostgresStore", "PostgresStore"]
