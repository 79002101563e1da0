"""Initial parameters lie in the ranges of the reference implementation."""

import pytest
import torch

from modeval.nn import create
from modeval.spec import MODELS, DataSpec, ModelSpec

SEEDS = range(8)


@pytest.mark.parametrize(("encoder", "width"), [(32, 128), (64, 256)])
def test_the_plain_recurrent_model_starts_as_an_lstm_cell_does(encoder: int, width: int) -> None:
    model = ModelSpec(**MODELS["monolithic"], encoder=encoder, width=width)
    network = create(DataSpec(task="series", rules=2), model, SEEDS)
    cell = torch.nn.LSTMCell(encoder, width)
    ours = {name: p for name, p in network.named_parameters() if "gates" in name}
    assert len(ours) == len(list(cell.parameters())) == 4
    for parameter in (*ours.values(), *cell.parameters()):
        assert 0.95 < float(parameter.detach().abs().max()) * width**0.5 <= 1


@pytest.mark.parametrize("name", ["modular", "modular-op", "gt-modular"])
def test_gates_of_modules_start_by_what_they_read(name: str) -> None:
    data, model = DataSpec(task="series", rules=4), ModelSpec(**MODELS[name])
    network = create(data, model, SEEDS)
    for part in ("input_gates", "state_gates"):
        weight = network.get_parameter(f"{part}.weight")
        assert 0.98 < float(weight.detach().abs().max()) * weight.shape[-2] ** 0.5 <= 1
