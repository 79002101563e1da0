"""Recording: counts, masks, labels, phases, loud failures; on small models made here."""

# ruff: noqa: PT012, SIM117 - what must fail is the whole recording
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import GATES, Block, Model, by_hand, hooks_of, same  # type: ignore[import-not-found, unused-ignore]

import modeval
from modeval.counting.count import count_choices
from modeval.errors import TraceError
from modeval.record import counter
from modeval.record.device_counts import Tally, add_choices, counts_of
from modeval.record.recording import record
from modeval.trace.files import open_trace
from modeval.trace.fold import fold

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


def test_gates_of_tasks_make_a_matrix_whose_rows_are_the_gates(tmp_path):
    """As ``modeval help recording`` says it of models with a gate for each task."""
    gates = torch.nn.ModuleList(torch.nn.Linear(5, 4) for _ in range(3))
    softmax = {"*": lambda logits: logits.softmax(-1)}
    inputs = torch.randn(50, 5, generator=torch.Generator().manual_seed(0))
    with record(gates, routers=softmax) as seen, torch.no_grad():
        shares = torch.stack([gate(inputs).softmax(-1).mean(0) for gate in gates])
    mass = seen.counts().mass.sum((1, 2))
    np.save(tmp_path / "gates.npy", mass / mass.sum(1, keepdim=True))
    card = modeval.score(tmp_path / "gates.npy")
    [found] = card.activations
    np.testing.assert_allclose(np.array(found.matrix), shares.numpy(), atol=1e-6)
