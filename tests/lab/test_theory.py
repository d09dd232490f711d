"""The simulator against what is known exactly: quickly here, with looser bounds than in the whole suite."""

from __future__ import annotations

import math

import pytest

from resilient.lab import theory
from resilient.lab.theory import LAWS, Finding, check, erlang_c, hedged_mean, hedged_quantile, mean_wait, supermarket

CALLS = {"M/M/1 at 0.5": 15_000, "M/M/4 at 0.7": 15_000, "power of two choices at 0.9": 30_000}


@pytest.mark.parametrize("name", LAWS)
def test_each_law_holds(name):
    (*found,) = check([name], seeds=1, calls=CALLS.get(name, 8_000), within=0.15, processes=1)
    assert len(found) == len(LAWS[name].expected)
    assert all(finding.holds for finding in found), "\n".join(map(str, found))


def test_they_hold_on_trio_too():
    found = check(["M/M/4 at 0.5"], seeds=1, calls=4_000, within=0.2, processes=1, backend="trio")
    assert all(finding.holds for finding in found), "\n".join(map(str, found))


def test_several_processes_find_the_same():
    one, two = (check(["M/M/1 at 0.5"], seeds=2, calls=500, within=1.0, processes=number) for number in (1, 2))
    assert one == two


# -- the formulas ---------------------------------------------------------------------------------------------------


def test_one_server_is_as_often_busy_as_it_is_used():
    assert [erlang_c(1, load) for load in (0.1, 0.5, 0.9)] == pytest.approx([0.1, 0.5, 0.9])


@pytest.mark.parametrize(("servers", "load"), [(2, 1.0), (4, 2.8), (20, 14.0), (100, 95.0)])
def test_erlangs_recursion_is_his_sum(servers, load):
    tail = load**servers / math.factorial(servers) * servers / (servers - load)
    below = math.fsum(load**number / math.factorial(number) for number in range(servers))
    assert erlang_c(servers, load) == pytest.approx(tail / (below + tail))


def test_the_mean_wait_is_that_of_the_textbook():
    assert mean_wait(1, 0.5, 1.0) == pytest.approx(1.0)
    assert mean_wait(1, 0.7, 2.0) == pytest.approx(0.7 / 0.3 * 2.0)
    assert mean_wait(2, 0.5, 1.0) == pytest.approx(1 / 3)


def test_two_choices_make_long_queues_rare():
    assert [supermarket(0.9, length) for length in (0, 1, 2, 3)] == pytest.approx([1.0, 0.9, 0.9**3, 0.9**7])


def test_a_hedge_is_the_sooner_of_two():
    """Against the integral of the chance that both still run."""

    def both_run(t):
        return math.exp(-t / 2.0) * (math.exp(-(t - 1.0) / 2.0) if t > 1.0 else 1.0)

    step = 0.001
    assert hedged_mean(2.0, 1.0) == pytest.approx(math.fsum(both_run((n + 0.5) * step) * step for n in range(40_000)))
    assert both_run(hedged_quantile(2.0, 1.0, 0.99)) == pytest.approx(0.01)
    assert hedged_mean(2.0, 1e9) == pytest.approx(2.0)


# -- the report -----------------------------------------------------------------------------------------------------


def test_what_does_not_hold_is_told():
    finding = Finding(law="M/M/1", metric="wait", expected=1.0, measured=1.05, within=0.02)
    assert not finding.holds
    assert str(finding).endswith("+5.00%  NOT within 2.0%")
    assert Finding(law="M/M/1", metric="wait", expected=1.0, measured=0.985, within=0.02).holds


def test_the_command_prints_and_judges(capsys):
    options = ["M/M/1 at 0.5", "--seeds", "1", "--calls", "2000", "--processes", "1"]
    assert theory.main([*options, "--within", "0.5"]) == 0
    assert theory.main([*options, "--within", "1e-9"]) == 1
    said = capsys.readouterr().out
    assert said.count("M/M/1 at 0.5 ") == 2
    assert "NOT within" in said
    assert theory.main([*options, "--within", "0.5", "--markdown"]) == 0
    head, _, columns, _, row = capsys.readouterr().out.splitlines()
    assert head.endswith("1 seeds of 2,000 calls.")
    assert columns == "| law | metric | theory | measured | off |"
    assert row.startswith("| M/M/1 at 0.5 | wait | 0.01000 |")
    with pytest.raises(SystemExit):
        theory.main(["M/M/1 at 0.6"])
    assert "no law 'M/M/1 at 0.6': there are M/M/1 at 0.5" in capsys.readouterr().err
