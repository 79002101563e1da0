"""Scorers: what routing looks at, and how that becomes logits.

    scorer(seen) -> logits

A scorer is an ``nn.Module`` with one signature and a fact: what it ``looks_at``. Those that look at
the rule at most give a row for each rule, ``(S, R, M)``; the others a row for each sample,
``(S, N, M)``. :func:`weigh` turns either into routing weights.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NoReturn, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from modeval.nn.aggregation import Readout
from modeval.nn.linear import StackedLinear, StackedMLP, per_rule, rule_mlp
from modeval.nn.network import LooksAt, Route
from modeval.spec.gatings import Gate, Loads
from modeval.types import Noise

BY_RULE: tuple[LooksAt, ...] = ("nothing", "rule")
"""Those for which a table of R rows says everything."""


@runtime_checkable
class Outputs(Protocol):
    """The outputs of all modules; products with a matrix may be formed before they exist."""

    def times(self, weight: Float[Tensor, "seeds out wide"]) -> Tensor:
        """Return the outputs times a matrix, ``(S, N, M, wide)``."""


@dataclass(frozen=True, slots=True)
class Read:
    """Outputs that a readout would give: the product is formed on weights, not on samples."""

    readout: Readout
    hidden: Float[Tensor, "seeds n #modules hidden"]

    def times(self, weight: Tensor) -> Tensor:
        """Return the outputs times a matrix."""
        merged = Readout(self.readout.weight @ weight.unsqueeze(1), self.readout.bias @ weight)
        return merged.each(self.hidden)


@dataclass(frozen=True, slots=True)
class Made:
    """Outputs that exist already."""

    outputs: Float[Tensor, "seeds n modules out"]

    def times(self, weight: Tensor) -> Tensor:
        """Return the outputs times a matrix."""
        made = self.outputs.flatten(1, 2) @ weight
        return made.view(*self.outputs.shape[:-1], -1)


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything that a scorer may look at; what is dear is computed only when it is asked for.

    Attributes:
        inputs: ``(S, N, F)`` the raw inputs.
        rule: ``(S, N)`` the rule of each sample.
        encoding: gives ``(S, R, E)``, the encoding of each rule, where the network has one.
        state: gives ``(S, N, D)``, what came into the layer.
        hidden: gives ``(S, N, M, H)``, the hidden units of each module.
        outputs: gives the outputs of each module.
        positions: how many of the N are of one sequence, side by side.
    """

    inputs: Float[Tensor, "seeds n features"]
    rule: Int64[Tensor, "seeds n"]
    encoding: Callable[[], Tensor]
    state: Callable[[], Tensor]
    hidden: Callable[[], Tensor]
    outputs: Callable[[], Outputs]
    positions: int = 1


def not_seen() -> NoReturn:
    """Stand for what a place does not have; specifications that need it are refused earlier."""
    raise LookupError("a scorer looked at something that its layer does not have")


class TableScorer(nn.Module):
    """Logits that depend on the rule alone: its encoding is projected."""

    looks_at: ClassVar[LooksAt] = "rule"

    def __init__(self, seeds: int, encoder: int, logits: int) -> None:
        super().__init__()
        self.projection = StackedLinear((seeds,), encoder, logits)

    def forward(self, seen: Seen) -> Float[Tensor, "seeds rules logits"]:
        """Return the logits of each rule."""
        return self.projection(seen.encoding())  # type: ignore[no-any-return]


class RuleScorer(nn.Module):
    """Logits that depend on the rule alone: the one-hot rule goes through an MLP."""

    looks_at: ClassVar[LooksAt] = "rule"

    def __init__(
        self,
        seeds: int,
        rules: int,
        width: int,
        logits: int,
        *,
        bias: bool = True,
        told: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.mlp = rule_mlp((seeds,), rules, (width, logits), told, bias=bias)

    def forward(self, seen: Seen) -> Float[Tensor, "seeds rules logits"]:
        """Return the logits of each rule."""
        del seen  # the rules are all there are
        return self.mlp.table()


class FreeScorer(nn.Module):
    """Logits that are parameters: a row for each rule, or one row for all of them.

    The skill matrix of Polytropon, or the global weights of a layer; all start near 0, a little
    apart: modules that start equal would otherwise stay so.
    """

    def __init__(self, seeds: int, rules: int, logits: int, *, shared: bool) -> None:
        super().__init__()
        self.looks_at: LooksAt = "nothing" if shared else "rule"
        self.rules = rules
        self.logit = nn.Parameter(torch.zeros(seeds, 1 if shared else rules, logits))

    def draw(self, generators: Sequence[torch.Generator]) -> None:
        """Start within a thousandth of 0."""
        for member, generator in zip(self.logit, generators, strict=True):
            member.uniform_(-1e-3, 1e-3, generator=generator)

    def forward(self, seen: Seen) -> Float[Tensor, "seeds rules logits"]:
        """Return the logits of each rule."""
        del seen
        return self.logit.expand(-1, self.rules, -1)


class EmbeddingScorer(nn.Module):
    """Logits from an embedding of the rule and one of the layer, by one MLP for all layers.

    Source: Mahabadi et al. 2021 (Hyperformer, arXiv 2106.04489), section 2.
    """

    looks_at: ClassVar[LooksAt] = "rule"

    def __init__(self, seeds: int, rules: int, layers: int, width: int, logits: int) -> None:
        super().__init__()
        self.rules, self.width = rules, width
        self.task = nn.Parameter(torch.zeros(seeds, rules, width))
        self.layer = nn.Parameter(torch.zeros(seeds, layers, width))
        self.mlp = StackedMLP((seeds,), (2 * width, width, logits))

    def draw(self, generators: Sequence[torch.Generator]) -> None:
        """Start both embeddings within ±1."""
        for parameter in (self.task, self.layer):
            for member, generator in zip(parameter, generators, strict=True):
                member.uniform_(-1, 1, generator=generator)

    def at(self, layer: int) -> "EmbeddingAt":
        """Return what stands in another layer."""
        return EmbeddingAt(self, layer)

    def of(self, layer: int) -> Float[Tensor, "seeds rules logits"]:
        """Return the logits of each rule in a layer."""
        of_layer = self.layer[:, layer].unsqueeze(1).expand(-1, self.rules, -1)
        return self.mlp(torch.cat((self.task, of_layer), -1))  # type: ignore[no-any-return]

    def forward(self, seen: Seen) -> Float[Tensor, "seeds rules logits"]:
        """Return the logits of each rule in the first layer."""
        del seen
        return self.of(0)


class EmbeddingAt(nn.Module):
    """The same scorer in another layer; what it learns is kept in the first."""

    looks_at: ClassVar[LooksAt] = "rule"

    def __init__(self, first: EmbeddingScorer, layer: int) -> None:
        super().__init__()
        self.first, self.layer = (first,), layer  # in a tuple, so that it is no part of this one

    def forward(self, seen: Seen) -> Float[Tensor, "seeds rules logits"]:
        """Return the logits of each rule in this layer."""
        del seen
        return self.first[0].of(self.layer)


class FixedScorer(nn.Module):
    """A table of weights that is given, not learned."""

    looks_at: ClassVar[LooksAt] = "rule"
    table: Tensor

    def __init__(self, table: Float[Tensor, "rules modules"], seeds: int) -> None:
        super().__init__()
        self.seeds = seeds
        self.register_buffer("table", table, persistent=False)

    @property
    def chosen(self) -> tuple[int, ...]:
        """Return the module of each rule, where the table names one for each; else nothing."""
        best = self.table.argmax(-1)
        if not torch.equal(self.table, F.one_hot(best, self.table.shape[-1]).to(self.table)):
            return ()
        return tuple(best.tolist())

    def forward(self, seen: Seen | None = None) -> Float[Tensor, "seeds rules modules"]:
        """Return the given rows."""
        del seen
        return self.table.expand(self.seeds, -1, -1)


class ModuleScorer(nn.Module):
    """Each module gives its own logit, linear in its hidden units."""

    looks_at: ClassVar[LooksAt] = "module"

    def __init__(
        self, seeds: int, modules: int, hidden: int, *, logits: int = 1, bias: bool = True
    ) -> None:
        super().__init__()
        self.logit = StackedLinear((seeds, modules), hidden, logits, bias=bias)

    def forward(self, seen: Seen) -> Float[Tensor, "seeds n logits"]:
        """Return each module's logit."""
        hidden, weight = seen.hidden(), self.logit.weight
        if weight.shape[-1] > 1:
            each = self.logit(hidden.transpose(1, 2))  # (S, M, N, logits)
            return each.permute(0, 2, 3, 1).flatten(2)  # type: ignore[no-any-return]
        logits: Tensor = (hidden * weight.squeeze(-1).unsqueeze(1)).sum(-1)
        return logits if self.logit.bias is None else logits + self.logit.bias.mT


class SharedScorer(nn.Module):
    """One scorer for all modules, on a module's output beside the input and the rule."""

    looks_at: ClassVar[LooksAt] = "module"
    told: Tensor | None

    def __init__(  # noqa: PLR0917 - sizes
        self,
        seeds: int,
        output: int,
        inputs: int,
        width: int,
        logits: int = 1,
        told: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.output = output
        self.register_buffer("told", told, persistent=False)
        self.mlp = StackedMLP((seeds,), (output + inputs, width, logits))

    def forward(self, seen: Seen) -> Float[Tensor, "seeds n logits"]:
        """Return each module's logit; the products of adjacent layers are formed first."""
        first, start = self.mlp.hidden, self.output + seen.inputs.shape[-1]
        from_outputs = seen.outputs().times(first.weight[:, : self.output])
        assert first.bias is not None  # noqa: S101 - built with a bias above
        from_inputs = seen.inputs @ first.weight[:, self.output : start]
        from_inputs = from_inputs + per_rule(_rows(first.weight[:, start:], self.told), seen.rule)
        from_inputs = from_inputs + first.bias.unsqueeze(1)
        units = F.relu(from_outputs + from_inputs.unsqueeze(2))
        logits: Tensor = self.mlp.readout(units.flatten(1, 2))
        return logits.view(*units.shape[:-1], -1).transpose(2, 3).flatten(2)


class InputScorer(nn.Module):
    """A router beside the modules: an MLP on the raw inputs, with or without the rule."""

    looks_at: ClassVar[LooksAt] = "input"
    told: Tensor | None

    def __init__(  # noqa: PLR0917 - sizes
        self,
        seeds: int,
        features: int,
        rules: int,
        width: int,
        logits: int,
        told: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.features = features
        self.register_buffer("told", told, persistent=False)
        self.mlp = StackedMLP((seeds,), (features + rules, width, logits))

    def forward(self, seen: Seen) -> Float[Tensor, "seeds n logits"]:
        """Return the logits of each sample."""
        first = self.mlp.hidden
        units = seen.inputs @ first.weight[:, : self.features]
        if first.weight.shape[1] > self.features:
            rows = _rows(first.weight[:, self.features :], self.told)
            units = units + per_rule(rows, seen.rule)
        assert first.bias is not None  # noqa: S101 - built with a bias above
        return self.mlp.readout(F.relu(units + first.bias.unsqueeze(1)))  # type: ignore[no-any-return]


def _rows(weight: Tensor, told: Tensor | None) -> Float[Tensor, "seeds rules width"]:
    """Return a row for each rule: its own, or the sum of those of what is told of it."""
    return weight if told is None else told @ weight


class AttentionScorer(nn.Module):
    """Attention over module outputs: ``l_m = (Q h) . (K f_m(h))``, h being what came in.

    Source: Pfeiffer et al. 2021 (AdapterFusion, arXiv 2005.00247), section 3.2.
    """

    looks_at: ClassVar[LooksAt] = "module"

    def __init__(self, seeds: int, state: int, output: int, width: int) -> None:
        super().__init__()
        self.query = StackedLinear((seeds,), state, width, bias=False)
        self.key = StackedLinear((seeds,), output, width, bias=False)

    def forward(self, seen: Seen) -> Float[Tensor, "seeds n modules"]:
        """Return each module's logit."""
        query = self.query(seen.state()).unsqueeze(2)
        return (query * seen.outputs().times(self.key.weight)).sum(-1)  # type: ignore[no-any-return]


class HierarchicalScorer(nn.Module):
    """A router of routers: ``l_m = log p(group of m) + log p(m | its group)``, both by softmax.

    A softmax of these logits is the product of both shares, and a draw by them is a draw of a
    group, then of a module in it.

    Args:
        inner: gives a number for each group, then one for each module.
        groups: of equal size; those of a group stand side by side.
    """

    def __init__(self, inner: "Scorer", groups: int) -> None:
        super().__init__()
        self.inner, self.groups = inner, groups
        self.looks_at: LooksAt = inner.looks_at

    def forward(self, seen: Seen) -> Float[Tensor, "seeds n modules"]:
        """Return the logit of each module."""
        numbers = self.inner(seen)
        group, module = numbers.tensor_split([self.groups], -1)
        within = module.unflatten(-1, (self.groups, -1)).log_softmax(-1)
        logits: Tensor = (group.log_softmax(-1).unsqueeze(-1) + within).flatten(-2)
        return logits


class BiasedScorer(nn.Module):
    """Logits, and beside them a bias for each module, which choosing reads and no gradient moves.

    Args:
        inner: gives the logits.
    """

    bias: Tensor

    def __init__(self, inner: "Scorer", seeds: int, modules: int) -> None:
        super().__init__()
        self.inner = inner
        self.looks_at: LooksAt = inner.looks_at
        self.register_buffer("bias", torch.zeros(seeds, modules))

    def forward(self, seen: Seen) -> Float[Tensor, "seeds n both"]:
        """Return the logit of each module, then the bias of each."""
        logits = self.inner(seen)
        return torch.cat((logits, self.bias.unsqueeze(1).expand_as(logits)), -1)


class SequenceScorer(nn.Module):
    """Logits of a whole sequence, the mean of those of its positions: all of them are routed alike.

    Args:
        inner: gives the logits of each position.

    Source: Kudugunta et al. 2021 (arXiv 2110.03742), section 3.1, whose sentences are represented
    by the mean of their tokens.
    """

    def __init__(self, inner: "Scorer") -> None:
        super().__init__()
        self.inner = inner
        # a position's routing depends on the others: on more than its own rule
        self.looks_at: LooksAt = "input" if inner.looks_at in BY_RULE else inner.looks_at

    def forward(self, seen: Seen) -> Float[Tensor, "seeds n modules"]:
        """Return the mean logits of the sequence of each position."""
        logits = self.inner(seen)
        if self.inner.looks_at in BY_RULE:
            logits = per_rule(logits, seen.rule)
        whole = logits.unflatten(1, (-1, seen.positions))
        mean: Tensor = whole.mean(2, keepdim=True).expand_as(whole).flatten(1, 2)
        return mean

    @staticmethod
    def drawn_once(noise: Noise, positions: int) -> Noise:
        """Return the chance of the first position for all positions of its sequence."""
        whole = noise.uniform.unflatten(1, (-1, positions))
        return Noise(whole[:, :, :1].expand_as(whole).flatten(1, 2), noise.progress)


class SameScorer(nn.Module):
    """Stands in a layer that routes as the first one does; never asked."""

    looks_at: ClassVar[LooksAt] = "nothing"

    def forward(self, seen: Seen) -> Tensor:
        """Refuse: the layer is given its weights."""
        del seen
        not_seen()


@runtime_checkable
class Scorer(Protocol):
    """What gives routing logits: an ``nn.Module`` that says what it looks at."""

    @property
    def looks_at(self) -> LooksAt:
        """What the logits depend on."""

    def __call__(self, seen: Seen, /) -> Tensor:
        """Return the logits."""


# --- from logits to weights ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Weighed:
    """Routing of one layer: ``(S, N, M)`` weights, and the way to the logits behind them.

    Attributes:
        weight: after gating and route.
        score: gives the logits.
        load: gives how likely each module was to be chosen, where the gating can say.
        gated: weights before the route, where there was one.
    """

    weight: Float[Tensor, "seeds n modules"]
    score: Callable[[], Tensor]
    load: Callable[[], Tensor] | None = None
    gated: Float[Tensor, "seeds n modules"] | None = None


@dataclass(frozen=True, slots=True)
class Chance:
    """What comes into one layer from outside.

    Attributes:
        noise: of this layer, in training.
        route: what is done to its weights.
        layer: its number.
        given: routing of an earlier layer that this one takes over.
    """

    noise: Noise | None = None
    route: Route | None = None
    layer: int = 0
    given: Weighed | None = None

    def at(self, step: int) -> "Chance":
        """Return the part of one position of a sequence."""
        noise = None if self.noise is None else self.noise.at(step)
        return Chance(noise, self.route, self.layer)

    def flat(self) -> "Chance":
        """Return the same with positions as samples."""
        noise = None if self.noise is None else self.noise.flat()
        return Chance(noise, self.route, self.layer)


def weigh(scorer: Scorer, gating: Gate, seen: Seen, chance: Chance) -> Weighed:
    """Return the routing weights of a layer.

    Where routing looks at the rule at most, without chance and without the batch, weights are
    computed once for each rule.
    """
    if chance.given is not None:
        given = chance.given
        weight = given.weight if given.gated is None else given.gated
        return _routed(weight, given.score, chance, given.load)
    logits = scorer(seen)
    noise = chance.noise if gating.chance >= 0 else None  # else it is of what modules are made of
    if noise is not None and isinstance(scorer, SequenceScorer):
        noise = scorer.drawn_once(noise, seen.positions)
    if scorer.looks_at in BY_RULE:
        drawn = noise is not None and gating.chance > 0
        if not drawn and not gating.batchwise:
            rows = gating(logits, noise)
            return _routed(
                per_rule(rows, seen.rule), lambda: _first(per_rule(logits, seen.rule), rows), chance
            )
        logits = per_rule(logits, seen.rule)
    weight = gating(logits, noise)
    load = functools.partial(gating.load, logits, noise) if isinstance(gating, Loads) else None
    return _routed(weight, lambda: _first(logits, weight), chance, load)


def _first(logits: Tensor, like: Tensor) -> Tensor:
    """Return the logit of each module, where a scorer gives further numbers after them."""
    return logits[..., : like.shape[-1]]


def _routed(
    weight: Tensor,
    score: Callable[[], Tensor],
    chance: Chance,
    load: Callable[[], Tensor] | None = None,
) -> Weighed:
    if chance.route is None:
        return Weighed(weight, score, load)
    return Weighed(chance.route(weight, chance.layer), score, load, weight)


# --- tables that are given -----------------------------------------------------------------------


def oracle_table(rules: int, modules: int) -> Float[Tensor, "rules modules"]:
    """Return the table that sends rule r to module r."""
    return torch.eye(rules, modules)


def single_table(rules: int) -> Float[Tensor, "rules one"]:
    """Return the table that sends everything to the only module."""
    return torch.ones(rules, 1)


def hash_table(rules: int, modules: int) -> Float[Tensor, "rules modules"]:
    """Return a table that sends each rule to a module by a hash of its number.

    Rules meet in one module by chance and the table never changes: the null that routing has to
    beat. Source: Roller et al. 2021 (arXiv 2106.04426).

    >>> hash_table(4, 2).argmax(-1).tolist()
    [1, 1, 0, 1]
    """
    mixed = (torch.arange(rules) + 1) * 2_654_435_761 % 2**32
    mixed = (mixed ^ (mixed >> 15)) * 2_246_822_519 % 2**32
    return F.one_hot((mixed >> 13) % modules, modules).float()


def map_table(rows: tuple[tuple[int, ...], ...], modules: int) -> Float[Tensor, "rules modules"]:
    """Return the table of a given map: the modules of each rule, each with the same share.

    >>> map_table(((0, 2), (1, 2)), 3).tolist()
    [[0.5, 0.0, 0.5], [0.0, 0.5, 0.5]]
    """
    table = torch.zeros(len(rows), modules)
    for rule, chosen in enumerate(rows):
        table[rule, list(chosen)] = 1 / len(chosen)
    return table
