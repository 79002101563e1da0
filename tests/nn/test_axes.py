"""The model space is a product: what can be built learns, seed by seed; what cannot says why."""

import itertools
import tomllib
import typing
from typing import Any

import pytest
import torch

from modeval.errors import SpecError
from modeval.nn import Network, create
from modeval.spec import DataSpec, ModelSpec, RunSpec, from_dict, to_dict, to_toml
from modeval.spec.computing.computations import Computation, Full
from modeval.spec.gatings import Gating, Gumbel, NoisyTopK, Soft
from modeval.spec.model import AFTER_MODULES, GROUPED, LEARNED, Aggregation, Scorer
from modeval.spec.own import OwnGating
from modeval.spec.taught import Evolved, Reinforce
from modeval.train.step import Stepper
from modeval.types import Batch, Noise

TASKS = {
    "binary": DataSpec(rules=3),
    "sets": DataSpec(task="sets", rules=3, length=3),
    "series": DataSpec(task="series", rules=3, dimension=3, length=3),
}
SCORERS = tuple(name for name in typing.get_args(Scorer) if name != "own")  # see test_own.py
GATINGS = [kind() for kind in typing.get_args(Gating) if kind is not OwnGating]
COMPUTATIONS = [kind() for kind in typing.get_args(Computation)]
AGGREGATIONS = typing.get_args(Aggregation)
SAMPLES = 12


def model_of(**choices: Any) -> ModelSpec:
    sizes = {"modules": 1} if choices["scorer"] == "none" else {"modules": 3}
    given: dict[str, Any] = {"map": ((0,), (1,), (0, 2))} if choices["scorer"] == "map" else {}
    given |= {"layers": 2} if choices.get("aggregation") == "sluice" else {}
    return ModelSpec(encoder=6, width=12, **sizes, **given, **choices)  # type: ignore[arg-type]


def run_of(task: str, **choices: Any) -> RunSpec | str:
    """Return the spec of a point of the product, or why there is none."""
    try:
        return RunSpec(data=TASKS[task], model=model_of(**choices))
    except SpecError as error:
        return str(error)


def needed(*choices: Any) -> dict[str, Any]:
    """Return the scorer that a choice needs, where it takes no other one."""
    return {"scorer": "table"} if any(isinstance(each, Evolved) for each in choices) else {}


def pairs() -> list[dict[str, Any]]:
    """Return points of the product in which each two choices of two axes meet, once at least."""
    axes = {
        "scorer": SCORERS,
        "gating": GATINGS,
        "computation": COMPUTATIONS,
        "aggregation": AGGREGATIONS,
    }
    usual = {"scorer": "both", "gating": Soft(), "computation": Full(), "aggregation": "outputs"}
    points = []
    for first, second in itertools.combinations(axes, 2):
        for one, other in itertools.product(axes[first], axes[second]):
            points.append({**usual, **needed(one, other), first: one, second: other})
    return list({repr(point): point for point in points}.values())


def tried(task: str, point: dict[str, Any]) -> bool:
    """Tell whether a point is trained on a task: all but pairs of a gating and a computation are.

    Neither knows of the other, so that single numbers, ``binary``, try all pairs, and a third of
    them will do for sequences.
    """
    pair = GATINGS.index(point["gating"]) + COMPUTATIONS.index(point["computation"])
    unusual = point["gating"] != Soft() and point["computation"] != Full()
    return task == "binary" or not unusual or pair % 3 == 0


def draw(data: DataSpec, seeds: int) -> Batch:
    generator = torch.Generator().manual_seed(1)
    shape = (seeds, SAMPLES, *((data.length,) if data.sequence else ()))
    return Batch(
        torch.randn(*shape, data.features, generator=generator),
        torch.randint(data.rules, shape, generator=generator),
        torch.randn(*shape, data.outputs, generator=generator),
    )


def noise_of(network: Network, data: DataSpec) -> Noise | None:
    if network.chance < 0:
        return None
    shape = (1, SAMPLES, *((data.length,) if data.sequence else ()), network.chance)
    uniform = torch.rand(shape, generator=torch.Generator().manual_seed(2))
    return Noise(uniform.expand(network.seeds, *shape[1:]), torch.tensor(0.3))


def trained(run: RunSpec, seeds: tuple[int, ...], batch: Batch, steps: int = 2) -> Network:
    network = create(run.data, run.model, seeds)
    stepper = Stepper(network, "regression", engine="eager")
    for _ in range(steps):
        stepper.step(batch, torch.tensor(1e-2), noise_of(network, run.data))
    return network


def unmoved(run: RunSpec) -> list[str]:
    """Return the parameters that stay where they were, in places where all should move."""
    network = trained(run, (3, 4), draw(run.data, 2))
    start = dict(create(run.data, run.model, (3, 4)).named_parameters())
    still = []
    for name, value in network.named_parameters():
        assert value.isfinite().all(), name
        moved = not torch.equal(value, start[name])
        if value.requires_grad != moved and not _shifts_all_logits(name):
            still.append(name)
    return still


def _shifts_all_logits(name: str) -> bool:
    """Tell whether a parameter adds the same to all logits, which a softmax does not feel."""
    return name == "scorer.mlp.readout.bias"


POINTS = pairs()


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("scorer", SCORERS)
def test_what_can_be_built_moves_what_learns_and_nothing_else(task: str, scorer: str) -> None:
    for point in (each for each in POINTS if each["scorer"] == scorer and tried(task, each)):
        run = run_of(task, **point)
        if isinstance(run, str):
            assert len(run) > 60, run  # a reason, and what to type next
            continue
        assert not unmoved(run), (point, unmoved(run))


LACKING = {
    "binary": {"prefix", "prompt-tokens"},
    "sets": set[str](),
    "series": {
        *("prompt", "prompt-tokens", "prefix"),
        *("adapter", "parallel-adapter", "head", "columns"),
    },
}
"""Computations that a task has no place for: recurrent cells no hidden layer, numbers no keys."""


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    "point",
    [
        {"scorer": "both", "gating": gating, "computation": computation} | needed(gating)
        for gating, computation in zip(GATINGS, itertools.cycle(COMPUTATIONS), strict=False)
    ],
    ids=lambda point: f"{point['gating'].kind}-{point['computation'].kind}",
)
def test_a_seed_of_a_cohort_is_that_seed_alone(task: str, point: dict[str, Any]) -> None:
    run = run_of(task, **point)
    if isinstance(run, str):
        assert point["computation"].kind in LACKING[task], run
        return
    batch = draw(run.data, 2)
    together = trained(run, (3, 4), batch, steps=1)
    alone = trained(run, (4,), batch.seed(1), steps=1)
    x = batch.seed(1)
    seen, expected = together(batch.inputs, batch.rule), alone(x.inputs, x.rule)
    torch.testing.assert_close(seen.prediction[1], expected.prediction[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("task", TASKS)
def test_several_layers_route_each_by_itself(task: str) -> None:
    run = run_of(task, scorer="both", layers=3)
    assert isinstance(run, RunSpec)
    network = create(run.data, run.model, (1, 2))
    batch = draw(run.data, 2)
    routed = network(batch.inputs, batch.rule).routed
    assert len(routed) == 3
    assert all(layer.weight.shape == (*batch.rule.shape, 3) for layer in routed)
    assert not torch.equal(routed[0].weight, routed[1].weight)
    assert not unmoved(run)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("layer", [0, 1])
def test_a_route_changes_one_layer_and_leaves_the_network_as_it_was(task: str, layer: int) -> None:
    run = run_of(task, scorer="both", layers=2)
    assert isinstance(run, RunSpec)
    network = create(run.data, run.model, (1,))
    batch = draw(run.data, 1)

    def first_module(weight: torch.Tensor, number: int) -> torch.Tensor:
        only = torch.zeros_like(weight)
        only[..., 0] = 1
        return only if number == layer else weight

    before = network(batch.inputs, batch.rule)
    routed = network(batch.inputs, batch.rule, route=first_module)
    after = network(batch.inputs, batch.rule)
    assert torch.equal(before.prediction, after.prediction)
    assert not torch.equal(before.prediction, routed.prediction)
    assert (routed.routed[layer].weight[..., 0] == 1).all()
    assert not (routed.routed[1 - layer].weight[..., 0] == 1).all()


def test_a_point_of_the_product_is_written_and_read_back() -> None:
    runs = [run_of("binary", **point) for point in POINTS]
    for run in (each for each in runs if isinstance(each, RunSpec)):
        assert from_dict(RunSpec, tomllib.loads(to_toml(run))) == run
        assert from_dict(ModelSpec, to_dict(run.model)) == run.model


REFUSED = [
    ("binary", {"scorer": "module", "aggregation": "parameters"}, "before any module"),
    ("sets", {"scorer": "rule", "aggregation": "parameters"}, "heads of its own"),
    ("series", {"scorer": "rule", "computation": "adapter"}, "recurrent cells have none"),
    ("binary", {"scorer": "none", "modules": 1, "computation": "low-rank"}, "share a trunk"),
    (
        "binary",
        {"scorer": "rule", "computation": "adapter", "aggregation": "parameters"},
        "cannot be mixed",
    ),
    ("binary", {"scorer": "attention", "gating": "noisy-top-k"}, "a second number"),
    ("binary", {"scorer": "oracle", "gating": "gumbel"}, "gating"),
    ("binary", {"scorer": "rule", "gating": {"kind": "top-k", "k": 9}}, "k = 9 of 3 modules"),
    ("binary", {"scorer": "rule", "gating": {"kind": "top-k", "k": 1}}, "router learns nothing"),
    ("series", {"scorer": "attention"}, "asks with the state"),
    ("binary", {"scorer": "map"}, "takes the modules of each rule"),
    ("binary", {"scorer": "map", "map": [[0], [1]]}, "2 rows for 3 rules"),
    ("binary", {"scorer": "map", "map": [[0], [1], [7]]}, "module 7"),
    ("binary", {"scorer": "rule", "gating": "evolved"}, "Use --scorer table"),
    ("binary", {"scorer": "rule", "gating": {"kind": "reinforce", "baseline": 1.0}}, "baseline"),
    ("binary", {"scorer": "rule", "gating": "gumble"}, 'Did you mean "gumbel"'),
    ("binary", {"scorer": "rule", "gating": {"kind": "gumbel", "k": 2}}, "no such setting"),
]


@pytest.mark.parametrize(("task", "model", "reason"), REFUSED)
def test_what_makes_no_sense_is_refused_with_the_reason(
    task: str, model: dict[str, Any], reason: str
) -> None:
    values = {"data": to_dict(TASKS[task]), "model": model}
    for name in ("operation", "search", "dimension", "order", "length"):
        if values["data"][name] == getattr(DataSpec(), name):
            del values["data"][name]
    with pytest.raises(SpecError, match=reason):
        from_dict(RunSpec, values)


def test_most_points_can_be_built() -> None:
    for task in TASKS:
        built = [run_of(task, **point) for point in POINTS]
        assert sum(not isinstance(run, str) for run in built) > 0.45 * len(POINTS)
    assert set(AFTER_MODULES) < set(LEARNED)


# --- levels --------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("scorer", ["both", "rule", "table", "module"])
@pytest.mark.parametrize("gating", [Soft(), NoisyTopK(), Reinforce()], ids=lambda each: each.kind)
def test_a_global_level_routes_all_layers_by_the_first(
    task: str, scorer: str, gating: Gating
) -> None:
    run = run_of(task, scorer=scorer, gating=gating, layers=3, level="global")
    assert isinstance(run, RunSpec)
    network = create(run.data, run.model, (1, 2))
    batch = draw(run.data, 2)
    output = network(batch.inputs, batch.rule, noise=noise_of(network, run.data))
    first, *others = output.routed
    assert all(torch.equal(each.weight, first.weight) for each in others)
    assert all(torch.equal(each.logits, first.logits) for each in others)
    assert sum("scorer" in name for name in dict(network.named_parameters())) == sum(
        name.startswith("scorer.") for name in dict(network.named_parameters())
    )
    assert not unmoved(run)

    def last_module(weight: torch.Tensor, number: int) -> torch.Tensor:
        return torch.eye(3)[[2]].expand_as(weight) if number == 0 else weight

    routed = network(batch.inputs, batch.rule, route=last_module).routed
    free = network(batch.inputs, batch.rule).routed
    assert (routed[0].weight[..., 2] == 1).all()
    if scorer != "module" or task != "series":  # a state that was routed otherwise is another one
        torch.testing.assert_close(routed[1].weight, free[1].weight)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    ("scorer", "gating"),
    [
        *((scorer, Soft()) for scorer in ("input", "rule", "table", "global")),
        *(("both", kind()) for kind in GROUPED),
    ],
)
def test_a_hierarchical_level_chooses_a_group_and_a_module_of_it(
    task: str, scorer: str, gating: Gating
) -> None:
    model = ModelSpec(
        encoder=6, width=60, modules=6, groups=2, level="hierarchical", gating=gating,
        scorer=scorer, layers=2,  # type: ignore[arg-type]
    )  # fmt: skip
    run = RunSpec(data=TASKS[task], model=model)
    network: Any = create(run.data, run.model, (1, 2))
    batch = draw(run.data, 2)
    routed = network(batch.inputs, batch.rule).routed[0]
    # by the definition: numbers of two groups, then of three modules of each
    numbers: list[torch.Tensor] = []
    hook = network.scorer.inner.register_forward_hook(lambda *call: numbers.append(call[2]))
    network(batch.inputs, batch.rule)
    hook.remove()
    [given] = numbers
    group, module = given[..., :2].softmax(-1), given[..., 2:].unflatten(-1, (2, 3)).softmax(-1)
    share = (group.unsqueeze(-1) * module).flatten(-2)
    if scorer in ("rule", "table", "global"):
        share = torch.stack([row[rule] for row, rule in zip(share, batch.rule, strict=True)])
    shares = routed.logits.exp()
    torch.testing.assert_close(shares, share.view_as(shares))
    if isinstance(gating, Soft):
        torch.testing.assert_close(routed.weight, shares)
    if task == "binary":
        assert not unmoved(run)


@pytest.mark.parametrize("task", ["sets", "series"])
@pytest.mark.parametrize(
    ("scorer", "gating"),
    [*((scorer, Soft()) for scorer in ("input", "rule", "table")), ("both", Gumbel())],
)
def test_a_sequence_is_routed_once_by_the_mean_of_its_logits(
    task: str, scorer: str, gating: Gating
) -> None:
    run = run_of(task, scorer=scorer, gating=gating, level="sample")
    assert isinstance(run, RunSpec)
    network: Any = create(run.data, run.model, (1, 2))
    batch = draw(run.data, 2)
    routed = network(batch.inputs, batch.rule, noise=noise_of(network, run.data)).routed[0]
    assert torch.equal(routed.weight, routed.weight[:, :, :1].expand_as(routed.weight))
    assert len(routed.weight[:, :, 0].flatten(0, 1).unique(dim=0)) > 1
    # by the definition: the same network, each position by itself
    network.scorer = network.scorer.inner
    apart = network(batch.inputs, batch.rule).routed[0].logits.mean(2, keepdim=True)
    torch.testing.assert_close(routed.logits, apart.expand_as(routed.logits))
    if isinstance(gating, Soft):
        torch.testing.assert_close(routed.weight, routed.logits.softmax(-1))
    assert not unmoved(run)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ({"scorer": "both", "level": "sample", "task": "binary"}, "no positions"),
        ({"scorer": "module", "level": "sample", "task": "series"}, "position by position"),
        ({"scorer": "global", "level": "sample", "task": "sets"}, "the same for all samples"),
        ({"scorer": "both", "level": "sample", "gating": "switch", "task": "sets"}, "compares"),
        ({"scorer": "rule", "level": "sample", "gating": "reinforce", "task": "sets"}, "learns"),
        ({"scorer": "both", "level": "global"}, "--layers 2"),
        ({"scorer": "oracle", "level": "global", "layers": 2}, "level"),
        ({"scorer": "module", "level": "hierarchical"}, "groups compute nothing"),
        ({"scorer": "both", "level": "hierarchical", "gating": "threshold"}, "Use --gating soft"),
        ({"scorer": "both", "level": "hierarchical", "groups": 1}, "2 or more"),
        ({"scorer": "both", "level": "hierarchical", "modules": 5}, "Use --modules 4"),
        ({"scorer": "both", "groups": 3}, "groups"),
    ],
)
def test_levels_at_which_nothing_can_be_decided_are_refused(
    model: dict[str, Any], reason: str
) -> None:
    chosen = dict(model)
    data = {"rules": 4, "task": chosen.pop("task", "binary")}
    with pytest.raises(SpecError, match=reason):
        from_dict(RunSpec, {"data": data, "model": chosen})
