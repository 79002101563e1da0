"""Tables of counts in every form that people hold them in, and files that are packed."""

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile
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
from modeval.trace.importers.format import Options
from modeval.trace.importers.import_files import import_source
from modeval.trace.importers.plain.matrix import is_matrix, read_matrix

COUNTS = [[5, 0, 7], [1, 2, 9]]
LONG = [
    {"layer": layer, "expert": expert, "count": COUNTS[layer][expert]}
    for layer in range(2)
    for expert in range(3)
]
COLUMNS = {name: [row[name] for row in LONG] for name in ("layer", "expert", "count")}
WIDE = "layer,expert_0,expert_1,expert_2\n0,5,0,7\n1,1,2,9\n"
LONG_CSV = "layer,expert,count\n" + "".join(
    f"{r['layer']},{r['expert']},{r['count']}\n" for r in LONG
)


def written(name: str, content: str | bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return make


def in_parquet(columns: dict[str, Any]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        pyarrow.parquet.write_table(pa.table(columns), folder / "a.parquet")
        return folder / "a.parquet"

    return make


def in_npz(**arrays: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        columns: dict[str, Any] = {name: np.asarray(array) for name, array in arrays.items()}
        np.savez(folder / "a.npz", **columns)
        return folder / "a.npz"

    return make


def numbered(values: list[Any]) -> dict[str, Any]:
    return {str(number): value for number, value in enumerate(values)}


TABLES = {
    "a column for each expert": written("a.csv", WIDE),
    "numbers for names, and an index": written("a.csv", ",layer,0,1,2\n0,0,5,0,7\n1,1,1,2,9\n"),
    "an empty cell is none": written("a.csv", WIDE.replace(",0,7", ",,7")),
    "a column for each layer": written("a.csv", "expert,layer_0,layer_1\n0,5,1\n1,0,2\n2,7,9\n"),
    "semicolons in UTF-16": written("a.csv", WIDE.replace(",", ";").encode("utf-16")),
    "UTF-16 without a mark": written("a.csv", WIDE.encode("utf-16-le")),
    "UTF-16 of the other order": written("a.csv", WIDE.encode("utf-16-be")),
    "UTF-32": written("a.csv", WIDE.encode("utf-32")),
    "counts called selected": written("a.csv", LONG_CSV.replace("count", "selected")),
    "decimal commas of whole numbers": written("a.csv", "layer;expert;count\n" + "".join(
        f"{row['layer']},0;{row['expert']},0;{row['count']},00\n" for row in LONG)),
    "JSON lines": written("a.jsonl", "".join(json.dumps(row) + "\n" for row in LONG)),
    "JSON lines under another ending": written(
        "a.ndjson", "".join(json.dumps(row | {"layer": f"h.{row['layer']}"}) + "\n" for row in LONG)
    ),
    "a JSON list": written("a.json", json.dumps(LONG, indent=1)),
    "a JSON object of columns": written("a.json", json.dumps(COLUMNS)),
    "columns as pandas writes them": written(
        "a.json", json.dumps({name: numbered(column) for name, column in COLUMNS.items()})
    ),
    "Parquet": in_parquet(COLUMNS),
    "Parquet of decimal numbers": in_parquet(
        {name: pa.array(column, "double") for name, column in COLUMNS.items()}
    ),
    "Parquet, a column for each expert": in_parquet(
        {"layer": [0, 1], "e0": [5, 1], "e1": [0, 2], "e2": [7, 9]}
    ),
    "NPZ of columns": in_npz(**COLUMNS),
    "NPZ of an array for each layer": in_npz(layer_0=COUNTS[0], layer_1=COUNTS[1]),
    "NPZ of arrays without names": in_npz(arr_0=COUNTS[0], arr_1=COUNTS[1]),
    "NPZ of one array": in_npz(counts=COUNTS),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_counts_are_read_from_whatever_holds_them(tmp_path: Path, name: str) -> None:
    found = import_source([TABLES[name](tmp_path)], tmp_path / "x")
    header, groups = load_counts(found.path)
    assert header.layers == ("layers.0", "layers.1")
    assert groups[0].counts.selections.sum((1, 2)).tolist() == COUNTS


def test_what_columns_and_arrays_were_taken_for_is_said(tmp_path: Path) -> None:
    wide = import_source([written("a.csv", WIDE)(tmp_path)], tmp_path / "x").header.notes
    assert "taken for counts of one expert: expert_0, expert_1, expert_2" in " ".join(wide)
    scaled = np.array(COUNTS) * 1000
    made = in_npz(code=scaled, prose=scaled[::-1])(tmp_path)
    header, groups = load_counts(import_source([made], tmp_path / "y").path)
    assert header.labels == ("code", "prose")
    assert groups[0].counts.selections[:, 0, 0].tolist() == scaled.tolist()
    assert any("each array was taken for a label" in note for note in header.notes)


LOGITS = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
LOGITS[:, 4:] -= 40  # the last two modules are never chosen


def in_npy(name: str, array: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        np.save(folder / name, array)
        return folder / name

    return make


def scores_of_warp(folder: Path) -> Path:
    rows = [f"{token} 0 {' '.join(map(str, row))}\n" for token, row in enumerate(LOGITS)]
    return written("scores.txt", "".join(rows))(folder)


TELLING: dict[str, tuple[Callable[[Path], Path], Options, int]] = {
    "a column for each expert": (written("a.csv", WIDE.replace("7", "0").replace("9", "0")),
                                 Options(), 3),
    "JSON with a number for each": (written("a.json", json.dumps([[5, 0], [1, 0]])), Options(), 2),
    "logits": (in_npy("a.npy", LOGITS), Options(axes=("token", "expert"), choices=2), 6),
    "logits of EMO": (in_npy("embeddings_logits.npy", LOGITS), Options(layers=1, choices=2), 6),
    "scores": (scores_of_warp, Options(choices=2), 6),
}  # fmt: skip


@pytest.mark.parametrize("name", TELLING)
def test_modules_that_were_never_chosen_count_where_the_file_names_them(
    tmp_path: Path, name: str
) -> None:
    make, options, modules = TELLING[name]
    header = import_source([make(tmp_path)], tmp_path / "x.trace", options=options).header
    assert set(header.modules) == {modules}
    assert "from the largest" not in " ".join(header.notes)


def test_columns_with_a_gap_do_not_tell_how_many_modules_there_are(tmp_path: Path) -> None:
    table = "layer,expert_0,expert_2\n0,3,4\n"
    notes = import_source([written("a.csv", table)(tmp_path)], tmp_path / "x").header.notes
    assert any("3, was taken from the largest that was counted" in note for note in notes)


@pytest.mark.parametrize("name", ["a.npy", "embeddings_logits.npy"])
def test_what_the_processor_signals_as_no_number_is_refused_without_a_warning(
    tmp_path: Path, name: str
) -> None:
    array = LOGITS.copy()
    array.view(np.uint32)[3, 1] = 0x7F800001  # a damaged file may hold it: casts of it warn
    options = Options(axes=("token", "expert") * (name == "a.npy"), layers=1, choices=2)
    with pytest.raises(TraceError, match=r"not finite|no finite"):
        import_source([in_npy(name, array)(tmp_path)], tmp_path / "x.trace", options=options)


def test_an_npz_may_hold_the_ids_that_tokens_chose(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).random((300, 16)).argsort(1)[:, :4]
    made = in_npz(**{"layers.3": ids, "layers.10": ids[::-1]})(tmp_path)
    found = import_source([made], tmp_path / "x.trace")
    rows = concatenate(list(chunks(open_trace(found.path))))
    assert found.header.layers == ("layers.3", "layers.10")
    assert rows.chosen[rows.layer == 1].tolist() == ids[::-1].tolist()


ROWS = "layer,chosen,weight\n0,3 1,0.6 0.4\n1,2 0,0.5 0.5\n"
COMMAS = ROWS.replace(",", ";").replace(".", ",")
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
}


def zstandard(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue())


@pytest.mark.parametrize("ending", [*PACKERS, "zst"])
def test_packed_files_are_read_as_what_is_in_them(tmp_path: Path, ending: str) -> None:
    pack = PACKERS.get(ending, zstandard)
    loads = np.random.default_rng(0).multinomial(4096, np.full(16, 1 / 16), size=60)
    array = io.BytesIO()
    np.save(array, loads)
    made = written(f"a.npy.{ending}", pack(array.getvalue()))(tmp_path)
    _, groups = load_counts(import_source([made], tmp_path / "x").path)
    assert groups[0].counts.selections.sum((1, 2)).tolist() == loads.tolist()
    for number, (name, text) in enumerate((("b.csv", ROWS), ("odd", ROWS.replace(",", "\t")))):
        made = written(f"{name}.{ending}", pack(text.encode()))(tmp_path)
        out = tmp_path / f"{number}.trace"
        found = import_source([made], out, name=None if number == 0 else "csv")
        assert concatenate(list(chunks(open_trace(found.path)))).chosen.tolist() == [[3, 1], [2, 0]]
    whole = pack(ROWS.encode() * 99)
    made = written(f"cut.csv.{ending}", whole[: len(whole) // 2])(tmp_path)
    with pytest.raises(TraceError, match=r"cut\.csv"):
        import_source([made], tmp_path / "cut.trace")


def test_a_packed_matrix_is_scored_as_it_is(tmp_path: Path) -> None:
    array = io.BytesIO()
    np.save(array, np.eye(3))
    path = written("a.npy.gz", gzip.compress(array.getvalue()))(tmp_path)
    assert is_matrix(path)
    assert read_matrix(path)[0].labels == ("rule 0", "rule 1", "rule 2")


@pytest.mark.parametrize("text", [ROWS, COMMAS, ROWS.replace("0.6 0.4", '"[0.6, 0.4]"')])
def test_weights_have_points_or_commas(tmp_path: Path, text: str) -> None:
    found = import_source([written("a.csv", text)(tmp_path)], tmp_path / "x.trace")
    rows = concatenate(list(chunks(open_trace(found.path))))
    assert rows.weight is not None
    np.testing.assert_allclose(rows.weight, [[0.6, 0.4], [0.5, 0.5]], rtol=1e-6)


def test_rows_are_read_from_json_of_columns(tmp_path: Path) -> None:
    chosen = [[3, 1], [2, 0]]
    lists: dict[str, Any] = {"layer": [0, 1], "chosen": chosen, "domain": ["a", "b"]}
    for number, columns in enumerate((lists, {n: numbered(c) for n, c in lists.items()})):
        made = written("a.json", json.dumps(columns))(tmp_path)
        found = import_source([made], tmp_path / f"{number}.trace")
        rows = concatenate(list(chunks(open_trace(found.path))))
        assert (rows.chosen.tolist(), found.header.labels) == (chosen, ("a", "b"))
    made = written("b.json", json.dumps({"layer": [0, 1], "chosen": [3, 1]}))(tmp_path)
    rows = concatenate(list(chunks(open_trace(import_source([made], tmp_path / "x").path))))
    assert (rows.layer.tolist(), rows.chosen.tolist()) == ([0, 1], [[3], [1]])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (written("a.csv", "block,took\n0,1 2\n1,3 0\n"), {"layer": "block", "chosen": "took"}),
        (
            written("a.jsonl", '{"block": 0, "took": [1, 0]}\n'),
            {"layer": "block", "chosen": "took"},
        ),
        (written("a.csv", ",0,1\n0,5,6\n1,7,8\n"), {"layer": "unnamed 0"}),
        (in_parquet({"b": [0, 0], "expert": [0, 1], "count": [5, 6]}), {"layer": "b"}),
    ],
)
def test_what_a_refusal_says_to_type_is_enough(
    tmp_path: Path, make: Callable[[Path], Path], said: dict[str, str]
) -> None:
    path = make(tmp_path)
    with pytest.raises(TraceError, match="No known format fits"):
        import_source([path], tmp_path / "x")
    import_source([path], tmp_path / "x", options=Options(columns=said))


def archive(kind: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "a.csv").write_text(ROWS)
        path = folder / f"b.{kind}"
        if kind == "zip":
            with zipfile.ZipFile(path, "w") as packed:
                packed.write(folder / "a.csv", "a.csv")
        elif kind == "xlsx":
            with zipfile.ZipFile(path, "w") as packed:
                packed.writestr("xl/workbook.xml", "")
        elif kind == "tar.gz":
            with tarfile.open(path, "w:gz") as tar:
                tar.add(folder / "a.csv", "a.csv")
        else:
            torch.save(torch.ones(3, 4), folder / "network.pt")
            path.write_bytes(gzip.compress((folder / "network.pt").read_bytes()))
        return path

    return make


REFUSED = {
    "shares": (written("a.csv", "layer,e0,e1\n0,.25,.75\n1,.5,.5\n"), "rows that sum to 1: shares"),
    "ids of tokens as columns": (
        written("a.csv", "layer,expert_0,expert_1\n0,3,4\n0,1,2\n"),
        "line 3: repeats layer 0, expert 0. A row holds the counts of one layer",
    ),
    "the same with positions": (
        written("a.csv", "position,layer,expert_0,expert_1\n0,0,3,4\n1,0,1,2\n"),
        "write them into one column: chosen, as 5 1",
    ),
    "no column of layers": (written("a.csv", "expert_0,expert_1\n3,4\n"), "Add a column layer."),
    "an index of layers": (written("a.csv", ",0,1\n0,5,6\n"), '--columns "layer=unnamed 0"'),
    "a comma of thousands": (
        written("a.csv", "layer;expert;count\n0;0;1,234\n"),
        "Write thousands without a comma",
    ),
    "columns of unequal lengths": (
        written("a.json", '{"layer": [0, 1], "expert": [0], "count": [5, 6]}'),
        "have no rows in common",
    ),
    "a JSON table of pandas": (
        written("a.json", json.dumps({"columns": ["layer"], "index": [0], "data": [[0]]})),
        'orient="records"',
    ),
    "arrays of several kinds": (
        in_npz(a=COUNTS[0], b=np.array(COUNTS) * 999),
        r"arrays of several kinds (a (3,), b (2, 3))",
    ),
    "an array of text": (in_npz(a=COUNTS[0], b=["x", "y"]), "array b: holds <U1 of shape (2,)"),
    "an array of logits": (
        in_npz(a=np.random.default_rng(0).normal(size=(300, 8))),
        "Say --axes token,expert --choices K",
    ),
    "no arrays": (in_npz(), "holds no arrays"),
    "a packed file of PyTorch": (archive("pt.gz"), "packed by gzip and cannot be read so: gunzip"),
    "a zip archive": (archive("zip"), "a zip archive of 1 files"),
    "a tar archive": (archive("tar.gz"), "an archive of files: tar xf"),
    "a workbook": (archive("xlsx"), "a workbook of Excel: save its sheet as CSV"),
    "HDF5": (written("a.h5", b"\x89HDF\r\n\x1a\n" + bytes(64)), "It is HDF5"),
    "a pointer": (written("a.csv", "version https://git-lfs.x/spec/v1\n"), "git lfs pull"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_with_what_to_do(tmp_path: Path, name: str) -> None:
    make, reason = REFUSED[name]
    with pytest.raises(TraceError) as caught:
        import_source([make(tmp_path)], tmp_path / "x.trace")
    assert reason in str(caught.value)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(("x.", ".x"))]
