"""A whole ablation of a small model: what is known beforehand is found, and cuts lose nothing."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import mixtral  # type: ignore[import-not-found, unused-ignore]

from modeval.ablate.changing import changed
from modeval.ablate.contributions import contributions
from modeval.ablate.losses import document_losses, predicted_tokens
from modeval.ablate.result import keep_lists
from modeval.ablate.run import Settings, ablate_model
from modeval.ablate.seams import find_seams
from modeval.errors import CheckpointError, DataError, RunError
from modeval.pipeline.ablating import _check_causal
from modeval.record.corpus import Document, TokenBatch, token_batches
from modeval.record.hugging_face import Loaded
from modeval.score.ablation import Ablation
from modeval.score.stored.files import scorecard_text

LABELS = ("law", "poems")
DOCUMENTS = [
    Document(
        " ".join(str(3 + (7 * n + 3 * k * (n % 2 + 1)) % 45) for k in range(9 + n)), LABELS[n % 2]
    )
    for n in range(12)
]


def batches(length: int = 16, tokens: int = 64) -> list[TokenBatch]:
    def tokenize(text: str) -> list[int]:
        return [int(word) for word in text.split()]

    return list(token_batches(DOCUMENTS, tokenize, labels=LABELS, length=length, tokens=tokens))


def run(model, settings: Settings, **options) -> Ablation:
    return ablate_model(model, batches(), LABELS, settings, name="tiny", **options)


def test_losses_of_documents_are_those_of_the_model_itself() -> None:
    model = mixtral()
    found = document_losses(model, batches(), 12)
    tokens = predicted_tokens(batches(), 12)
    for number, document in enumerate(DOCUMENTS):
        ids = torch.tensor([[int(word) for word in document.text.split()][:16]])
        with torch.no_grad():
            loss = model(input_ids=ids, labels=ids).loss.item()
        assert tokens[number] == ids.shape[1] - 1
        assert found[number] / tokens[number] == pytest.approx(loss, abs=1e-5)


def test_one_pass_scores_are_those_that_each_expert_alone_gives() -> None:
    """The other account runs every expert for every token by hand."""
    model = mixtral()
    seams = find_seams(model)
    calls: list[list[tuple[torch.Tensor, ...]]] = [[] for _ in seams]
    for number, seam in enumerate(seams):
        seam.experts.register_forward_pre_hook(
            lambda module, args, number=number: calls[number].append(args)
        )
    given = batches()
    plain = document_losses(model, given, 12)
    by_hand = [list(call) for call in calls]
    for seam in seams:
        seam.experts._forward_pre_hooks.clear()
    found, losses = contributions(model, seams, given, LABELS, documents=12)
    np.testing.assert_allclose(losses, plain, rtol=1e-6)
    for seam, layer, each in zip(seams, found, by_hand, strict=True):
        routed, output, peak = np.zeros((2, 4)), np.zeros((2, 4)), np.zeros((2, 4))
        for batch, (hidden, chosen, weight) in zip(given, each, strict=True):
            label = batch.label.unsqueeze(1).expand_as(batch.input_ids).flatten()
            for row in batch.attention_mask.flatten().nonzero().flatten().tolist():
                for module, share in zip(chosen[row].tolist(), weight[row].tolist(), strict=True):
                    with torch.no_grad():
                        one = seam.experts(
                            hidden[row : row + 1],
                            torch.tensor([[module]]),
                            torch.ones(1, 1),
                        )
                    place = (int(label[row]), module)
                    routed[place] += 1
                    output[place] += share * one.norm().item()
                    peak[place] = max(peak[place], one.abs().max().item())
        np.testing.assert_array_equal(layer.routed, routed)
        assert layer.output is not None
        assert layer.peak is not None
        np.testing.assert_allclose(layer.output, output, rtol=1e-4)
        np.testing.assert_allclose(layer.peak, peak, rtol=1e-4)
        reap = layer.score("reap")
        assert reap is not None
        np.testing.assert_allclose(reap, output.sum(0) / np.maximum(routed.sum(0), 1), rtol=1e-4)


def test_a_module_that_is_used_and_useless_is_told_from_one_that_is_rare_and_vital() -> None:
    """Expert 0 takes most tokens and adds nothing; expert 1 is rare, and what it adds is large."""
    model = mixtral(num_hidden_layers=1, num_experts_per_tok=1)
    (seam,) = find_seams(model)
    down = seam.experts.get_parameter("down_proj").data
    seam.router.get_parameter("weight").data[0] *= (
        4  # large logits of either sign: chosen most often of all
    )
    down[0] = 0
    down[1] *= 400
    settings = Settings(keep=(0.75,), by=("routed", "reap"), removal="zero", alone=True)
    found = run(model, settings)
    (layer,) = found.contributions
    routed, reap = layer["routed"], layer["reap"]
    assert routed[0] == max(routed), "the useless one is used most"
    assert reap[0] == 0
    alone = {one.module: abs(one.change.value) for one in found.alone}
    assert alone[0] == pytest.approx(0, abs=1e-9), "its removal costs nothing"
    assert max(alone, key=lambda module: alone[module]) == 1
    assert routed[1] < routed[0]
    by = {kept.score: kept for kept in found.kept}
    assert 0 in by["routed"].kept[0], "usage keeps the useless one"
    assert 0 not in by["reap"].kept[0]
    assert by["reap"].change.value == pytest.approx(0, abs=1e-9)
    assert abs(by["routed"].change.value) >= abs(by["reap"].change.value)


def test_redundant_twins_can_each_go_alone_and_not_both() -> None:
    model = mixtral(num_hidden_layers=1, num_experts_per_tok=1)
    (seam,) = seams = find_seams(model)
    gate, up, down = (
        part.get_parameter(name).data
        for part, name in (
            (seam.router, "weight"),
            (seam.experts, "gate_up_proj"),
            (seam.experts, "down_proj"),
        )
    )
    down[0] *= 400
    gate[0] *= 4
    for part in (gate, up, down):
        part[1] = part[0]
    whole = document_losses(model, batches(), 12).sum()

    def cost(*gone: int) -> float:
        kept = torch.ones(4, dtype=torch.bool)
        kept[list(gone)] = False
        with changed(seams, [kept], "reroute"):
            return abs(float(document_losses(model, batches(), 12).sum() - whole))

    assert cost(0) == pytest.approx(0, abs=1e-4)
    assert cost(1) == pytest.approx(0, abs=1e-4)
    assert cost(0, 1) > 1


def test_a_model_without_a_loss_is_refused() -> None:
    model = mixtral()
    with pytest.raises(CheckpointError, match="gives no logits for each token"):
        document_losses(model.get_submodule("model"), batches(), 12)


def test_a_run_that_was_cut_off_goes_on_to_the_same_result(tmp_path: Path) -> None:
    settings = Settings(keep=(0.5,), by=("reap",))
    whole = run(mixtral(), settings)
    folder = tmp_path / "cut"

    class CutError(Exception):
        pass

    def cut(done: int, passes: int, left: float) -> None:
        assert left >= 0
        if done == 7:
            raise CutError

    with pytest.raises(CutError):
        run(mixtral(), settings, folder=folder, watch=cut)
    with (folder / "sets.jsonl").open("a") as file:
        file.write('{"key": "half a li')
    told: list[tuple[int, int]] = []
    again = run(
        mixtral(),
        settings,
        folder=folder,
        watch=lambda done, all_of, _: told.append((done, all_of)),
    )
    assert scorecard_text(again.card()) == scorecard_text(whole.card())
    assert told[0][0] == 8
    assert told[-1] == (21, 21)
    assert (
        len((folder / "sets.jsonl").read_text().splitlines()) == len({*whole.random[0].changes}) + 1
    )


def test_what_was_begun_with_something_else_is_not_gone_on_with(tmp_path: Path) -> None:
    settings = Settings(keep=(0.5,), by=("reap",))
    run(mixtral(), settings, folder=tmp_path / "a")
    with pytest.raises(RunError, match="removal reroute, and this is zero"):
        run(mixtral(), Settings(keep=(0.5,), removal="zero"), folder=tmp_path / "a")
    other = mixtral()
    other.lm_head.weight.data *= 2
    with pytest.raises(RunError, match="loss of the whole model"):
        run(other, settings, folder=tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="is not empty, and is no ablation"):
        run(mixtral(), settings, folder=tmp_path / "b")
    (tmp_path / "a" / "sets.jsonl").write_text('{"key": 3}\n')
    with pytest.raises(RunError, match="line 1, is damaged"):
        run(mixtral(), settings, folder=tmp_path / "a")


def test_lists_have_every_module_once_and_the_best_first() -> None:
    found = run(mixtral(), Settings(keep=(0.5,), by=("weight",)))
    rows = [json.loads(line) for line in keep_lists(found, found.kept[0]).splitlines()]
    assert [row["name"] for row in rows] == list(found.layers)
    for row, layer in zip(rows, found.contributions, strict=True):
        assert sorted(row["keep"] + row["omit"]) == [0, 1, 2, 3]
        weights = [layer["weight"][module] for module in row["experts"]]
        assert weights == sorted(weights, reverse=True)
        assert set(row["experts"][:2]) == set(row["keep"])


def test_labels_without_a_loss_and_shares_without_modules_are_refused() -> None:
    model = mixtral()
    with pytest.raises(DataError, match="keeps 1 of 4 modules, and each token chooses 2"):
        run(model, Settings(keep=(0.25,)))
    assert run(model, Settings(keep=(0.25,), removal="zero", by=("routed",))).kept
    with pytest.raises(DataError, match="Label prose has no document"):
        ablate_model(model, batches(), (*LABELS, "prose"), Settings(keep=(0.5,)), name="tiny")


def test_a_model_with_an_encoder_is_refused_and_told_what_can_be_done() -> None:
    loaded = Loaded(mixtral(), lambda text: [len(text)], 0, seq2seq=True)
    with pytest.raises(CheckpointError, match=r"no loss on text alone.*modeval record"):
        _check_causal(loaded, "t5")
