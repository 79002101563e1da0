"""Which models ``--model PATTERN`` means, and what they are called, wherever cards are read."""

from collections.abc import Sequence

from modeval.errors import SpecError, nearest
from modeval.score.scorecard import Finding, ModelRecord, Scorecard, is_named


def only_models(
    cards: Sequence[tuple[str, Scorecard]], patterns: Sequence[str]
) -> list[tuple[str, Scorecard]]:
    """Return the parts about models whose id or title matches one of the patterns.

    Args:
        cards: scorecards with the files that they came from.
        patterns: as ``gt-*``; without any, all models are meant.

    Raises:
        SpecError: a pattern matches no model, or a scorecard has none that matches: what was
            asked for and is not there must not be passed over.
    """
    models = [model for _, card in cards for model in card.models]
    names = list(dict.fromkeys(model.id for model in models))
    for pattern in patterns:
        if not any(is_named(pattern, model) for model in models):
            raise SpecError(
                f"--model {pattern}: no such model{nearest(pattern, names)}. There "
                f"{'are' if len(names) > 1 else 'is'} {', '.join(names) or 'none'}."
            )
    kept = [(source, card.only(patterns)) for source, card in cards]
    for (source, card), (_, whole) in zip(kept, cards, strict=True):
        if not card.models:
            asked = " ".join(f"--model {pattern}" for pattern in patterns)
            has = ", ".join(model.id for model in whole.models) or "none"
            raise SpecError(f"{asked}: no such model in {source}, which has {has}.".lstrip(": "))
    return kept


def layer_findings(card: Scorecard, model: ModelRecord) -> tuple[Finding, ...]:
    """Return the findings of a model, seed after seed, and layer by layer within each."""
    return card.of(model.id).findings


def distinct_title(card: Scorecard, model: ModelRecord) -> str:
    """Return the title of a model, with what tells it from others that have the same one."""
    others = [other for other in card.models if other.title == model.title and other is not model]
    rules = {other.data.get("rules") for other in others}
    if not others:
        return model.title
    if None in rules or model.data.get("rules") in rules:
        return f"{model.title} ({model.id})"
    return f"{model.title}, {model.data['rules']} rules"
