"""What a process of the suite can be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.torture import web
from tests.torture.web import Visitor
from tests.torture.worker import Config, Worker, crowd, finish, preload


def make(config: Config) -> Worker:
    """Who calls, over HTTP or not."""
    return Visitor(config) if config.port else Worker(config)


def work(config: dict[str, Any]) -> None:
    make(Config(**config)).run()


def finish_all(config: dict[str, Any]) -> None:
    keys = config.pop("keys")
    finish(make(Config(**config)), keys)


def join_crowd(config: dict[str, Any]) -> None:
    moments, payloads = config.pop("moments"), config.pop("payloads")
    crowd(make(Config(**config)), moments, payloads)


def preload_and_fork(config: dict[str, Any]) -> None:
    close, children = config.pop("close"), config.pop("children")
    preload(Worker(Config(**config)), close=close, children=children)


def serve(config: dict[str, Any]) -> None:
    web.serve(Config(**config))


def work_and_finish(config: dict[str, Any]) -> None:
    """For a store that lives and dies with its process."""
    worker = Worker(Config(**config))
    worker.run()
    worker.fate.forgive()
    finish(worker, map(str, range(worker.config.newest())))


ROLES: dict[str, Callable[[dict[str, Any]], None]] = {
    "work": work,
    "finish": finish_all,
    "work and finish": work_and_finish,
    "crowd": join_crowd,
    "preload": preload_and_fork,
    "serve": serve,
}
