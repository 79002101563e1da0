"""Gates believe scorecards, so they are read whole or refused, with one error that says where."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from gate_cards import cohort_card, trace_card

from modeval.errors import ScorecardError
from modeval.score.scorecard import (
    Activation,
    Coactivation,
    Finding,
    Profile,
    is_named,
    to_dict_form,
)
from modeval.score.stored.files import read_scorecard, write_scorecard
from modeval.score.stored.first_version import upgraded

COHORT = cohort_card({"alignment_score": [0.6, 0.7, 0.8], "collapse_worst": [0.1, 0.2, 0.3]})
TRACE = replace(
    trace_card(
        {"alignment_score": [0.2, 0.4], "dead_fraction": [0.0, 0.25]},
        p_values=[0.01, 0.02],
        profiles=[
            Profile(model="olmo", metric="module_share", axis="module", layer=0, values=(0.25,) * 4)
        ],
        activations=[
            Activation(model="olmo", layer=1, matrix=((0.25,) * 4,) * 4, prior=(0.25,) * 4)
        ],
    ),
    findings=(Finding(model="olmo", layer=0, word="partial", rule=1, module=2),),
    coactivations=(
        Coactivation(model="olmo", layer=0, modules=(0, 2), matrix=((0.0, 0.5), (0.5, 0.0))),
    ),
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "card.json"


def form_of(card):
    return json.loads(json.dumps(to_dict_form(card)))


def refused(path, form, message):
    path.write_text(form if isinstance(form, str) else json.dumps(form), encoding="utf-8")
    with pytest.raises(ScorecardError, match=message):
        read_scorecard(path)


@pytest.mark.parametrize("card", [COHORT, TRACE, COHORT + TRACE])
def test_what_is_written_is_read_again(path, card):
    write_scorecard(path, card)
    assert read_scorecard(path) == card


def entry(form, part, **wanted):
    """Return the first entry of a part that has these values."""
    return next(each for each in form[part] if wanted.items() <= each.items())


# what is done to an entry of a trace card, and what is said
SCORE = {"metric": "alignment_score", "layer": 1, "over": None}
DAMAGES = [
    (
        "scores",
        SCORE,
        {"value": "9"},
        r"scores\[\d\] \('alignment_score' of 'olmo'\)\.value is '9', expected a fin",
    ),
    ("scores", SCORE, {"value": True}, "value is True"),
    ("scores", SCORE, {"value": 1e300, "low": None, "high": None}, "outside .0, 1."),
    ("scores", SCORE, {"value": 10**400}, "expected a finite number"),
    ("scores", SCORE, {"value": [0.4]}, "expected a finite number"),
    ("scores", SCORE, {"value": -0.2, "low": -0.3, "high": 0.1}, "its value -0.2 is outside"),
    ("scores", SCORE, {"low": 5, "high": 6}, "interval 5 to 6 does not hold its value 0.4"),
    ("scores", SCORE, {"low": 0.5, "high": 0.3}, "exchanged"),
    ("scores", SCORE, {"low": None}, "one end"),
    ("scores", SCORE, {"value": None}, "an interval and no value"),
    ("scores", SCORE, {"error": -0.1}, "its error is -0.1"),
    ("scores", SCORE, {"p_value": 0}, "p is 0"),
    ("scores", SCORE, {"p_value": -1}, "p is -1"),
    ("scores", SCORE, {"p_adjusted": 1.5}, "p is 1.5"),
    ("scores", SCORE, {"p_adjusted": 0.001}, "smaller than the plain one"),
    ("scores", SCORE, {"better": "lower"}, "own direction is higher"),
    ("scores", SCORE, {"better": None}, "own direction is higher"),
    ("scores", SCORE, {"better": "Higher"}, "expected lower or higher"),
    (
        "scores",
        SCORE,
        {"metric": "\u0430lignment_score"},
        "no such metric .did you mean alignment_score",
    ),
    ("scores", SCORE, {"metric": "told"}, "no such metric"),
    ("scores", SCORE, {"layer": 7}, "2 layers, and this is of layer 7"),
    ("scores", SCORE, {"layer": -1}, "2 layers, and this is of layer -1"),
    ("scores", SCORE, {"layer": 1.0}, "whole number"),
    ("scores", SCORE, {"layer": None}, "does not say which"),
    ("scores", SCORE, {"layer": 0}, "there twice"),
    ("scores", SCORE, {"over": "best"}, "expected mean or worst"),
    ("scores", SCORE, {"model": "other"}, "no model 'other'"),
    ("scores", SCORE, {"seed": {"task": 0, "model": 0}}, "no such seed"),
    ("scores", SCORE, {"seed": [0, 0]}, "expected a seed"),
    ("scores", SCORE, {"chance": 1.5}, "its chance 1.5 is outside"),
    ("scores", SCORE, {"null_low": 0.2, "null_high": 0.1}, "exchanged"),
    ("scores", SCORE, {"samples": -1}, "below 0"),
    ("scores", SCORE, {"plug_in": 3.0}, "its plug_in 3 is outside"),
    ("scores", SCORE, {"few_samples": "no"}, "expected true or false"),
    (
        "scores",
        {"over": "mean"},
        {"value": 0.9, "low": 0.8, "high": 1},
        "the mean of its layers is 0.3",
    ),
    (
        "scores",
        {"over": "worst"},
        {"layer": 1, "value": 0.4, "low": 0.38, "high": 0.42},
        "a layer is worse: 0.2",
    ),
    ("scores", {"over": "worst"}, {"value": 0.3, "low": 0.3, "high": 0.3}, "that layer has 0.2"),
    ("scores", {"over": "worst"}, {"low": 0.19}, "its low is 0.19, and that layer has 0.1"),
    ("scores", {"over": "worst"}, {"error": None}, "its error is none, and that layer has"),
    ("models", {}, {"modules": 0}, "fewer than one module"),
    ("models", {}, {"modules": 9}, "up to 4"),
    ("models", {}, {"layers": ["a"]}, "modules of 2"),
    ("models", {}, {"layers": ["a", "a"]}, "twice in layers"),
    ("models", {}, {"layers": ["a"], "layer_modules": [4]}, "layer"),
    ("models", {}, {"rules": ["a", "a"]}, "twice in rules"),
    ("models", {}, {"members": []}, "nothing was measured"),
    ("models", {}, {"origin": "guess"}, "expected run or"),
    ("models", {}, {"title": None}, "title is None, expected a text"),
    ("profiles", {}, {"values": [0.5] * 3}, "3 numbers for 4 modules"),
    ("profiles", {}, {"values": [0.5, 0.5, 0.5, 1.5]}, "1.5 is outside"),
    ("profiles", {}, {"metric": "module_shape"}, "did you mean module_share"),
    ("profiles", {}, {"axis": "rule"}, "expected each module"),
    ("profiles", {}, {"better": "higher"}, "own direction is neither"),
    ("profiles", {}, {"layer": 2}, "2 layers"),
    ("findings", {}, {"word": "fine"}, "expected specialist or"),
    ("findings", {}, {"rule": 4}, "there is no rule 4"),
    ("findings", {}, {"p_adjusted": 0}, "p is 0"),
    ("activations", {}, {"matrix": [[0.25] * 4] * 3}, "not one of 4 rows of 4"),
    ("activations", {}, {"matrix": [[0.5] * 4] * 4}, "add up to 2"),
    ("activations", {}, {"matrix": [[1.5, -0.5, 0, 0]] * 4}, "below 0 or above 1"),
    ("coactivations", {}, {"modules": [0, 9]}, "no module 9"),
]


@pytest.mark.parametrize(("part", "wanted", "change", "message"), DAMAGES)
def test_a_value_that_cannot_be_is_refused(path, part, wanted, change, message):
    form = form_of(TRACE)
    entry(form, part, **wanted).update(change)
    refused(path, form, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": True}, "has format True"),
        ({"format": 1.0}, "has format 1.0"),
        ({"format": 2}, "has format 2"),
        ({"modeval": "99.0"}, "newer than this one"),
        ({"modeval": "new"}, "no version"),
        ({"level": 0}, "level is 0"),
        ({"level": 0.5}, "level is 0.5"),
        ({"precision": -1}, "precision is -1"),
        ({"dataset": {}}, "no digest"),
        ({"scores": {}}, "scores is {}, expected a list"),
        ({"notes": [1]}, r"notes\[0\] is 1, expected a text"),
    ],
)
def test_the_head_of_a_scorecard_is_checked(path, change, message):
    refused(path, form_of(TRACE) | change, message)


def test_every_part_must_be_there(path):
    for part in ("models", "scores", "profiles", "activations", "coactivations"):
        form = form_of(TRACE)
        del form[part]
        refused(path, form, "not a scorecard" if part == "scores" else f"{part} is nothing")


@pytest.mark.parametrize("part", ["scores", "models", "profiles", "findings", "activations"])
def test_nothing_is_there_twice(path, part):
    form = form_of(TRACE)
    form[part].append(form[part][0])
    refused(path, form, "there twice")


def test_a_score_in_front_of_another_of_its_kind_is_not_taken(path):
    form = form_of(TRACE)
    first = entry(form, "scores", **SCORE)
    form["scores"].insert(0, first | {"value": 0.99, "low": 0.98, "high": 1.0})
    refused(path, form, "there twice")


def test_a_name_that_is_twice_in_one_object_is_refused(path):
    text = json.dumps(form_of(TRACE)).replace('"value": 0.4,', '"value": 0.4, "value": 0.9,', 1)
    refused(path, text, "'value' is there twice in one object")


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_number_is_refused_while_it_is_read(path, text):
    refused(path, json.dumps(form_of(TRACE)).replace("0.4", text), f"{text} is no number")


def test_numbers_beyond_all_bounds_are_refused_in_what_is_told_of_the_data(path):
    text = json.dumps(form_of(TRACE)).replace('"documents": 400', '"documents": 1e999')
    refused(path, text, r"models\[0\]\.data\.documents is inf")


def test_means_over_seeds_are_those_of_their_seeds(path):
    form = form_of(COHORT)
    mean = entry(form, "scores", metric="alignment_score", seed=None)
    mean.update(value=0.9, low=0.8, high=1.0)
    refused(path, form, "it is 0.9, and the mean of its seeds is 0.7")
    mean.update(value=0.7, low=0.6, high=0.8, seeds=2)
    refused(path, form, "of 2 seeds, and 3 are there")


def test_a_mean_without_its_seeds_is_refused(path):
    form = form_of(COHORT)
    form["scores"] = [each for each in form["scores"] if each["seed"] is None]
    refused(path, form, "none of them is there")


def test_a_mean_of_means_of_tasks_is_a_mean_over_seeds(path):
    seeds = ((0, 0), (0, 1), (1, 0))
    card = cohort_card({"alignment_score": [0.2, 0.4, 0.9]}, seeds=seeds)
    scores = (replace(card.scores[0], value=0.6, low=0.5, high=0.7), *card.scores[1:])
    write_scorecard(path, replace(card, scores=scores))
    assert read_scorecard(path).find("modular", "alignment_score").value == 0.6


def test_seeds_of_members_are_unique_and_all_or_none(path):
    form = form_of(COHORT)
    form["models"][0]["members"][1]["seed"] = form["models"][0]["members"][0]["seed"]
    refused(path, form, "a seed is there twice")
    form["models"][0]["members"][1]["seed"] = None
    refused(path, form, "some have none")


def test_a_corrected_value_may_lie_below_what_its_formula_gives(path):
    scores = tuple(
        replace(each, plug_in=0.02, value=-0.01, low=-0.03, high=0.02)
        for each in trace_card({"mutual_information": [0.0]}).scores
    )
    write_scorecard(path, replace(trace_card({"mutual_information": [0.0]}), scores=scores))
    assert read_scorecard(path).scores[0].value == -0.01


def test_only_regular_files_and_pipes_are_read(tmp_path):
    with pytest.raises(ScorecardError, match="is no file"):
        read_scorecard(tmp_path)
    for device in ("/dev/zero", "/dev/full"):
        with pytest.raises(ScorecardError, match="is no file"):
            read_scorecard(type(tmp_path)(device))
    deep = tmp_path / "deep.json"
    deep.write_text("[" * 200_000, encoding="utf-8")
    with pytest.raises(ScorecardError, match="nested too deeply"):
        read_scorecard(deep)
    deep.write_bytes(b"\xff\xfe")
    with pytest.raises(ScorecardError, match="cannot be read"):
        read_scorecard(deep)


def test_words_of_version_0_1_become_fields():
    form = form_of(TRACE)
    del form["findings"]
    for score in form["scores"]:
        del score["few_samples"]
        score["note"] = "few samples: worth 20 independent ones"
    for model in form["models"]:
        del model["left_out"]
    form["notes"] = [
        "Olmo: Layer layers.7 left out: nothing of rule d was routed there.",
        "Olmo: Rule d left out: no samples.",
        "Other: Rule e left out: no samples.",
    ]
    made = upgraded(form)
    assert all(score["few_samples"] for score in made["scores"])
    assert [(each["kind"], each["name"]) for each in made["models"][0]["left_out"]] == [
        ("layer", "layers.7"),
        ("rule", "d"),
    ]


@pytest.mark.parametrize("name", ["scorecard.json", "trace-scorecard.json"])
def test_scorecards_of_version_0_1_are_read_and_whole(name):
    card = read_scorecard(Path(__file__).parents[2] / "fixtures" / "version-0.1" / name)
    assert card.modeval == "0.1.0"
    assert card.scores
    assert not any(model.left_out for model in card.models)
    if name == "trace-scorecard.json":
        assert [finding.word for finding in card.findings] == ["partial"] * 3


def test_models_are_chosen_with_all_that_is_of_them():
    both = COHORT + TRACE
    assert both.only([]) is both
    assert both.only(["OL*"]) == replace(TRACE, precision=both.precision)
    assert is_named("modular", COHORT.models[0])
    assert not both.only(["x*"]).models


@pytest.mark.slow
def test_a_hundred_thousand_scores_are_read_in_seconds(path):
    layers = 20_000
    card = trace_card({"alignment_score": [0.0]})
    model = replace(
        card.models[0],
        layers=tuple(map(str, range(layers))),
        layer_modules=(4,) * layers,
        model=card.models[0].model | {"choices": [2] * layers, "layer_numbers": [*range(layers)]},
    )
    form = form_of(replace(card, models=(model,), scores=card.scores[:1]))
    [score] = form["scores"]
    form["scores"] = [
        score | {"metric": name, "layer": layer, "chance": 0.5, "better": better}
        for name, better in (
            ("alignment_score", "higher"),
            ("collapse_avg", "lower"),
            ("collapse_worst", "lower"),
            ("load_gini", "lower"),
            ("homogeneity", "higher"),
        )
        for layer in range(layers)
    ]
    path.write_text(json.dumps(form), encoding="utf-8")
    code = (  # by itself: here every type is checked at run time, which is slow
        "import sys, time; from pathlib import Path;"
        "from modeval.score.stored.files import read_scorecard;"
        "start = time.process_time(); card = read_scorecard(Path(sys.argv[1]));"
        "print(len(card.scores), time.process_time() - start)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, check=True)
    count, seconds = done.stdout.split()
    assert int(count) == 100_000
    assert float(seconds) < 5
