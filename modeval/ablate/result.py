"""What one pass found of each module, and what engines take: lists of modules to keep."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeval.atomic import Fault, write_text
from modeval.errors import DataError, RunError
from modeval.score.ablation import Ablation, Kept

FAULT = Fault(RunError, "What was measured so far is kept: run the same command again.")

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
