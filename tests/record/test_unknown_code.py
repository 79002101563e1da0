"""Routers that nothing is known of: what is read is what the experts got, or it is refused."""

# ruff: noqa: PT012, SIM117 - what must fail is the whole recording
from pathlib import Path

import pytest
import torch
from torch import nn

import modeval
from modeval.errors import TraceError
from modeval.record.recording import record
from modeval.record.routers.find import find_routers
from modeval.trace.files import open_trace

EXPERTS = 4


class Block(nn.Module):
    """A block whose router is linear, and whose experts are modules; a rule chooses."""

    def __init__(self, rule: str = "plain", bias: str = "") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gate, self.top_k, self.rule = nn.Linear(8, EXPERTS, bias=False), 1, rule
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(EXPERTS))
        if bias:
            self.register_parameter(bias, nn.Parameter(torch.tensor([9.0, 0.0, 0.0, 0.0])))

    def forward(self, hidden):
        flat = hidden.reshape(-1, 8)
        scores = self.gate(flat).softmax(-1)
        if self.rule == "noise":
            scores = scores + torch.rand_like(scores)
        for name, part in self.named_parameters(recurse=False):
            scores = scores + part * (name != "weight")
        chosen = scores.argmax(-1)
        rows = [(chosen == expert).nonzero()[:, 0] for expert in range(EXPERTS)]
        if self.rule == "capacity":
            rows = [part[: len(flat) // EXPERTS] for part in rows]
        if self.rule == "expert choice":
            rows = list(scores.topk(len(flat) // EXPERTS, dim=0).indices.T)
        if self.rule == "all":
            rows = [torch.arange(len(flat))] * EXPERTS
        out = torch.zeros_like(flat)
        for expert, part in zip(self.experts, rows, strict=True):
            out = out.index_add(0, part, expert(flat[part]))
        return out.view_as(hidden)


def run(block: nn.Module, rows: int = 200):
    with torch.no_grad(), record(nn.Sequential(block)) as recording:
        recording.model(torch.randn(rows, 8, generator=torch.Generator().manual_seed(1)))
    return recording


@pytest.mark.parametrize("rule", ["noise", "capacity", "expert choice"])
def test_what_comes_between_logits_and_experts_is_noticed(rule: str) -> None:
    with pytest.raises(TraceError, match=r"Expert \d of 0\.gate was given \d+ tokens, and what"):
        run(Block(rule))


@pytest.mark.parametrize(
    "name",
    ["correction_bias", "load_balance_bias", "e_score_bias", "expert_biases", "router_bias"],
)
def test_a_bias_of_the_choice_is_noticed_by_any_name(name: str) -> None:
    with pytest.raises(TraceError, match=f"{name} takes part in the choice"):
        run(Block(bias=name))


@pytest.mark.parametrize("name", ["balance", "offset"])
def test_a_bias_without_that_name_shows_at_the_experts(name: str) -> None:
    with pytest.raises(TraceError, match=r"Expert 0 of 0\.gate was given 200 tokens|Expert \d of"):
        run(Block(bias=name))


@pytest.mark.parametrize("name", ["n_group", "num_expert_groups", "topk_group"])
def test_groups_are_noticed_by_any_name(name: str) -> None:
    block = Block()
    setattr(block, name, 2)
    with pytest.raises(TraceError, match=rf"a limit to 2 groups \({name}\) takes part"):
        run(block)


def test_logits_that_the_experts_confirm_are_recorded_and_said_to_be_read() -> None:
    recording = run(Block())
    assert recording.counts().selections.sum() == 200
    assert recording.header().weight_scale == "assumed"
    assert len(recording.header().notes) == 1
    assert (
        "1 routers are read as the largest of their logits (0.gate): their experts were given"
        in (recording.header().notes[0])
    )


@pytest.mark.parametrize("rows", [1, 200])
def test_experts_that_are_given_every_token_confirm_nothing(rows: int) -> None:
    recording = run(Block("all"), rows)
    assert "nothing confirms that nothing else decides" in recording.header().notes[0]


def test_weights_that_are_a_guess_are_marked_in_the_trace_and_with_the_scores(
    tmp_path: Path,
) -> None:
    block = nn.Sequential(Block())
    with record(block, trace=tmp_path / "x.trace"), torch.no_grad():
        block(torch.randn(200, 8))
    header = open_trace(tmp_path / "x.trace").header
    assert header.weight_scale == "assumed"
    assert header.shares
    card = modeval.score(tmp_path / "x.trace")
    [model] = card.models
    assert model.model["weight_scale"] == "assumed"
    assert "weights are taken as a softmax" in " ".join(model.data["notes"])


class Dense(nn.Module):
    """A router whose weights are stored the other way around, and that returns all shares."""

    def __init__(self, width: int = 32, modules: int = EXPERTS) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, modules))

    def forward(self, hidden):
        return (hidden @ self.weight).softmax(-1)


def test_the_number_of_modules_is_that_of_the_weights_a_reader_returns() -> None:
    model = nn.Sequential(nn.Linear(8, 32), Dense())
    with torch.no_grad(), record(model, ["a", "b"], routers={"1": lambda out: out}) as recording:
        recording.label([0, 1] * 50)
        model(torch.randn(100, 8))
    assert recording.counts().mass.shape[-1] == EXPERTS
    assert recording.header().modules == (EXPERTS,)


def test_a_linear_router_that_is_read_as_fewer_modules_is_corrected() -> None:
    model = nn.Sequential(nn.Linear(8, 12))
    read = {"0": lambda out: out[..., :3].softmax(-1)}
    with torch.no_grad(), record(model, routers=read) as recording:
        model(torch.randn(10, 8))
    assert recording.counts().mass.shape[-1] == 3


def test_another_number_than_was_said_is_refused() -> None:
    model = nn.Sequential(Dense(8))
    with pytest.raises(TraceError, match="gives values of 4 modules, and there were said to be 5"):
        with torch.no_grad(), record(model, routers={"0": lambda out: out}, modules=5):
            model(torch.randn(10, 8))


def test_choices_alone_do_not_tell_how_many_modules_there_are() -> None:
    model = nn.Sequential(Dense(8))
    read = {"0": lambda out: out.argmax(-1, keepdim=True)}
    with pytest.raises(TraceError, match="does not say how many modules it chooses from"):
        with torch.no_grad(), record(model, routers=read):
            model(torch.randn(10, 8))
    with torch.no_grad(), record(model, routers=read, modules=EXPERTS) as recording:
        model(torch.randn(10, 8))
    assert recording.counts().mass.shape[-1] == EXPERTS


class Aria(nn.Module):
    """A configuration that says how tokens are sampled, and then how experts are chosen."""

    class config:  # noqa: N801
        top_k = 50
        moe_topk = 2

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(8, EXPERTS)
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(EXPERTS))


def test_how_tokens_are_sampled_is_not_how_many_experts_are_chosen() -> None:
    assert find_routers(nn.Sequential(Aria())).routers[0].choices == 2
    block = Block()
    block.top_k = 50
    with pytest.raises(TraceError, match="chooses 50 of 4 modules, as it seems"):
        run(block)


@pytest.mark.parametrize("written", [True, False])
def test_routers_that_give_no_numbers_are_named(tmp_path, *, written: bool) -> None:
    table = nn.Embedding(9, 8)
    model = nn.Sequential(table, nn.Linear(8, EXPERTS), nn.Linear(EXPERTS, EXPERTS))
    table.weight.data[3] = float("nan")
    read = {"[12]": lambda out: out.softmax(-1)}
    ids = torch.tensor([[1, 2], [4, 3], [3, 3]])
    message = r"Router 1 gave weights that are no numbers .* for 2 tokens, first in document 5"
    path = tmp_path / "live.trace" if written else None
    with pytest.raises(TraceError, match=message):
        with torch.no_grad(), record(model, routers=read, trace=path) as recording:
            recording.label(None, documents=[4, 5, 6], mask=[[1, 1], [1, 1], [1, 0]])
            model(ids)
    with torch.no_grad(), record(model, routers=read) as recording:  # padding may hold anything
        recording.label(None, mask=[[1, 1], [1, 0], [0, 0]])
        model(ids)
    assert recording.counts().samples[0].sum() == 3
