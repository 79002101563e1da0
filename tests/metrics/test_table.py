"""The table of metrics, and the commands that print it."""

import json
import subprocess
import sys

import pytest
import torch

from modeval.cli.bench.matching import bench_matching_command
from modeval.cli.bench.metrics import bench_metrics_command, random_routing
from modeval.cli.manual.worked import EXAMPLE, VALUES
from modeval.cli.metrics import describe, explain, find_metric, metrics_command
from modeval.counting.count import count
from modeval.errors import SpecError, TraceError
from modeval.metrics import LOSSES, METRICS, STATIC_METRICS, metric_of, shown_in, uniform_joint
from modeval.score.measure import measure_routing

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
    metrics_command(name, as_json="-")
    assert json.loads(capsys.readouterr().out) == describe(METRICS[name])


def test_the_list_names_every_metric_and_fits_a_terminal(capsys):
    metrics_command(None)
    text = capsys.readouterr().out
    for metric in METRICS.values():
        assert metric.name in text
    assert max(map(len, text.splitlines())) <= 100


def computed(metric, routing):
    """Score routing A, given as four rows of as many samples each."""
    if metric.needs == "table":
        return float(metric.function((routing * 100).round()))
    if metric.needs == "joint":
        return float(metric.function(routing / len(routing)))
    return float(metric.function(count(torch.arange(len(routing)), routing, rules=4)))


def test_worked_examples_are_what_the_metrics_give():
    collapsed = torch.zeros(4, 4, dtype=torch.float64)
    collapsed[:, 0] = 1
    uniform = torch.full((4, 4), 0.25, dtype=torch.float64)
    one_each = torch.eye(4, dtype=torch.float64)
    cases = (torch.tensor(EXAMPLE, dtype=torch.float64), one_each, uniform, collapsed)
    expected = {
        name: pytest.approx([computed(metric, case) for case in cases], abs=6e-7)
        for name, metric in METRICS.items()
        if metric.needs in {"joint", "counts", "table"} and not metric.shape
    }
    assert {name: list(values) for name, values in VALUES.items()} == expected


def test_an_explanation_ends_with_the_worked_example(capsys):
    metrics_command("alignment-distance")
    assert "this routing            0.262500" in capsys.readouterr().out


def test_an_unknown_metric_is_refused_with_the_nearest_name():
    with pytest.raises(SpecError, match="Did you mean collapse_avg"):
        find_metric("colapse_avg")


SIZES = [(1, 1), (1, 3), (2, 1), (2, 2), (3, 8), (8, 3), (5, 5), (16, 16)]
of_joints = pytest.mark.parametrize(
    "name", [m.name for m in METRICS.values() if m.needs == "joint"]
)


def random_joint(rules, modules, seed, *, prior=None, sharpness=3.0):
    generator = torch.Generator().manual_seed(seed)
    logits = sharpness * torch.randn(rules, modules, generator=generator, dtype=torch.float64)
    weight = torch.full((rules,), 1 / rules, dtype=torch.float64) if prior is None else prior
    return logits.softmax(-1) * weight[:, None]


@of_joints
@pytest.mark.parametrize(("rules", "modules"), SIZES)
def test_the_chance_level_is_what_uniform_routing_scores(name, rules, modules):
    metric = METRICS[name]
    if rules == 1 and name == "inverse_mutual_information":
        pytest.skip("of one rule there is nothing to tell")
    assert metric.chance(rules, modules) == pytest.approx(
        metric.function(uniform_joint(rules, modules)).item(), abs=1e-12
    )


@of_joints
@pytest.mark.parametrize(("rules", "modules"), [(2, 2), (3, 8), (8, 3), (5, 5)])
def test_no_routing_leaves_the_bounds_or_beats_the_ideal(name, rules, modules):
    metric = METRICS[name]
    uneven = torch.arange(1.0, rules + 1, dtype=torch.float64) ** 3
    for seed in range(20):
        for prior in (None, uneven / uneven.sum()):
            for sharpness in (0.1, 3.0, 100.0):
                joint = random_joint(rules, modules, seed, prior=prior, sharpness=sharpness)
                value = metric.function(joint).item()
                low, high = metric.bounds(
                    rules, modules, "uniform" if prior is None else "empirical"
                )
                assert low - 1e-12 <= value <= high + 1e-12
                ideal = metric.ideal(rules, modules)
                if prior is None and metric.better == "lower":
                    assert value >= ideal - 1e-12
                if prior is None and metric.better == "higher":
                    assert value <= ideal + 1e-12


@of_joints
@pytest.mark.parametrize(("rules", "modules"), [(2, 2), (5, 5), (16, 16)])
def test_a_module_for_each_rule_reaches_the_ideal(name, rules, modules):
    metric = METRICS[name]
    perfect = torch.eye(rules, dtype=torch.float64) / rules
    assert metric.function(perfect).item() == pytest.approx(metric.ideal(rules, modules), abs=1e-12)


def test_bounds_of_alignment_widen_where_rules_weigh_unequally():
    bounds = METRICS["alignment_distance"].bounds
    assert bounds(8, 4) == (0.5, 0.875)
    assert bounds(8, 4, "empirical") == (0.0, 0.875)


def test_what_follows_from_no_size_has_no_chance_level():
    assert METRICS["lexical_information"].chance(4, 4) is None
    assert METRICS["domain_specialization"].chance(4, 8, 2) == 0.25
    assert METRICS["temporal_persistence"].chance(4, 8, 2) == pytest.approx(13 / 28)


def test_losses_have_rows_and_no_function():
    assert metric_of("in_distribution_loss").better == "lower"
    assert metric_of("error_rate_at_length_20").bounds(4, 4) == (0.0, 1.0)
    assert metric_of("loss_at_length_") is None
    assert [row.question[-1] for row in LOSSES.values()] == ["?"] * len(LOSSES)
    with pytest.raises(TraceError, match="modeval score RUN"):
        _ = LOSSES["hard_gap"].function


def test_every_row_says_what_it_tells_and_which_way_few_samples_shift_it():
    for metric in METRICS.values():
        assert metric.tells
        if metric.usage_only:
            assert metric.few_samples == "worse"
            assert not metric.labels
        if metric.tested:
            assert metric.few_samples == "better"
            assert metric.labels


def test_places_list_metrics_in_the_order_of_the_table():
    assert shown_in("headline") == ("alignment_score", "effective_share")
    assert shown_in("table")[:2] == ("collapse_avg", "collapse_worst")
    assert "hard_gap" in shown_in("table")


def test_the_table_loads_no_torch():
    code = (
        "import sys; from modeval.metrics import METRICS;"
        "METRICS['alignment_score'].question;"
        "METRICS['adaptation_distance'].chance(4, 4);"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_benchmarks_print_ratios(capsys):
    bench_metrics_command(
        layers=2, rules=3, modules=4, documents=12, permutations=19, tokens=1000, as_json=True
    )
    result = json.loads(capsys.readouterr().out)
    assert result["folding"]["ratio"] > 0
    assert result["static_metrics"]["permutations"] == 19


def test_the_benchmark_of_metrics_does_what_scoring_does():
    routing = random_routing(2, 3, 4, 12, torch.Generator().manual_seed(0))
    found = measure_routing(routing, generator=torch.Generator(), permutations=19)
    assert set(found.metrics) >= set(STATIC_METRICS)
    score = found.metrics["alignment_score"]
    assert score.left is not None
    assert score.left.left.shape == (12, 1, 2)  # without each document, one seed, two layers
    assert score.null is not None
    assert score.null.shape == (19, 1, 2)


@pytest.mark.slow
def test_the_matching_benchmark_finds_the_same_values(capsys):
    bench_matching_command(device="cpu", as_json=True)
    assert all(row["same"] for row in json.loads(capsys.readouterr().out))
