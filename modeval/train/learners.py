"""Which parameters a phase names, and which of their elements may move.

A pattern is that of a name, as ``scorer.*``, or a group (:data:`GROUPS`). What is named learns,
element by element as far as nothing holds it: the modules that a phase trains, weights that were
pruned, and those that were kept for good.
"""

import fnmatch
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from modeval.errors import RunError
from modeval.nn import Network
from modeval.nn.bank import Bank
from modeval.nn.linear import StackedLinear
from modeval.spec import Phase

BANK_AXES = 4
"""Axes of the weight of a bank: seeds, modules, inputs, outputs."""


def _is_router(name: str) -> bool:
    parts = name.split(".")
    projects = parts[-2:] == ["value", "weight"] and parts[0] in ("value", "layers")
    return "scorer" in parts or projects


def own_names(network: Network) -> frozenset[str]:
    """Return the parameters that each module has for itself: their second axis is the modules."""
    found: set[str] = set()
    for prefix, part in network.named_modules():
        if isinstance(part, Bank):
            found |= {
                f"{prefix}.own_{name}"
                for name, own in part.starts.items()
                if own.learns and not own.common
            }
        elif isinstance(part, StackedLinear) and part.weight.dim() == BANK_AXES:
            found |= {f"{prefix}.{name}" for name, _ in part.named_parameters(recurse=False)}
    return frozenset(name for name in found if not _is_router(name))


def _bank_names(network: Network) -> frozenset[str]:
    banks = tuple(f"{prefix}." for prefix, part in network.named_modules() if _is_bank(part))
    return frozenset(
        name
        for name, _ in network.named_parameters()
        if name.startswith(banks) and not _is_router(name)
    )


def _is_bank(part: torch.nn.Module) -> bool:
    stacked = isinstance(part, StackedLinear) and part.weight.dim() == BANK_AXES
    return isinstance(part, Bank) or stacked


def _router_names(network: Network) -> frozenset[str]:
    return frozenset(name for name, _ in network.named_parameters() if _is_router(name))


def _trunk_names(network: Network) -> frozenset[str]:
    every = frozenset(name for name, _ in network.named_parameters())
    return every - own_names(network) - _router_names(network)


GROUPS: dict[str, Callable[[Network], frozenset[str]]] = {
    "own": own_names,
    "modules": _bank_names,
    "routers": _router_names,
    "trunk": _trunk_names,
}
"""Groups of parameters by name."""


def named(network: Network, pattern: str) -> frozenset[str]:
    """Return the names that a pattern or a group stands for."""
    if pattern in GROUPS:
        return GROUPS[pattern](network)
    return frozenset(
        name for name, _ in network.named_parameters() if fnmatch.fnmatchcase(name, pattern)
    )


def learning(network: Network, patterns: Sequence[str]) -> dict[str, Tensor]:
    """Return the parameters that learn, by name.

    Raises:
        RunError: a pattern fits no parameter, or nothing that may learn.
    """
    every = dict(network.named_parameters())
    chosen: set[str] = set()
    for pattern in patterns:
        names = named(network, pattern)
        if not names:
            raise RunError(
                f"learns = {pattern!r}: no parameter has such a name. There are "
                f"{_names_of(network)}."
            )
        chosen |= names
    found: dict[str, Tensor] = {
        name: value for name, value in every.items() if value.requires_grad and name in chosen
    }
    if not found:
        raise RunError(f"learns = {list(patterns)}: all of that is frozen, so nothing would learn.")
    return found


def _names_of(network: Network) -> str:
    """Return in words what patterns may fit."""
    first = dict.fromkeys(name.split(".")[0] + ".*" for name, _ in network.named_parameters())
    groups = [group for group in GROUPS if GROUPS[group](network)]
    return f"{', '.join(first)}, and the groups {', '.join(groups)}"


def factors(network: Network, names: Sequence[str], phase: Phase) -> list[float]:
    """Return by what the learning rate of each parameter is multiplied."""
    rates = [(named(network, rate.parameters), rate.factor) for rate in phase.rates]
    return [next((factor for fits, factor in rates if name in fits), 1.0) for name in names]


def check_rates(network: Network, phases: Sequence[Phase]) -> None:
    """Refuse a rate of its own for parameters that there are not; groups may be empty.

    Raises:
        RunError: names the pattern.
    """
    for rate in (rate for phase in phases for rate in phase.rates):
        if rate.parameters not in GROUPS and not named(network, rate.parameters):
            raise RunError(
                f"rate of {rate.parameters!r}: no parameter has such a name. There are "
                f"{_names_of(network)}."
            )


def moving(
    network: Network, names: Sequence[str], phase: Phase, held: Mapping[str, Tensor]
) -> list[Tensor | None]:
    """Return for each parameter 1 where its elements may move and 0 elsewhere; none if all may.

    Args:
        network: whose they are.
        names: of the parameters that learn.
        phase: says which modules learn.
        held: elements that are not free, by the name of their parameter.
    """
    own = own_names(network) if phase.modules else frozenset()
    every = dict(network.named_parameters())
    masks: list[Tensor | None] = []
    for name in names:
        mask: Tensor | None = None
        if name in own:
            mask = torch.zeros_like(every[name])
            mask[:, list(phase.modules)] = 1.0
        if name in held:
            free = (held[name] == 0).to(every[name].dtype)
            mask = free if mask is None else mask * free
        masks.append(mask)
    return masks
