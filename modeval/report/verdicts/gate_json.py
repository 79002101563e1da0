"""Verdicts of the gate as JSON, for programs.

format, modeval            version of the form, version of the program
outcome, exit_code         the worst outcome; what the program ended with
policy                     file, baseline, what was done about inconclusive verdicts
models                     what was measured of each: file, id, title, digest, facts in words
chance                     what the chance levels are
verdicts                   one for each scorecard, requirement and place
"""

import json
from dataclasses import asdict, fields
from importlib.metadata import version
from typing import Any

from modeval.gate.verdicts import GateResult, Verdict
from modeval.report.verdicts.terminal import chance_words, sentence
from modeval.report.words import measured
from modeval.text import for_json

FORMAT = 1


def gate_form(result: GateResult, exit_code: int) -> dict[str, Any]:
    """Return the JSON form of a run of the gate."""
    policy = result.policy
    return {
        "format": FORMAT,
        "modeval": version("modeval-cli"),
        "outcome": result.outcome,
        "exit_code": exit_code,
        "policy": {
            "source": policy.source or None,
            "baseline": policy.baseline,
            "baseline_model": policy.baseline_model,
            "inconclusive": policy.inconclusive,
            "failed_seeds": policy.failed_seeds,
            "left_out": policy.left_out,
        },
        "models": [
            {
                "scorecard": each.source,
                "id": each.model.id,
                "title": each.model.title,
                "digest": each.model.shown_digest,
                "measured": dict(measured(each.card, each.model)),
            }
            for each in result.checked
        ],
        "chance": chance_words(result),
        "verdicts": [_verdict(verdict) for verdict in result.verdicts],
    }


def _verdict(verdict: Verdict) -> dict[str, Any]:
    requirement = verdict.requirement
    own = {
        field.name: getattr(verdict, field.name)
        for field in fields(verdict)
        if field.name not in ("requirement", "seed", "distance")
    }
    seed = verdict.seed
    return {
        "requirement": str(requirement),
        "metric": requirement.metric,
        "comparison": requirement.comparison,
        "limit": requirement.limit,
        "on": requirement.on,
        "place": asdict(requirement.scope),
        **own,
        "seed": None if seed is None else {"task": seed[0], "model": seed[1]},
        "words": sentence(verdict),
    }


def render(result: GateResult, exit_code: int) -> str:
    """Return the text of the file."""
    form = _finite(gate_form(result, exit_code))
    return for_json(json.dumps(form, indent=1, allow_nan=False, ensure_ascii=False)) + "\n"


def _finite(value: Any) -> Any:
    """Return numbers that are none (a scorecard may have been edited) as null."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not abs(value) < float("inf") else value
