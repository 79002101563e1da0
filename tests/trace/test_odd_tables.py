"""Tables as other programs leave them: read as what they mean, or refused with what to type."""

import gzip
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from modeval.errors import TraceError
from modeval.trace.counts import load_counts
from modeval.trace.files import chunks, concatenate, open_trace
from modeval.trace.importers.import_files import import_source

CHOSEN = [[0, 1], [3, 2], [5, 0], [1, 4]]
LAYER = [0, 1, 0, 1]
DOCUMENT = [0, 0, 1, 1]
PLAIN = "layer,chosen,document\n0,0 1,0\n1,3 2,0\n0,5 0,1\n1,1 4,1\n"


def as_csv(text: str, encoding: str = "utf-8") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "a.csv").write_bytes(text.encode(encoding))
        return folder / "a.csv"

    return make


def packed(folder: Path) -> Path:
    """Something that gzip packed and that is not named so."""
    (folder / "a.csv").write_bytes(gzip.compress(PLAIN.encode()))
    return folder / "a.csv"


def of_json(**change: list[object]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        columns = {"layer": LAYER, "chosen": CHOSEN, "document": DOCUMENT} | change
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        (folder / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
        return folder / "a.jsonl"

    return make


def of_parquet(**change: object) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        columns = {"layer": LAYER, "chosen": CHOSEN, "document": DOCUMENT} | change
        pyarrow.parquet.write_table(pa.table(columns), folder / "a.parquet")
        return folder / "a.parquet"

    return make


def of_npz(**change: object) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        columns = {"layer": LAYER, "chosen": CHOSEN, "document": DOCUMENT} | change
        arrays: dict[str, Any] = {name: np.asarray(each) for name, each in columns.items()}
        np.savez(folder / "a.npz", **arrays)
        return folder / "a.npz"

    return make


FLOATS = np.array(CHOSEN, dtype=float)
READ = {
    "bars": as_csv(PLAIN.replace(",", "|")),
    "UTF-16": as_csv(PLAIN, "utf-16"),
    "lines of Windows, empty ones at the end": as_csv(PLAIN.replace("\n", "\r\n") + "\r\n \r\n"),
    "an index without a name, twice": as_csv(
        ",,layer,chosen,document\n"
        + "".join(f"{n},{n},{line}\n" for n, line in enumerate(PLAIN.splitlines()[1:]))
    ),
    "whole numbers with a point": as_csv(
        "layer,chosen,document\n0.0,0.0 1.0,0.0\n1.0,3.0 2,0.\n0.0,5 0,1.0\n1,1 4,1.0\n"
    ),
    "gzip without its ending": packed,
    "JSON of decimal numbers": of_json(layer=[0.0, 1.0, 0.0, 1.0], chosen=FLOATS.tolist()),
    "JSON with choices as text": of_json(chosen=["0 1", "3,2", "[5, 0]", "1 4"]),
    "JSON with an unknown weight": of_json(weight=[None] * 4),
    "Parquet of decimal numbers": of_parquet(layer=[0.0, 1.0, 0.0, 1.0], chosen=FLOATS.tolist()),
    "Parquet with a column of nulls": of_parquet(label=pa.nulls(4)),
    "NPZ of decimal numbers": of_npz(layer=np.array(LAYER, float), chosen=FLOATS),
    "NPZ in order of columns": of_npz(chosen=np.asfortranarray(CHOSEN)),
}


@pytest.mark.parametrize("name", READ)
def test_what_an_odd_table_means_is_read(tmp_path: Path, name: str) -> None:
    found = import_source([READ[name](tmp_path)], tmp_path / "x.trace")
    assert found.header.layers == ("layers.0", "layers.1")
    rows = concatenate(list(chunks(open_trace(found.path))))
    columns = rows.layer.tolist(), rows.chosen.tolist(), rows.document.tolist()
    assert sorted(zip(*columns, strict=True)) == sorted(zip(LAYER, CHOSEN, DOCUMENT, strict=True))


def test_numbers_from_one_are_noticed_and_not_guessed(tmp_path: Path) -> None:
    rows = "layer,chosen\n0,1 2\n0,2 3\n1,3 1\n"
    counts = "layer,expert,count\n0,1,5\n0,2,7\n1,1,3\n1,2,4\n"
    for name, text in (("rows", rows), ("counts", counts)):
        for start, noticed in ((1, True), (0, False)):
            (tmp_path / "a.csv").write_text(
                text if start else text.replace(",1,", ",0,").replace(",1 2", ",0 2")
            )
            header = import_source([tmp_path / "a.csv"], tmp_path / f"{name}{start}.trace").header
            assert any("numbered from 1" in note for note in header.notes) == noticed


def test_a_point_in_a_count_is_that_of_decimals_and_said(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("layer;expert;count\n0.0;0.0;1.234\n0.0;1;20.0\n")
    header, groups = load_counts(import_source([tmp_path / "a.csv"], tmp_path / "x").path)
    assert header.layers == ("layers.0",)
    assert groups[0].counts.selections.flatten().tolist() == pytest.approx([1.234, 20])
    assert any("not of thousands" in note for note in header.notes)


def test_labels_and_phases_of_an_npz_may_be_bytes_numbers_and_words(tmp_path: Path) -> None:
    for label, expected in ((["a", "b"], ("a", "b")), ([1.0, np.nan], ("1",))):
        array = np.array(label * 2)
        made = of_npz(label=array.astype("S") if array.dtype.kind == "U" else array,
                      phase=["prefill", "decode"] * 2)(tmp_path)  # fmt: skip
        found = import_source([made], tmp_path / f"{expected[0]}.trace")
        assert found.header.labels == expected
        rows = concatenate(list(chunks(open_trace(found.path))))
        assert rows.phase.tolist() == [0, 1, 0, 1] or sorted(rows.phase.tolist()) == [1, 1, 2, 2]


def file(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def array(values: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        np.save(folder / "a.npy", values)
        return folder / "a.npy"

    return make


def tensor(values: torch.Tensor | torch.nn.Module) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        torch.save(values, folder / "a.pt")
        return folder / "a.pt"

    return make


def twice_in_parquet(folder: Path) -> Path:
    columns = [pa.array(LAYER), pa.array(CHOSEN), pa.array(CHOSEN)]
    table = pa.Table.from_arrays(columns, names=["layer", "chosen", "chosen"])
    pyarrow.parquet.write_table(table, folder / "a.parquet")
    return folder / "a.parquet"


REFUSED = {
    "a column twice": (as_csv("layer,chosen,chosen\n0,1,2\n"), "names the column 'chosen' twice"),
    "a column of Parquet twice": (twice_in_parquet, "names the column 'chosen' twice"),
    "a key twice": (
        file("a.jsonl", b'{"layer": 0, "chosen": [1, 2], "chosen": [3, 4]}\n'),
        "has the key 'chosen' twice",
    ),
    "objects of several lines": (
        file("a.jsonl", b'{"layer": 0,\n"chosen": [1]}'),
        "Each line must",
    ),
    "gzip that was cut": (file("a.csv.gz", gzip.compress(PLAIN.encode())[:-20]), "end-of-stream"),
    "half a text of UTF-16": (file("a.csv", PLAIN.encode("utf-16")[:-1]), "no whole text of UTF"),
    "blank lines": (file("a.csv", b"\n \n"), "holds nothing but blank lines"),
    "names and no rows": (file("a.csv", b"layer,chosen\n"), "The files have no rows"),
    "a comma of thousands": (
        file("a.csv", b'layer,expert,count\n0,0,"1,234"\n'),
        "Write thousands without a comma",
    ),
    "lines of old Macs": (file("a.csv", PLAIN.replace("\n", "\r").encode()), "lines that end as"),
    "rows under another name": (file("a.log", PLAIN.encode()), "read it with --from csv"),
    "too large an id": (file("a.csv", b"layer,chosen\n0,99999999999999999999\n"), "too large"),
    "documents with names and numbers": (
        file("a.csv", b"layer,chosen,document\n0,1 2,a\n1,1 2,0\n"),
        "some have numbers and others names",
    ),
    "no choice in Parquet": (
        of_parquet(chosen=[*CHOSEN[:3], None]),
        "row 3: layer is 1, chosen No",
    ),
    "no layer in Parquet": (of_parquet(layer=pa.nulls(4)), "row 0: layer is None"),
    "half a Parquet file": (file("a.parquet", b"PAR1" + bytes(99)), "It is damaged Parquet"),
    "half an expert": (of_npz(chosen=FLOATS + 0.5), "decimal numbers such as 0.5 in 2 axes"),
    "an unknown phase": (of_npz(phase=[9] * 4), r"holds 9: expected 0 \("),
    "labels in two axes": (of_npz(label=[["a", "b"]] * 4), "of shape (4, 2)"),
    "names of bytes that are no text": (of_npz(layer=[b"\xff"] * 4), "not UTF-8"),
    "a mask": (array(np.eye(8, dtype=int)[np.arange(300) % 8]), "only 0 and 1: a mask"),
    "complex numbers": (array(np.ones((4, 8), complex)), "holds complex128 of shape"),
    "a number": (array(np.array(3)), "of shape ()"),
    "a table of fields": (array(np.zeros(5, [("layer", int)])), "of shape (5,)"),
    "a tensor without numbers": (tensor(torch.ones(4, 8, device="meta")), "of the device meta"),
    "a network": (tensor(torch.nn.Linear(2, 2)), "asks for torch.nn.modules.linear.Linear"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_means_nothing_is_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    make, reason = REFUSED[name]
    with pytest.raises(TraceError) as caught:
        import_source([make(tmp_path)], tmp_path / "x.trace")
    assert reason.replace("\\", "") in str(caught.value)
    assert not (tmp_path / "x.trace").exists()


def test_a_sparse_tensor_is_read_as_its_numbers(tmp_path: Path) -> None:
    counts = torch.tensor([[5000.0, 0, 70, 3], [0, 0, 12, 4100]])
    whole = import_source([tensor(counts)(tmp_path)], tmp_path / "whole")
    sparse = import_source([tensor(counts.to_sparse())(tmp_path)], tmp_path / "sparse")
    found = [load_counts(each.path)[1][0].counts.selections for each in (whole, sparse)]
    assert found[0].flatten().tolist() == found[1].flatten().tolist() == counts.flatten().tolist()


@pytest.mark.skipif(sys.platform == "win32", reason="pipes have no names there")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(TraceError, match="is a pipe or a device"):
        import_source([tmp_path / "a.csv"], tmp_path / "x.trace")
