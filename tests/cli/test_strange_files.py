"""Files that no program of ours wrote: each is read, or refused in one sentence, and at once."""

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from invoking import invoke

from modeval.data.files import open_dataset
from modeval.errors import DataError, ModevalError, RunError
from modeval.spec.toml import load_toml
from modeval.sweep.plan import plan, write_sweep
from modeval.sweep.run import failures
from modeval.trace.files import TraceWriter, open_trace
from modeval.trace.importers.format import Options
from modeval.trace.importers.import_files import import_source
from modeval.trace.trace import TraceHeader, make_chunk
from modeval.train.records import read_record

DEEP = 20_000


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(line: str) -> str:
    """Return what a refusal says; anything else is an error of the program."""
    done = invoke(*line.split())
    assert isinstance(done.exception, ModevalError), (line, done.exception, done.output)
    text = str(done.exception)
    assert len(text) < 1000, text[:2000]
    return text


def write(path: str, text: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text, encoding="utf-8")


# --- nested without end --------------------------------------------------------------------------


def small_trace(path: str) -> None:
    with TraceWriter(path, TraceHeader(layers=("a",), modules=(2,), choices=(1,))) as writer:
        writer.append(make_chunk(layer=0, chosen=[[1], [0]]))


NESTED: dict[str, tuple[str, str]] = {
    "spec.toml": ("train --out r --spec spec.toml", "nested too deeply"),
    "gate.toml": ("gate none.json --policy gate.toml", "nested too deeply"),
    "pyproject.toml": ("gate none.json", "nested too deeply"),
    "grid.toml": ("sweep plan grid.toml --out s", "nested too deeply"),
    "s/sweep.json": ("sweep status s", "is damaged"),
    "labels.json": ("import rows.csv --labels labels.json --out x.trace", "cannot be read"),
    "x.trace/header.json": ("score x.trace", "not JSON"),
    "x.trace/complete.json": ("score x.trace", "is damaged"),
    "card.json": ("report card.json", "nested"),
    "history.jsonl": ("plot trend history.jsonl --out x.svg", "line 1"),
    "rows.jsonl": ("import rows.jsonl --out y.trace", ""),
    "counts.json": ("import counts.json --from counts-json --out y", "is not JSON"),
}


@pytest.mark.parametrize("name", NESTED)
def test_what_is_nested_without_end_is_refused_by_whoever_reads_it(name: str) -> None:
    line, reason = NESTED[name]
    small_trace("x.trace")
    write("rows.csv", "layer,chosen\n0,1\n")
    text = "x = " * name.endswith(".toml") + "[" * DEEP
    write(name, text + "\n")
    assert reason in said(line)


def test_records_of_runs_and_data_sets_nested_without_end_are_damaged(here: Path) -> None:
    write("run/run.json", "[" * DEEP)
    with pytest.raises(RunError, match="is damaged"):
        read_record(here / "run")
    write("data/dataset.json", "[" * DEEP)
    with pytest.raises(DataError, match="not valid JSON"):
        open_dataset(here / "data")


def test_a_table_of_tabs_may_end_in_an_empty_cell(here: Path) -> None:
    write("a.csv", "layer\tchosen\tlabel\n0\t1\tx\n0\t0\t\n")
    assert import_source([here / "a.csv"], here / "x.trace").rows == 2


def test_the_failure_of_a_cohort_that_cannot_be_read_stops_no_status(here: Path) -> None:
    sweep = plan({"name": "x", "train": {"steps": 10}}, here / "s")
    write_sweep(sweep)
    for text in ("[" * DEEP, "[]", "{", "{}"):
        write(str(sweep.failure(sweep.cohorts[0])), text)
        assert "damaged" in failures(sweep, sweep.cohorts)[sweep.cohorts[0].name]


# --- what others mean by their files -------------------------------------------------------------


@pytest.mark.parametrize("text", ["tool = 3", "[tool]\nmodeval = 3", "[tool.modeval]\ngate = 3"])
def test_a_pyproject_without_a_policy_is_none_whatever_stands_there(text: str) -> None:
    write("pyproject.toml", text)
    assert "No scorecard at none.json" in said("gate none.json --max collapse_worst=0.1")


@pytest.mark.parametrize("usage", [[1], "many", None, 3])
def test_replies_of_vllm_may_say_nothing_of_their_use(here: Path, usage: object) -> None:
    reply = {"usage": usage, "choices": [{"index": 0, "routed_experts": [[[1, 2]], [[0, 3]]]}]}
    write("a.jsonl", json.dumps(reply) + "\n")
    assert import_source([here / "a.jsonl"], here / "x.trace", name="vllm").rows == 2


def damaged_array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.ones((3, 4)))
    return file.getvalue().replace(b"'descr'", b"'des\n((r'")


def test_an_array_whose_header_is_no_python_is_refused() -> None:
    Path("a.npy").write_bytes(damaged_array())
    assert "is no NPY array of numbers" in said("import a.npy --out x.trace")


def test_a_matrix_of_a_checkpoint_that_is_damaged_stops_no_other() -> None:
    good, bad = (Path(f"Logs/Data-Seed_{seed}/GT_Rules_2/Modular_32_128_2_0") for seed in (0, 1))
    for folder in (good, bad):
        folder.mkdir(parents=True)
        np.save(folder / "prob_last.npy", np.array([[0.4, 0.1], [0.1, 0.4]]))
    (bad / "prob_last.npy").write_bytes(damaged_array())
    done = invoke("score", "Logs", "--json", "card.json")
    assert done.exit_code == 0, (done.exception, done.output)
    assert json.loads(Path("card.json").read_text(encoding="utf-8"))["models"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x80\x02]}K\x01I" + b"9" * 100_000 + b"\nsa.", "is no whole pickle"),
        (b"\x80\x02]}I" + b"9" * 5_000 + b"\nK\x01sa.", "is no whole pickle"),
        (b"\x80\x02]}K\x01\x8a\xff" + b"\x7f" * 255 + b"sa.", "is no expert and its count"),
        (b"\x80\x02]}K\x01" + b"]" * DEEP + b"a" * (DEEP - 1) + b"sa.", "no expert and its count"),
    ],
    ids=["a count of many digits", "an expert of many digits", "a huge count", "a nested count"],
)
def test_counters_of_numbers_that_are_none_are_refused(content: bytes, reason: str) -> None:
    Path("c4.pkl").write_bytes(content)
    assert reason in said("import c4.pkl --from olmoe-counts --out x")


def test_a_map_of_replicas_to_a_huge_expert_takes_no_memory() -> None:
    dump = {
        "rank": 0,
        "last_physical_to_logical_map": torch.tensor([[0, 2**40]]),
        "logical_count": None,
        "records": [{"global_physical_count": torch.ones(1, 2, dtype=torch.int64)}],
    }
    torch.save(dump, "expert_distribution_recorder_1.pt")
    said("import expert_distribution_recorder_1.pt --out x")


def test_one_long_line_of_a_packed_file_is_not_unpacked_whole() -> None:
    with gzip.open("rows.jsonl.gz", "wb", compresslevel=1) as file:
        for _ in range(80):
            file.write(b"[]," * (1 << 18))
    said("import rows.jsonl.gz --from jsonl --out x.trace")


def test_more_labels_than_can_be_permuted_are_refused_with_what_to_type(here: Path) -> None:
    rows = "".join(f"0,{n % 4},label {n},{n}\n" for n in range(2_049))
    write("rows.csv", "layer,chosen,label,document\n" + rows)
    import_source([here / "rows.csv"], here / "x.trace", options=Options(modules=4))
    assert "2,048 are the most" in said("score x.trace")


COUNTS: dict[str, Callable[[dict[str, Any], dict[str, str]], object]] = {
    "layers that are infinite": lambda _, words: words.update(groups="[[Infinity]]"),
    "layers nested without end": lambda _, words: words.update(groups="[" * DEEP),
    "a header nested without end": lambda _, words: words.update(header='{"a":' * DEEP),
    "half precision": lambda parts, _: parts.update({k: v.half() for k, v in parts.items()}),
    "no numbers": lambda parts, _: parts.update({k: v * torch.nan for k, v in parts.items()}),
}


@pytest.mark.parametrize("name", COUNTS)
def test_counts_without_a_checksum_are_still_looked_at(here: Path, name: str) -> None:
    write("a.csv", "layer,expert,count\n0,0,3\n0,1,4\n")
    path = import_source([here / "a.csv"], here / "x", options=Options(choices=1)).path
    with safetensors.safe_open(path, "pt") as file:
        words = {key: text for key, text in file.metadata().items() if "sha256" not in key}
        parts = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    COUNTS[name](parts, words)
    safetensors.torch.save_file(parts, path, metadata=words)
    said(f"score {path.name}")


def test_names_as_long_as_a_page_are_kept_and_not_repeated_in_messages(here: Path) -> None:
    name = "שם " + "🙂" * 5_000
    write("rows.csv", f"layer,chosen,label\n{name},1,{name}\n{name},0,{name}\n")
    found = import_source([here / "rows.csv"], here / "x.trace")
    assert open_trace(found.path).header.labels == (name,)
    header = here / "x.trace" / "header.json"
    text = header.read_text(encoding="utf-8")
    write(str(header), text.replace('"phase": "', f'"phase": "{name}'))
    said("score x.trace")
    write("spec.toml", f'[data]\ntask = "{name}"\n')
    assert load_toml(here / "spec.toml")
    said("train --out r --spec spec.toml")


def test_a_label_of_several_lines_comes_back_from_csv(here: Path) -> None:
    label = 'a\n"b", c'
    header = TraceHeader(layers=("a",), modules=(2,), choices=(1,), labels=(label,))
    with TraceWriter(here / "x.trace", header) as writer:
        writer.append(make_chunk(layer=0, label=0, chosen=[[1], [0]]))
    done = invoke("trace", "convert", "x.trace", "--out", "x.csv")
    assert done.exit_code == 0, done.output
    again = import_source([here / "x.csv"], here / "y.trace")
    assert open_trace(again.path).header.labels == (label,)


def test_devices_are_not_read_without_end() -> None:
    for place in ("/dev/zero", "/dev/full"):
        said(f"gate {place} --max collapse_worst=0.1")
        said(f"score {place}")
