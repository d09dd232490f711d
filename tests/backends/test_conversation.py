"""Requests to several endpoints, spoken by both drivers."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import httpx
import pytest

from resilient.backends.conversation import Conversation, Endpoints, Reply, in_turn, refused, speak, speak_blocking
from resilient.errors import DiscoveryError

Answer = Callable[[httpx.Request], httpx.Response]


@pytest.fixture(params=["asyncio", "trio", "plain"])
def hold(request: pytest.FixtureRequest):
    """Hold a conversation with a server that is a function."""

    def hold(conversation: Conversation[Reply], answer: Answer) -> Reply:
        transport = httpx.MockTransport(answer)
        if request.param == "plain":
            with httpx.Client(transport=transport) as client:
                return speak_blocking(conversation, client)

        async def main() -> Reply:
            async with httpx.AsyncClient(transport=transport) as client:
                return await speak(conversation, client)

        return anyio.run(main, backend=request.param)

    return hold


def answers(asked: list[str], **statuses: int) -> Answer:
    """Each host has a status; 0: it is not there, 1: it does not answer."""

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        status = statuses[request.url.host]
        if status == 0:
            raise httpx.ConnectError("refused")
        if status == 1:
            raise httpx.ReadTimeout("")
        return httpx.Response(status, text=request.url.host, headers={"Retry-After": "7"})

    return answer


def test_the_one_that_answered_last_is_asked_first(hold) -> None:
    endpoints = Endpoints(["http://a", "http://b", "http://c"])
    asked: list[str] = []
    for _ in range(2):
        reply = hold(in_turn(endpoints, "GET", "/x"), answers(asked, a=0, b=503, c=404))
        assert (reply.status, reply.text) == (404, "c")
    assert asked == ["a", "b", "c", "c"]


def test_each_is_asked_once_and_a_bad_answer_is_better_than_none(hold) -> None:
    endpoints = Endpoints(["http://a", "http://b"])
    asked: list[str] = []
    reply = hold(in_turn(endpoints, "GET", "/x"), answers(asked, a=503, b=0))
    assert (reply.status, asked) == (503, ["a", "b"])
    assert refused(reply, "it").retry_after == 7.0
    assert str(refused(reply, "it")) == "it: 503 a"


@pytest.mark.parametrize(("status", "kind", "why"), [(0, OSError, "http://a/x: refused"), (1, TimeoutError, "ReadTim")])
def test_if_nobody_answers_it_says_who_did_not(hold, status: int, kind: type[Exception], why: str) -> None:
    with pytest.raises(kind, match=why):
        hold(in_turn(Endpoints(["http://a"]), "GET", "/x"), answers([], a=status))


def test_documents_and_parameters_are_sent(hold) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert str(request.url) == "http://a/x?tag=1&tag=2&stale="
        assert (request.content, request.headers["X"]) == (b'{"k": 1}', "y")
        return httpx.Response(200, json={"fine": True})

    params = [("tag", "1"), ("tag", "2"), ("stale", "")]
    asked = in_turn(Endpoints(["http://a"]), "PUT", "/x", params=params, headers={"X": "y"}, document={"k": 1})
    assert hold(asked, answer).table() == {"fine": True}


@pytest.mark.parametrize("content", [b"{", b"\xff", b""])
def test_what_is_no_json_is_trouble(content: bytes) -> None:
    with pytest.raises(DiscoveryError, match="no JSON"):
        Reply(200, {}, content).document()


def test_what_is_no_object_is_trouble() -> None:
    with pytest.raises(DiscoveryError, match="no JSON object"):
        Reply(200, {}, b"[]").table()
