"""Which instance gets the call."""

from __future__ import annotations

import math
import threading
from collections.abc import Hashable, Sequence
from typing import final

from resilient.balancing.arrangement import Arrangement
from resilient.balancing.ejecting import Ejecting
from resilient.balancing.explanation import Explanation, Standing, describe, explain
from resilient.balancing.keys import Key, Keyed
from resilient.balancing.member import Filter, Member
from resilient.balancing.narrowing import Narrowing
from resilient.balancing.pick import Pick, Reason
from resilient.balancing.pickers import PeakEwma, Picker
from resilient.balancing.probing import Asking, Probing
from resilient.balancing.roster import Roster
from resilient.errors import NoInstance
from resilient.events import Event, InstanceHealthy, InstanceUnhealthy, SnapshotApplied
from resilient.instance import Instance
from resilient.machines.circuit import Judgement, Permit
from resilient.machines.load import Load, Reporting
from resilient.machines.outlier import Ejection
from resilient.machines.picking import Bounding, Chance, Change, Explaining, Observer
from resilient.machines.prequal import Prober
from resilient.snapshot import Snapshot
from resilient.verdict import Verdict

__all__ = ["Balancer"]

_NEVER = Ejection(consecutive_failures=None, failure_ratio=None)
_QUIET: tuple[Event, ...] = ()


@final
class Balancer:
    """Chooses an instance for each attempt, and learns from how it ends.

    `picker`
        The rule among several candidates (`PeakEwma()`).
    `ejection`
        How instances that fail are taken out of use (`Ejection()`); None: never.
    `filters`
        What narrows or tilts the choice, in this order (see `resilient.balancing.filters`).
    `name`
        Of the service, for its events and errors.

    Snapshots come in with `apply`; what is known of an instance survives as long as its id is in them. An instance of
    weight 0 gets no new calls. One that a call was tried at before gets it again only if there is no other. One that
    was ejected gets a single call, the first attempt of one, when its time is over.

    Time and chance are arguments. Thread-safe: a short lock around each decision, none while a call runs. Methods that
    return events leave it to the caller to send them, outside the lock.

    Raises `TypeError` for a picker that looks at latencies but not at failures, and for a filter that is none;
    `ValueError` for filters that go by different keys.
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
        self._observe = None if self._observer is None else self._observer.observe
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
        self._ejecting = Ejecting(_NEVER if ejection is None else ejection, name)
        self._good = self._ejecting.good
        self._lock = threading.Lock()
        self._snapshot: Snapshot | None = None
        self._roster = Roster()
        self._narrowing = Narrowing(self.filters)
        own = self.picker.key if isinstance(self.picker, Keyed) else None
        other = self._narrowing.key
        if own is not None and other not in {None, own}:
            raise ValueError(f"picker={self.picker!r}: it goes by another key than the filters; a call has one")
        self.key: Key | None = own or other
        """What calls that belong together have in common."""
        self._arrangement = Arrangement(self._roster, Narrowing(()), self._ejecting.rules, 0.0, float)
        # What a pick needs of it, at hand.
        self._straight: tuple[Member, ...] | None = ()
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
            if last is None:
                self._ejecting.begin(now)
            elif last.instances == snapshot.instances:
                return _QUIET
            roster = self._roster
            added, removed = roster.follow(snapshot.instances, lambda one: self._ejecting.member(one, now), random)
            for member in removed:
                self._ejecting.forget(member)
                if self._bounding is not None:
                    self._bounding.in_flight -= member.active
            came = set(added)  # pickers see them in their own order, the event names them in the snapshot's
            in_order = [member for member in roster.order if member in came] if len(came) > 1 else added
            self._arrange(now, random, Change(roster.order, in_order, removed))
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
        # Here and in `settle` a `with` block would cost a tenth of the whole: twice as much as these two calls.
        self._lock.acquire()
        try:
            if now >= self._until:
                self._arrange(now, random)
            candidates, reason = self._straight, self._reason
            if tried or candidates is None:
                candidates, reason, permit = self._arrangement.narrow(now, random, tried, key)
                if permit is not None:
                    candidates[0].active += 1
                    if self._bounding is not None:
                        self._bounding.in_flight += 1
                    return Pick(candidates[0], permit, reason)
            if not candidates:
                raise self._no_instance(now)
            member = self._picking.pick(candidates, now, random, key)
            member.active += 1
            if self._bounding is not None:
                self._bounding.in_flight += 1
            if self._explaining is not None and reason == "balanced":
                reason = self._explaining.why or reason
            return Pick(member, member.circuit.closed, reason)
        finally:
            self._lock.release()

    def first_byte(self, pick: Pick, latency: float, now: float, random: Chance) -> tuple[Event, ...]:
        """Learn that a stream began well, `latency` seconds after it was asked for; it is settled when it is over.

        Without this call a long stream would say nothing until its end, and an instance on trial would stay on trial.
        """
        with self._lock:
            member, permit = pick.member, pick.permit
            if member.gone or pick.answered or pick.settled:
                return _QUIET
            pick.answered = True
            if self._observe is not None:
                self._observe(member, latency, now)
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
        self._lock.acquire()
        try:
            if pick.settled:
                raise RuntimeError(f"{pick!r} was settled before: an attempt ends once")
            pick.settled = True
            member, permit = pick.member, pick.permit
            member.active -= 1
            if member.gone:
                return _QUIET
            if self._bounding is not None:
                self._bounding.in_flight -= 1
            if not verdict.good:
                return self._failed(pick, verdict, latency, now, random, retry_after)
            if self._observe is not None and not pick.answered:
                self._observe(member, latency, now)
            if permit is None:
                return _QUIET
            circuit = member.circuit
            if permit is not circuit.closed:
                return self._judge(member, permit, Judgement.GOOD, now, random)
            # What `Circuit.succeed` does, but counted for all circuits together.
            good = self._good
            if now >= good.edge:
                good.roll(now)
            counts = good.present
            counts[member] = counts.get(member, 0) + 1
            circuit.row = 0
            return _QUIET
        finally:
            self._lock.release()

    def era(self, instance: str) -> int | None:
        """A number that changes with each ejection and restoration of an instance; None: it is not known.

        For `check`: whoever checks an instance asks before the check begins.
        """
        with self._lock:
            member = self._roster.get(instance)
            return None if member is None else member.circuit.era

    def check(
        self, instance: str, problem: str | None, now: float, random: Chance, *, restore: int | None = None
    ) -> tuple[Event, ...]:
        """Learn what health checks say of an instance, and return what this changed.

        `problem` is what is wrong with it, None: it is well. With `restore`, the `era` from before the check, its
        ejection is over too, if it has been ejected since then already.
        """
        with self._lock:
            member = self._roster.get(instance)
            if member is None:
                return _QUIET
            events: list[Event] = []
            was, member.problem = member.problem, problem
            if problem is None and was is not None:
                member.healthy_since = now
                events.append(InstanceHealthy(at=now, name=self.name, instance=instance))
            elif problem is not None and was is None:
                events.append(InstanceUnhealthy(at=now, name=self.name, instance=instance, reason=problem))
            circuit = member.circuit
            if problem is None and circuit.closed is None and circuit.era == restore:
                events += self._ejecting.restore(member, now)
            if events:
                self._roster.note(member)
                self._arrange(now, random)
            return tuple(events)

    def busy(self, now: float) -> bool:
        """Whether calls are under way, or ended within the window of the ejection."""
        with self._lock:
            return self._ejecting.busy(now) or any(member.active for member in self._roster.order)

    @property
    def wants_reports(self) -> bool:
        """Whether the picker goes by what instances say of their load."""
        return self._reporting is not None

    def report(self, instance: Instance, load: Load, now: float) -> None:
        """Learn what an instance says of its load. Nothing comes of it where the picker goes by something else."""
        with self._lock:
            member = self._roster.get(instance.id)
            if member is not None and self._reporting is not None:
                self._reporting.report(member, load, now)

    def probes(self, random: Chance) -> Sequence[Instance]:
        """Who is to be asked how busy it is, after a pick; for `probing`."""
        if self._prober is None:
            return ()
        with self._lock:
            return [member.instance for member in self._prober.probes(self._arrangement.candidates, random)]

    def answered(self, instance: Instance, load: Load, now: float, random: Chance) -> None:
        """Learn what an instance that was asked says of its load."""
        with self._lock:
            member = self._roster.get(instance.id)
            if member is not None and self._prober is not None:
                self._prober.answered(member, load, now, random)

    def instances(self, now: float) -> tuple[Standing, ...]:
        """How each instance stands at this moment, in the order of the snapshot."""
        return self.explain(now).standings

    def explain(self, now: float) -> Explanation:
        """Why a call made now would go where it goes."""
        with self._lock:
            found = self._arrangement
            return explain(self._snapshot, self._roster, found, self._narrowing, self._picking, now)

    def _arrange(self, now: float, random: Chance, change: Change | None = None) -> None:
        """Work out who the candidates are, until something changes."""
        order, narrowing = self._roster.order, self._narrowing
        before = narrowing.weights(order)
        self._arrangement = found = Arrangement(self._roster, narrowing, self._ejecting.rules, now, random)
        if change is None and narrowing.weights(order) != before:
            change = Change(order)
        if change is not None:
            self._picking.update(change, now, random)
        self._straight, self._reason, self._until = found.straight, found.reason, found.until

    def _failed(
        self, pick: Pick, verdict: Verdict, latency: float, now: float, random: Chance, retry_after: float | None
    ) -> tuple[Event, ...]:
        """End an attempt that did not succeed."""
        member, permit, observer = pick.member, pick.permit, self._observer
        judgement = Judgement.NOTHING
        if verdict.bad or verdict.refusal:
            judgement = Judgement.BAD if verdict.bad else Judgement.TURNED_AWAY
            if observer is not None:
                # Of a failure nobody knows how long it lasts; who turns work away may say so.
                observer.observe_failure(member, latency, retry_after if verdict.refusal else None, now)
        elif verdict is Verdict.CANCELLED and observer is not None and not pick.answered:
            observer.observe_unfinished(member, latency, now)
        return _QUIET if permit is None else self._judge(member, permit, judgement, now, random)

    def _judge(
        self, member: Member, permit: Permit, judgement: Judgement, now: float, random: Chance
    ) -> tuple[Event, ...]:
        """Tell the circuit, unless the cap forbids it; return the transitions."""
        if judgement is Judgement.BAD and permit is member.circuit.closed and not self._arrangement.division.room:
            return _QUIET
        events = self._ejecting.judge(member, permit, judgement, now, random)
        if events:
            self._roster.note(member)
            self._arrange(now, random)
        if judgement is Judgement.BAD:
            for outlier, reason in self._ejecting.outliers(self._roster.order, now):
                if self._arrangement.division.room:
                    events += self._ejecting.eject(outlier, reason, now, random)
                    self._roster.note(outlier)
                    self._arrange(now, random)
        return tuple(events)

    def _no_instance(self, now: float) -> NoInstance:
        message = describe(self._snapshot, self._roster, self._arrangement)
        message = f"{self.name}: {message}" if self.name else message
        return NoInstance(message, policy=self, retry_after=self._arrangement.retry_after(now))
