"""Routing: what a router looks at (scorers), and how logits become weights (gatings).

A *scorer* gives logits, a *gating* turns them into routing weights. Scorers that look at the rule
alone give one row for each rule (a table); the others give a row for each sample. One dictionary
holds the choices of each axis.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from modeval.nn.linear import StackedLinear, StackedMLP, per_rule

Gating = Callable[[Tensor], Tensor]


def soft(logits: Float[Tensor, "*n modules"]) -> Float[Tensor, "*n modules"]:
    """Share each sample out over all modules by softmax."""
    return logits.softmax(-1)


def fixed(logits: Float[Tensor, "*n modules"]) -> Float[Tensor, "*n modules"]:
    """Take the scorer's rows as the weights: the scorer is the routing itself."""
    return logits


GATINGS: dict[str, Gating] = {"soft": soft, "fixed": fixed}


@dataclass(frozen=True, slots=True)
class Readout:
    """The linear last layer of each module: ``output_m = hidden_m @ weight_m + bias_m``.

    Routing weights multiply hidden units *before* it, and products with what follows are formed
    first; the outputs of single modules never exist.
    """

    weight: Float[Tensor, "seeds modules hidden out"]
    bias: Float[Tensor, "seeds modules out"]

    def then(self, following: StackedLinear) -> "Readout":
        """Return this readout followed by a linear layer, as one readout (its bias left out)."""
        seeds, modules, hidden, _ = self.weight.shape
        weight = self.weight.flatten(1, 2) @ following.weight
        return Readout(weight.view(seeds, modules, hidden, -1), self.bias @ following.weight)

    def mix(
        self,
        hidden: Float[Tensor, "seeds n modules hidden"],
        weight: Float[Tensor, "seeds n modules"],
    ) -> Float[Tensor, "seeds n out"]:
        """Return the weighted sum of module outputs as one dense product.

        ``sum_m p_m (h_m W_m + b_m) = [p_1 h_1 ... p_M h_M] W + p b``.
        """
        mixed = (hidden * weight.unsqueeze(-1)).flatten(2) @ self.weight.flatten(1, 2)
        return mixed + weight @ self.bias

    def each(
        self, hidden: Float[Tensor, "seeds n modules hidden"]
    ) -> Float[Tensor, "seeds n modules out"]:
        """Return the output of each module on its own."""
        outputs = hidden.transpose(1, 2) @ self.weight + self.bias.unsqueeze(2)
        return outputs.transpose(1, 2)


class TableScorer(nn.Module):
    """Logits that depend on the rule alone: one row for each rule.

    Either an encoding of the rule is projected (``projection``), or the one-hot rule goes through
    an MLP (``mlp``).
    """

    def __init__(
        self, *, projection: StackedLinear | None = None, mlp: StackedMLP | None = None
    ) -> None:
        super().__init__()
        self.projection = projection
        self.mlp = mlp

    def forward(
        self, encoding: Float[Tensor, "seeds rules width"] | None
    ) -> Float[Tensor, "seeds rules modules"]:
        """Return the logits of each rule."""
        if self.mlp is not None:
            return self.mlp.table()
        assert self.projection is not None  # noqa: S101 - one of the two is always given
        return self.projection(encoding)  # type: ignore[no-any-return]


class FixedScorer(nn.Module):
    """A table that is given, not learned: rule r goes to module r, or all to the only module."""

    table: Tensor

    def __init__(self, table: Float[Tensor, "rules modules"], seeds: int) -> None:
        super().__init__()
        self.seeds = seeds
        self.register_buffer("table", table, persistent=False)

    def forward(
        self, encoding: Float[Tensor, "seeds rules width"] | None
    ) -> Float[Tensor, "seeds rules modules"]:
        """Return the given rows."""
        del encoding  # what the rule looks like plays no part
        return self.table.expand(self.seeds, -1, -1)


class ModuleScorer(nn.Module):
    """Each module gives its own logit, linear in its hidden units."""

    def __init__(self, seeds: int, modules: int, hidden: int, *, bias: bool = True) -> None:
        super().__init__()
        self.logit = StackedLinear((seeds, modules), hidden, 1, bias=bias)

    def forward(
        self, hidden: Float[Tensor, "seeds n modules hidden"]
    ) -> Float[Tensor, "seeds n modules"]:
        """Return each module's logit."""
        logits = (hidden * self.logit.weight.squeeze(-1).unsqueeze(1)).sum(-1)
        return logits if self.logit.bias is None else logits + self.logit.bias.mT


class SharedScorer(nn.Module):
    """One scorer for all modules, on a module's output beside the input and the rule."""

    def __init__(self, seeds: int, output: int, inputs: int, width: int) -> None:
        super().__init__()
        self.output = output
        self.mlp = StackedMLP((seeds,), (output + inputs, width, 1))

    def forward(
        self,
        hidden: Float[Tensor, "seeds n modules hidden"],
        readout: Readout,
        inputs: Float[Tensor, "seeds n features"],
        rule: Int64[Tensor, "seeds n"],
    ) -> Float[Tensor, "seeds n modules"]:
        """Return each module's logit; the products of adjacent layers are formed first."""
        weight = self.mlp.hidden.weight[:, : self.output]
        merged = Readout(readout.weight @ weight.unsqueeze(1), readout.bias @ weight)
        return self._logits(merged.each(hidden), inputs, rule)

    def on_outputs(
        self,
        outputs: Float[Tensor, "seeds n modules out"],
        inputs: Float[Tensor, "seeds n features"],
        rule: Int64[Tensor, "seeds n"],
    ) -> Float[Tensor, "seeds n modules"]:
        """Return each module's logit from module outputs that exist already."""
        weight = self.mlp.hidden.weight[:, : self.output]
        from_outputs = (outputs.flatten(1, 2) @ weight).view(*outputs.shape[:-1], -1)
        return self._logits(from_outputs, inputs, rule)

    def _logits(self, from_outputs: Tensor, inputs: Tensor, rule: Tensor) -> Tensor:
        first, start = self.mlp.hidden, self.output + inputs.shape[-1]
        assert first.bias is not None  # noqa: S101 - built with a bias above
        from_inputs = inputs @ first.weight[:, self.output : start]
        from_inputs = from_inputs + per_rule(first.weight[:, start:], rule)
        from_inputs = from_inputs + first.bias.unsqueeze(1)
        units = F.relu(from_outputs + from_inputs.unsqueeze(2))
        logits: Tensor = self.mlp.readout(units.flatten(1, 2))
        return logits.view(units.shape[:-1])


Scorer = TableScorer | FixedScorer | ModuleScorer | SharedScorer


def oracle_table(rules: int, modules: int) -> Float[Tensor, "rules modules"]:
    """Return the table that sends rule r to module r."""
    return torch.eye(rules, modules)


def single_table(rules: int) -> Float[Tensor, "rules one"]:
    """Return the table that sends everything to the only module."""
    return torch.ones(rules, 1)
