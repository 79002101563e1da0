"""What modules do, not what is sent to them: scores of networks that were intervened upon.

They are made of necessity, ``(..., R, M)``: how much the loss of rule r grows when module m is
switched off and the others of a sample take its work over. Routing mass is not contribution: a
module can be used and useless, or rarely used and vital.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from modeval.metrics.alignment import alignment_score
from modeval.metrics.information import mutual_information

Table = Float64[Tensor, "*batch rules modules"]
Scalar = Float64[Tensor, "*batch"]
Curve = Float64[Tensor, "*batch levels"]


def needed(
    necessity: Table, floor: Table | None = None
) -> tuple[Table, Bool[Tensor, "*batch rules"]]:
    """Return C, the share of each module in what a rule needs, and whether it needs any.

    ``C[r, m] = max(0, N[r, m]) / sum_m max(0, N[r, m])``, 1/M each where no module is needed:
    others can do the work of each, or nobody's work counts.

    Args:
        necessity: ``(..., R, M)`` growth of the loss of rule r without module m.
        floor: ``(..., R, M)`` below which growth is none: its sampling error, rounding.

    >>> table, there = needed(torch.tensor([[0.2, -0.1], [0.0, 0.0]], dtype=torch.float64))
    >>> table.tolist(), there.tolist()
    ([[1.0, 0.0], [0.5, 0.5]], [True, False])
    """
    least = torch.zeros_like(necessity) if floor is None else floor
    positive = torch.where(necessity > least, necessity, 0.0).clamp(min=0)
    total = positive.sum(-1, keepdim=True)
    share = torch.where(total > 0, positive / total.clamp(min=1e-300), 1 / necessity.shape[-1])
    return share, total.squeeze(-1) > 0


def causal_alignment_score(necessity: Table, floor: Table | None = None) -> Scalar:
    """How far is each rule on the way from needing all modules alike to needing one of its own?

    ``alignment_score`` of C, the shares of the modules in what a rule needs, rules weighing alike:
    ``C[r, m] = max(0, N[r, m]) / sum_m max(0, N[r, m])``, 1/M each where no module is needed.

    Args:
        necessity: ``(..., R, M)`` N: growth of the loss of rule r without module m.
        floor: ``(..., R, M)`` growth up to which there is none.

    Returns:
        ``(...)``, no unit. 1 where each rule needs one module of its own; 0 where all modules are
        needed alike, or none is, as with twins that can replace each other, and where all rules
        need the same one.

    Source: the project's own; the score of routing it answers to is ``alignment_score``.

    >>> own = torch.tensor([[0.5, 0.0], [0.0, 0.1]], dtype=torch.float64)
    >>> causal_alignment_score(own).item(), causal_alignment_score(own * 0).item()
    (1.0, 0.0)

    A module that is used for both rules and needed for neither fools routing alone:

    >>> causal_alignment_score(torch.tensor([[0.5, 0.0, 0.0], [0.0, 0.1, 0.0]]).double()).item()
    1.0
    """
    return _finite(necessity, lambda sound: alignment_score(_joint(sound, floor)))


def causal_information(necessity: Table, floor: Table | None = None) -> Scalar:
    """How much do the modules that a rule needs tell of the rule?

    ``I(m; r)`` of C, the shares of the modules in what a rule needs, rules weighing alike:
    ``C[r, m] = max(0, N[r, m]) / sum_m max(0, N[r, m])``, 1/M each where no module is needed.

    Args:
        necessity: ``(..., R, M)`` N: growth of the loss of rule r without module m.
        floor: ``(..., R, M)`` growth up to which there is none.

    Returns:
        ``(...)`` nats, from 0 (all rules need the same) to log min(R, M) (each needs its own).

    Source: the project's own; the score of routing it answers to is ``mutual_information``.

    >>> causal_information(torch.eye(2, dtype=torch.float64)).item()
    0.693...
    """
    return _finite(necessity, lambda sound: mutual_information(_joint(sound, floor)))


def routing_faithfulness(activation: Table, necessity: Table, floor: Table | None = None) -> Scalar:
    """How far does where a rule is sent tell which modules it needs?

    ``1 - (1/R) sum_r TV(A_r, C_r)``, A being the shares of routing and C those of need; a rule that
    needs no module counts as TV 1, for then its routing tells nothing of need.

    Args:
        activation: ``(..., R, M)`` A: how each rule shares itself out over the modules.
        necessity: ``(..., R, M)`` growth of the loss of rule r without module m.
        floor: ``(..., R, M)`` growth up to which there is none.

    Returns:
        ``(...)``, no unit, from 0 to 1, where modules are needed as much as they are used.

    Source: the project's own; TV is the total variation distance.

    >>> used = torch.tensor([[0.5, 0.5], [0.0, 1.0]], dtype=torch.float64)
    >>> routing_faithfulness(used, torch.tensor([[0.3, 0.0], [0.0, 0.2]]).double()).item()
    0.75
    """

    def measured(sound: Tensor) -> Tensor:
        share, there = needed(sound, floor)
        distance = (activation - share).abs().sum(-1) / 2
        return 1 - torch.where(there, distance, 1.0).mean(-1)

    return _finite(necessity, measured).clamp(0, 1)


def resilience(loss: Curve, removed: Float64[Tensor, "levels"]) -> Scalar:
    """How large is the loss while modules are removed, one after the other, in random order?

    ``integral from 0 to 1 of L(q) dq``, L(q) being the mean loss over random orders when the share
    q of the modules is removed and the rest of a sample's modules take over; by trapezoids.

    Args:
        loss: ``(..., J)`` loss at each level.
        removed: ``(J,)`` share of the modules that are removed, from 0 to 1.

    Returns:
        ``(...)`` in units of the loss, at least 0. The intact loss where nothing is lost until the
        last module; halfway from it to the loss without modules where each takes its part with it;
        that loss itself where the first takes all.

    Source: the project's own; damage curves as in Pfeiffer et al. 2023, section on robustness.

    >>> removed = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    >>> resilience(torch.tensor([0.0, 1.0, 2.0]).double(), removed).item()
    1.0
    """
    return torch.trapezoid(loss, removed, dim=-1)


def keep_k(loss: Curve, removed: Float64[Tensor, "levels"]) -> Scalar:
    """How large is the loss while modules are removed, the least used first?

    ``integral from 0 to 1 of L(q) dq``, L(q) being the loss with the k = (1 - q) M most used
    modules alone. Chance keeps as many modules at random: the mean of that is ``resilience``.

    Args:
        loss: ``(..., J)`` loss at each level.
        removed: ``(J,)`` share of the modules that are removed, from 0 to 1.

    Returns:
        ``(...)`` in units of the loss, at least 0; below chance where use tells which can go.

    Source: the project's own.

    >>> removed = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    >>> keep_k(torch.tensor([0.0, 0.0, 2.0]).double(), removed).item()
    0.5
    """
    return torch.trapezoid(loss, removed, dim=-1)


# --- parts ---------------------------------------------------------------------------------------


def _joint(necessity: Tensor, floor: Tensor | None) -> Tensor:
    return needed(necessity, floor)[0] / necessity.shape[-2]


def _finite(necessity: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Return what a function gives, and NaN where a loss was not finite."""
    broken = ~necessity.isfinite().flatten(-2).all(-1)
    sound = torch.where(broken[..., None, None], 0.0, necessity)
    return function(sound).masked_fill(broken, torch.nan)
