"""How the service is made to misbehave, seen from the server's side of it."""

from __future__ import annotations

import anyio
import pytest

from resilient.lab.demo.faults import LOST, Faults


class Service:
    """A disturbed application, and a server that it answers."""

    def __init__(self) -> None:
        self.faults = Faults()
        self.answered: list[int] = []
        self.dropped: list[object] = []
        self.taken = 0
        self.app = self.faults.around(self._take, self.dropped.append)

    async def _take(self, scope, receive, send) -> None:
        if scope["type"] == "http":
            await self.faults.work(0.01)
        self.taken += 1
        await send({"type": "http.response.start", "status": 201, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    async def ask(self, kind="http") -> int | None:
        """Send one request; return its status, None if it got no answer."""
        status: int | None = None

        async def receive():
            return {"type": "http.disconnect"}

        async def send(message) -> None:
            nonlocal status
            status = message.get("status", status)

        await self.app({"type": kind, "client": ("127.0.0.1", 1)}, receive, send)
        return status


async def hear_nothing() -> dict[str, object]:
    return {"type": "http.disconnect"}


async def say_nothing(_message) -> None:
    pass


def test_a_service_that_fails_answers_500_and_does_nothing():
    async def main():
        service = Service()
        service.faults.obey("fail")
        assert await service.ask() == 500
        assert service.taken == 0
        service.faults.obey("heal")
        assert await service.ask() == 201

    anyio.run(main)


def test_one_reply_in_twenty_is_lost_after_its_order_was_taken():
    async def main():
        service = Service()
        service.faults.obey("lose")
        answers = [await service.ask() for _ in range(2 * LOST)]
        assert answers.count(None) == len(service.dropped) == 2
        assert service.taken == 2 * LOST

    anyio.run(main)


def test_a_slow_service_works_ten_times_as_long():
    async def main():
        service = Service()
        began = anyio.current_time()
        service.faults.obey("slow")
        await service.ask()
        assert anyio.current_time() - began >= 0.1

    anyio.run(main)


def test_it_stops_itself_only_while_every_request_is_being_worked_on(monkeypatch):
    """A signal would stop this process: what is asked here is when it would be sent."""
    stopped: list[tuple[int, int]] = []
    service = Service()
    monkeypatch.setattr("os.kill", lambda *_: stopped.append((service.faults._working, service.faults._requests)))

    async def main():
        entered, go_on = anyio.Event(), anyio.Event()

        async def writing(scope, receive, send) -> None:
            entered.set()
            await go_on.wait()

        async def write() -> None:
            await service.faults.around(writing, service.dropped.append)({"type": "http"}, hear_nothing, say_nothing)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            await entered.wait()
            service.faults.obey("stop")
            await service.ask()
            assert not stopped
            go_on.set()
        await service.ask()
        await service.ask()

    anyio.run(main)
    assert stopped == [(1, 1)]


def test_what_is_no_request_is_left_alone():
    async def main():
        service = Service()
        service.faults.obey("fail")
        assert await service.ask("lifespan") == 201

    anyio.run(main)


@pytest.mark.parametrize("word", ["", "explode"])
def test_a_word_that_is_no_fault_changes_nothing(word):
    faults = Faults()
    faults.obey(word)
    assert not faults._active
