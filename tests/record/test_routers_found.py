"""Finding routers, and reading what a function of the user makes of them."""

import pytest
import torch
from small_models import MODULES, Model  # type: ignore[import-not-found, unused-ignore]
from torch import nn

from modeval.errors import TraceError
from modeval.record.recording import record

# --- finding routers -----------------------------------------------------------------------------


def test_a_model_without_routers_says_how_to_name_them() -> None:
    with pytest.raises(TraceError, match=r"no router that modeval knows.*routers=\{"):
        record(nn.Sequential(nn.Linear(4, 4)))


def test_a_pattern_that_matches_nothing_lists_names(model: Model) -> None:
    with pytest.raises(TraceError, match=r"No module is named 'blocks\.\*'.*layers\.0\.gate"):
        record(model, routers="blocks.*")


@pytest.mark.parametrize(
    "read",
    [
        lambda output: output[2],
        lambda output: (output[2], output[1]),
        lambda output: torch.zeros_like(output[0]).scatter(1, output[2], output[1]),
    ],
)
def test_what_a_users_function_may_return(model: Model, ids, read) -> None:
    with torch.no_grad(), record(model, routers={"gate": read}) as mine:
        model(ids)
    with torch.no_grad(), record(model) as other:
        model(ids)
    torch.testing.assert_close(mine.counts().selections, other.counts().selections)


def test_a_users_function_that_returns_something_else_is_refused(model: Model, ids) -> None:
    with (
        pytest.raises(TraceError, match=r"layers\.0\.gate returned dict: expected a tensor"),
        record(model, routers={"gate": lambda output: {}}),
    ):
        model(ids)


def test_soft_routing_counts_all_weights(ids) -> None:
    model = nn.Sequential(nn.Embedding(32, 8), nn.Linear(8, 3))
    soft = {"1": lambda logits: logits.softmax(-1)}
    with torch.no_grad(), record(model, routers=soft) as recording:
        logits = model(ids)
    expected = logits.softmax(-1).sum((0, 1)).double()
    torch.testing.assert_close(recording.counts().mass.sum((0, 1, 2)), expected)


class LogitBlock(nn.Module):
    """A block in the style of older libraries: the gate is linear, the block takes the top-k."""

    def __init__(self, *, biased: bool = False) -> None:
        super().__init__()
        self.gate = nn.Linear(8, MODULES, bias=False)
        self.experts = nn.ModuleList([nn.Linear(8, 8) for _ in range(MODULES)])
        self.top_k = 2
        if biased:
            self.register_buffer("e_score_correction_bias", torch.zeros(MODULES))

    def forward(self, hidden):
        self.chosen = self.gate(hidden).softmax(-1).topk(self.top_k).indices
        return hidden


def test_older_blocks_are_found_by_name(ids) -> None:
    block = LogitBlock()
    model = nn.Sequential(nn.Embedding(32, 8), block)
    with torch.no_grad(), record(model) as recording:
        model(ids)
    assert [layer.found for layer in recording.coverage().layers] == ["name"]
    expected = torch.bincount(block.chosen.flatten(), minlength=MODULES).double()
    assert recording.counts().selections.sum((0, 1, 2)).tolist() == expected.tolist()


def test_top_k_of_biased_logits_is_refused(ids) -> None:
    model = nn.Sequential(nn.Embedding(32, 8), LogitBlock(biased=True))
    with pytest.raises(TraceError, match="e_score_correction_bias takes part"), record(model):
        model(ids)


class Experts(nn.Module):
    """Experts as one tensor, told what was chosen."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(MODULES, 8, 8))

    def forward(self, hidden, top_k_index, top_k_weights):
        return hidden


class Strange(nn.Module):
    """A block whose router is no module: only the experts are told what was chosen."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(MODULES, 8))
        self.experts = Experts()
        self.num_experts = MODULES

    def forward(self, hidden):
        flat = hidden.reshape(-1, 8)
        weight, self.chosen = (flat @ self.table.T).softmax(-1).topk(2)
        return self.experts(flat, self.chosen, top_k_weights=weight).view_as(hidden)


def test_routers_without_a_module_are_heard_at_their_experts(ids) -> None:
    block = Strange()
    with torch.no_grad(), record(nn.Sequential(nn.Embedding(32, 8), block)) as recording:
        recording.model(ids)
    assert recording.coverage().layers[0].found == "experts"
    expected = torch.bincount(block.chosen.flatten(), minlength=MODULES).double()
    assert recording.counts().selections.sum((0, 1, 2)).tolist() == expected.tolist()


def test_experts_without_a_router_are_refused_or_accepted(model: Model, ids) -> None:
    stray = nn.Module()
    stray.experts = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
    model.stray = stray
    with pytest.raises(TraceError, match=r"No router was found for 1 modules .* stray"):
        record(model)
    with torch.no_grad(), record(model, partial=True) as recording:
        model(ids)
    coverage = recording.coverage()
    assert (coverage.expected, coverage.hooked, coverage.recorded) == (3, 2, 2)
    assert "stray: has experts, and no router was found" in str(coverage)
