"""Where a model's routing can be changed: between what its router returns and its experts.

A *seam* is one layer's place to change routing at. There are three kinds, by what passes there:

==========  ==============================================================================
``experts`` experts are called with ``(hidden, chosen, weights)``: nearly all of transformers 5
``table``   the router returns ``(weights of all modules, logits)`` (Llama 4)
``sorted``  the router returns rows sorted by expert, with their weights (JetMoE)
``marks``   experts are called with ``(hidden, marks, weight)``, one choice each (Switch)
==========  ==============================================================================

The experts themselves are never touched: a module whose weight is zero adds nothing, which is what
removing its parameters does as well.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from modeval.errors import TraceError
from modeval.record.routers.find import find_routers, named_modules
from modeval.record.routers.readers import (
    Router,
    last_logits,
    marks,
    nonzero_of_two,
    product_keys,
    scores_and_logits,
)

Passing = Literal["experts", "table", "sorted", "marks"]
ARGUMENTS = 3  # hidden, chosen, weights

REFUSED: dict[Any, str] = {
    product_keys: "its block looks its experts up inside, where nothing can come between",
    nonzero_of_two: "its experts compute something else than the router chose (transformers 5)",
}
"""Readers of routers whose routing cannot be changed, and why."""

BY_READER: dict[Any, Passing] = {
    scores_and_logits: "table",
    last_logits: "sorted",
    marks: "marks",
}


@dataclass(frozen=True, slots=True, eq=False)
class Seam:
    """One layer, and where its routing can be changed.

    Attributes:
        name: name of the layer, as :mod:`modeval.record` gives it.
        modules: number of modules M.
        choices: number of modules K chosen for each token.
        passing: what passes at the seam.
        router: the module that chooses.
        experts: the module that is called with the choices; the router itself where it is there
            that weights are changed.
    """

    name: str
    modules: int
    choices: int
    passing: Passing
    router: nn.Module
    experts: nn.Module


def find_seams(model: nn.Module, routers: Sequence[str] | None = None) -> tuple[Seam, ...]:
    """Return where a model's routing can be changed, in the order of its layers.

    Args:
        model: any module whose routers :func:`modeval.record` finds.
        routers: names of the routers, when they are not found.

    Raises:
        TraceError: no router is found, or the routing of one cannot be changed; says which and why.
    """
    found = find_routers(model, list(routers) if routers else None)
    if found.missing:
        raise TraceError(
            f"No router was found for {', '.join(found.missing[:4])}, which hold experts: what "
            "they do could not be told apart. Name all routers with --routers."
        )
    named = dict(named_modules(model))
    return tuple(_seam(router, named) for router in found.routers)


def _seam(router: Router, named: dict[str, nn.Module]) -> Seam:
    reason = REFUSED.get(router.read, "")
    if router.row != "token":
        reason = "it routes whole samples, and not tokens"
    if reason:
        raise _refused(router, reason)
    passing = BY_READER.get(router.read, "experts")
    experts = router.module
    if passing in ("experts", "marks"):
        experts = _experts(router, named)
    if not router.modules:
        raise _refused(router, "nothing says how many modules it has")
    choices = router.choices or 1
    return Seam(router.name, router.modules, choices, passing, router.module, experts)


def _experts(router: Router, named: dict[str, nn.Module]) -> nn.Module:
    """Return the module beside a router that is called with hidden states, choices and weights."""
    if router.where == "arguments":
        return router.module
    block = router.name.rpartition(".")[0]
    while True:  # routers may stand deeper than the experts that they choose (Gemma 4, Inkling)
        experts = named.get(f"{block}.experts" if block else "experts")
        if experts is not None and _takes_choices(experts):
            return experts
        if not block:
            break
        block = block.rpartition(".")[0]
    raise _refused(
        router, "no module `experts` beside it is called with (hidden states, choices, weights)"
    )


def _takes_choices(experts: nn.Module) -> bool:
    try:
        names = inspect.signature(experts.forward).parameters
    except (TypeError, ValueError):
        return False
    return len(names) >= ARGUMENTS


def _refused(router: Router, reason: str) -> TraceError:
    return TraceError(
        f"The routing of {router.name} ({type(router.module).__name__}) cannot be changed: "
        f"{reason}. Its choices can be recorded (modeval record), and its modules cannot be "
        "removed by this command."
    )


def passed(
    experts: nn.Module, arguments: tuple[Any, ...], by_name: dict[str, Any]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return hidden states, choices and weights of a call of experts, however they are given."""
    names = _names(experts)
    given = dict(zip(names, arguments, strict=False)) | by_name
    hidden, chosen, weight = (given[name] for name in names[:ARGUMENTS])
    return hidden, chosen, weight


def passing_on(
    experts: nn.Module,
    arguments: tuple[Any, ...],
    by_name: dict[str, Any],
    instead: tuple[Tensor, Tensor, Tensor],
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a call of experts with other states, choices and weights."""
    names = _names(experts)
    put = dict(zip(names[:ARGUMENTS], instead, strict=True))
    positional = tuple(
        put.get(name, value) for name, value in zip(names, arguments, strict=False)
    ) + tuple(arguments[len(names) :])
    return positional, {name: put.get(name, value) for name, value in by_name.items()}


def _names(experts: nn.Module) -> list[str]:
    return list(inspect.signature(experts.forward).parameters)
