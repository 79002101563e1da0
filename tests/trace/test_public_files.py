"""Files as people publish them, rebuilt small: what each of them means is what is read."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modeval.errors import RunError, TraceError
from modeval.pipeline.scoring import score
from modeval.trace.counts import load_counts
from modeval.trace.files import chunks, concatenate, open_trace
from modeval.trace.importers.format import Options
from modeval.trace.importers.import_files import Imported, import_source
from modeval.trace.trace import TraceChunk

CHOSEN = np.random.default_rng(0).random((2, 14, 8)).argsort(-1)[..., :2]


def taken(tmp_path: Path, *paths: Path) -> tuple[Imported, TraceChunk]:
    found = import_source(paths, tmp_path / "x.trace")
    return found, concatenate(list(chunks(open_trace(found.path))))


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def row(layer: int, token: int, **more: object) -> dict[str, Any]:
    return {"layer": layer, "position": token, "chosen": CHOSEN[layer, token].tolist(), **more}


# --- loggers that write a file for each layer ----------------------------------------------------


def by_layer(folder: Path, *, second: dict[str, Any]) -> list[Path]:
    every = [({}, 0), (second, 1)]
    return [
        lines(
            folder / f"layer{layer}.jsonl",
            [row(layer, token, document=token // 7) | more for token in range(14)],
        )
        for more, layer in every
    ]


def test_files_of_other_layers_of_the_same_tokens_are_the_same_documents(tmp_path: Path) -> None:
    found, rows = taken(tmp_path, *by_layer(tmp_path, second={}))
    assert np.unique(rows.document).tolist() == [0, 1]
    assert any("other layers of the same documents" in note for note in found.header.notes)


@pytest.mark.parametrize("second", [{"layer": 0}, {"document": 5}, {"label": "b"}, {"position": 3}])
def test_files_of_other_tokens_labels_or_the_same_layer_are_other_documents(
    tmp_path: Path, second: dict[str, Any]
) -> None:
    _, rows = taken(tmp_path, *by_layer(tmp_path, second=second))
    assert len(np.unique(rows.document)) == 3 if "document" in second else 4


# --- batches and prompts -------------------------------------------------------------------------


def test_a_line_may_hold_a_batch_of_tokens(tmp_path: Path) -> None:
    made = [
        {
            "layer": layer,
            "batch_id": batch,
            "origin_rows": list(range(7)),
            "topk_experts": CHOSEN[layer, 7 * batch : 7 * batch + 7].tolist(),
        }
        for batch in range(2)
        for layer in range(2)
    ]
    found, rows = taken(tmp_path, lines(tmp_path / "balance.jsonl", made))
    assert (found.rows, found.header.layers) == (28, ("layers.0", "layers.1"))
    order = np.lexsort((rows.position, rows.document, rows.layer))
    assert rows.chosen[order].tolist() == CHOSEN.reshape(-1, 2).tolist()
    assert np.unique(rows.document).tolist() == [0, 1]


def test_a_file_may_hold_a_prompt_with_its_domain_and_a_list_of_layers(tmp_path: Path) -> None:
    for number, domain in enumerate(("math", "code")):
        layers = [
            {"layer": layer, "topk_experts": each.tolist(), "topk_probs": [[0.6, 0.4]] * 14}
            for layer, each in enumerate(CHOSEN)
        ]
        prompt = {"prompt": "What is it?", "domain": domain, "layers": layers}
        (tmp_path / f"p{number}.json").write_text(json.dumps(prompt), encoding="utf-8")
    found, rows = taken(tmp_path, tmp_path / "p0.json", tmp_path / "p1.json")
    assert (found.rows, found.header.labels) == (56, ("code", "math"))
    pairs = sorted(set(zip(rows.document.tolist(), rows.label.tolist(), strict=True)))
    assert pairs == [(0, 1), (1, 0)]  # each prompt is a document


def test_prompts_that_have_names_keep_them(tmp_path: Path) -> None:
    layers = [{"layer": 0, "topk_experts": CHOSEN[0].tolist()}]
    made = [{"prompt_id": name, "layers": layers} for name in ("b", "a", "b")]
    _, rows = taken(tmp_path, lines(tmp_path / "prompts.jsonl", made))
    assert np.bincount(rows.document).tolist() == [28, 14]


# --- tensors and drawn tables --------------------------------------------------------------------


def saved(folder: Path, *, most: int) -> Path:
    draw = np.random.default_rng(1)
    parts = {name: torch.from_numpy(draw.integers(1, most, (3, 8))) for name in ("math", "code")}
    torch.save(parts, folder / "by_domain.pt")
    return folder / "by_domain.pt"


@pytest.mark.parametrize(("most", "axes"), [(9_000, ()), (90, ("layer", "expert"))])
def test_tensors_of_counts_of_each_domain_have_labels_and_layers(
    tmp_path: Path, most: int, axes: tuple[str, ...]
) -> None:
    options = Options(axes=axes)
    found = import_source([saved(tmp_path, most=most)], tmp_path / "x", options=options)
    assert (found.header.labels, len(found.header.layers)) == (("code", "math"), 3)
    assert "router logits" not in " ".join(found.header.notes)


def test_a_tensor_that_may_hold_counts_or_ids_is_asked_for(tmp_path: Path) -> None:
    torch.save([torch.arange(24).view(3, 8)] * 2, tmp_path / "a.pt")
    with pytest.raises(TraceError, match=r"may hold ids of experts, or counts"):
        import_source([tmp_path / "a.pt"], tmp_path / "x")


def test_a_drawn_table_is_read_without_its_rules(tmp_path: Path) -> None:
    (tmp_path / "t.md").write_text(
        "| layer | expert | count |\n|:---|---|--:|\n| 0 | 0 | 3 |\n| 0 | 1 | 4 |\n",
        encoding="utf-8",
    )
    _, groups = load_counts(import_source([tmp_path / "t.md"], tmp_path / "x").path)
    assert groups[0].counts.selections.flatten().tolist() == [3, 4]


def test_counts_by_step_are_refused_with_the_column_that_repeats_them(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("iter,layer,expert,count\n0,0,0,3\n1,0,0,4\n", encoding="utf-8")
    with pytest.raises(TraceError, match=r"repeats layer 0, expert 0\. .* columns iter too: keep"):
        import_source([tmp_path / "t.csv"], tmp_path / "x")


def test_shares_in_json_are_no_counts(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"0": {"0": 0.25, "1": 0.75}}', encoding="utf-8")
    with pytest.raises(TraceError, match="rows that sum to 1"):
        import_source([tmp_path / "a.json"], tmp_path / "x")


def test_lists_of_counts_in_rows_are_not_offered_as_choices(tmp_path: Path) -> None:
    made = lines(tmp_path / "a.jsonl", [{"layer": 0, "counts": [1, 2, 3]}])
    with pytest.raises(TraceError, match="counts holds counts, and nothing is said") as caught:
        import_source([made], tmp_path / "x")
    assert "chosen=counts" not in str(caught.value)


# --- importance matrices -------------------------------------------------------------------------


def test_an_importance_matrix_of_the_old_form_says_how_to_make_one_with_counts(
    tmp_path: Path,
) -> None:
    name = b"blk.0.ffn_gate_exps.weight"
    content = struct.pack("<ii", 1, len(name)) + name + struct.pack("<ii4f", 3, 4, *range(4))
    (tmp_path / "imatrix.dat").write_bytes(content)
    with pytest.raises(TraceError, match=r"old form, which holds no counts.*--output-format gguf"):
        import_source([tmp_path / "imatrix.dat"], tmp_path / "x")


def test_counts_that_differ_between_gate_and_down_are_those_of_the_gate_and_said(
    tmp_path: Path,
) -> None:
    gguf = pytest.importorskip("gguf", reason="GGUF is read by the package gguf")
    writer = gguf.GGUFWriter(tmp_path / "imatrix.gguf", "imatrix")
    for kind, least in (("gate", 50), ("up", 50), ("down", 43)):
        name = f"blk.3.ffn_{kind}_exps.weight"
        writer.add_tensor(f"{name}.counts", np.array([[least], [60], [70]], np.float32))
        writer.add_tensor(f"{name}.in_sum2", np.zeros((3, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    header, groups = load_counts(import_source([tmp_path / "imatrix.gguf"], tmp_path / "x").path)
    assert groups[0].counts.selections.flatten().tolist() == [50, 60, 70]
    assert any("layer 3 differ between gate, up, down" in note for note in header.notes)


# --- a matrix in a folder ------------------------------------------------------------------------


def test_a_folder_that_only_holds_a_matrix_says_how_to_score_it(tmp_path: Path) -> None:
    np.save(tmp_path / "prob_last.npy", np.array([[0.4, 0.1], [0.1, 0.4]]))
    with pytest.raises(RunError, match=r"modeval score .*prob_last\.npy"):
        score(tmp_path)
    assert score(tmp_path / "prob_last.npy").models
