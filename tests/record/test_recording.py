"""Recording: masks, labels, phases, training, hooks, ranks; on small models made here."""

# ruff: noqa: PT012, SIM117 - what must fail is the whole recording
import socket
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from modeval.counting.count import count_choices
from modeval.errors import TraceError
from modeval.record import counter, device_counts
from modeval.record.device_counts import Tally, add_choices, counts_of
from modeval.record.recording import record
from modeval.trace.files import concatenate, open_trace, read_trace
from modeval.trace.fold import document_block, fold
from modeval.trace.trace import PHASES
from modeval.types import RoutingCounts

MODULES = 4


class Gate(nn.Module):
    """Chooses the two largest logits."""

    def __init__(self, width: int = 8, top_k: int = 2) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(MODULES, width))
        self.top_k = top_k
        self.num_experts = MODULES

    def forward(self, hidden):
        logits = hidden.reshape(-1, hidden.shape[-1]) @ self.weight.T
        weight, chosen = logits.softmax(-1).topk(self.top_k)
        return logits, weight, chosen


class Block(nn.Module):
    """A routed block in the style of current libraries."""

    def __init__(self, gate: nn.Module | None = None) -> None:
        super().__init__()
        self.gate = gate or Gate()
        self.experts = nn.ModuleList([nn.Linear(8, 8) for _ in range(MODULES)])

    def forward(self, hidden):
        _, weight, chosen = self.gate(hidden)
        flat = hidden.reshape(-1, 8)
        out = torch.stack([expert(flat) for expert in self.experts], 1)
        picked = out.gather(1, chosen.unsqueeze(-1).expand(-1, -1, 8))
        return hidden + (weight.unsqueeze(-1) * picked).sum(1).view_as(hidden)


class Model(nn.Module):
    """Embedding and blocks, called with ids and a mask; may checkpoint its blocks."""

    def __init__(self, blocks: int = 2, *, reentrant: bool | None = None) -> None:
        super().__init__()
        self.embed = nn.Embedding(32, 8)
        self.layers = nn.ModuleList([Block() for _ in range(blocks)])
        self.reentrant = reentrant

    def forward(self, input_ids, attention_mask=None):
        hidden = self.embed(input_ids)
        for layer in self.layers:
            if self.reentrant is None:
                hidden = layer(hidden)
            else:
                hidden = checkpoint(layer, hidden, use_reentrant=self.reentrant)
        return hidden


GATES = {"layers.*.gate": lambda output: (output[2], output[1])}


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model().eval()


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(0, 32, (3, 5), generator=torch.Generator().manual_seed(0))


def hooks_of(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def by_hand(model: Model, ids, rule, mask=None, *, rules: int) -> RoutingCounts:
    """Count without hooks: run the blocks one by one."""
    hidden, layers = model.embed(ids), []
    rule = rule.unsqueeze(1).expand(ids.shape).clone()
    if mask is not None:
        rule[mask == 0] = -1
    block = document_block(torch.arange(len(ids)), 64).unsqueeze(1).expand(ids.shape).reshape(-1)
    for layer in model.layers:
        _, weight, chosen = layer.get_submodule("gate")(hidden)
        weight = weight / weight.sum(-1, keepdim=True)
        layers.append(
            count_choices(
                rule.reshape(-1),
                chosen,
                weight,
                rules=rules,
                modules=MODULES,
                block=block,
                blocks=64,
            ).tensors()
        )
        hidden = layer(hidden)
    return RoutingCounts(**{name: torch.stack([x[name] for x in layers]) for name in layers[0]})


def same(mine: RoutingCounts, other: RoutingCounts) -> None:
    for name, part in mine.tensors().items():
        torch.testing.assert_close(part, other.tensors()[name], rtol=1e-6, atol=1e-6)


# --- counts --------------------------------------------------------------------------------------


def test_counts_equal_a_run_by_hand(model: Model, ids) -> None:
    mask = torch.ones_like(ids)
    mask[0, :2], mask[1, 3:] = 0, 0
    with torch.no_grad(), record(model, ["a", "b"]) as recording:
        recording.label(["b", "a", "b"])
        model(ids, attention_mask=mask)
    rule = torch.tensor([1, 0, 1])
    with torch.no_grad():
        same(recording.counts(), by_hand(model, ids, rule, mask, rules=2))
    assert recording.layers == ("layers.0.gate", "layers.1.gate")


@pytest.mark.parametrize("choices", [1, 2, 6])
@pytest.mark.parametrize("weighted", [True, False])
def test_tallies_add_up_like_routing_counts(choices: int, *, weighted: bool) -> None:
    generator = torch.Generator().manual_seed(choices)
    rule = torch.randint(-1, 3, (50,), generator=generator)
    block = torch.randint(0, 4, (50,), generator=generator)
    chosen = torch.rand(2, 50, 9, generator=generator).topk(choices).indices
    chosen[torch.rand(chosen.shape, generator=generator) < 0.2] = -1
    weight = torch.rand(chosen.shape, generator=generator).masked_fill(chosen < 0, 0)
    weight = weight / weight.sum(-1, keepdim=True).clamp(min=1e-9)
    tally = Tally.zeros((0, 1), 12, 9, torch.device("cpu"))
    cell = torch.where(rule < 0, 12, block * 3 + rule)
    for rows in (slice(0, 20), slice(20, 50)):
        part = weight[:, rows] if weighted else None
        add_choices(tally, [0, 1], cell[rows], chosen[:, rows].int(), part)
    expected = count_choices(
        rule, chosen, weight if weighted else None, rules=3, modules=9, block=block, blocks=4
    )
    same(counts_of(tally, 4, 3), expected)


def test_without_labels_all_is_one_rule(model: Model, ids) -> None:
    with torch.no_grad(), record(model) as recording:
        model(ids)
        model(ids)
    assert recording.counts().samples.sum((1, 2)).tolist() == [30.0, 30.0]


def test_a_mask_given_by_hand_wins(model: Model, ids) -> None:
    mask = torch.zeros_like(ids)
    mask[:, 1] = 1
    with torch.no_grad(), record(model, 2) as recording:
        recording.label([0, 1, 1], mask=mask)
        model(ids, attention_mask=torch.ones_like(ids))
    assert recording.counts().samples.sum((0, 1)).tolist() == [2.0, 4.0]


def test_many_small_calls_are_added_up_together(model: Model, ids) -> None:
    with torch.no_grad(), record(model, 2) as apart:
        for row in range(3):
            apart.label([row % 2], documents=[row])
            model(ids[row : row + 1])
    with torch.no_grad(), record(model, 2) as whole:
        whole.label([0, 1, 0])
        model(ids)
    same(apart.counts(), whole.counts())


def test_one_label_for_each_token(model: Model, ids) -> None:
    labels = torch.tensor([[0, 1, 1, -1, 0]]).expand(3, 5)
    with torch.no_grad(), record(model, 2) as recording:
        recording.label(labels)
        model(ids)
    assert recording.counts().samples.sum((0, 1)).tolist() == [12.0, 12.0]


# --- labels --------------------------------------------------------------------------------------


def test_labels_from_the_inputs(model: Model, ids) -> None:
    with torch.no_grad(), record(model, ["a", "b"], label_from="domain") as recording:
        model(ids, domain=["a", "b", "a"])  # the model never sees it
    assert recording.counts().samples.sum((0, 1)).tolist() == [20.0, 10.0]
    with (
        torch.no_grad(),
        record(model, 2, label_from=lambda inputs: inputs["input_ids"][:, 0] % 2) as recording,
    ):
        model(ids)
    assert recording.counts().samples.sum().item() == 30


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", "c", "a"], "Label 'c' is not among the labels .* a, b"),
        ([0, 1, 2], "Label 2 is not among"),
        ([0.0, 1.0, 1.7], "Labels are of type float32: expected names, or whole numbers"),
        ([0], "1 labels were given for a batch of 3 samples: expected 3"),
        (["a"] * 4, "4 labels were given for a batch of 3"),
        (None, "no labels. Call recording.label"),
    ],
)
def test_wrong_labels_are_refused(model: Model, ids, labels, message: str) -> None:
    with pytest.raises(TraceError, match=message), record(model, ["a", "b"]) as recording:
        if labels is not None:
            recording.label(labels)
        model(ids)
    assert hooks_of(model) == 0


def test_fewer_labels_than_samples_are_not_spread_over_the_batch(model: Model) -> None:
    ids = torch.randint(0, 32, (6, 5))
    with pytest.raises(TraceError, match="3 labels were given for a batch of 6 samples"):
        with torch.no_grad(), record(model, 3) as recording:
            recording.label([0, 1, 2])
            model(ids)


def test_two_labels_of_one_name_are_refused(model: Model) -> None:
    with pytest.raises(TraceError, match="Two labels are named 'law'"):
        record(model, ["law", "law"])


def test_labels_hold_for_one_batch_only(model: Model, ids) -> None:
    with pytest.raises(TraceError, match="This batch has no labels"), record(model, 2) as seen:
        seen.label([0, 1, 0])
        model(ids)
        model(ids)


def test_unknown_key_of_labels_is_refused(model: Model, ids) -> None:
    with (
        pytest.raises(TraceError, match="label_from='domain' is not among the model's inputs"),
        record(model, 2, label_from="domain"),
    ):
        model(ids)


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


# --- loud failures -------------------------------------------------------------------------------


def test_a_recording_in_which_nothing_ran_is_refused(model: Model) -> None:
    with pytest.raises(TraceError, match=r"layers\.0\.gate recorded nothing.*did not run within"):
        with record(model):
            pass
    assert hooks_of(model) == 0


def test_a_router_that_is_passed_by_is_refused(model: Model, ids) -> None:
    model.layers[1].forward = lambda hidden: hidden  # what a fused kernel does
    with pytest.raises(TraceError, match=r"layers\.1\.gate recorded nothing.*fused kernel"):
        with torch.no_grad(), record(model):
            model(ids)


def test_padding_alone_is_refused(model: Model, ids) -> None:
    with pytest.raises(TraceError, match=r"padding or could be given no label"):
        with torch.no_grad(), record(model):
            model(ids, attention_mask=torch.zeros_like(ids))


def test_layers_that_did_not_run_are_listed_not_refused(model: Model, ids) -> None:
    model.spare = Block()
    with torch.no_grad(), record(model) as recording:
        model(ids)
    assert [layer.status for layer in recording.coverage().layers][-1] == "not run"


def test_modules_that_do_not_exist_are_refused(model: Model, ids) -> None:
    read = {"gate": lambda output: output[2] + 2}
    with pytest.raises(
        TraceError, match=r"chose .* times a module that does not exist: expected 0"
    ):
        with torch.no_grad(), record(model, routers=read):
            model(ids)


def test_hooks_and_generate_are_put_back_after_an_error(model: Model, ids) -> None:
    with pytest.raises(ZeroDivisionError), record(model, trace=None):
        assert hooks_of(model) > 0
        raise ZeroDivisionError
    assert hooks_of(model) == 0
    with torch.no_grad(), record(model) as recording:  # and a fault inside the forward
        with pytest.raises(RuntimeError):
            model(ids.float())
        model(ids)
    assert recording.counts().samples.sum().item() == 30


@pytest.mark.parametrize("pending", [1 << 22, 1])
def test_a_forward_that_fails_midway_counts_nothing(
    model: Model, ids, monkeypatch, pending: int
) -> None:
    monkeypatch.setattr(counter, "PENDING", pending)
    broken = model.layers[1].register_forward_pre_hook(lambda *_: 1 / 0)

    def run() -> torch.Tensor:
        with torch.no_grad(), record(model, 2) as recording:
            recording.label([0, 1, 1])
            with pytest.raises(ZeroDivisionError):
                model(ids)
            broken.remove()
            model(ids)  # the labels of the call that failed still hold
        return recording.counts().samples.sum(1)

    if pending == 1:  # what is added up already cannot be taken back
        with pytest.raises(TraceError, match="A call failed after more than 1 of its choices"):
            run()
    else:
        assert run().tolist() == [[5.0, 10.0]] * 2


def test_two_threads_at_once_are_refused_and_in_turn_are_right(model: Model, ids) -> None:
    import threading  # noqa: PLC0415

    errors: list[Exception] = []

    def other() -> None:
        try:
            model(ids)
        except TraceError as error:
            errors.append(error)

    def both(*_: Any) -> None:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()

    with torch.no_grad(), record(model) as recording:
        both()
        model(ids)
    assert recording.counts().samples[0].sum() == 30
    handle = model.layers[0].register_forward_pre_hook(both)
    with pytest.raises(TraceError, match="Two threads ran the model at once"):
        with torch.no_grad(), record(model):
            model(ids)
    handle.remove()
    assert len(errors) == 1


def test_a_trace_of_a_failed_run_keeps_its_prefix_and_is_not_whole(
    model: Model, ids, tmp_path: Path
) -> None:
    path = tmp_path / "live.trace"
    with pytest.raises(ZeroDivisionError), torch.no_grad(), record(model, trace=path):
        model(ids)
        raise ZeroDivisionError
    trace = open_trace(path)
    assert not trace.complete
    assert fold(trace).samples.sum().item() == 30


# --- training, precision, compilation ------------------------------------------------------------


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_does_not_count_twice(ids, *, reentrant: bool) -> None:
    torch.manual_seed(0)
    model = Model(reentrant=reentrant).train()
    calls = []
    model.get_submodule("layers.0.gate").register_forward_hook(lambda *_: calls.append(1))
    with record(model, 2) as recording:
        recording.label([0, 1, 1])
        hidden = model(ids)
        hidden.sum().backward()
    assert len(calls) == 2  # it really ran twice
    assert recording.counts().samples.sum((1, 2)).tolist() == [15.0, 15.0]
    assert recording.counts("train").samples.sum().item() == 30
    assert recording.counts("decode").samples.sum().item() == 0


def test_recording_changes_no_gradient(ids) -> None:
    torch.manual_seed(0)
    model = Model().train()
    model(ids).sum().backward()
    plain = [part.grad.clone() for part in model.parameters() if part.grad is not None]
    model.zero_grad()
    with record(model):
        model(ids).sum().backward()
    recorded = [part.grad for part in model.parameters() if part.grad is not None]
    for mine, other in zip(recorded, plain, strict=True):
        assert torch.equal(mine, other)


def test_half_precision_and_inference_mode(ids) -> None:
    torch.manual_seed(0)
    model = Model().eval().to(torch.bfloat16)
    with torch.inference_mode(), record(model) as recording:
        model(ids)
        recording.counts()
        model(ids)
    assert recording.counts().samples.sum().item() == 60


def test_autocast_does_not_round_counts(monkeypatch) -> None:
    monkeypatch.setattr(device_counts, "PAIRS", 1)
    torch.manual_seed(0)
    model = Model().eval()
    ids = torch.randint(0, 32, (3, 333))
    with torch.no_grad(), record(model, blocks=1) as recording:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model(ids)
            counts = recording.counts()
    pairs = counts.coactivation.sum((1, 2)) - counts.coactivation.diagonal(0, 1, 2).sum(1)
    assert pairs.tolist() == [999 * 2.0] * 2
    counts.conditional()


def test_compiled_models_are_recorded(model: Model, ids) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled: Any = torch.compile(model, backend="eager")
        with torch.no_grad():
            compiled(ids)
            with record(compiled) as recording:
                compiled(ids)
    assert recording.layers == ("layers.0.gate", "layers.1.gate")
    assert recording.counts().samples.sum().item() == 30


# --- shapes of inputs ----------------------------------------------------------------------------


def test_images_are_labelled_by_sample() -> None:
    model = nn.Sequential(nn.Flatten(2), nn.Linear(16, 8), Block())
    with torch.no_grad(), record(model, 2) as recording:
        recording.label([0, 1])
        model(torch.randn(2, 3, 4, 4))
    assert recording.counts().samples.sum((0, 1)).tolist() == [3.0, 3.0]


def test_samples_without_positions() -> None:
    model = nn.Sequential(nn.Linear(6, 8), Block())
    with torch.no_grad(), record(model, 2) as recording:
        recording.label([0, 1, 1])
        model(torch.randn(3, 6))
    assert recording.counts().samples.sum((0, 1)).tolist() == [1.0, 2.0]


class Unpadding(Model):
    """Takes padding out before its blocks, as kernels for ragged batches do."""

    def forward(self, input_ids, attention_mask=None):
        hidden = self.embed(input_ids)[attention_mask > 0]
        for layer in self.layers:
            hidden = layer(hidden)
        return hidden


def test_rows_without_padding_keep_their_labels(ids) -> None:
    torch.manual_seed(0)
    model, mask = Unpadding().eval(), torch.ones_like(ids)
    mask[0, :2] = 0
    with torch.no_grad(), record(model, 2) as recording:
        recording.label([0, 1, 1])
        model(ids, attention_mask=mask)
    assert recording.counts().samples.sum((0, 1)).tolist() == [6.0, 20.0]


class Patches(Model):
    """Turns a batch into some other number of tokens."""

    def forward(self, input_ids):
        return super().forward(torch.cat([input_ids.flatten(), input_ids[0, :2]]).unsqueeze(0))


def test_tokens_of_unknown_samples_need_one_label(ids) -> None:
    torch.manual_seed(0)
    model = Patches().eval()
    with torch.no_grad(), record(model, 2) as recording:
        recording.label([1, 1, 1])
        model(ids)
    assert recording.counts().samples.sum((0, 1)).tolist() == [0.0, 34.0]
    with pytest.raises(TraceError, match="tokens of a vision tower can be labelled only when"):
        with torch.no_grad(), record(model, 2) as recording:
            recording.label([0, 1, 1])
            model(ids)


def test_tokens_without_a_label_may_be_left_out(ids, tmp_path: Path) -> None:
    torch.manual_seed(0)

    class Tower(Model):
        """Routes text, and patches beside it."""

        def __init__(self) -> None:
            super().__init__()
            self.patches = Patches()

        def forward(self, input_ids, attention_mask=None):
            self.patches(input_ids)
            return super().forward(input_ids, attention_mask)

    model, path = Tower().eval(), tmp_path / "live.trace"
    with torch.no_grad(), record(model, 2, partial=True, trace=path) as recording:
        recording.label([0, 1, 1])
        model(ids, attention_mask=torch.ones_like(ids))
    counted = {layer.name: layer.status for layer in recording.coverage().layers}
    assert counted["layers.0.gate"] == "recorded"
    assert counted["patches.layers.0.gate"] == "nothing counted"
    assert "2 layers ran on tokens that could be given no label" in open_trace(path).header.notes[0]


# --- Hugging Face --------------------------------------------------------------------------------


def mixtral(**settings):
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        **{
            "vocab_size": 48,
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "num_local_experts": MODULES,
            "num_experts_per_tok": 2,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }
        | settings
    )
    model = transformers.MixtralForCausalLM(config).eval()
    for name, part in model.named_parameters():
        if "lm_head" in name or "gate.weight" in name:
            part.data.normal_()
    return model


def padded(rows: list[list[int]], *, left: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows))
    ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width)
    for number, row in enumerate(rows):
        place = slice(width - len(row), None) if left else slice(0, len(row))
        ids[number, place], mask[number, place] = torch.tensor(row), 1
    return ids, mask.long()


def test_generating_a_batch_counts_what_its_samples_count_one_by_one(tmp_path: Path) -> None:
    model = mixtral()
    rows = [[5, 6, 7, 8], [9, 10], [11, 12, 13]]
    ids, mask = padded(rows)
    with torch.no_grad():  # stop after a token that ends one sequence early, not the others
        free = model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=8, do_sample=False, eos_token_id=None
        )
    stop = int(free[0, ids.shape[1] + 2])
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": stop}
    path = tmp_path / "live.trace"
    with torch.no_grad(), record(model, 3, trace=path) as together:
        together.label([0, 1, 2])
        model.generate(input_ids=ids, attention_mask=mask, **options)
    with torch.no_grad(), record(model, 3) as apart:
        for number, row in enumerate(rows):
            apart.label([number], documents=[number])
            model.generate(
                input_ids=torch.tensor([row]), attention_mask=torch.ones(1, len(row)), **options
            )
    for phase in (None, "prefill", "decode"):
        same(together.counts(phase), apart.counts(phase))
        same(fold(path, phase=phase), together.counts(phase))
    prefill = together.counts("prefill").samples.sum((0, 1)) / 2
    assert prefill.tolist() == [4.0, 2.0, 3.0]
    decode = together.counts("decode").samples.sum((0, 1)) / 2
    assert decode[0] < decode.max()  # the first sequence really ended early
    assert "generate" not in vars(model)

    _, chunks = read_trace(path)
    read = concatenate(list(chunks))
    mine = read[(read.document == 1) & (read.layer == 0)]
    assert mine.position.tolist() == list(range(len(mine)))
    assert [PHASES[number] for number in mine.phase[:3]] == ["prefill", "prefill", "decode"]


def test_beams_belong_to_the_sample_they_grew_from() -> None:
    model = mixtral()
    ids, mask = padded([[5, 6, 7], [9]])
    with torch.no_grad(), record(model, 2) as recording:
        recording.label([0, 1])
        model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=3, num_beams=2)
    prefill = recording.counts("prefill").samples.sum((0, 1)) / 2
    assert (prefill[0] / prefill[1]).item() == 3.0


def test_caches_of_fixed_size_tell_prefill_from_decode() -> None:
    model = mixtral()
    ids, mask = padded([[5, 6, 7], [9, 10, 11]])
    with torch.no_grad(), record(model) as recording:
        model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=3,
            do_sample=False,
            eos_token_id=None,
            cache_implementation="static",
        )
    assert recording.counts("prefill").samples.sum((1, 2)).tolist() == [6.0, 6.0]
    assert recording.counts("decode").samples.sum((1, 2)).tolist() == [4.0, 4.0]


def test_a_loop_written_by_hand_keeps_labels_while_decoding() -> None:
    model = mixtral()
    ids, mask = padded([[5, 6, 7], [9, 10, 11]])
    with torch.no_grad(), record(model, 2) as recording:
        recording.label([0, 1])
        out = model(input_ids=ids, attention_mask=mask, use_cache=True)
        name = "cache" if "cache" in out else "past_key_values"  # renamed in transformers 5.24
        for _ in range(2):
            following = out.logits[:, -1:].argmax(-1)
            out = model(input_ids=following, **{name: getattr(out, name)})
    assert recording.counts("decode").samples.sum((0, 1)).tolist() == [4.0, 4.0]


@pytest.mark.parametrize("reentrant", [False, True])
def test_hugging_face_checkpointing_does_not_count_twice(*, reentrant: bool) -> None:
    model = mixtral().train()
    older = model.gradient_checkpointing_enable
    enable = getattr(model, "activation_checkpointing_enable", older)
    enable({"use_reentrant": reentrant})
    if reentrant:
        model.enable_input_require_grads()
    ids, mask = padded([[5, 6, 7], [9]])
    with record(model) as recording:
        model(input_ids=ids, attention_mask=mask, labels=ids, use_cache=False).loss.backward()
    assert recording.counts("train").samples.sum((1, 2)).tolist() == [4.0, 4.0]


def test_fused_kernels_that_replace_a_block_are_refused() -> None:
    model = mixtral()
    for layer in model.model.layers:
        layer.mlp.forward = lambda hidden: hidden
    ids, mask = padded([[5, 6, 7]])
    with pytest.raises(TraceError, match=r"2 expected, 2 hooked, 0 recorded.*fused kernel"):
        with torch.no_grad(), record(model):
            model(input_ids=ids, attention_mask=mask)


def test_targets_mask_the_padding_of_a_decoder() -> None:
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
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
        num_experts=MODULES,
        decoder_start_token_id=0,
    )
    model = transformers.SwitchTransformersForConditionalGeneration(config).eval()
    ids, mask = padded([[5, 6, 7], [9]], left=False)
    targets = torch.tensor([[4, 5, 2], [4, 2, -100]])
    with torch.no_grad(), record(model, 2) as recording:
        recording.label([0, 1])
        model(input_ids=ids, attention_mask=mask, labels=targets)
    counted = {layer.name.partition(".")[0]: layer.counted for layer in recording.coverage().layers}
    assert counted == {"encoder": 4, "decoder": 5}
    with torch.no_grad(), record(model, 2) as recording:
        recording.label([0, 1])
        model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=4, eos_token_id=None)
    decoder = [layer for layer in recording.coverage().layers if layer.name.startswith("decoder")]
    assert all(layer.counted == 8 for layer in decoder)


def test_text_and_image_experts_get_their_own_tokens() -> None:
    transformers = pytest.importorskip("transformers")
    models = pytest.importorskip("transformers.models.ernie4_5_vl_moe.modeling_ernie4_5_vl_moe")
    torch.manual_seed(0)
    config = transformers.models.ernie4_5_vl_moe.Ernie4_5_VLMoeTextConfig(
        vocab_size=48,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        moe_intermediate_size=[16, 16],
        moe_k=2,
        moe_num_experts=MODULES,
        moe_num_shared_experts=1,
        mlp_layer_types=["sparse", "sparse"],
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
    )
    model = models.Ernie4_5_VLMoeTextModel(config).eval()
    _, mask = padded([[5, 6, 7, 8], [9, 10]])
    types = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 1]])
    positions = torch.arange(4).expand(3, 2, 4)
    with torch.no_grad(), record(model, 2) as recording:
        recording.label([0, 1])
        model(
            inputs_embeds=torch.randn(2, 4, 32),
            attention_mask=mask,
            position_ids=positions,
            moe_mm_token_type_ids=types,
        )
    counts = recording.counts().samples.sum(1)
    by_layer = dict(zip(recording.layers, counts.tolist(), strict=True))
    assert by_layer["layers.0.mlp.text_moe.gate"] == [2.0, 1.0]
    assert by_layer["layers.0.mlp.vision_moe.gate"] == [2.0, 1.0]


# --- ranks ---------------------------------------------------------------------------------------


WORKER = """
import sys, torch
import torch.distributed as distributed
sys.path.insert(0, sys.argv[3])
from test_recording import Model, by_hand
from modeval.record.recording import record

rank, port = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group(
    "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
)
torch.manual_seed(0)
model = Model().eval()
ids = torch.randint(0, 32, (2, 4), generator=torch.Generator().manual_seed(rank))
with torch.no_grad(), record(torch.nn.parallel.DistributedDataParallel(model), 2) as recording:
    recording.label([0, 1])
    recording.model(ids)
whole, mine = recording.counts(), recording.counts(local=True)
assert recording.layers == ("layers.0.gate", "layers.1.gate"), recording.layers
other = [None, None]
distributed.all_gather_object(other, mine.tensors())
for name, part in whole.tensors().items():
    torch.testing.assert_close(part, other[0][name] + other[1][name])
assert whole.samples.sum() == 32 and mine.samples.sum() == 16
blocks = [set(entry["samples"].sum((0, 2)).nonzero().flatten().tolist()) for entry in other]
assert not blocks[0] & blocks[1], blocks  # documents of different ranks are different
distributed.destroy_process_group()
print("fine")
"""


UNEVEN = """
import sys, torch
import torch.distributed as distributed
sys.path.insert(0, sys.argv[3])
from test_recording import Model
from modeval.errors import TraceError
from modeval.record.ranks import reduce_counts
from modeval.record.recording import record

rank, port = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group(
    "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
)
with torch.no_grad(), record(Model().eval()) as recording:
    recording.model(torch.ones(1, 4, dtype=torch.long))
if rank == 0:  # the other one never comes
    try:
        reduce_counts(recording.groups(local=True), recording.layers, wait=2.0)
    except TraceError as error:
        assert "A rank did not come to add its counts within 2 s" in str(error), error
        print("fine")
else:
    import time
    time.sleep(4)
    print("fine")
"""


@pytest.mark.slow
@pytest.mark.parametrize("script", [WORKER, UNEVEN], ids=["even", "uneven"])
def test_counts_are_summed_over_ranks_or_the_missing_rank_is_an_error(script: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    folder = str(Path(__file__).parent)
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script), str(rank), port, folder],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for worker in workers:
        out, error = worker.communicate(timeout=120)
        assert out == "fine\n", error


def test_a_phase_that_is_said_stands_in_the_header_and_is_held_to(tmp_path: Path) -> None:
    model, ids = Model().eval(), torch.randint(1, 16, (2, 5))
    with record(model, trace=tmp_path / "a.trace", phase="prefill", notes=["a note"]) as seen:
        model(ids, attention_mask=torch.ones_like(ids))
    header = open_trace(tmp_path / "a.trace").header
    assert (header.phase, header.notes) == ("prefill", ("a note",))
    assert seen.header().phase == "prefill"
    with pytest.raises(TraceError, match="phase 'train': this recording was said to be"):
        with record(model.train(), phase="prefill"):
            model(ids)


# --- documents -----------------------------------------------------------------------------------


def test_documents_are_kept_beside_the_counts(model: Model, ids) -> None:
    with record(model, routers=GATES, labels=["a", "b"]) as recording:
        for labels, documents in (([0, 1, 1], [0, 1, 2]), ([0, 1, 0], [0, 1, 3])):
            recording.label(labels, documents=documents)
            model(ids)
    [group] = recording.groups()
    assert group.units is not None
    sizes = zip(group.units.label.tolist(), group.units.samples[0].tolist(), strict=True)
    assert sorted(sizes) == [(0, 5), (0, 10), (1, 5), (1, 10)]
    pooled = group.counts.pooled()
    same(group.units.counts(pooled.coactivation), pooled)


def test_documents_of_several_labels_are_left_to_a_trace_on_disk(model: Model, ids) -> None:
    with record(model, routers=GATES, labels=["a", "b"]) as recording:
        recording.label([0, 1, 1], documents=[0, 0, 1])
        model(ids)
    assert recording.groups()[0].units is None
