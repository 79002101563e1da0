"""The table of metrics, and the commands that print it."""

import json

import pytest

from modeval.cli.bench.matching import bench_matching_command
from modeval.cli.bench.metrics import bench_metrics_command
from modeval.cli.metrics import describe, explain, find_metric, metrics_command
from modeval.errors import SpecError, TraceError
from modeval.metrics import METRICS

names = pytest.mark.parametrize("name", METRICS)


@names
def test_every_metric_says_what_it_asks_and_how_to_read_it(name):
    metric = METRICS[name]
    assert metric.question.endswith("?")
    assert metric.formula
    assert metric.better in ("lower", "higher", "neither")
    assert metric.version >= 1
    doc = metric.function.__doc__ or ""
    places = [doc.index(part) for part in ("``", "Args:", "Returns:", "Source:", ">>>")]
    assert places == sorted(places)


def test_formula_ids_are_unique():
    ids = [(metric.formula_id, metric.version) for metric in METRICS.values()]
    assert len(set(ids)) == len(ids)


@names
def test_every_metric_is_explained_and_listed(name, capsys):
    assert METRICS[name].question.split()[0] in explain(METRICS[name])
    metrics_command(name, as_json=True)
    assert json.loads(capsys.readouterr().out) == describe(METRICS[name])


def test_the_list_names_every_metric_and_fits_a_terminal(capsys):
    metrics_command(None, as_json=False)
    text = capsys.readouterr().out
    for metric in METRICS.values():
        assert metric.name in text
        assert metric.formula_id in text
    assert max(map(len, text.splitlines())) <= 100


def test_the_worked_example_is_computed(capsys):
    metrics_command("alignment-distance", as_json=False)
    assert "0.262500" in capsys.readouterr().out


def test_an_unknown_metric_is_refused_with_the_nearest_name():
    with pytest.raises(SpecError, match="Did you mean collapse_avg"):
        find_metric("colapse_avg")


def test_chance_of_metrics_that_need_more_than_the_joint_is_refused():
    with pytest.raises(TraceError, match="permutation"):
        METRICS["lexical_information"].uniform_value(4, 4)


def test_benchmarks_print_ratios(capsys):
    bench_metrics_command(
        layers=2, rules=3, modules=4, blocks=4, draws=5, tokens=1000, as_json=True
    )
    result = json.loads(capsys.readouterr().out)
    assert result["folding"]["ratio"] > 0
    assert result["static_metrics"]["draws"] == 5


@pytest.mark.slow
def test_the_matching_benchmark_finds_the_same_values(capsys):
    bench_matching_command(device="cpu", as_json=True)
    assert all(row["same"] for row in json.loads(capsys.readouterr().out))
