"""``modeval record``: run a mixture-of-experts model on labelled text, write its routing trace."""

from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

EXAMPLES = """
[bold]Examples[/]

  modeval record ./model --data prose.jsonl --data code.jsonl --label domain --out my.trace

  modeval record allenai/OLMoE-1B-7B-0924 --data texts/ --max-tokens 200000 --out olmoe.trace

  modeval score olmoe.trace
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
    max_tokens: Annotated[int | None, typer.Option(help="Stop after so many tokens.")] = None,
    max_documents: Annotated[int, typer.Option(help="Read at most so many documents.")] = 100_000,
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

    Labels are domains, languages or tasks: what the experts may have specialised to.
    """
    from modeval.cli.output import choose_device, stderr
    from modeval.errors import DataError
    from modeval.trace.corpus import label_names, read_documents
    from modeval.trace.hf import load, record_documents

    source = read_documents(data, text=text, label=label or None, split=split)
    documents = list(islice(source, max_documents))
    if not documents:
        raise DataError(f"No documents in {', '.join(data)}: expected at least one.")
    if not quiet and len(documents) == max_documents:
        stderr().print(f"Read the first {max_documents} documents only (--max-documents).")
    loaded = load(
        model,
        dtype=dtype,
        device=str(choose_device(device)),
        device_map=device_map,
        revision=revision,
        trust_remote_code=trust_remote_code,
        quiet=quiet,
    )
    with _progress(max_tokens, quiet=quiet) as advance:
        recording = record_documents(
            loaded,
            documents,
            trace=out,
            routers=routers or None,
            length=length,
            batch_tokens=batch_tokens,
            max_tokens=max_tokens,
            generate=generate,
            progress=advance,
        )
    if not quiet:
        _tell(recording, label_names(documents), out)


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


def _tell(recording: Any, labels: tuple[str, ...], out: Path) -> None:
    from modeval.cli.output import stderr

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
    console.print(f"Wrote {out}. Next: modeval score {out}", highlight=False)
