"""``modeval ablate``: which modules of a language model matter for what, and how many can go."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from modeval.cli import complete, reading
from modeval.cli.options import with_examples
from modeval.cli.output import check_target, deliver, progress_bar, stdout, tell_written
from modeval.errors import SpecError

EXAMPLES = """
[bold]Examples[/]

  How much of a model can go, by four scores, against random keep-sets of the same size:
  [cyan]modeval ablate ./model --data texts.jsonl --label domain --keep 0.75,0.5,0.25[/]

  Which modules does each label need? Each is removed alone:
  [cyan]modeval ablate ./model --data texts.jsonl --label domain --alone[/]

  A check that as much can go as before, by a score that beats random keep-sets:
  [cyan]modeval ablate ./model --data texts.jsonl --label domain --json removal.json[/]
  [cyan]modeval gate removal.json --max safe_share=0.75 --significant keep_75_by_reap[/]

  A long run, that goes on where it was cut off, with lists of what to keep for an engine:
  [cyan]modeval ablate ./model --data texts.jsonl --label domain --max-tokens 200000 --out big[/]
"""


def ablate_command(
    model: reading.Model,
    *,
    data: reading.Data,
    keep: Annotated[
        str, typer.Option(help="Shares of the modules of each layer to keep; '' for none.")
    ] = "0.75,0.5,0.25",
    by: Annotated[
        str,
        typer.Option(
            help="Scores to keep them by: reap, routed, weight, peak. All when empty.",
            autocompletion=complete.several(complete.one_of("reap", "routed", "weight", "peak")),
        ),
    ] = "",
    removal: Annotated[
        Literal["reroute", "renormalise", "zero", "swap"],
        typer.Option(
            help="What happens to tokens of removed modules: the router chooses again, the others "
            "take over their weight, nothing does, or one other module computes for them."
        ),
    ] = "reroute",
    random: Annotated[
        int, typer.Option(min=20, help="Random keep-sets of each size: what a score has to beat.")
    ] = 20,
    within: Annotated[
        float, typer.Option(help="How much the loss may grow, in nats a token, to be called safe.")
    ] = 0.02,
    alone: Annotated[
        bool, typer.Option("--alone", help="Also remove each module alone: what needs it?")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder for what is measured (a run that was cut off goes on), the result and "
            "lists of modules to keep and to omit.",
        ),
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write a scorecard, for gate and report."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Draws the random sets.")] = 0,
    text: reading.TextColumn = "text",
    label: reading.LabelColumn = "label",
    split: reading.Split = "train",
    max_tokens: Annotated[int, typer.Option(min=2, help="Read so many tokens.")] = 20_000,
    length: reading.Length = 512,
    batch_tokens: reading.BatchTokens = 4096,
    routers: reading.Routers = None,
    dtype: reading.Dtype = "auto",
    device: reading.Device = "auto",
    device_map: reading.DeviceMap = None,
    revision: reading.Revision = None,
    trust_remote_code: reading.TrustRemoteCode = False,
    quiet: reading.Quiet = False,
) -> None:
    """Remove modules of a mixture-of-experts model: which matter for what, and how many can go?

    One pass over labelled text scores every module; then the model runs without those that each
    score would remove, and without as many at random. A score that does not beat random keep-sets
    says nothing about importance, whatever it looks like. Nothing is written to the model.
    """
    if json_file is not None:
        check_target(json_file, flag="--json", example="ablation.json")
    shares = _shares(keep)
    names = [name.strip() for name in by.split(",") if name.strip()]
    from modeval.pipeline.ablating import ablate

    bar = progress_bar(quiet=quiet)
    task = bar.add_task("passes", total=None, note="scoring all modules")

    def watch(done: int, passes: int, _left: float) -> None:
        bar.update(task, completed=done, total=passes, note="")

    with bar:
        found = ablate(
            model,
            data=data,
            out=out,
            keep=shares,
            by=names,
            removal=removal,
            random=random,
            within=within,
            alone=alone,
            seed=seed,
            text=text,
            label=label,
            split=split,
            max_tokens=max_tokens,
            length=length,
            batch_tokens=batch_tokens,
            routers=routers,
            dtype=dtype,
            device=device,
            device_map=device_map,
            revision=revision,
            trust_remote_code=trust_remote_code,
            quiet=quiet,
            watch=watch,
        )
    from modeval.score.stored.files import scorecard_text

    text_of = scorecard_text(found.card())
    if json_file is not None and not deliver(json_file, text_of, flag="--json"):
        return
    if quiet:
        return
    from modeval.report.terminal.ablation import render_ablation

    console = stdout()
    for part in render_ablation(found):
        console.print(part, highlight=False)
    for path in filter(None, (json_file, out)):
        tell_written(path)


ablate_command.__doc__ = with_examples(ablate_command, EXAMPLES)


def _shares(text: str) -> tuple[float, ...]:
    """Read ``0.75,0.5``."""
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise SpecError(
            f"--keep {text}: expected shares between 0 and 1, as --keep 0.75,0.5,0.25."
        ) from None
