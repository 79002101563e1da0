"""Every engine keeps the laws of a cohort: seed s is seed s alone, and engines agree."""

import itertools

import pytest
import torch

from modeval.nn import create
from modeval.spec import MODELS, DataSpec, ModelSpec, from_dict, without_unread
from modeval.train.step import Stepper
from modeval.train.stream import Stream, batches

CPU = torch.device("cpu")
SEEDS = ((0, 0), (1, 0), (0, 3))
TASKS = ("binary", "sets", "series")
CASES = list(itertools.product(TASKS, MODELS))


def prepare(task, model, *, seeds=SEEDS, engine="eager", objective="regression", clip=0.0, **sizes):
    """Return a stepper and its stream, small."""
    settings = {"task": task, "objective": objective, "rules": 2, "dimension": 3, "length": 4}
    data = from_dict(DataSpec, without_unread(DataSpec, settings))
    small = {"encoder": 6, "width": 8, "heads": 1} | MODELS[model] | sizes
    spec = from_dict(ModelSpec, without_unread(ModelSpec, small, task=task))
    network = create(data, spec, [seed for _, seed in seeds])
    stepper = Stepper(network, objective, clip=clip, engine=engine)
    if (
        engine == "auto"
        and model != "modular-shared"
        and "no C++ compiler" not in (stepper.engine_note)
    ):
        assert stepper.engine == "fused", stepper.engine_note  # else nothing would be compared
    return stepper, batches(Stream(data, seeds, 24, CPU))


def train(stepper, source, steps=4, rate=1e-2):
    return [stepper.step(next(source), torch.tensor(rate)) for _ in range(steps)]


def weights(stepper):
    return {name: tensor.detach().clone() for name, tensor in stepper.network.named_parameters()}


def gradients(stepper):
    """Return the gradients of the first step: after it, a mean is a tenth of its gradient.

    Weights after a step would not do: Adam turns a gradient that is zero but for rounding into a
    whole step, to whichever side.
    """
    return {
        name: tensor.clone() for name, tensor in stepper.state().items() if name.startswith("mean")
    }


def first_gradients(stepper, source):
    train(stepper, source, steps=1)
    return gradients(stepper)


def assert_equal(found, expected, relative=1e-3, absolute=1e-6):
    for name, tensor in expected.items():
        torch.testing.assert_close(
            found[name],
            tensor,
            rtol=relative,
            atol=absolute,
            msg=lambda text, name=name: f"{name}: {text}",
        )


@pytest.mark.parametrize(("task", "model"), CASES)
@pytest.mark.parametrize("objective", ["regression", "classification"])
def test_the_automatic_engine_steps_as_the_plain_one(task, model, objective):
    plain, plain_source = prepare(task, model, objective=objective)
    fast, fast_source = prepare(task, model, objective=objective, engine="auto")
    assert_equal(first_gradients(fast, fast_source), first_gradients(plain, plain_source))
    for ours, theirs in zip(train(fast, fast_source), train(plain, plain_source), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("model", ["modular", "modular-op"])
@pytest.mark.parametrize("modules", [1, 4])
def test_engines_agree_where_modules_are_not_rules(task, model, modules):
    plain, plain_source = prepare(task, model, modules=modules)
    fast, fast_source = prepare(task, model, modules=modules, engine="auto")
    assert_equal(first_gradients(fast, fast_source), first_gradients(plain, plain_source))


@pytest.mark.parametrize(("task", "model"), CASES)
@pytest.mark.parametrize("engine", ["eager", "auto"])
def test_a_seed_of_a_cohort_is_that_seed_alone(task, model, engine):
    together, source = prepare(task, model, engine=engine)
    found = first_gradients(together, source)
    losses = torch.stack(train(together, source))
    for index, seed in enumerate(SEEDS):
        alone, own = prepare(task, model, engine=engine, seeds=(seed,))
        part = {name: tensor[[index]] for name, tensor in found.items()}
        assert_equal(part, first_gradients(alone, own), 1e-4, 1e-7)
        torch.testing.assert_close(
            losses[:, [index]], torch.stack(train(alone, own)), rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("engine", ["eager", "auto"])
def test_gradients_are_clipped_seed_by_seed(task, engine):
    whole = first_gradients(*prepare(task, "modular"))
    clipped = first_gradients(*prepare(task, "modular", clip=0.01, engine=engine))
    squares = torch.stack([part.flatten(1).square().sum(1) for part in whole.values()])
    norm = 10 * squares.sum(0).sqrt()
    assert (norm > 0.01).all()
    for name, part in clipped.items():
        factor = (0.01 / norm).view(-1, *[1] * (part.dim() - 1))
        torch.testing.assert_close(part, whole[name] * factor, rtol=1e-3, atol=1e-7)
    free = first_gradients(*prepare(task, "modular", clip=1e9, engine=engine))
    assert_equal(free, whole)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("engine", ["eager", "auto"])
def test_a_seed_that_is_not_finite_stays_alone(task, engine):
    sound, source = prepare(task, "modular", engine=engine, clip=1.0)
    train(sound, source)
    poisoned, poisoned_source = prepare(task, "modular", engine=engine, clip=1.0)
    with torch.no_grad():
        next(poisoned.network.parameters())[1].fill_(torch.nan)
    losses = train(poisoned, poisoned_source)
    assert torch.stack(losses)[:, 1].isnan().all()
    others = [0, 2]
    assert_equal(
        {name: tensor[others] for name, tensor in weights(poisoned).items()},
        {name: tensor[others] for name, tensor in weights(sound).items()},
    )


@pytest.mark.parametrize(("task", "model"), [(task, "modular") for task in TASKS])
@pytest.mark.parametrize("engine", ["eager", "auto"])
def test_state_goes_on_to_the_same_bits(task, model, engine):
    first, source = prepare(task, model, engine=engine)
    train(first, source, steps=2)
    second, second_source = prepare(task, model, engine=engine)
    second.network.load_state_dict(weights(first), strict=False)
    second.load_state({name: tensor.clone() for name, tensor in first.state().items()})
    for _ in range(2):
        next(second_source)
    train(first, source, steps=2)
    train(second, second_source, steps=2)
    found = weights(second)
    assert all(torch.equal(found[name], tensor) for name, tensor in weights(first).items())


@pytest.mark.parametrize("task", TASKS)
def test_adam_is_that_of_pytorch(task):
    stepper, source = prepare(task, "modular", seeds=SEEDS[:1])
    other, other_source = prepare(task, "modular", seeds=SEEDS[:1])
    optimiser = torch.optim.Adam(other.network.parameters(), lr=1e-2)
    for _ in range(3):
        stepper.step(next(source), torch.tensor(1e-2))
        batch = next(other_source)
        output = other.network(batch.inputs, batch.rule)
        optimiser.zero_grad()
        (output.prediction - batch.target).abs().mean().backward()
        optimiser.step()
    assert_equal(weights(stepper), weights(other), 1e-3, 1e-4)
