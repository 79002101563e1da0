"""``modeval import``: read the routing that another program wrote."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from modeval.cli.options import with_examples
from modeval.cli.output import stdout
from modeval.cli.trace import describe_header, print_notes

LABELS, MEANING = "Labels", "What the files do not say"

EXAMPLES = """
[bold]Examples[/]

  OLMoE's published counts, a file for each domain (the format is detected):
  [cyan]modeval import expert_counts --choices 8 --out olmoe.trace[/]

  Replies of vLLM, labelled by the folders that they lie in:
  [cyan]modeval import replies --from vllm --label-from folder --modules 128 --out vllm.trace[/]

  Replies of SGLang, all of one label:
  [cyan]modeval import code.jsonl --choices 8 --label code --out code.trace[/]

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
            help="New folder. Sources that hold only counts become NAME.counts.safetensors.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="NAME", help="Format; detected when absent.", show_default=False
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
    allow_partial: Annotated[
        bool,
        typer.Option(
            "--allow-partial", help="Keep the readable part of damaged files, and say so."
        ),
    ] = False,
    list_formats: Annotated[
        bool, typer.Option("--list", help="List the formats and exit.")
    ] = False,
) -> None:
    """Read routing that another program wrote, as a trace or as counts.

    Nothing is written if any file is damaged. What the files do not say stays unknown, and every
    assumption is printed and kept in the header.
    """
    from modeval.errors import SpecError
    from modeval.text import for_rich, visible
    from modeval.trace.importers.format import Options
    from modeval.trace.importers.import_files import import_source

    if list_formats:
        _list_formats()
        return
    if not sources or out is None:
        raise SpecError("What to import, and where to? modeval import SOURCE... --out DIR.trace")
    options = Options(
        label=label,
        labels=_read_labels(labels),
        label_from=label_from or "",
        modules=modules,
        choices=choices,
        layers=layers,
        model=model,
        allow_partial=allow_partial,
    )
    found = import_source(sources, out, name=name, options=options)
    size = f"{found.rows:,} rows" if found.rows else "counts"
    stdout().print(
        f"[bold]{size}[/] of format {found.format}: {for_rich(str(found.path))}", highlight=False
    )
    for key, value in describe_header(found.header).items():
        stdout().print(f"{key:>14}  {visible(value)}", markup=False, highlight=False)
    print_notes(found.header)


import_command.__doc__ = with_examples(import_command, EXAMPLES)


def _list_formats() -> None:
    from modeval.trace.importers.formats import FORMATS

    width = max(map(len, FORMATS))
    for entry in FORMATS.values():
        typer.echo(
            f"{entry.name:<{width}}  {'counts' if entry.counts else 'rows  '}  {entry.about}"
        )


def _read_labels(path: Path | None) -> dict[str, str]:
    import json

    from modeval.errors import SpecError

    if path is None:
        return {}
    try:
        labels = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SpecError(f"--labels {path} cannot be read: {error}.") from None
    if not isinstance(labels, dict) or not all(isinstance(text, str) for text in labels.values()):
        raise SpecError(f'--labels {path}: expected a JSON object, {{"name": "label"}}.')
    return labels
