"""What removing modules of a language model did: data alone, as scorecards carry it.

Losses are in nats per predicted token; a *change* is the loss without some modules less the loss
of the whole model, on the same tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modeval.score.scorecard import Scorecard


@dataclass(frozen=True, slots=True)
class Change:
    """A loss, or a change of it, with its interval over documents.

    Attributes:
        value: nats per token.
        low: lower end of the 95 % interval; nothing with fewer than two documents.
        high: upper end.
    """

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomSets:
    """What random keep-sets of one size do: the chance level of every score.

    Attributes:
        share: share of modules that is kept.
        kept: modules kept in each layer.
        changes: change of the loss of each set, over all documents.
        by_label: the same for each label, ``(R, sets)``.
    """

    share: float
    kept: tuple[int, ...]
    changes: tuple[float, ...]
    by_label: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What keeping the modules with the largest scores does.

    Attributes:
        score: key of :data:`modeval.ablate.result.SCORES`.
        share: share of modules that is kept.
        kept: the modules kept in each layer, best first.
        change: change of the loss over all documents.
        by_label: the same for each label.
        p: probability that a random keep-set does as well, ``(r + 1) / (n + 1)`` with r of n.
        p_by_label: the same for each label.
    """

    score: str
    share: float
    kept: tuple[tuple[int, ...], ...]
    change: Change
    by_label: tuple[Change, ...]
    p: float
    p_by_label: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alone:
    """What removing one module alone does.

    Attributes:
        layer: number of the layer.
        module: number of the module.
        change: change of the loss over all documents.
        by_label: the same for each label.
    """

    layer: int
    module: int
    change: Change
    by_label: tuple[Change, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Foresight:
    """Did a static score foresee which removals cost how much?

    Attributes:
        score: key of :data:`modeval.ablate.result.SCORES`.
        of: ``random sets`` (of one size, against the sum of what they remove) or ``single
            modules``.
        correlation: Spearman's, mean over sizes; 1 foresaw all, 0 nothing.
        p: probability of one as large by chance, ``(r + 1) / (n + 1)``.
    """

    score: str
    of: str
    correlation: float
    p: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Safe:
    """The smallest share of modules that is enough, among those that were tested.

    Attributes:
        score: key of :data:`modeval.ablate.result.SCORES`.
        measured: smallest share such that every label's change is within the margin, and at all
            larger tested shares as well; 1 where none is.
        sure: the same for the upper ends of the changes.
    """

    score: str
    measured: float
    sure: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablation:
    """What removing modules does to a language model.

    Attributes:
        model: ``id`` of its model.
        layers: names of the layers.
        modules: number of modules of each.
        choices: number of modules that each token chooses, by layer.
        labels: names of the labels.
        documents: documents of each label.
        tokens: predicted tokens of each label.
        removal: what happens to the tokens of removed modules.
        within: margin of the loss, nats per token.
        loss: loss of the whole model.
        by_label: the same for each label.
        contributions: static scores: for each layer ``(M,)`` by name of the score.
        routed: for each layer ``(R, M)`` tokens by label.
        kept: keep-sets by score.
        random: keep-sets at random.
        alone: modules removed one at a time.
        foresight: whether static scores foresaw it.
        safe: what can go.
        notes: what to know when reading it.
        texts: digest of the texts as the model got them; empty where it was not kept.
        seed: nothing: a model as it is has none.
    """

    model: str
    layers: tuple[str, ...]
    modules: tuple[int, ...]
    choices: tuple[int, ...]
    labels: tuple[str, ...]
    documents: tuple[int, ...]
    tokens: tuple[int, ...]
    removal: str
    within: float
    loss: Change
    by_label: tuple[Change, ...]
    contributions: tuple[Mapping[str, tuple[float, ...]], ...]
    routed: tuple[tuple[tuple[float, ...], ...], ...]
    kept: tuple[Kept, ...] = ()
    random: tuple[RandomSets, ...] = ()
    alone: tuple[Alone, ...] = ()
    foresight: tuple[Foresight, ...] = ()
    safe: tuple[Safe, ...] = ()
    notes: tuple[str, ...] = ()
    texts: str = ""
    seed: tuple[int, int] | None = None

    def card(self) -> "Scorecard":
        """Return it as a scorecard, for :func:`modeval.gate` and :func:`modeval.compare`."""
        from modeval.score.ablation_card import ablation_card  # noqa: PLC0415 - it is made of this

        return ablation_card(self)
