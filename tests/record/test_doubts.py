"""What makes a recording doubtful is a named warning, in Python and in the header of the trace."""

import pytest
import torch
from small_models import mixtral, padded  # type: ignore[import-not-found, unused-ignore]
from torch import nn

from modeval.record.recording import record
from modeval.trace.files import open_trace

MODULES, ROWS = 8, 400


class Told(nn.Module):
    """Routes tokens as it is told: the input holds the choices."""

    def forward(self, rows):
        return rows[:, :2].long(), rows[:, 2:4]


class Model(nn.Module):
    """Layers that are told what to choose."""

    def __init__(self, layers: int = 3) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.ModuleDict({"gate": Told()}) for _ in range(layers))

    def forward(self, choices):
        for layer, rows in zip(self.layers, choices, strict=True):
            layer.get_submodule("gate")(rows)


def rows_of(seed: int, layers: int = 3, rows: int = ROWS) -> list[torch.Tensor]:
    """Return independent choices, 2 of 8, some modules more often, with weights."""
    generator = torch.Generator().manual_seed(seed)
    lean = torch.arange(MODULES) / MODULES
    made = []
    for _ in range(layers):
        noise = torch.rand(rows, MODULES, generator=generator) + lean
        weight, chosen = noise.topk(2)
        made.append(torch.cat([chosen.float(), weight.softmax(-1)], 1))
    return made


def kinds(choices: list[torch.Tensor], path=None) -> set[str]:
    model = Model(len(choices))
    with record(model, routers={"gate": lambda out: out}, modules=MODULES, trace=path) as seen:
        model(choices)
    header = seen.header() if path is None else open_trace(path).header
    assert all(warned.text for warned in header.warnings)
    return {warned.kind for warned in header.warnings}


@pytest.mark.parametrize("seed", range(20))
def test_independent_choices_give_no_warning(seed: int) -> None:
    assert kinds(rows_of(seed)) == set()


def test_one_unbroken_run_of_one_choice_is_a_warm_up(tmp_path) -> None:
    choices = rows_of(0)
    for rows in choices:
        rows[100:180, :2] = torch.tensor([3.0, 5.0])
    assert "warm-up" in kinds(choices)
    assert "warm-up" in kinds(choices, tmp_path / "live.trace")


def test_rows_in_order_are_padding() -> None:
    choices = rows_of(1)
    for rows in choices:
        rows[::10, :2] = torch.tensor([0.0, 1.0])
    assert "padding" in kinds(choices)


def test_rows_that_repeat_their_predecessor_in_every_layer_are_seen() -> None:
    choices = rows_of(2)
    for rows in choices:
        rows[1::4] = rows[0::4]
    assert "repeated rows" in kinds(choices)


def test_a_layer_with_far_fewer_tokens_than_its_kind_is_seen() -> None:
    choices = rows_of(3)
    choices[1] = choices[1][: ROWS // 4]
    assert kinds(choices) == {"uneven layers"}


def test_weights_that_are_all_equal_are_ties() -> None:
    choices = rows_of(4)
    choices[2][:, 2:] = 0.5
    assert kinds(choices) == {"ties"}


def test_weights_of_which_each_is_one_are_those_of_a_sparse_mixer_and_no_ties() -> None:
    choices = rows_of(4)
    choices[2][:, 2:] = 1.0
    assert kinds(choices) == set()


def test_counts_more_equal_than_chance_are_seen() -> None:
    choices = rows_of(5)
    for number, rows in enumerate(choices):
        order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(number))
        rows[order, 0] = (torch.arange(ROWS) % MODULES).float()
        rows[order, 1] = ((torch.arange(ROWS) + 1 + torch.arange(ROWS) // 8) % MODULES).float()
    assert "too equal" in kinds(choices)


def test_experts_that_are_one_are_seen() -> None:
    model = mixtral()
    ids, mask = padded([[5, 6, 7], [9]])

    def found() -> set[str]:
        with torch.no_grad(), record(model) as seen:
            model(input_ids=ids, attention_mask=mask)
        return {warned.kind for warned in seen.warnings()}

    assert found() == set()
    for part in model.model.layers[1].mlp.experts.parameters():
        part.data[2] = part.data[0]
    assert found() == {"equal modules"}


def test_an_encoder_may_see_more_than_its_decoder() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.SwitchTransformersConfig(
        vocab_size=48,
        d_model=16,
        d_kv=8,
        d_ff=16,
        num_heads=2,
        num_layers=2,
        num_decoder_layers=2,
        num_sparse_encoder_layers=1,
        num_sparse_decoder_layers=1,
        num_experts=4,
        decoder_start_token_id=0,
    )
    model = transformers.SwitchTransformersForConditionalGeneration(config).eval()
    ids = torch.randint(3, 48, (2, 20))
    with torch.no_grad(), record(model) as seen:
        model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=4)
    assert "uneven layers" not in {warned.kind for warned in seen.warnings()}
