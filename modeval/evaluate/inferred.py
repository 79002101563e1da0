"""Which rule are samples of, when nothing says it? Each module is tried, and the best one taken.

Masks over one trunk are asked in turn (supermasks in superposition): the rule is the one whose
module is surest of its answers, or, where a few answers are known, least wrong. Source: Wortsman et
al. 2020 (SupSup, arXiv 2006.14769), section 3.3, each mask tried by itself in place of one gradient
step through all of them.

Where inputs are drawn alike for every rule unlabelled samples tell nothing of it: being sure is no
sign then, and only known answers help. With ``telling`` of :class:`modeval.spec.DataSpec` each rule
has inputs of its own, and its mask is surer of them than the others are.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from modeval.evaluate.cohort import sample_losses
from modeval.nn.network import Network
from modeval.spec import Objective


def infer_rules(
    network: Network,
    inputs: Float[Tensor, "seeds samples *positions features"],
    objective: Objective,
    target: Float[Tensor, "seeds samples *positions outputs"] | None = None,
    *,
    together: int = 1,
) -> Int64[Tensor, "seeds groups"]:
    """Return the rule of each group of consecutive samples that are of one rule.

    Args:
        network: with a module for each rule, as ``supermask-per-rule``.
        inputs: of all samples.
        objective: what the network answers.
        target: answers that are known; without them the surest module is taken, by the entropy of
            its answers (``classification``).
        together: samples of a group.

    Raises:
        ValueError: answers are values, which are never sure, and none is known.
    """
    if target is None and objective == "regression":
        raise ValueError("values have no entropy: give a target, or infer rules of classification")
    scores = []
    with torch.no_grad():
        for rule in range(network.rules):
            told = torch.full(inputs.shape[:-1], rule, device=inputs.device)
            prediction = network(inputs, told).prediction
            if target is None:
                likely = prediction.sigmoid()
                each = (torch.special.entr(likely) + torch.special.entr(1 - likely)).mean(-1)
            else:
                each, _ = sample_losses(prediction, target, objective)
            scores.append(each.flatten(2).mean(-1) if each.dim() > 2 else each)  # noqa: PLR2004
    by_rule = torch.stack(scores, -1)  # (S, N, R)
    whole = by_rule.shape[1] // together * together
    groups: Tensor = by_rule[:, :whole].unflatten(1, (-1, together)).mean(2)
    return groups.argmin(-1)
