"""The paper's findings: made scorecards in which a statement is true, false, or open."""

import itertools
import random
from dataclasses import replace

import pytest

from modeval.errors import ScorecardError
from modeval.report.paper.findings import paper_findings
from modeval.report.paper.seed_table import setting_of
from modeval.report.paper.speed import Curve
from modeval.score.scorecard import ModelRecord, Score, Scorecard

NAMES = {"none": "Monolithic", "module": "Modular", "rule": "Modular-op", "oracle": "GT-Modular"}
TASKS, MODELS = 5, 2


def card(values, rules=(2, 8, 32), noise=0.01, seed=0):
    """Return a scorecard in which each seed's value is ``values(scorer, R, metric)`` and noise."""
    generator = random.Random(seed)
    records, scores = [], []
    for count, scorer in itertools.product(rules, NAMES):
        name = f"{scorer}-{count}"
        records.append(
            ModelRecord(
                id=name,
                title=NAMES[scorer],
                origin="run",
                selection="last",
                data={
                    "task": "binary",
                    "objective": "regression",
                    "operation": "linear",
                    "rules": count,
                },
                model={"scorer": scorer, "encoder": 32, "width": 128},
                digest=name,
                modules=count,
            )
        )
        for metric in (
            *("in_distribution_loss", "out_of_distribution_loss", "collapse_avg"),
            *("collapse_worst", "alignment_distance", "inverse_mutual_information"),
            *("alignment_score", "input_distraction", "hard_gap"),
        ):
            chance = 1 - 1 / count if metric == "alignment_distance" else None
            for task, model in itertools.product(range(TASKS), range(MODELS)):
                value = values(scorer, count, metric) * (1 + noise * generator.gauss(0, 1))
                scores.append(
                    Score(model=name, metric=metric, seed=(task, model), value=value, chance=chance)
                )
    return Scorecard(models=tuple(records), scores=tuple(scores))


def as_the_paper_says(scorer, rules, metric):
    order = {"oracle": 0, "rule": 1, "module": 2, "none": 3}[scorer]
    if metric.endswith("loss"):
        return 0.01 * (1 + order * rules / 8)
    if metric == "alignment_score":
        return 0.2
    if metric == "input_distraction":
        return 0.3 if scorer == "module" else 0.0
    return 0.1 * order * (1 - 1 / rules)


def verdicts(found):
    return {(finding.name, finding.statement[:20]): finding.verdict for finding in found}


def test_every_statement_holds_where_it_was_built_in():
    found = paper_findings(card(as_the_paper_says))
    decided = [f for f in found if f.role == "finding" and f.name != "F10"]
    assert {(f.name, f.verdict) for f in decided} == {
        (f"F{number}", "holds") for number in (1, 2, 3, 4, 5, 6, 7, 8, 11)
    }
    told = [f for f in found if f.low is not None]
    assert len(told) > 18
    assert all(f.low <= f.value <= f.high for f in told)


def test_cautions_and_reports_have_no_verdict_whatever_their_numbers():
    for values in (as_the_paper_says, opposite):
        found = [f for f in paper_findings(card(values)) if f.role != "finding"]
        assert {f.name for f in found} == {"F5", "F7", "F9", "F12"}
        assert {f.verdict for f in found} == {"reported"}


def test_what_two_dimensions_span_is_cautioned_of_on_linear_regression_alone():
    [basis] = [f for f in paper_findings(card(as_the_paper_says)) if f.name == "F9"]
    assert basis.role == "caution"
    assert basis.value == pytest.approx(0.2 * (0.5 + 7 / 8 + 31 / 32) / 3, rel=0.02)
    other = card(as_the_paper_says)
    records = tuple(
        replace(record, data={**record.data, "operation": "product"}) for record in other.models
    )
    [none] = [f for f in paper_findings(replace(other, models=records)) if f.name == "F9"]
    assert none.value is None


def test_a_task_is_one_witness_whatever_the_sizes_of_the_models():
    one = card(as_the_paper_says)
    wider = replace(
        one,
        models=tuple(
            replace(r, id=f"{r.id}-wide", model={**r.model, "encoder": 64, "width": 256})
            for r in one.models
        ),
        scores=tuple(replace(score, model=f"{score.model}-wide") for score in one.scores),
    )
    alone, both = (
        {(f.name, f.statement): (f.low, f.high) for f in paper_findings(given) if f.name == "F1"}
        for given in (one, one + wider)
    )
    assert alone == both
    sizes = [f for f in paper_findings(one + wider) if f.name == "F12" and "x" in f.measured[-7:]]
    assert [f.measured.rsplit(" ", 1)[1] for f in sizes] == ["32x128", "64x256"]


def opposite(scorer, rules, metric):
    if metric == "alignment_score":
        return 0.9
    if metric == "alignment_distance" and scorer in ("module", "rule"):
        return 1.0 if scorer == "rule" else 0.98
    mirror = {"oracle": "none", "none": "oracle", "rule": "module", "module": "rule"}
    size = rules if metric.endswith("loss") else 64 / rules
    return as_the_paper_says(mirror[scorer], size, metric)


def test_no_statement_holds_where_the_opposite_was_built_in():
    found = paper_findings(card(opposite))
    far = "... and all are far from perfect specialisation"  # still true where all is worse
    decided = [f for f in found if f.name != "F10" and f.statement != far]
    assert not [f.name for f in decided if f.verdict == "holds"]
    assert sum(f.verdict == "does not hold" for f in decided) >= 9


def test_where_all_is_noise_little_is_claimed():
    claimed = 0
    runs = 20
    for seed in range(runs):
        found = paper_findings(card(lambda *_: 0.1, noise=0.3, seed=seed))
        tried = [f for f in found if f.name in ("F2", "F4", "F7") and f.role == "finding"]
        assert len(tried) == 5
        claimed += sum(f.verdict != "cannot be told" for f in tried)
    assert claimed <= 0.12 * 5 * runs


def test_the_speed_of_training_is_read_from_curves():
    made = card(as_the_paper_says, noise=0.0)
    seeds = tuple(itertools.product(range(TASKS), range(MODELS)))
    curves = {}
    for rules, (name, factor) in itertools.product((2, 8, 32), (("modular", 4), ("gt-modular", 1))):
        setting = setting_of(
            {"task": "binary", "objective": "regression", "operation": "linear", "rules": rules},
            {"encoder": 32, "width": 128},
        )
        steps = tuple(range(10, 500, 10))
        curves[setting, name] = Curve(
            steps=steps,
            losses=tuple(tuple(factor * (1 + 0.1 * t) / step for t, _ in seeds) for step in steps),
            seeds=seeds,
        )
    speed, no_op = [f for f in paper_findings(made, curves) if f.name == "F10"]
    assert speed.verdict == "holds"
    assert no_op.verdict == "cannot be told"


def test_a_scorecard_without_the_four_models_says_how_to_train_them():
    with pytest.raises(ScorecardError, match="modeval sweep plan demo"):
        paper_findings(Scorecard())
