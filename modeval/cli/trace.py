"""``modeval trace``: look at traces, merge them, write them in other forms."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from modeval.cli import complete
from modeval.cli.output import stderr, stdout
from modeval.text import for_rich, visible

if TYPE_CHECKING:
    from modeval.trace.files import Trace
    from modeval.trace.trace import TraceHeader

MOST_NAMES = 64
"""Labels, or numbers of layers, that are named."""

trace = typer.Typer(
    no_args_is_help=True,
    help="Look at routing traces, merge them, write them in other forms.",
    rich_markup_mode="rich",
)

TracePath = Annotated[
    Path, typer.Argument(metavar="DIR.trace", help="Folder of the trace.", show_default=False)
]
NotesAlone = Annotated[bool, typer.Option("--quiet", "-q", help="Print notes and warnings alone.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@trace.command("info", epilog="Example: [cyan]modeval trace info runs/olmoe.trace[/]")
def info_command(path: TracePath, *, as_json: AsJson = False) -> None:
    """Say what a trace holds: layers, labels, what was measured, and every warning."""
    import json
    from dataclasses import asdict

    from modeval.trace.files import open_trace

    opened = open_trace(path)
    if as_json:
        size = {"rows": opened.rows, "parts": len(opened.parts), "complete": opened.complete}
        typer.echo(json.dumps({**asdict(opened.header), **size}, indent=2))
        return
    for name, value in describe(opened).items():
        stdout().print(f"[bold]{name:>14}[/]  ", end="")
        stdout().print(visible(value), markup=False, highlight=False)
    print_notes(opened.header)
    if not opened.complete:
        warn(f"{path} is incomplete: its recording stopped before its end. What is here is whole.")


@trace.command("head", epilog="Example: [cyan]modeval trace head runs/olmoe.trace --rows 5[/]")
def head_command(
    path: TracePath,
    *,
    rows: Annotated[int, typer.Option(min=1, help="Number of rows.")] = 10,
) -> None:
    """Print the first rows, one JSON object a line."""
    import json

    from modeval.trace.convert import records
    from modeval.trace.files import read_trace

    header, chunks = read_trace(path, rows=rows)
    first = next(chunks, None)
    for row in () if first is None else records(first, header):
        typer.echo(json.dumps(row))


@trace.command(
    "show",
    epilog="Example: [cyan]modeval trace show runs/olmoe.trace --module 3:5 --module 3:6[/]",
)
def show_command(
    path: TracePath,
    *,
    module: Annotated[
        list[str],
        typer.Option(
            metavar="LAYER:MODULE",
            help="Number (or name) of a layer, and of a module. Repeatable.",
            autocompletion=complete.modules,
        ),
    ],
    contexts: Annotated[int, typer.Option(min=0, help="Tokens to show of each label.")] = 5,
    width: Annotated[int, typer.Option(min=0, help="Tokens to show beside each.")] = 8,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="Folder or hub id of a tokenizer; that of the model when it lies on this machine."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Draws the tokens that are shown.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Show what a module took: its share of each label, and some of its tokens in context."""
    import json
    from dataclasses import asdict

    from modeval.pipeline.showing import show_modules, words_of

    found = show_modules(path, module, contexts=contexts, width=width, seed=seed)
    if as_json:
        typer.echo(json.dumps([asdict(taken) for taken in found], indent=2))
        return
    from modeval.report.terminal.contexts import numbers, render_taken

    words = words_of(path, tokenizer)
    if words is None and any(label.contexts for taken in found for label in taken.labels):
        warn("Tokens are shown by their ids: say which tokenizer made them with --tokenizer DIR.")
    for taken in found:
        for part in render_taken(taken, words or numbers):
            stdout().print(part, highlight=False)


@trace.command(
    "merge",
    epilog="Example: [cyan]modeval trace merge arxiv.trace github.trace --out both.trace[/]",
)
def merge_command(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="DIR.trace...", help="Traces, in order.", show_default=False),
    ],
    *,
    out: Annotated[Path, typer.Option(help="New folder.", show_default=False)],
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Take incomplete traces as they are.")
    ] = False,
    quiet: NotesAlone = False,
) -> None:
    """Write several traces of one model as one; labels are united, documents kept apart.

    Files of counts are added up. What repeats something else is said.
    """
    from modeval.trace.convert import merge, merge_counts

    if all(path.is_file() for path in paths):
        header = merge_counts(paths, out)
        said = f"{len(paths)} files of counts: {out}"
    else:
        merged = merge(paths, out, allow_partial=allow_partial)
        header, said = merged.header, f"{merged.rows} rows of {len(paths)} traces: {out}"
    if not quiet:
        stdout().print(said, markup=False, highlight=False)
    print_notes(header)


@trace.command(
    "convert",
    epilog="Example: [cyan]modeval trace convert olmoe.trace --to counts --out "
    "olmoe.counts.safetensors[/]",
)
def convert_command(
    path: TracePath,
    *,
    out: Annotated[Path, typer.Option(help="New file.", show_default=False)],
    to: Annotated[
        Literal["counts", "csv", "jsonl", "npz"] | None,
        typer.Option(
            help="Counts of any trace; rows of a small one. If not given, what the name of the "
            "file ends in, else counts.",
            show_default=False,
        ),
    ] = None,
    blocks: Annotated[
        int, typer.Option(min=1, help="Replicate blocks that documents are hashed to (counts).")
    ] = 64,
    quiet: NotesAlone = False,
) -> None:
    """Write a trace as counts, or a small one as CSV, JSONL or NPZ.

    The parts of a trace are Parquet: DuckDB, Polars and Spark read DIR.trace/part-*.parquet as
    they are.
    """
    from modeval.trace.convert import convert
    from modeval.trace.files import open_trace

    opened = open_trace(path)
    ending = out.suffix.removeprefix(".").lower()
    kind = to or (ending if ending in {"csv", "jsonl", "npz"} else "counts")
    convert(opened, out, kind=kind, blocks=blocks)
    if not quiet:
        stdout().print(f"{opened.rows} rows as {kind}: {out}", markup=False, highlight=False)
    if not opened.complete:
        warn(f"{path} is incomplete: its recording stopped before its end.")


def describe(opened: "Trace") -> dict[str, str]:
    """Return what a trace holds as lines of text, by name."""
    header = opened.header
    lines = describe_header(header)
    size = sum(part.path.stat().st_size for part in opened.parts)
    parts = "1 part" if len(opened.parts) == 1 else f"{len(opened.parts)} parts"
    return {
        "rows": f"{opened.rows:,} in {parts}, {size / 1e6:,.2f} MB",
        **lines,
    }


def describe_header(header: "TraceHeader") -> dict[str, str]:
    """Return the meaning of a trace as lines of text, by name."""
    source = header.source
    depth = len(header.layers)
    few = depth <= 3  # noqa: PLR2004
    names = ", ".join(header.layers if few else (*header.layers[:2], "...", header.layers[-1]))
    return {
        "layers": f"{depth}: {names}",
        "modules": _one_or_all(header.modules),
        "chosen": _one_or_all(header.choices) if all(header.choices) else "unknown",
        "labels": _first(header.labels) or "none",
        "weights": header.weight_scale,
        "phase": header.phase,
        "capacity": "unknown"
        if header.capacity == "unknown"
        else f"{header.capacity} tokens are dropped",
        "padding": header.padding,
        "shared experts": "unknown" if header.shared is None else str(header.shared),
        "source": ", ".join(filter(None, (source.engine, source.model, source.format)))
        or "unknown",
    }


def print_notes(header: "TraceHeader") -> None:
    """Print the notes and the warnings of a header on standard error, warnings last."""
    for note in header.notes:
        warn(note)
    for warned in header.warnings:
        warn(f"{warned.kind}: {warned.text}", word="[bold yellow]warning:[/]")


def warn(text: str, *, word: str = "[yellow]note:[/]") -> None:
    """Print one note on standard error."""
    stderr().print(f"{word} {for_rich(text)}", highlight=False)


def _one_or_all(numbers: tuple[int, ...]) -> str:
    return str(numbers[0]) if len(set(numbers)) == 1 else _first([*map(str, numbers)])


def _first(names: Sequence[str]) -> str:
    """Return names in a line, the first of very many of them."""
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more:,} more" if more > 0 else "")
