"""``modeval sweep``: grids of cohorts, planned, worked through and collected."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from modeval.cli import complete
from modeval.cli.options import read_shard
from modeval.cli.output import choose_device, let_threads_sleep, progress_bar, stderr, stdout
from modeval.errors import SpecError, nearest
from modeval.spec import Engine

if TYPE_CHECKING:
    from modeval.sweep.plan import State, Sweep


Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the sweep.")]
Device = Annotated[
    str, typer.Option(help="auto, cpu, cuda or cuda:N.", autocompletion=complete.devices)
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]
TrustCode = Annotated[
    bool, typer.Option("--trust-code", help="Run the files of yours that the grid names.")
]
EngineOption = Annotated[Engine, typer.Option(help="How steps are computed.")]
STATES: "tuple[State, ...]" = ("done", "running", "stopped", "failed", "waiting")

sweep = typer.Typer(
    no_args_is_help=True,
    help="Train and score whole grids: on this machine, in shards, or on a cluster.",
)


@sweep.command("plan")
def plan_command(
    grid: Annotated[
        str,
        typer.Argument(
            metavar="GRID",
            help="File of the grid, or demo, paper-mlp, paper or survey.",
            autocompletion=complete.grids,
        ),
    ],
    *,
    out: Annotated[Path, typer.Option("--out", help="Folder of the sweep.")],
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change the grid: train.steps=1000.",
            autocompletion=complete.settings,
        ),
    ] = None,
    trial: Annotated[
        bool, typer.Option(help="Measure on this machine how long it will take.")
    ] = True,
    device: Device = "auto",
    engine: EngineOption = "auto",
) -> None:
    """Unfold a grid into a numbered list of cohorts, and say what they will cost here.

    In the file any setting of a spec may be a list; the sweep is the product. Planning a larger
    grid into the same folder keeps what is done.
    """
    from modeval.sweep.plan import plan, with_seconds, write_sweep

    planned = plan(_changed(_grid(grid), settings or []), out)
    if trial:
        planned = with_seconds(planned, _seconds(planned, device, engine))
    write_sweep(planned)
    console = stdout()
    members = sum(len(cohort.spec.train.seeds) for cohort in planned.cohorts)
    console.print(
        f"{out}: {len(planned.cohorts)} cohorts, {members} models.", highlight=False, markup=False
    )
    if trial:
        total = sum(cohort.seconds or 0 for cohort in planned.cohorts)
        console.print(f"Expected time on this machine: {_duration(total)}.", highlight=False)
    own = " --trust-code" if (out / "code").is_dir() else ""
    console.print(
        f"Work through it with: modeval sweep run {out}{own}", highlight=False, markup=False
    )


def _grid(name: str) -> dict[str, Any]:
    from modeval.spec import load_toml
    from modeval.spec.sweep import NAMED

    if name in NAMED:
        return NAMED[name]
    if not Path(name).exists() and "." not in name:
        raise SpecError(
            f"{name}: there is no such file, and no grid of that name{nearest(name, list(NAMED))}. "
            f"Named grids: {', '.join(NAMED)}."
        )
    return load_toml(Path(name))


def _changed(grid: dict[str, Any], settings: list[str]) -> dict[str, Any]:
    """Lay ``section.key=value`` over a grid and its parts; values are read as TOML."""
    import copy
    import tomllib

    grid = copy.deepcopy(grid)
    for text in settings:
        path, equals, value = text.partition("=")
        if not equals:
            raise SpecError(f"--set {text}: expected KEY=VALUE, as train.steps=1000.")
        try:
            parsed = tomllib.loads(f"value = {value}")["value"]
        except (tomllib.TOMLDecodeError, RecursionError):
            parsed = value
        keys = path.strip().split(".")
        for table in (grid, *grid.get("part", [])):
            if table is not grid and keys[0] not in table:
                continue
            for key in keys[:-1]:
                table = table.setdefault(key, {})  # noqa: PLW2901 - one level down
                if not isinstance(table, dict):
                    raise SpecError(f"--set {text}: {key} is no table of settings.")
            table[keys[-1]] = parsed
    return grid


def _seconds(planned: "Sweep", device: str, engine: Engine) -> list[float]:
    let_threads_sleep()
    from modeval.sweep.cost import expected_seconds, steps_per_second

    chosen = choose_device(device)
    with progress_bar() as bar:
        task = bar.add_task("Trial", total=None, note="")

        def speed(run: Any, seconds: float) -> float:
            bar.update(task, note=f"{run.name}, {run.data.rules} rules")
            steps = steps_per_second(run, device=chosen, engine=engine, seconds=seconds)
            bar.advance(task)
            return steps

        def announce(count: int) -> None:
            bar.update(task, total=count)

        runs = [cohort.spec for cohort in planned.cohorts]
        return expected_seconds(runs, speed=speed, announce=announce)


@sweep.command("run")
def run_command(
    folder: Folder,
    *,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Only the I-th of N parts, from 1.")
    ] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Try failed cohorts again.")] = False,
    trust_code: TrustCode = False,
    device: Device = "auto",
    engine: EngineOption = "auto",
    quiet: Quiet = False,
) -> None:
    """Train and score what is left of a sweep. Several workers may do this at once."""
    let_threads_sleep()
    from modeval.sweep.here import worker
    from modeval.sweep.plan import read_sweep, share, take_code
    from modeval.sweep.run import work

    planned = read_sweep(folder)
    take_code(planned, trust=trust_code)
    part = None if shard is None else read_shard(shard)
    with progress_bar(quiet=quiet) as bar:
        every = bar.add_task(
            "Cohorts", total=len(share(planned.cohorts, *(part or (1, 1)))), note=""
        )
        one = bar.add_task("", total=None, note="")

        def begun(cohort: Any) -> None:
            bar.update(
                one, description=f"#{cohort.number}", total=cohort.spec.train.steps, completed=0,
                note=cohort.name,
            )  # fmt: skip

        def ended(cohort: Any, error: str) -> None:
            bar.advance(every)
            if error:
                bar.console.print(f"{cohort.name} failed: {error}", markup=False, highlight=False)

        def watch(progress: Any) -> None:
            note = f"loss {progress.loss:.4f}, {progress.models_per_second:,.0f} models x steps/s"
            bar.update(one, completed=progress.step, note=note)

        hands = worker(
            device=choose_device(device), engine=engine, begun=begun, ended=ended, watch=watch
        )
        outcome = work(planned, hands, shard=part, retry=retry)
    if not quiet:
        stderr().print(
            f"Done: {outcome.done}; before: {outcome.before}; held by other workers: "
            f"{outcome.elsewhere}; failed: {outcome.failed}.",
            highlight=False,
        )
    if outcome.failed:
        raise SpecError(
            f"{outcome.failed} cohorts failed; the others are done. See why with: modeval sweep "
            f"status {folder}; try them again with: modeval sweep run {folder} --retry"
        )


@sweep.command("status")
def status_command(folder: Folder) -> None:
    """Say how far a sweep has come, and what failed."""
    from modeval.sweep.plan import read_sweep, state_of
    from modeval.sweep.run import failures

    planned = read_sweep(folder)
    states = {cohort.name: state_of(planned, cohort) for cohort in planned.cohorts}
    counts = Counter(states.values())
    console = stdout()
    console.print(
        f"{planned.name}: {len(states)} cohorts; "
        + ", ".join(f"{counts[state]} {state}" for state in STATES),
        highlight=False,
        markup=False,
    )
    left = [cohort for cohort in planned.cohorts if states[cohort.name] != "done"]
    if left and all(cohort.seconds is not None for cohort in left):
        total = sum(cohort.seconds or 0 for cohort in left)
        console.print(f"Expected time for what is left, one worker: {_duration(total)}.")
    for name, error in failures(planned, planned.cohorts).items():
        console.print(f"{name} failed: {error}", highlight=False, markup=False)


@sweep.command("collect")
def collect_command(
    folder: Folder,
    *,
    out: Annotated[Path, typer.Option("--json", metavar="FILE", help="Scorecard to write.")],
) -> None:
    """Put the scorecards of a sweep together in one file, for report, plot, compare and gate."""
    from modeval.score.stored.files import check_writable, write_scorecard
    from modeval.sweep.collect import collect
    from modeval.sweep.plan import read_sweep

    check_writable(out)
    collected = collect(read_sweep(folder))
    write_scorecard(out, collected.card)
    missing = f"; {len(collected.missing)} cohorts are not done" if collected.missing else ""
    stdout().print(
        f"Wrote {out}: {len(collected.card.models)} models, {len(collected.card.scores)} "
        f"scores{missing}.",
        highlight=False,
        markup=False,
    )


@sweep.command("submit")
def submit_command(
    folder: Folder,
    *,
    jobs: Annotated[int, typer.Option(help="Workers in the array.", min=1)] = 8,
    at_once: Annotated[
        int, typer.Option(help="How many of them may run at the same time.", min=1)
    ] = 256,
    cluster: Annotated[
        Literal["slurm", "local"], typer.Option(help="Scheduler; local: this machine.")
    ] = "slurm",
    minutes: Annotated[
        int, typer.Option(help="Time of a job; it is queued again when that runs out.", min=1)
    ] = 60,
    parameters: Annotated[
        list[str] | None,
        typer.Option(
            "--slurm",
            metavar="KEY=VALUE",
            help="For the scheduler: slurm_partition=gpu, gpus_per_node=1, cpus_per_task=8.",
        ),
    ] = None,
    trust_code: TrustCode = False,
    device: Device = "auto",
    engine: EngineOption = "auto",
) -> None:
    """Submit workers to a cluster as job arrays, through submitit (extra slurm)."""
    from modeval.sweep.plan import check_claims, read_sweep, take_code
    from modeval.sweep.submit import Job, submit

    planned = read_sweep(folder)
    check_claims(planned)
    take_code(planned, trust=trust_code)
    asked = {"timeout_min": minutes} | dict(map(_parameter, parameters or []))
    job = Job(folder.resolve(), device, engine, trust_code)
    count = min(jobs, len(planned.cohorts))
    numbers = submit(job, jobs=count, cluster=cluster, parameters=asked, at_once=at_once)
    stdout().print(
        f"Submitted {len(numbers)} jobs: {', '.join(numbers[:3])}"
        f"{', ...' if len(numbers) > 3 else ''}. Follow them with: modeval sweep status {folder}",  # noqa: PLR2004
        highlight=False,
        markup=False,
    )


def _parameter(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise SpecError(f"--slurm {text}: expected KEY=VALUE, as slurm_partition=gpu.")
    return name, int(value) if value.isdecimal() else value


def _duration(seconds: float) -> str:
    """Write a time in words.

    >>> _duration(45), _duration(4000), _duration(200000)
    ('45 s', '1 h 6 min', '2 d 7 h')
    """
    for size, unit, below, smaller in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if seconds >= size:
            return f"{int(seconds // size)} {unit} {int(seconds % size // below)} {smaller}"
    return f"{seconds:.0f} s"
