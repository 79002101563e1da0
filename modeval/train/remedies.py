"""Remedies: terms added to the loss against what goes wrong in routing.

    remedy(routed, rule, rules) -> (S,)       rules being how many there are
    remedy(network) -> (S,)                   where parameters are what it is about

Each is a function and an entry of :data:`REMEDIES` or :data:`OF_PARAMETERS`; a phase of training
names those it takes, with a coefficient each. Every modular layer adds its own term. Probabilities
are softmax shares of the logits, as in the sources; f counts what a layer really sent where.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from modeval.nn.network import Network, Routed
from modeval.spec.phases import Remedy as Asked
from modeval.spec.phases import RemedyName
from modeval.train.learners import own_names
from modeval.types import shares

Remedy = Callable[[Routed, Tensor, int], Tensor]


def balance(
    routed: Routed, rule: Int64[Tensor, "seeds n *positions"], rules: int
) -> Float[Tensor, " seeds"]:
    """Return ``M sum_m f_m P_m``: 1 where load is even, M where one module takes all.

    f is the share of samples whose largest weight is module m's (without gradient), P the mean
    softmax share. Source: Fedus et al. 2022 (arXiv 2101.03961), equation 4.
    """
    del rule, rules
    soft = routed.logits.flatten(1, -2).softmax(-1)
    sent = F.one_hot(routed.weight.flatten(1, -2).argmax(-1), soft.shape[-1]).to(soft.dtype)
    return soft.shape[-1] * (sent.mean(1) * soft.mean(1)).sum(-1)


def importance(
    routed: Routed, rule: Int64[Tensor, "seeds n *positions"], rules: int
) -> Float[Tensor, " seeds"]:
    """Return the squared coefficient of variation of the summed weights: 0 where load is even.

    Source: Shazeer et al. 2017 (arXiv 1701.06538), equation 7.
    """
    del rule, rules
    total = shares(routed.weight.flatten(1, -2)).sum(1)
    return total.var(-1, correction=0) / total.mean(-1).square().clamp(min=1e-10)


def load(
    routed: Routed, rule: Int64[Tensor, "seeds n *positions"], rules: int
) -> Float[Tensor, " seeds"]:
    """Return the squared coefficient of variation of the smooth load: 0 where it is even.

    The load of a module is how many samples are expected to choose it, were its noise drawn anew.
    Source: Shazeer et al. 2017 (arXiv 1701.06538), appendix A, equations 8 to 11.
    """
    del rule, rules
    likely = routed.load or (lambda: shares(routed.weight.flatten(1, -2)))
    total = likely().sum(1)
    return total.var(-1, correction=0) / total.mean(-1).square().clamp(min=1e-10)


def logits(
    routed: Routed, rule: Int64[Tensor, "seeds n *positions"], rules: int
) -> Float[Tensor, " seeds"]:
    """Return the mean of ``logsumexp(l)²``, which keeps logits small.

    Source: Zoph et al. 2022 (router z-loss, arXiv 2202.08906), equation 5.
    """
    del rule, rules
    return routed.logits.flatten(1, -2).logsumexp(-1).square().mean(1)


def information(
    routed: Routed, rule: Int64[Tensor, "seeds n *positions"], rules: int
) -> Float[Tensor, " seeds"]:
    """Return minus the mutual information of rule and module in the batch, in nats.

    It optimises what the inverse mutual information measures: a control that shows how much of the
    loss follows when a score is trained for.

    Its own gradient dies where rules share a module and shares are all but 0 or 1, however large
    the coefficient. So the gradient has another part, whose value is 0: the cross-entropy of the
    routing with :func:`of_their_own`, the nearest one that tells all there is to tell, which pulls
    most where a rule is farthest from it and ends where that is reached. Nothing is pulled where a
    batch is of one rule. Source: own, after labels that a model gives itself (Asano et al. 2020,
    arXiv 1911.05371: cross-entropy with balanced labels maximises the information).
    """
    weight = shares(routed.weight.flatten(1, -2))
    one_hot = F.one_hot(rule.flatten(1), rules).to(weight.dtype)
    joint = one_hot.mT @ weight / weight.shape[1]
    outer = joint.sum(-1, keepdim=True) * joint.sum(-2, keepdim=True)
    told = (joint * (_log(joint) - _log(outer))).sum((-2, -1))
    likely = routed.logits.flatten(1, -2).log_softmax(-1)
    seen = one_hot.sum(1)
    mean = (one_hot.mT @ likely).detach() / seen.clamp(min=1).unsqueeze(-1)
    wanted = one_hot @ of_their_own(mean, seen > 0).to(likely.dtype)
    several = ((seen > 0).sum(1) > 1).to(likely.dtype)
    pull = -several * (wanted * likely).sum(-1).mean(1)
    return pull - pull.detach() - told


def of_their_own(
    likely: Float[Tensor, "seeds rules modules"], seen: Bool[Tensor, "seeds rules"]
) -> Int64[Tensor, "seeds rules modules"]:
    """Give each rule that is seen a module of its own, the surest first; 0 and 1.

    Where there are more rules than modules, all are given out before one is given again.

    >>> likely = torch.tensor([[[0.9, 0.1], [0.8, 0.2]]]).log()
    >>> of_their_own(likely, torch.tensor([[True, True]])).tolist()
    [[[1, 0], [0, 1]]]
    """
    given = torch.zeros_like(likely, dtype=torch.int64)
    for _ in range(likely.shape[1]):
        users = given.sum(1, keepdim=True)
        open_ = (users == users.amin(-1, keepdim=True)) & ~given.any(-1, keepdim=True)
        open_ = open_ & seen.unsqueeze(-1)
        best = likely.masked_fill(~open_, -torch.inf).flatten(1).argmax(-1)
        given = given + F.one_hot(best, open_[0].numel()).view_as(given) * open_
    return given


def reuse(
    routed: Routed, rule: Int64[Tensor, "seeds n *positions"], rules: int
) -> Float[Tensor, " seeds"]:
    """Return minus the log prior of skills that rules reuse, ``Z`` being the sigmoids of logits.

    The Indian buffet prior over T rules and S modules, with concentration 1 and up to a constant,
    ``-log P(Z) = sum_s [log T! - log (T - m_s)! - log (m_s - 1)!]``, with ``m_s = sum_t Z_ts`` from
    1 to T and factorials by the gamma function: a skill that most rules have, or few, is likelier
    than one that half of them have. Source: Griffiths & Ghahramani 2011, as the prior of Polytropon
    (Ponti et al. 2023, arXiv 2202.13914).
    """
    skills = routed.logits.flatten(1, -2).sigmoid()
    one_hot = F.one_hot(rule.flatten(1), rules).to(skills.dtype)
    seen = one_hot.sum(1).unsqueeze(-1)
    rows = (one_hot.mT @ skills) / seen.clamp(min=1)
    users = rows.sum(1).clamp(min=1, max=rules)
    most = torch.lgamma(torch.tensor(rules + 1.0, device=users.device))
    return (most - torch.lgamma(rules - users + 1) - torch.lgamma(users)).sum(-1)


def diversity(
    routed: Routed, rule: Int64[Tensor, "seeds n *positions"], rules: int
) -> Float[Tensor, " seeds"]:
    """Return ``H(m | sample) - H(m)``: minus the information of sample and module, in nats.

    Without labels: each sample to few modules, all samples to many. An intrinsic reward.
    Source: the survey (arXiv 2302.11529), section 4.2; Mustafa et al. 2022 (LIMoE, arXiv
    2206.02770) for the two entropies.
    """
    del rule, rules
    weight = shares(routed.weight.flatten(1, -2))
    every = weight.mean(1)
    of_samples: Tensor = -(weight * _log(weight)).sum(-1).mean(1)
    of_all: Tensor = -(every * _log(every)).sum(-1)
    return of_samples - of_all


def _log(shares_: Tensor) -> Tensor:
    """Return logarithms that are finite, as are their gradients: shares may be exactly 0."""
    return shares_.clamp(min=torch.finfo(shares_.dtype).tiny).log()


def collaboration(
    routed: Routed, rule: Int64[Tensor, "seeds n *positions"], rules: int
) -> Float[Tensor, " seeds"]:
    """Return minus the mean share of a rule's samples that went where a sample went.

    The intrinsic reward of routing networks: a choice is worth more the more samples of the same
    rule chose the same. -1 where each rule has one module.
    Source: Rosenbaum et al. 2018 (arXiv 1711.01239), section 4.3.
    """
    weight = shares(routed.weight.flatten(1, -2))
    one_hot = F.one_hot(rule.flatten(1), rules).to(weight.dtype)
    counts = one_hot.sum(1).unsqueeze(-1)
    sent = F.one_hot(weight.argmax(-1), weight.shape[-1]).to(weight.dtype)
    rows = one_hot.mT @ weight / counts.clamp(min=1)
    popular = (one_hot.mT @ sent / counts.clamp(min=1)).detach()
    return -((rows * popular).sum(-1) * counts.squeeze(-1)).sum(-1) / counts.sum((1, 2))


def orthogonality(network: Network) -> Float[Tensor, " seeds"]:
    """Return the mean squared cosine between what modules have for themselves: 0 where orthogonal.

    Over pairs of modules and over the matrices of all banks; 1 where modules are the same.
    Source: Liu et al. 2023 (arXiv 2310.09762), on parameters instead of outputs.
    """
    own = own_names(network)
    terms = []
    for name, parameter in network.named_parameters():
        if name in own and name.rpartition(".")[2].removeprefix("own_") != "bias":
            unit = F.normalize(parameter.flatten(2), dim=-1, eps=1e-8)
            cosines = (unit @ unit.mT).square()
            modules = cosines.shape[-1]
            off = cosines.sum((1, 2)) - cosines.diagonal(dim1=1, dim2=2).sum(-1)
            terms.append(off / max(modules * (modules - 1), 1))
    return torch.stack(terms).mean(0)


REMEDIES: dict[RemedyName, Remedy] = {
    "balance": balance,
    "importance": importance,
    "load": load,
    "logits": logits,
    "information": information,
    "diversity": diversity,
    "collaboration": collaboration,
    "reuse": reuse,
}
"""The choices of the axis that look at routing: every modular layer adds its own term."""

OF_PARAMETERS: dict[RemedyName, Callable[[Network], Tensor]] = {"orthogonality": orthogonality}
"""Those that look at parameters."""


def terms(
    network: Network, routed: Sequence[Routed], rule: Tensor, remedies: Sequence[Asked]
) -> Iterator[Tensor]:
    """Yield what remedies add to the loss, summed over seeds, each times its coefficient."""
    for remedy in remedies:
        if remedy.kind in OF_PARAMETERS:
            yield remedy.coefficient * OF_PARAMETERS[remedy.kind](network).sum()
            continue
        for layer in routed:
            yield remedy.coefficient * REMEDIES[remedy.kind](layer, rule, network.rules).sum()
