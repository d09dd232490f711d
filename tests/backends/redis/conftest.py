"""What the tests of Redis and Valkey share."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from resilient.backends.redis import RedisStore
from tests.backends.redis.faces import FACES, PAIRS
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


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest) -> tuple[type[Valkey], str]:
    """A kind of server, and a face."""
    found: tuple[type[Valkey], str] = request.param
    return found


@pytest.fixture
def kind(pair: tuple[type[Valkey], str]) -> type[Valkey]:
    return pair[0]


@pytest.fixture
def server(kind: type[Valkey]) -> Iterator[Valkey]:
    """One that a test may do anything to."""
    with kind() as server:
        yield server
