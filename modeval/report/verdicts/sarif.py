"""Verdicts of the gate as SARIF 2.1.0, which code scanning services read."""

import json
from importlib.metadata import version
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from modeval.gate.verdicts import GateResult, Outcome, Verdict
from modeval.metrics import METRICS
from modeval.report.verdicts.terminal import chance_words, measurement, sentence
from modeval.report.words import measured, metric_title
from modeval.text import for_json, visible

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
LEVELS: dict[Outcome, str] = {"fail": "error", "error": "error", "inconclusive": "warning"}


def render(result: GateResult, _exit_code: int = 0) -> str:
    """Return the text of the file: a rule for each metric, a result for each verdict.

    Verdicts that passed are results of the kind ``pass``, which need no attention.
    """
    metrics = sorted({verdict.requirement.metric for verdict in result.verdicts})
    run = {
        "tool": {
            "driver": {
                "name": "modeval",
                "version": version("modeval-cli"),
                "rules": [_rule(metric) for metric in metrics],
            }
        },
        "results": [_result(verdict, metrics, result.policy.source) for verdict in result.verdicts],
        "columnKind": "unicodeCodePoints",
        "properties": {
            "chance": chance_words(result),
            "policy": result.policy.source or None,
            "baseline": result.policy.baseline,
            "models": [
                {
                    "id": each.model.id,
                    "scorecard": each.source,
                    "measured": dict(measured(each.card, each.model)),
                }
                for each in result.checked
            ],
        },
    }
    log = {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}
    return for_json(json.dumps(log, indent=1, allow_nan=False, ensure_ascii=False)) + "\n"


def _rule(metric: str) -> dict[str, Any]:
    row = METRICS.get(metric)
    title = metric_title(metric)
    rule: dict[str, Any] = {
        "id": metric,
        "name": title,
        "shortDescription": {"text": title if row is None else row.question},
    }
    if row is not None:
        text = f"{row.formula} Range {row.bounds}, ideal {row.ideal}, chance {row.chance}."
        rule["fullDescription"] = {"text": text}
        rule["help"] = {"text": f"{row.question} {text} Source: {row.source}."}
    return rule


def _result(verdict: Verdict, metrics: list[str], policy: str) -> dict[str, Any]:
    seed = verdict.seed
    passed = verdict.outcome == "pass"
    return {
        "ruleId": verdict.requirement.metric,
        "ruleIndex": metrics.index(verdict.requirement.metric),
        "kind": "pass" if passed else "fail",
        "level": LEVELS.get(verdict.outcome, "none"),
        "message": {
            "text": f"{verdict.requirement}: {sentence(verdict)} Measured {measurement(verdict)}."
        },
        "locations": [
            {
                "physicalLocation": _location(verdict, policy),
                "logicalLocations": [{"fullyQualifiedName": verdict.where, "kind": "resource"}],
            }
        ],
        "partialFingerprints": {
            "modevalRequirement/v1": f"{verdict.model}/{verdict.requirement}/{verdict.where}"
        },
        "properties": {
            "outcome": verdict.outcome,
            "model": verdict.model,
            "scorecard": verdict.source,
            "limit": verdict.requirement.limit,
            "layer": verdict.layer,
            "rule": verdict.rule,
            "module": verdict.module,
            "seed": None if seed is None else {"task": seed[0], "model": seed[1]},
        },
    }


def _location(verdict: Verdict, policy: str) -> dict[str, Any]:
    """Return the place in the policy that asks for it, or the scorecard."""
    place: dict[str, Any] = {"artifactLocation": {"uri": _uri(policy or verdict.source)}}
    if policy and verdict.requirement.line:
        place["region"] = {"startLine": verdict.requirement.line}
    return place


def _uri(path: str) -> str:
    """Return a path as a relative or file URI, as the format asks.

    >>> _uri("my cards/main.json"), _uri("/tmp/card.json")
    ('my%20cards/main.json', 'file:///tmp/card.json')
    """
    text = quote(visible(PurePath(path).as_posix()))
    return f"file://{text}" if text.startswith("/") else text
