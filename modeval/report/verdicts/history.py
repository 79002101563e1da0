"""One line of JSON for each run of the gate, so that a file of them shows how values moved."""

import json
from typing import Any

from modeval.gate.verdicts import GateResult, Verdict

FORMAT = 1


def history_line(result: GateResult, *, date: str, commit: str | None) -> str:
    """Return the line of a run.

    Args:
        result: what the gate found.
        date: when it ran, in ISO 8601.
        commit: of the repository that it ran in; nothing where there is none.
    """
    line = {
        "format": FORMAT,
        "date": date,
        "commit": commit,
        "outcome": result.outcome,
        "values": [_value(verdict) for verdict in result.verdicts],
    }
    return json.dumps(line, allow_nan=False, ensure_ascii=False) + "\n"


def _value(verdict: Verdict) -> dict[str, Any]:
    seed = verdict.seed
    return {
        "model": verdict.model,
        "metric": verdict.requirement.metric,
        "place": str(verdict.requirement.scope).rstrip("."),
        "comparison": verdict.requirement.comparison,
        "limit": verdict.requirement.limit,
        "layer": verdict.layer,
        "rule": verdict.rule,
        "module": verdict.module,
        "seed": None if seed is None else {"task": seed[0], "model": seed[1]},
        "value": verdict.value,
        "low": verdict.low,
        "high": verdict.high,
        "baseline": verdict.baseline,
        "outcome": verdict.outcome,
    }
