"""What no routing of text would give is a named warning; what text gives is none."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modeval.errors import TraceError
from modeval.report.brief import brief
from modeval.report.scorecard_views import entries
from modeval.score.traces import Reading, score_trace
from modeval.trace.counts import gather, load_counts
from modeval.trace.files import open_trace, read_columns
from modeval.trace.importers.format import Options
from modeval.trace.importers.import_files import import_source
from modeval.trace.suspicions import RowWatch, of_counts, rounded, too_equal
from modeval.trace.trace import WARNINGS

pytest.importorskip("pyarrow", reason="traces are Parquet files")

M, K, LAYERS = 16, 4, 3


def draw(rng: np.random.Generator, rows: int, modules: int = M, choices: int = K) -> np.ndarray:
    """Skewed routing without repeats in a row."""
    taste = rng.normal(size=modules)
    noise = rng.gumbel(size=(rows, modules))
    return (taste + noise).argsort(1)[:, ::-1][:, :choices]


def kinds(layers: dict[str, np.ndarray], **options: Any) -> list[str]:
    watch = RowWatch()
    for name, chosen in layers.items():
        for start in range(0, len(chosen), 100):  # in pieces, as they come
            watch.add(name, chosen[start : start + 100], **options)
    return [warning.kind for warning in watch.warnings()[0]]


def honest(rng: np.random.Generator, rows: int = 600, **sizes: int) -> dict[str, np.ndarray]:
    return {f"layers.{layer}": draw(rng, rows, **sizes) for layer in range(LAYERS)}


@pytest.mark.parametrize("seed", range(40))
def test_honest_routing_gives_no_warning(seed):
    """Over sizes, skews and widths, and where tokens of a text repeat; 1 in 40 would be seen."""
    rng = np.random.default_rng(seed)
    modules = int(rng.integers(2, 64))
    choices = int(rng.integers(1, max(modules // 2, 2)))
    rows = int(rng.integers(10, 3000))
    layers = honest(rng, rows, modules=modules, choices=choices)
    words = rng.zipf(1.3, rows).clip(max=rows) - 1  # one routing for each word
    if seed % 2:
        layers = {name: chosen[words] for name, chosen in layers.items()}
    assert kinds(layers) == []


def test_a_warm_up_is_one_choice_in_one_run():
    rng = np.random.default_rng(0)
    layers = {
        name: np.concatenate([np.tile(chosen[:1], (400, 1)), chosen])
        for name, chosen in honest(rng).items()
    }
    assert kinds(layers) == ["warm-up"]


def test_a_layer_that_always_chooses_the_same_is_collapsed_and_no_warm_up():
    layers = honest(np.random.default_rng(0))
    layers["layers.0"] = np.tile(layers["layers.0"][:1], (600, 1))
    assert kinds(layers) == []


def test_documents_that_keep_to_their_modules_are_no_warm_up():
    rng = np.random.default_rng(0)
    documents = draw(rng, 20, choices=1)
    assert kinds({"layers.0": np.repeat(documents, 60, axis=0)}) == []


def test_rows_of_0_to_k_in_every_layer_are_padding():
    layers = honest(np.random.default_rng(0))
    padded = {
        name: np.concatenate([chosen, np.tile(np.arange(K), (60, 1))])
        for name, chosen in layers.items()
    }
    order = np.random.default_rng(1).permutation(660)
    scattered = {name: chosen[order] for name, chosen in padded.items()}
    assert kinds(padded) == ["padding"]
    assert kinds(scattered) == ["padding"]
    one_layer = {**layers, "layers.0": padded["layers.0"][:600]}
    assert kinds(one_layer) == []


@pytest.mark.parametrize("width", [1, 4])
def test_zeros_everywhere_are_nothing_recorded(width):
    zeros = {f"layers.{layer}": np.zeros((40, width), int) for layer in range(6)}
    assert kinds(zeros) == ["nothing recorded"]


def test_rows_that_repeat_their_predecessor_in_every_layer():
    layers = honest(np.random.default_rng(0))
    twice = {name: np.repeat(chosen, 2, axis=0) for name, chosen in layers.items()}
    assert kinds(twice) == ["repeated rows"]


def test_a_file_that_repeats_another():
    watch = RowWatch()
    for name, chosen in honest(np.random.default_rng(0)).items():
        for file in ("rank0.jsonl", "rank1.jsonl"):
            watch.add(name, chosen, file=file)
    warnings, rows = watch.warnings()
    assert [warning.kind for warning in warnings] == ["repeated ranks"]
    assert "rank1.jsonl repeats rank0.jsonl" in warnings[0].text
    assert rows["repeated ranks"].tolist() == [False] * 600 + [True] * 600


def test_a_layer_with_few_tokens():
    layers = honest(np.random.default_rng(0))
    layers["layers.1"] = layers["layers.1"][:100]
    assert kinds(layers) == ["uneven layers"]


def test_weights_that_are_all_equal_are_ties():
    chosen = draw(np.random.default_rng(0), 200)
    assert kinds({"layers.0": chosen}, weight=None) == []
    watch = RowWatch()
    watch.add("layers.0", chosen, np.full(chosen.shape, 1 / K))
    assert [warning.kind for warning in watch.warnings()[0]] == ["ties"]


@pytest.mark.parametrize("choices", [1, 4, 8])
def test_counts_of_independent_tokens_are_not_too_equal(choices):
    """Uniform routing is the most equal that there is: no false alarm in 200 draws."""
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(200):
        chosen = rng.random((300, M)).argsort(1)[:, :choices]
        counts = {"layers.0": np.bincount(chosen.ravel(), minlength=M).astype(float)}
        alarms += bool(list(too_equal(counts, {"layers.0": choices})))
    assert alarms == 0


def test_counts_that_are_all_equal_are_too_equal():
    equal = {f"layers.{layer}": np.full(M, 128.0) for layer in range(4)}
    assert [warning.kind for warning in of_counts(equal)] == ["too equal"]
    assert of_counts({"layers.0": np.full(M, np.nan)}) == ()
    assert list(too_equal({"layers.0": np.full(M, 0.5)})) == []  # shares are no counts


def test_counts_kept_in_half_precision_are_rounded():
    rng = np.random.default_rng(0)
    counts = rng.multinomial(2_613_760, rng.dirichlet(np.full(64, 50.0))).astype(float)
    assert list(rounded({"a": counts})) == []
    kept = np.round(counts / 256) * 256
    assert [warning.kind for warning in rounded({"a": kept})] == ["rounded"]


# --- in an import --------------------------------------------------------------------------------


def write(path: Path, chosen: np.ndarray) -> None:
    rows = [{"layer": 0, "topk_ids": row.tolist(), "token_idx": i} for i, row in enumerate(chosen)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_rows_of_a_warning_are_left_out_when_asked(tmp_path):
    rng = np.random.default_rng(0)
    chosen = draw(rng, 100)
    write(tmp_path / "log.jsonl", np.concatenate([np.tile(chosen[:1], (400, 1)), chosen]))
    kept = import_source([tmp_path / "log.jsonl"], tmp_path / "a.trace")
    assert [warning.kind for warning in kept.header.warnings] == ["warm-up"]
    assert open_trace(tmp_path / "a.trace").header.warnings == kept.header.warnings
    options = Options(leave_out=frozenset({"warm-up"}))
    found = import_source([tmp_path / "log.jsonl"], tmp_path / "b.trace", options=options)
    assert found.header.warnings == ()
    assert found.rows == 99  # the run goes on with the first honest row
    (columns,) = read_columns(open_trace(tmp_path / "b.trace"), ("chosen", "position"))
    np.testing.assert_array_equal(columns["chosen"], chosen[1:])
    assert columns["position"][0] == 401
    wrong = Options(leave_out=frozenset({"noise"}))
    with pytest.raises(TraceError, match="--leave-out 'noise': expected of warm-up, padding"):
        import_source([tmp_path / "log.jsonl"], tmp_path / "c.trace", options=wrong)


def test_padding_is_not_called_excluded_when_it_is_seen(tmp_path):
    chosen = np.stack([draw(np.random.default_rng(0), 30) for _ in range(2)], 1)
    padded = np.concatenate([chosen, np.tile(np.arange(K), (10, 2, 1))])
    reply = {"choices": [{"routed_experts": padded.tolist()}]}
    (tmp_path / "replies.jsonl").write_text(json.dumps(reply) + "\n")
    found = import_source([tmp_path / "replies.jsonl"], tmp_path / "a.trace")
    assert "padding" in [warning.kind for warning in found.header.warnings]
    assert found.header.padding == "unknown"


def test_counts_carry_their_warnings(tmp_path):
    np.save(tmp_path / "load.npy", np.full((4, 16), 128))
    found = import_source([tmp_path / "load.npy"], tmp_path / "a.trace")
    header, _ = load_counts(found.path)
    assert [warning.kind for warning in header.warnings] == ["too equal"]
    assert {warning.kind for warning in header.warnings} <= set(WARNINGS)


def test_a_score_says_the_warnings_of_its_recording(tmp_path):
    chosen = draw(np.random.default_rng(0), 100)
    write(tmp_path / "log.jsonl", np.concatenate([np.tile(chosen[:1], (400, 1)), chosen]))
    import_source([tmp_path / "log.jsonl"], tmp_path / "a.trace")
    header, groups = gather(tmp_path / "a.trace")
    card = score_trace(header, groups, Reading(source="a.trace", name="a"))
    assert card.models[0].warnings == header.warnings
    assert card.notes[0].startswith("a: warning, warm-up: 80 % of the rows of layers.0 are one")
    (view,) = entries([card], [""])
    assert ", doubtful (warm-up): " in brief(view).sentence


def test_a_score_of_nothing_recorded_is_refused_with_the_warning(tmp_path):
    reply = {"choices": [{"routed_experts": np.zeros((20, 2, 1), int).tolist()}]}
    (tmp_path / "replies.jsonl").write_text(json.dumps(reply) + "\n")
    import_source([tmp_path / "replies.jsonl"], tmp_path / "a.trace")
    with pytest.raises(TraceError, match="the engine recorded nothing"):
        score_trace(*gather(tmp_path / "a.trace"), Reading(source="a.trace", name="a"))


def test_rows_without_a_module_are_told_where_they_come_in_and_in_the_verdict(tmp_path):
    rng = np.random.default_rng(0)
    rows = [row[: rng.integers(0, 3)].tolist() for row in draw(rng, 400)]
    (tmp_path / "log.jsonl").write_text(
        "".join(json.dumps({"layer": 0, "chosen": row, "document": i}) + "\n"
                for i, row in enumerate(rows))
    )  # fmt: skip
    found = import_source([tmp_path / "log.jsonl"], tmp_path / "a.trace")
    empty, taken = sum(not row for row in rows), sum(map(len, rows))
    (note,) = (note for note in found.header.notes if "chose no module" in note)
    assert f"({empty} of 400)" in note
    assert note.endswith(f"a row chose {taken / 400:.3g}.")
    card = score_trace(*gather(tmp_path / "a.trace"), Reading(source="a.trace", name="a"))
    (view,) = entries([card], [""])
    share = f"{100 * (1 - taken / 800):.0f}"
    assert f" {share} % of the choices went to no expert." in brief(view).sentence
