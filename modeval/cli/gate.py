"""``modeval gate``: does a model keep to a policy? The exit code says so."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from modeval.cli import complete
from modeval.cli.exits import Exit
from modeval.cli.options import with_examples
from modeval.cli.output import check_target, deliver, stderr, stdout
from modeval.errors import SpecError
from modeval.report.verdicts.formats import GATE_FORMATS

if TYPE_CHECKING:
    from modeval.gate.policy import Policy
    from modeval.gate.verdicts import GateResult

PYPROJECT = Path("pyproject.toml")
SUMMARY = "GITHUB_STEP_SUMMARY"
COMMITS = ("GITHUB_SHA", "CI_COMMIT_SHA")
STANDARD_OUTPUT = Path("-")
EXAMPLES_OF_FILES = {each.flag: each.example for each in GATE_FORMATS.values()} | {
    "--history": "history.jsonl"
}
WHAT, HOW, WHERE = "What must hold", "How it is judged", "Where verdicts go, beside the terminal"

EXAMPLES = """
[bold]Examples[/]

  Modules in use, and routing that tells the rules apart:
  [cyan]modeval gate scorecard.json --max collapse_worst=0.2 --min alignment_score=0.6[/]

  Of one model; in no layer may too much be left to few modules:
  [cyan]modeval gate scorecard.json --model 'gt-*' --max layers.worst.collapse_avg=0.1[/]

  Not worse than the last good model, beyond a margin and the noise:
  [cyan]modeval gate scorecard.json --baseline main.json --max-drop alignment_score=0.05[/]

  More than chance:
  [cyan]modeval gate scorecard.json --significant alignment_score[/]

  A policy in a file, verdicts for a build server and a pull request:
  [cyan]modeval gate scorecard.json --policy gate.toml --junit gate.xml --markdown gate.md[/]

[bold]Exit codes[/]

  0 passed   1 failed   2 the request or its input is wrong   3 inconclusive   4 a bug of modeval
"""


def _output(name: str) -> Any:
    """Return the option that names a file for a format."""
    format_ = GATE_FORMATS[name]
    return typer.Option(format_.flag, metavar="FILE", help=format_.help, rich_help_panel=WHERE)


def gate_command(
    scorecards: Annotated[
        list[Path],
        typer.Argument(
            metavar="SCORECARD...",
            help="Files of modeval score --json.",
            show_default=False,
        ),
    ],
    *,
    policy: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help=r"Policy in TOML. Without it, \[tool.modeval.gate] of a pyproject.toml here is "
            "read. Flags replace what it says of the same metric.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    no_policy: Annotated[
        bool,
        typer.Option("--no-policy", help="Flags only: read no file.", rich_help_panel=WHAT),
    ] = False,
    maximum: Annotated[
        list[str] | None,
        typer.Option(
            "--max",
            metavar="METRIC=X",
            help="At most X. Repeatable.",
            rich_help_panel=WHAT,
            autocompletion=complete.limits,
        ),
    ] = None,
    minimum: Annotated[
        list[str] | None,
        typer.Option(
            "--min",
            metavar="METRIC=X",
            help="At least X. Repeatable.",
            rich_help_panel=WHAT,
            autocompletion=complete.limits,
        ),
    ] = None,
    max_drop: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC=X",
            help="At most X worse than the baseline, in the metric's own direction. Repeatable.",
            rich_help_panel=WHAT,
            autocompletion=complete.limits,
        ),
    ] = None,
    max_change: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC=X",
            help="Shown to differ from the baseline by less than X, either way. Repeatable.",
            rich_help_panel=WHAT,
            autocompletion=complete.limits,
        ),
    ] = None,
    significant: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC",
            help="Beats chance. Repeatable.",
            rich_help_panel=WHAT,
            autocompletion=complete.metrics,
        ),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Scorecard that --max-drop and --max-change compare with.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    baseline_model: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Model of the baseline to compare with, where it had another name.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Check only models whose id or title matches, as 'gt-*'. Repeatable.",
            rich_help_panel=WHAT,
            autocompletion=complete.models,
        ),
    ] = None,
    on: Annotated[
        Literal["value", "bound"] | None,
        typer.Option(
            help="Whether the value decides, or the bad end of its interval. The default is value.",
            rich_help_panel=HOW,
        ),
    ] = None,
    inconclusive: Annotated[
        Literal["pass", "fail", "3"] | None,
        typer.Option(
            help="Exit code when it cannot be told: 0, 1 or 3 (the default).",
            rich_help_panel=HOW,
        ),
    ] = None,
    failed_seeds: Annotated[
        Literal["error", "ignore"] | None,
        typer.Option(
            help="Whether a mean that leaves out failed seeds is an error (the default).",
            rich_help_panel=HOW,
        ),
    ] = None,
    left_out: Annotated[
        Literal["error", "ignore"] | None,
        typer.Option(
            help="Whether nothing passes of a model of which layers, rules or the end of the "
            "recording were left out (the default).",
            rich_help_panel=HOW,
        ),
    ] = None,
    no_warnings: Annotated[
        bool,
        typer.Option(
            "--no-warnings",
            help="Nothing passes of a model whose recording was warned about in any way.",
            rich_help_panel=HOW,
        ),
    ] = False,
    json_file: Annotated[str | None, _output("json")] = None,
    junit: Annotated[str | None, _output("junit")] = None,
    markdown: Annotated[str | None, _output("markdown")] = None,
    comment: Annotated[str | None, _output("comment")] = None,
    sarif: Annotated[str | None, _output("sarif")] = None,
    gitlab: Annotated[str | None, _output("gitlab")] = None,
    badge: Annotated[str | None, _output("badge")] = None,
    history: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Add a line of JSON with commit, date and values to the end of the file.",
            rich_help_panel=WHERE,
        ),
    ] = None,
    github: Annotated[
        bool,
        typer.Option(
            "--github", help="Annotations of GitHub on standard output.", rich_help_panel=WHERE
        ),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print a line when it did not pass, else nothing.")
    ] = False,
) -> None:
    """Check scorecards against a policy, and end with an exit code that a pipeline understands.

    METRIC is a name of modeval metrics, with a place before it where it is not the whole model:
    layers.worst, layers.mean, layers.each, layers.NAME, seeds.worst, seeds.each, rules.NAME,
    modules.NAME, as in layers.worst.dead_fraction. Without a place it must hold in every layer.
    """
    named = {
        "json": json_file,
        "junit": junit,
        "markdown": markdown,
        "comment": comment,
        "sarif": sarif,
        "gitlab": gitlab,
        "badge": badge,
    }
    outputs = {GATE_FORMATS[name].flag: path for name, path in named.items() if path is not None}
    files = _files(outputs | ({} if history is None else {"--history": history}))
    asked = _policy(
        policy,
        no_policy=no_policy,
        flags={
            "max": maximum or [],
            "min": minimum or [],
            "max_drop": max_drop or [],
            "max_change": max_change or [],
            "significant": significant or [],
        },
        settings={
            "on": on,
            "inconclusive": inconclusive,
            "failed_seeds": failed_seeds,
            "left_out": left_out,
            "no_warnings": True if no_warnings else None,
            "baseline": None if baseline is None else str(baseline),
            "baseline_model": baseline_model,
        },
    )
    from modeval.pipeline.judging import gate_files

    result = gate_files(scorecards, asked, models=model or [])
    code = exit_code(result)
    _write(result, code, files)
    _print(result, code, quiet=quiet, aside=STANDARD_OUTPUT in files.values())
    if github:
        from modeval.report.verdicts.github import render_github

        typer.echo(render_github(result), nl=False)
    raise typer.Exit(code)


def _print(result: "GateResult", code: Exit, *, quiet: bool, aside: bool) -> None:
    """Print the verdicts; quietly, one line where it did not pass; aside, on standard error."""
    if quiet and code == Exit.OK:
        return
    from modeval.report.verdicts.terminal import in_a_line, render_gate

    if quiet:
        stderr().print(in_a_line(result), markup=False, highlight=False, soft_wrap=True)
        return
    console = stderr() if aside else stdout()
    for part in render_gate(result):
        console.print(part)


gate_command.__doc__ = with_examples(gate_command, EXAMPLES)


def exit_code(result: "GateResult") -> Exit:
    """Return what the program ends with: what cannot be checked comes first, then failures."""
    unsure = {"pass": Exit.OK, "fail": Exit.GATE_FAILED, "3": Exit.INCONCLUSIVE}
    codes = {
        "pass": Exit.OK,
        "inconclusive": unsure[result.policy.inconclusive],
        "fail": Exit.GATE_FAILED,
        "error": Exit.USER_ERROR,
    }
    return codes[result.outcome]


# --- the policy ----------------------------------------------------------------------------------


def _policy(
    path: Path | None,
    *,
    no_policy: bool,
    flags: dict[str, list[str]],
    settings: dict[str, Any],
) -> "Policy":
    """Lay flags over the policy of a file."""
    from dataclasses import replace

    from modeval.gate.files import policy_table, read_policy
    from modeval.gate.policy import Policy, from_flags, merge, with_settings

    if path is not None and no_policy:
        raise SpecError(f"--policy {path} and --no-policy: expected one of them.")
    if path is None and not no_policy and PYPROJECT.is_file() and policy_table(PYPROJECT):
        path = PYPROJECT
    policy = Policy() if path is None else read_policy(path)
    policy = merge(policy, from_flags(flags))  # type: ignore[arg-type]
    policy = with_settings(policy, settings, "flags")
    on = settings["on"]
    if on is None:
        return policy
    changed = tuple(replace(each, on=on) for each in policy.requirements)
    return replace(policy, requirements=changed)


# --- outputs -------------------------------------------------------------------------------------


def _files(outputs: dict[str, str]) -> dict[str, Path]:
    """Return where each format goes; what cannot be written is refused before anything is read.

    An empty name, as a variable that is not set leaves it, asks for nothing. ``-`` is standard
    output. Folders that are missing are made when all is known.
    """
    files: dict[str, Path] = {}
    for flag, name in outputs.items():
        if not name:
            stderr().print(f"{flag} names no file: nothing is written there.", markup=False)
            continue
        path = Path(name)
        taken = [other for other, its in files.items() if its.resolve() == path.resolve()]
        if taken:
            raise SpecError(f"{taken[0]} and {flag} both name {path}: name two files.")
        if path != STANDARD_OUTPUT:
            check_target(path, flag=flag, example=EXAMPLES_OF_FILES[flag])
        files[flag] = path
    return files


def _write(result: "GateResult", code: Exit, files: dict[str, Path]) -> None:
    from modeval.score.stored.files import append_text

    texts = {each.flag: each for each in GATE_FORMATS.values()}
    for flag, path in files.items():
        text = _history(result) if flag == "--history" else texts[flag].render(result, code)
        if path == STANDARD_OUTPUT:
            typer.echo(text, nl=False)
            continue
        if flag == "--history" or (flag == "--markdown" and _is_summary(path)):
            append_text(path, text, flag=flag)
        else:
            deliver(path, text, flag=flag)
        stderr().print(
            f"Wrote {path}", style="green", markup=False, highlight=False, soft_wrap=True
        )


def _is_summary(path: Path) -> bool:
    summary = os.environ.get(SUMMARY)
    return bool(summary) and path.resolve() == Path(str(summary)).resolve()


def _history(result: "GateResult") -> str:
    from datetime import UTC, datetime

    from modeval.report.verdicts.history import history_line

    date = datetime.now(UTC).isoformat(timespec="seconds")
    return history_line(result, date=date, commit=_commit())


def _commit() -> str | None:
    """Return the commit that is checked, as the build server or git says it."""
    told = next((value for name in COMMITS if (value := os.environ.get(name))), None)
    if told:
        return told
    import shutil
    import subprocess

    git = shutil.which("git")
    if git is None:
        return None
    command = [git, "rev-parse", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)  # noqa: S603 - no words of others
    return done.stdout.strip() or None
