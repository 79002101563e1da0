"""Verdicts of the gate as workflow commands of GitHub: annotations on a commit."""

from modeval.gate.verdicts import GateResult, Outcome, Verdict
from modeval.report.verdicts.terminal import (
    chance,
    headline,
    in_short,
    measurement,
    sentence,
)
from modeval.text import for_github, for_github_property

COMMANDS: dict[Outcome, str] = {"fail": "error", "error": "error", "inconclusive": "warning"}


def render_github(result: GateResult) -> str:
    """Return one command for each verdict that did not pass, and a notice that sums up.

    Source: GitHub Docs, Workflow commands for GitHub Actions (annotations, escaping).
    """
    about = [in_short(each.card, each.model) for each in result.checked]
    lines = [
        _command(
            COMMANDS[verdict.outcome],
            title=f"modeval gate: {verdict.requirement}",
            message=f"{_numbers(verdict)}\n{facts}",
            file=result.policy.source or verdict.source,
            line=verdict.requirement.line if result.policy.source else 0,
        )
        for each, facts in zip(result.checked, about, strict=True)
        for verdict in each.verdicts
        if verdict.outcome != "pass"
    ]
    lines.append(_command("notice", title=headline(result), message="\n".join(about), file=""))
    return "".join(f"{line}\n" for line in lines)


def _numbers(verdict: Verdict) -> str:
    beside = f"; chance: {chance(verdict)}" if chance(verdict) else ""
    return f"{sentence(verdict)} Measured {measurement(verdict)}{beside}."


def _command(kind: str, *, title: str, message: str, file: str, line: int = 0) -> str:
    properties = [f"file={for_github_property(file)}"] if file else []
    properties += [f"line={line}"] if line else []
    properties.append(f"title={for_github_property(title)}")
    return f"::{kind} {','.join(properties)}::{for_github(message)}"
