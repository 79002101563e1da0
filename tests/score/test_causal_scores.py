"""Scores of what modules do stand in scorecards as all others: chance, tests, gates, old files."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import torch
from typer.testing import CliRunner

from modeval.cli.main import app
from modeval.errors import ScorecardError
from modeval.evaluate.cohort import evaluate
from modeval.evaluate.interventions import Asked
from modeval.evaluate.subject import Subject
from modeval.metrics.table import METRICS, metric_of
from modeval.nn import create
from modeval.score.cohorts import score
from modeval.score.estimates import one_layer, permuted
from modeval.score.interventions.scores import beside_twins
from modeval.score.measure import Measured
from modeval.score.scorecard import Score, Scorecard
from modeval.score.stored.files import SCHEMA, read_scorecard, write_scorecard
from modeval.spec import DataSpec, from_dict
from modeval.spec.model import ModelSpec

CAUSAL = tuple(name for name, row in METRICS.items() if row.needs == "interventions")
SMALL: Any = {"encoder": 6, "width": 12}


def subject_of(seeds: int = 3, **choices: object) -> Subject:
    data = DataSpec(rules=3)
    model = from_dict(ModelSpec, {**SMALL, "scorer": "module", **choices})
    return Subject(
        title="Modular",
        origin="run",
        data=data,
        model=model,
        objective_known=True,
        seeds=tuple((seed, seed) for seed in range(seeds)),
        sources=("somewhere",) * seeds,
        faults=("",) * seeds,
        selection="last",
        network=create(data, model, range(seeds)),
    )


def scored(*, wanted: bool = True, shapley: int = 0, **choices: Any) -> Scorecard:
    subject = subject_of(**choices)
    asked = Asked(wanted=wanted, shapley=shapley)
    return score(subject, evaluate(subject, precision=0.1, interventions=asked), precision=0.1)


@pytest.fixture(scope="module")
def card() -> Scorecard:
    return scored(shapley=4)


@pytest.fixture(scope="module")
def deep() -> Scorecard:
    return scored(layers=2)


def test_every_causal_score_has_seeds_interval_chance_and_stands_after_its_twin(
    card: Scorecard,
) -> None:
    [model] = card.models
    order = list(dict.fromkeys(each.metric for each in card.scores))
    for name in CAUSAL:
        whole = card.find(model.id, name)
        assert whole is not None
        assert whole.seeds == 3
        assert whole.low is not None
        assert whole.chance is not None
        assert len([each for each in card.scores if each.metric == name]) == 4
        if METRICS[name].twin:
            assert order[order.index(METRICS[name].twin) + 1] == name
    resilience, keep_k = (card.find(model.id, name) for name in ("resilience", "keep_k"))
    assert keep_k is not None
    assert resilience is not None
    assert keep_k.chance == pytest.approx(resilience.value)
    for name in ("causal_alignment_score", "causal_information", "routing_faithfulness", "keep_k"):
        tested = card.find(model.id, name)
        assert tested is not None
        assert tested.p_value is not None
        assert 0 < tested.p_value <= 1
    for name in ("hard_gap", "hard_gap_top_2", "hard_gap_sampled", "hard_gap_rounded"):
        assert card.find(model.id, name) is not None


def test_matrices_and_curves_go_through_a_file_and_its_schema(
    card: Scorecard, deep: Scorecard, tmp_path: Path
) -> None:
    for each in (card, deep):
        write_scorecard(tmp_path / "card.json", each)
        assert read_scorecard(tmp_path / "card.json") == each
        form = json.loads((tmp_path / "card.json").read_text(encoding="utf-8"))
        jsonschema.validate(form, json.loads(SCHEMA.read_text(encoding="utf-8")))
    [first, *_] = card.effects
    assert (len(first.necessity), len(first.necessity[0]), len(card.effects)) == (3, 3, 3)
    assert len(first.shapley) == len(first.shapley_error) == 3
    assert deep.effects[0].shapley == ()
    assert [each.layer for each in deep.effects] == [0, 1] * 3
    assert (card + card).effects[3].model == (card + card).models[1].id
    nothing = card.only(["nothing"])
    assert not nothing.effects
    assert not nothing.removals


def test_layers_are_scored_one_by_one_and_over_all_and_losses_are_of_the_whole_model(
    deep: Scorecard,
) -> None:
    [model] = deep.models
    for name in CAUSAL:
        assert deep.find(model.id, name, over="mean") is not None
        assert all(deep.find(model.id, name, layer=layer) is not None for layer in (0, 1))
    assert deep.find(model.id, "hard_gap") is not None


def test_scorecards_without_interventions_are_as_they_were_and_old_files_are_read(
    tmp_path: Path,
) -> None:
    plain = scored(wanted=False)
    assert not {each.metric for each in plain.scores} & {*CAUSAL}
    assert not plain.effects
    assert not plain.removals
    write_scorecard(tmp_path / "card.json", plain)
    form = json.loads((tmp_path / "card.json").read_text(encoding="utf-8"))
    del form["effects"], form["removals"]  # as written before there were any
    (tmp_path / "old.json").write_text(json.dumps(form), encoding="utf-8")
    assert read_scorecard(tmp_path / "old.json") == plain


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        ("effects", {"necessity": ((0.0,),)}, "not one of 3 rows of 3"),
        ("effects", {"intact": (0.1,)}, "1 intact losses"),
        ("effects", {"shapley": ()}, "go together"),
        ("effects", {"needed": ((0.5, 0.5, 0.5),) * 3}, "shares add up to 1.5"),
        ("removals", {"removed": (0, 2, 1, 3)}, "do not rise"),
        ("removals", {"by_use": (0.1,)}, "1 losses for 4 levels"),
    ],
)
def test_what_was_edited_is_refused(
    card: Scorecard, tmp_path: Path, part: str, change: dict[str, Any], said: str
) -> None:
    entries = getattr(card, part)
    wrong = replace(card, **{part: (replace(entries[0], **change), *entries[1:])})  # type: ignore[arg-type]
    write_scorecard(tmp_path / "card.json", wrong)
    with pytest.raises(ScorecardError, match=said):
        read_scorecard(tmp_path / "card.json")


def test_a_gate_takes_limits_on_causal_scores_and_says_how_to_get_them(
    card: Scorecard, tmp_path: Path
) -> None:
    run = CliRunner()
    for name, each in (("with", card), ("without", scored(wanted=False))):
        write_scorecard(tmp_path / f"{name}.json", each)
    limits = ["--min", "routing_faithfulness=0.01", "--max", "hard_gap_sampled=1000"]
    passed = run.invoke(app, ["gate", str(tmp_path / "with.json"), *limits])
    assert passed.exit_code == 0, passed.output
    failed = run.invoke(app, ["gate", str(tmp_path / "with.json"), "--max", "keep_k=0.0001"])
    assert failed.exit_code == 1, failed.output
    absent = run.invoke(app, ["gate", str(tmp_path / "without.json"), *limits])
    assert absent.exit_code != 0
    assert "--interventions" in " ".join(absent.output.split())


def test_scores_with_twins_are_sorted_beside_them_and_others_stay_in_place() -> None:
    names = ("alignment_score", "resilience", "dead_fraction", "causal_alignment_score")
    ordered = beside_twins([Score(model="a", metric=name) for name in names])
    assert [each.metric for each in ordered] == [
        *("alignment_score", "causal_alignment_score", "resilience", "dead_fraction"),
    ]


def test_p_values_of_kept_sets_keep_their_size_for_a_useless_order() -> None:
    draws = torch.Generator().manual_seed(0)
    areas = torch.rand(21, 600, 1, generator=draws, dtype=torch.float64)
    measured = Measured(areas[0], null=areas[1:])
    better = METRICS["keep_k"].better
    found = [permuted(measured, [seed], one_layer(0), better=better) for seed in range(600)]
    hits = sum(each is not None and each.p_value <= 0.05 for each in found)
    assert 0.025 <= hits / 600 <= 0.075


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--shapley", "1"], "expected 2 to 10,000"),
        (["--shapley", "4", "--no-interventions"], "Drop --no-interventions"),
    ],
)
def test_orders_that_make_no_sense_are_refused(flags: list[str], said: str, tmp_path: Path) -> None:
    run = CliRunner().invoke(app, ["score", str(tmp_path), *flags])
    assert run.exit_code != 0
    assert said in str(run.exception)


def test_interventions_mean_nothing_for_traces() -> None:
    counts = str(Path(__file__).parents[2] / "fixtures" / "tiny-moe.counts.safetensors")
    for flag in ("--interventions", "--no-interventions"):
        run = CliRunner().invoke(app, ["score", counts, flag])
        assert f"{flag} is for trained cohorts" in str(run.exception)


@pytest.mark.parametrize("name", [*CAUSAL, "hard_gap_top_2"])
def test_every_row_says_how_it_is_read(name: str) -> None:
    row = metric_of(name)
    assert row is not None
    assert row.question.endswith("?")
    low, high = row.bounds(4, 4)
    assert low < high
