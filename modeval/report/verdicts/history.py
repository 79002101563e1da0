"""One line of JSON for each run of the gate, so that a file of them shows how values moved."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modeval.errors import ScorecardError
from modeval.gate.verdicts import GateResult, Verdict
from modeval.text import for_json

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
    return for_json(json.dumps(line, allow_nan=False, ensure_ascii=False)) + "\n"


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


# --- reading -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A value that one run of the gate judged.

    Attributes:
        model: that it is of.
        metric: its name.
        where: layer, rule, module and seed, in words; empty for the model as a whole.
        comparison: how it was judged.
        limit: that it was held against; nothing where it was held against something else.
        value: nothing where it could not be had.
        low: lower end of its interval, where it has one.
        high: upper end.
        outcome: of the verdict.
    """

    model: str
    metric: str
    where: str = ""
    comparison: str = ""
    limit: float | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None
    outcome: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the gate.

    Attributes:
        date: when it was.
        commit: what it judged; empty where that is not known.
        values: what it found.
    """

    date: str
    commit: str
    values: tuple[Kept, ...]


def read_history(path: Path) -> list[Run]:
    """Read what ``modeval gate --history`` wrote, oldest first; empty lines are skipped.

    Raises:
        ScorecardError: there is no such file, or a line is not of it.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ScorecardError(
            f"{path} cannot be read ({error}). A history is written by: modeval gate SCORECARD "
            "--history history.jsonl"
        ) from None
    runs = [_run(line, path, number) for number, line in enumerate(lines, 1) if line.strip()]
    if not runs:
        raise ScorecardError(
            f"{path} holds no run yet. Add one: modeval gate SCORECARD --history {path}"
        )
    return sorted(runs, key=lambda run: run.date)


def _run(line: str, path: Path, number: int) -> Run:
    try:
        form = json.loads(line)
        if form["format"] != FORMAT:
            raise ValueError(f"format {form['format']}")  # noqa: TRY301 - told with the line below
        values = tuple(_kept(each) for each in form["values"])
        return Run(str(form["date"]), str(form["commit"] or ""), values)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ScorecardError(
            f"{path}, line {number}: no run of the gate in format {FORMAT} "
            f"({type(error).__name__}: {error}). Remove the line."
        ) from None


def _kept(form: Mapping[str, Any]) -> Kept:
    seed = form.get("seed")
    parts = [str(form.get("place") or "")]
    parts += [f"{name} {form[name]}" for name in ("rule", "module") if form.get(name) is not None]
    parts += [f"seed ({seed['task']}, {seed['model']})"] if seed else []
    return Kept(
        model=str(form["model"]),
        metric=str(form["metric"]),
        where=", ".join(filter(None, parts)),
        comparison=str(form.get("comparison") or ""),
        outcome=str(form.get("outcome") or ""),
        **{name: _number(form.get(name)) for name in ("limit", "value", "low", "high")},
    )


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None
