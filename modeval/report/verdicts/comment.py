"""Verdicts of the gate as a comment on a pull request: before, after, verdict."""

from modeval.gate.verdicts import GateResult, Verdict, figure
from modeval.report.verdicts.markdown import MARKS
from modeval.report.verdicts.terminal import headline, scope_of, sentence
from modeval.text import for_markdown

MARKER = "<!-- modeval gate -->"
"""By which a later run finds the comment of an earlier one, to take its place."""


def render(result: GateResult, _exit_code: int = 0) -> str:
    """Return the text of the comment."""
    lines = [
        MARKER,
        f"### {for_markdown(headline(result))}",
        "",
        "| verdict | required | of | before | after |",
        "|---|---|---|---|---|",
        *map(_row, result.verdicts),
    ]
    reasons = [
        f"- {for_markdown(str(verdict.requirement))}: {for_markdown(sentence(verdict))}"
        for verdict in result.verdicts
        if verdict.outcome != "pass" or verdict.narrow
    ]
    if reasons:
        lines += ["", "<details><summary>Why</summary>", "", *reasons, "", "</details>"]
    return "\n".join(lines) + "\n"


def _row(verdict: Verdict) -> str:
    before = "" if verdict.baseline is None else figure(verdict.baseline)
    after = "none" if verdict.value is None else figure(verdict.value, verdict.requirement.limit)
    cells = (
        MARKS[verdict.outcome],
        for_markdown(str(verdict.requirement)),
        for_markdown(scope_of(verdict)),
        before,
        after,
    )
    return f"| {' | '.join(cells)} |"
