"""Redis and Valkey: the claims that are kept there, and effects that are written in the same step."""

from __future__ import annotations

from resilient.backends.redis.effects import RedisEffect
from resilient.backends.redis.store import BlockingRedisStore, RedisStore, RedisTransaction

__all__ = ["BlockingRedisStore", "RedisEffect", "RedisStore", "RedisTransaction"]
