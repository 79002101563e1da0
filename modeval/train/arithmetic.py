"""How much arithmetic a training step needs, whoever computes it.

The measure of an engine is not another engine but what the machine can do: arithmetic of the step x
steps per second, over the peak of the machine. So the arithmetic is counted from the network alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from modeval.nn import Network
from modeval.nn.attention import AttentionNetwork
from modeval.nn.layer import LayeredNetwork
from modeval.nn.linear import StackedLinear
from modeval.nn.mlp import MLPNetwork
from modeval.nn.recurrent import RecurrentNetwork
from modeval.nn.scorers import FixedScorer, FreeScorer, ModuleScorer, RuleScorer, TableScorer

MULTIPLY_ADD = 2  # operations

_FAMILIES = (MLPNetwork, AttentionNetwork, RecurrentNetwork)
_SCORERS = (FixedScorer, FreeScorer, ModuleScorer, RuleScorer, TableScorer)


@dataclass(frozen=True, slots=True)
class Product:
    """Rows that meet a matrix.

    Attributes:
        name: of what is multiplied.
        rows: that are.
        depth: length of a row.
        columns: of the matrix.
        passes: 3 for forward, the gradient of the rows and that of the matrix; 2 where nobody asks
            for the gradient of the rows, because they are data.
    """

    name: str
    rows: int
    depth: int
    columns: int
    passes: int = 3

    @property
    def operations(self) -> int:
        """Return multiplications and additions."""
        return MULTIPLY_ADD * self.passes * self.rows * self.depth * self.columns


def step_arithmetic(network: Network, samples: int, positions: int = 1) -> int | None:
    r"""Return the multiplications and additions of one training step of one seed.

    Every matrix of parameters meets each row that the equations of the network send through it:
    ``2 · rows · in · out`` forward and twice that backward, once where the rows are data; attention
    adds ``query · key`` and ``share · value``. What need not be computed does not count: a product
    with one-hot rows is a look-up, encodings of rules are made once for each rule, and where one
    module is given for each sample, a sample goes through that one alone. Not counted are biases,
    what is done element by element (rectifiers, gates, softmax, losses) and Adam.

    Engines may need less: products of adjacent matrices can be made before the samples come, and
    the encoding of a single number is piecewise linear. Their share of the peak may exceed 1 then.

    Args:
        network: a cohort; its seeds do not matter.
        samples: of the step, N.
        positions: of a sample, T.

    Returns:
        None where the network is made of anything but plain layers, whose arithmetic is not known.

    >>> from modeval.nn import build
    >>> from modeval.spec import DataSpec, ModelSpec
    >>> network = build(DataSpec(rules=2), ModelSpec(), seeds=1)
    >>> f"{step_arithmetic(network, 256):,}"
    '53,800,960'
    """
    if not _is_plain(network):
        return None
    return sum(product.operations for product in products(network, samples, positions))


def products(network: Network, samples: int, positions: int) -> Iterator[Product]:
    """Yield what a step multiplies, for one seed."""
    rows, rules = samples * positions, network.rules
    for name, layer in network.named_modules():
        if isinstance(layer, StackedLinear) and name not in _LOOKED_UP:
            depth, columns = layer.weight.shape[-2:]
            of_data = name in _OF_DATA
            if name == "encoder.hidden":
                depth -= rules  # features beside the one-hot rule
            yield Product(
                name, _rows(network, name, samples, positions), depth, columns, 3 - of_data
            )
    if isinstance(network, AttentionNetwork):
        heads = rows * network.module_count * network.heads
        yield Product("query · key", heads, network.head, positions)
        yield Product("share · value", heads, positions, network.head)


_LOOKED_UP = ("encoder_rule.hidden", "scorer.mlp.hidden")  # of one-hot rules
_ONCE_FOR_EACH_RULE = ("encoder_rule.readout", "scorer.mlp.readout", "scorer.projection")
_OF_DATA = ("encoder_number.hidden", "encoder.hidden")


def _rows(network: Network, name: str, samples: int, positions: int) -> int:
    """Return how many rows meet the matrix, or the matrices, of a layer."""
    if name in _ONCE_FOR_EACH_RULE:
        return network.rules
    if name.startswith("encoder_number"):
        return 2 * samples
    if name == "state_gates":  # the first state is zero
        positions -= 1
    weight = cast("StackedLinear", network.get_submodule(name)).weight
    return (
        samples * positions * (1 if weight.dim() < _BANK else _computed(network, weight.shape[1]))
    )


_BANK = 4  # axes of the weight of modules: seeds, modules, in, out


def _is_plain(network: Network) -> bool:
    """Tell whether all parameters are matrices that rows meet, as :func:`products` takes them."""
    if not (isinstance(network, LayeredNetwork) and type(network) in _FAMILIES):
        return False
    if network.aggregation != "outputs":
        return False
    for part in network.modules():
        if hasattr(part, "looks_at") and part is not network and type(part) not in _SCORERS:
            return False
        own = list(part.parameters(recurse=False))
        if own and type(part) not in {StackedLinear, FreeScorer}:
            return False
    return True


def _computed(network: Network, modules: int) -> int:
    """Return how many of the modules of a layer a row goes through."""
    scorer = getattr(network, "scorer", None)
    if not isinstance(scorer, FixedScorer):
        return modules
    return min(modules, int((scorer.table != 0).sum(-1).max()))
