"""Computations and aggregations that make no sense together, or for a task; each says why."""

from typing import TYPE_CHECKING

from modeval.spec.checks import check
from modeval.spec.computing.computations import Adapter, Full, LowRank, Prompt
from modeval.spec.computing.sharing import BeforePositions, Head, Tied
from modeval.spec.continual import Columns
from modeval.spec.gatings import Linear

BY_RULE = ("rule", "table", "global", "embedding", "oracle", "hash", "map", "stitch")
"""Scorers that look at the rule at most: they give a row of weights for each rule."""

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
    factors = isinstance(computation, LowRank) and computation.averaged == "factors"
    check(
        not factors or (model.aggregation == "parameters" and model.own is None),
        f'averaged = "factors" with aggregation = "{model.aggregation}": factors are averaged '
        "where parameters are mixed. Use --aggregation parameters.",
    )
    check(
        model.aggregation != "parameters" or not isinstance(computation, Columns),
        'aggregation = "parameters" with computation = "columns": a column reads the hidden units '
        "of others, which are not there when parameters are mixed. Use --aggregation outputs.",
    )
    check(
        model.aggregation != "parameters" or not isinstance(computation, BeforePositions),
        f'aggregation = "parameters" with computation = "{kind}": a mixture of keys does not find '
        "the mixture of what they find. Use --aggregation outputs.",
    )
    check(
        model.scorer != "embedding" or model.level != "global",
        'scorer = "embedding" with level = "global": it has an embedding of each layer, and one '
        "routing for all needs none. Drop --level, or use --scorer table.",
    )
    check(
        model.layers == 1 or not isinstance(computation, Head | BeforePositions),
        f'computation = "{kind}" with layers = {model.layers}: '
        + (
            "hard sharing has modules in the last layer alone."
            if isinstance(computation, Head)
            else "layers after the first attend to nothing, so nothing can stand before it."
        )
        + " Drop --layers.",
    )


def check_inputs(model: "ModelSpec") -> None:
    """Refuse to put side by side what stands before no input."""
    if model.aggregation != "inputs":
        return
    check(
        isinstance(model.computation, Prompt | BeforePositions),
        f'aggregation = "inputs" with computation = "{model.computation.kind}": only prompts and '
        "prefixes stand before an input. Use --computation prompt, or --aggregation parameters.",
    )
    check(
        model.scorer not in ("module", "shared", "attention"),
        f'aggregation = "inputs" with scorer = "{model.scorer}": what stands before the input must '
        "be known before any module has computed anything. Use --scorer both, rule or input.",
    )
    check(
        not isinstance(model.gating, Linear),
        'aggregation = "inputs" with gating = "linear": its weights may lie below 0, and nothing '
        "is there less than not at all. Use --gating soft, or --aggregation parameters.",
    )


def check_columns(model: "ModelSpec") -> None:
    """Refuse columns that would not know what to read of each other, or cannot be cut so."""
    if model.aggregation not in ("stitch", "sluice"):
        return
    check(
        model.scorer in BY_RULE,
        f'aggregation = "{model.aggregation}" with scorer = "{model.scorer}": a column reads the '
        "others by weights of its own, the same for all samples. Use --scorer stitch.",
    )
    check(
        model.gating.chance < 0 and not model.gating.batchwise,
        f'aggregation = "{model.aggregation}" with gating = "{model.gating.kind}": weights of a '
        "column are the same for all samples, and it draws or compares those. Use --gating linear.",
    )
    check(
        model.level == "layer",
        f'aggregation = "{model.aggregation}" with level = "{model.level}": columns read each '
        "other after each layer by weights of that layer. Drop --level.",
    )
    if model.aggregation == "sluice":
        check(
            model.scorer == "stitch",
            f'aggregation = "sluice" with scorer = "{model.scorer}": subspaces have weights each, '
            "which only the scorer stitch gives. Use --scorer stitch, or --aggregation stitch.",
        )
        check(
            model.layers > 1,
            'aggregation = "sluice" with layers = 1: it sums over layers. Use --layers 2, or '
            "--aggregation stitch.",
        )
        check(
            model.subspaces > 1 and not (model.width % model.subspaces),
            f"subspaces = {model.subspaces} of a width of {model.width}: give 2 or more that "
            "divide it.",
        )


def check_computation_on(data: "DataSpec", model: "ModelSpec") -> None:
    """Refuse what makes no sense for a task."""
    computation = model.computation
    check(
        data.task != "series" or computation.cells,
        f'computation = "{computation.kind}" with task = "series": it needs a hidden '
        "layer, and recurrent cells have none. Use --computation low-rank.",
    )
    columns = model.aggregation in ("stitch", "sluice")
    check(
        data.task != "series" or not columns,
        f'aggregation = "{model.aggregation}" with task = "series": cells share a state, and each '
        "column needs one of its own. Use --task binary or sets.",
    )
    check(
        not columns or (model.modules or data.rules) == data.rules,
        f'aggregation = "{model.aggregation}" with modules = {model.modules}: each of the '
        f"{data.rules} rules has a column. Drop --modules.",
    )
    check(
        model.aggregation != "sluice" or data.task != "sets" or not model.encoder % model.subspaces,
        f"subspaces = {model.subspaces} of an encoder of {model.encoder}: give 2 or more that "
        "divide it.",
    )
    check(
        data.task == "sets" or not isinstance(computation, BeforePositions),
        f'computation = "{computation.kind}" with task = "{data.task}": it stands before the keys '
        "and values of attention, and only sets attend. Use --computation prompt, or --task sets.",
    )
    before = model.aggregation in ("parameters", "inputs")
    check(
        data.task != "sets" or not before or computation.attends,
        f'aggregation = "{model.aggregation}" with task = "sets": each module has heads '
        "of its own, and what their softmax gives is no mixture of parameters. Use "
        + (
            "--computation prefix." if model.aggregation == "inputs" else "--task binary or series."
        ),
    )
