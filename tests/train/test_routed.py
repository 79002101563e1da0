"""A kernel below any router, and cohorts in parts: the steps of the whole network, only faster."""

import ctypes
import importlib
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch

from modeval.errors import RunError
from modeval.memory import keep_memory
from modeval.nn import create
from modeval.nn.routes import knock_out
from modeval.spec import DataSpec, ModelSpec, Phase, Rate, RunSpec, from_dict
from modeval.spec.systems import named, system_of
from modeval.train import slices
from modeval.train.step import Stepper
from modeval.train.stream import Stream, batches, uniform_numbers
from modeval.types import Noise

DATA = {
    "binary": {"rules": 4},
    "sets": {"task": "sets", "rules": 4, "length": 4},
    "series": {"task": "series", "rules": 4, "length": 4, "dimension": 5},
}
SEEDS = ((0, 1), (0, 2), (0, 3))
CPU = torch.device("cpu")


def run_of(name: str, task: str) -> RunSpec:
    model, train = named(name, {"encoder": 8, "width": 24}, {"steps": 20, "batch": 16})
    return from_dict(RunSpec, {"data": DATA[task], "model": model, "train": train})


def trained(run: RunSpec) -> tuple[Stepper, Any, Any]:
    network = create(run.data, run.model, [seed for _, seed in SEEDS])
    phase = run.train.stretches[0][2]
    stepper = Stepper(network, "regression", engine="eager", clip=1.0, phase=phase)
    stream = Stream(run.data, SEEDS, 16, CPU)
    chance = uniform_numbers(stream, network.chance) if network.chance >= 0 else None
    losses = []
    for number, batch in zip(range(2), batches(stream), strict=False):
        progress = torch.tensor(number / 4)
        noise = None if chance is None else Noise(next(chance), progress)
        losses.append(stepper.step(batch, torch.tensor(1e-2), noise))
    return stepper, torch.stack(losses), dict(network.named_parameters())


# --- a kernel below any router -------------------------------------------------------------------

ROUTERS = (
    "top-k", "hierarchical", "noisy-top-k", "switch", "expert-choice", "base", "sinkhorn",
    "gumbel", "epsilon-greedy", "routing-network", "q-learning", "pathnet", "threshold",
    "global-weights",
)  # fmt: skip


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("task", DATA)
@pytest.mark.parametrize("name", ROUTERS)
def test_a_kernel_below_a_router_gives_the_gradients_of_autograd(name: str, task: str) -> None:
    run = run_of(name, task)
    assert_same_slopes(run, run.train.stretches[0][2])


MADE = (
    "molora", "low-rank-per-rule", "rescaled-per-rule", "prompt-per-rule", "soft-sharing",
    "parallel-adapter-per-rule", "hard-sharing", "masked-per-rule", "sparse-diff-per-rule",
    "diff-pruning-per-rule", "supermask-per-rule", "hypernetwork", "generated-prompt",
)  # fmt: skip


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(
    ("name", "task"),
    [
        (name, task)
        for name in MADE
        for task in system_of(name).tasks
        if (name, task) != ("hard-sharing", "sets")  # whose modules share heads of attention
    ],
)
def test_a_kernel_of_modules_that_are_made_gives_the_gradients_of_autograd(
    name: str, task: str
) -> None:
    run = run_of(name, task)
    assert_same_slopes(run, run.train.stretches[-1][2])


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(
    "phase", [Phase(learns=("experts.*",)), Phase(rates=(Rate(parameters="*", factor=0.5),))]
)
def test_what_a_phase_asks_for_goes_with_a_kernel_below_the_router(phase: Phase) -> None:
    assert_same_slopes(run_of("modular-op", "binary"), phase)


def assert_same_slopes(run: RunSpec, phase: Phase) -> None:
    """Check the gradients of a step against those of autograd, where parameters are no start."""
    found = {}
    stream = Stream(run.data, SEEDS, 16, CPU)
    batch = next(batches(stream))
    for engine in ("eager", "auto"):
        network = create(run.data, run.model, [seed for _, seed in SEEDS])
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():  # routers may begin with all modules alike
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        stepper = Stepper(network, "regression", engine=engine, clip=1.0, phase=phase)
        noise = None
        if network.chance >= 0:
            noise = Noise(next(uniform_numbers(stream, network.chance)), torch.tensor(0.2))
        gradients, loss, _ = stepper._slope(batch, noise)
        found[stepper.engine] = [loss, *gradients]
    assert len(found) == 2
    for one, other in zip(*reversed(found.values()), strict=True):
        scale = float(other.abs().max())
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3 * scale + 1e-6)


LEAN = (
    "modular-shared", "global-routing", "joined-prefixes", "sluice", "adapter-per-rule",
    "prefix-per-rule", "prompt-tokens-per-rule", "hard-sharing", "adapter-fusion", "smear",
    "polytropon", "layer-hypernetwork",
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "task"),
    [(name, task) for name in LEAN for task in ("sets", "series") if task in system_of(name).tasks],
)
def test_short_cuts_give_the_gradients_of_the_definition(name: str, task: str) -> None:
    run = run_of(name, task)
    assert_same_slopes(run, run.train.stretches[-1][2])


def test_prefixes_are_left_out_only_where_a_table_names_a_module_for_each_rule() -> None:
    table = ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 1), (0, 0, 0, 1))
    run = run_of("prefix-per-rule", "sets")
    batch = next(batches(Stream(run.data, SEEDS, 16, CPU)))
    for model in (run.model, replace(run.model, scorer="map", map=table)):
        network = create(run.data, model, [seed for _, seed in SEEDS])
        for route in (None, knock_out([1], renormalise=False)):
            said = {}
            for lean in (False, True):
                network.lean = lean
                output = network(batch.inputs, batch.rule, route=route)
                said[lean] = output.prediction, output.routed[0].weight, output.routed[0].output
            torch.testing.assert_close(said[True], said[False])


def test_a_network_without_short_cuts_is_not_trained_by_them() -> None:
    run = run_of("smear", "binary")
    network = create(run.data, run.model, (1,))
    with pytest.raises(RunError, match="only attention and recurrent networks"):
        Stepper(network, "regression", engine="lean")
    other = run_of("global-routing", "sets")
    sets = create(other.data, other.model, (1,))
    assert Stepper(sets, "regression").engine == "lean"
    assert Stepper(sets, "regression", engine="eager").network.lean is False


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(
    "choices",
    [
        {"scorer": "shared", "gating": "top-k"},
        {"scorer": "both", "layers": 2},
        {"scorer": "both", "computation": "adapter"},
        {"scorer": "module", "computation": "low-rank"},
        {"scorer": "both", "aggregation": "parameters"},
    ],
)
def test_no_kernel_is_taken_for_modules_that_it_does_not_compute(choices: dict[str, Any]) -> None:
    model = from_dict(ModelSpec, {"encoder": 8, "width": 24, **choices})
    network = create(DataSpec(rules=4), model, (1,))
    assert Stepper(network, "regression").engine == "eager"
    with pytest.raises(RunError, match="Use --engine auto"):
        Stepper(network, "regression", engine="fused")


# --- parts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("polytropon", "series"),
        ("sparse-diff-per-rule", "series"),
        ("diff-pruning-per-rule", "binary"),
        ("joined-prefixes", "sets"),
        ("layer-hypernetwork", "binary"),
    ],
)
def test_a_cohort_in_parts_takes_the_steps_of_the_whole(
    name: str, task: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(name, task)
    monkeypatch.setattr(slices, "CACHED", 2**40)
    whole, expected, right = trained(run)
    monkeypatch.setattr(slices, "CACHED", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        stepper, seen, moved = trained(run)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert (whole._slices, len(stepper._slices or ())) == ((), len(SEEDS))
    torch.testing.assert_close(seen, expected)
    for key, value in moved.items():
        torch.testing.assert_close(value, right[key], rtol=1e-3, atol=1e-4)


def test_a_step_finds_the_memory_of_the_step_before() -> None:
    if sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"):
        pytest.skip("no C library that is told by mallopt what to keep")
    resource = importlib.import_module("resource")
    keep_memory()

    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(5):
            kept = [torch.ones(2**21) for _ in range(4)]
            del kept
        return int(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

    faults()
    assert faults() < 2_000  # pages of 4 KiB; anew they would be 40,000


def test_parts_are_as_large_as_the_cache_allows_and_share_all_parameters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = run_of("smear", "binary")
    network = create(run.data, run.model, range(7))
    stream = Stream(run.data, tuple((0, seed) for seed in range(7)), 16, CPU)
    batch = next(batches(stream))
    assert slices.slices_of(network, batch, None) == ()
    one = slices._kept_bytes(slices._slice(network, 0, 1), batch, None)
    monkeypatch.setattr(slices, "CACHED", 3 * one)
    cut = slices.slices_of(network, batch, None)
    assert [(part.first, part.last) for part in cut] == [(0, 2), (2, 4), (4, 7)]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    for part in cut:
        for name, value in part.network.named_parameters():
            assert torch.equal(value, network.get_parameter(name)[part.first : part.last])
