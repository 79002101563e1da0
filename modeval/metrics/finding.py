"""Findings: the routing of a layer in a word: specialised, collapsed, blind, or in between."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from modeval.metrics.collapse import Joint, Scalar, usage
from modeval.metrics.information import entropy, mutual_information

Kind = Literal["specialist", "partial", "collapsed", "blind"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """Where the findings part.

    Attributes:
        specialist: share of the information that modules could carry on the rules, log min(R, M),
            from which routing is specialised.
        blind: share below which it tells little of the rules.
        nothing: share that is as good as nothing: what ``blind`` must be proven to be below.
        balanced: evenness (exp H(m) - 1)/(M - 1), 0 when one module does all and 1 when all do the
            same, from which routing without information is blind rather than collapsed.
    """

    specialist: float = 0.75
    blind: float = 0.1
    nothing: float = 0.05
    balanced: float = 0.5


THRESHOLDS = Thresholds()


def most_information(rules: int, modules: int) -> float:
    """Return the most that modules can tell of the rules in nats, log min(R, M).

    >>> round(most_information(4, 8), 6), most_information(1, 8)
    (1.386294, 0.0)
    """
    return float(np.log(max(min(rules, modules), 1)))


def evenness(joint: Joint) -> Scalar:
    """How evenly is the work shared out?

    ``(exp H(m) - 1) / (M - 1)``

    Args:
        joint: ``(..., R, M)`` joint distribution of rule and module.

    Returns:
        ``(...)``, no unit: 0 when one module does all, 1 when all do the same; 1 for one module.

    >>> import torch
    >>> evenness(torch.tensor([[0.25, 0.25], [0.25, 0.25]], dtype=torch.float64)).item()
    1.0
    """
    modules = joint.shape[-1]
    spread = entropy(usage(joint)).exp() - 1
    return spread / (modules - 1) if modules > 1 else spread + 1


def verdicts(joint: Joint, *, thresholds: Thresholds = THRESHOLDS) -> NDArray[Any]:
    """Say of each routing what it is, taken as it stands: no doubt is cast on the numbers.

    Load alone cannot: a blind router is perfectly balanced. Alignment and information alone
    cannot either: a blind router and a collapsed one score the same there. What is claimed of
    routing that was measured is :mod:`modeval.score.findings`, which asks how surely.

    Args:
        joint: ``(..., R, M)`` joint distribution of rule and module.
        thresholds: where the findings part.

    Returns:
        An array ``(...)`` of words: ``specialist`` tells the rules apart; ``partial`` does so in
        part; ``collapsed`` knows nothing of them and uses few modules; ``blind`` knows nothing of
        them and uses many.

    >>> import torch
    >>> one = torch.zeros(4, 4, dtype=torch.float64)
    >>> one[:, 0] = 0.25
    >>> uniform = torch.full((4, 4), 1 / 16, dtype=torch.float64)
    >>> verdicts(torch.stack([torch.eye(4, dtype=torch.float64) / 4, one, uniform])).tolist()
    ['specialist', 'collapsed', 'blind']
    """
    most = max(most_information(*joint.shape[-2:]), float(np.finfo(np.float64).tiny))
    told = (mutual_information(joint) / most).cpu().numpy()
    used = evenness(joint).cpu().numpy()
    return np.select(
        [
            told >= thresholds.specialist,
            told >= thresholds.blind,
            used >= thresholds.balanced,
        ],
        ["specialist", "partial", "blind"],
        default="collapsed",
    )
