"""``modeval bench train``: a cohort against plain PyTorch, one model at a time."""

import json
import os
from typing import Annotated, Any

import typer

from modeval.cli.output import choose_device, stderr, stdout
from modeval.errors import SpecError

FAMILIES = {"mlp": "binary", "attention": "sets", "recurrent": "series"}
MODELS = "monolithic,modular,modular-op,gt-modular"
ROUNDS = 3


def bench_train_command(
    *,
    family: Annotated[
        str, typer.Option(help="Families, as mlp,attention,recurrent.")
    ] = "mlp,attention,recurrent",
    rules: Annotated[str, typer.Option(help="Numbers of rules, as 2,8,32.")] = "2,8,32",
    models: Annotated[str, typer.Option(help=f"Models, as {MODELS}.")] = MODELS,
    cohort: Annotated[int, typer.Option(help="Seeds trained together.", min=1)] = 25,
    seconds: Annotated[
        float, typer.Option(help="Seconds for each side of each row.", min=0.01)
    ] = 3.0,
    device: Annotated[str, typer.Option(help="Device of the cohort: auto, cpu, cuda.")] = "cpu",
    engine: Annotated[
        str, typer.Option(help="How steps are computed: auto, fused, compiled, eager.")
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare models x steps per second of a cohort with plain PyTorch, drawing included.

    The plain side trains one model at a time from the same equations, in one process of one thread
    for each core; the two sides take turns, so that both meet the machine in the same state.

    Example: modeval bench train --family mlp --rules 2,32
    """
    result = bench_train(
        families=_choices("family", family, tuple(FAMILIES)),
        rules=_numbers(rules),
        models=_choices("models", models, (*MODELS.split(","), "modular-shared")),
        cohort=cohort,
        seconds=seconds,
        device=device,
        engine=_choices("engine", engine, ("auto", "fused", "compiled", "eager"))[0],
        quiet=as_json,
    )
    if as_json:
        typer.echo(json.dumps(result, indent=2))
    else:
        _print(result)


def bench_train(
    *,
    families: list[str],
    rules: list[int],
    models: list[str],
    cohort: int,
    seconds: float,
    device: str = "cpu",
    engine: str = "auto",
    quiet: bool = True,
) -> dict[str, Any]:
    """Measure each combination; return plain values, one row for each."""
    from modeval.cli.bench.plain_pytorch import processes

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    rows = []
    with processes(cores or 1) as crew:
        for name in families:
            for number in rules:
                for model in models:
                    row = _row(
                        *(crew, FAMILIES[name], number, model),
                        cohort=cohort,
                        seconds=seconds,
                        device=device,
                        engine=engine,
                    )
                    rows.append({"family": name, "rules": number, "model": model, **row})
                    if not quiet:
                        stderr().print(f"{name} R={number} {model}: {_times(row['ratio'])}")
    return {"cores": cores, "cohort": cohort, "device": device, "seconds": seconds, "rows": rows}


def _row(
    crew: Any,
    task: Any,
    rules: int,
    model: str,
    *,
    cohort: int,
    seconds: float,
    device: str,
    engine: Any,
) -> dict[str, Any]:
    """Let both sides take turns; rates are means over the turns."""
    import time

    import torch

    from modeval.cli.bench.plain_pytorch import steps_per_second
    from modeval.nn import create
    from modeval.spec import MODELS as CHOICES
    from modeval.spec import DataSpec, ModelSpec, TrainSpec
    from modeval.train.step import Stepper
    from modeval.train.stream import Stream, batches

    data, spec = DataSpec(task=task, rules=rules), ModelSpec(**CHOICES[model])
    batch = TrainSpec().batch
    place, seeds = choose_device(device), tuple((seed, seed) for seed in range(cohort))
    source = batches(Stream(data, seeds, batch, place))
    rate = torch.tensor(1e-4, device=place)
    network = create(data, spec, [seed for _, seed in seeds]).to(place)
    next(source)
    started = time.perf_counter()
    stepper = Stepper(network, data.objective, engine=engine)
    stepper.step(next(source), rate)
    compile_seconds = time.perf_counter() - started

    def step() -> None:
        stepper.step(next(source), rate)

    def ours(turn: float) -> float:
        done = steps_per_second(step, turn)
        if place.type == "cuda":
            torch.cuda.synchronize()
        return done * cohort

    plain = model != "modular-shared"  # the plain side has the paper's four models
    if plain:
        crew.prepare(data, spec, batch)
    turns = [
        (crew.measure(seconds / ROUNDS) if plain else 0.0, ours(seconds / ROUNDS))
        for _ in range(ROUNDS)
    ]
    baseline, cohort_rate = (sum(side) / ROUNDS for side in zip(*turns, strict=True))
    return {
        "baseline": baseline if plain else None,
        "cohort": cohort_rate,
        "ratio": cohort_rate / baseline if plain else None,
        "engine": stepper.engine,
        "note": stepper.engine_note,
        "first_step_seconds": compile_seconds,
    }


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


def _print(result: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(
        title=f"Models x steps per second, cohort of {result['cohort']}, {result['cores']} cores"
    )
    for column in ("family", "R", "model", "plain", "cohort", "ratio", "engine", "compile"):
        words = column in ("family", "model", "engine")
        table.add_column(column, justify="left" if words else "right", no_wrap=True)
    for row in result["rows"]:
        table.add_row(
            row["family"],
            str(row["rules"]),
            row["model"],
            f"{row['baseline']:,.0f}" if row["baseline"] else "-",
            f"{row['cohort']:,.0f}",
            _times(row["ratio"]),
            row["engine"],
            f"{row['first_step_seconds']:.1f} s",
        )
    stdout().print(table)


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.1f} x"
