"""Gates of scorecards."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from modeval.errors import SpecError
from modeval.gate.files import read_policy
from modeval.gate.gate import gate as gate_cards
from modeval.gate.policy import Comparison, Policy, from_flags, merge, with_settings
from modeval.gate.verdicts import GateResult
from modeval.score.chosen import only_models
from modeval.score.scorecard import Scorecard
from modeval.score.stored.files import read_scorecard

Source = str | Path


def gate(
    scorecards: Source | Scorecard | Sequence[Source | Scorecard],
    *,
    policy: Source | Policy | None = None,
    max: Sequence[str] = (),  # noqa: A002 - the words of a policy
    min: Sequence[str] = (),  # noqa: A002 - likewise
    max_drop: Sequence[str] = (),
    max_change: Sequence[str] = (),
    significant: Sequence[str] = (),
    baseline: Source | Scorecard | None = None,
    models: Sequence[str] = (),
) -> GateResult:
    """Do models keep to a policy?

    Args:
        scorecards: files of ``score``, or scorecards.
        policy: a file in TOML, or a policy.
        max: limits, as ``collapse_worst=0.2``.
        min: limits, as ``alignment_score=0.6``.
        max_drop: how much worse than the baseline, as ``alignment_score=0.05``.
        max_change: by less than what it must be shown to differ from the baseline, either way.
        significant: metrics that must beat chance.
        baseline: what ``max_drop`` and ``max_change`` compare with.
        models: patterns of the models to check; all when empty.

    Returns:
        A verdict on each requirement of each model, and ``outcome`` over all of them.

    Raises:
        SpecError: the policy cannot be checked.
        ScorecardError: a file is no scorecard, or damaged.

    >>> import modeval
    >>> card = modeval.score("fixtures/tiny-moe.counts.safetensors")
    >>> modeval.gate(card, max=["layers.worst.dead_fraction=0.8"]).outcome
    'pass'
    """
    given: dict[Comparison, list[str]] = {
        "max": [*max],
        "min": [*min],
        "max_drop": [*max_drop],
        "max_change": [*max_change],
        "significant": [*significant],
    }
    found = policy if isinstance(policy, Policy) else _read_policy(policy)
    found = merge(found, from_flags(given))
    if isinstance(baseline, str | Path):
        found = with_settings(found, {"baseline": str(baseline)}, "baseline")
    elif baseline is not None:
        found = replace(found, baseline="baseline")
    cards = [_named(each, number) for number, each in enumerate(_several(scorecards))]
    return gate_policy(cards, found, models=models, baseline=_baseline(found, baseline))


def _read_policy(path: Source | None) -> Policy:
    return Policy() if path is None else read_policy(Path(path))


def _baseline(policy: Policy, given: Source | Scorecard | None) -> Scorecard | None:
    if isinstance(given, Scorecard):
        return given
    return None if policy.baseline is None else read_scorecard(Path(policy.baseline))


def gate_policy(
    cards: Sequence[tuple[str, Scorecard]],
    policy: Policy,
    *,
    models: Sequence[str] = (),
    baseline: Scorecard | None = None,
) -> GateResult:
    """Check scorecards with their names against a policy that is complete.

    Models of the baseline that the patterns name are to be found again, unless one is named.
    """
    before = baseline
    if baseline is not None and policy.baseline_model is None:
        before = baseline.only(models)
    return gate_cards(only_models([*cards], [*models]), policy, before)


def gate_files(
    scorecards: Iterable[Path], policy: Policy, *, models: Sequence[str] = ()
) -> GateResult:
    """Check files against a policy; only models that match one of the patterns, if there are any.

    Raises:
        ModevalError: a file cannot be read, or the policy cannot be checked.
    """
    files = [*dict.fromkeys(scorecards)]
    cards = [_named(path, number) for number, path in enumerate(files)]
    _check_baseline(files, policy)
    return gate_policy(cards, policy, models=models, baseline=_baseline(policy, None))


def _check_baseline(files: Sequence[Path], policy: Policy) -> None:
    """Refuse to compare a scorecard with itself: it would pass whatever it holds."""
    path = None if policy.baseline is None else Path(policy.baseline)
    if path is not None and path.exists() and any(path.samefile(each) for each in files):
        raise SpecError(
            f"{path} would be compared with itself, which tells nothing. Name the scorecard of an "
            "earlier model: --baseline main.json"
        )


def _several(given: Source | Scorecard | Sequence[Source | Scorecard]) -> list[Source | Scorecard]:
    return [given] if isinstance(given, str | Path | Scorecard) else [*given]


def _named(given: Source | Scorecard, number: int) -> tuple[str, Scorecard]:
    if isinstance(given, Scorecard):
        return f"scorecard {number + 1}", given
    if Path(given).is_dir():
        raise SpecError(
            f"{given} is a folder; a gate checks scorecards. Make one: modeval score {given} "
            "--json scorecard.json"
        )
    return str(given), read_scorecard(Path(given))
