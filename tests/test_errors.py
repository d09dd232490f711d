"""Every error of the library: one tree, fresh objects, fit to cross a process boundary."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from itertools import takewhile

import pytest

from resilient import errors
from resilient.errors import (
    CircuitOpen,
    DeadlineExceeded,
    InProgress,
    OutcomeUnknown,
    RateLimited,
    Rejected,
    ResilienceError,
)
from resilient.pipeline import Pipeline
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.policies.rate_limit import RateLimit

EVERY_ERROR = [getattr(errors, name) for name in errors.__all__]


def drawn_tree() -> dict[str, str | None]:
    """The parent of each error, as the module's docstring draws it."""
    lines = inspect.cleandoc(errors.__doc__ or "").splitlines()
    lines = [line.strip() for line in lines[lines.index("::") + 2 :]]
    parents: dict[str, str | None] = {}
    path: list[str] = []
    for line in takewhile(bool, lines):
        branch = re.match(r"((?:\|  )*)(\|- |`- )?(\w+)", line)
        assert branch, line
        depth = len(branch[1]) // 3 + (branch[2] is not None)
        path[depth:] = [branch[3]]
        parents[branch[3]] = path[depth - 1] if depth else None
    return parents


def test_the_tree_in_the_docstring_is_the_tree_of_classes() -> None:
    real = {error.__name__: error.__bases__[0].__name__ for error in EVERY_ERROR}
    assert drawn_tree() == real | {"ResilienceError": None}
    assert ResilienceError.__bases__ == (Exception,)
    others = {error: error.__bases__[1:] for error in EVERY_ERROR if len(error.__bases__) > 1}
    assert others == {DeadlineExceeded: (TimeoutError,)}


def test_every_error_of_the_module_is_public() -> None:
    own = {name for name, _ in inspect.getmembers(errors, inspect.isclass) if not name.startswith("_")} - {"Any"}
    assert own == set(errors.__all__)


@pytest.mark.parametrize("kind", EVERY_ERROR)
def test_each_one_says_what_it_means_and_needs_no_arguments(kind: type[ResilienceError]) -> None:
    assert kind.__doc__
    assert str(kind()) == ""
    assert str(kind("too bad")) == "too bad"


@pytest.mark.parametrize("kind", EVERY_ERROR)
def test_each_one_survives_pickling_and_copying(kind: type[ResilienceError]) -> None:
    error = kind("too bad")
    error.add_note("after two attempts")
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):  # noqa: S301 - our own bytes
        assert type(twin) is kind
        assert twin.args == ("too bad",)
        assert vars(twin) == vars(error)


def test_a_rejection_crosses_a_process_boundary_with_the_description_of_its_policy() -> None:
    policy = CircuitBreaker()
    with pytest.raises(TypeError, match="lock"):
        pickle.dumps(policy)
    error = CircuitOpen("open", policy=policy, retry_after=2.5)
    twin = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert (twin.policy, twin.retry_after) == (repr(policy), 2.5)
    assert error.policy is policy


def test_what_else_an_error_says_crosses_a_process_boundary_too() -> None:
    late = pickle.loads(pickle.dumps(DeadlineExceeded("late", sent=False)))  # noqa: S301 - our own bytes
    busy = pickle.loads(pickle.dumps(InProgress("busy", retry_after=3.0)))  # noqa: S301 - our own bytes
    assert (late.sent, busy.retry_after) == (False, 3.0)


def test_a_deadline_that_passed_is_a_timeout() -> None:
    with pytest.raises(TimeoutError, match="too late"):
        raise DeadlineExceeded("too late")


def test_an_attempt_that_ran_out_of_time_was_sent_unless_said_otherwise() -> None:
    assert DeadlineExceeded().sent
    assert not DeadlineExceeded(sent=False).sent


def test_an_unknown_outcome_is_no_rejection() -> None:
    """Whoever catches `Rejected` may try again elsewhere; after this one nobody may."""
    assert not issubclass(OutcomeUnknown, Rejected | TimeoutError)


def test_each_refusal_is_a_fresh_object() -> None:
    """A peer raises one object again and again: after 5,000 rejections its traceback had 30,000 entries."""

    def work() -> None:
        raise AssertionError("the limit has no room")

    refused = Pipeline(RateLimit("1/hour"))(work)
    with pytest.raises(AssertionError):
        refused()
    raised = list[RateLimited]()
    for _ in range(3):
        with pytest.raises(RateLimited) as info:
            refused()
        raised.append(info.value)
    assert len({id(error) for error in raised}) == 3
    depths = {sum(1 for _ in inspect.getinnerframes(error.__traceback__)) for error in raised if error.__traceback__}
    assert len(depths) == 1
