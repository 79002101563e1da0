"""The fused kernels give the gradients that autograd gives; are found, kept and done without."""

import itertools
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from modeval import native
from modeval.errors import RunError
from modeval.native import Compiler
from modeval.nn import Network, create
from modeval.spec import MODELS, DataSpec, ModelSpec, Objective, from_dict, without_unread
from modeval.train.fused import Fused, load
from modeval.train.goal import clipped, losses
from modeval.train.step import Stepper
from modeval.types import Batch

SEEDS = (3, 4)
TASKS = ("binary", "sets", "series")
NAMES = ("monolithic", "modular", "modular-op", "gt-modular")
OBJECTIVES: tuple[Objective, ...] = ("regression", "classification")


def draw(data: DataSpec, seeds: int, samples: int) -> Batch:
    generator = torch.Generator().manual_seed(1)
    shape = (seeds, samples, *((data.length,) if data.sequence else ()))
    target = torch.randn(*shape, data.outputs, generator=generator)
    if data.objective == "classification":
        target = (target >= 0).float()
    return Batch(
        torch.randn(*shape, data.features, generator=generator),
        torch.randint(data.rules, shape, generator=generator),
        target,
    )


def autograd(network: Network, batch: Batch, objective: Objective) -> tuple[Tensor, list[Tensor]]:
    """Return losses and gradients in float64, so that only the kernel rounds."""
    precise = network.double()
    prediction = precise(batch.inputs.double(), batch.rule).prediction
    each = losses(prediction, batch.target.double(), objective)
    gradients = torch.autograd.grad(each.sum(), [*precise.parameters()])
    return each.detach().float(), [gradient.float() for gradient in gradients]


def assert_as_autograd(network: Network, batch: Batch) -> None:
    """Check the losses and gradients of the kernel against those of autograd."""
    seen, gradients = Fused(network, "regression").gradients(batch)
    expected, exact = autograd(network, batch, "regression")
    torch.testing.assert_close(seen, expected, rtol=1e-5, atol=1e-5)
    for gradient, right in zip(gradients, exact, strict=True):
        torch.testing.assert_close(gradient, right, rtol=1e-3, atol=1e-5)


def spec(  # noqa: PLR0917
    task: str, name: str, rules: int, modules: int, match: str, objective: Objective
) -> tuple[DataSpec, ModelSpec]:
    small = {"task": task, "rules": rules, "objective": objective, "dimension": 5, "length": 5}
    data = from_dict(DataSpec, without_unread(DataSpec, small))
    choice = dict(MODELS[name]) | ({"modules": modules} if modules else {})
    return data, ModelSpec(**choice, encoder=20, width=60, match=match)  # type: ignore[arg-type]


CASES = [
    (task, name, rules, modules, match)
    for task, name, (rules, modules), match in itertools.product(
        TASKS, NAMES, ((3, 0), (2, 5), (5, 3)), ("parameters", "width")
    )
    if not modules or name in ("modular", "modular-op")
]


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(("task", "name", "rules", "modules", "match"), CASES)
def test_the_kernel_gives_the_gradients_of_autograd(  # noqa: PLR0917
    task: str, name: str, rules: int, modules: int, match: str, objective: Objective
) -> None:
    data, model = spec(task, name, rules, modules, match, objective)
    network, batch = create(data, model, SEEDS), draw(data, len(SEEDS), 19)
    seen, gradients = Fused(network, objective).gradients(batch)
    expected, exact = autograd(network, batch, objective)
    torch.testing.assert_close(seen, expected, rtol=1e-5, atol=1e-5)
    for gradient, right in zip(gradients, exact, strict=True):
        scale = float(right.abs().max())
        torch.testing.assert_close(gradient, right, rtol=1e-3, atol=1e-4 * scale + 1e-7)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("task", "rules", "samples"), [*((task, 8, 60) for task in TASKS), ("series", 32, 150)]
)
def test_the_kernel_holds_at_the_sizes_of_the_paper(
    task: str, rules: int, samples: int, name: str
) -> None:
    data, model = DataSpec(task=task, rules=rules), ModelSpec(**MODELS[name])  # type: ignore[arg-type]
    network, batch = create(data, model, SEEDS), draw(data, len(SEEDS), samples)
    seen, gradients = Fused(network, "regression").gradients(batch)
    expected, exact = autograd(network, batch, "regression")
    torch.testing.assert_close(seen, expected, rtol=1e-5, atol=1e-5)
    for gradient, right in zip(gradients, exact, strict=True):
        difference = (gradient - right).norm() / (right.norm() + 1e-6)
        assert difference < 1e-3


@pytest.mark.usefixtures("kernels")
def test_modules_that_no_sample_needs_have_no_gradient() -> None:
    data, model = spec("series", "gt-modular", 20, 0, "width", "regression")
    network, batch = create(data, model, SEEDS), draw(data, len(SEEDS), 6)
    batch.rule.clamp_(max=3)
    _, gradients = Fused(network, "regression").gradients(batch)
    _, exact = autograd(network, batch, "regression")
    for gradient, right in zip(gradients, exact, strict=True):
        torch.testing.assert_close(gradient, right, rtol=1e-3, atol=1e-6)
    gates = dict(zip(dict(network.named_parameters()), gradients, strict=True))
    assert not gates["state_gates.weight"][:, 4:].any()


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("task", TASKS)
def test_the_kernel_clips_each_seed_as_the_definition_does(task: str) -> None:
    data, model = spec(task, "modular", 3, 0, "parameters", "regression")
    network, batch = create(data, model, SEEDS), draw(data, len(SEEDS), 19)
    _, free = Fused(network, "regression").gradients(batch)
    _, bound = Fused(network, "regression", clip=0.01).gradients(batch)
    for one, other in zip(clipped(free, 0.01), bound, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-9)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("name", ["modular", "gt-modular"])
@pytest.mark.parametrize("task", TASKS)
def test_what_lies_in_the_working_memory_does_not_reach_a_result(task: str, name: str) -> None:
    data, model = spec(task, name, 3, 0, "parameters", "regression")
    batch = draw(data, len(SEEDS), 19)
    kernel = Fused(create(data, model, SEEDS), "regression")
    loss, gradients = kernel.gradients(batch)
    kernel._workspace.fill_(math.nan)
    again, others = kernel.gradients(batch)
    assert torch.equal(loss, again)
    assert all(torch.equal(one, other) for one, other in zip(gradients, others, strict=True))


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("task", TASKS)
def test_bits_do_not_depend_on_threads_or_on_the_rest_of_the_cohort(task: str) -> None:
    data, model = spec(task, "modular", 3, 0, "parameters", "regression")
    batch = draw(data, 3, 19)
    _, together = Fused(create(data, model, (3, 4, 5)), "regression").gradients(batch)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        _, again = Fused(create(data, model, (3, 4, 5)), "regression").gradients(batch)
    finally:
        torch.set_num_threads(threads)
    _, alone = Fused(create(data, model, (4,)), "regression").gradients(batch.seed(1))
    for first, second, third in zip(together, again, alone, strict=True):
        assert torch.equal(first, second)
        assert torch.equal(first[1], third[0])


@pytest.mark.usefixtures("kernels")
def test_a_table_of_any_weights_is_followed() -> None:
    data, model = spec("binary", "gt-modular", 3, 0, "parameters", "regression")
    network = create(data, model, SEEDS)
    network.scorer.table = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5], [1.0, 0.0, 0.0]])  # type: ignore[union-attr]
    assert_as_autograd(network, draw(data, len(SEEDS), 19))


@pytest.mark.usefixtures("kernels")
def test_units_without_slope_count_everywhere_or_nowhere() -> None:
    data, model = spec("binary", "modular", 3, 0, "parameters", "regression")
    network = create(data, model, SEEDS)
    with torch.no_grad():
        dict(network.named_parameters())["encoder_number.hidden.weight"][:, :, :6] = 0
    assert_as_autograd(network, draw(data, len(SEEDS), 19))


@pytest.mark.usefixtures("kernels")
def test_a_rule_out_of_range_is_refused_before_anything_changes() -> None:
    data, model = spec("binary", "modular", 3, 0, "parameters", "regression")
    network, batch = create(data, model, SEEDS), draw(data, len(SEEDS), 19)
    before = [parameter.clone() for parameter in network.parameters()]
    batch.rule[1, 3] = 3
    with pytest.raises(IndexError, match="0 to 3 - 1"):
        Stepper(network, "regression", engine="fused").step(batch, torch.tensor(1e-3))
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


@pytest.fixture
def fresh() -> object:
    """Forget loaded kernels, before and after."""
    load.cache_clear()
    yield
    load.cache_clear()


@pytest.mark.usefixtures("fresh")
def test_without_a_compiler_training_is_eager_and_the_note_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(native, "COMPILERS", ("no-such-compiler",))
    data, model = spec("binary", "modular", 3, 0, "parameters", "regression")
    network = create(data, model, SEEDS)
    stepper = Stepper(network, "regression")
    assert stepper.engine == "eager"
    assert stepper.engine_note == "no C++ compiler found (looked for no-such-compiler)"
    with pytest.raises(RunError, match="no C\\+\\+ compiler"):
        Stepper(network, "regression", engine="fused")


@pytest.mark.usefixtures("fresh", "kernels")
def test_a_cache_that_cannot_be_written_means_eager(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    load.cache_clear()
    monkeypatch.setattr(native, "user_cache", lambda: blocked / "modeval")
    data, model = spec("binary", "modular", 3, 0, "parameters", "regression")
    stepper = Stepper(create(data, model, SEEDS), "regression")
    assert stepper.engine == "eager"
    assert "cannot be kept" in stepper.engine_note


@pytest.mark.usefixtures("fresh")
def test_a_compiler_that_fails_means_eager(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "broken-compiler"
    broken.write_text("#!/bin/sh\necho 'x.cpp:1:1: error: broken' >&2\nexit 1\n")
    broken.chmod(0o755)
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    monkeypatch.setattr(native, "find_compiler", lambda: Compiler(str(broken), "1"))
    monkeypatch.setattr(native, "user_cache", lambda: cache)
    data, model = spec("binary", "modular", 3, 0, "parameters", "regression")
    stepper = Stepper(create(data, model, SEEDS), "regression")
    assert stepper.engine == "eager"
    assert "error: broken" in stepper.engine_note
    assert not list(cache.iterdir())
