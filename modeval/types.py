"""Core types, and the letters of their axes.

    S  seeds of a cohort         N  samples
    L  routed layers             T  positions of a sequence
    B  replicate blocks          R  ground-truth rules
    K  chosen modules            M  modules

Leading axes ``...`` are batch axes: every metric maps over them.
"""

import math
from dataclasses import dataclass, fields
from typing import Literal

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from modeval.errors import TraceError

Prior = Literal["uniform", "empirical"]
"""How rules are weighted: each the same, or each by its share of the samples."""

View = Literal["weight", "assignment"]
"""What is counted: the routing weights, or each chosen module as 1/K (the largest when dense)."""

MASS_TOLERANCE = 1e-2  # weights of a sample may sum to 1 up to the rounding of 16-bit floats


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples of a rule task for a cohort, the same number for each seed.

    Attributes:
        inputs: ``(S, N, F)``, or ``(S, N, T, F)`` for sequences: what a model sees beside the rule.
        rule: ``(S, N)``, or ``(S, N, T)``: the ground-truth rule of each sample or position.
        target: ``(S, N, D)``, or ``(S, N, T, D)``: real values, or 0 and 1 for classification.
        shown: the rule that a model is told, where that is not always the true one.
    """

    inputs: Float[Tensor, "seeds samples *positions features"]
    rule: Int64[Tensor, "seeds samples *positions"]
    target: Float[Tensor, "seeds samples *positions outputs"]
    shown: Int64[Tensor, "seeds samples *positions"] | None = None

    @property
    def told(self) -> Int64[Tensor, "seeds samples *positions"]:
        """The rule that a model is told."""
        return self.rule if self.shown is None else self.shown

    def as_told(self) -> "Batch":
        """Return the samples as a model sees them: nothing tells it which rules are true."""
        return Batch(self.inputs, self.told, self.target)

    def seed(self, index: int) -> "Batch":
        """Return the part of one seed as a cohort of one."""
        part = slice(index, index + 1)
        shown = None if self.shown is None else self.shown[part]
        return Batch(self.inputs[part], self.rule[part], self.target[part], shown)

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch on ``device``."""
        shown = None if self.shown is None else self.shown.to(device)
        return Batch(self.inputs.to(device), self.rule.to(device), self.target.to(device), shown)


@dataclass(frozen=True, slots=True)
class Noise:
    """Chance in training; at evaluation there is none.

    Attributes:
        uniform: ``(S, N, C)``, or ``(S, N, T, C)`` for sequences: numbers from 0 to 1, C for each
            sample or position, drawn from the generator of each seed.
        progress: ``()`` the share of training that is done, from 0 to 1, for what is annealed.
    """

    uniform: Float[Tensor, "seeds samples *positions columns"]
    progress: Float[Tensor, ""]

    def flat(self) -> "Noise":
        """Return the noise with positions as samples."""
        return Noise(self.uniform.flatten(1, -2), self.progress)

    def at(self, step: int) -> "Noise":
        """Return the noise of one position of a sequence."""
        return Noise(self.uniform[:, :, step], self.progress)

    def of(self, layer: int, layers: int) -> "Noise":
        """Return the part of one layer."""
        if self.uniform.shape[-1] == 0:
            return self
        return Noise(self.uniform.chunk(layers, -1)[layer], self.progress)

    def more(self, *shape: int, salt: int = 0) -> Float[Tensor, "..."]:
        """Return further uniform numbers ``(S, *shape)``, above 0 and below 1, made from these.

        The first two of each seed are the key of a generator that counts: number i is a hash of
        key, salt and i (SplitMix64), on every device the same.
        """
        first = self.uniform.flatten(1)[:, :2].double().mul(2**24).long()
        key = (first[:, :1] << 24) + first[:, -1:]
        number = torch.arange(math.prod(shape), device=key.device)
        mixed = _hashed(_hashed(key + (salt << 50)) + number * _GOLDEN)
        kept = (mixed >> 40) & 0xFFFFFF
        return ((kept.float() + 0.5) / 2**24).view(-1, *shape)


_GOLDEN = -7046029254386353131
"""The odd number nearest to 2**64 divided by the golden ratio, as a signed one."""


def _hashed(number: Tensor) -> Tensor:
    """Mix the bits of 64-bit integers; products wrap around."""
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        number = (number ^ ((number >> shift) & (1 << (64 - shift)) - 1)) * factor
    return number ^ ((number >> 31) & (1 << 33) - 1)


@dataclass(frozen=True, slots=True)
class RoutingCounts:
    """What was routed where: the sufficient statistic of every static metric.

    A commutative monoid: :meth:`zeros` is neutral and ``+`` pools two streams, so batches, shards
    and processes may be added in any order. Its size does not depend on the number of samples.
    Samples whose rule is -1 are padding and count nowhere.

    Attributes:
        mass: ``(..., B, R, M)`` summed routing weight.
        selections: ``(..., B, R, M)`` how often a module was chosen (was the largest, when the
            routing is dense and no choices are given).
        samples: ``(..., B, R)`` samples seen of each rule.
        entropy: ``(..., B, R)`` summed entropy of the routing weights, in nats.
        selection_entropy: ``(..., B, R)`` summed log of the number of modules a sample chose: the
            entropy, in nats, when each chosen module counts the same.
        coactivation: ``(..., M, M)`` how often two modules were chosen for one sample; the diagonal
            counts each module's own choices.

    >>> rule = torch.tensor([0, 0, 1])
    >>> weight = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    >>> from modeval.counting.count import count
    >>> counts = count(rule, weight, rules=2)
    >>> counts.conditional().tolist()
    [[0.75, 0.25], [0.0, 1.0]]
    >>> (counts + counts).joint().tolist()
    [[0.375, 0.125], [0.0, 0.5]]
    """

    mass: Float64[Tensor, "*batch blocks rules modules"]
    selections: Float64[Tensor, "*batch blocks rules modules"]
    samples: Float64[Tensor, "*batch blocks rules"]
    entropy: Float64[Tensor, "*batch blocks rules"]
    selection_entropy: Float64[Tensor, "*batch blocks rules"]
    coactivation: Float64[Tensor, "*batch modules modules"]

    @classmethod
    def zeros(
        cls,
        *batch: int,
        rules: int,
        modules: int,
        blocks: int = 1,
        device: torch.device | str | None = None,
    ) -> "RoutingCounts":
        """Return the counts of no samples: the neutral element of ``+``."""

        def empty(*shape: int) -> Tensor:
            return torch.zeros(*batch, *shape, dtype=torch.float64, device=device)

        return cls(
            mass=empty(blocks, rules, modules),
            selections=empty(blocks, rules, modules),
            samples=empty(blocks, rules),
            entropy=empty(blocks, rules),
            selection_entropy=empty(blocks, rules),
            coactivation=empty(modules, modules),
        )

    def __add__(self, other: "RoutingCounts") -> "RoutingCounts":
        if self.mass.shape != other.mass.shape:
            raise TraceError(
                f"Counts of shape {tuple(self.mass.shape)} and {tuple(other.mass.shape)} do not "
                "add: (..., blocks, rules, modules) must be the same. Fold both traces with the "
                "same rules, modules and blocks."
            )
        return RoutingCounts(
            **{name: mine + getattr(other, name) for name, mine in self.tensors().items()}
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def to(self, device: torch.device | str) -> "RoutingCounts":
        """Return the counts on ``device``."""
        return RoutingCounts(**{name: part.to(device) for name, part in self.tensors().items()})

    def pooled(self) -> "RoutingCounts":
        """Return the counts with their blocks summed into one: ``B`` is 1 then."""
        return RoutingCounts(
            mass=self.mass.sum(-3, keepdim=True),
            selections=self.selections.sum(-3, keepdim=True),
            samples=self.samples.sum(-2, keepdim=True),
            entropy=self.entropy.sum(-2, keepdim=True),
            selection_entropy=self.selection_entropy.sum(-2, keepdim=True),
            coactivation=self.coactivation,
        )

    def conditional(self, *, view: View = "weight") -> Float64[Tensor, "*batch rules modules"]:
        """Return A: how each rule shares itself out over the modules. Each row sums to 1.

        ``A[r, m]`` is the mean weight (view ``weight``) or the mean of 1/K over the choices (view
        ``assignment``) of module m over the samples of rule r, blocks pooled.

        Raises:
            TraceError: a rule has no samples, or what was routed is no distribution.
        """
        table, total = self._routed(view)
        return table / total.unsqueeze(-1)

    def prior(self, prior: Prior = "uniform") -> Float64[Tensor, "*batch rules"]:
        """Return the weight of each rule: 1/R, or its share of the samples."""
        samples = self.samples.sum(-2)
        if prior == "uniform":
            return torch.full_like(samples, 1 / samples.shape[-1])
        return samples / samples.sum(-1, keepdim=True)

    def joint(
        self, prior: Prior = "uniform", *, view: View = "weight"
    ) -> Float64[Tensor, "*batch rules modules"]:
        """Return J, the joint distribution of rule and module: ``prior(r) A[r, m]``.

        Raises:
            TraceError: a rule has no samples, or what was routed is no distribution.
        """
        table, total = self._routed(view)
        return table / (total / self.prior(prior)).unsqueeze(-1)

    def _routed(self, view: View) -> tuple[Tensor, Tensor]:
        """Return what was routed, ``(..., R, M)``, and its sum for each rule, when it is sound."""
        part = self.mass if view == "weight" else self.selections
        table = part[..., 0, :, :] if part.shape[-3] == 1 else part.sum(-3)
        samples = self.samples.sum(-2)
        _check_rules(samples)
        total = table.sum(-1)
        if view == "weight":
            _check_mass(table.amin(-1), total, samples)
        _check_routed(total)
        return table, total

    def softness(
        self, prior: Prior = "uniform", *, view: View = "weight"
    ) -> Float64[Tensor, "*batch"]:
        """Return the mean entropy of a sample's routing in nats, rules weighted by the prior.

        Raises:
            TraceError: a rule has no samples, or the entropy of single samples was not recorded.
        """
        entropy = self.entropy if view == "weight" else self.selection_entropy
        samples = self.samples.sum(-2)
        _check_rules(samples)
        mean = (self.prior(prior) * entropy.sum(-2) / samples).sum(-1)
        if bool(mean.isnan().any()):
            raise TraceError(
                "How decided single samples were routed is unknown: only sums were recorded. Leave "
                "out softness and input_distraction, or record the choices of single samples."
            )
        return mean


def shares(weight: Float[Tensor, "*n modules"]) -> Float[Tensor, "*n modules"]:
    """Return routing weights as shares of a sample: ``|w| / sum |w|``, rows of nothing staying so.

    Gatings that scale (Switch), drop (capacity) or do not normalise (hypernetworks) give other rows
    than shares; rows that sum to 1 are left as they are, to the bit.

    >>> shares(torch.tensor([[0.25, 0.75], [0.4, 0.0], [0.0, 0.0], [1.0, -3.0]])).tolist()
    [[0.25, 0.75], [1.0, 0.0], [0.0, 0.0], [0.25, 0.75]]
    """
    size = weight.abs()
    total = size.sum(-1, keepdim=True)
    whole = (total - 1).abs() < 1e-5  # noqa: PLR2004 - rounding of a softmax
    return torch.where(whole | (total == 0), size, size / total.clamp(min=1e-30))


# --- refusals ------------------------------------------------------------------------------------


def _first(wrong: Tensor) -> tuple[int, ...]:
    return tuple(int(number) for number in wrong.nonzero()[0])


def _check_rules(samples: Tensor) -> None:
    empty = ~(samples > 0)  # not a number: never seen by a recording that kept sums only
    if bool(empty.any()):
        rule = _first(empty)[-1]
        raise TraceError(
            f"Rule {rule} has no samples, so nothing can be said of it. Score more samples, or "
            f"leave rule {rule} out (there are {samples.shape[-1]} rules, 0 to "
            f"{samples.shape[-1] - 1})."
        )


def _check_mass(least: Tensor, total: Tensor, samples: Tensor) -> None:
    allowed = samples * (1 + MASS_TOLERANCE)
    wrong = ~((least >= 0) & (total <= allowed))
    if bool(wrong.any()):
        place = _first(wrong)
        raise TraceError(
            f"The routing weights of rule {place[-1]} sum to "
            f"{float(total[place] / samples[place]):.4g} a sample, or some are negative or not a "
            "number: expected weights from 0 to 1 that sum to 1. Record the weights after gating "
            "and divide each sample's by their sum."
        )


def _check_routed(total: Tensor) -> None:
    wrong = ~(total > 0)
    if bool(wrong.any()):
        raise TraceError(
            f"No sample of rule {_first(wrong)[-1]} was routed to any module: all its choices are "
            "-1. Record the choices before modules drop samples for want of capacity."
        )
