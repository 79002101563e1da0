"""Data set folders: what is written is read, half of it never, and damage is named."""

import errno
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from modeval.data import Dataset, in_order, is_dataset, open_dataset, require, write_dataset
from modeval.data import files as files_module
from modeval.errors import DataError, DependencyError, SpecError
from modeval.spec import DataSpec, digest

FAMILIES = {
    "binary": DataSpec(rules=3),
    "labels": DataSpec(rules=3, objective="classification"),
    "sets": DataSpec(task="sets", rules=2, length=4),
    "series": DataSpec(task="series", rules=2, dimension=3, length=4),
}
families = pytest.mark.parametrize("spec", FAMILIES.values(), ids=FAMILIES)
formats = pytest.mark.parametrize("storage", ["safetensors", "parquet"])


@pytest.fixture(autouse=True)
def _needs_arrow(request: pytest.FixtureRequest) -> None:
    if "parquet" in request.node.name:
        pytest.importorskip("pyarrow")


def write(folder: Path, spec: DataSpec | None = None, **options: Any) -> Dataset:
    settings: dict[str, Any] = {"task_seeds": (0, 4), "samples": 20, **options}
    return write_dataset(folder, spec or DataSpec(rules=3), **settings)


def everything(dataset: Dataset) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    (batch,) = in_order(dataset, batch=dataset.samples)
    return batch.inputs, batch.rule, batch.target


def same(first: Dataset, second: Dataset) -> bool:
    pairs = zip(everything(first), everything(second), strict=True)
    return all(torch.equal(left, right) for left, right in pairs)


def edit(folder: Path, **changes: Any) -> None:
    """Change the manifest as somebody would who also knows how to sign it."""
    path = folder / "dataset.json"
    manifest = json.loads(path.read_text()) | changes
    unsigned = {key: value for key, value in manifest.items() if key not in ("digest", "modeval")}
    path.write_text(json.dumps(manifest | {"digest": digest(unsigned)}))


# --- round trips ---------------------------------------------------------------------------------


@families
@formats
def test_what_is_written_is_read(tmp_path, spec, storage):
    written = write(tmp_path / "data", spec, storage=storage, shard_size=8)
    opened = open_dataset(tmp_path / "data")
    assert [shard.rule.shape[1] for shard in opened.shards] == [8, 8, 4]
    assert (opened.spec, opened.task_seeds, opened.samples) == (spec, (0, 4), 20)
    assert opened.digest == written.digest
    assert same(opened, write(tmp_path / "whole", spec))


def test_both_formats_hold_the_same_numbers(tmp_path):
    pytest.importorskip("pyarrow")
    spec = FAMILIES["series"]
    tensors = write(tmp_path / "tensors", spec)
    table = write(tmp_path / "table", spec, storage="parquet", shard_size=7)
    assert same(tensors, table)


def test_a_table_has_a_row_for_each_sample(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    dataset = write(tmp_path / "data", FAMILIES["sets"], storage="parquet")
    table = parquet.read_table(tmp_path / "data" / "part-00000.parquet")
    assert table.column_names == ["task_seed", "rule", "inputs", "target"]
    assert table.num_rows == 40
    row = table.slice(23, 1).to_pylist()[0]
    inputs, rule, target = everything(dataset)
    assert row["task_seed"] == 4
    assert row["rule"] == rule[1, 3].tolist()
    assert row["inputs"] == inputs[1, 3].tolist()
    assert row["target"] == target[1, 3].tolist()


@families
def test_one_recipe_gives_one_digest_and_another_data_seed_another(tmp_path, spec):
    first = write(tmp_path / "first", spec)
    again = write(tmp_path / "again", spec)
    other = write(tmp_path / "other", spec, data_seed=1)
    assert first.digest == again.digest != other.digest
    assert not torch.equal(everything(first)[0], everything(other)[0])


@families
def test_other_tasks_and_more_samples_change_nothing(tmp_path, spec):
    both = everything(write(tmp_path / "both", spec))
    alone = everything(write(tmp_path / "alone", spec, task_seeds=(4,), samples=300))
    for left, right in zip(both, alone, strict=True):
        assert torch.equal(left[1], right[0, :20])


def test_the_manifest_tells_the_whole_recipe(tmp_path):
    write(tmp_path / "data", DataSpec(rules=2, scale=2.0, rule_probabilities=(0.25, 0.75)))
    manifest = json.loads((tmp_path / "data" / "dataset.json").read_text())
    assert manifest["format"] == "modeval-dataset"
    assert manifest["version"] == 1
    assert manifest["recipe"]["data"]["rule_probabilities"] == [0.25, 0.75]
    assert manifest["recipe"]["task_seeds"] == [0, 4]
    assert manifest["recipe"]["samples"] == 20
    assert manifest["shards"][0]["file"] == "part-00000.safetensors"


def test_shards_are_mapped_and_not_loaded(tmp_path):
    dataset = write(tmp_path / "data")
    path = tmp_path / "data" / "part-00000.safetensors"
    numbers = sum(part.nbytes for part in everything(dataset))
    # A mapped tensor sees a change of the file, a loaded one would not.
    with path.open("r+b") as file:
        file.seek(-numbers, 2)
        file.write(bytes(numbers))
    assert not any(part.any() for part in everything(dataset))


def test_progress_counts_the_samples_written(tmp_path):
    seen: list[int] = []
    write(tmp_path / "data", shard_size=8, progress=seen.append)
    assert seen == [8, 16, 20]


def test_reading_in_order_gives_each_sample_once(tmp_path):
    dataset = write(tmp_path / "data", shard_size=8)
    parts = list(in_order(dataset, batch=6))
    assert [part.rule.shape for part in parts] == [(2, 6), (2, 6), (2, 6), (2, 2)]
    joined = torch.cat([part.inputs for part in parts], dim=1)
    assert torch.equal(joined, everything(dataset)[0])


# --- nothing half-written ------------------------------------------------------------------------


def fail_at(monkeypatch: pytest.MonkeyPatch, name: str, error: BaseException) -> None:
    honest = files_module.write_bytes

    def write_bytes(path: Path, content: bytes) -> None:
        honest(path, content[: len(content) // 2])
        if path.name == name:
            raise error

    monkeypatch.setattr(files_module, "write_bytes", write_bytes)


@pytest.mark.parametrize(
    "name", ["part-00000.safetensors", "part-00002.safetensors", "dataset.json"]
)
def test_a_full_disk_gives_one_clear_error_and_leaves_nothing(tmp_path, monkeypatch, name):
    fail_at(monkeypatch, name, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(DataError, match=r"Cannot write .*data: the disk is full"):
        write(tmp_path / "new" / "deep" / "data", shard_size=8)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_replacement_leaves_the_earlier_data_set(tmp_path, monkeypatch):
    earlier = everything(write(tmp_path / "data"))
    fail_at(monkeypatch, "dataset.json", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "data", data_seed=1, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert torch.equal(everything(open_dataset(tmp_path / "data"))[0], earlier[0])


def test_an_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="Cannot write"):
        write(tmp_path / "file" / "data")


def test_an_earlier_data_set_is_replaced_only_by_force(tmp_path):
    first = write(tmp_path / "data")
    with pytest.raises(DataError, match="--force"):
        write(tmp_path / "data", data_seed=1)
    second = write(tmp_path / "data", data_seed=1, force=True)
    assert first.digest != second.digest == open_dataset(tmp_path / "data").digest
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_foreign_folder_is_never_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match="never replaced"):
        write(tmp_path, force=True)
    assert (tmp_path / "thesis.tex").exists()


def test_an_empty_folder_is_as_good_as_none(tmp_path):
    (tmp_path / "data").mkdir()
    assert write(tmp_path / "data").samples == 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "samples = 0"),
        ({"task_seeds": ()}, "at least one"),
        ({"task_seeds": (1, 1)}, "each may stand once"),
        ({"task_seeds": (-1,)}, "from 0 to"),
        ({"data_seed": 2**32}, "from 0 to"),
        ({"shard_size": -1}, "shard_size = -1"),
    ],
)
def test_an_impossible_request_is_refused(tmp_path, options, message):
    with pytest.raises(SpecError, match=message):
        write(tmp_path / "data", **options)
    assert not (tmp_path / "data").exists()


def test_parquet_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(DependencyError, match=r"modeval-cli\[arrow\]"):
        write(tmp_path / "data", storage="parquet")
    assert not (tmp_path / "data").exists()


# --- damage --------------------------------------------------------------------------------------


def test_a_missing_folder_says_how_to_make_one(tmp_path):
    with pytest.raises(DataError, match=r"No data set at .*modeval generate"):
        open_dataset(tmp_path / "none")


def test_a_foreign_folder_is_named_as_one(tmp_path):
    with pytest.raises(DataError, match=r"no modeval data set: it has no dataset\.json"):
        open_dataset(tmp_path)
    (tmp_path / "dataset.json").write_text('{"name": "squad"}')
    with pytest.raises(DataError, match="belongs to something else"):
        open_dataset(tmp_path)
    assert not is_dataset(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "\udcff"])
def test_a_broken_manifest_is_named(tmp_path, text):
    (tmp_path / "dataset.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match="is damaged"):
        open_dataset(tmp_path)


@formats
def test_a_missing_shard_is_named(tmp_path, storage):
    write(tmp_path / "data", shard_size=8, storage=storage)
    (tmp_path / "data" / f"part-00001.{storage}").unlink()
    with pytest.raises(DataError, match=r"part-00001.* is damaged: it is missing"):
        open_dataset(tmp_path / "data")


@formats
@pytest.mark.parametrize("verify", [True, False])
def test_a_truncated_shard_is_named(tmp_path, storage, verify):
    write(tmp_path / "data", storage=storage)
    path = tmp_path / "data" / f"part-00000.{storage}"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"part-00000.* bytes and should have"):
        open_dataset(tmp_path / "data", verify=verify)


@formats
def test_a_changed_shard_is_named(tmp_path, storage):
    write(tmp_path / "data", storage=storage)
    path = tmp_path / "data" / f"part-00000.{storage}"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"part-00000.*digest mismatch"):
        open_dataset(tmp_path / "data")


@formats
def test_a_shard_of_noise_is_named(tmp_path, storage):
    write(tmp_path / "data", storage=storage)
    path = tmp_path / "data" / f"part-00000.{storage}"
    path.write_bytes(b"\xff" * path.stat().st_size)
    with pytest.raises(DataError, match=r"part-00000.*cannot be read"):
        open_dataset(tmp_path / "data", verify=False)


def test_a_changed_manifest_is_named(tmp_path):
    write(tmp_path / "data")
    path = tmp_path / "data" / "dataset.json"
    path.write_text(path.read_text().replace('"samples": 20', '"samples": 19'))
    with pytest.raises(DataError, match="changed after it was written"):
        open_dataset(tmp_path / "data")


@formats
def test_shards_of_another_shape_are_named(tmp_path, storage):
    write(tmp_path / "data", storage=storage)
    manifest = json.loads((tmp_path / "data" / "dataset.json").read_text())
    shards = [manifest["shards"][0] | {"samples": 10}]
    edit(tmp_path / "data", shards=shards, recipe=manifest["recipe"] | {"samples": 10})
    with pytest.raises(DataError, match=r"inputs is torch.float32 \(2, 20, 2\) and should be"):
        open_dataset(tmp_path / "data")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "format 2; this modeval reads 1"),
        ({"recipe": {}}, "cannot be understood"),
        ({"recipe": {"data": {"taks": "sets"}}}, "Did you mean task"),
        ({"storage": "pickle"}, "cannot be understood"),
        ({"shards": [{"file": "x"}]}, "cannot be understood"),
        ({"shards": []}, "do not add up to 20"),
        ({"rules_sha256": "0"}, "do not give the rules"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_named(tmp_path, changes, message):
    write(tmp_path / "data")
    edit(tmp_path / "data", **changes)
    with pytest.raises(DataError, match=message):
        open_dataset(tmp_path / "data")


def test_a_shard_outside_the_folder_is_not_opened(tmp_path):
    dataset = write(tmp_path / "data")
    write(tmp_path / "other")
    manifest = json.loads((dataset.folder / "dataset.json").read_text())
    entry = manifest["shards"][0] | {"file": "../other/part-00000.safetensors"}
    edit(tmp_path / "data", shards=[entry])
    (tmp_path / "data" / "part-00000.safetensors").unlink()
    with pytest.raises(DataError, match="it is missing"):
        open_dataset(tmp_path / "data")


# --- the recipe that was asked for ---------------------------------------------------------------


def test_another_recipe_is_refused_setting_by_setting(tmp_path):
    dataset = write(tmp_path / "data", DataSpec(rules=3))
    asked = DataSpec(rules=4, objective="classification")
    with pytest.raises(DataError, match=r"objective is regression, not cl.*; rules is 3, not 4"):
        require(dataset, asked)
    with pytest.raises(DataError, match="task seeds are 0, 4, without 1"):
        require(dataset, DataSpec(rules=3), [0, 1])


def test_settings_of_version_0_1_that_the_task_does_not_read_are_left_out(tmp_path):
    write(tmp_path / "data", DataSpec(rules=3))
    recipe = json.loads((tmp_path / "data" / "dataset.json").read_text())["recipe"]
    edit(tmp_path / "data", recipe=recipe | {"data": recipe["data"] | {"search": "product"}})
    require(open_dataset(tmp_path / "data"), DataSpec(rules=3), [4])


def test_another_length_is_another_recipe(tmp_path):
    longer = write(tmp_path / "sets", FAMILIES["sets"])
    with pytest.raises(DataError, match="length is 4, not 5"):
        require(longer, DataSpec(task="sets", rules=2, length=5))


def test_more_than_the_disk_has_room_for_is_refused_before_it_is_drawn(tmp_path):
    with pytest.raises(DataError, match=r"would hold [\d,.]+ GB, and .* GB are free there"):
        write(tmp_path / "new", samples=10**15)
    assert not [*tmp_path.iterdir()]
