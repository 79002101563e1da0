"""Verdicts of the gate as a Code Quality report of GitLab, which a merge request shows."""

import hashlib
import json

from modeval.gate.verdicts import GateResult, Outcome, Verdict
from modeval.report.verdicts.terminal import measurement, sentence
from modeval.text import for_json, visible

SEVERITIES: dict[Outcome, str] = {"fail": "major", "error": "critical", "inconclusive": "minor"}


def render(result: GateResult, _exit_code: int = 0) -> str:
    """Return the text of the file: an entry for each verdict that did not pass.

    Source: GitLab Docs, Code Quality report format.
    """
    entries = [
        _entry(verdict, result.policy.source)
        for verdict in result.verdicts
        if verdict.outcome != "pass"
    ]
    return for_json(json.dumps(entries, indent=1, ensure_ascii=False)) + "\n"


def _entry(verdict: Verdict, policy: str) -> dict[str, object]:
    requirement = verdict.requirement
    key = f"{verdict.source}/{verdict.model}/{requirement}/{verdict.where}"
    return {
        "description": f"{requirement}: {sentence(verdict)} Measured {measurement(verdict)}.",
        "check_name": f"modeval/{requirement.metric}",
        "fingerprint": hashlib.sha256(visible(key).encode()).hexdigest(),
        "severity": SEVERITIES[verdict.outcome],
        "location": {
            "path": policy or verdict.source,
            "lines": {"begin": requirement.line or 1},
        },
    }
