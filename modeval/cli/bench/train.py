"""``modeval bench train``: a cohort against plain PyTorch, one model at a time."""

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from modeval.cli import complete
from modeval.cli.output import choose_device, stderr, stdout
from modeval.errors import SpecError
from modeval.native import INSTRUCTIONS
from modeval.spec import Engine

if TYPE_CHECKING:
    from modeval.cli.bench.rows import Row

FAMILIES = {"mlp": "binary", "attention": "sets", "recurrent": "series"}
MODELS = "monolithic,modular,modular-op,gt-modular"
SECONDS, MINUTES = 3.0, 9.0


def bench_train_command(
    *,
    family: Annotated[
        str,
        typer.Option(
            help="Families, as mlp,attention,recurrent.",
            autocompletion=complete.several(complete.one_of("mlp", "attention", "recurrent")),
        ),
    ] = "mlp,attention,recurrent",
    rules: Annotated[
        str, typer.Option(help="Numbers of rules; 2,8,32, or 8 with --systems.", metavar="R,R")
    ] = "",
    models: Annotated[
        str,
        typer.Option(
            help=f"Models, as {MODELS}, or other systems.",
            metavar="M,M",
            autocompletion=complete.several(complete.systems),
        ),
    ] = MODELS,
    systems: Annotated[
        bool, typer.Option("--systems", help="All systems that modeval systems lists.")
    ] = False,
    cohort: Annotated[int, typer.Option(help="Seeds trained together.", min=1)] = 25,
    seconds: Annotated[
        float | None,
        typer.Option(help="Seconds for each side of each row; 3, if no --budget.", min=0.01),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            help="Minutes for all rows together, of fewer seeds where that takes it; 9 with "
            "--systems.",
            min=0.01,
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            help="Device of the cohort: auto, cpu, cuda.", autocompletion=complete.devices
        ),
    ] = "cpu",
    engine: Annotated[
        str,
        typer.Option(
            help=f"How steps are computed: {', '.join(get_args(Engine))}.",
            autocompletion=complete.one_of(*get_args(Engine)),
        ),
    ] = "auto",
    reference: Annotated[
        Path | None, typer.Option(help="Checkout of the paper's code, to run its loop too.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare models x steps per second of a cohort with plain PyTorch, drawing included.

    The plain side trains one model at a time from the same equations, in one process of one thread
    for each core (on a GPU: in one process there); beside it stands torch.func.vmap of that model.
    All sides take turns, so that all meet the machine in the same state. Share: the arithmetic that
    the step needs, over what a compiled loop of multiply-adds does in the same run.
    MODEVAL_MARCH=x86-64-v3 before it (or x86-64) compiles kernels and that loop for AVX2 (or SSE).

    Example: modeval bench train --family mlp --rules 2,32
    """
    from modeval.spec.systems import BY_NAME

    if seconds is not None and budget is not None:
        raise SpecError("--seconds is for each side of a row, --budget for all rows: give one.")
    if systems and seconds is None and budget is None:
        budget = MINUTES
    known = tuple(dict.fromkeys((*MODELS.split(","), *BY_NAME)))
    result = bench_train(
        families=_choices("family", family, tuple(FAMILIES)),
        rules=_numbers(rules or ("8" if systems else "2,8,32")),
        models=list(BY_NAME) if systems else _choices("models", models, known),
        cohort=cohort,
        seconds=SECONDS if seconds is None else seconds,
        budget=budget,
        device=device,
        engine=_choices("engine", engine, get_args(Engine))[0],
        reference=reference,
        quiet=as_json and budget is None,
    )
    if as_json:
        typer.echo(json.dumps(result, indent=1))
    else:
        show(result)


def bench_train(
    *,
    families: list[str],
    rules: list[int],
    models: list[str],
    cohort: int,
    seconds: float,
    budget: float | None = None,
    device: str = "cpu",
    engine: str = "auto",
    reference: Path | None = None,
    quiet: bool = True,
) -> dict[str, Any]:
    """Measure each combination; return plain values, one row for each.

    With a ``budget`` of minutes each row takes its part of what is left of them.

    Raises:
        SpecError: the checkout has no trainer for a family.
    """
    import torch

    from modeval.cli.bench.crew import processes
    from modeval.cli.bench.reference import trainer
    from modeval.cli.bench.rows import Bench, measure, measure_within
    from modeval.cli.bench.work import workload
    from modeval.cli.machine import describe

    place = choose_device(device)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    rows = []
    works = [
        workload(FAMILIES[name], number, model)
        for name in families
        for number in rules
        for model in models
        if _is_defined(FAMILIES[name], model)
    ]
    if reference is not None:
        for work in works:
            trainer(reference, work.data)
    with processes(1 if place.type == "cuda" else cores or 1) as crew:
        bench = Bench(crew, cohort, seconds, place, engine, reference)  # type: ignore[arg-type]
        end = time.monotonic() + 60 * (budget or 0)
        for number, work in enumerate(works):
            if budget is None:
                row = measure(bench, work)
            else:
                left = max(0.0, end - time.monotonic())
                row = measure_within(bench, work, left / (len(works) - number))
            rows.append(row.as_json())
            if not quiet:
                part = "" if budget is None else f"{number + 1} of {len(works)}, "
                rest = "" if budget is None else f"; {_minutes(end - time.monotonic())} left"
                stderr().print(f"{part}{_line(row)}{rest}")
    return {
        "machine": describe(place),
        "cores": cores,
        "threads": torch.get_num_threads(),
        "instructions": os.environ.get(INSTRUCTIONS) or None,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "cohort": cohort,
        "device": device,
        "seconds": seconds if budget is None else None,
        "budget": budget,
        "peak": max((row["peak"] or 0.0 for row in rows), default=0.0) or None,
        "rows": rows,
    }


def _is_defined(task: str, model: str) -> bool:
    from modeval.spec.systems import BY_NAME

    return task in BY_NAME[model].tasks


def _line(row: "Row") -> str:
    share = "" if row.share is None else f", {row.share:.0%} of the peak"
    return f"{row.family} R={row.rules} {row.model}: {_times(row.ratio)}{share}"


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes}:{rest:02}"


def _choices(flag: str, text: str, known: tuple[str, ...]) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in known:
            raise SpecError(f"--{flag} {name!r}: expected some of {', '.join(known)}.")
    return names


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise SpecError(f"--rules {text!r}: expected numbers, as 2,8,32.") from None


def show(result: dict[str, Any]) -> None:
    """Print a result as a table."""
    from rich import box
    from rich.table import Table

    peak, forced = result["peak"], result["instructions"]
    table = Table(
        title=f"Models x steps per second, cohort of {result['cohort']}, {result['cores']} cores"
        + (f", kernels for {forced}" if forced else "")
        + (f", peak {peak / 1e9:,.0f} GFLOP/s" if peak else ""),
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    sides = [
        name
        for name in ("plain", "vmap", "reference")
        if any(row[name] is not None for row in result["rows"])
    ]
    fewer = any(row["seeds"] < result["cohort"] for row in result["rows"])
    seeds = ("seeds",) if fewer else ()
    for column in (
        "family",
        "R",
        "model",
        *seeds,
        *sides,
        "cohort",
        "ratio",
        "GFLOP",
        "share",
        "engine",
    ):
        words = column in ("family", "model", "engine")
        table.add_column(column, justify="left" if words else "right", no_wrap=True)
    for row in result["rows"]:
        table.add_row(
            *(row["family"], str(row["rules"]), row["model"]),
            *((str(row["seeds"]),) if fewer else ()),
            *(_rate(row[name]) for name in sides),
            _rate(row["cohort"]),
            _times(row["ratio"]),
            "-" if row["arithmetic"] is None else f"{row['arithmetic'] / 1e9:.3f}",
            "-" if row["share"] is None else f"{row['share']:.0%}",
            row["engine"],
        )
    stdout().print(table)


def _rate(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:,.0f}"


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.1f} x"
