"""``modeval record``: run a mixture-of-experts model on labelled text, write its routing trace."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import typer

from modeval.cli import complete
from modeval.cli.options import with_examples
from modeval.cli.output import stderr

if TYPE_CHECKING:
    pass

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
    dtype: Annotated[
        str, typer.Option(help="auto, float32, bfloat16 or float16.", autocompletion=complete.types)
    ] = "auto",
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda or cuda:N.", autocompletion=complete.devices)
    ] = "auto",
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
    from modeval.pipeline.recording import record_model

    with _Progress(max_tokens, quiet=quiet) as progress:
        record_model(
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
            tell=progress.tell,
            watch=progress.advance,
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


class _Progress:
    """Show tokens, and tokens per second, while a model runs."""

    def __init__(self, max_tokens: int | None, *, quiet: bool) -> None:
        from modeval.cli.output import progress_bar

        self._quiet = quiet
        self._bar = progress_bar(quiet=quiet)
        self._task = self._bar.add_task("tokens", total=max_tokens, note="")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, tokens: int, rate: float) -> None:
        """Show that so many tokens are done."""
        self._bar.update(self._task, completed=tokens, note=f"{rate:,.0f} tokens/s")

    def tell(self, text: str) -> None:
        """Say something worth knowing."""
        if not self._quiet:
            stderr().print(text, highlight=False, markup=False, soft_wrap=True)
