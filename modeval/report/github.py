"""Verdicts of the gate as workflow commands of GitHub: annotations on a commit."""

from modeval.gate.verdicts import GateResult, Outcome, Verdict
from modeval.report.verdicts import (
    chance,
    headline,
    in_short,
    measurement,
    sentence,
)

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


def _command(kind: str, *, title: str, message: str, file: str) -> str:
    properties = [f"file={_property(file)}"] if file else []
    properties.append(f"title={_property(title)}")
    return f"::{kind} {','.join(properties)}::{_data(message)}"


def _data(text: str) -> str:
    r"""Escape a message.

    >>> _data("100 %\nmore")
    '100 %25%0Amore'
    """
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """Escape a property, which ends at a colon or a comma, too.

    >>> _property("a: b, c")
    'a%3A b%2C c'
    """
    return _data(text).replace(":", "%3A").replace(",", "%2C")
