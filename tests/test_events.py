"""What happened: frozen records, and a way to listeners that cannot fail a call."""

from __future__ import annotations

import dataclasses
import logging
import pickle
import typing
from typing import Any

import pytest

from resilient import events
from resilient.events import Event, RetryScheduled, send_event

EVERY_EVENT: list[type[Event]] = [
    value for value in vars(events).values() if isinstance(value, type) and issubclass(value, Event)
]
SCHEDULED = RetryScheduled(at=1.0, name="orders", attempt=1, delay=0.5, reason="failed")


def build(kind: type[Event]) -> Event:
    examples: dict[Any, object] = {
        bool: True,
        float: 1.5,
        float | None: None,
        str: "a",
        int: 1,
        tuple[str, ...]: ("a", "b"),
    }
    types = typing.get_type_hints(kind)
    arguments: dict[str, Any] = {field.name: examples[types[field.name]] for field in dataclasses.fields(kind)}
    return kind(**arguments)


def test_every_event_is_public() -> None:
    assert {kind.__name__ for kind in EVERY_EVENT} == set(events.__all__) - {"send_event"}


@pytest.mark.parametrize("kind", EVERY_EVENT)
def test_each_one_says_when_and_where_and_is_a_value_that_does_not_change(kind: type[Event]) -> None:
    event = build(kind)
    assert (event.at, event.name) == (1.5, "a")
    assert event == build(kind)
    assert pickle.loads(pickle.dumps(event)) == event  # noqa: S301 - our own bytes
    assert not hasattr(event, "__dict__")
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.at = 2.0  # type: ignore[misc]  # the mistake is the test


@pytest.mark.parametrize("kind", EVERY_EVENT)
def test_each_one_says_what_it_means(kind: type[Event]) -> None:
    assert kind.__doc__
    assert not kind.__doc__.startswith(f"{kind.__name__}(")  # what a dataclass without a docstring gets


def test_a_listener_gets_the_event_itself() -> None:
    heard = list[Event]()
    send_event(heard.append, SCHEDULED)
    assert heard == [SCHEDULED]
    assert heard[0] is SCHEDULED


def test_what_a_listener_raises_is_logged_and_cannot_fail_a_call(caplog: pytest.LogCaptureFixture) -> None:
    def faulty(event: Event) -> None:
        raise ValueError("no room on the disk")

    with caplog.at_level(logging.ERROR, logger="resilient"):
        send_event(faulty, SCHEDULED)
    (record,) = caplog.records
    assert repr(SCHEDULED) in record.getMessage()
    assert record.exc_info
    assert isinstance(record.exc_info[1], ValueError)


@pytest.mark.parametrize("going_down", [KeyboardInterrupt, SystemExit])
def test_an_interpreter_that_goes_down_is_not_held_up_by_a_listener(going_down: type[BaseException]) -> None:
    def interrupted(event: Event) -> None:
        raise going_down

    with pytest.raises(going_down):
        send_event(interrupted, SCHEDULED)
