"""Who is an outlier among equals, and where nobody can be."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.machines.comparison import Comparison

GOOD = (100, 0)


def places(comparison: Comparison, *tallies: tuple[int, int]) -> list[int]:
    return [place for place, _ in comparison.outliers(tallies)]


@pytest.mark.parametrize(
    ("tallies", "found"),
    [
        ([], []),
        ([(80, 20)], []),  # it is the only one
        ([GOOD] * 3 + [(80, 20)], []),  # four are too few for a mean
        ([GOOD] * 4 + [(80, 20)], [4]),  # one of five is 2 deviations below the mean, which is more than 1.9
        ([GOOD] * 4 + [(79, 20)], []),  # 99 calls are too few
        ([(99, 0), *[GOOD] * 3, (80, 20)], []),  # they count for the others, too
        ([GOOD] * 8 + [(80, 20)] * 2, [8, 9]),  # 2 of 10 are 20 %
        ([GOOD] * 7 + [(80, 20)] * 3, []),  # 3 of 10 are more than 21.7 %
        ([GOOD] * 5, []),
        ([(0, 100)] * 5, [0, 1, 2, 3, 4]),  # all alike, but each fails more than 85 %
        ([(8, 42), *[(50, 0)] * 4], []),  # 84 %
        ([(15, 85), *[(50, 0)] * 4], [0]),  # exactly 85 %, which is enough
        ([(0, 49), *[(50, 0)] * 4], []),  # 49 calls are too few for either test
        ([(0, 50), *[(50, 0)] * 3], []),  # and so are four instances
    ],
)
def test_who_is_an_outlier(tallies: list[tuple[int, int]], found: list[int]) -> None:
    assert sorted(places(Comparison(), *tallies)) == found


def test_either_test_may_be_off() -> None:
    sick = [*[GOOD] * 4, (80, 20)]
    dead = [*[(60, 0)] * 4, (0, 60)]
    assert places(Comparison(deviations=None), *sick) == []
    assert places(Comparison(deviations=None), *dead) == [4]
    assert places(Comparison(failure_share=None), *sick) == [4]
    assert places(Comparison(failure_share=None), *dead) == []


def test_the_worst_comes_first_and_each_once_with_its_reason() -> None:
    found = Comparison(deviations=0.1).outliers([*[GOOD] * 8, (70, 30), (10, 90)])
    assert found == [
        (9, "90.0% of its calls failed, where the limit is 85%"),
        (8, "70.0% of its calls succeeded, 88.0% on average of 10 instances"),
    ]


def test_the_reason_names_the_mean() -> None:
    (found,) = Comparison().outliers([*[GOOD] * 4, (80, 20)])
    assert found == (4, "80.0% of its calls succeeded, 96.0% on average of 5 instances")


@given(st.integers(1, 60), st.integers(5, 100), st.integers(1, 99))
def test_equally_bad_ones_are_found_if_they_are_few_enough(bad: int, total: int, failed: int) -> None:
    """Of n instances, k equally bad ones deviate by sqrt((n - k) / k): more than 1.9 up to 21.7 % of them."""
    bad = min(bad, total)
    found = places(Comparison(failure_share=None), *[(100 - failed, failed)] * bad, *[GOOD] * (total - bad))
    assert sorted(found) == ([*range(bad)] if math.sqrt((total - bad) / bad) > 1.9 else [])


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), max_size=30))
def test_it_is_what_its_documentation_says(tallies: list[tuple[int, int]]) -> None:
    shares = {place: good / (good + bad) for place, (good, bad) in enumerate(tallies) if good + bad}
    expected = set()
    judged = {place: share for place, share in shares.items() if sum(tallies[place]) >= 100}
    if len(judged) >= 5:
        limit = statistics.fmean(judged.values()) - 1.9 * statistics.pstdev(judged.values())
        expected |= {place for place, share in judged.items() if share < limit}
    judged = {place: share for place, share in shares.items() if sum(tallies[place]) >= 50}
    if len(judged) >= 5:
        expected |= {place for place in judged if tallies[place][1] / sum(tallies[place]) >= 0.85}
    found = places(Comparison(), *tallies)
    assert set(found) == expected
    assert [shares[place] for place in found] == sorted(shares[place] for place in found)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"deviations": 0.0}, "deviations=0.0: a number of standard deviations, more than 0"),
        ({"deviations": math.inf}, "deviations=inf"),
        ({"failure_share": 0.0}, "failure_share=0.0: a share, above 0 and at most 1"),
        ({"failure_share": 1.1}, "failure_share=1.1"),
        ({"deviations": None, "failure_share": None}, "nothing is left to compare by"),
        ({"success_calls": 0}, "success_calls=0: a whole number, at least 1"),
        ({"failure_calls": 0}, "failure_calls=0"),
        ({"instances": 1}, "instances=1: a whole number, at least 2"),
    ],
)
def test_arguments_that_cannot_work_are_refused(arguments: dict[str, float | None], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Comparison(**arguments)  # type: ignore[arg-type]  # the table's
