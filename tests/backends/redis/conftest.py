"""What the tests of Redis and Valkey share."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from resilient.backends.redis import RedisStore
from tests.backends.redis.faces import FACES
from tests.servers.proxy import Proxy
from tests.servers.valkey import Valkey


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> str:
    """The event loops, and none."""
    found: str = request.param
    return found


@pytest.fixture
def tag() -> str:
    """A name for a store that nobody else uses."""
    return uuid.uuid4().hex


@pytest.fixture
def store(valkey: Valkey, tag: str) -> RedisStore:
    return RedisStore(valkey.url, tag=tag)


@pytest.fixture
def proxy(valkey: Valkey) -> Iterator[Proxy]:
    with Proxy(valkey.port) as proxy:
        yield proxy
