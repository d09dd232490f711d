"""What all tests share."""

from __future__ import annotations

import signal

import pytest
from hypothesis import HealthCheck, settings

from tests.servers.postgres import Postgres
from tests.servers.sharing import shared
from tests.servers.valkey import Valkey

# A shell lets what it runs in the background ignore Ctrl-C, and so would every process that a test interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A machine that is busy with something else is no reason to fail.
settings.register_profile("resilient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("resilient")


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> str:
    """The event loops that everything asynchronous is tested on."""
    name: str = request.param
    return name


@pytest.fixture
def postgres() -> Postgres:
    """A server that every test of this process uses: take a database of your own."""
    return shared(Postgres)


@pytest.fixture
def postgres_url(postgres: Postgres) -> str:
    """An empty database of the test's own."""
    return postgres.create_database()


@pytest.fixture
def valkey() -> Valkey:
    """A server that every test of this process uses: take keys of your own."""
    return shared(Valkey)
