"""The pytest plugin, in a pytest of its own."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # this plugin alone, however it is installed

    def run(source: str) -> pytest.RunResult:
        pytester.makepyfile(source)
        return pytester.runpytest_inprocess("-p", "resilient.testing.pytest_plugin", "--strict-markers", "-v")

    return run


def test_a_marked_test_runs_in_virtual_time_on_both_backends(run):
    result = run(
        """
        import anyio, pytest
        from resilient.context import current_runtime

        @pytest.fixture
        def hour():
            return 3600.0

        @pytest.mark.virtual_time
        async def test_an_hour(hour):
            await anyio.sleep(hour)
            assert current_runtime().now() == anyio.current_time() == 3600.0
        """
    )
    result.stdout.fnmatch_lines(["*test_an_hour?asyncio? PASSED*", "*test_an_hour?trio? PASSED*"])
    result.assert_outcomes(passed=2)


def test_a_failure_is_a_failure(run):
    result = run(
        """
        import pytest

        @pytest.mark.virtual_time
        async def test_wrong():
            assert 1 + 1 == 3
        """
    )
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*assert (1 + 1) == 3*"])


def test_the_seed_is_the_markers(run):
    result = run(
        """
        import random, pytest
        from resilient.context import current_runtime

        @pytest.mark.virtual_time(seed=7)
        async def test_seed():
            assert current_runtime().random() == random.Random(7).random()
        """
    )
    result.assert_outcomes(passed=2)


def test_whole_modules_and_classes_can_be_marked_and_plain_tests_in_them_stay_plain(run):
    result = run(
        """
        import anyio, pytest

        pytestmark = pytest.mark.virtual_time

        class TestThings:
            async def test_sleep(self):
                await anyio.sleep(3600)

        def test_plain():
            pass
        """
    )
    result.assert_outcomes(passed=3)


def test_the_backends_can_be_chosen_with_the_fixture(run):
    result = run(
        """
        import asyncio, pytest

        @pytest.fixture
        def virtual_time_backend():
            return "asyncio"

        @pytest.mark.virtual_time
        async def test_on_asyncio(virtual_time_backend):
            await asyncio.sleep(3600)
        """
    )
    result.assert_outcomes(passed=1)


def test_unmarked_tests_are_left_alone(run):
    result = run(
        """
        async def test_nobodys():
            pass
        """
    )
    result.assert_outcomes(failed=1)  # pytest itself refuses async tests that no plugin runs
