"""A sum of a thousand remote additions, over a network that now and then loses, repeats or changes what it carries."""

from __future__ import annotations

from resilient.lab.faults import Corruption
from resilient.lab.scenario import Band, Computations, Scenario, Tier
from resilient.lab.world.service_times import Exponential

__all__ = ["scenario"]


def scenario(*, sums: int = 50, steps: int = 1000, chance: float = 1e-4, honours_keys: bool = True) -> Scenario:
    """`sums` at once of `steps` calls, each of which goes wrong with the total `chance`, in one of four ways.

    The request is lost, the reply is, the request arrives twice, or the reply is changed. `honours_keys`: whether the
    far side honours idempotency keys.
    """
    return Scenario(
        name="one-plus-one",
        title="One plus one",
        source=(
            "Arithmetic: a chain of n steps, each of which goes wrong with the chance p, is right with (1 - p)^n. What "
            "a lost reply leaves open: Birrell, Nelson: Implementing Remote Procedure Calls (TOCS 1984)"
        ),
        naive=(
            "One chance in ten thousand is small for a call, and large for a thousand of them: every tenth sum is "
            "wrong. Retries save the sums whose request was lost, and quietly add twice where only the reply was."
        ),
        good=(
            "One idempotency key for all attempts of a call, honoured by the far side: whatever is lost, doubled or "
            "damaged is repeated, and still added once."
        ),
        tiers=[
            Tier(name="accounts", workers=2 * sums, service_time=Exponential(0.01), honours_keys=honours_keys),
        ],
        load=Computations(count=sums, steps=steps),
        duration=60.0 + 0.03 * steps,
        timeout=5.0,
        attempt_timeout=0.5,
        faults=[Corruption(lose_request=chance / 4, lose_reply=chance / 4, repeat=chance / 4, corrupt=chance / 4)],
        policies=("none", "retry1", "retry3", "default"),
        primary=("right", "duplicates", "success"),
        bands=[
            Band(policy="none", metric="right", low=0.85, high=0.95, why="theory: (1 - 1/10,000)^1000 = 0.905"),
            Band(
                policy="retry3",
                metric="right",
                low=0.88,
                high=0.97,
                why="theory: of the four only a lost request is mended: (1 - 0.75/10,000)^1000 = 0.928",
            ),
            Band(policy="retry3", metric="success", low=1.0, why="no call fails: what is wrong is not noticed"),
            Band(policy="retry3", metric="duplicates", low=1.0, why="3/4 of the chance, times 50,000 calls = 3.75"),
            Band(policy="default", metric="right", low=1.0, why="whatever goes wrong is repeated under the same key"),
            Band(policy="default", metric="duplicates", high=0.0, why="and the far side knows that key"),
        ],
    )
