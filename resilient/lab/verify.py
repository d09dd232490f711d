"""Whether this machine and this Python play the very runs that ours did.

    python -m resilient.lab.verify

A few small runs, of most kinds of load and fault, on each event loop; the hash of each is held against the one that
comes with the library. Whoever changes what a run comes to, in the simulator or in a policy, writes the hashes anew
with `--update`, and sees in the difference that it was a change.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import cast, final

from resilient.call import Priority
from resilient.lab.arrivals import bursts, poisson
from resilient.lab.episodes import Pauses
from resilient.lab.faults import Corruption, Crash, Fail, Fault, Partition, SilentReplies, Slow, Stop
from resilient.lab.membership import Rolling
from resilient.lab.results import canonical
from resilient.lab.scenario import Load, OpenLoop, Scenario, Tier, Users, Zipf
from resilient.lab.simulation.run import Mode, run
from resilient.lab.world.queues import AdaptiveLifo, Fifo, Priorities
from resilient.lab.world.service_times import Bimodal, Exponential, Lognormal

__all__ = ["RUNS", "Finding", "Planned", "main", "read_hashes", "report", "verify", "versions"]

_FILE = Path(__file__).with_name("verified.json")


# -- what is played: worlds of their own, so that the suite may change without them ----------------------------------


def _scenario(
    name: str, load: Load, tiers: Sequence[Tier], faults: Sequence[Fault], **zones: Sequence[str]
) -> Scenario:
    return Scenario(
        name=name,
        title="",
        source="",
        naive="",
        good="",
        load=load,
        tiers=tiers,
        faults=faults,
        duration=30.0,
        warmup=3.0,
        trigger=(10.0, 15.0),
        timeout=4.0,
        attempt_timeout=1.0,
        deadline=3.0,
        clients=3,
        latency=Lognormal(0.002),
        client_zones=zones.get("client_zones", (None,)),
    )


def _storm() -> Scenario:
    """A server that stands still, and a queue that is far too long afterwards."""
    load = OpenLoop(arrivals=partial(poisson, 90))
    return _scenario(
        "storm", load, [Tier(name="db", workers=10, service_time=Exponential(0.1))], [Stop(at=10, seconds=5)]
    )


def _shop() -> Scenario:
    """Two tiers in two zones, writes and reads of all priorities, and an accident every few seconds."""
    tiers = [
        Tier(
            name="front",
            instances=4,
            workers=8,
            service_time=Lognormal(0.02),
            queue=lambda: Priorities(limit=50),
            zones=("a", "b"),
            calls=("back",),
            lag=0.5,
        ),
        Tier(
            name="back",
            instances=3,
            workers=4,
            service_time=Bimodal(0.02, 0.3, 0.03),
            queue=lambda: AdaptiveLifo(limit=100),
            zones=("a", "b"),
            honours_keys=True,
        ),
    ]
    load = OpenLoop(
        arrivals=lambda random: bursts(30, 120, random, quiet_for=4, busy_for=2),
        writes=0.3,
        priorities={Priority.CRITICAL: 0.6, Priority.SHEDDABLE: 0.4},
        keys=Zipf(50),
    )
    faults = [
        Rolling(at=4, seconds=6, every=2.0, tier="front"),
        Crash(at=6, seconds=2, tier="back", places=[1]),
        Slow(at=10, seconds=5, tier="back", places=[0], factor=10.0),
        Partition(at=16, seconds=2, zone="b"),
        Corruption(at=19, seconds=3, lose_request=0.02, lose_reply=0.02, repeat=0.02, corrupt=0.02),
        SilentReplies(at=23, seconds=2, tier="back", ratio=0.1),
        Pauses(at=24, seconds=4, length=0.3, every=1.0, tier="back"),
    ]
    return _scenario("shop", load, tiers, faults, client_zones=("a", "b"))


def _office() -> Scenario:
    """Users who wait for answers, and servers that fail and refuse."""
    tier = Tier(name="it", instances=3, workers=2, service_time=Exponential(0.05), queue=lambda: Fifo(limit=10))
    faults = [Fail(at=10, seconds=5, ratio=0.4, status=503), Crash(at=20, seconds=2, places=[0])]
    return _scenario("office", Users(count=60, think=Exponential(0.8)), [tier], faults)


_SCENARIOS: Mapping[str, Callable[[], Scenario]] = {"storm": _storm, "shop": _shop, "office": _office}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One run that is played."""

    scenario: str
    policy: str
    backend: str
    mode: Mode = "functions"

    def __str__(self) -> str:
        over = ", over HTTP" if self.mode == "http" else ""
        return f"{self.scenario}, {self.policy}, {self.backend}{over}"

    def sha256(self) -> str:
        """Play it, and hash all that came of it."""
        played = run(_SCENARIOS[self.scenario](), self.policy, 7, backend=self.backend, mode=self.mode)
        return hashlib.sha256(canonical([played])).hexdigest()


def _planned() -> Iterator[Planned]:
    for scenario, policy, backend in product(_SCENARIOS, ("retry3", "default"), ("asyncio", "trio")):
        yield Planned(scenario=scenario, policy=policy, backend=backend)
    for backend in ("asyncio", "trio"):
        yield Planned(scenario="office", policy="default", backend=backend, mode="http")


RUNS: Sequence[Planned] = tuple(_planned())


# -- whether it is the same -----------------------------------------------------------------------------------------


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One run, its hash as it came with the library, and as it is here: `again` is that of a second try."""

    run: Planned
    expected: str | None
    found: str
    again: str | None = None

    @property
    def holds(self) -> bool:
        """Whether the two are the same."""
        return self.found == self.expected

    def __str__(self) -> str:
        if self.holds:
            return f"the same  {self.run}"
        if self.expected is None:
            return f"UNKNOWN   {self.run}: {self.found[:12]} here, no hash came with the library"
        if self.again != self.found:
            return f"UNSTEADY  {self.run}: {self.found[:12]} here, {(self.again or '')[:12]} when played again"
        return f"DIFFERENT {self.run}: {self.found[:12]} here, and again; {self.expected[:12]} came with the library"


def read_hashes() -> dict[str, str]:
    """The hashes that come with the library."""
    return cast("dict[str, str]", json.loads(_FILE.read_text(encoding="utf-8")))


def verify(
    runs: Sequence[Planned] | None = None,
    hashes: Mapping[str, str] | None = None,
    *,
    on_finding: Callable[[Finding], object] | None = None,
) -> list[Finding]:
    """Play the runs (left out: all), and hold each against its hash (left out: the one that comes with the library).

    What came out differently is played a second time, to tell chance from change. `on_finding` is told of each at once.
    Runs on trio are left out where it is not installed.
    """
    known = read_hashes() if hashes is None else hashes
    findings: list[Finding] = []
    for planned in RUNS if runs is None else runs:
        if planned.backend == "trio" and find_spec("trio") is None:
            continue
        found, expected = planned.sha256(), known.get(str(planned))
        again = None if found == expected else planned.sha256()
        findings.append(Finding(run=planned, expected=expected, found=found, again=again))
        if on_finding is not None:
            on_finding(findings[-1])
    return findings


def versions() -> dict[str, str]:
    """What a run could depend on, though it should not."""
    found = {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(),
    }
    for name in ("resilient-mesh", "anyio", "httpx", "trio"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def report(findings: Sequence[Finding]) -> str:
    """What was found, in words."""
    wrong = [finding for finding in findings if not finding.holds]
    if not wrong:
        return f"All {len(findings)} runs are the same as ours."
    here = ", ".join(f"{name} {value}" for name, value in versions().items())
    unsteady = any(finding.again != finding.found for finding in wrong)
    cause = (
        "A run that differs from itself depends on something that no seed rules: the time, the addresses of objects, "
        "the order of a set. That is a bug of ours."
        if unsteady
        else "Runs that are steady here, and different, come from a change of the simulator or of a policy, or from "
        "another mathematical library, whose logarithms may differ in the last place."
    )
    return "\n".join([f"{len(wrong)} of {len(findings)} runs are not the same as ours.", *map(str, wrong), here, cause])


def main(arguments: Sequence[str] | None = None) -> int:
    """Verify and print; return 1 where something differs."""
    parser = argparse.ArgumentParser(description="Whether this machine plays the very runs that ours did.")
    parser.add_argument("--update", action="store_true", help="take what comes out here for right from now on")
    given = parser.parse_args(arguments)
    if given.update:
        hashes = {str(planned): planned.sha256() for planned in RUNS}
        _FILE.write_text(json.dumps(hashes, indent=1) + "\n", encoding="utf-8")
        print(f"{len(hashes)} hashes written")
        return 0
    findings = verify(on_finding=print)
    print(report(findings))
    return 0 if all(finding.holds for finding in findings) else 1


if __name__ == "__main__":
    sys.exit(main())
