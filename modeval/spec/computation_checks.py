"""Computations and aggregations that make no sense together, or for a task; each says why."""

from typing import TYPE_CHECKING

from modeval.spec.checks import check
from modeval.spec.computations import Adapter, Full
from modeval.spec.sharing import Head, Prefix, Tied

if TYPE_CHECKING:
    from modeval.spec.data import DataSpec
    from modeval.spec.model import ModelSpec


def check_computation(model: "ModelSpec") -> None:
    """Refuse what makes no sense whatever the task."""
    computation, kind = model.computation, model.computation.kind
    alone = "share a trunk with. Use --computation full."
    if isinstance(computation, Tied):
        alone = "be drawn to. Use --computation full."
    check(
        model.scorer != "none" or isinstance(computation, Full),
        f'computation = "{kind}" with scorer = "none": a single module has no other one to {alone}',
    )
    check(
        model.aggregation != "parameters" or not isinstance(computation, Adapter),
        'aggregation = "parameters" with computation = "adapter": its bottleneck stands between '
        "two layers and cannot be mixed with them. Use --computation parallel-adapter.",
    )
    check(
        model.aggregation != "parameters" or not isinstance(computation, Prefix),
        'aggregation = "parameters" with computation = "prefix": a mixture of keys does not find '
        "the mixture of what they find. Use --aggregation outputs.",
    )
    check(
        model.layers == 1 or not isinstance(computation, Head | Prefix),
        f'computation = "{kind}" with layers = {model.layers}: '
        + (
            "hard sharing has modules in the last layer alone."
            if isinstance(computation, Head)
            else "layers after the first attend to nothing, so no prefix can stand before it."
        )
        + " Drop --layers.",
    )


def check_computation_on(data: "DataSpec", model: "ModelSpec") -> None:
    """Refuse what makes no sense for a task."""
    computation = model.computation
    check(
        data.task != "series" or computation.cells,
        f'computation = "{computation.kind}" with task = "series": it needs a hidden '
        "layer, and recurrent cells have none. Use --computation low-rank.",
    )
    check(
        data.task == "sets" or not isinstance(computation, Prefix),
        f'computation = "prefix" with task = "{data.task}": a prefix stands before the keys and '
        "values of attention, and only sets attend. Use --computation prompt, or --task sets.",
    )
    check(
        data.task != "sets" or model.aggregation != "parameters" or computation.attends,
        'aggregation = "parameters" with task = "sets": each module has heads of its own, and '
        "what their softmax gives is no mixture of parameters. Use --task binary or series.",
    )
