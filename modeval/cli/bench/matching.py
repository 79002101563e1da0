"""``modeval bench matching``: matrices per second against scipy in a loop, in one run."""

import json
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from modeval.cli import complete
from modeval.cli.output import stdout

SIZES = ((4, 4), (8, 8), (16, 16), (16, 128), (32, 32), (64, 64), (128, 128), (256, 256))
WORK = 1_500_000  # entries of the matrices of one size


def bench_matching_command(
    *,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda or cuda:N.", autocompletion=complete.devices)
    ] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare matching many matrices at once with scipy in a loop."""
    rows = bench_matching(device)
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    from rich.table import Table

    table = Table("rules x modules", "matrices", "scipy in a loop", "modeval", "ratio", "the same")
    for row in rows:
        table.add_row(
            f"{row['rules']} x {row['modules']}",
            f"{row['matrices']}",
            f"{row['scipy_per_second']:,.0f}/s",
            f"{row['modeval_per_second']:,.0f}/s",
            f"{row['ratio']:.1f} x",
            "yes" if row["same"] else "NO",
        )
    stdout().print(table)


def bench_matching(device: str = "cpu") -> list[dict[str, Any]]:
    """Time both on random routing of several sizes, and compare their values."""
    import torch
    from scipy.optimize import linear_sum_assignment

    from modeval.cli.output import choose_device
    from modeval.metrics import match

    place = choose_device(device)
    generator = torch.Generator().manual_seed(0)
    rows = []
    for rules, modules in SIZES:
        count = min(5000, max(4, WORK // (rules * modules * max(1, rules // 16))))
        logits = torch.randn(count, rules, modules, generator=generator, dtype=torch.float64)
        benefit = (2 * logits).softmax(-1)
        tables, there = benefit.numpy(), benefit.to(place)

        def loop(tables: Any = tables) -> list[float]:
            return [float(t[linear_sum_assignment(t, maximize=True)].sum()) for t in tables]

        def batch(there: Any = there) -> Any:
            return match(there)[1].cpu()

        loop_seconds, values = _best(loop)
        batch_seconds, found = _best(batch)
        rows.append(
            {
                "rules": rules,
                "modules": modules,
                "matrices": count,
                "device": str(place),
                "scipy_per_second": count / loop_seconds,
                "modeval_per_second": count / batch_seconds,
                "ratio": loop_seconds / batch_seconds,
                "same": bool(torch.allclose(torch.tensor(values).double(), found, atol=1e-9)),
            }
        )
    return rows


def _best(function: Callable[[], Any], repeats: int = 3) -> tuple[float, Any]:
    """Return the least seconds of several runs, and the result."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - start)
    return min(times), result
