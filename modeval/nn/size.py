"""How large a network is: what all samples use, and what each module adds."""

import re
from dataclasses import dataclass

from torch import Tensor

from modeval.nn.attention import AttentionNetwork
from modeval.nn.layer import LayeredNetwork
from modeval.nn.network import Network, count_parameters

OWNED = re.compile(r"experts\.|input_gates\.|state_gates\.|prefixes\.|scorer\.logit\.")
"""Parts of a layer that hold modules; what a bank calls ``shared`` does not belong to them."""


@dataclass(frozen=True, slots=True)
class Size:
    """Parameters of one member of a cohort.

    Attributes:
        total: all of them.
        modules: of one module, in each modular layer.
        count: number of modules of a layer.
    """

    total: int
    modules: tuple[int, ...]
    count: int

    @property
    def common(self) -> int:
        """What every sample goes through, whatever its modules."""
        return self.total - self.count * sum(self.modules)

    def active(self, chosen: Tensor) -> Tensor:
        """Return the parameters that a sample uses, given how many modules it has in each layer.

        Args:
            chosen: ``(..., L)`` modules of a sample.

        >>> import torch
        >>> Size(total=100, modules=(20,), count=4).active(torch.tensor([2.0])).item()
        60.0
        """
        return self.common + (chosen * chosen.new_tensor(self.modules)).sum(-1)


def size_of(network: Network) -> Size | None:
    """Return the size of a network of this package; nothing for one of the user's own."""
    if not isinstance(network, LayeredNetwork):
        return None
    modules = [0] * network.layer_count
    for name, parameter in network.named_parameters():
        layer, rest = _layer_of(name)
        if OWNED.match(rest) and ".shared." not in rest and _is_stacked(parameter, network):
            modules[layer] += parameter[0, 0].numel()
    if isinstance(network, AttentionNetwork) and network.attending > 1:
        heads = sum(parameter[0].numel() for parameter in network.projections.parameters())
        modules[0] += heads // network.attending
    return Size(count_parameters(network), tuple(modules), network.module_count)


def _layer_of(name: str) -> tuple[int, str]:
    """Return the number of the layer of a parameter, and its name within the layer."""
    found = re.fullmatch(r"layers\.(\d+)\.(.*)", name)
    return (int(found[1]) + 1, found[2]) if found else (0, name)


def _is_stacked(parameter: Tensor, network: Network) -> bool:
    return parameter.dim() > 2 and parameter.shape[1] == network.module_count  # noqa: PLR2004
