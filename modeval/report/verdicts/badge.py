"""The outcome of a gate as a badge: the JSON that shields.io draws from an endpoint."""

import json

from modeval.gate.verdicts import GateResult, Outcome

COLOURS: dict[Outcome, str] = {
    "pass": "brightgreen",
    "fail": "red",
    "inconclusive": "yellow",
    "error": "lightgrey",
}


def render(result: GateResult, _exit_code: int = 0) -> str:
    """Return the text of the file. Source: shields.io, Endpoint Badge."""
    count = len(result.verdicts)
    words: dict[Outcome, str] = {
        "pass": f"{count} passed",
        "fail": f"{result.count('fail')} of {count} failed",
        "inconclusive": "inconclusive",
        "error": "could not be checked",
    }
    badge = {
        "schemaVersion": 1,
        "label": "modularity",
        "message": words[result.outcome],
        "color": COLOURS[result.outcome],
    }
    return json.dumps(badge, indent=1) + "\n"
