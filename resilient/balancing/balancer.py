"""Which instance gets the call."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Literal, TypeAlias, final

from resilient.balancing.explanation import Explanation, Standing
from resilient.balancing.keys import Key, Keyed
from resilient.balancing.member import Filter, Member, State
from resilient.balancing.pickers import PeakEwma, Picker
from resilient.balancing.probing import Asking, Probing
from resilient.errors import NoInstance
from resilient.events import Event, InstanceEjected, InstanceRestored, SnapshotApplied
from resilient.instance import Instance
from resilient.machines.circuit import CircuitState, Judgement, Permit
from resilient.machines.load import Load, Reporting
from resilient.machines.outlier import Division, Ejection
from resilient.machines.picking import Bounding, Chance, Explaining, Observer, Why
from resilient.machines.prequal import Prober
from resilient.snapshot import Snapshot
from resilient.verdict import Verdict

__all__ = ["Balancer", "Pick", "Reason"]

Reason: TypeAlias = Literal["balanced", "only", "panic", "trial", "elsewhere", "again"] | Why
"""Why an instance was picked: by the picker's rule; it is the only one; too few are healthy, so all are used; to find
out whether it works again; the call was tried at others before; the call was tried at all of them before.

Some rules say more than `balanced`: `bounded`, the key's own instance has as much as it may have; `cold`, the quickest
of those that are not loaded; `hot`, all are loaded, and it is least; `fallback`, at random or in turn, since the rule
had nothing to go by."""

_NEVER = Ejection(consecutive_failures=None, failure_ratio=None)
_QUIET: tuple[Event, ...] = ()


@final
class Pick:
    """The instance of one attempt, and why this one. Settle it exactly once; the rest is the balancer's business."""

    __slots__ = ("answered", "instance", "member", "permit", "reason", "settled")

    instance: Instance
    reason: Reason
    member: Member
    permit: Permit | None
    """None where the circuit has no say: in a panic."""
    answered: bool
    settled: bool

    def __init__(self, member: Member, permit: Permit | None, reason: Reason) -> None:
        self.instance = member.instance
        self.reason = reason
        self.member = member
        self.permit = permit
        self.answered = self.settled = False

    def __repr__(self) -> str:
        return f"Pick({self.instance.id!r}, {self.reason!r})"


@final
class Balancer:
    """Chooses an instance for each attempt, and learns from how it ends.

    `picker`
        The rule among several candidates (`PeakEwma()`).
    `ejection`
        How instances that fail are taken out of use (`Ejection()`); None: never.
    `filters`
        What narrows or tilts the choice, in this order.
    `name`
        Of the service, for its events and errors.

    Snapshots come in with `apply`; what is known of an instance survives as long as its id is in them. An instance of
    weight 0 gets no new calls. One that a call was tried at before gets it again only if there is no other. One that
    was ejected gets a single call, the first attempt of one, when its time is over.

    Time and chance are arguments. Thread-safe: a short lock around each decision, none while a call runs. Methods that
    return events leave it to the caller to send them, outside the lock.

    Raises `TypeError` for a picker that looks at latencies but not at failures.
    """

    def __init__(
        self,
        picker: Picker | None = None,
        *,
        ejection: Ejection | None = Ejection(),  # noqa: B008 - it is frozen
        filters: Sequence[Filter] = (),
        name: str = "",
    ) -> None:
        self.picker = PeakEwma() if picker is None else picker
        self.ejection = ejection
        self.filters = tuple(filters)
        self.name = name
        self._picking = self.picker.picking()
        self._observer = self._picking if isinstance(self._picking, Observer) else None
        if self._observer is None and hasattr(self._picking, "observe"):
            raise TypeError(
                f"picker={self.picker!r}: it observes latencies, so it must observe failures too "
                "(observe_failure, observe_unfinished), or what fails at once would look fastest"
            )
        self._explaining = self._picking if isinstance(self._picking, Explaining) else None
        self._bounding = self._picking if isinstance(self._picking, Bounding) else None
        self._reporting = self._picking if isinstance(self._picking, Reporting) else None
        self._prober = self._picking if isinstance(self._picking, Prober) else None
        self.probing: Probing | None = None
        """What asks instances how busy they are, where the picker wants that."""
        if self._prober is not None:
            if not isinstance(self.picker, Asking):
                raise TypeError(f"picker={self.picker!r}: its machine asks for probes, so it must say how (see Asking)")
            self.probing = Probing(self, self.picker)
        self.key: Key | None = self.picker.key if isinstance(self.picker, Keyed) else None
        """What the picker goes by, of a call."""
        self._in_flight = 0
        self._rules = _NEVER if ejection is None else ejection
        self._lock = threading.Lock()
        self._snapshot: Snapshot | None = None
        self._members: dict[str, Member] = {}
        self._order: list[Member] = []
        self._division: Division[Member] = self._rules.divide((), 0.0)
        self._candidates: tuple[Member, ...] = ()
        self._trial: tuple[Member, ...] = ()
        self._reason: Reason = "balanced"
        self._until = math.inf

    def __repr__(self) -> str:
        return f"Balancer({self.picker!r}, ejection={self.ejection!r}, name={self.name!r})"

    @property
    def snapshot(self) -> Snapshot | None:
        """The snapshot in force; None before the first."""
        return self._snapshot

    def apply(self, snapshot: Snapshot, now: float, random: Chance) -> tuple[Event, ...]:
        """Replace what is known of the service; return what changed."""
        with self._lock:
            last, self._snapshot = self._snapshot, snapshot
            if last is not None and last.instances == snapshot.instances:
                return _QUIET
            old = self._members
            self._members = {}
            added: list[Member] = []
            for instance in snapshot.instances:
                member = old.get(instance.id)
                if member is None:
                    member = Member(instance, self._rules.circuit(), now)
                    added.append(member)
                member.instance = instance
                self._members[instance.id] = member
            removed = [member for name, member in old.items() if name not in self._members]
            for member in removed:
                member.gone = True
                self._in_flight -= member.active
            self._order = [member for member in self._order if not member.gone]
            for member in added:
                self._order.insert(int(random() * (len(self._order) + 1)), member)
            self._arrange(now, random, changed=True)
        return (
            SnapshotApplied(
                at=now,
                name=self.name,
                version=snapshot.version,
                added=tuple(member.id for member in added),
                removed=tuple(member.id for member in removed),
            ),
        )

    def pick(self, now: float, random: Chance, tried: Sequence[Instance] | None = None, key: Hashable = None) -> Pick:
        """Choose an instance for one attempt.

        `tried` are those that the call was sent to before; `key` is what calls that belong together have in common, for
        pickers with affinity. Raises `NoInstance`, whose `retry_after` says when an ejected one is tried again.
        """
        with self._lock:
            if now >= self._until:
                self._arrange(now, random)
            candidates, reason = self._candidates, self._reason
            if tried or self._trial:
                candidates, reason, permit = self._narrow(candidates, now, tried)
                if permit is not None:
                    candidates[0].active += 1
                    self._in_flight += 1
                    return Pick(candidates[0], permit, reason)
            if not candidates:
                raise self._no_instance(now)
            if self._bounding is not None:
                self._bounding.in_flight = self._in_flight
            member = self._picking.pick(candidates, now, random, key)
            member.active += 1
            self._in_flight += 1
            if self._explaining is not None and reason == "balanced":
                reason = self._explaining.why or reason
            return Pick(member, member.circuit.closed, reason)

    def first_byte(self, pick: Pick, latency: float, now: float, random: Chance) -> tuple[Event, ...]:
        """Learn that a stream began well, `latency` seconds after it was asked for; it is settled when it is over.

        Without this call a long stream would say nothing until its end, and an instance on trial would stay on trial.
        """
        with self._lock:
            member, permit = pick.member, pick.permit
            if member.gone or pick.answered or pick.settled:
                return _QUIET
            pick.answered = True
            if self._observer is not None:
                self._observer.observe(member, latency, now)
            if permit is None or permit is member.circuit.closed:
                return _QUIET
            return self._judge(member, permit, Judgement.GOOD, now, random)

    def settle(
        self,
        pick: Pick,
        verdict: Verdict,
        latency: float,
        now: float,
        random: Chance,
        retry_after: float | None = None,
    ) -> tuple[Event, ...]:
        """End an attempt that came to `verdict`; return what this changed.

        `latency` are the seconds to the first byte, or those waited for it in vain; `retry_after` is what the instance
        asked for, if it did. Raises `RuntimeError` if the pick was settled before.
        """
        with self._lock:
            if pick.settled:
                raise RuntimeError(f"{pick!r} was settled before: an attempt ends once")
            pick.settled = True
            member, permit = pick.member, pick.permit
            member.active -= 1
            if member.gone:
                return _QUIET
            self._in_flight -= 1
            if verdict.good:
                if self._observer is not None and not pick.answered:
                    self._observer.observe(member, latency, now)
                if permit is None:
                    return _QUIET
                if permit is member.circuit.closed:
                    member.circuit.succeed(permit, now)
                    return _QUIET
                return self._judge(member, permit, Judgement.GOOD, now, random)
            judgement = Judgement.NOTHING
            if verdict.bad or verdict.refusal:
                judgement = Judgement.BAD if verdict.bad else Judgement.TURNED_AWAY
                if self._observer is not None:
                    # Of a failure nobody knows how long it lasts; who turns work away may say so.
                    self._observer.observe_failure(member, latency, retry_after if verdict.refusal else None, now)
            elif verdict is Verdict.CANCELLED and self._observer is not None and not pick.answered:
                self._observer.observe_unfinished(member, latency, now)
            return _QUIET if permit is None else self._judge(member, permit, judgement, now, random)

    @property
    def wants_reports(self) -> bool:
        """Whether the picker goes by what instances say of their load."""
        return self._reporting is not None

    def report(self, instance: Instance, load: Load, now: float) -> None:
        """Learn what an instance says of its load. Nothing comes of it where the picker goes by something else."""
        with self._lock:
            member = self._members.get(instance.id)
            if member is not None and self._reporting is not None:
                self._reporting.report(member, load, now)

    def probes(self, random: Chance) -> Sequence[Instance]:
        """Who is to be asked how busy it is, after a pick; for `probing`."""
        if self._prober is None:
            return ()
        with self._lock:
            return [member.instance for member in self._prober.probes(self._candidates, random)]

    def answered(self, instance: Instance, load: Load, now: float, random: Chance) -> None:
        """Learn what an instance that was asked says of its load."""
        with self._lock:
            member = self._members.get(instance.id)
            if member is not None and self._prober is not None:
                self._prober.answered(member, load, now, random)

    def instances(self, now: float) -> tuple[Standing, ...]:
        """How each instance stands at this moment, in the order of the snapshot."""
        return self.explain(now).standings

    def explain(self, now: float) -> Explanation:
        """Why a call made now would go where it goes."""
        with self._lock:
            snapshot = self._snapshot
            stale_since = None if snapshot is None else snapshot.stale_since
            return Explanation(
                reason=self._describe(),
                version=None if snapshot is None else snapshot.version,
                stale_for=None if stale_since is None else now - stale_since,
                panic=self._division.panic,
                standings=tuple(self._standing(member, now) for member in self._members.values()),
            )

    def _arrange(self, now: float, random: Chance, *, changed: bool = False) -> None:
        """Work out who the candidates are, until something changes."""
        before = [member.weight for member in self._order]
        for member in self._order:
            member.weight = member.instance.weight
        serving = [member for member in self._order if member.weight > 0]
        self._until = math.inf
        for rule in self.filters:
            weights, until = rule.weigh(serving, now)
            self._until = min(self._until, until)
            for member, weight in zip(serving, weights, strict=True):
                member.weight = weight
        if changed or before != [member.weight for member in self._order]:
            self._picking.update(self._order, now, random)
        self._division = self._rules.divide(serving, now)
        self._until = min(self._until, self._division.until)
        self._candidates = tuple(member for member in self._division.usable if member.weight > 0)
        self._trial = tuple(member for member in self._division.trial if member.weight > 0)
        if self._division.panic:
            self._reason = "panic"
        else:
            self._reason = "only" if len(self._candidates) == 1 else "balanced"

    def _narrow(
        self, candidates: tuple[Member, ...], now: float, tried: Sequence[Instance] | None
    ) -> tuple[tuple[Member, ...], Reason, Permit | None]:
        """Choose where some were tried before or somebody is on trial: a permit says that it is the only candidate."""
        before = {instance.id for instance in tried} if tried else set[str]()
        fresh = tuple(member for member in candidates if member.id not in before)
        # A call that failed once already is no probe, unless it has nowhere else to go.
        if not before or not fresh:
            for member in self._trial:
                permit = None if member.id in before else member.circuit.admit(now)
                if permit is not None:
                    return (member,), "trial", permit
        if not before:
            return candidates, self._reason, None
        return (fresh, "elsewhere", None) if fresh else (candidates, "again", None)

    def _judge(
        self, member: Member, permit: Permit, judgement: Judgement, now: float, random: Chance
    ) -> tuple[Event, ...]:
        """Tell the circuit, unless the cap forbids it; return the transitions."""
        circuit = member.circuit
        if judgement is Judgement.BAD and permit is circuit.closed and not self._division.room:
            return _QUIET
        row = circuit.failures()
        circuit.settle(permit, judgement, 0.0, now, random)
        if not circuit.changed:
            return _QUIET
        events: list[Event] = []
        for change in circuit.take_changes():
            if change.new is CircuitState.OPEN:
                reason = "its trial failed" if change.old is CircuitState.HALF_OPEN else self._why(row + 1)
                seconds = change.cooldown
                events.append(
                    InstanceEjected(at=now, name=self.name, instance=member.id, seconds=seconds, reason=reason)
                )
            elif change.new is CircuitState.CLOSED:
                member.healthy_since = now
                events.append(InstanceRestored(at=now, name=self.name, instance=member.id))
        if events:
            self._arrange(now, random)
        return tuple(events)

    def _why(self, row: int) -> str:
        limit, share = self._rules.consecutive_failures, self._rules.failure_ratio
        if limit is not None and row >= limit:
            return f"{row} failures in a row"
        return f"{share:.0%} of its calls in {self._rules.window:g} s failed"

    def _state(self, member: Member) -> State:
        if member.instance.weight == 0:
            return "draining"
        if not member.healthy:
            return "trial" if member in self._trial else "ejected"
        return "healthy" if member.weight > 0 else "filtered"

    def _standing(self, member: Member, now: float) -> Standing:
        return Standing(
            instance=member.instance,
            state=self._state(member),
            candidate=member in self._candidates,
            weight=member.weight,
            active=member.active,
            score=self._picking.score(member, now) if member.weight > 0 else math.inf,
            failures=member.circuit.failures(),
            ejected_for=0.0 if member.healthy else max(0.0, member.circuit.until - now),
        )

    def _describe(self) -> str:
        total = len(self._members)
        if self._snapshot is None:
            return "discovery has not answered yet"
        if total == 0:
            return "discovery knows no instance"
        states = Counter(self._state(member) for member in self._members.values())
        told = ", ".join(f"{count} {state}" for state, count in states.items())
        if self._division.panic:
            return f"panic, too few are healthy, so all are used: {told}"
        return f"{len(self._candidates)} of {total} instances are used: {told}"

    def _no_instance(self, now: float) -> NoInstance:
        waits = [member.circuit.retry_after(now) for member in self._division.trial]
        waits.append(self._division.until - now)
        soonest = min(wait for wait in waits if wait is not None)
        retry_after = soonest if math.isfinite(soonest) else None
        message = self._describe()
        return NoInstance(f"{self.name}: {message}" if self.name else message, policy=self, retry_after=retry_after)
