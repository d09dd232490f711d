"""Judges a history and its sink: what a mode promises held for every key, or here is where it did not.

=====  ==============================================================================================================
rule   what it says of each key
=====  ==============================================================================================================
I1     each part of the effect is in the sink at most once, and exactly once if anybody was told of success; a
       transaction leaves all parts or none
I2     all replies are the same, and what the reply names as the effect is what the sink holds
I3     only one payload ever began to execute, and the sink holds no other; where claim, effect and record are one
       commit, an executor that fails leaves no trace, and only what took effect counts
I4     somebody was answered in the end: with the reply, or in `at_most_once` with `OutcomeUnknown`
I5     fences are distinct and rise in the order of the beginnings; the executor whose result was recorded began last
I6     a store from which everything was collected is as small as it was (`remains`)
whole  the calls are those of a register that is written once (`register`)
=====  ==============================================================================================================

I5 follows the order in which executors wrote their beginnings down, which is a little later than that in which the
store let them begin: two that followed each other at once may have changed places. So only the last one counts.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from resilient.backends.store import Mode, Stats
from tests.torture.history import Event
from tests.torture.register import NEVER, Op, Outcome, linearizable

PARTS = (1, 2)
"""An effect has two parts, so that half of one can be seen."""


@dataclass(frozen=True, order=True)
class Row:
    """One part of an effect, as the sink holds it."""

    key: str
    payload: str
    attempt: str
    part: int


@dataclass(frozen=True)
class Violation:
    rule: str
    key: str
    what: str

    def __str__(self) -> str:
        return f"{self.rule} {self.key}: {self.what}"


@dataclass
class Verdict:
    """What was counted, and what was broken."""

    keys: int = 0
    calls: int = 0
    replies: int = 0
    begun: int = 0
    followed: int = 0
    """Executors that came after another one of the same key."""
    duplicates: int = 0
    """Keys with a part that is in the sink more than once."""
    lost: int = 0
    """Keys with a part missing though success was reported, or, in a transaction, though another part is there."""
    divergent: int = 0
    """Keys with different replies."""
    stuck: int = 0
    """Keys that nobody was answered for."""
    unknown: int = 0
    """Keys whose last word is `OutcomeUnknown`."""
    errors: dict[str, int] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "violations": [str(each) for each in self.violations]}


@dataclass
class _Key:
    """The events of one key, call by call."""

    calls: dict[str, list[tuple[int, Event]]] = field(default_factory=lambda: defaultdict(list))
    begun: list[Event] = field(default_factory=list)
    replies: list[Event] = field(default_factory=list)
    errors: set[str] = field(default_factory=set)


def check(
    events: Iterable[Event], rows: Iterable[Row], *, mode: Mode, finished: bool = True, one_commit: bool = False
) -> Verdict:
    """Judge a history.

    `finished`: everybody came to an end, so that whoever is not answered never will be.
    """
    keys: dict[str, _Key] = defaultdict(_Key)
    errors: Counter[str] = Counter()
    verdict = Verdict()
    for place, event in enumerate(events):
        if "key" not in event:
            continue
        key = keys[event["key"]]
        key.calls[event["op"]].append((place, event))
        match event["kind"]:
            case "begin":
                key.begun.append(event)
            case "ok":
                key.replies.append(event)
            case "error":
                key.errors.add(event["error"])
                errors[event["error"]] += 1
    sink: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        sink[row.key].append(row)
    verdict.errors = dict(errors)
    for name in sorted(keys.keys() | sink.keys()):
        _count(verdict, keys[name], sink[name], mode)
        broken = _check_key(keys[name], sink[name], mode, finished=finished, one_commit=one_commit)
        verdict.violations += [Violation(rule, name, what) for rule, what in broken]
    return verdict


def remains(before: Stats, after: Stats, *, kept: int = 0) -> list[Violation]:
    """I6: a store from which everything was collected holds `kept` records more than before."""
    grown = after.records - before.records - kept
    return [Violation("I6", "*", f"{grown} records too many were left after the collection")] if grown else []


def _count(verdict: Verdict, key: _Key, rows: Collection[Row], mode: Mode) -> None:
    parts = Counter(row.part for row in rows)
    verdict.keys += 1
    verdict.calls += len(key.calls)
    verdict.replies += len(key.replies)
    verdict.begun += len(key.begun)
    verdict.followed += max(0, len(key.begun) - 1)
    verdict.duplicates += any(times > 1 for times in parts.values())
    verdict.lost += _is_lost(key, rows, mode)
    verdict.divergent += len({_frozen(event["reply"]) for event in key.replies}) > 1
    verdict.stuck += not _answered(key, mode)
    verdict.unknown += not key.replies and "OutcomeUnknown" in key.errors


def _is_lost(key: _Key, rows: Collection[Row], mode: Mode) -> bool:
    parts = {row.part for row in rows}
    needed = bool(key.replies) or (mode == "transactional" and bool(parts))
    return needed and parts != set(PARTS)


def _answered(key: _Key, mode: Mode) -> bool:
    return bool(key.replies) or (mode == "at_most_once" and "OutcomeUnknown" in key.errors)


def _check_key(
    key: _Key, rows: list[Row], mode: Mode, *, finished: bool, one_commit: bool
) -> Iterator[tuple[str, str]]:
    for part, times in sorted(Counter(row.part for row in rows).items()):
        if times > 1:
            yield "I1", f"part {part} is in the sink {times} times"
    if _is_lost(key, rows, mode):
        yield "I1", f"{len(key.replies)} replies, and in the sink {sorted(rows)}"
    yield from _check_replies(key, rows)
    payloads = {row.payload for row in rows}
    if not one_commit:
        payloads |= {event["payload"] for event in key.begun}
    if len(payloads) > 1:
        yield "I3", f"the payloads {sorted(payloads)} were executed"
    if finished and not _answered(key, mode):
        yield "I4", f"nobody was answered in {len(key.calls)} calls"
    yield from _check_fences(key)
    if not linearizable(_ops(key)):
        yield "whole", f"no order explains the answers to its {len(key.calls)} calls"


def _check_replies(key: _Key, rows: list[Row]) -> Iterator[tuple[str, str]]:
    replies = {_frozen(event["reply"]): event["reply"] for event in key.replies}
    if len(replies) > 1:
        yield "I2", f"different replies: {sorted(replies)}"
    for reply in replies.values():
        found = {row.part: row.attempt for row in rows}
        named = dict(zip(PARTS, reply["rows"], strict=True))
        if len(found) == len(rows) and found != named:
            yield "I2", f"the reply names {named}, the sink holds {found}"


def _check_fences(key: _Key) -> Iterator[tuple[str, str]]:
    fences = [event["fence"] for event in key.begun]
    if len(set(fences)) != len(fences):
        yield "I5", f"one fence for two executors: {fences}"
    for event in key.replies:
        if event["reply"]["fence"] != max(fences, default=None):
            yield "I5", f"fence {event['reply']['fence']} was recorded, although {fences} had begun"
            break


def _ops(key: _Key) -> Iterator[Op]:
    for events in key.calls.values():  # a request may begin after whoever sent it has left
        began = frozenset(event["attempt"] for _, event in events if event["kind"] == "begin")
        place, first = events[0]
        last, end = next((each for each in events if each[1]["kind"] in {"ok", "error"}), events[0])
        outcome = "unknown" if began and end["kind"] != "ok" else _outcome(end)
        reply = end["reply"] if outcome == "ok" else None
        yield Op(
            invoked=place,
            returned=NEVER if outcome == "unknown" else last,
            payload=first["payload"],
            outcome=outcome,
            reply=reply,
            by=reply["by"] if reply else "",
            began=began,
        )


def _outcome(end: Event) -> Outcome:
    if end["kind"] == "ok":
        return "ok"
    answers: dict[str, Outcome] = {"InProgress": "busy", "KeyReused": "refused"}
    return answers.get(end.get("error", ""), "unknown")


def _frozen(reply: dict[str, Any]) -> str:
    return repr(sorted(reply.items()))
