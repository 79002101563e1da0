"""The trace on disk: exact round trip, whole or a readable prefix, and damage refused by place."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeval.errors import DependencyError, TraceError
from modeval.trace.convert import convert, merge, merge_counts
from modeval.trace.counts import load_counts, save_counts
from modeval.trace.files import (
    TraceWriter,
    chunks,
    concatenate,
    open_trace,
    read_columns,
    read_trace,
)
from modeval.trace.fold import LayerGroup
from modeval.trace.trace import Source, TraceChunk, TraceHeader, header_from_json, make_chunk
from modeval.types import RoutingCounts

dataset = pytest.importorskip("pyarrow.dataset", reason="traces are Parquet files")

HEADER = TraceHeader(
    layers=("model.layers.1.mlp", "model.layers.3.mlp"),
    modules=(8, 4),
    choices=(2, 1),
    labels=("code", "prose"),
    source=Source("made up", "tiny", "live"),
    weight_scale="renormalised",
    phase="mixed",
    padding="excluded",
    shared=1,
    token_ids=True,
    notes=("a warning",),
)


def make_rows(header: TraceHeader, rows: int, seed: int = 0) -> TraceChunk:
    draw = np.random.default_rng(seed)
    layer = draw.integers(0, len(header.layers), rows)
    modules = np.array(header.modules)[layer, None]
    chosen = draw.random((rows, max(header.modules))).argsort(1)
    order = np.argsort(chosen >= modules, axis=1, kind="stable")
    chosen = np.take_along_axis(chosen, order, 1)[:, : header.width]
    chosen[np.arange(header.width) >= np.array(header.choices)[layer, None]] = -1
    share = np.where(chosen >= 0, draw.random(chosen.shape), 0).astype(np.float32)
    return make_chunk(
        document=draw.integers(-1, 20, rows),
        position=draw.integers(-1, 100, rows),
        phase=draw.integers(0, 4, rows),
        label=draw.integers(-1, len(header.labels), rows),
        layer=layer,
        chosen=chosen,
        token=draw.integers(-1, 999, rows) if header.token_ids else None,
        weight=share if header.weighted else None,
        logits=draw.random((rows, header.logits)).astype("f4") if header.logits else None,
    )


def write(path: Path, header: TraceHeader, chunk: TraceChunk, **options: Any) -> Path:
    with TraceWriter(path, header, **options) as writer:
        writer.append(chunk)
    return path


def assert_same(left: TraceChunk, right: TraceChunk) -> None:
    assert left.arrays().keys() == right.arrays().keys()
    for name, column in left.arrays().items():
        other = right.arrays()[name]
        assert column.dtype == other.dtype
        np.testing.assert_array_equal(column, other, err_msg=name)


@settings(max_examples=10, deadline=None)
@given(
    rows=st.integers(0, 70),
    cut=st.integers(1, 40),
    part=st.integers(1, 50),
    read=st.integers(1, 80),
    token_ids=st.booleans(),
    scale=st.sampled_from(["renormalised", "none"]),
    logits=st.sampled_from([0, 3]),
)
def test_what_is_written_is_read_however_it_was_cut(  # noqa: PLR0917 - one for each axis
    tmp_path_factory: Any,
    rows: Any,
    cut: Any,
    part: Any,
    read: Any,
    token_ids: Any,
    scale: Any,
    logits: Any,
) -> None:
    header = replace(HEADER, token_ids=token_ids, weight_scale=scale, logits=logits)
    path = tmp_path_factory.mktemp("trace") / "x.trace"
    chunk = make_rows(header, rows)
    with TraceWriter(path, header, rows_per_part=part) as writer:
        for start in range(0, rows, cut):
            writer.append(chunk[start : start + cut])
    found, pieces = read_trace(path, rows=read)
    kept = list(pieces)
    assert found == header
    assert all(0 < len(piece) <= read for piece in kept)
    assert open_trace(path).complete
    if rows:
        assert_same(concatenate(kept), chunk)


def test_a_header_comes_back_from_its_json() -> None:
    assert header_from_json(HEADER.to_json(), "here") == HEADER


def test_columns_can_be_read_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "x.trace", HEADER, make_rows(HEADER, 30))
    batches = list(read_columns(open_trace(path), ("label", "chosen"), rows=12))
    assert [set(batch) for batch in batches] == [{"label", "chosen"}] * 3
    with pytest.raises(TraceError, match="no column 'logits'"):
        list(read_columns(open_trace(path), ("logits",)))


def test_other_readers_of_parquet_see_plain_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "x.trace", HEADER, make_rows(HEADER, 30), rows_per_part=10)
    table = dataset.dataset(sorted(map(str, path.glob("part-*.parquet")))).to_table()
    assert table.num_rows == 30
    assert str(table.schema.field("chosen").type) == "list<element: int16 not null>"
    assert table.column("token").null_count == int(np.sum(make_rows(HEADER, 30).token == -1))


def test_an_error_while_recording_leaves_a_prefix_that_says_so(tmp_path: Path) -> None:
    chunk = make_rows(HEADER, 30)

    def record() -> None:
        with TraceWriter(tmp_path / "x.trace", HEADER, rows_per_part=8) as writer:
            writer.append(chunk[:20])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record()
    trace = open_trace(tmp_path / "x.trace")
    assert not trace.complete
    assert_same(concatenate(list(chunks(trace))), chunk[:20])


@pytest.mark.slow
def test_a_killed_process_leaves_a_readable_prefix(tmp_path: Path) -> None:
    program = f"""
import os, signal
from modeval.trace.files import TraceWriter
from modeval.trace.trace import TraceHeader, make_chunk

header = TraceHeader(layers=("a",), modules=(4,), choices=(1,))
writer = TraceWriter({str(tmp_path / "x.trace")!r}, header, rows_per_part=100).__enter__()
writer.append(make_chunk(layer=0, chosen=[[i % 4] for i in range(250)]))
os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run([sys.executable, "-c", program], env=environment, check=False)
    assert killed.returncode != 0
    trace = open_trace(tmp_path / "x.trace")
    assert (trace.rows, trace.complete) == (200, False)
    assert concatenate(list(chunks(trace))).chosen[:, 0].tolist() == [i % 4 for i in range(200)]


def test_a_leftover_temporary_file_is_not_read(tmp_path: Path) -> None:
    path = write(tmp_path / "x.trace", HEADER, make_rows(HEADER, 5))
    (path / ".part-000001.parquet.partial").write_bytes(b"PAR1 half")
    assert open_trace(path).rows == 5


def test_a_writer_takes_no_folder_that_has_files(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("x")
    with pytest.raises(TraceError, match="not empty"):
        TraceWriter(tmp_path, HEADER)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"layer": 2}, "layer 2 in row 0 is out of range: expected 0 to 1"),
        ({"label": 2}, "label 2 in row 0 is out of range: expected -1 to 1"),
        ({"phase": 4}, "phase 4"),
        ({"document": -2}, "document -2"),
        ({"chosen": [[8, 1]]}, "chosen 8 in row 0 is out of range: layer model.layers.1.mlp has 8"),
        ({"chosen": [[-2, 1]]}, "chosen -2"),
        ({"layer": 1, "chosen": [[4, -1]], "weight": [[1.0, 0.0]]}, "chosen 4 .* has 4 modules"),
        ({"weight": [[np.nan, 0.5]]}, "weight nan"),
        ({"weight": [[-0.5, 0.5]]}, "weight -0.5"),
        ({"chosen": [[1, -1]]}, "weight .* in row 0 is wrong"),
        ({"chosen": [[1, 2, 3]], "weight": [[1, 1, 1]]}, "of shape"),
        ({"token": None}, "the header asks for"),
    ],
)
def test_rows_that_contradict_the_header_are_refused(
    tmp_path: Path, change: Any, reason: str
) -> None:
    row = {"layer": 0, "chosen": [[1, 2]], "weight": [[0.5, 0.5]], "token": 7, **change}
    with pytest.raises(TraceError, match=reason):
        write(tmp_path / "x.trace", HEADER, make_chunk(**row))


@pytest.mark.parametrize("value", [40_000, 1.5])
def test_numbers_that_do_not_fit_a_column_are_refused_not_wrapped(value: Any) -> None:
    with pytest.raises(TraceError, match="chosen"):
        make_chunk(layer=0, chosen=[[value]])


def _edit(path: Path, **changes: Any) -> None:
    header = json.loads((path / "header.json").read_text())
    (path / "header.json").write_text(json.dumps({**header, **changes}))


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[40:400] = bytes(360)
    path.write_bytes(bytes(data))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no header": (lambda path: (path / "header.json").unlink(), "no header.json"),
    "header is no JSON": (lambda path: (path / "header.json").write_text("{"), "is not JSON"),
    "header is binary": (lambda path: (path / "header.json").write_bytes(b"\xff\xfe"), "header"),
    "another kind": (lambda path: _edit(path, kind="x"), "not the header of a trace"),
    "another version": (lambda path: _edit(path, version=99), "version 99.* reads version 1"),
    "unknown field": (lambda path: _edit(path, extra=1), "unknown fields: extra"),
    "wrong type": (lambda path: _edit(path, modules="many"), "modules is 'many'"),
    "boolean number": (lambda path: _edit(path, modules=[True, 4]), "modules is"),
    "wrong scale": (lambda path: _edit(path, weight_scale="big"), "weight_scale is 'big'"),
    "swapped labels": (lambda path: _edit(path, labels=["prose", "code"]), "another header"),
    "other columns": (lambda path: _edit(path, token_ids=False), "its header asks for"),
    "part is cut": (lambda path: _truncate(path / "part-000001.parquet"), "part-000001.* damaged"),
    "part is garbled": (lambda path: _flip(path / "part-000001.parquet"), "part-000001"),
    "part is no Parquet": (
        lambda path: (path / "part-000000.parquet").write_text("hello"),
        "part-000000.* damaged",
    ),
    "first part is gone": (
        lambda path: (path / "part-000000.parquet").unlink(),
        "part-000000.parquet is missing",
    ),
    "last part is gone": (
        lambda path: (path / "part-000002.parquet").unlink(),
        "part-000002.parquet has no rows",
    ),
    "marker is garbled": (lambda path: (path / "complete.json").write_text("[]"), "complete.json"),
    "marker is endless": (
        lambda path: (path / "complete.json").write_text(
            '{"parts": [{"name": "a", "rows": 1e400}]}'
        ),
        "complete.json is damaged",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_refused_with_the_place(tmp_path: Path, name: str) -> None:
    damage, reason = DAMAGE[name]
    path = write(tmp_path / "x.trace", HEADER, make_rows(HEADER, 300), rows_per_part=100)
    damage(path)
    with pytest.raises(TraceError, match=reason):
        list(read_trace(path)[1])


def test_numbers_out_of_range_in_a_part_are_refused_when_read(tmp_path: Path) -> None:
    wide = replace(HEADER, modules=(8, 8))
    path = write(tmp_path / "x.trace", wide, make_rows(wide, 50))
    strict = replace(HEADER, modules=(8, 2), choices=(2, 1))
    trace = replace(open_trace(path), header=strict)
    with pytest.raises(TraceError, match=r"part-000000.parquet: chosen"):
        list(chunks(trace))


def test_merging_unites_labels_and_keeps_documents_apart(tmp_path: Path) -> None:
    first = write(tmp_path / "a.trace", HEADER, make_rows(HEADER, 40))
    other = replace(HEADER, labels=("maths", "code"))
    second = write(tmp_path / "b.trace", other, make_rows(other, 60, seed=1))
    merged = merge([first, second], tmp_path / "c.trace")
    rows = concatenate(list(chunks(merged)))
    left, right = make_rows(HEADER, 40), make_rows(other, 60, seed=1)
    assert merged.header.labels == ("code", "maths", "prose")
    assert merge([second, first], tmp_path / "d.trace").header.labels == merged.header.labels
    numbers = np.array([0, 2, -1], dtype=np.int32)
    assert_same(rows[:40], replace(left, label=numbers[left.label]))
    np.testing.assert_array_equal(rows.label[40:], np.array([1, 0, -1])[right.label])
    known = right.document >= 0
    assert not set(rows.document[40:][known]) & set(left.document)
    assert (rows.document[40:][~known] == -1).all()


def test_traces_that_mean_different_things_do_not_merge(tmp_path: Path) -> None:
    first = write(tmp_path / "a.trace", HEADER, make_rows(HEADER, 4))
    other = replace(HEADER, padding="included")
    second = write(tmp_path / "b.trace", other, make_rows(other, 4))
    with pytest.raises(TraceError, match=r"differs from .* in padding: 'included', not 'excluded'"):
        merge([first, second], tmp_path / "c.trace")


def test_an_incomplete_trace_merges_only_when_told_to(tmp_path: Path) -> None:
    first = write(tmp_path / "a.trace", HEADER, make_rows(HEADER, 4))
    (first / "complete.json").unlink()
    with pytest.raises(TraceError, match="incomplete"):
        merge([first], tmp_path / "c.trace")
    merged = merge([first], tmp_path / "d.trace", allow_partial=True)
    assert "a.trace was incomplete: 4 rows of it." in merged.header.notes


def test_only_small_traces_are_written_as_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modeval.trace.convert.LARGEST_PLAIN", 3)
    trace = open_trace(write(tmp_path / "a.trace", HEADER, make_rows(HEADER, 4)))
    with pytest.raises(TraceError, match="4 rows: csv is for at most 3"):
        convert(trace, tmp_path / "a.csv", kind="csv")


def test_without_pyarrow_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DependencyError, match=r'pip install "modeval-cli\[arrow\]"'):
        TraceWriter(tmp_path / "x.trace", HEADER)


def test_no_bit_of_a_part_flips_unseen(tmp_path):
    """Pages have checksums, the footer has one in complete.json: no flip changes a row."""
    rng = np.random.default_rng(0)
    chosen = rng.random((300, 8)).argsort(1)[:, :2]
    header = TraceHeader(layers=("a",), modules=(8,), choices=(2,))
    with TraceWriter(tmp_path / "x.trace", header) as writer:
        writer.append(make_chunk(layer=0, chosen=chosen, document=np.arange(300) // 10))
    part = tmp_path / "x.trace" / "part-000000.parquet"
    content, seen = part.read_bytes(), 0
    for place in rng.choice(len(content), 150, replace=False):
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        part.write_bytes(damaged)
        try:
            rows = concatenate(list(chunks(open_trace(tmp_path / "x.trace"))))
        except TraceError:
            seen += 1
        else:  # a bit that nothing depends on
            np.testing.assert_array_equal(rows.chosen, chosen)
            np.testing.assert_array_equal(rows.document, np.arange(300) // 10)
    assert seen > 100


def test_no_bit_of_counts_flips_unseen(tmp_path):
    header = TraceHeader(layers=("a",), modules=(4,), choices=(0,))
    counts, seen = RoutingCounts.zeros(1, rules=1, modules=4, blocks=1), 0
    save_counts(tmp_path / "x.counts.safetensors", header, [LayerGroup((0,), counts)])
    path = tmp_path / "x.counts.safetensors"
    content = path.read_bytes()
    for place in np.random.default_rng(0).choice(np.arange(8, len(content)), 60, replace=False):
        damaged = bytearray(content)
        damaged[place] ^= 2
        path.write_bytes(damaged)
        try:
            found = load_counts(path)[1][0].counts.tensors()
        except TraceError:
            seen += 1
        else:  # white space of the header
            assert all(torch.equal(found[name], part) for name, part in counts.tensors().items())
    assert seen > 50


def labelled(label: str, seed: int, documents: int = 4) -> tuple[TraceHeader, TraceChunk]:
    header = TraceHeader(layers=("a",), modules=(8,), choices=(2,), labels=(label,))
    chosen = np.random.default_rng(seed).random((documents * 40, 8)).argsort(1)[:, :2]
    place = np.arange(len(chosen))
    chunk = make_chunk(layer=0, chosen=chosen, document=place // 40, position=place % 40, label=0)
    return header, chunk


def write_labelled(path: Path, label: str, seed: int) -> Path:
    header, chunk = labelled(label, seed)
    with TraceWriter(path, header) as writer:
        writer.append(chunk)
    return path


def test_a_trace_that_is_merged_twice_is_noticed(tmp_path):
    one = write_labelled(tmp_path / "one.trace", "code", 0)
    two = write_labelled(tmp_path / "two.trace", "prose", 1)
    assert merge([one, two], tmp_path / "both.trace").header.warnings == ()
    twice = merge([one, two, one], tmp_path / "twice.trace").header.warnings
    assert [warning.kind for warning in twice] == ["copies"]
    assert "one.trace repeats" in twice[0].text
    part = merge([tmp_path / "both.trace", two], tmp_path / "part.trace").header.warnings
    assert [warning.kind for warning in part] == ["copies"]
    assert "4 documents" in part[0].text


def test_counts_of_merged_traces_are_merged_counts(tmp_path):
    paths = []
    for label, seed in (("code", 0), ("prose", 1), ("code", 2)):
        trace = write_labelled(tmp_path / f"{seed}.trace", label, seed)
        convert(open_trace(trace), tmp_path / f"{seed}.counts.safetensors", kind="counts", blocks=1)
        paths.append((trace, tmp_path / f"{seed}.counts.safetensors"))
    merge([trace for trace, _ in paths], tmp_path / "all.trace")
    convert(
        open_trace(tmp_path / "all.trace"), tmp_path / "a.counts.safetensors", kind="counts",
        blocks=1,
    )  # fmt: skip
    header = merge_counts([counts for _, counts in paths], tmp_path / "b.counts.safetensors")
    assert header.labels == ("code", "prose")
    assert header.warnings == ()
    expected = load_counts(tmp_path / "a.counts.safetensors")[1][0]
    found = load_counts(tmp_path / "b.counts.safetensors")[1][0]
    for name, part in expected.counts.tensors().items():
        torch.testing.assert_close(found.counts.tensors()[name], part)
    assert len(found.units) == len(expected.units) == 12
    torch.testing.assert_close(found.units.joint(), expected.units.joint())
    twice = merge_counts([paths[0][1]] * 2, tmp_path / "c.counts.safetensors")
    assert [warning.kind for warning in twice.warnings] == ["copies"]
