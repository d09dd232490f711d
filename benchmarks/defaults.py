"""Why the defaults are what they are: each beside its alternatives, in the scenarios of the lab that it matters in.

    python -m benchmarks.defaults                          # all tables
    python -m benchmarks.defaults --only ejection,picker   # some of them
    make golden                                            # writes them down, among other things

With `--write --only picker` that table is written anew, and the others stay as they are.

Each question turns one setting of the default stack and plays the same calls with the same seeds. The runs depend on
nothing but the code, as all of the lab's do: on another machine they only take longer. The tables are written to
`benchmarks/results/defaults.md`, in sections that a page of the documentation includes.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, final

from rich.console import Console
from rich.progress import Progress

from benchmarks.questions import QUESTIONS, UNMEASURED, Play, Question
from benchmarks.reporting import begin, finish, in_words, options, table
from resilient.lab.bench.playing import Job, play_all
from resilient.lab.reporting.measures import measure_of
from resilient.lab.reporting.statistics import Estimate, estimate_of
from resilient.lab.results import Run
from resilient.lab.stacks import Stack

__all__ = ["FOUND", "RESULT", "main", "policy_of"]

RESULT = Path(__file__).parent / "results" / "defaults.json"
_SEEDS = 5


@final
class _Alternatives:
    """Each alternative under a name by which a process of its own finds it: `FOUND.tau/2`."""

    def __init__(self) -> None:
        self._known = {
            f"{question.name}/{index}": partial(question.make, value)
            for question in QUESTIONS
            for index, value in enumerate(question.alternatives)
        }

    def __getattr__(self, name: str) -> Stack:
        make = self._known.get(name)
        if make is None:
            raise AttributeError(f"no alternative {name!r}")
        return make()


FOUND = _Alternatives()


def policy_of(question: Question, index: int) -> str:
    """The policies of an alternative by name. The default is the lab's own, so that it is played once for all."""
    if question.alternatives[index] == question.default and not question.prescribed:
        return "default"
    return f"{__name__ if __name__ != '__main__' else 'benchmarks.defaults'}:FOUND.{question.name}/{index}"


def _jobs_of(question: Question, play: Play, index: int, seeds: int) -> list[Job]:
    policy, knobs = policy_of(question, index), tuple(play.knobs.items())
    return [Job(scenario=play.scenario, policy=policy, seed=seed, knobs=knobs) for seed in range(seeds)]


def _estimates(
    question: Question, play: Play, index: int, played: Mapping[Job, Run], seeds: int
) -> dict[str, Estimate]:
    runs = {job.seed: played[job] for job in _jobs_of(question, play, index, seeds)}
    return {metric: estimate_of(measure_of(metric), runs) for metric in play.metrics}


def _finite(value: float | None) -> float | None:
    """JSON has no infinity, which stands for never."""
    return None if value is None or math.isinf(value) else value


def _answer(question: Question, played: Mapping[Job, Run], seeds: int) -> dict[str, Any]:
    """What came of a question, as it is written down."""
    return {
        "name": question.name,
        "setting": question.setting,
        "default": question.text(question.default),
        "plays": [
            {
                "scenario": play.scenario,
                "knobs": dict(play.knobs),
                "alternatives": [
                    {
                        "value": question.text(value),
                        "metrics": {
                            metric: {
                                "value": _finite(one.centre),
                                "low": _finite(one.low),
                                "high": _finite(one.high),
                                "never": one.never,
                            }
                            for metric, one in _estimates(question, play, index, played, seeds).items()
                        },
                    }
                    for index, value in enumerate(question.alternatives)
                ],
            }
            for play in question.plays
        ],
    }


def _tables(question: Question, played: Mapping[Job, Run], seeds: int, *, markdown: bool) -> str:
    parts: list[str] = []
    for play in question.plays:
        knobs = "".join(f", {name} = {value}" for name, value in play.knobs.items() if name != "duration")
        rows = [
            (question.label(value), *map(str, _estimates(question, play, index, played, seeds).values()))
            for index, value in enumerate(question.alternatives)
        ]
        titles = [measure_of(metric).title for metric in play.metrics]
        parts.append(table((f"{play.scenario}{knobs}", *titles), rows, markdown=markdown))
    return "\n\n".join(parts)


def _section(name: str, text: str) -> str:
    """A part of the page that can be included by itself."""
    return f"<!-- --8<-- [start:{name}] -->\n\n{text}\n\n<!-- --8<-- [end:{name}] -->"


def _written(name: str) -> str:
    """The part of that name as it was written last."""
    text = RESULT.with_suffix(".md").read_text(encoding="utf-8")
    _, start, rest = text.partition(f"<!-- --8<-- [start:{name}] -->")
    part, end, _ = rest.partition(f"<!-- --8<-- [end:{name}] -->")
    if not (start and end):
        raise LookupError(f"{RESULT.with_suffix('.md').name} has no table of {name!r}: write them all")
    return _section(name, part.strip())


def _page(head: Mapping[str, Any], questions: Sequence[Question], played: Mapping[Job, Run], seeds: int) -> str:
    """All parts; those of questions that are not played now stay as they are."""
    count = f"{seeds} seed" if seeds == 1 else f"{seeds} seeds"
    header = f"{in_words(head)} {count}. Means over the seeds (of recovery the median) with 95 % intervals."
    unmeasured = "\n".join(f"- `{name}`: {why}." for name, why in UNMEASURED.items())
    return "\n\n".join(
        [
            _section("header", header),
            *(
                _section(one.name, _tables(one, played, seeds, markdown=True))
                if one in questions
                else _written(one.name)
                for one in QUESTIONS
            ),
            _section("unmeasured", unmeasured),
        ]
    )


def _compared(answers: Sequence[Mapping[str, Any]], written: Mapping[str, Any], seeds: int) -> str:
    """Whether what was played is what is written down: if not, the code has changed what comes of it."""
    if written["seeds"] != seeds:
        return f"Not compared with {RESULT.name}, which has {written['seeds']} seeds."
    known = {answer["name"]: answer for answer in written["questions"]}
    different = [answer["name"] for answer in answers if known.get(answer["name"]) != answer]
    told = f" Different: {', '.join(different)}." if different else ""
    return f"Same as in {RESULT.name}: {len(answers) - len(different)} of {len(answers)}.{told}"


def _with_the_others(answers: Sequence[Mapping[str, Any]], seeds: int) -> list[Mapping[str, Any]]:
    """The answers to all questions: those that were not asked now are as they were written last."""
    found = {answer["name"]: answer for answer in answers}
    if len(found) < len(QUESTIONS):
        written = json.loads(RESULT.read_text(encoding="utf-8"))
        if written["seeds"] != seeds:
            raise ValueError(f"--seeds={seeds}: the questions that are not asked now have {written['seeds']}")
        found = {answer["name"]: answer for answer in written["questions"]} | found
    return [found[question.name] for question in QUESTIONS]


def main(arguments: Sequence[str] | None = None) -> int:
    """Play and print; return the exit code: 130 where it was interrupted."""
    parser = options("Play each default of the service beside its alternatives.", seconds=None)
    parser.add_argument("--seeds", type=int, default=_SEEDS, help="of each run (default: %(default)s)")
    parser.add_argument("--only", metavar="WORDS", help="questions whose names hold one of these, separated by commas")
    parser.add_argument("--write", action="store_true", help=f"write {RESULT.name} and its tables anew")
    given = parser.parse_args(arguments)
    words = None if given.only is None else given.only.split(",")
    questions = [one for one in QUESTIONS if words is None or any(word in one.name for word in words)]
    head = begin(parser, ("anyio",))
    wanted = [
        job
        for question in questions
        for play in question.plays
        for index in range(len(question.alternatives))
        for job in _jobs_of(question, play, index, given.seeds)
    ]
    jobs = [*dict.fromkeys(wanted)]
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("playing", total=len(jobs))
        played = dict(
            play_all(jobs, on_run=lambda job, _run: progress.update(task, advance=1, description=job.scenario))
        )
    if len(played) < len(jobs):
        return 130
    answers = [_answer(one, played, given.seeds) for one in questions]
    result = {**head, "seeds": given.seeds, "questions": answers}
    if given.write:
        whole = {**result, "questions": _with_the_others(answers, given.seeds)}
        RESULT.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
        RESULT.with_suffix(".md").write_text(_page(head, questions, played, given.seeds) + "\n", encoding="utf-8")
    tables = [
        f"{one.asks} {one.setting}\n\n{_tables(one, played, given.seeds, markdown=given.markdown)}" for one in questions
    ]
    code = finish(given, result, "\n\n".join(tables), [])
    if RESULT.exists() and not given.write:
        print("", _compared(answers, json.loads(RESULT.read_text(encoding="utf-8")), given.seeds), sep="\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
