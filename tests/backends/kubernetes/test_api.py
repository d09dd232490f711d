"""The client of the API server, against what real ones said, and against what none should say."""

from __future__ import annotations

import gc
import json
import logging
import socket
from collections.abc import Callable
from typing import Any

import anyio
import pytest
import trustme

from resilient.backends.kubernetes import Access, Api, ApiFailed, Event
from resilient.backends.listwatch import Expired, SourceFailed
from tests.discovery.kubernetes.replay import Replay
from tests.discovery.kubernetes.traces import NAMES, Trace

PATH = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices"


def watch_all(replay: Replay, backend: str, api: Api | None = None) -> list[Event]:
    found: list[Event] = []

    async def main() -> None:
        watch = (api or Api(replay.access)).watch(PATH, {}, "228", 300)
        try:
            async for batch in watch:
                found.extend(batch)
        finally:
            await watch.aclose()

    anyio.run(main, backend=backend)
    return found


def list_all(replay: Replay, backend: str) -> tuple[list[Any], str]:
    async def main() -> tuple[list[Any], str]:
        return await Api(replay.access).list_all(PATH, {"labelSelector": "a=b"})

    return anyio.run(main, backend=backend)


def lines(*objects: Any) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in objects)


def event(kind: str, revision: int, **fields: Any) -> dict[str, Any]:
    return {"type": kind, "object": {"metadata": {"name": "a", "resourceVersion": str(revision)}, **fields}}


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("watch_") and "bad" not in name])
def test_every_watch_of_a_real_server_is_understood(name: str, backend: str) -> None:
    trace = Trace.load(name)
    with Replay(trace) as replay:
        found = watch_all(replay, backend)
    said = [json.loads(line) for line in trace.content.split(b"\n") if line]
    assert [(one.kind, one.object) for one in found] == [(one["type"], one["object"]) for one in said]
    assert all(one.revision.isdecimal() for one in found)


def test_gone_is_a_line_inside_a_success(backend: str) -> None:
    with Replay(Trace.load("uncached_watch_rv_1_expired")) as replay, pytest.raises(Expired, match=r"410 .* too old"):
        watch_all(replay, backend)


def test_what_came_before_an_error_counts(backend: str) -> None:
    gone = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "old"}}
    found: list[Event] = []

    async def main(replay: Replay) -> None:
        async for batch in Api(replay.access).watch(PATH, {}, "1", 300):
            found.extend(batch)

    with Replay([lines(event("ADDED", 2), gone)]) as replay, pytest.raises(Expired):
        anyio.run(main, replay, backend=backend)
    assert [one.revision for one in found] == ["2"]


def test_another_error_in_a_watch_is_a_failure_with_its_hint(backend: str) -> None:
    status = {"code": 500, "message": "etcd", "reason": "InternalError", "details": {"retryAfterSeconds": 7}}
    with Replay([lines({"type": "ERROR", "object": status})]) as replay, pytest.raises(ApiFailed) as caught:
        watch_all(replay, backend)
    assert (caught.value.status, caught.value.reason, caught.value.retry_after) == (500, "InternalError", 7.0)
    assert str(caught.value) == "500 etcd"


@pytest.mark.parametrize(
    ("name", "status", "reason", "retry_after"),
    [
        ("list_401_bad_token", 401, "Unauthorized", None),
        ("list_403", 403, "Forbidden", None),
        ("list_404_group", 404, "NotFound", None),
        ("list_future_rv", 504, "Timeout", 1.0),
        ("watch_bad_rv", 500, "", None),
    ],
)
def test_a_refusal_tells_what_the_server_said(
    name: str, status: int, reason: str, retry_after: float | None, backend: str
) -> None:
    with Replay(Trace.load(name)) as replay, pytest.raises(ApiFailed) as caught:
        list_all(replay, backend)
    assert (caught.value.status, caught.value.reason, caught.value.retry_after) == (status, reason, retry_after)


def test_a_list_of_a_real_server_is_understood(backend: str) -> None:
    trace = Trace.load("list_selector")
    with Replay(trace) as replay:
        found, revision = list_all(replay, backend)
    (said,) = [json.loads(line) for line in trace.content.split(b"\n") if line]
    assert found == said["items"]
    assert revision == said["metadata"]["resourceVersion"] == "228"
    assert replay.heads[0]["authorization"] == "Bearer t"


def test_a_list_comes_in_pages(backend: str) -> None:
    pages = [
        {"metadata": {"resourceVersion": "7", "continue": "x/="}, "items": [{"metadata": {"name": "a"}}]},
        {"metadata": {"resourceVersion": "7", "continue": ""}, "items": [{"metadata": {"name": "b"}}]},
    ]
    with Replay(*[[lines(page)] for page in pages]) as replay:
        found, revision = list_all(replay, backend)
    assert ([one["metadata"]["name"] for one in found], revision) == (["a", "b"], "7")
    assert [params for _, params in replay.asked] == [
        {"labelSelector": "a=b", "limit": "500"},
        {"labelSelector": "a=b", "limit": "500", "continue": "x/="},
    ]


def test_a_page_whose_token_is_expired_is_no_page_but_all_are_asked_for_again(backend: str) -> None:
    first = {"metadata": {"resourceVersion": "7", "continue": "x"}, "items": [{"metadata": {"name": "gone"}}]}
    whole = {"metadata": {"resourceVersion": "90"}, "items": None}
    with Replay([lines(first)], Trace.load("uncached_list_continue_after_compaction"), [lines(whole)]) as replay:
        assert list_all(replay, backend) == ([], "90")
    assert replay.asked[-1] == (PATH, {"labelSelector": "a=b"})


def test_pages_without_end_are_given_up(backend: str) -> None:
    page = lines({"metadata": {"continue": "x"}, "items": []})
    with Replay(*[[page]] * 101) as replay, pytest.raises(SourceFailed, match="more than 100 pages"):
        list_all(replay, backend)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ([b"<html>"], "is no JSON"),
        ([b"[]"], "of another form"),
        ([b'{"items": {}}'], "has no items"),
        ([b'{"items": [7]}'], "of another form"),
        ([b'{"metadata": 7}'], "of another form"),
        ([b"[" * 100_000], "is no JSON"),
        ([b'{"items"', None], "127.0.0.1"),
    ],
)
def test_an_answer_that_is_none_is_a_failure(answer: Any, reason: str, backend: str) -> None:
    with Replay(answer) as replay, pytest.raises(SourceFailed, match=reason):
        list_all(replay, backend)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ([b"<html>\n"], "is no JSON"),
        ([b"[]\n"], "of another form"),
        ([b'{"type": "ADDED", "object": 7}\n'], "of another form"),
        ([lines(event("ADDED", 2)), None], "127.0.0.1"),
    ],
)
def test_a_watch_that_is_none_is_a_failure(answer: Any, reason: str, backend: str) -> None:
    with Replay(answer) as replay, pytest.raises(SourceFailed, match=reason):
        watch_all(replay, backend)


def test_a_line_that_was_cut_off_by_a_clean_end_is_none(backend: str) -> None:
    content = lines(event("ADDED", 2), event("ADDED", 3))
    with Replay([content[:-30]]) as replay:
        assert [one.revision for one in watch_all(replay, backend)] == ["2"]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000])
def test_lines_are_the_same_however_they_are_cut_into_pieces(size: int, backend: str) -> None:
    """U+0085, U+2028 and their like are no ends of lines; a piece may end in the middle of a character."""
    notes = ["a\u2028b", "a\u0085b", "a\x0cb", "\x1c\x1d\x1e", "ü€😀"]
    said = [event("ADDED", number, note=note) for number, note in enumerate(notes)]
    content = b"".join(json.dumps(one, ensure_ascii=False).encode() + b"\n" for one in said)
    with Replay([content[start : start + size] for start in range(0, len(content), size)]) as replay:
        found = watch_all(replay, backend)
    assert [one.object["note"] for one in found] == notes


def test_a_line_that_never_ends_is_given_up(backend: str) -> None:
    piece = b"x" * 1_000_000
    with Replay([piece] * 18) as replay, pytest.raises(SourceFailed, match="is longer than 16777216 bytes"):
        watch_all(replay, backend)


def test_an_answer_without_bounds_is_given_up(backend: str) -> None:
    piece = b" " * 1_000_000
    with Replay([piece] * 70) as replay, pytest.raises(SourceFailed, match="is larger than 67108864 bytes"):
        list_all(replay, backend)


def test_a_watch_asks_for_bookmarks_and_an_end(backend: str) -> None:
    with Replay([b""]) as replay:
        assert watch_all(replay, backend) == []
    ((path, params),) = replay.asked
    assert path == PATH
    assert params == {
        "watch": "1",
        "allowWatchBookmarks": "true",
        "resourceVersion": "228",
        "timeoutSeconds": "300",
    }


def test_a_server_that_is_not_there_is_named(backend: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    api = Api(lambda: Access(server=f"http://127.0.0.1:{port}"))

    async def main() -> None:
        with pytest.raises(SourceFailed, match=f"http://127.0.0.1:{port}: "):
            await api.list_all(PATH, {})

    anyio.run(main, backend=backend)


def test_what_the_server_warns_of_is_logged_once(backend: str, caplog: pytest.LogCaptureFixture) -> None:
    trace = Trace.load("list_selector")
    trace.headers["warning"] = '299 - "deprecated"'

    async def main(replay: Replay) -> None:
        api = Api(replay.access)
        for _ in range(3):
            await api.list_all(PATH, {})

    with Replay(trace, trace, trace) as replay, caplog.at_level(logging.WARNING):
        anyio.run(main, replay, backend=backend)
    assert caplog.messages == ['the API server warns: 299 - "deprecated"']


def test_a_watch_may_be_left_in_the_middle(backend: str) -> None:
    async def main(replay: Replay) -> None:
        watch = Api(replay.access).watch(PATH, {}, "1", 300)
        await anext(watch)
        await watch.aclose()

    with Replay([lines(event("ADDED", 2)), b"{"]) as replay:
        anyio.run(main, replay, backend=backend)


def cancelled(step: Callable[[Api], Any], backend: str) -> None:
    """A step that hangs can be cancelled, and leaves nothing behind."""

    async def main(access: Callable[[], Access]) -> None:
        with anyio.move_on_after(0.2):
            await step(Api(access))
            raise AssertionError

    with Replay([b"{", b" "]) as replay:
        replay.listener.freeze()
        anyio.run(main, replay.access, backend=backend)
        replay.listener.thaw()


def test_a_list_that_hangs_can_be_cancelled(backend: str) -> None:
    cancelled(lambda api: api.list_all(PATH, {}), backend)


def test_a_watch_that_hangs_can_be_cancelled(backend: str) -> None:
    cancelled(lambda api: anext(api.watch(PATH, {}, "1", 300)), backend)


def test_a_handshake_that_hangs_can_be_cancelled(backend: str) -> None:
    """And its socket is closed, not left to the garbage collector: such a warning would be an error here."""
    ca = trustme.CA()
    with Replay() as replay:
        replay.listener.freeze()  # it accepts, and says nothing
        port = replay.listener.port
        access = Access(server=f"https://127.0.0.1:{port}", ca=ca.cert_pem.bytes())

        async def main() -> None:
            with anyio.move_on_after(0.2):
                await Api(lambda: access).list_all(PATH, {})

        anyio.run(main, backend=backend)
        gc.collect()
        replay.listener.thaw()


def test_an_environment_with_a_proxy_is_left_alone(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with Replay([lines({"metadata": {"resourceVersion": "1"}, "items": []})]) as replay:
        assert list_all(replay, backend) == ([], "1")
