"""Modules that are made of parameters, and computed by a kernel that knows plain modules alone.

    made = bank(trunk, own)                              PyTorch: low rank, mask, difference
    made_r = sum_m a_rm made_m                           where the rule alone mixes parameters
    loss, gradients, d made = kernel(made)               everything else of the network
    d own, d trunk, d a = d made * (d bank, d mixture)   PyTorch

What makes modules works on weights, of which there are far fewer than there are samples; so nearly
all of a step goes through the kernel. A mixture of parameters whose weights the rule alone says is
a module for each rule, of which a sample goes through one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from torch import Tensor

from modeval.nn.aggregation import of_pairs
from modeval.nn.bank import Bank, BankMLP
from modeval.nn.layer import LayeredNetwork, needs_spare
from modeval.nn.linear import StackedLinear
from modeval.nn.scorers import BY_RULE, FixedScorer, Seen
from modeval.train.fused import Body, KernelError
from modeval.types import Noise

_OUTSIDE = "scorer."


@dataclass(frozen=True, slots=True)
class Maker:
    """Makes the modules of a network for a kernel.

    Attributes:
        network: whose they are.
        mixes: whether parameters are mixed, for each rule.

    Raises:
        KernelError: when they are no plain modules once they are made.
    """

    network: LayeredNetwork
    mixes: bool

    def body(self, rows: Tensor | None, *, routed: bool) -> Body:
        """Return what the kernel is to compute, for its shapes."""
        network = self.network
        named = self.made(None, rows)
        if self.mixes:
            return Body(named, network.rules, tuple(range(network.rules)))
        scorer = network.scorer
        chosen = scorer.chosen if isinstance(scorer, FixedScorer) and not routed else ()
        return Body(named, network.module_count, chosen)

    def made(self, noise: Noise | None, rows: Tensor | None) -> dict[str, Tensor]:
        """Return what the kernel reads, by the names of plain parameters.

        Args:
            noise: of the step, for modules that are drawn.
            rows: ``(S, R, M)`` the weights of each rule, where parameters are mixed.
        """
        layers = _module_layers(self.network)
        once = self.mixes and needs_spare(self.network.choices)
        found: dict[str, Tensor] = {}
        for name, value in self.network.named_parameters():
            if name.startswith(_OUTSIDE):
                continue
            of = next((layer for layer in layers if name.startswith(f"{layer}.")), None)
            if of is None:
                found[name] = value
            elif f"{of}.weight" not in found:
                weight, bias = layers[of].parts(noise)
                trunk = _trunk(layers[of]) if once else None
                found[f"{of}.weight"] = self._of_rules(weight, rows, trunk and trunk[0])
                if bias is not None:
                    found[f"{of}.bias"] = self._of_rules(bias, rows, trunk and trunk[1])
        return found

    def _of_rules(self, each: Tensor, rows: Tensor | None, trunk: Tensor | None) -> Tensor:
        """Return ``(S, R, ...)`` mixtures of ``(S, M, ...)``, in which a trunk counts once."""
        if rows is None:
            return each
        rows = of_pairs(rows, each.shape[1])
        mixed: Tensor = (rows @ each.flatten(2)).unflatten(2, each.shape[2:])
        if trunk is None:
            return mixed
        spare = (1 - rows.sum(-1)).view(*rows.shape[:2], *[1] * (each.dim() - 2))
        return mixed.add(spare * trunk)


def maker_of(network: LayeredNetwork, *, routed: bool) -> Maker:
    """Return what makes the modules of a network.

    Args:
        network: whose they are.
        routed: whether something else than the router decides.

    Raises:
        KernelError: when no kernel could compute them.
    """
    for part in network.modules():
        if isinstance(part, BankMLP) and not part.is_plain:
            raise KernelError(
                f"the fused kernels do not know modules of {type(part.computation).__name__}"
            )
    if network.aggregation == "outputs":
        return Maker(network, mixes=False)
    if network.aggregation != "parameters":
        raise KernelError(f"the fused kernels do not know the aggregation {network.aggregation}")
    gating = network.gating
    by_rule = network.scorer.looks_at in BY_RULE and gating.chance <= 0 and not gating.batchwise
    if routed or not by_rule:
        raise KernelError("the fused kernels mix parameters for each rule, not for each sample")
    return Maker(network, mixes=True)


def rows_of(network: LayeredNetwork, seen: Seen) -> Tensor:
    """Return the routing weights of each rule, ``(S, R, M)``."""
    return network.gating(network.scorer(seen), None)


def _module_layers(network: LayeredNetwork) -> Mapping[str, StackedLinear | Bank]:
    """Return the layers that modules consist of, by name."""
    return {
        name: cast("StackedLinear | Bank", part)
        for name, part in network.named_modules()
        if name in ("experts.hidden", "experts.readout", "input_gates", "state_gates")
    }


def _trunk(layer: StackedLinear | Bank) -> tuple[Tensor, Tensor | None] | None:
    return layer.trunk() if isinstance(layer, Bank) else None
