"""What became of an attempt, in one word that every policy reads."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import anyio
import pytest
import trio

from resilient import errors, verdict
from resilient.errors import DeadlineExceeded, InProgress, OutcomeUnknown, RateLimited, Rejected, StoreUnavailable
from resilient.verdict import Blame, Classifier, Effect, Outcome, Repeat, Verdict, classify_function
from tests.tables import read_table

REJECTIONS = [
    kind for kind in map(errors.__dict__.get, errors.__all__) if isinstance(kind, type) and issubclass(kind, Rejected)
]


def test_the_table_in_the_docstring_is_what_the_verdicts_say() -> None:
    table = {name.strip("`"): answers for name, *answers, _ in read_table(verdict.__doc__)}
    assert table == {each.name: [each.effect.value, each.blame.value, each.repeat.value] for each in Verdict}


def test_no_two_verdicts_are_one() -> None:
    """Members of an enumeration with equal values are aliases."""
    assert [each.name for each in Verdict] == list(Verdict.__members__)


@pytest.mark.parametrize("each", Verdict)
def test_the_shorthands_follow_from_effect_and_blame(each: Verdict) -> None:
    assert each.unknown == (each.effect is Effect.UNKNOWN)
    assert each.good == (each.blame is Blame.HEALTHY)
    assert each.refusal == (each.blame is Blame.PENALTY)
    assert not (each.good and each.bad)


def test_breakers_count_what_the_instance_did_wrong_and_no_enforced_quota() -> None:
    assert {each for each in Verdict if each.bad} == {Verdict.FAILED, Verdict.OVERLOADED, Verdict.UNREACHABLE}


def test_an_adaptive_throttle_counts_what_was_turned_away() -> None:
    assert {each for each in Verdict if each.refusal} == {Verdict.OVERLOADED, Verdict.REFUSED}


def test_what_certainly_did_not_run_is_repeated_unless_it_was_our_own_rejection() -> None:
    none = {each for each in Verdict if each.effect is Effect.NONE}
    assert {each for each in Verdict if each.repeat is Repeat.ALWAYS} == none - {Verdict.LOCAL}


def test_what_was_done_is_never_repeated() -> None:
    assert {each.repeat for each in Verdict if each.effect is Effect.DONE} == {Repeat.NO}


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        *[(kind(), Verdict.LOCAL) for kind in REJECTIONS],
        (DeadlineExceeded(sent=False), Verdict.LOCAL),
        (DeadlineExceeded(sent=True), Verdict.FAILED),
        (DeadlineExceeded(overslept=True), Verdict.PENDING),
        (TimeoutError(), Verdict.FAILED),
        (ConnectionRefusedError(), Verdict.UNREACHABLE),
        (ConnectionResetError(), Verdict.FAILED),
        (OSError(), Verdict.FAILED),
        (ValueError(), Verdict.FAILED),
        (OutcomeUnknown(), Verdict.FAILED),
        (StoreUnavailable(), Verdict.FAILED),
        (ExceptionGroup("", [ValueError()]), Verdict.FAILED),
        (asyncio.CancelledError(), Verdict.CANCELLED),
        (BaseExceptionGroup("", [asyncio.CancelledError(), ValueError()]), Verdict.CANCELLED),
        (KeyboardInterrupt(), Verdict.CANCELLED),
        (GeneratorExit(), Verdict.CANCELLED),
    ],
)
def test_how_an_exception_of_a_function_is_judged(error: BaseException, expected: Verdict) -> None:
    assert classify_function.judge_error(error).verdict is expected


def test_a_cancellation_is_judged_as_one_on_either_backend(backend: str) -> None:
    caught = list[BaseException]()

    async def main() -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            try:
                await anyio.sleep_forever()
            except BaseException as error:
                caught.append(error)
                raise

    anyio.run(main, backend=backend)
    assert [type(error) for error in caught] == [trio.Cancelled if backend == "trio" else asyncio.CancelledError]
    assert classify_function.error(caught[0]) is Verdict.CANCELLED


def test_every_result_of_a_function_is_good() -> None:
    for result in (1, None, False, ValueError("a value")):
        assert classify_function.judge_result(result) == Outcome(result, None, Verdict.OK)


def test_the_result_is_judged_where_a_protocol_says_how() -> None:
    by_number = Classifier(
        error=lambda _: Verdict.FAILED,
        result=lambda number: Verdict.OVERLOADED if number == 503 else Verdict.OK,
        hint=lambda number: 2.0 if number == 503 else None,
    )
    assert by_number.judge_result(503) == Outcome(503, None, Verdict.OVERLOADED, 2.0)
    assert by_number.judge_result(200) == Outcome(200, None, Verdict.OK)


def test_an_exception_says_itself_how_long_to_wait_unless_the_protocol_knows() -> None:
    busy = InProgress("busy", retry_after=3.0)
    assert classify_function.judge_error(busy).retry_after == 3.0
    assert Classifier(error=classify_function.error, hint=lambda _: 7.0).judge_error(busy).retry_after == 7.0
    assert classify_function.judge_error(RateLimited()).retry_after is None
    assert classify_function.judge_error(ValueError()).retry_after is None


@pytest.mark.parametrize("foreign", ["3", timedelta(seconds=3), object()])
def test_what_other_libraries_call_retry_after_and_is_no_number_is_left_alone(foreign: object) -> None:
    error = ValueError()
    error.retry_after = foreign  # type: ignore[attr-defined]  # as exceptions of other libraries do
    assert classify_function.judge_error(error) == Outcome(None, error, Verdict.FAILED)


def test_a_plain_value_stays_what_it_is_when_another_attempt_takes_its_place(backend: str) -> None:
    assert anyio.run(classify_function.discard, [1], backend=backend) is True
