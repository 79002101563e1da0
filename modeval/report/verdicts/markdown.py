"""Verdicts of the gate as Markdown, for a pull request or the summary of a build."""

import re
from importlib.metadata import version

from modeval.gate.verdicts import GateResult, Outcome
from modeval.report.verdicts.terminal import (
    chance,
    chance_words,
    headline,
    measurement,
    scope_of,
    sentence,
)
from modeval.report.words import cautions, measured
from modeval.text import visible

MARKS: dict[Outcome, str] = {
    "pass": "✅ pass",
    "fail": "❌ fail",
    "inconclusive": "❔ inconclusive",
    "error": "⚠️ error",
}
SPECIAL = str.maketrans({char: f"\\{char}" for char in "\\`*_[]<>|#!@"} | {"\n": " ", "\r": " "})


def render(result: GateResult, _exit_code: int = 0) -> str:
    """Return the text of the file."""
    lines = [
        f"## {_plain(headline(result))}",
        "",
        "| | required | of | measured | chance |",
        "|---|---|---|---|---|",
    ]
    lines += [
        "| "
        + " | ".join(
            (
                MARKS[verdict.outcome],
                _code(str(verdict.requirement)),
                _plain(scope_of(verdict)),
                _plain(measurement(verdict)),
                _plain(chance(verdict)),
            )
        )
        + " |"
        for verdict in result.verdicts
    ]
    reasons = [
        f"- {MARKS[verdict.outcome]} {_code(str(verdict.requirement))}: {_plain(sentence(verdict))}"
        for verdict in result.verdicts
        if verdict.outcome != "pass"
    ]
    lines += ["", *reasons] if reasons else []
    lines += ["", _plain(chance_words(result)), ""]
    for each in result.checked:
        card, model = each.card, each.model
        about = _html(f"What was measured: {model.title} ({each.source})")
        lines += [
            f"<details><summary>{about}</summary>",
            "",
            "| | |",
            "|---|---|",
            *(f"| {_plain(term)} | {_plain(text)} |" for term, text in measured(card, model)),
            "",
            *(f"- {_plain(text)}" for text in cautions(card, model)),
            "",
            "</details>",
            "",
        ]
    policy = result.policy.source or "flags"
    baseline = f", baseline {result.policy.baseline}" if result.policy.baseline else ""
    lines.append(_plain(f"Checked by modeval {version('modeval-cli')}, policy {policy}{baseline}."))
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    r"""Escape what Markdown would read as markup, and what would end a cell of a table.

    >>> _plain("a|b_c")
    'a\\|b\\_c'
    """
    return visible(text).translate(SPECIAL)


def _code(text: str) -> str:
    """Write text as code; in a table a bar ends the cell even there."""
    return f"`{visible(text).replace('`', chr(39)).replace('|', chr(92) + '|')}`"


def _html(text: str) -> str:
    """Write text within tags of HTML, where neither Markdown nor a mention may be read."""
    return re.sub(r"[^\w\s.,:;()·%+=/-]", lambda match: f"&#{ord(match[0])};", visible(text))
