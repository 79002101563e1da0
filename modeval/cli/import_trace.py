"""``modeval import``: read the routing that another program wrote."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from modeval.cli import complete
from modeval.cli.options import read_shard, with_examples
from modeval.cli.output import stdout
from modeval.cli.trace import NotesAlone, describe_header, print_notes

LABELS, MEANING = "Labels", "What the files do not say"

EXAMPLES = """
[bold]Examples[/]

  OLMoE's published counts, a file for each domain (the format is detected):
  [cyan]modeval import expert_counts --choices 8 --out olmoe.trace[/]

  Replies of vLLM, labelled by the folders that they lie in:
  [cyan]modeval import replies --from vllm --label-from folder --modules 128 --out vllm.trace[/]

  Replies of SGLang, all of one label:
  [cyan]modeval import code.jsonl --choices 8 --label code --out code.trace[/]

  A table with other names of columns, or a bare array:
  [cyan]modeval import log.csv --columns chosen=my_experts --out log.trace[/]
  [cyan]modeval import ids.npy --axes layer,token,choice --out ids.trace[/]

  A part of the files on each of many machines; then the counts of all:
  [cyan]modeval import replies --modules 128 --shard 3/16 --out part-3.trace[/]
  [cyan]modeval trace convert part-3.trace --out part-3.counts.safetensors[/]
  [cyan]modeval trace merge part-*.counts.safetensors --out all.counts.safetensors[/]

  All formats: [cyan]modeval import --list[/]
"""


def import_command(
    sources: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="SOURCE...",
            help="Files, or folders of files, of one format.",
            show_default=False,
        ),
    ] = None,
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR.trace",
            help="New folder, needed. Sources of counts alone become NAME.counts.safetensors.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="NAME",
            help="Format; detected when absent.",
            show_default=False,
            autocompletion=complete.formats,
        ),
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="One label for all rows.", rich_help_panel=LABELS)
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help='JSON object: {"name of file, of folder, or label in the file": "label"}.',
            rich_help_panel=LABELS,
        ),
    ] = None,
    label_from: Annotated[
        Literal["file", "folder"] | None,
        typer.Option(help="Take labels from names of files or folders.", rich_help_panel=LABELS),
    ] = None,
    modules: Annotated[
        int | None, typer.Option(min=1, help="Modules of each layer.", rich_help_panel=MEANING)
    ] = None,
    choices: Annotated[
        int | None,
        typer.Option(min=1, help="Modules that a token chooses.", rich_help_panel=MEANING),
    ] = None,
    layers: Annotated[
        int | None,
        typer.Option(min=1, help="Layers of the model (SGLang replies).", rich_help_panel=MEANING),
    ] = None,
    model: Annotated[
        str, typer.Option(help="Name of the model, for the header.", rich_help_panel=MEANING)
    ] = "",
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="OURS=THEIRS,...",
            help="Names of columns that are not known: chosen=my_experts,layer=block.",
            rich_help_panel=MEANING,
        ),
    ] = None,
    axes: Annotated[
        str | None,
        typer.Option(
            metavar="AXIS,...",
            help="Axes of a bare array in order, of label, layer, expert, document, token, choice.",
            autocompletion=complete.axes,
            rich_help_panel=MEANING,
        ),
    ] = None,
    leave_out: Annotated[
        str | None,
        typer.Option(
            metavar="KIND,...",
            help="Leave out rows of these kinds of warnings: warm-up, padding, repeated rows, "
            "repeated ranks.",
            autocompletion=complete.row_kinds,
            rich_help_panel=MEANING,
        ),
    ] = None,
    allow_partial: Annotated[
        bool,
        typer.Option(
            "--allow-partial", help="Keep the readable part of damaged files, and say so."
        ),
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N", help="Only every N-th file, from the I-th: one job of an array."
        ),
    ] = None,
    quiet: NotesAlone = False,
    list_formats: Annotated[
        bool, typer.Option("--list", help="List the formats and exit.")
    ] = False,
) -> None:
    """Read routing that another program wrote, as a trace or as counts.

    Nothing is written if any file is damaged. What the files do not say stays unknown, and every
    assumption is printed and kept in the header.
    """
    from modeval.errors import SpecError

    if list_formats:
        _list_formats()
        return
    if not sources or out is None:
        raise SpecError("What to import, and where to? modeval import SOURCE... --out DIR.trace")

    from modeval.text import for_rich, visible
    from modeval.trace.importers.format import Options
    from modeval.trace.importers.import_files import import_source

    options = Options(
        label=label,
        labels=_read_labels(labels),
        label_from=label_from or "",
        modules=modules,
        choices=choices,
        layers=layers,
        model=model,
        columns=_read_columns(columns),
        axes=_parts(axes),
        leave_out=_kinds(leave_out),
        allow_partial=allow_partial,
        shard=read_shard(shard),
    )
    imported = import_source(sources, out, name=name, options=options)
    if not quiet:
        size = f"{imported.rows:,} rows" if imported.rows else "counts"
        stdout().print(
            f"[bold]{size}[/] of format {imported.format}: {for_rich(str(imported.path))}",
            highlight=False,
        )
        for key, value in describe_header(imported.header).items():
            stdout().print(f"{key:>14}  {visible(value)}", markup=False, highlight=False)
    print_notes(imported.header)


import_command.__doc__ = with_examples(import_command, EXAMPLES)


def _list_formats() -> None:
    from modeval.trace.importers.formats import FORMATS

    width = max(map(len, FORMATS))
    holds = {True: "counts", False: "rows  ", None: "either"}
    for file_format in FORMATS.values():
        typer.echo(f"{file_format.name:<{width}}  {holds[file_format.counts]}  {file_format.about}")


def _parts(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip()) if text else ()


def _kinds(text: str | None) -> frozenset[str]:
    """Return kinds of warnings; a hyphen may stand for the space, which a shell would quote.

    >>> sorted(_kinds("repeated-rows, warm-up"))
    ['repeated rows', 'warm-up']
    """
    from modeval.trace.suspicions import ROW_KINDS

    known = {kind.replace(" ", "-"): kind for kind in ROW_KINDS}
    return frozenset(known.get(part, part) for part in _parts(text))


def _read_columns(text: str | None) -> dict[str, str]:
    from modeval.errors import SpecError
    from modeval.trace.importers.plain.columns import COUNT_NAMES, ROW_NAMES

    columns: dict[str, str] = {}
    for part in _parts(text):
        ours, equals, theirs = part.partition("=")
        if not equals or not theirs or ours not in {*ROW_NAMES, *COUNT_NAMES}:
            known = ", ".join(dict.fromkeys((*ROW_NAMES, *COUNT_NAMES)))
            raise SpecError(
                f"--columns {part}: expected OURS=THEIRS, with OURS of {known}: --columns "
                "chosen=topk_ids"
            )
        columns[ours] = theirs
    return columns


def _read_labels(path: Path | None) -> dict[str, str]:
    import json

    from modeval.errors import SpecError

    if path is None:
        return {}
    try:
        labels = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SpecError(f"--labels {path} cannot be read: {error}.") from None
    if not isinstance(labels, dict) or not all(isinstance(text, str) for text in labels.values()):
        raise SpecError(f'--labels {path}: expected a JSON object, {{"name": "label"}}.')
    return labels
