"""``modeval bench trace``: folding a trace, beside reading the same columns and doing nothing."""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modeval.cli.output import stdout
from modeval.spec.checks import check

if TYPE_CHECKING:
    from modeval.trace.files import Trace


def bench_trace_command(
    *,
    rows: Annotated[int, typer.Option(min=1, help="Rows: tokens times layers.")] = 2_000_000,
    layers: Annotated[int, typer.Option(min=1, help="Layers.")] = 16,
    modules: Annotated[int, typer.Option(min=1, help="Modules.")] = 64,
    choices: Annotated[int, typer.Option(min=1, help="Chosen modules.")] = 8,
    labels: Annotated[int, typer.Option(min=1, help="Labels.")] = 5,
    weights: Annotated[bool, typer.Option(help="Record weights.")] = True,
    repeats: Annotated[int, typer.Option(min=1, help="Runs; the quickest counts.")] = 3,
    folder: Annotated[Path | None, typer.Option(help="Where to put the trace.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Time writing, scanning and folding of a made-up trace, in rows per second."""
    check(
        choices <= modules,
        f"--choices {choices}: there are {modules} modules. Type --choices {modules} or fewer.",
    )
    check(
        folder is None or folder.is_dir(),
        f"--folder {folder}: no folder is there. Make it, or leave --folder out.",
    )
    from modeval.trace.files import open_trace

    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        path = Path(scratch) / "bench.trace"
        written = write_made_up(
            path,
            rows,
            layers=layers,
            modules=modules,
            choices=choices,
            labels=labels,
            weights=weights,
        )
        result = bench_fold(open_trace(path), repeats) | {"write_rows_per_second": rows / written}
    if as_json:
        typer.echo(json.dumps(result, indent=2))
        return
    for name, value in result.items():
        stdout().print(f"{name:>26}  {value:,.6g}", highlight=False)


def write_made_up(
    path: Path,
    rows: int,
    *,
    layers: int,
    modules: int,
    choices: int,
    labels: int,
    weights: bool,
) -> float:
    """Write random routing, each batch layer by layer as a recorder does; return the seconds."""
    import numpy as np

    from modeval.trace.files import TraceWriter
    from modeval.trace.trace import TraceHeader, make_chunk

    draw = np.random.default_rng(0)
    header = TraceHeader(
        layers=tuple(f"layers.{number}" for number in range(layers)),
        modules=(modules,) * layers,
        choices=(choices,) * layers,
        labels=tuple(f"label {number}" for number in range(labels)),
        weight_scale="renormalised" if weights else "none",
    )
    size, tokens_of_document = 1 << 12, 512
    chosen = draw.random((size, modules)).argsort(1)[:, :choices].astype(np.int16)
    share = draw.random((size, choices)).astype(np.float32)
    share /= share.sum(1, keepdims=True)
    seconds, left = 0.0, rows
    with TraceWriter(path, header) as writer:
        for start in range(0, -(-rows // layers), size):
            token = np.arange(start, start + size)
            document = token // tokens_of_document
            for layer in range(layers):
                part = slice(0, min(size, left))
                left -= len(token[part])
                chunk = make_chunk(
                    document=document[part],
                    position=token[part] % tokens_of_document,
                    label=document[part] % labels,
                    layer=layer,
                    chosen=chosen[part],
                    weight=share[part] if weights else None,
                )
                begin = time.perf_counter()
                writer.append(chunk)
                seconds += time.perf_counter() - begin
        begin = time.perf_counter()
        writer.flush()
        seconds += time.perf_counter() - begin
    return seconds


def bench_fold(trace: "Trace", repeats: int) -> dict[str, Any]:
    """Time a scan of the columns that folding needs, and folding."""
    from modeval.trace.files import scan
    from modeval.trace.fold import columns_to_fold, fold

    columns = columns_to_fold(trace.header)
    scans, folds = [], []
    for _ in range(repeats):  # in turns, so that both meet the same machine
        begin = time.perf_counter()
        scan(trace, columns)
        middle = time.perf_counter()
        fold(trace)
        scans.append(middle - begin)
        folds.append(time.perf_counter() - middle)
    return {
        "rows": trace.rows,
        "scan_rows_per_second": trace.rows / min(scans),
        "fold_rows_per_second": trace.rows / min(folds),
        "fold_to_scan": min(folds) / min(scans),
        "peak_memory_mb": _peak_memory(),
    }


def _peak_memory() -> float:
    """Return the most memory that this process has held, in MB; NaN where nobody counts it."""
    if sys.platform == "win32":
        return float("nan")
    import resource

    unit = 1e6 if sys.platform == "darwin" else 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
