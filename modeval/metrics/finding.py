"""The verdict on a layer in a word: specialised, collapsed, blind, or in between."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from modeval.metrics.collapse import Joint, usage
from modeval.metrics.information import entropy, mutual_information

Kind = Literal["specialist", "partial", "collapsed", "blind"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """Where the verdicts part.

    Attributes:
        specialist: share of the information that modules could carry on the rules, log min(R, M),
            from which routing is specialised.
        blind: share below which it knows nothing of the rules.
        balanced: evenness (exp H(m) - 1)/(M - 1), 0 when one module does all and 1 when all do the
            same, from which routing without information is blind rather than collapsed.
    """

    specialist: float = 0.75
    blind: float = 0.1
    balanced: float = 0.5


def verdicts(joint: Joint, *, thresholds: Thresholds | None = None) -> NDArray[Any]:
    """Say of each routing what it is.

    Load alone cannot: a blind router is perfectly balanced. Alignment and information alone
    cannot either: a blind router and a collapsed one score the same there.

    Args:
        joint: ``(..., R, M)`` joint distribution of rule and module.
        thresholds: where the verdicts part.

    Returns:
        An array ``(...)`` of words: ``specialist`` tells the rules apart; ``partial`` does so in
        part; ``collapsed`` knows nothing of them and uses few modules; ``blind`` knows nothing of
        them and uses many.

    >>> one = torch.zeros(4, 4, dtype=torch.float64)
    >>> one[:, 0] = 0.25
    >>> uniform = torch.full((4, 4), 1 / 16, dtype=torch.float64)
    >>> verdicts(torch.stack([torch.eye(4, dtype=torch.float64) / 4, one, uniform])).tolist()
    ['specialist', 'collapsed', 'blind']
    """
    limits = thresholds or Thresholds()
    rules, modules = joint.shape[-2:]
    most = max(np.log(min(rules, modules)), np.finfo(np.float64).tiny)
    told = (mutual_information(joint) / most).cpu().numpy()
    spread = entropy(usage(joint)).exp() - 1 if modules > 1 else torch.ones_like(joint[..., 0, 0])
    used = (spread / max(modules - 1, 1)).cpu().numpy()
    return np.select(
        [told >= limits.specialist, told >= limits.blind, used >= limits.balanced],
        ["specialist", "partial", "blind"],
        default="collapsed",
    )
