"""What is measured at a validation: losses, also of each rule, and how samples are routed.

The samples are the same at every validation of a run, so that one differs from the next by what was
learned alone. Routing scores cost a pass that is made anyhow.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from modeval.metrics import alignment_distance, collapse_worst, inverse_mutual_information
from modeval.nn import Network
from modeval.nn.network import Routed
from modeval.spec import Objective
from modeval.train.goal import losses
from modeval.types import Batch, shares

SCORES = {
    "collapse_worst": collapse_worst,
    "alignment_distance": alignment_distance,
    "inverse_mutual_information": inverse_mutual_information,
}
"""Routing scores of a validation, by the names of their metrics."""


@dataclass(frozen=True, slots=True)
class Validated:
    """What a validation tells.

    Attributes:
        loss: ``(S,)`` mean over samples.
        wrong: ``(S,)`` share of answers on the wrong side of 0.
        rule_loss: ``(S, R)`` mean over the samples of each rule; NaN for a rule without samples.
        routing: ``(S,)`` of each score in :data:`SCORES`, the mean over layers; empty where there
            is no routing to score. NaN for a seed that is no longer finite.
        chosen: ``(S, L, N)`` the module with the largest weight; nothing likewise.
    """

    loss: Float[Tensor, " seeds"]
    wrong: Float[Tensor, " seeds"]
    rule_loss: Float[Tensor, "seeds rules"]
    routing: dict[str, Float64[Tensor, " seeds"]]
    chosen: Int64[Tensor, "seeds layers samples"] | None


def validate(network: Network, batch: Batch, objective: Objective) -> Validated:
    """Run a network on samples and say what came of it."""
    with torch.no_grad():
        output = network(batch.inputs, batch.rule)
        loss = losses(output.prediction, batch.target, objective)
        wrong = (output.prediction >= 0) != (batch.target > 0)
        each = _sample_losses(output.prediction, batch.target, objective)
        routed = network.module_count > 1
        return Validated(
            loss=loss,
            wrong=wrong.flatten(1).float().mean(1),
            rule_loss=by_rule(each, batch.rule, network.rules),
            routing=_scores(output.routed, batch.rule, network.rules) if routed else {},
            chosen=_chosen(output.routed) if routed else None,
        )


def _sample_losses(prediction: Tensor, target: Tensor, objective: Objective) -> Tensor:
    if objective == "regression":
        return (prediction - target).abs().mean(-1)
    each = F.binary_cross_entropy_with_logits(prediction, target, reduction="none")
    return each.mean(-1)


def by_rule(
    each: Float[Tensor, "seeds n *positions"], rule: Int64[Tensor, "seeds n *positions"], rules: int
) -> Float[Tensor, "seeds rules"]:
    """Return the mean of what was measured of each sample, by rule.

    >>> by_rule(torch.tensor([[1.0, 3.0, 8.0]]), torch.tensor([[0, 0, 1]]), 2).tolist()
    [[2.0, 8.0]]
    """
    one_hot = F.one_hot(rule.flatten(1), rules).to(each.dtype)
    return (each.flatten(1).unsqueeze(1) @ one_hot).squeeze(1) / one_hot.sum(1)


def _scores(
    routed: Sequence[Routed], rule: Tensor, rules: int
) -> dict[str, Float64[Tensor, " seeds"]]:
    """Return the scores of mean routing, each rule counted the same."""
    one_hot = F.one_hot(rule.flatten(1), rules).double()
    weight = torch.stack([shares(layer.weight.flatten(1, -2)).double() for layer in routed], 1)
    mass = one_hot.mT.unsqueeze(1) @ weight  # (S, L, R, M)
    total = mass.sum(-1, keepdim=True)
    rows = torch.where(total > 0, mass / total.clamp(min=1e-300), 1 / mass.shape[-1])
    joint = (rows / rules).cpu()
    finite = joint.isfinite().all(-1).all(-1)
    safe = torch.where(finite[..., None, None], joint, 1 / joint[0, 0].numel())
    return {
        name: torch.where(finite, score(safe), torch.nan).mean(1) for name, score in SCORES.items()
    }


def _chosen(routed: Sequence[Routed]) -> Int64[Tensor, "seeds layers samples"]:
    return torch.stack([layer.weight.flatten(1, -2).abs().argmax(-1) for layer in routed], 1)


def churn(
    now: Int64[Tensor, "seeds layers samples"], before: Int64[Tensor, "seeds layers samples"]
) -> Float[Tensor, " seeds"]:
    """Return the share of samples whose largest module is another than before, over layers.

    >>> churn(torch.tensor([[[0, 1, 1]]]), torch.tensor([[[0, 0, 1]]])).tolist()
    [0.333...]
    """
    return (now != before).float().flatten(1).mean(1)
