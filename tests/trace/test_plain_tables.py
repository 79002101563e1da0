"""Tables and arrays that people hold: read by their names and numbers, or refused with help."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modeval.errors import TraceError
from modeval.pace import heard_by
from modeval.trace.counts import load_counts
from modeval.trace.files import chunks, concatenate, open_trace
from modeval.trace.importers import import_files, reading
from modeval.trace.importers.format import Options
from modeval.trace.importers.import_files import Imported, import_source
from modeval.trace.importers.plain.columns import cell_numbers
from modeval.trace.importers.plain.matrix import read_matrix

pytest.importorskip("pyarrow", reason="traces are Parquet files")

COUNTS = [[5, 0, 7], [1, 2, 9]]
CELLS = [(layer, expert, COUNTS[layer][expert]) for layer in range(2) for expert in range(3)]


def run(path: Path, **options: Any) -> Imported:
    return import_source([path], path.with_suffix(".trace"), options=Options(**options))


def selections(found: Imported) -> list[list[float]]:
    return load_counts(found.path)[1][0].counts.selections.sum((1, 2)).tolist()


TABLES = {
    "plain": ("layer,expert,count", "{0},{1},{2}"),
    "other order": ("expert_id,layer_id,count", "{1},{0},{2}"),
    "tabs": ("layer_idx\texpert_idx\ttokens", "{0}\t{1}\t{2}"),
    "semicolons, capitals": ("Layer;Expert ID;Hits", "{0};{1};{2}"),
    "more columns": ("share,layer,module,selections,x", "0.1,{0},{1},{2},y"),
    "named layers": ("layer,expert,count", "model.layers.{0},{1},{2}"),
    "quotes": ('"layer","expert","count"', '"{0}","{1}","{2}"'),
}


@pytest.mark.parametrize("name", TABLES)
def test_the_line_of_names_decides_what_counts_mean(tmp_path, name):
    head, row = TABLES[name]
    text = "\n".join(["# by a census", head, *(row.format(*cell) for cell in CELLS), "# end"])
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert selections(run(tmp_path / "t.csv")) == COUNTS


def test_counts_have_labels_phases_and_documents(tmp_path):
    rows = [
        f"{layer},{expert},{count},{label},{document},decode"
        for document, label in enumerate(("code", "prose", "code"))
        for layer, expert, count in CELLS
    ]
    text = "\n".join(["layer,expert,count,domain,doc_id,phase", *rows])
    (tmp_path / "t.csv").write_text(text)
    header, groups = load_counts(run(tmp_path / "t.csv").path)
    assert (header.labels, header.phase) == (("code", "prose"), "decode")
    by_label = groups[0].counts.selections.sum(1)
    torch.testing.assert_close(by_label[:, 0], 2 * by_label[:, 1])


JSON = {
    "lists": COUNTS,
    "layers of lists": {"0": COUNTS[0], "1": COUNTS[1]},
    "layers of experts": {
        f"layer_{layer}": {str(e): n for e, n in enumerate(row)} for layer, row in enumerate(COUNTS)
    },
    "wrapped": {"counts": {"0": COUNTS[0], "1": COUNTS[1]}},
}


@pytest.mark.parametrize("name", JSON)
def test_counts_by_layer_are_read_from_json(tmp_path, name):
    (tmp_path / "t.json").write_text(json.dumps(JSON[name], indent=1))
    assert selections(run(tmp_path / "t.json")) == COUNTS


WRONG_COUNTS = {
    "a pair twice": ("layer,expert,count\n0,1,2\n0,1,3\n", "line 3: repeats layer 0, expert 1"),
    "below 0": ("layer,expert,count\n0,1,-2\n", "line 2: count is -2"),
    "no number": ("layer,expert,count\n0,1,many\n", "count is 'many'"),
    "no expert": ("layer,expert,count\n0,x,1\n", "names 'x': expected the number of a module"),
    "an expert beyond all": ("layer,expert,count\n0,99999999999,1\n", "to 32767"),
    "cells missing": ("layer,expert,count\n0,1\n", "line 2: has 2 cells: expected 3"),
}


@pytest.mark.parametrize("name", WRONG_COUNTS)
def test_wrong_counts_are_refused_by_line(tmp_path, name):
    text, reason = WRONG_COUNTS[name]
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(TraceError, match=reason):
        run(tmp_path / "t.csv")


ROWS = {
    "spaces": "layer_id,expert_ids\n0,3 1\n0,\n1,2 0\n",
    "commas": 'layer,topk_ids\n0,"3,1"\n0,\n1,"2,0"\n',
    "lists": 'layer,selected_experts\n0,"[3, 1]"\n0,[]\n1,"[2, 0]"\n',
    "semicolons": "layer;chosen\n0;3 1\n0;\n1;2,0\n",
    "bars": "layer,experts,note\n0,3|1,a\n0,,b\n1,2|0,c\n",
}


@pytest.mark.parametrize("name", ROWS)
def test_chosen_modules_are_read_however_they_are_separated(tmp_path, name):
    (tmp_path / "t.csv").write_text(ROWS[name])
    rows = concatenate(list(chunks(open_trace(run(tmp_path / "t.csv").path))))
    order = np.lexsort((rows.chosen[:, 0] < 0, rows.layer))
    assert rows.chosen[order].tolist() == [[3, 1], [-1, -1], [2, 0]]


def test_documents_have_names_and_labels_are_numbers(tmp_path):
    rows = [
        {"layer": 0, "topk_ids": [1, 2], "request_id": name, "task": task, "seen": True}
        for name, task in (("req-b", 3), ("req-a", 0.5), ("req-b", 3))
    ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = run(tmp_path / "t.jsonl")
    kept = concatenate(list(chunks(open_trace(found.path))))
    assert kept.document.tolist() == [0, 1, 0]
    assert found.header.labels == ("0.5", "3")
    assert "passed over: seen" in " ".join(found.header.notes)


def test_columns_can_be_named(tmp_path):
    (tmp_path / "t.csv").write_text("block,took\n0,1 2\n1,3 0\n")
    with pytest.raises(TraceError, match="--columns layer=block,chosen=took"):
        import_source([tmp_path / "t.csv"], tmp_path / "x.trace", name="csv")
    found = import_source(
        [tmp_path / "t.csv"], tmp_path / "x.trace", name="csv",
        options=Options(columns={"layer": "block", "chosen": "took"}),
    )  # fmt: skip
    assert found.rows == 2


@pytest.mark.parametrize(
    ("name", "text", "parts"),
    [
        (
            "a.csv",
            "layer,topk,weights\n0,1,2\n",
            None,  # topk is a name of chosen
        ),
        ("b.csv", "layer,took\n0,1\n", ("`layer,took`", "Nearest: csv", "chosen=took")),
        ("c.csv", "layer,expert,share\n0,1,.5\n", ("Nearest: counts-csv", "count=share")),
        ("d.csv", "step,layer,expert,prob\n1,0,0,.5\n", ("log of training by step",)),
        ("e.json", '{"entropy_by_layer": {"a": 0.5}, "x": 1}', ("summaries such as entropies",)),
        ("f.jsonl", '{"layer": 3, "took": [1]}\n', ("Nearest: jsonl", "chosen=took")),
        ("g.bin", "\0\1\2\3", ("it begins with", "--list")),
        ("h.txt", "\x1b]0;x\x07 hello\n", (r"\x1b]0;x\x07", "layer,expert,count")),
    ],
)
def test_a_refusal_says_what_was_seen_what_is_near_and_what_to_type(tmp_path, name, text, parts):
    (tmp_path / name).write_text(text)
    if parts is None:
        assert run(tmp_path / name).format == "csv"
        return
    with pytest.raises(TraceError, match="No known format fits") as caught:
        run(tmp_path / name)
    for part in parts:
        assert part in str(caught.value)
    assert "\x1b" not in str(caught.value)


# --- bare arrays ---------------------------------------------------------------------------------


def ids(tokens: int, modules: int = 16, choices: int = 4) -> np.ndarray:
    return np.random.default_rng(0).random((tokens, modules)).argsort(1)[:, :choices]


def test_ids_of_many_tokens_are_no_loads(tmp_path):
    np.save(tmp_path / "a.npy", ids(500))
    found = run(tmp_path / "a.npy")
    assert (found.format, found.rows, found.header.modules) == ("npy", 500, (16,))
    assert found.header.notes[0].startswith("a.npy says nothing of its axes: it was taken for 500")


def test_loads_are_no_ids(tmp_path):
    loads = np.random.default_rng(0).multinomial(4096, np.full(16, 1 / 16), size=60)
    np.save(tmp_path / "a.npy", loads)
    assert selections(run(tmp_path / "a.npy")) == loads.tolist()


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (ids(60), "may hold ids of experts, or counts"),
        (np.full((4, 4), 0.25), "modeval score .*a.npy"),
        (np.zeros((2, 3, 4)), "--axes label,layer,expert"),
        (np.zeros(8), "--axes expert"),
        (np.full((2, 2), np.nan), "not finite"),
    ],
)
def test_an_array_of_two_readings_is_asked_for(tmp_path, array, reason):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(TraceError, match=reason):
        run(tmp_path / "a.npy")


def test_axes_say_what_an_array_is(tmp_path):
    counts = np.arange(24).reshape(2, 3, 4)
    np.save(tmp_path / "a.npy", counts.transpose(2, 0, 1))
    header, groups = load_counts(run(tmp_path / "a.npy", axes=("expert", "label", "layer")).path)
    assert header.labels == ("label 0", "label 1")
    assert groups[0].counts.selections[:, 0].transpose(0, 1).tolist() == counts.tolist()
    logits = np.random.default_rng(0).normal(size=(3, 50, 8))
    np.save(tmp_path / "b.npy", logits)
    found = run(tmp_path / "b.npy", axes=("layer", "token", "expert"), choices=2)
    rows = concatenate(list(chunks(open_trace(found.path))))
    np.testing.assert_array_equal(
        rows.chosen.reshape(3, 50, 2), logits.argsort(-1)[..., ::-1][..., :2]
    )
    with pytest.raises(TraceError, match="--choices K"):
        run(tmp_path / "b.npy", axes=("layer", "token", "expert"))
    with pytest.raises(TraceError, match="is no name for each"):
        run(tmp_path / "b.npy", axes=("layer", "row", "expert"))


def test_bytes_after_an_array_are_damage(tmp_path):
    np.save(tmp_path / "a.npy", np.full((4, 16), 128))
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes() + b"\0" * 8)
    with pytest.raises(TraceError, match="goes on after its array"):
        import_source([tmp_path / "a.npy"], tmp_path / "x.trace", name="eplb")


def test_a_huge_number_of_modules_is_refused_before_memory_is_taken(tmp_path):
    (tmp_path / "a.csv").write_text("layer,expert,count\n0,32766,5\n")
    with pytest.raises(TraceError, match=r"would take 8\.0 GiB, more than 4"):
        run(tmp_path / "a.csv", modules=32767)


@pytest.mark.parametrize("text", ["layer,expert,count\n0,4096,5\n", "layer,chosen\n0,4096\n"])
def test_one_wrong_number_does_not_make_a_model_of_thousands_of_modules(tmp_path, text):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(TraceError, match="say it with --modules 4097"):
        run(tmp_path / "a.csv")
    run(tmp_path / "a.csv", modules=4097)


@pytest.mark.parametrize("scale", [1.0, 1 / 3, 100])
def test_a_matrix_of_rules_and_modules_is_taken_as_it_is(tmp_path, scale):
    matrix = np.array([[0.8, 0.1, 0.1, 0.0], [0.1, 0.8, 0.1, 0.0], [0.0, 0.0, 0.5, 0.5]])
    kept = np.round(matrix * scale).astype(int) if scale > 1 else matrix * scale
    np.save(tmp_path / "a.npy", kept)
    header, groups = read_matrix(tmp_path / "a.npy")
    assert header.labels == ("rule 0", "rule 1", "rule 2")
    torch.testing.assert_close(groups[0].counts.conditional()[0], torch.from_numpy(matrix))
    np.save(tmp_path / "b.npy", np.abs(np.random.default_rng(0).normal(size=(3, 4))))
    with pytest.raises(TraceError, match="Divide each row by its sum"):
        read_matrix(tmp_path / "b.npy")


def test_a_label_within_another_field_is_named_with_a_dot(tmp_path):
    path = tmp_path / "n.jsonl"
    rows = [
        {"layer": 0, "chosen": [0, 1], "meta": {"domain": "code"}, "document": 0},
        {"layer": 0, "chosen": [1, 2], "meta": {"domain": "law"}, "document": 1},
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    options = Options(columns={"label": "meta.domain"})
    import_source([path], tmp_path / "n.trace", options=options)
    assert open_trace(tmp_path / "n.trace").header.labels == ("code", "law")


def test_what_is_too_large_to_keep_is_read_twice_with_the_same_result(tmp_path, monkeypatch):
    rows = [f"d{n // 3},{n % 3},l{n % 7},{n % 2},{n % 5} {5 + n % 3},0.75 0.25" for n in range(90)]
    text = "\n".join(["document,position,label,layer,chosen,weight", *rows])
    read = []
    for name, room in (("kept", import_files.KEPT_NUMBERS), ("twice", 100)):
        (tmp_path / f"{name}.csv").write_text(text)
        monkeypatch.setattr(import_files, "KEPT_NUMBERS", room)
        found = run(tmp_path / f"{name}.csv")
        read.append((found.header, concatenate([*chunks(open_trace(found.path))]).arrays()))
    (one, ours), (other, theirs) = read
    assert one == other
    assert all((ours[name] == theirs[name]).all() for name in ours)


def test_a_long_file_says_how_much_of_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "TOLD_LINES", 10)
    (tmp_path / "t.csv").write_text("layer,chosen\n" + "0,1 2\n" * 200)
    heard: list[tuple[str, float, float | None]] = []
    with heard_by(lambda *told: heard.append(told)):
        run(tmp_path / "t.csv")
    shares = [done / every for what, done, every in heard if every and "t.csv, MB" in what]
    assert shares == sorted(shares)
    assert len(shares) > 10
    assert 0 < shares[0] <= shares[-1] <= 1


def test_cells_of_several_numbers_are_read_alike_however_they_are_written():
    for text in ("1 2", "1,2", "[1, 2]", "1.0 2.0", "1;2", "(1|2)"):
        assert cell_numbers(text, int, Path("t.csv"), "line 2") == [1, 2]
