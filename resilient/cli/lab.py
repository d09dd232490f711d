"""`resilient lab`: compare failure policies in virtual time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from resilient.cli.asking import INTERRUPTED, Knobs, Policies, Seeds, attempt, console, errors, policies_of, refuse
from resilient.cli.calibrate import calibrate
from resilient.lab.bench.bands import judge as judge_bands
from resilient.lab.bench.collecting import collect
from resilient.lab.bench.playing import Job, play, play_all
from resilient.lab.bench.references import knobs_of, make_scenario, parse_knobs, parse_range
from resilient.lab.reporting.comparison import compare as compare_results
from resilient.lab.reporting.gate import judge as judge_rules
from resilient.lab.reporting.gate import read_rules
from resilient.lab.reporting.page import page
from resilient.lab.reporting.terminal import show_comparison, show_judgements, show_results
from resilient.lab.results import Results, Run
from resilient.lab.scenario import Scenario
from resilient.lab.scenarios import names
from resilient.lab.simulation.run import Mode

__all__ = ["lab"]

lab = typer.Typer(
    no_args_is_help=True,
    help="Compare failure policies: the real policy objects, in virtual time, against a suite of failures.",
)

Backend = Annotated[str, typer.Option(help="asyncio or trio.")]
ModeOption = Annotated[str, typer.Option(help="functions, or http: real httpx clients on a network in memory.")]
Processes = Annotated[int | None, typer.Option(min=1, help="Runs at once. Left out: one a core.")]
Everything = Annotated[bool, typer.Option("--all-metrics", help="Show every metric, not only those that matter most.")]


def _scenarios(references: Sequence[str], knobs: dict[str, Any]) -> list[tuple[Scenario, str]]:
    wanted = names() if [*references] == ["all"] else references
    return [(attempt(make_scenario, reference, knobs), reference) for reference in wanted]


def _mode(text: str) -> Mode:
    if text not in get_args(Mode):
        refuse(ValueError(f"--mode {text}: one of {', '.join(get_args(Mode))}"))
    return cast("Mode", text)


def _play(jobs: Sequence[Job], processes: int | None) -> tuple[list[tuple[Job, Run]], bool]:
    """Play with a progress bar; tell whether all was played."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=errors,
        transient=True,
        disable=not errors.is_terminal,
    ) as progress:
        task = progress.add_task("playing", total=len(jobs))

        def note(job: Job, _run: Run) -> None:
            progress.update(task, advance=1, description=escape(f"{job.scenario} {job.policy} {job.seed}"))

        played = attempt(play_all, jobs, processes=processes, on_run=note)
    complete = len(played) == len(jobs)
    if not complete:
        errors.print(f"Interrupted: {len(played)} of {len(jobs)} runs are finished, and are kept.", style="yellow")
    return played, complete


@lab.command("list")
def list_scenarios() -> None:
    """List the scenarios that come with the library."""
    for name in names():
        scenario = make_scenario(name)
        console.print(f"[bold]{name}[/bold]  {escape(scenario.title)}", highlight=False)


@lab.command()
def show(scenario: Annotated[str, typer.Argument(help="A name, a .toml file, or module:function.")]) -> None:
    """Show what a scenario is: its source, its knobs, what policies do in it and what must come of it."""
    made = attempt(make_scenario, scenario)

    def say(head: str, text: str) -> None:
        if text:
            console.print(f"[bold]{head}[/bold]  {escape(text)}", highlight=False)

    say(made.name, made.title)
    say("source", made.source)
    say("naive policies", made.naive)
    say("good policies", made.good)
    for tier in made.tiers:
        calls = f", calls {', '.join(tier.calls)}" if tier.calls else ""
        many = f"{tier.instances} x " if tier.instances > 1 else ""
        say("tier", f"{tier.name}: {many}{tier.workers} workers, {tier.service_time!r}{calls}")
    for fault in made.faults:
        say("fault", repr(fault))
    knobs = {} if scenario.endswith(".toml") else knobs_of(scenario)
    say("knobs", ", ".join(f"{name}={value!r}" for name, value in knobs.items()))
    say("policies", ", ".join([*made.policies, *(name for name in made.contenders if name not in made.policies)]))
    for finding in made.bands:
        bounds = f"{finding.low:g} to {finding.high:g}" + (f" times that of {finding.of}" if finding.of else "")
        say("expected", f"{finding.metric} of {finding.policy}: {bounds}. {finding.why}")


@lab.command()
def run(
    *,
    scenarios: Annotated[list[str], typer.Argument(help="Names, .toml files, module:function, or 'all'.")],
    policy: Policies = None,
    seeds: Seeds = 10,
    knobs: Knobs = None,
    backend: Backend = "asyncio",
    mode: ModeOption = "functions",
    out: Annotated[
        Path | None, typer.Option(file_okay=False, help="Folder for results.json, report.html and pictures.")
    ] = None,
    processes: Processes = None,
    check: Annotated[bool, typer.Option("--check", help="End with 1 unless the scenario's bands hold.")] = False,
    all_metrics: Everything = False,
) -> None:
    """Play scenarios with several policies and seeds, and compare."""
    made = _scenarios(scenarios, attempt(parse_knobs, knobs or []))
    jobs = [
        Job(
            scenario=reference,
            policy=name,
            seed=seed,
            knobs=tuple(parse_knobs(knobs or []).items()),
            backend=backend,
            mode=_mode(mode),
        )
        for scenario, reference in made
        for name in policies_of(scenario, policy)
        for seed in range(seeds)
    ]
    played, complete = _play(jobs, processes)
    results = collect(played, made)
    show_results(results, console, all_metrics=all_metrics)
    if out is not None:
        _write(results, out)
    if not complete:
        raise typer.Exit(INTERRUPTED)
    if check:
        findings = [finding for scenario, _ in made for finding in judge_bands(scenario, results.runs)]
        failed = [finding for finding in findings if not finding.holds]
        for finding in failed:
            console.print(f"✘ {finding}", style="bold red", markup=False)
        told = " They are those of the scenario as it is, without --set." if knobs else ""
        console.print(f"{len(findings) - len(failed)} of {len(findings)} bands hold.{told}")
        raise typer.Exit(1 if failed else 0)


def _write(results: Results, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "results.json"
    results.write(file)
    report = folder / "report.html"
    report.write_text(page(results, file=file).html(), encoding="utf-8")
    try:
        from resilient.lab.reporting.picture import write_pngs

        write_pngs(results, folder)
    except ModuleNotFoundError as error:
        errors.print(f"{error}", style="yellow", markup=False)
    console.print(f"Report: {report.resolve().as_uri()}", soft_wrap=True, highlight=False)


@lab.command()
def compare(
    before: Annotated[Path, typer.Argument(help="A results.json.")],
    after: Annotated[Path, typer.Argument(help="Another one.")],
    *,
    all_metrics: Everything = False,
) -> None:
    """Say what differs between two results: seed by seed, with intervals."""
    found = attempt(compare_results, attempt(Results.read, before), attempt(Results.read, after))
    show_comparison(found, console, all_metrics=all_metrics)


@lab.command()
def sweep(
    *,
    scenario: Annotated[str, typer.Argument(help="A name, a .toml file, or module:function.")],
    vary: Annotated[str, typer.Option(help="A knob and its values: load=100..300:20, or queue=fifo,lifo.")],
    metric: Annotated[list[str] | None, typer.Option(help="What to show; may be given several times.")] = None,
    policy: Policies = None,
    seeds: Seeds = 3,
    knobs: Knobs = None,
    backend: Backend = "asyncio",
    mode: ModeOption = "functions",
    out: Annotated[Path | None, typer.Option(file_okay=False, help="Folder for sweep.json and sweep.png.")] = None,
    processes: Processes = None,
) -> None:
    """Turn one knob through several values, and see where each policy gives way."""
    from resilient.lab.bench.sweeping import Sweep, draw_sweep, show_sweep

    name, values = attempt(parse_range, vary)
    turned = [attempt(parse_knobs, knobs or []) | {name: value} for value in values]
    made = [attempt(make_scenario, scenario, each) for each in turned]
    policies = policies_of(made[0], policy)
    jobs = [
        Job(scenario=scenario, policy=one, seed=seed, knobs=tuple(each.items()), backend=backend, mode=_mode(mode))
        for each in turned
        for one in policies
        for seed in range(seeds)
    ]
    played, complete = _play(jobs, processes)
    found = Sweep(scenario=scenario, knob=name, values=values, policies=policies, played=played)
    metrics = metric or [made[0].primary[0]]
    for one in metrics:
        show_sweep(found, one, console)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        found.write(out / "sweep.json")
        try:
            draw_sweep(found, metrics, out / "sweep.png")
        except ModuleNotFoundError as error:
            errors.print(f"{error}", style="yellow", markup=False)
    raise typer.Exit(0 if complete else INTERRUPTED)


@lab.command()
def gate(
    rules: Annotated[Path, typer.Argument(help="A bench.toml: see the documentation of the lab in CI.")],
    *,
    results: Annotated[Path | None, typer.Option(help="Judge these results instead of playing.")] = None,
    seeds: Seeds = 10,
    processes: Processes = None,
) -> None:
    """Play what the rules of a file are about, and end with 1 if one of them does not hold."""
    asked = attempt(read_rules, rules)
    if results is not None:
        found, complete = attempt(Results.read, results), True
    else:
        pairs = list(dict.fromkeys((rule.scenario, rule.policy) for rule in asked))
        made = _scenarios(list(dict.fromkeys(scenario for scenario, _ in pairs)), {})
        for scenario, reference in made:
            for name in (policy for of, policy in pairs if of == reference):
                policies_of(scenario, name)
        jobs = [Job(scenario=reference, policy=name, seed=seed) for reference, name in pairs for seed in range(seeds)]
        played, complete = _play(jobs, processes)
        found = collect(played, made)
    if not complete:
        raise typer.Exit(INTERRUPTED)
    judgements = judge_rules(asked, found)
    show_judgements(judgements, console)
    raise typer.Exit(0 if all(judgement.holds for judgement in judgements) else 1)


@lab.command()
def replay(
    results: Annotated[Path, typer.Argument(help="A results.json.")],
    *,
    seed: Annotated[int, typer.Option(help="Which run.")],
    scenario: Annotated[str | None, typer.Option(help="Where the file has several.")] = None,
    policy: Annotated[str | None, typer.Option(help="Left out: all of them.")] = None,
) -> None:
    """Play runs of a results file again; end with 1 if anything came out differently."""
    recorded = attempt(Results.read, results)
    chosen = [
        one
        for one in recorded.runs
        if one.seed == seed and scenario in {None, one.scenario} and policy in {None, one.policy}
    ]
    if not chosen:
        there = dict.fromkeys(f"{one.scenario} {one.policy}" for one in recorded.runs)
        refuse(ValueError(f"{results}: no such run with seed {seed}; there are runs of {', '.join(there)}"))
    differing = 0
    for one in chosen:
        facts = recorded.header.scenarios[one.scenario]
        job = Job(
            scenario=facts.reference or one.scenario,
            policy=one.policy,
            seed=one.seed,
            knobs=tuple(facts.knobs.items()),
            backend=recorded.header.backend,
            mode=_mode(recorded.header.mode),
        )
        again = attempt(play, job)
        same = again == one
        differing += not same
        console.print(
            f"{one.scenario} {one.policy} seed {one.seed}: "
            + ("the same to the last bit" if same else f"differs in {', '.join(_differing(one, again))}"),
            style="" if same else "bold red",
            markup=False,
        )
    raise typer.Exit(1 if differing else 0)


def _differing(one: Run, other: Run) -> list[str]:
    both = [(one.metrics, other.metrics), (one.series, other.series)]
    return sorted({name for old, new in both for name in {*old, *new} if old.get(name) != new.get(name)})


@lab.command()
def verify() -> None:
    """Prove that this machine simulates as every other does: the same seeds, the same bytes; under a minute."""
    from resilient.lab.verify import main

    raise typer.Exit(main([]))


lab.command()(calibrate)
