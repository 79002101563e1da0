"""Comparisons of scorecards, traces and runs."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from modeval.errors import SpecError, TraceError
from modeval.score.chosen import only_models
from modeval.score.comparison.compare import Comparison, Lineage
from modeval.score.comparison.compare import compare as compare_cards
from modeval.score.scorecard import Scorecard
from modeval.score.stored.files import read_scorecard

Source = str | Path


def compare(
    *sources: Source | Scorecard,
    models: Sequence[str] = (),
) -> Comparison:
    """What changed between scorecards, traces or runs?

    Args:
        sources: scorecards or their files, traces, counts or run folders, the first being what
            the others are compared with; one scorecard for the models in it.
        models: patterns of the models to compare; all when empty.

    Raises:
        ModevalError: something cannot be read or scored, or there is nothing to compare.

    >>> import modeval
    >>> after, before = "fixtures/tiny-moe.counts", "fixtures/tiny-moe-untrained.counts"
    >>> found = modeval.compare(f"{before}.safetensors", f"{after}.safetensors")
    >>> len(found.lineages)
    1
    """
    whole = [_card(source, number) for number, source in enumerate(sources)]
    comparison = compare_cards(only_models(whole, [*models]))
    if not comparison.lineages:
        first, *others = comparison.notes or ("no model stands in both",)
        more = f" (and {len(others)} more)" if others else ""
        reasons = f"{first}{more}"
        raise SpecError(
            f"There is nothing to compare: {reasons}. Give a second scorecard of the same model: "
            "modeval compare main.json scorecard.json"
        )
    lineages = tuple(_saturated(lineage, comparison.level) for lineage in comparison.lineages)
    return replace(comparison, lineages=lineages)


def _card(source: Source | Scorecard, number: int) -> tuple[str, Scorecard]:
    """Read a scorecard, or score what is there."""
    if isinstance(source, Scorecard):
        return f"scorecard {number + 1}", source
    path = Path(source)
    if not path.is_dir() and path.suffix != ".safetensors":  # so that scorecards load no torch
        return str(source), read_scorecard(path)
    from modeval.pipeline.scoring import score  # noqa: PLC0415 - see above

    return str(source), score(path)


def _saturated(lineage: Lineage, level: float) -> Lineage:
    """Add how much of the last checkpoint's routing the others have, where there are traces."""
    folders = [Path(column.source) for column in lineage.columns]
    if not all(
        folder.is_dir() and column.model.origin == "trace"
        for folder, column in zip(folders, lineage.columns, strict=True)
    ):
        return lineage
    from modeval.score.comparison.saturation import saturation_by_layer  # noqa: PLC0415 - for traces alone

    try:
        saturations = tuple(
            saturation_by_layer(folder, folders[-1], level=level) for folder in folders[:-1]
        )
    except TraceError as error:
        return replace(lineage, notes=(*lineage.notes, f"No saturation: {error}"))
    return replace(lineage, saturations=saturations)
