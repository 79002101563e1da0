"""Traces beyond one machine: shards merged are the whole, and other programs read a trace."""

import csv
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from modeval.cli.main import app
from modeval.errors import TraceError
from modeval.score.stored.files import read_scorecard
from modeval.trace.convert import convert, merge_counts
from modeval.trace.counts import load_counts
from modeval.trace.files import open_trace
from modeval.trace.importers.format import Options
from modeval.trace.importers.import_files import import_source

pytest.importorskip("pyarrow", reason="traces are Parquet files")
ROUTING = Path(__file__).parents[2] / "fixtures" / "routing.csv"


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Return a folder with a file for each document of the fixture."""
    folder = tmp_path_factory.mktemp("sources")
    documents = {}
    with ROUTING.open() as file:
        for row in csv.DictReader(file):
            documents.setdefault(row["document"], []).append(row)
    for number, rows in documents.items():
        with (folder / f"{int(number):03}.csv").open("w") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return folder


def counted(sources, out, shard=(1, 1)):
    trace = import_source([sources], out, options=Options(modules=8, shard=shard)).path
    path = out.with_suffix(".counts.safetensors")
    convert(open_trace(trace), path, kind="counts")
    return path


@pytest.mark.slow
def test_shards_merged_are_the_whole_to_the_bit_intervals_included(sources, tmp_path):
    whole = counted(sources, tmp_path / "whole.trace")
    parts = [counted(sources, tmp_path / f"{n}.trace", (n, 3)) for n in (1, 2, 3)]
    merged = tmp_path / "merged.counts.safetensors"
    merge_counts(parts[::-1], merged)
    groups = [load_counts(path)[1] for path in (whole, merged)]
    for one, other in zip(*groups, strict=True):
        for name, tensor in one.counts.pooled().tensors().items():
            torch.testing.assert_close(other.counts.pooled().tensors()[name], tensor)
        assert len(one.units) == len(other.units) == 16
        for name, tensor in one.units.tensors().items():
            assert torch.equal(other.units.tensors()[name], tensor), name
        assert torch.equal(other.counts.selections, one.counts.selections)  # in the same blocks
    scores = []
    for path in (whole, merged):
        out = path.with_suffix(".json")
        done = CliRunner().invoke(app, ["score", str(path), "--json", str(out), "--quiet"])
        assert done.exit_code == 0, done.output
        scores.append(
            {
                (s.metric, s.layer, s.over): (s.value, s.low, s.high, s.p_value)
                for s in read_scorecard(out).scores
            }
        )
    assert scores[0] == scores[1]  # to the bit


def test_each_file_is_in_one_shard_and_none_is_empty(sources, tmp_path):
    rows = [
        open_trace(
            import_source(
                [sources], tmp_path / f"{n}.trace", options=Options(modules=8, shard=(n, 5))
            ).path
        ).rows
        for n in range(1, 6)
    ]
    whole = import_source([sources], tmp_path / "all.trace", options=Options(modules=8))
    assert sum(rows) == whole.rows
    with pytest.raises(TraceError, match="at most 16 shards"):
        import_source([sources], tmp_path / "no.trace", options=Options(shard=(1, 17)))


def test_a_shard_that_is_none_is_refused(sources, tmp_path):
    for text in ("0/3", "4/3", "1", "a/b"):
        asked = ["import", str(sources), "--out", str(tmp_path / "x.trace"), "--shard", text]
        done = CliRunner().invoke(app, asked)
        assert done.exit_code != 0
        assert not (tmp_path / "x.trace").exists()


@pytest.fixture(scope="module")
def trace(sources, tmp_path_factory):
    out = tmp_path_factory.mktemp("trace") / "tiny.trace"
    return import_source([sources], out, options=Options(modules=8)).path


def loads(trace):
    """Return how often each expert of layer 0 was chosen, counted row by row."""
    import pyarrow.parquet as pq  # noqa: PLC0415

    found = {}
    for part in sorted(trace.glob("part-*.parquet")):
        for row in pq.read_table(part).to_pylist():
            if row["layer"] == 0:
                for expert in row["chosen"]:
                    found[expert] = found.get(expert, 0) + 1
    return found


def test_pandas_opens_a_trace_as_a_whole(trace):
    pandas = pytest.importorskip("pandas")
    parts = [pandas.read_parquet(part) for part in sorted(trace.glob("part-*.parquet"))]
    frame = pandas.concat(parts, ignore_index=True)
    chosen = frame[frame.layer == 0].chosen.explode()
    assert chosen.value_counts().to_dict() == loads(trace)


def test_datasets_opens_a_trace_as_a_whole(trace, tmp_path):
    datasets = pytest.importorskip("datasets")
    files = str(trace / "part-*.parquet")
    rows = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=tmp_path)
    found = {}
    for row in rows:
        for expert in row["chosen"] if row["layer"] == 0 else ():
            found[expert] = found.get(expert, 0) + 1
    assert found == loads(trace)


def test_polars_streams_a_trace_as_a_whole(trace):
    polars = pytest.importorskip("polars")
    frame = polars.scan_parquet(str(trace / "part-*.parquet")).filter(polars.col("layer") == 0)
    counted = frame.select(polars.col("chosen").list.explode()).collect(engine="streaming")
    assert dict(counted["chosen"].value_counts().iter_rows()) == loads(trace)


def test_duckdb_queries_a_trace_as_a_whole(trace):
    duckdb = pytest.importorskip("duckdb")
    query = (
        f"SELECT e, count(*) FROM (SELECT unnest(chosen) AS e FROM '{trace}/part-*.parquet' "
        "WHERE layer = 0) GROUP BY e"
    )
    assert dict(duckdb.sql(query).fetchall()) == loads(trace)
