"""A kernel computes what it lists and refuses all else, so it never trains another model."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modeval.nn import Network, create
from modeval.nn.linear import StackedLinear
from modeval.nn.network import Output
from modeval.nn.scorers import FixedScorer
from modeval.spec import MODELS, DataSpec, ModelSpec, from_dict, without_unread
from modeval.spec.computing.computations import LowRank
from modeval.spec.gatings import Fixed, Soft, TopK
from modeval.train.fused import COMPUTED, FAMILIES, Fused, KernelError
from modeval.train.step import Stepper
from modeval.types import Batch

TASKS = ("binary", "sets", "series")
SEEDS = (3, 4)


def data_of(task: str) -> DataSpec:
    return from_dict(
        DataSpec,
        without_unread(DataSpec, {"task": task, "rules": 3, "dimension": 5, "length": 4}),
    )


def network_of(task: str, name: str = "modular", **choices: Any) -> Network:
    model = ModelSpec(**MODELS[name], encoder=8, width=24, **choices)
    return create(data_of(task), model, SEEDS)


def another_gating(network: Network) -> None:
    network.gating = TopK(k=2)  # type: ignore[assignment]


def another_temperature(network: Network) -> None:
    network.gating = Soft(temperature=0.5)  # type: ignore[assignment]


def the_gating_of_another_scorer(network: Network) -> None:
    network.gating = Fixed() if network.gating == Soft() else Soft()  # type: ignore[assignment]


def another_aggregation(network: Network) -> None:
    network.aggregation = "parameters"  # type: ignore[assignment]


def a_scorer_of_another_type(network: Network) -> None:
    class Doubled(type(network.scorer)):  # type: ignore[misc]
        def forward(self, *seen: Tensor) -> Tensor:
            return 2 * super().forward(*seen)  # type: ignore[no-any-return]

    network.scorer.__class__ = Doubled


def a_network_with_another_forward(network: Network) -> None:
    class Shifted(type(network)):  # type: ignore[misc]
        def forward(self, inputs: Tensor, rule: Tensor, **more: Any) -> Output:
            output = super().forward(inputs, rule, **more)
            return Output(output.prediction + 1, output.routed)

    network.__class__ = Shifted


def a_layer_of_another_type(network: Network) -> None:
    class Scaled(StackedLinear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    decoder = network.decoder
    decoder.readout.__class__ = Scaled  # type: ignore[union-attr]


def one_parameter_more(network: Network) -> None:
    network.scale = nn.Parameter(torch.ones(len(SEEDS)))


def one_parameter_in_a_layer_more(network: Network) -> None:
    network.decoder.low_rank = nn.Parameter(torch.ones(len(SEEDS), 2))  # type: ignore[union-attr]


def one_parameter_fewer(network: Network) -> None:
    network.get_submodule("decoder.readout").bias = None  # type: ignore[assignment]


def one_parameter_frozen(network: Network) -> None:
    next(network.parameters()).requires_grad_(False)


def one_parameter_shared(network: Network) -> None:
    decoder = network.decoder
    decoder.readout.bias = decoder.hidden.bias  # type: ignore[union-attr]


def a_wider_layer(network: Network) -> None:
    layer = network.get_submodule("decoder.hidden")
    layer.weight = nn.Parameter(torch.zeros(len(SEEDS), 24, 99))


def a_hook(network: Network) -> None:
    network.decoder.register_forward_hook(lambda *_: None)  # type: ignore[union-attr]


def a_hook_before_it(network: Network) -> None:
    network.register_forward_pre_hook(lambda *_: None)


def a_forward_of_its_own(network: Network) -> None:
    network.forward = lambda *_: None  # type: ignore[assignment]


def a_mask(network: Network) -> None:
    network.decoder.register_buffer("mask", torch.ones(1))  # type: ignore[union-attr]


def a_parametrised_weight(network: Network) -> None:
    nn.utils.parametrizations.weight_norm(network.get_submodule("decoder.hidden"))


def double_precision(network: Network) -> None:
    network.double()


CHANGES: list[Callable[[Network], None]] = [
    another_gating,
    another_temperature,
    another_aggregation,
    the_gating_of_another_scorer,
    a_scorer_of_another_type,
    a_network_with_another_forward,
    a_layer_of_another_type,
    one_parameter_more,
    one_parameter_in_a_layer_more,
    one_parameter_fewer,
    one_parameter_frozen,
    one_parameter_shared,
    a_wider_layer,
    a_hook,
    a_hook_before_it,
    a_forward_of_its_own,
    a_mask,
    a_parametrised_weight,
    double_precision,
]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", ["modular", "modular-op", "gt-modular"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_kernel_refuses_a_network_with_one_thing_changed(
    task: str, name: str, change: Callable[[Network], None]
) -> None:
    network = network_of(task, name)
    change(network)
    with pytest.raises(KernelError, match="fused kernels"):
        Fused(network, "regression")


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    "choices",
    [
        {"gating": TopK(k=2)},
        {"computation": LowRank()},
        {"layers": 2},
        {"aggregation": "attend"},
    ],
    ids=["gating", "computation", "layers", "aggregation"],
)
def test_a_choice_without_a_kernel_is_refused(task: str, choices: dict[str, Any]) -> None:
    with pytest.raises(KernelError, match="fused kernels"):
        Fused(network_of(task, **choices), "regression")


@pytest.mark.parametrize("task", TASKS)
def test_the_shared_scorer_has_no_kernel(task: str) -> None:
    with pytest.raises(KernelError, match="the scorer SharedScorer"):
        Fused(network_of(task, "modular-shared"), "regression")


def test_a_table_of_another_shape_is_refused() -> None:
    network = network_of("binary", "gt-modular")
    assert isinstance(network.scorer, FixedScorer)
    network.scorer.table = torch.eye(4)
    with pytest.raises(KernelError, match="table of shape"):
        Fused(network, "regression")


@pytest.mark.parametrize("task", TASKS)
def test_what_is_refused_trains_without_a_kernel_as_it_is_and_says_why(task: str) -> None:
    network, eager = network_of(task), network_of(task)
    another_gating(network)
    another_gating(eager)
    positions = () if task == "binary" else (4,)
    data = data_of(task)
    batch = Batch(
        torch.randn(2, 6, *positions, data.features),
        torch.randint(3, (2, 6, *positions)),
        torch.randn(2, 6, *positions, data.outputs),
    )
    stepper = Stepper(network, "regression")
    assert (stepper.engine, stepper.engine_note) == (
        "eager" if task == "binary" else "lean",
        "the fused kernels do not know the gating top-k",
    )
    other = Stepper(eager, "regression", engine="eager")
    rate = torch.tensor(1e-3)
    torch.testing.assert_close(stepper.step(batch, rate), other.step(batch, rate))


def test_a_list_of_what_is_computed_holds_only_parameters_that_the_kernel_orders() -> None:
    for (network, *_), orders in COMPUTED.items():
        family = FAMILIES[network]
        for names in orders:
            assert [name for name in family.parameters if name in names] == list(names)
            assert {name.rpartition(".")[0] for name in names} <= set(family.layers)
