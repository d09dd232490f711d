"""The collector's thresholds are as they were when the last run is over."""

from __future__ import annotations

import gc
import threading

import pytest

from resilient.lab.simulation.garbage import collected_rarely


def test_the_thresholds_are_put_back_whatever_happens():
    before = gc.get_threshold()
    with pytest.raises(KeyError), collected_rarely():
        assert gc.get_threshold() != before
        raise KeyError
    assert gc.get_threshold() == before


def test_runs_in_several_threads_overlap():
    before = gc.get_threshold()
    begun, go_on = threading.Event(), threading.Event()

    def other() -> None:
        with collected_rarely():
            begun.set()
            go_on.wait(30)

    thread = threading.Thread(target=other)
    with collected_rarely():
        thread.start()
        assert begun.wait(30)
    assert gc.get_threshold() != before  # the other one still runs
    go_on.set()
    thread.join()
    assert gc.get_threshold() == before
