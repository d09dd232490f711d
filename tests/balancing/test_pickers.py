"""The rules as they are configured."""

from __future__ import annotations

import math

import pytest

from resilient.balancing import (
    Balancer,
    Ejection,
    LeastRequest,
    Observer,
    PeakEwma,
    Picker,
    Picking,
    Random,
    RoundRobin,
)
from resilient.machines.picking import LeastRequestPicking


@pytest.mark.parametrize("picker", [Random(), RoundRobin(), LeastRequest(), PeakEwma()])
def test_one_configuration_serves_two_services(picker: Picker) -> None:
    assert picker.picking() is not picker.picking()


def test_rules_are_values() -> None:
    assert PeakEwma() == PeakEwma(tau=3.0)
    assert repr(PeakEwma(tau=1.0)) == "PeakEwma(tau=1.0, penalty=5.0, longest=300.0, initial=0.03)"


@pytest.mark.parametrize("argument", ["tau", "longest", "initial"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_a_bad_duration_is_refused_by_name(argument: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{argument}={value}: a finite number of seconds"):
        PeakEwma(**{argument: value})


@pytest.mark.parametrize("penalty", [0.0, 0.5, -1.0, math.inf, math.nan])
def test_latency_is_not_looked_at_without_a_penalty_for_failures(penalty: float) -> None:
    with pytest.raises(ValueError, match="an instance that fails fast must never look fast"):
        PeakEwma(penalty=penalty)


def test_a_picker_of_others_is_not_either() -> None:
    class OnlyLatency(LeastRequestPicking):  # type: ignore[misc]  # final for others, not for a test
        def observe(self, candidate: object, latency: float, now: float) -> None: ...

    class Rule:
        def picking(self) -> Picking:
            return OnlyLatency()

    with pytest.raises(TypeError, match="must observe failures too"):
        Balancer(Rule())


def test_the_default_is_the_peak_ewma_with_ejection() -> None:
    balancer = Balancer(name="orders")
    assert balancer.picker == PeakEwma()
    assert balancer.ejection == Ejection()
    assert isinstance(balancer.picker.picking(), Observer)
    assert repr(balancer).startswith("Balancer(PeakEwma(")
