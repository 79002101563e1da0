"""``modeval record``: run a mixture-of-experts model on labelled text, write its routing trace."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import typer

from modeval.cli import reading
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
    model: reading.Model,
    *,
    data: reading.Data,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write, NAME.trace.")],
    text: reading.TextColumn = "text",
    label: reading.LabelColumn = "label",
    split: reading.Split = "train",
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many tokens.")
    ] = None,
    max_documents: Annotated[
        int, typer.Option(min=1, help="Read at most so many documents.")
    ] = 100_000,
    length: reading.Length = 512,
    batch_tokens: reading.BatchTokens = 4096,
    generate: Annotated[
        int, typer.Option(help="Also let the model write so many tokens after each document.")
    ] = 0,
    routers: reading.Routers = None,
    dtype: reading.Dtype = "auto",
    device: reading.Device = "auto",
    device_map: reading.DeviceMap = None,
    revision: reading.Revision = None,
    trust_remote_code: reading.TrustRemoteCode = False,
    quiet: reading.Quiet = False,
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
