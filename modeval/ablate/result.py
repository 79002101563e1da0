"""What an ablation found: data alone, read by reports without any network.

Losses are in nats per predicted token; a *change* is the loss without some modules less the loss
of the whole model, on the same tokens.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeval.atomic import Fault, write_text
from modeval.errors import DataError, RunError

VERSION = 1
FAULT = Fault(RunError, "What was measured so far is kept: run the same command again.")
KIND = "modeval ablation"

SCORES: dict[str, str] = {
    "reap": "mean over a module's tokens of weight x norm of its output (REAP)",
    "routed": "how many tokens chose it",
    "weight": "the weight that tokens gave it",
    "peak": "the largest number in its output",
}
"""Static scores that one pass gives, the most telling first; a larger one is kept longer."""


@dataclass(frozen=True, slots=True, eq=False)
class Contribution:
    """What the modules of one layer contribute to each label; arrays are ``(R, M)``.

    Attributes:
        layer: name of the layer.
        choices: modules that each token chooses.
        routed: tokens that chose a module.
        weight: weight that they gave it, the weights of a token adding up to one.
        output: sum over them of weight x norm of its output; nothing where outputs are not seen.
        peak: largest number in its output; likewise.
    """

    layer: str
    choices: int
    routed: NDArray[np.float64]
    weight: NDArray[np.float64]
    output: NDArray[np.float64] | None
    peak: NDArray[np.float64] | None

    def score(self, name: str) -> NDArray[np.float64] | None:
        """Return one of :data:`SCORES` over all labels ``(M,)``; nothing where it is not known.

        >>> two = np.array([[3.0, 1.0]])
        >>> found = Contribution("mlp", 1, two, two, two * [[2.0, 9.0]], two)
        >>> found.score("reap").tolist(), found.score("routed").tolist()
        ([2.0, 9.0], [3.0, 1.0])
        """
        if name in ("routed", "weight"):
            table = self.routed if name == "routed" else self.weight
            total: NDArray[np.float64] = table.sum(0)
            return total
        if self.output is None or self.peak is None:
            return None
        if name == "peak":
            largest: NDArray[np.float64] = self.peak.max(0)
            return largest
        mean: NDArray[np.float64] = self.output.sum(0) / np.maximum(self.routed.sum(0), 1)
        return mean


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
        score: key of :data:`SCORES`.
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
        score: key of :data:`SCORES`.
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
        score: key of :data:`SCORES`.
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
        model: its name.
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

    def to_json(self) -> str:
        """Return it as readable JSON."""
        return json.dumps({"kind": KIND, "version": VERSION, **asdict(self)}, indent=1) + "\n"


def keep_lists(found: Ablation, kept: Kept) -> str:
    """Return a keep-set as JSON lines, one for each layer: what is kept and what is left out.

    ``experts`` has all modules of the layer, those to keep longest first, as engines that prune by
    a ratio take them; ``keep`` and ``omit`` are the two parts at this share.
    """
    lines = []
    for number, name in enumerate(found.layers):
        keep = kept.kept[number]
        scores = found.contributions[number][kept.score]
        rest = [m for m in best_first(scores) if m not in keep]
        row: dict[str, Any] = {"layer": number, "name": name, "experts": [*keep, *rest]}
        lines.append(json.dumps({**row, "keep": sorted(keep), "omit": sorted(rest)}))
    return "\n".join(lines) + "\n"


def best_first(scores: Sequence[float]) -> list[int]:
    """Return the modules by their scores, the largest first; of equal ones the lower number.

    >>> best_first([1.0, 3.0, 2.0, 3.0])
    [1, 3, 2, 0]
    """
    return sorted(range(len(scores)), key=lambda module: (-scores[module], module))


def write_lists(found: Ablation, folder: Path) -> tuple[Path, ...]:
    """Write each keep-set as a file of JSON lines into a folder; return the files."""
    paths = []
    for kept in found.kept:
        path = folder / f"keep-{kept.share:g}-by-{kept.score}.jsonl"
        write_text(path, keep_lists(found, kept), FAULT)
        paths.append(path)
    return tuple(paths)


def check_shares(shares: tuple[float, ...], modules: tuple[int, ...], choices: int) -> None:
    """Refuse shares that are none, or that leave too few modules to choose from.

    Raises:
        DataError: names the share, and what is expected.
    """
    for share in shares:
        if not 0 < share < 1:
            raise DataError(
                f"--keep {share:g}: expected shares of the modules between 0 and 1, as "
                "--keep 0.75,0.5,0.25."
            )
        least = min(kept_of(share, number) for number in modules)
        if least < choices:
            enough = choices / min(modules)
            raise DataError(
                f"--keep {share:g} keeps {least} of {min(modules)} modules, and each token "
                f"chooses {choices}: expected {enough:g} or more."
            )


def kept_of(share: float, modules: int) -> int:
    """Return how many modules a share keeps: rounded up, so that never more go than was asked.

    >>> kept_of(0.75, 8), kept_of(0.5, 5)
    (6, 3)
    """
    return max(int(np.ceil(share * modules - 1e-9)), 1)
