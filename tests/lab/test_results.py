"""The results file: what is written is read, and what is wrong with a file is said exactly."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import re
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.lab.fields import BadFile
from resilient.lab.results import Header, Results, Run, ScenarioFacts, merge, replay_command
from tests.lab.samples import made, run, sample

FACTS = {
    "title": "Outage",
    "reference": "",
    "source": "a paper",
    "naive": "they fail",
    "good": "they do not",
    "duration": 300.0,
    "warmup": 10.0,
    "trigger": [60.0, 70.0],
    "knobs": {"load": 280.0, "queue": "none", "zones": 3, "lifo": True},
    "deadline": 1.0,
    "primary": ["recovery", "amplification"],
}
DOCUMENT: dict[str, Any] = {
    "schema": 1,
    "header": {
        "made": "2026-11-24T18:00:00+00:00",
        "command": "resilient lab run outage",
        "versions": {"python": "3.11.7"},
        "backend": "asyncio",
        "mode": "functions",
        "scenarios": {"outage": FACTS},
    },
    "runs": [
        {
            "scenario": "outage",
            "policy": "default",
            "seed": 0,
            "metrics": {"calls": 81200, "recovery": None, "p99": 0.9},
            "series": {"offered": [280, 281.5], "p99": [None, 0.1]},
        }
    ],
}


def written(tmp_path, document):
    path = tmp_path / "results.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def with_(path: str, value: object) -> dict[str, Any]:
    """The document with another value at a place like `runs.0.seed`; `...` deletes it."""
    document = deepcopy(DOCUMENT)
    *way, last = [int(step) if step.isdigit() else step for step in path.split("/")]
    place: Any = document
    for step in way:
        place = place[step]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return document


def test_a_file_is_read_as_it_is_written(tmp_path):
    results = Results.read(written(tmp_path, DOCUMENT))
    assert results.header.scenarios["outage"].trigger == (60.0, 70.0)
    assert results.header.scenarios["outage"].knobs == FACTS["knobs"]
    assert results.runs[0].metrics == {"calls": 81200, "recovery": None, "p99": 0.9}
    assert results.runs[0].series == {"offered": (280, 281.5), "p99": (None, 0.1)}
    results.write(tmp_path / "again.json")
    assert json.loads((tmp_path / "again.json").read_text()) == DOCUMENT


def test_a_run_has_a_line_of_its_own(tmp_path):
    results = sample(scenarios=["recovery-herd"], policies=["none"], seeds=3)
    results.write(tmp_path / "results.json")
    lines = (tmp_path / "results.json").read_text().splitlines()
    assert [json.loads(line.rstrip(","))["seed"] for line in lines if '"policy"' in line] == [0, 1, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.json"]


def test_what_cannot_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "results.json"
    path.write_text("old")
    results = made([run(recovery=1.0)], versions={"python": object()})
    with pytest.raises(TypeError):
        results.write(path)
    assert path.read_text() == "old"


numbers = st.none() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
runs = st.builds(
    Run,
    scenario=st.sampled_from(["a", "b"]),
    policy=st.text(min_size=1, max_size=8),
    seed=st.integers(),
    metrics=st.dictionaries(st.text(max_size=8), numbers, max_size=4),
    series=st.dictionaries(st.text(max_size=8), st.lists(numbers, max_size=4), max_size=3),
)


@given(st.lists(runs, unique_by=lambda run: run.key, max_size=4))
def test_reading_what_was_written_gives_the_same(tmp_path_factory, some):
    facts = ScenarioFacts(title="any", duration=1, primary=["x"])
    header = Header(made="2026-11-24", command="c", scenarios={"a": facts, "b": facts})
    results = Results(header=header, runs=some)
    path = tmp_path_factory.getbasetemp() / "hypothesis.json"
    results.write(path)
    again = Results.read(path)
    assert again == results
    assert again.canonical() == results.canonical()
    assert pickle.loads(pickle.dumps(again)) == results  # noqa: S301 - as it goes between processes


# The hash


def test_the_hash_depends_on_the_runs_alone():
    results = sample(scenarios=["slow-instance"], policies=["none", "default"], seeds=2)
    other = Results(header=replace(results.header, made="2027-01-01", command="else"), runs=results.runs[::-1])
    assert other.sha256 == results.sha256 == hashlib.sha256(results.canonical()).hexdigest()
    assert Results(header=results.header, runs=results.runs[1:]).sha256 != results.sha256


def test_the_canonical_form_is_fixed():
    results = made([run("o", "b", 1, x=3, y=None, series={"s": [-0.0, 1e-9, 280]}), run("o", "a", 2, x=0.1)])
    assert results.canonical() == (
        b'[{"metrics":{"x":0.1},"policy":"a","scenario":"o","seed":2,"series":{}},'
        b'{"metrics":{"x":3.0,"y":null},"policy":"b","scenario":"o","seed":1,"series":{"s":[0.0,1e-09,280.0]}}]'
    )


@given(runs, runs)
def test_equal_runs_have_equal_hashes_and_different_ones_have_not(one, other):
    facts = ScenarioFacts(title="any", duration=1, primary=["x"])
    header = Header(made="2026-11-24", command="c", scenarios={"a": facts, "b": facts})
    hashes = {Results(header=header, runs=[found]).sha256 for found in (one, other)}
    assert (len(hashes) == 1) == (one == other)


# What is refused


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("schema", 2, "schema=2: this version of resilient reads 1"),
        ("schema", ..., "schema is missing"),
        ("header", ..., "header is missing"),
        ("extra", 1, "extra=1: unknown; allowed are schema, header, runs"),
        ("runs", {}, "runs={}: a list"),
        ("header/made", "yesterday", "header.made='yesterday': a date and time of ISO 8601"),
        ("header/backend", 3, "header.backend=3: a text, not empty"),
        ("header/versions", ["3.11"], "header.versions=['3.11']: a table"),
        ("header/scenarios/outage/title", "", "header.scenarios.outage.title='': a text, not empty"),
        ("header/scenarios/outage/naive", None, "header.scenarios.outage.naive=None: a text"),
        ("header/scenarios/outage/duration", 0, "header.scenarios.outage.duration=0: a finite number of seconds"),
        ("header/scenarios/outage/duration", "5", "header.scenarios.outage.duration='5': a finite number"),
        ("header/scenarios/outage/warmup", 300, "header.scenarios.outage.warmup=300: from 0 to the duration, 300.0"),
        ("header/scenarios/outage/trigger", [1], "header.scenarios.outage.trigger=[1]: two seconds, or null"),
        ("header/scenarios/outage/trigger", [7, 6], "header.scenarios.outage.trigger=(7, 6): from a second to a later"),
        ("header/scenarios/outage/trigger", [0, 301], "header.scenarios.outage.trigger=(0, 301): from a second to a"),
        ("header/scenarios/outage/deadline", 0, "header.scenarios.outage.deadline=0: a finite number of seconds, more"),
        ("header/scenarios/outage/primary", [], "header.scenarios.outage.primary=(): at least one metric"),
        ("header/scenarios/outage/primary/0", 1, "header.scenarios.outage.primary[0]=1: a text, not empty"),
        ("header/scenarios/outage/knobs/load", None, "header.scenarios.outage.knobs.load=None: a finite number"),
        ("runs/0/seed", 1.0, "runs[0].seed=1.0: a whole number"),
        ("runs/0/seed", True, "runs[0].seed=True: a whole number"),
        ("runs/0/scenario", "else", "runs[0].scenario='else': one that the header describes: outage"),
        ("runs/0/metrics", [], "runs[0].metrics=[]: a table"),
        ("runs/0/metrics/p99", "fast", "runs[0].metrics.p99='fast': a finite number or null"),
        ("runs/0/metrics/p99", False, "runs[0].metrics.p99=False: a finite number or null"),
        ("runs/0/series/p99", 7, "runs[0].series.p99=7: a list of numbers and nulls, one a second of p99"),
        ("runs/0/series/p99/1", [], "runs[0].series.p99[1]=[]: a finite number or null"),
        ("runs/0/policy", ..., "runs[0].policy is missing"),
        ("runs/0/metric", {}, "runs[0].metric={}: unknown; allowed are scenario, policy, seed, metrics, series"),
        ("runs", DOCUMENT["runs"] * 2, "runs[1]: scenario 'outage', policy 'default', seed 0 is there twice"),
    ],
)
def test_an_error_names_file_field_value_and_what_is_allowed(tmp_path, path, value, message):
    file = written(tmp_path, with_(path, value))
    with pytest.raises(BadFile, match=f"^{re.escape(f'{file}: {message}')}"):
        Results.read(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not valid JSON: Expecting value"),
        ("{", "not valid JSON: Expecting property name"),
        ('{"schema": NaN}', "not valid JSON: NaN is no number"),
        ('{"schema": 1, "schema": 1}', "not valid JSON: 'schema' is given twice"),
        ("[" * 100_000, "not valid JSON: maximum recursion depth"),
        ("[]", r"the document=\[\]: a table"),
        (json.dumps(DOCUMENT).replace("0.9", "1e999"), r"runs\[0\].metrics.p99=inf: a finite number or null"),
        (json.dumps(with_("header/backend", ["x" * 99])), r"header.backend=\['x{58}\.\.\.: a text"),
    ],
)
def test_what_is_no_results_file_is_refused(tmp_path, content, message):
    with pytest.raises(BadFile, match=message):
        Results.read(written(tmp_path, content))


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(BadFile, match=r"nowhere.json: cannot be read: No such file or directory"):
        Results.read(tmp_path / "nowhere.json")
    (tmp_path / "latin").write_bytes(b"\xe9")
    with pytest.raises(BadFile, match="latin: not valid JSON: 'utf-8' codec can't decode"):
        Results.read(tmp_path / "latin")


@pytest.mark.parametrize("value", [math.nan, math.inf, "1", True, 1j])
def test_a_run_holds_numbers_that_can_be_hashed(value):
    with pytest.raises(ValueError, match=r"metrics\.p99=.*: a finite number or null"):
        run(p99=value)
    with pytest.raises(ValueError, match=r"series\.queue\[1\]=.*: a finite number or null"):
        run(series={"queue": [1.0, value]})


# Asking


def test_scenarios_and_policies_have_the_order_of_their_first_runs():
    results = made([run("b", "z", 2), run("a", "y", 0), run("b", "x", 0), run("b", "z", 1)])
    assert results.scenarios == ("b", "a")
    assert results.policies() == ("z", "y", "x")
    assert results.policies("b") == ("z", "x")
    assert list(results.of("b", "z")) == [1, 2]
    assert results.of("b", "nobody") == {}


@pytest.mark.parametrize(
    ("file", "policy", "command"),
    [
        ("results.json", "retry3", "resilient lab replay results.json --scenario outage --policy retry3 --seed 7"),
        ("my runs.json", "a:b", "resilient lab replay 'my runs.json' --scenario outage --policy a:b --seed 7"),
    ],
)
def test_a_run_has_a_command_that_replays_it(file, policy, command):
    assert replay_command(file, run("outage", policy, 7)) == command


# Merging


def test_merging_keeps_every_run_once():
    whole = sample(scenarios=["recovery-herd", "slow-instance"], policies=["none", "default"], seeds=3)
    parts = [made(whole.runs[start : start + 5], command=f"part {start}") for start in (0, 4, 8)]
    merged = merge(*parts)
    assert merged.runs == whole.runs
    assert merged.sha256 == whole.sha256
    assert merged.header.command == "part 0 && part 4 && part 8"
    assert set(merged.header.scenarios) == {"recovery-herd", "slow-instance"}


def test_what_was_merged_was_made_when_the_last_part_was():
    early, late = "2026-11-24T18:00:00+00:00", "2026-11-24T18:30:00+01:00"  # the earlier instant
    merged = merge(made([run("o", "a", 0)], made=late), made([run("o", "a", 1)], made=early))
    assert merged.header.made == early


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (made([run(x=2.0)]), "scenario 'outage', policy 'default', seed 0 came out differently"),
        (made([run("outage", "b")], backend="trio"), "backend: 'asyncio' and 'trio' cannot be merged"),
        (made([run("outage", "b")], versions={"python": "3.13"}), "versions: .* cannot be merged"),
        (
            made([run("outage", "b")], scenarios={"outage": ScenarioFacts(title="o", duration=5, primary=["x"])}),
            "scenario 'outage' is not the same in both",
        ),
    ],
)
def test_what_does_not_belong_together_is_not_merged(other, message):
    with pytest.raises(ValueError, match=message):
        merge(made([run(x=1.0)]), other)
