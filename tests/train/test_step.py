"""A step treats each seed as if it were alone, whatever computes it."""

import copy
import itertools
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from modeval.errors import RunError
from modeval.nn import Network, create
from modeval.spec import MODELS, DataSpec, Engine, ModelSpec
from modeval.train.goal import clipped, losses
from modeval.train.step import Stepper
from modeval.types import Batch

TASKS = {
    "binary": DataSpec(task="binary", rules=3),
    "sets": DataSpec(task="sets", rules=3, length=4),
    "series": DataSpec(task="series", rules=3, dimension=5, length=4),
}
MODEL = ModelSpec(scorer="module", encoder=8, width=24)
SEEDS = (5, 1, 7)
RATE = torch.tensor(1e-3)


@pytest.fixture(params=["eager", "fused"])
def engine(request: pytest.FixtureRequest) -> Engine:
    if request.param == "fused":
        request.getfixturevalue("kernels")
    return request.param  # type: ignore[no-any-return]


def draw(data: DataSpec, seeds: int, samples: int = 21, number: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(number)
    shape = (seeds, samples, *((data.length,) if data.sequence else ()))
    target = torch.randn(*shape, data.outputs, generator=generator)
    if data.objective == "classification":
        target = (target >= 0).float()
    return Batch(
        torch.randn(*shape, data.features, generator=generator),
        torch.randint(data.rules, shape, generator=generator),
        target,
    )


def some(batch: Batch, seeds: list[int]) -> Batch:
    return Batch(batch.inputs[seeds], batch.rule[seeds], batch.target[seeds])


def run(
    network: Network, engine: Engine, batches: list[Batch], *, clip: float = 0.0
) -> tuple[list[Tensor], Stepper]:
    stepper = Stepper(network, "regression", clip=clip, engine=engine)
    return [stepper.step(batch, RATE) for batch in batches], stepper


def parameters(network: Network, seed: int) -> Tensor:
    return torch.cat([parameter[seed].flatten() for parameter in network.parameters()]).detach()


@pytest.mark.parametrize("task", TASKS)
def test_a_seed_of_a_cohort_is_that_seed_trained_alone(task: str, engine: Engine) -> None:
    data = TASKS[task]
    batches = [draw(data, len(SEEDS), number=number) for number in range(4)]
    cohort = create(data, MODEL, SEEDS)
    together, _ = run(cohort, engine, batches)
    for index, seed in enumerate(SEEDS):
        alone = create(data, MODEL, (seed,))
        losses_alone, _ = run(alone, engine, [batch.seed(index) for batch in batches])
        for one, all_of_them in zip(losses_alone, together, strict=True):
            torch.testing.assert_close(one[0], all_of_them[index], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            parameters(alone, 0), parameters(cohort, index), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("task", TASKS)
def test_removing_a_seed_changes_nothing_for_the_others(task: str, engine: Engine) -> None:
    data = TASKS[task]
    batches = [draw(data, len(SEEDS), number=number) for number in range(3)]
    all_of_them, fewer = create(data, MODEL, SEEDS), create(data, MODEL, (SEEDS[0], SEEDS[2]))
    run(all_of_them, engine, batches)
    run(fewer, engine, [some(batch, [0, 2]) for batch in batches])
    for index, place in ((0, 0), (1, 2)):
        torch.testing.assert_close(
            parameters(fewer, index), parameters(all_of_them, place), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_a_nan_in_one_seed_does_not_touch_the_others(
    task: str, engine: Engine, clip: float
) -> None:
    data = TASKS[task]
    batches = [draw(data, len(SEEDS), number=number) for number in range(2)]
    sound, sick = create(data, MODEL, SEEDS), create(data, MODEL, SEEDS)
    with torch.no_grad():
        next(iter(sick.parameters()))[1] = torch.nan
    run(sound, engine, batches, clip=clip)
    seen, _ = run(sick, engine, batches, clip=clip)
    for index in (0, 2):
        torch.testing.assert_close(
            parameters(sick, index), parameters(sound, index), rtol=0, atol=0
        )
    assert torch.stack(seen).isfinite().tolist() == [[True, False, True]] * 2


@pytest.mark.parametrize("task", TASKS)
def test_what_is_frozen_stays_as_it_is_to_the_bit(task: str) -> None:
    network = create(TASKS[task], MODEL, SEEDS)
    frozen = next(network.parameters()).requires_grad_(False)
    before = parameters(network, 0), frozen.clone()
    run(network, "auto", [draw(TASKS[task], len(SEEDS), number=n) for n in range(3)])
    assert torch.equal(frozen, before[1])
    assert not torch.equal(parameters(network, 0), before[0])


def test_a_nan_in_the_data_of_one_seed_is_seen_in_its_loss(engine: Engine) -> None:
    batch = draw(TASKS["binary"], len(SEEDS))
    batch.inputs[2, 4, 0] = torch.nan
    seen, _ = run(create(TASKS["binary"], MODEL, SEEDS), engine, [batch])
    assert seen[0].isfinite().tolist() == [True, True, False]


@pytest.mark.parametrize("task", TASKS)
def test_a_step_goes_where_the_optimiser_of_pytorch_goes(task: str, engine: Engine) -> None:
    data = TASKS[task]
    ours = create(data, MODEL, SEEDS)
    theirs = copy.deepcopy(ours)
    optimiser = torch.optim.Adam(theirs.parameters(), lr=float(RATE))
    stepper = Stepper(ours, "regression", engine=engine)
    for number in range(3):
        batch = draw(data, len(SEEDS), number=number)
        stepper.step(batch, RATE)
        optimiser.zero_grad()
        prediction = theirs(batch.inputs, batch.rule).prediction
        losses(prediction, batch.target, "regression").sum().backward()
        optimiser.step()
    # a gradient of almost nothing is mostly rounding, and Adam makes a whole step of it
    difference = torch.cat([parameters(ours, s) - parameters(theirs, s) for s in range(3)]).abs()
    assert difference.quantile(0.99) < 1e-5


@pytest.mark.parametrize("task", TASKS)
def test_clipping_bounds_the_norm_of_each_seed_on_its_own(task: str) -> None:
    data = TASKS[task]
    network, batch = create(data, MODEL, SEEDS), draw(data, len(SEEDS))
    each = losses(network(batch.inputs, batch.rule).prediction, batch.target, "regression")
    gradients = list(
        torch.autograd.grad((each * torch.tensor([1e2, 1e-5, 1e4])).sum(), [*network.parameters()])
    )
    limited = clipped(gradients, 0.1)
    norms = [
        torch.stack([gradient[seed].norm() for gradient in limited]).norm() for seed in range(3)
    ]
    assert norms[0] == pytest.approx(0.1, rel=1e-3)
    assert norms[2] == pytest.approx(0.1, rel=1e-3)
    assert norms[1] < 0.01  # small already
    assert all(torch.equal(a[1], b[1]) for a, b in zip(gradients, limited, strict=True))


@pytest.mark.parametrize("task", TASKS)
def test_a_resumed_run_has_the_same_bits(task: str, engine: Engine) -> None:
    data = TASKS[task]
    batches = [draw(data, len(SEEDS), number=number) for number in range(6)]
    whole = create(data, MODEL, SEEDS)
    whole_losses, whole_stepper = run(whole, engine, batches)

    first = create(data, MODEL, SEEDS)
    _, stopped = run(first, engine, batches[:3])
    kept = {name: tensor.clone() for name, tensor in stopped.state().items()}
    weights = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    second = create(data, MODEL, (0, 0, 0))
    second.load_state_dict(weights)
    resumed = Stepper(second, "regression", engine=engine)
    resumed.load_state(kept)
    resumed_losses = [resumed.step(batch, RATE) for batch in batches[3:]]

    assert torch.equal(torch.stack(resumed_losses), torch.stack(whole_losses[3:]))
    assert all(
        torch.equal(a, b) for a, b in zip(second.parameters(), whole.parameters(), strict=True)
    )
    state = resumed.state()
    assert all(torch.equal(state[name], value) for name, value in whole_stepper.state().items())


def test_losses_are_means_of_each_seed() -> None:
    prediction = torch.tensor([[[1.0], [3.0]], [[0.0], [0.0]]])
    target = torch.tensor([[[0.0], [1.0]], [[1.0], [0.0]]])
    torch.testing.assert_close(losses(prediction, target, "regression"), torch.tensor([1.5, 0.5]))
    torch.testing.assert_close(
        losses(torch.zeros_like(target), target, "classification"), torch.full((2,), 2.0).log()
    )


def test_the_shared_scorer_is_trained_eagerly_and_the_note_says_why() -> None:
    network = create(TASKS["binary"], ModelSpec(scorer="shared", encoder=8, width=24), SEEDS)
    stepper = Stepper(network, "regression")
    assert stepper.engine == "eager"
    assert "the scorer SharedScorer" in stepper.engine_note


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_the_step_that_is_compiled_is_the_eager_one(task: str, clip: float) -> None:
    data = TASKS[task]
    eager, whole = create(data, MODEL, SEEDS), create(data, MODEL, SEEDS)
    stepper = Stepper(whole, "regression", clip=clip, engine="eager")
    batches = [draw(data, len(SEEDS), number=number) for number in range(3)]
    expected, _ = run(eager, "eager", batches, clip=clip)
    values = [parameter.detach() for parameter in stepper.parameters]
    seen = [
        stepper._whole(
            *(values, stepper.means, stepper.squares, stepper.count),
            *((batch.inputs, batch.rule, batch.target), RATE),
        )
        for batch in batches
    ]
    torch.testing.assert_close(torch.stack(seen), torch.stack(expected), rtol=1e-5, atol=1e-5)
    difference = torch.cat([parameters(eager, s) - parameters(whole, s) for s in range(3)]).abs()
    assert difference.quantile(0.99) < 1e-5


@pytest.mark.slow
@pytest.mark.usefixtures("kernels")
def test_the_step_compiles_into_one_graph_without_a_word() -> None:
    # in a process of its own, where shapes are not checked at run time
    script = """
import copy, torch
from modeval.nn import create
from modeval.spec import DataSpec, ModelSpec
from modeval.train.step import Stepper
from modeval.types import Batch
network = create(DataSpec(rules=3), ModelSpec(scorer="rule", encoder=8, width=24), (1, 2))
batch = Batch(torch.randn(2, 16, 2), torch.randint(3, (2, 16)), torch.randn(2, 16, 1))
steppers = [
    Stepper(copy.deepcopy(network), "regression", engine=engine) for engine in ("eager", "compiled")
]
for _ in range(2):
    one, other = (stepper.step(batch, torch.tensor(1e-3)) for stepper in steppers)
    torch.testing.assert_close(one, other)
assert steppers[1].engine == "compiled", steppers[1].engine_note
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(("task", "name"), [*itertools.product(TASKS, MODELS)])
def test_every_model_takes_a_step_that_lowers_its_loss(
    task: str, name: str, engine: Engine
) -> None:
    data = TASKS[task]
    network = create(data, ModelSpec(**MODELS[name], encoder=8, width=24), SEEDS)
    if engine == "fused" and name == "modular-shared":
        with pytest.raises(RunError, match="do not know the scorer SharedScorer"):
            Stepper(network, "regression", engine=engine)
        return
    batch = draw(data, len(SEEDS))
    seen, _ = run(network, engine, [batch] * 8)
    assert (seen[-1] < seen[0]).all()
