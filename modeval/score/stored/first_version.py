"""What scorecards of modeval 0.1 said in sentences, as the fields that say it today.

A baseline may be older than the program. Its sentences are known word for word and change no more,
so this is the one place where they are read; nothing else takes a decision from words.
"""

import re
from typing import Any

FEW = "few samples"
LEFT_OUT = re.compile(r"(?P<title>.*): (?P<kind>Layer|Rule)s? (?P<names>.*) left out: (?P<why>.*)")
STOPPED = re.compile(r"(?P<title>.*): the trace is incomplete: (?P<why>.*)")


def upgraded(form: dict[str, Any]) -> dict[str, Any]:
    """Return the form with what it says in sentences in the fields of today, if it is of 0.1.

    Such a form has a word for each layer in its models and no list of findings.
    """
    models = form.get("models")
    if "findings" in form or not isinstance(models, list):
        return form
    notes = [note for note in _list(form.get("notes")) if isinstance(note, str)]
    return form | {
        "models": [_model(model, notes) for model in models],
        "scores": [_score(score) for score in _list(form["scores"])],
        "findings": [
            {
                "model": model.get("id"),
                "layer": layer if len(_list(model.get("layers"))) > 1 else None,
                "seed": None,
                "word": word,
            }
            for model in models
            if isinstance(model, dict)
            for layer, word in enumerate(_list(model.get("verdicts")))
        ],
    }


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _score(score: Any) -> Any:
    note = score.get("note") if isinstance(score, dict) else None
    if not isinstance(note, str) or "few_samples" in score:
        return score
    return score | {"few_samples": FEW in note}


def _model(model: Any, notes: list[str]) -> Any:
    if not isinstance(model, dict) or "left_out" in model:
        return model
    return model | {
        "left_out": [item for note in notes for item in _left_out(note, str(model.get("title")))]
    }


def _left_out(note: str, title: str) -> list[dict[str, Any]]:
    """Return what a note says was left out of a model."""
    stopped = STOPPED.fullmatch(note)
    if stopped and stopped["title"] == title:
        return [{"kind": "rest", "why": stopped["why"]}]
    match = LEFT_OUT.fullmatch(note)
    if match is None or match["title"] != title:
        return []
    return [{"kind": match["kind"].lower(), "name": match["names"], "why": match["why"]}]
