"""A server that turns away what is too much: the rest is served in time, the most important first."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from random import Random

import anyio
import anyio.lowlevel
import pytest

from resilient.asgi import LoadShedMiddleware, ServingMiddleware
from resilient.call import Priority
from resilient.events import CallRejected, Event
from resilient.policies.limit_rules import Aimd
from resilient.testing import virtual_time
from resilient.testing.cancellation import for_each_cancellation
from tests.asgi.calling import App, post, respond

PRIORITIES = [priority.name.lower().replace("_", "-") for priority in Priority]


class Work:
    """Ten workers of a tenth of a second each: a hundred requests a second."""

    def __init__(self, workers: int = 10, seconds: float = 0.1) -> None:
        self.workers = anyio.Semaphore(workers)
        self.seconds = seconds
        self.running = self.most = 0
        self.random = Random(1)

    async def __call__(self, scope, receive, send) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            async with self.workers:
                await anyio.sleep(self.random.expovariate(1 / self.seconds))
        finally:
            self.running -= 1
        await respond(200)(send)


async def load(app, rate: float, seconds: float, headers=lambda number: (), within: float = 1.0):
    """Requests at random moments; what became of them: their status, or "late", by what `headers` say."""
    random, outcomes = Random(2), Counter[tuple[str, object]]()

    async def one(number: int) -> None:
        given = headers(number)
        began = anyio.current_time()
        reply = await post(app, headers=given)
        took = anyio.current_time() - began
        if reply.status == 503:
            assert reply.headers["retry-after"] == "1"
            assert reply.headers["content-type"] == "application/problem+json"
        label = dict(given).get("resilient-priority", "")
        outcomes[label, reply.status if took <= within else "late"] += 1

    end = anyio.current_time() + seconds
    number = 0
    async with anyio.create_task_group() as tasks:
        while anyio.current_time() < end:
            tasks.start_soon(one, number)
            number += 1
            await anyio.sleep(random.expovariate(rate))
    return outcomes


def test_under_three_times_the_load_as_much_is_served_in_time_as_can_be(backend):
    async def main():
        work = Work()
        app = LoadShedMiddleware(work)
        outcomes = await load(app, rate=300.0, seconds=10.0)
        assert outcomes["", 200] > 0.9 * 10 * 100
        assert outcomes["", "late"] < 0.02 * outcomes["", 200]
        assert outcomes["", 503] > 0.5 * 10 * 300
        assert work.most < 100
        assert app.limit.in_flight() == app.limit.queued() == 0

    virtual_time.run(main, backend=backend)


def test_without_overload_nothing_is_turned_away(backend):
    async def main():
        outcomes = await load(LoadShedMiddleware(Work()), rate=60.0, seconds=20.0)
        assert outcomes["", 503] == 0
        assert outcomes["", 200] > 1000

    virtual_time.run(main, backend=backend)


def test_the_least_important_are_turned_away_first():
    async def main():
        random = Random(3)
        app = ServingMiddleware(LoadShedMiddleware(Work()))

        def headers(_number: int):
            return (("resilient-priority", random.choice(PRIORITIES)),)

        await load(app, rate=200.0, seconds=5.0, headers=headers)  # it gets to know who comes
        outcomes = await load(app, rate=200.0, seconds=20.0, headers=headers)
        rates = [
            outcomes[name, 200] / sum(count for (label, _), count in outcomes.items() if label == name)
            for name in PRIORITIES
        ]
        assert rates[0] < rates[1] < 0.25
        assert min(rates[2:]) > 0.8

    virtual_time.run(main)


def test_the_same_users_are_served_every_time():
    async def main():
        random = Random(3)
        outcomes: dict[str, Counter[int]] = {str(user): Counter() for user in range(200)}

        def user_of(scope) -> str:
            name: bytes = dict(scope["headers"])[b"user"]
            return name.decode()

        app = LoadShedMiddleware(Work(), user=user_of)

        async def one() -> None:
            user = str(random.randrange(200))
            reply = await post(app, headers=[("user", user)])
            outcomes[user][reply.status] += 1

        async with anyio.create_task_group() as tasks:
            for number in range(8000):
                if number == 3000:
                    for counts in outcomes.values():
                        counts.clear()
                tasks.start_soon(one)
                await anyio.sleep(0.005)
        rates = sorted(counts[200] / counts.total() for counts in outcomes.values())
        torn = sum(0.2 < rate < 0.8 for rate in rates)
        assert torn < 0.2 * 200
        assert rates[150] > 0.9

    virtual_time.run(main)


def test_a_user_may_be_found_out_by_a_coroutine_or_not_at_all(backend):
    async def nobody(scope) -> None:
        await anyio.lowlevel.checkpoint()

    async def main():
        app = LoadShedMiddleware(App(), user=nobody)
        assert (await post(app)).status == 201

    virtual_time.run(main, backend=backend)


def test_health_checks_are_always_served(backend):
    async def main():
        app = LoadShedMiddleware(App(), limiter=Aimd(), initial=1, highest=1, max_wait=0.0)
        place = await app.limit.take(app._calls.begin("somebody", lambda _: anyio.lowlevel.checkpoint(), ()))
        assert (await post(app, path="/orders")).status == 503
        for path in ("/healthz", "/readyz", "/.well-known/resilient-load"):
            assert (await post(app, method="GET", path=path)).status == 201
        place.give_back()
        assert (await post(app, path="/orders")).status == 201

    virtual_time.run(main, backend=backend)


def test_whatever_is_no_request_passes_untouched(backend):
    async def main():
        seen: list[object] = []

        async def app(*arguments) -> None:
            seen.extend(arguments)

        scope, receive, send = {"type": "lifespan"}, object(), object()
        await LoadShedMiddleware(app)(scope, receive, send)  # type: ignore[arg-type]
        assert [id(one) for one in seen] == [id(scope), id(receive), id(send)]

    virtual_time.run(main, backend=backend)


def test_what_would_not_be_done_before_its_deadline_is_turned_away_at_once(backend):
    events: list[Event] = []

    async def main():
        app = ServingMiddleware(LoadShedMiddleware(Work(workers=1, seconds=1.0), initial=1, highest=1, max_wait=60.0))
        for _ in range(3):
            await post(app)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(post, app)
            await anyio.sleep(0.01)
            began = anyio.current_time()
            reply = await post(app, headers=[("resilient-timeout-ms", "20")])
            assert reply.status == 503
            assert anyio.current_time() == began

    virtual_time.run(main, backend=backend, emit=events.append)
    assert any(isinstance(event, CallRejected) for event in events)


@pytest.mark.parametrize("ending", ["an error", "a cancellation"])
def test_a_place_is_given_back_however_a_request_ends(backend, ending):
    async def main():
        async def fail(scope, receive, send) -> None:
            await anyio.sleep(1.0)
            raise OSError("broken")

        app = LoadShedMiddleware(fail)
        with anyio.move_on_after(0.5 if ending == "a cancellation" else 9.0), suppress(OSError):
            await post(app)
        assert app.limit.in_flight() == 0

    virtual_time.run(main, backend=backend)


def test_no_place_is_lost_wherever_a_request_is_cancelled(backend):
    def fresh() -> LoadShedMiddleware:
        return LoadShedMiddleware(Work(workers=1), initial=1, highest=1)

    async def scenario(app: LoadShedMiddleware) -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(post, app)

    def check(app: LoadShedMiddleware) -> None:
        assert app.limit.in_flight() == app.limit.queued() == 0

    assert for_each_cancellation(fresh, scenario=scenario, check=check, backend=backend) > 5


def test_a_stream_counts_to_its_first_byte_and_holds_its_place_to_the_last(backend):
    async def main():
        async def stream(scope, receive, send) -> None:
            await anyio.sleep(0.1)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await anyio.sleep(100.0)
            await send({"type": "http.response.body", "body": b"end"})

        app = LoadShedMiddleware(stream)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(post, app)
            await anyio.sleep(50.0)
            assert app.limit.in_flight() == 1
            assert app.limit._find(None).slots.expected == pytest.approx(0.1)

    virtual_time.run(main, backend=backend)
