"""One run of the script with one of the clients, from a fresh database to its audit."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol

import anyio
import httpx

from resilient.events import Event
from resilient.lab.arrivals import constant
from resilient.lab.demo.callers import CALLERS, Kind
from resilient.lab.demo.evidence import Evidence
from resilient.lab.demo.fleet import Fleet
from resilient.lab.demo.ledger import audit, rows
from resilient.lab.demo.script import Act, Settings
from resilient.lab.load import OK, Record, Request, drive

__all__ = ["Audience", "run"]

_DRAIN = 10.0
_MOST_CALLS = 1_000_000


class Audience(Protocol):
    """Whoever watches a run."""

    def starting(self, kind: Kind) -> None:
        """The processes are being started."""
        ...

    def loading(self, kind: Kind) -> None:
        """The load begins now."""
        ...

    def happened(self, act: Act) -> None:
        """Something was done to instances."""
        ...

    def ended(self, record: Record) -> None:
        """A call is over."""
        ...

    def finished(self, evidence: Evidence) -> None:
        """The run is over."""
        ...


async def run(kind: Kind, settings: Settings, folder: Path, audience: Audience) -> Evidence:
    """Run the script once, in a folder that is empty."""
    audience.starting(kind)
    acknowledged: set[int] = set()
    events: list[Event] = []
    records: list[Record] = []
    with Fleet(folder, seed=settings.seed) as fleet:
        await fleet.start(*settings.fleet)
        async with CALLERS[kind](settings, fleet.registry, events.append) as send:

            async def order(request: Request) -> httpx.Response:
                response = await send(request)
                if response.status_code == httpx.codes.CREATED:
                    acknowledged.add(request.number)
                return response

            audience.loading(kind)
            began = time.monotonic()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_act, settings, fleet, audience)
                records += await drive(
                    order,
                    constant(settings.rate, duration=settings.duration),
                    judge=_judge,
                    max_calls=_MOST_CALLS,
                    drain=_DRAIN,
                    on_record=audience.ended,
                )
        await fleet.leave()
        found = rows(fleet.database)
    evidence = Evidence(
        kind=kind,
        settings=settings,
        records=records,
        audit=audit(found, sent=range(len(records)), acknowledged=acknowledged),
        events=[(event.at - began, event) for event in events if event.at >= began],
    )
    audience.finished(evidence)
    return evidence


async def _act(settings: Settings, fleet: Fleet, audience: Audience) -> None:
    began = time.monotonic()
    for act in settings.acts():
        await anyio.sleep(max(0.0, began + act.at - time.monotonic()))
        if act.deed == "start":
            await fleet.start(*act.instances)
        else:
            for instance in act.instances:
                fleet.do(act.deed, instance)
        audience.happened(act)


def _judge(response: httpx.Response) -> str:
    return OK if response.status_code == httpx.codes.CREATED else str(response.status_code)
