"""``modeval record``: run a mixture-of-experts model on labelled text, write its routing trace."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modeval.cli.options import with_examples
from modeval.cli.output import choose_device, stderr

if TYPE_CHECKING:
    from modeval.record.recording import Recording

EXAMPLES = """
[bold]Examples[/]

  A model folder and two files whose rows name their domain:
  [cyan]modeval record ./model --data prose.jsonl --data code.jsonl --label domain --out my.trace[/]

  A model of the hub, and a folder of texts for each label:
  [cyan]modeval record allenai/OLMoE-1B-7B-0924 --data texts/ --max-tokens 200000 --out o.trace[/]

  Then:
  [cyan]modeval score my.trace[/]
"""


def record_command(
    model: Annotated[
        str, typer.Argument(help="Folder of a Hugging Face model, or its id on the hub.")
    ],
    *,
    data: Annotated[
        list[str],
        typer.Option(
            "--data",
            "-d",
            help="JSON lines, Parquet, a text file, a folder (name of the folder = label) or the "
            "name of a data set. May be given several times.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write, NAME.trace.")],
    text: Annotated[str, typer.Option(help="Column of the text.")] = "text",
    label: Annotated[
        str, typer.Option(help="Column of the label; '' takes the name of each file.")
    ] = "label",
    split: Annotated[str, typer.Option(help="Split of a data set by name.")] = "train",
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many tokens.")
    ] = None,
    max_documents: Annotated[
        int, typer.Option(min=1, help="Read at most so many documents.")
    ] = 100_000,
    length: Annotated[int, typer.Option(help="Tokens kept of each document.")] = 512,
    batch_tokens: Annotated[int, typer.Option(help="Tokens of a batch, padding included.")] = 4096,
    generate: Annotated[
        int, typer.Option(help="Also let the model write so many tokens after each document.")
    ] = 0,
    routers: Annotated[
        list[str] | None,
        typer.Option(help="Names of the routers, as layers.*.gate, when they are not found."),
    ] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    device_map: Annotated[
        str | None, typer.Option(help="Spread the model over devices, as auto.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Commit or tag on the hub.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run the code that comes with the model.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print no progress.")] = False,
) -> None:
    """Record which experts a model uses for labelled text, as a trace that can be scored.

    Labels are domains, languages or tasks: what the experts may have specialised to. A model with
    an encoder and a decoder gets each text twice: the encoder reads it, and the decoder is made to
    write it again, which is seldom what it was trained for; record it with --generate to see what
    its decoder does of its own.
    """
    check_new(out)
    run_model(
        model,
        data=data,
        trace=out,
        text=text,
        label=label,
        split=split,
        max_tokens=max_tokens,
        max_documents=max_documents,
        length=length,
        batch_tokens=batch_tokens,
        generate=generate,
        routers=routers,
        dtype=dtype,
        device=device,
        device_map=device_map,
        revision=revision,
        trust_remote_code=trust_remote_code,
        quiet=quiet,
    )
    if not quiet:
        stderr().print(
            f"Wrote {out}. Next: modeval score {out}", markup=False, highlight=False, soft_wrap=True
        )


record_command.__doc__ = with_examples(record_command, EXAMPLES)


def check_new(out: Path) -> None:
    """Refuse a folder that is in use, before a model is loaded and run for it."""
    from modeval.errors import TraceError
    from modeval.trace.files import import_arrow

    import_arrow()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise TraceError(
            f"{out} exists and is not empty: expected a new folder. Remove it, or give another "
            "name with --out."
        )


def run_model(
    model: str,
    *,
    data: Sequence[str],
    trace: Path | None = None,
    text: str = "text",
    label: str = "label",
    split: str = "train",
    max_tokens: int | None = None,
    max_documents: int = 100_000,
    length: int = 512,
    batch_tokens: int = 4096,
    generate: int = 0,
    routers: Sequence[str] | None = None,
    dtype: str = "auto",
    device: str = "auto",
    device_map: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    quiet: bool = False,
) -> "tuple[Recording, int]":
    """Load a model, run it over labelled text and record it; return the number of documents too.

    Arguments are the options of ``modeval record``.
    """
    from modeval.errors import DataError
    from modeval.record.corpus import label_names, read_documents
    from modeval.record.hugging_face import load, record_documents

    source = read_documents(data, text=text, label=label or None, split=split)
    documents = list(islice(source, max_documents))
    if not documents:
        raise DataError(f"No documents in {', '.join(data)}: expected at least one.")
    if not quiet and len(documents) == max_documents:
        stderr().print(f"Read the first {max_documents} documents only (--max-documents).")
    place = str(choose_device(device))
    loaded = load(
        model,
        dtype=dtype,
        device=place,
        device_map=device_map,
        revision=revision,
        trust_remote_code=trust_remote_code,
        quiet=quiet,
    )
    with _progress(max_tokens, quiet=quiet) as advance:
        recording = record_documents(
            loaded,
            documents,
            trace=trace,
            routers=list(routers) if routers else None,
            length=length,
            batch_tokens=batch_tokens,
            max_tokens=max_tokens,
            generate=generate,
            progress=advance,
        )
    if not quiet:
        _tell(recording, label_names(documents))
    return recording, sum(bool(document.text) for document in documents)


class _progress:  # noqa: N801 - used as a function
    """Show tokens, and tokens per second, while a model runs."""

    def __init__(self, max_tokens: int | None, *, quiet: bool) -> None:
        from modeval.cli.output import progress_bar

        self._bar = progress_bar(quiet=quiet)
        self._task = self._bar.add_task("tokens", total=max_tokens, note="")

    def __enter__(self) -> Any:
        self._bar.start()
        return self.advance

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, tokens: int, rate: float) -> None:
        """Show that so many tokens are done."""
        self._bar.update(self._task, completed=tokens, note=f"{rate:,.0f} tokens/s")


def _tell(recording: "Recording", labels: tuple[str, ...]) -> None:
    coverage = recording.coverage()
    console = stderr()
    console.print(
        f"{coverage.expected} routers expected, {coverage.hooked} hooked, {coverage.recorded} "
        f"recorded; labels: {', '.join(labels)}",
        highlight=False,
    )
    for layer in coverage.layers:
        if layer.status != "recorded":
            console.print(f"{layer.name}: {layer.status}", highlight=False)
    header = recording.header()
    for text in (*header.notes, *(f"{each.kind}: {each.text}" for each in header.warnings)):
        console.print(text, markup=False, highlight=False, soft_wrap=True)
