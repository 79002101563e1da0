"""Redundancy: are modules copies of each other, more than untrained ones are?"""

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from modeval.nn import Network, create
from modeval.nn.linear import with_bias
from modeval.nn.routes import knock_out, only
from modeval.pace import counted
from modeval.spec import DataSpec, ModelSpec
from modeval.types import Batch

UNTRAINED = 39
"""Untrained networks that modules are held against."""
FIRST = 1_000_000
"""Model seed of the first of them: none that anybody trains."""
Pairs = Float64[Tensor, "seeds layers modules modules"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Redundancy:
    """How alike the modules of each seed and layer are, pair by pair.

    Attributes:
        distance: ``(S, L, M, M)`` functional distance: 0 for copies, 1 for outputs that have
            nothing to do with each other, 2 for opposites.
        cka: ``(S, L, M, M)`` linear CKA of outputs, 1 for outputs alike up to a rotation.
        cosine: ``(S, M, M)`` of the weights of the first layer's modules, hidden units matched;
            nothing where modules have no hidden units of their own.
    """

    distance: Pairs
    cka: Pairs
    cosine: Float64[Tensor, "seeds modules modules"] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """One number of each seed, held against untrained networks.

    Attributes:
        value: ``(S,)`` mean over pairs of modules, and layers.
        untrained: ``(P,)`` the same of untrained networks.
        p_value: ``(S,)`` that untrained modules are as much alike, ``(r + 1)/(P + 1)``.
    """

    value: Float64[Tensor, "seeds"]
    untrained: Float64[Tensor, "untrained"]
    p_value: Float64[Tensor, "seeds"]


def redundancy(network: Network, batch: Batch) -> Redundancy:
    """How alike are the modules of a network, in what they say and in their weights?

    Functional distance ``E|f_i - f_j|^2 / (E|f_i|^2 + E|f_j|^2)``, and linear CKA
    ``|F_i' F_j|^2 / (|F_i' F_i| |F_j' F_j|)`` of centred outputs (Frobenius norms), on the same
    inputs, whoever is routed where; and the cosine of the weights of two modules with their hidden
    units matched (Hungarian) so that it is largest.

    Args:
        network: a cohort with two modules or more.
        batch: samples of each member.

    Source: Kornblith et al. 2019 (arXiv 1905.00414) for CKA.
    """
    with torch.inference_mode():
        distance, cka = [], []
        for layer in counted(range(network.layer_count), "comparing modules, layers"):
            said = _outputs(network, batch, layer)
            distance.append(functional_distance(said))
            cka.append(linear_cka(said))
        cosine = aligned_cosine(network)
    return Redundancy(distance=torch.stack(distance, 1), cka=torch.stack(cka, 1), cosine=cosine)


def against_untrained(
    data: DataSpec,
    model: ModelSpec,
    network: Network,
    batch: Batch,
    *,
    untrained: int = UNTRAINED,
) -> dict[str, Held]:
    """Hold the modules of a cohort against those of networks that were never trained.

    Args:
        data: the task.
        model: the model.
        network: the trained cohort.
        batch: samples of its first member's task; all networks say something of the same.
        untrained: networks without training.
    """
    fresh = create(data, model, range(FIRST, FIRST + untrained))
    own = redundancy(network, batch)
    other = redundancy(fresh, _spread(batch.seed(0), untrained))
    found = {}
    for name, sign in (("distance", -1.0), ("cka", 1.0), ("cosine", 1.0)):
        trained, null = getattr(own, name), getattr(other, name)
        if trained is None or null is None:
            continue
        value, chance = (_mean_pair(each) for each in (trained, null))
        alike = (sign * chance >= sign * value[:, None] - 1e-12).sum(1)
        p_value = (alike + 1).double() / (untrained + 1)
        found[name] = Held(value=value, untrained=chance, p_value=p_value)
    return found


def functional_distance(
    said: Float64[Tensor, "seeds modules n out"],
) -> Float64[Tensor, "seeds modules modules"]:
    """Return ``E|f_i - f_j|^2 / (E|f_i|^2 + E|f_j|^2)``; 0 where both say nothing.

    >>> f = torch.tensor([[[[1.0]], [[1.0]], [[-1.0]], [[0.0]]]]).double()
    >>> functional_distance(f)[0, 0].tolist()
    [0.0, 0.0, 2.0, 1.0]
    """
    flat = said.flatten(2)
    size = flat.square().mean(-1)
    apart = (flat.unsqueeze(2) - flat.unsqueeze(1)).square().mean(-1)
    whole = size.unsqueeze(2) + size.unsqueeze(1)
    return torch.where(whole > 0, apart / whole.clamp(min=1e-300), 0.0)


def linear_cka(
    said: Float64[Tensor, "seeds modules n out"],
) -> Float64[Tensor, "seeds modules modules"]:
    """Return linear CKA of the outputs of modules; 0 where one says the same of all samples.

    >>> f = torch.tensor([[[[1.0], [2.0], [4.0]], [[-2.0], [-4.0], [-8.0]]]]).double()
    >>> linear_cka(f)[0].round(decimals=6).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    centred = said - said.mean(2, keepdim=True)
    cross = torch.einsum("sinp,sjnq->sijpq", centred, centred).square().sum((-2, -1))
    own = cross.diagonal(dim1=1, dim2=2).sqrt()
    whole = own.unsqueeze(2) * own.unsqueeze(1)
    return torch.where(whole > 0, cross / whole.clamp(min=1e-300), 0.0)


def aligned_cosine(network: nn.Module) -> Float64[Tensor, "seeds modules modules"] | None:
    """Return the cosine of the weights of two modules, their hidden units matched."""
    experts = getattr(network, "experts", None)
    if experts is None or not hasattr(experts, "hidden") or not hasattr(experts, "readout"):
        return None
    into, bias = with_bias(experts.hidden.parts())
    out, _ = with_bias(experts.readout.parts())
    count = getattr(network, "module_count", into.shape[1])
    if into.shape[1] > count:  # pairs of modules: each with itself is what it is alone
        into, bias, out = (part[:, :: count + 1] for part in (into, bias, out))
    if into.ndim != 4 or out.ndim != 4 or into.shape[-1] != out.shape[-2]:  # noqa: PLR2004
        return None
    units = torch.cat((into.mT, bias.unsqueeze(-1), out), -1).double().cpu()  # (S, M, hidden, D)
    return torch.stack([_cosines(member) for member in units])


def _cosines(units: Float64[Tensor, "modules hidden width"]) -> Float64[Tensor, "modules modules"]:
    norm = units.flatten(1).norm(dim=1)
    table = torch.eye(len(units), dtype=torch.float64)
    for one in range(len(units)):
        for two in range(one):
            gain = units[one] @ units[two].mT
            rows, columns = linear_sum_assignment(gain.numpy(), maximize=True)
            best = float(gain[rows, columns].sum()) / max(float(norm[one] * norm[two]), 1e-300)
            table[one, two] = table[two, one] = best
    return table


def _outputs(network: Network, batch: Batch, layer: int) -> Float64[Tensor, "seeds modules n out"]:
    """Return what each module says by itself: the layer with it alone, less the layer without."""

    def said(module: int | None) -> Tensor:
        every = range(network.module_count)
        off = knock_out(every, layer=layer) if module is None else only(module, layer=layer)
        routed = network(batch.inputs, batch.told, route=off).routed[layer]
        return routed.output.double().flatten(1, -2)  # type: ignore[no-any-return]

    none = said(None)
    return torch.stack([said(module) - none for module in range(network.module_count)], 1)


def _mean_pair(table: Tensor) -> Float64[Tensor, "seeds"]:
    off = ~torch.eye(table.shape[-1], dtype=torch.bool)
    return table[..., off].flatten(1).mean(1)


def _spread(batch: Batch, seeds: int) -> Batch:
    def widened(part: Tensor) -> Tensor:
        return part.expand(seeds, *part.shape[1:])

    shown = None if batch.shown is None else widened(batch.shown)
    return Batch(widened(batch.inputs), widened(batch.rule), widened(batch.target), shown)
