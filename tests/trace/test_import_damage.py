"""Damaged, mislabelled and malicious files of each format: refused, by file, place and reason."""

import base64
import gzip
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_import_formats import (
    CHOSEN,
    COUNTS,
    ROWS,
    TALLIES,
    Case,
    by_name,
    eplb,
    glm52,
    jsonl,
    lines,
    megatron_trace,
    olmoe,
    olmoe_counts,
    packed,
    sglang_pass,
    sglang_stat,
    vllm,
)

from modeval.errors import TraceError
from modeval.trace.files import open_trace
from modeval.trace.importers.format import Options
from modeval.trace.importers.formats import detect, find_format
from modeval.trace.importers.import_files import import_source


class Malice:
    """What a pickle can do to who loads it: this one would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))


def refuses(
    source: Path, out: Path, reason: str | None, name: str | None = None, **options: Any
) -> str:
    with pytest.raises(TraceError, match=reason) as caught:
        import_source([source], out / "x.trace", name=name, options=Options(**options))
    assert not list(out.glob("*x.*")), "a refused import leaves nothing behind"
    return str(caught.value)


@pytest.mark.parametrize("case", [*ROWS, *TALLIES], ids=by_name)
def test_a_file_cut_in_the_middle_is_refused_by_name(tmp_path: Path, case: Case) -> None:
    source = tmp_path / "in"
    source.mkdir()
    case.make(source)
    file = min(path for path in source.rglob("*") if path.is_file() and path.suffix != ".bin")
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2 + 1].rstrip(b"\n")[:-1])
    message = ""
    try:
        import_source(
            [source], tmp_path / "x.trace", name=case.name, options=Options(**case.options)
        )
    except TraceError as error:
        message = str(error)
    else:  # half of a list of lines may be a whole, shorter list
        assert file.suffix in {".csv", ".log", ".txt", ".trace"}
        return
    assert file.name in message
    assert not (tmp_path / "x.trace").exists()


@pytest.mark.parametrize("case", [*ROWS, *TALLIES], ids=by_name)
def test_garbage_under_the_name_of_a_format_is_refused(tmp_path: Path, case: Case) -> None:
    source = tmp_path / "in"
    source.mkdir()
    case.make(source)
    for file in source.rglob("*"):
        if file.is_file():
            file.write_bytes(np.random.default_rng(0).bytes(300))
    refuses(source, tmp_path, None, name=case.name, **case.options)


@pytest.mark.parametrize("case", [*ROWS, *TALLIES], ids=by_name)
def test_an_empty_file_is_refused(tmp_path: Path, case: Case) -> None:
    source = tmp_path / "in"
    source.mkdir()
    case.make(source)
    for file in source.rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    refuses(source, tmp_path, None, name=case.name, **case.options)


@pytest.mark.parametrize(
    ("make", "suffix", "name"),
    [
        (olmoe_counts, ".pkl", "olmoe-counts"),
        (sglang_stat, ".pt", "sglang-stat"),
        (sglang_pass, ".pt", "sglang-pass"),
    ],
)
def test_a_pickle_that_would_run_something_is_refused_and_runs_nothing(
    tmp_path: Path, make: Any, suffix: Any, name: str
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    make(source)
    file = next(source.glob(f"*{suffix}"))
    trap = tmp_path / "trap"
    if suffix == ".pkl":
        file.write_bytes(pickle.dumps([Malice(trap)]))
    else:
        torch.save({"records": [Malice(trap)], "logical_count": Malice(trap)}, file)
    message = refuses(source, tmp_path, file.name, name=name)
    assert "mkdir" in message
    assert not trap.exists()


@pytest.mark.parametrize(
    "wanted",
    [eval, os.system, np.load, type("Counter", (dict,), {"__module__": "elsewhere"})],
    ids=["eval", "system", "load", "another Counter"],
)
def test_a_pickle_of_counters_may_name_nothing_else(tmp_path: Path, wanted: Any) -> None:
    module, name = wanted.__module__, wanted.__qualname__
    (tmp_path / "a.pkl").write_bytes(f"c{module}\n{name}\n.".encode())
    refuses(tmp_path / "a.pkl", tmp_path, f"asks for {module}.{name}: a pickle may hold counters")


def test_a_pickle_may_not_hold_numpy_objects(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps([{1: np.array([object], dtype=object)}]))
    refuses(tmp_path / "a.pkl", tmp_path, "asks for")


def test_arrays_of_objects_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "load.npy", np.array([[Malice(tmp_path / "trap")]]), allow_pickle=True)
    refuses(tmp_path / "load.npy", tmp_path, "no NPY array of numbers")
    np.savez(tmp_path / "rows.npz", layer=np.array([object()]), chosen=np.zeros((1, 1), int))
    refuses(tmp_path / "rows.npz", tmp_path, "no NPZ of plain arrays")
    file = (tmp_path / "load.npy").read_bytes()
    reply = {"choices": [{"routed_experts": base64.b64encode(file).decode()}]}
    lines(tmp_path / "replies.jsonl", reply)
    refuses(tmp_path / "replies.jsonl", tmp_path, "no NPY array of numbers")


def edit(path: Path, number: int, **changes: Any) -> None:
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records[number] |= changes
    lines(path, *records)


WRONG: dict[str, tuple[Callable[[Path], None], Callable[[Path], object], str]] = {
    "megatron: other number of tokens": (
        megatron_trace,
        lambda folder: edit(folder / "router_trace_rank0.jsonl", 1, num_tokens=3),
        r"router_trace_rank0.jsonl, line 2: top_indices is \(4, 2\)",
    ),
    "megatron: ragged": (
        megatron_trace,
        lambda folder: edit(folder / "router_trace_rank1.jsonl", 0, top_indices=[[1], [1, 2]]),
        "router_trace_rank1.jsonl, line 1: top_indices is ragged",
    ),
    "megatron: fractions": (
        megatron_trace,
        lambda folder: edit(folder / "router_trace_rank1.jsonl", 0, top_indices=[[0.5, 1], [1, 2]]),
        "line 1: top_indices holds decimal numbers such as 0.5",
    ),
    "megatron: booleans": (
        megatron_trace,
        lambda folder: edit(folder / "router_trace_rank1.jsonl", 2, layer=True),
        "line 3: 'layer' is True: expected int",
    ),
    "megatron: unknown block": (
        megatron_trace,
        lambda folder: edit(folder / "router_trace_rank0.jsonl", 2, block="encoder"),
        "line 3: block is 'encoder'",
    ),
    "vllm: not base64": (
        vllm,
        lambda folder: edit(folder / "replies.jsonl", 0, choices=[{"routed_experts": "%%%"}]),
        "line 1, choice 0: routed_experts is no base64",
    ),
    "vllm: two axes": (
        vllm,
        lambda folder: edit(
            folder / "replies.jsonl", 0, choices=[{"routed_experts": packed(CHOSEN[0])}]
        ),
        "choice 0: routed_experts holds numbers in 2 axes: expected integers in 3 axes",
    ),
    "vllm: nothing was returned": (
        vllm,
        lambda folder: edit(
            folder / "replies.jsonl", 0, choices=[{"routed_experts": None}], note="routed_experts"
        ),
        "--enable-return-routed-experts",
    ),
    "olmoe: fewer tokens than choices": (
        olmoe,
        lambda folder: edit(folder / "c4_results.jsonl", 0, input_ids=[1, 2]),
        "c4_results.jsonl, line 1: has 2 input_ids and 6 exp_ids",
    ),
    "jsonl: weights for other choices": (
        jsonl,
        lambda folder: edit(folder / "rows.jsonl", 4, weight=[1.0]),
        "rows.jsonl, line",
    ),
    "jsonl: unknown phase": (
        jsonl,
        lambda folder: edit(folder / "rows.jsonl", 4, phase="warm"),
        "rows.jsonl, line 5: phase is 'warm'",
    ),
    "jsonl: a huge number": (
        jsonl,
        lambda folder: edit(folder / "rows.jsonl", 0, chosen=[70_000, 1]),
        "module 70000 is out of range",
    ),
    "jsonl: beyond 64 bits": (
        jsonl,
        lambda folder: edit(folder / "rows.jsonl", 0, chosen=[2**80, 1]),
        "rows.jsonl, line",
    ),
    "eplb: negative": (
        eplb,
        lambda folder: np.save(folder / "load.npy", -COUNTS),
        "load.npy: the array holds the count -",
    ),
    "eplb: not finite": (
        eplb,
        lambda folder: np.save(folder / "load.npy", COUNTS * np.nan),
        "load.npy: holds a value that is not finite",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_record_is_refused_with_its_line(tmp_path: Path, name: str) -> None:
    make, change, reason = WRONG[name]
    source = tmp_path / "in"
    source.mkdir()
    make(source)
    change(source)
    refuses(source, tmp_path, reason)


def test_prompts_outside_the_rows_are_refused(tmp_path: Path) -> None:
    glm52(tmp_path)
    file = tmp_path / "trace.json.gz"
    export = json.loads(gzip.decompress(file.read_bytes()))
    export["conditional"]["prompts"][0]["rows"] = [0, 99]
    file.write_bytes(gzip.compress(json.dumps(export).encode()))
    refuses(file, tmp_path, "prompt 0: has the rows 0 to 99: there are 6")


def test_json_nested_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"layer": 0, "chosen": ' + "[" * 200_000)
    refuses(tmp_path / "rows.jsonl", tmp_path, "rows.jsonl, line 1: is not JSON")


def test_what_comes_before_the_damage_is_kept_only_when_told_and_said(tmp_path: Path) -> None:
    jsonl(tmp_path)
    file = tmp_path / "rows.jsonl"
    file.write_text(file.read_text() * 50 + '{"layer": 1, "cho')
    refuses(file, tmp_path, "--allow-partial keeps what comes before")
    found = import_source([file], tmp_path / "x.trace", options=Options(allow_partial=True))
    note = next(note for note in found.header.notes if "Read in part" in note)
    assert f"the first {found.rows} rows" in note
    assert "line 901: is not JSON" in note
    assert found.rows == 900
    assert found.header.notes == open_trace(found.path).header.notes


def test_an_unknown_file_is_refused_with_what_was_tried(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("Dear all,\n")
    message = refuses(
        tmp_path / "letter.txt",
        tmp_path,
        "No known format fits .*letter.txt: its first line is `Dear all,`",
    )
    assert "warp-scores" in message
    assert "--from NAME" in message


def test_a_wrong_name_of_a_format_is_refused_with_the_right_ones() -> None:
    with pytest.raises(
        TraceError, match=r"--from 'vlm' \(did you mean vllm\?\): expected one of .*vllm"
    ):
        find_format("vlm")


def test_files_of_two_formats_are_refused_together(tmp_path: Path) -> None:
    olmoe(tmp_path)
    eplb(tmp_path)
    with pytest.raises(TraceError, match=r"different formats: .*load.npy is eplb"):
        detect(sorted(tmp_path.iterdir()))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    refuses(tmp_path / "nothing", tmp_path, "No file or folder at")


def test_an_import_does_not_write_over_anything(tmp_path: Path) -> None:
    jsonl(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").write_text("x")
    with pytest.raises(TraceError, match="exists and is not empty"):
        import_source([tmp_path / "rows.jsonl"], tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["precious.txt"]


def test_an_array_whose_header_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (9000000000000, 64)}"
    header += b" " * (117 - len(header)) + b"\n"
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    (tmp_path / "load.npy").write_bytes(data + b"\0" * 64)
    refuses(tmp_path / "load.npy", tmp_path, "no NPY array of numbers")
    reply = {"choices": [{"routed_experts": base64.b64encode(data).decode()}]}
    lines(tmp_path / "replies.jsonl", reply)
    refuses(tmp_path / "replies.jsonl", tmp_path, "choice 0: routed_experts is no NPY array")


def test_a_small_file_that_unpacks_to_a_huge_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modeval.trace.importers.reading.LARGEST_WHOLE", 1000)
    text = '{"executed_topk": 0, "filler": "' + " " * 5000 + '"}'
    (tmp_path / "trace.json.gz").write_bytes(gzip.compress(text.encode()))
    refuses(tmp_path / "trace.json.gz", tmp_path, "is larger than 2 GiB when unpacked")
    np.savez_compressed(tmp_path / "rows.npz", layer=np.zeros(999), chosen=np.zeros((999, 1)))
    refuses(tmp_path / "rows.npz", tmp_path, "is larger than 2 GiB when unpacked")


@pytest.mark.parametrize("damage", [-257, 99])
def test_physical_experts_outside_the_map_are_refused(tmp_path: Path, damage: int) -> None:
    sglang_pass(tmp_path)
    (file,) = tmp_path.glob("*.pt")
    dump = torch.load(file, weights_only=True)
    dump["records"][0]["topk_ids_of_layer"][0, 0, 0] = damage
    torch.save(dump, file)
    refuses(tmp_path, tmp_path, f"chooses physical expert {damage}")
    dump["last_physical_to_logical_map"][0, 0] = 10**12
    torch.save(dump, file)
    refuses(tmp_path, tmp_path, "names the experts 0 to 1000000000000")
