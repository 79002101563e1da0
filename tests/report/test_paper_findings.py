"""The paper's findings: made scorecards in which a statement is true, false, or open."""

import itertools
import random

import pytest

from modeval.errors import ScorecardError
from modeval.report.paper_findings import Curve, paper_findings, setting_of
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
                data={"task": "binary", "objective": "regression", "rules": count},
                model={"scorer": scorer, "encoder": 32, "width": 128},
                digest=name,
                modules=count,
            )
        )
        for metric in (
            *("in_distribution_loss", "out_of_distribution_loss", "collapse_avg"),
            *("collapse_worst", "alignment_distance", "inverse_mutual_information"),
            "alignment_score",
        ):
            for task, model in itertools.product(range(TASKS), range(MODELS)):
                value = values(scorer, count, metric) * (1 + noise * generator.gauss(0, 1))
                scores.append(Score(model=name, metric=metric, seed=(task, model), value=value))
    return Scorecard(models=tuple(records), scores=tuple(scores))


def as_the_paper_says(scorer, rules, metric):
    order = {"oracle": 0, "rule": 1, "module": 2, "none": 3}[scorer]
    if metric.endswith("loss"):
        return 0.01 * (1 + order * rules / 8)
    if metric == "alignment_score":
        return 0.2
    return 0.1 * order * (1 - 1 / rules)


def verdicts(found):
    return {(finding.name, finding.statement[:20]): finding.verdict for finding in found}


def test_every_statement_holds_where_it_was_built_in():
    found = paper_findings(card(as_the_paper_says))
    assert {f.verdict for f in found if f.name != "F10"} == {"holds"}
    assert all(f.low <= f.value <= f.high for f in found if f.name != "F10")


def test_no_statement_holds_where_the_opposite_was_built_in():
    def opposite(scorer, rules, metric):
        if metric == "alignment_score":
            return 0.9
        mirror = {"oracle": "none", "none": "oracle", "rule": "module", "module": "rule"}
        size = rules if metric.endswith("loss") else 64 / rules
        return as_the_paper_says(mirror[scorer], size, metric)

    found = paper_findings(card(opposite))
    decided = [f for f in found if f.name != "F10"]
    assert not [f.name for f in decided if f.verdict == "holds"]
    assert sum(f.verdict == "does not hold" for f in decided) >= 8


def test_where_all_is_noise_little_is_claimed():
    claimed = 0
    runs = 20
    for seed in range(runs):
        found = paper_findings(card(lambda *_: 0.1, noise=0.3, seed=seed))
        claimed += sum(f.verdict != "cannot be told" for f in found if f.name in ("F2", "F4", "F7"))
    assert claimed <= 0.15 * 3 * runs


def test_the_speed_of_training_is_read_from_curves():
    made = card(as_the_paper_says, noise=0.0)
    seeds = tuple(itertools.product(range(TASKS), range(MODELS)))
    curves = {}
    for rules, (name, factor) in itertools.product((2, 8, 32), (("modular", 4), ("gt-modular", 1))):
        setting = setting_of(
            {"task": "binary", "objective": "regression", "rules": rules},
            {"encoder": 32, "width": 128},
        )
        steps = tuple(range(10, 500, 10))
        curves[setting, name] = Curve(
            steps=steps,
            losses=tuple(tuple(factor * (1 + 0.1 * t) / step for t, _ in seeds) for step in steps),
            seeds=seeds,
        )
    [speed] = [f for f in paper_findings(made, curves) if f.name == "F10"]
    assert speed.verdict == "holds"


def test_a_scorecard_without_the_four_models_says_how_to_train_them():
    with pytest.raises(ScorecardError, match="modeval sweep plan demo"):
        paper_findings(Scorecard())
