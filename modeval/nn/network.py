"""What every network of the package has in common."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Output:
    """What a network says of a batch; routing is returned, never kept on the module.

    Attributes:
        prediction: ``(S, N, D)`` or ``(S, N, T, D)``: values, or logits for classification.
        weight: ``(S, N, M)`` or ``(S, N, T, M)``: routing weights.
    """

    prediction: Float[Tensor, "seeds samples *positions outputs"]
    weight: Float[Tensor, "seeds samples *positions modules"]


class Network(nn.Module):
    """A cohort of networks: every parameter has the seeds as its first axis.

    Attributes:
        seeds: size S of the cohort.
        module_count: number of modules M.
    """

    seeds: int
    module_count: int

    def forward(self, inputs: Tensor, rule: Tensor) -> Output:
        """Predict, and say how each sample was routed."""
        raise NotImplementedError


def count_parameters(network: nn.Module) -> int:
    """Return the parameters of one member of the cohort."""
    return sum(parameter[0].numel() for parameter in network.parameters())
