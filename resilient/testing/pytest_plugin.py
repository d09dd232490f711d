"""A pytest plugin that runs async tests in virtual time.

::

    @pytest.mark.virtual_time
    async def test_an_hour_passes() -> None:
        await anyio.sleep(3600)

A marked test runs once on asyncio and, where trio is installed, once on trio; a module that marks all of its
tests has `pytestmark = pytest.mark.virtual_time`. `@pytest.mark.virtual_time(seed=7)` chooses the seed (0). Override
the fixture `virtual_time_backend` to choose the backends. Fixtures are set up and torn down before and after, in
real time and outside the event loop.

pytest loads the plugin by itself; another marker for async tests (of anyio or pytest-asyncio) must not be on the
same test.
"""

from __future__ import annotations

import inspect
from functools import partial
from importlib.util import find_spec

import pytest

__all__ = ["virtual_time_backend"]


@pytest.fixture(params=["asyncio", "trio"] if find_spec("trio") else ["asyncio"])
def virtual_time_backend(request: pytest.FixtureRequest) -> str:
    """The backend of a test that is marked `virtual_time`: each that is installed, in turn."""
    backend: str = request.param
    return backend


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", "virtual_time(seed=0): run this async test in virtual time, on each backend")


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Module | pytest.Class, name: str, obj: object) -> None:
    """Give each marked async test the backend."""
    if inspect.iscoroutinefunction(obj) and collector.funcnamefilter(name):
        marks = [*collector.iter_markers("virtual_time"), *getattr(obj, "pytestmark", [])]
        if any(mark.name == "virtual_time" for mark in marks):
            pytest.mark.usefixtures("virtual_time_backend")(obj)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a marked async test in virtual time."""
    mark = pyfuncitem.get_closest_marker("virtual_time")
    if mark is None or not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    from resilient.testing import virtual_time  # not before it is needed: pytest loads this in every session

    values = pyfuncitem.funcargs
    given = {name: values[name] for name in inspect.signature(pyfuncitem.obj).parameters if name in values}
    virtual_time.run(partial(pyfuncitem.obj, **given), backend=str(values["virtual_time_backend"]), **mark.kwargs)
    return True
