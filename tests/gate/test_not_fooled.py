"""Nothing passes because it was left out, cut, exchanged or made up; each has its exit code."""

import json
import shlex
from dataclasses import replace

import numpy as np
import pytest
from gate_cards import cohort_card, trace_card
from scipy.stats import binom
from typer.testing import CliRunner

from modeval.cli import main as program
from modeval.cli.exits import Exit
from modeval.errors import ModevalError, SpecError
from modeval.gate.policy import from_table
from modeval.score.scorecard import Activation, LeftOut, Profile, to_dict_form
from modeval.score.stored.files import write_scorecard
from modeval.trace.trace import Warned

runner = CliRunner()
TRACE = trace_card(
    {"alignment_score": [0.5, 0.6], "dead_fraction": [0.0, 0.0]},
    p_values=[0.001, 0.001],
    profiles=[
        Profile(model="olmo", metric="module_share", axis="module", layer=layer, values=(0.25,) * 4)
        for layer in range(2)
    ],
)
COHORT = cohort_card({"alignment_score": [0.8, 0.79, 0.81, 0.8, 0.82]}, p_value=0.005)


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def model_of(card, **changes):
    return replace(card, models=tuple(replace(model, **changes) for model in card.models))


def data_of(card, **changes):
    return model_of(card, data={**card.models[0].data, **changes})


def code_of(card, flags, baseline=None, tmp=None):
    """Return the exit code of a gate of a scorecard, given as such or in its JSON form."""
    from pathlib import Path  # noqa: PLC0415

    command = f"gate card.json --no-policy {flags}"
    for name, each in (("card.json", card), ("main.json", baseline)):
        if isinstance(each, dict):
            Path(name).write_text(json.dumps(each), encoding="utf-8")
        elif each is not None:
            write_scorecard(Path(name), each)
    if baseline is not None:
        command += " --baseline main.json"
    result = runner.invoke(program.app, shlex.split(command))
    if isinstance(result.exception, ModevalError):
        return Exit.USER_ERROR
    return result.exit_code


LAYER = LeftOut(kind="layer", name="layers.2", why="nothing of rule d was routed there")
RULE = LeftOut(kind="rule", name="d", why="no samples")
LIMIT = "--max layers.worst.dead_fraction=0.1"
ALIGNED = "--min alignment_score=0.2"
DROP = "--max-drop alignment_score=0.05"


@pytest.mark.parametrize("inconclusive", ["3", "pass"])
@pytest.mark.parametrize(
    ("card", "flags"),
    [
        (model_of(TRACE, left_out=(LAYER,)), LIMIT),
        (model_of(TRACE, left_out=(LAYER,)), ALIGNED),
        (model_of(TRACE, left_out=(LAYER,)), "--significant layers.each.alignment_score"),
        (model_of(TRACE, left_out=(LeftOut(kind="rest"),)), LIMIT),
        (model_of(TRACE, left_out=(RULE,)), ALIGNED),
        (data_of(TRACE, complete=False), LIMIT),
        (model_of(TRACE, layers=(*TRACE.models[0].layers, "more"), layer_modules=(4,) * 3), LIMIT),
    ],
)
def test_what_was_left_out_never_passes(card, flags, inconclusive):
    if len(card.models[0].layers) == 3:  # the means over layers are no longer those of all
        card = replace(card, scores=tuple(each for each in card.scores if each.over is None))
    assert code_of(card, f"{flags} --inconclusive {inconclusive}") == Exit.USER_ERROR


def test_a_layer_that_lacks_a_label_is_scored_for_its_load_and_does_not_pass(tmp_path):
    """Layer 1 sends all to module 0, and holds no document of d: its other scores are not there."""
    rows = ["layer,document,label,chosen"]
    for document in range(24):
        label = "abcd"[document % 4]
        for token in range(8):
            rows.append(f"0,{document},{label},{2 * (document % 4) + token % 2}")
            rows += [f"1,{document},{label},0"] * (label != "d")
    (tmp_path / "lo.csv").write_text("\n".join(rows) + "\n")
    for command in (
        "import lo.csv --modules 8 --out lo.trace",
        "score lo.trace --json lo.json --quiet",
    ):
        assert runner.invoke(program.app, shlex.split(command)).exit_code == Exit.OK
    flags = f"gate lo.json --no-policy {LIMIT} --min layers.worst.alignment_score=0.2"
    result = runner.invoke(program.app, shlex.split(flags))
    assert result.exit_code == Exit.USER_ERROR
    assert "1 in error" in result.stdout
    assert "0.875" in result.stdout  # its load is known, and it is bad


def test_what_was_left_out_on_purpose_or_does_not_matter_passes():
    gone = model_of(TRACE, left_out=(LAYER,))
    assert code_of(gone, f"{LIMIT} --left-out ignore") == Exit.OK
    assert code_of(gone, "--max layers.0.dead_fraction=0.1") == Exit.OK
    assert code_of(model_of(TRACE, left_out=(replace(LAYER, wanted=True),)), LIMIT) == Exit.OK
    assert code_of(model_of(TRACE, left_out=(RULE,)), LIMIT) == Exit.OK  # load needs no rules
    assert code_of(TRACE, LIMIT) == Exit.OK


def test_a_failure_stays_one_whatever_was_left_out():
    card = model_of(TRACE, left_out=(LAYER,))
    assert code_of(card, "--min alignment_score=0.9") == Exit.GATE_FAILED


def test_a_doubtful_recording_is_inconclusive():
    card = model_of(TRACE, warnings=(Warned("repeated rows", "rows repeat"),))
    assert code_of(card, LIMIT) == Exit.INCONCLUSIVE
    assert code_of(card, f"{LIMIT} --left-out ignore") == Exit.OK
    assumed = model_of(TRACE, warnings=(Warned("assumed", "the layers"),))
    assert code_of(assumed, LIMIT) == Exit.OK


@pytest.mark.parametrize(
    "flags",
    [
        "--max collapse_worst=1",
        "--min alignment_score=0",
        "--max-drop alignment_score=1",
        "--max imbalance=1000",
        "--max imbalance_ratio=1e9",
        "--min mutual_information=-5",
        "--min effective_modules=0",
        "--min effective_modules=5",
        "--max modules.worst.share=1",
        "--min alignment_score=0.2 --model 'olmo' --model 'other*'",
        "--min alignment_score=inf",
        "--on both --min alignment_score=0.2",
    ],
)
def test_requests_that_guard_nothing_are_refused(flags):
    baseline = TRACE if "drop" in flags else None
    assert code_of(TRACE, flags, baseline) == Exit.USER_ERROR


def test_models_and_seeds_of_the_baseline_are_missed():
    two = COHORT + cohort_card({"alignment_score": [0.8, 0.81]}, model="other", p_value=0.005)
    assert code_of(COHORT, DROP, COHORT) == Exit.OK
    assert code_of(COHORT, DROP, two) == Exit.USER_ERROR
    assert code_of(COHORT, f"{DROP} --model modular", two) == Exit.OK
    fewer = cohort_card({"alignment_score": [0.8, 0.81]}, p_value=0.005)
    assert code_of(fewer, DROP, COHORT) == Exit.USER_ERROR
    stranger = trace_card({"alignment_score": [0.5, 0.6]}, model="x", digest="y")
    assert code_of(stranger, DROP, TRACE) == Exit.USER_ERROR
    assert code_of(stranger, f"{DROP} --baseline-model olmo", TRACE) == Exit.OK
    assert code_of(stranger, f"{DROP} --baseline-model none", TRACE) == Exit.USER_ERROR
    layers = trace_card({"alignment_score": [0.5]})
    assert code_of(layers, DROP, TRACE) == Exit.USER_ERROR


def test_a_baseline_of_which_something_was_left_out_guards_nothing():
    assert code_of(TRACE, DROP, model_of(TRACE, left_out=(LAYER,))) == Exit.USER_ERROR
    assert code_of(TRACE, DROP, data_of(TRACE, complete=False)) == Exit.USER_ERROR


def test_seeds_without_a_number_are_no_mean():
    form = to_dict_form(cohort_card({"alignment_score": [0.9] * 5}))
    for score in form["scores"][2:]:
        score["value"] = None
    form["scores"][0]["seeds"] = 1
    assert code_of(form, ALIGNED) == Exit.USER_ERROR
    assert code_of(form, f"{ALIGNED} --failed-seeds ignore") == Exit.OK


def test_equal_seeds_prove_nothing():
    same = cohort_card({"alignment_score": [0.5, 0.5]}, p_value=0.005)
    flags = "--min alignment_score=0.2 --on bound"
    assert code_of(same, flags) == Exit.INCONCLUSIVE
    better = cohort_card({"alignment_score": [0.7, 0.7]}, p_value=0.005)
    assert code_of(same, DROP, better) == Exit.INCONCLUSIVE


@pytest.mark.parametrize(
    ("metric", "value", "limit", "code"),
    [
        ("alignment_score", 0.9, "--min alignment_score=0.5", Exit.INCONCLUSIVE),
        ("alignment_score", 0.1, "--min alignment_score=0.5", Exit.GATE_FAILED),
        ("load_gini", 0.5, "--max load_gini=0.2", Exit.INCONCLUSIVE),
        ("load_gini", 0.1, "--max load_gini=0.2", Exit.OK),
        ("softness", 0.9, "--max softness=0.2", Exit.GATE_FAILED),
    ],
)
def test_few_samples_make_open_what_they_may_have_made(metric, value, limit, code):
    card = trace_card({metric: [value]}, few=[True], notes=["few samples"])
    assert code_of(card, limit) == code


def sized(value, documents, permuted=None):
    card = trace_card({"alignment_score": [value]})
    card = data_of(card, documents=documents, tokens=100 * documents)
    scores = tuple(
        replace(each, samples=100 * documents, chance_permuted=permuted) for each in card.scores
    )
    return replace(card, scores=scores)


def test_traces_of_unlike_size_are_compared_without_what_chance_gives():
    small, large = sized(0.30, 200, 0.12), sized(0.20, 2000, 0.02)
    assert code_of(large, DROP, small) == Exit.OK  # all of the drop was chance
    hidden = sized(0.30, 200, 0.12), sized(0.30, 2000, 0.02)
    assert code_of(*hidden[:1], DROP, hidden[1]) == Exit.GATE_FAILED  # chance hid it
    assert code_of(sized(0.30, 200), DROP, sized(0.30, 2000)) == Exit.INCONCLUSIVE


def test_a_baseline_that_was_not_corrected_is_compared_with_what_was_not(tmp_path):
    corrected = sized(0.30, 200, 0.12)
    scores = tuple(
        replace(each, value=0.24, plug_in=0.30, low=0.22, high=0.26) for each in corrected.scores
    )
    assert code_of(replace(corrected, scores=scores), DROP, sized(0.30, 200, 0.12)) == Exit.OK


def test_a_level_or_a_p_of_0_is_refused():
    form = to_dict_form(TRACE)
    assert code_of(form | {"level": 0.0}, "--significant alignment_score") == Exit.USER_ERROR
    form["scores"][2]["p_value"] = 0
    assert code_of(form, "--significant alignment_score") == Exit.USER_ERROR


def test_a_value_of_a_wrong_type_is_no_bug_of_ours():
    form = to_dict_form(TRACE)
    form["scores"][0]["value"] = "9"
    assert code_of(form, LIMIT) == Exit.USER_ERROR


def edited(card, models=None, data=None, **scores):
    """Return the JSON form of a card with other fields of its model, and of all scores."""
    form = to_dict_form(card)
    record = form["models"][0]
    record.update(models or {})
    record["data"] = {**record["data"], **(data or {})}
    for score in form["scores"]:
        score.update(scores)
    return form


@pytest.mark.parametrize(
    "form",
    [
        edited(TRACE, samples=0),
        edited(TRACE, samples=3),  # of four labels
        edited(TRACE, data={"documents": 0}),
        edited(TRACE, data={"tokens": True}),
        edited(TRACE, data={"complete": "false"}),
        edited(TRACE, data={"complete": 0}),
        edited(TRACE, models={"rules": []}),
        edited(TRACE, models={"model": {"layer_numbers": [*range(7)]}}),  # layers were cut away
        edited(COHORT, p_value=1e-12),
        edited(TRACE, data={"documents": 40_001, "rows": None}),
        edited(TRACE, data={"documents": 3}),  # of four labels
        edited(TRACE, data={"copies_of_documents": 400}),
        edited(TRACE, samples=40_001),
        edited(TRACE, error=2.0),  # hides any drop
        edited(trace_card({"alignment_score": [0.5, 0.6]}), error=0.1),  # in an interval of 0.04
        edited(TRACE, models={"rules": ["code"]}),
        edited(TRACE, models={"modules": 1, "layer_modules": [1, 1]}),  # nothing to choose
        edited(COHORT, models={"modules": 1}),
        edited(COHORT, models={"data": {}}),
        edited(TRACE, models={"model": {"layer_numbers": [1, 1]}}),
        edited(TRACE, models={"model": {"choices": [2, 5]}}),
        edited(TRACE, models={"left_out": [{"kind": "rest", "name": "", "wanted": True}]}),
        {**to_dict_form(COHORT), "dataset": {"digest": "aa"}},
        {**to_dict_form(COHORT), "dataset": {"folder": "f", "digest": 3}},
    ],
)
def test_what_no_recording_and_no_test_can_give_is_refused(form):
    assert code_of(form, ALIGNED) == Exit.USER_ERROR


def within_null(form):
    for score in form["scores"]:
        if score["p_value"] is not None:
            score.update(null_low=0.3, null_high=0.7)
    return form


def of_metric(form, metric, **changes):
    for score in form["scores"]:
        if score["metric"] == metric:
            score.update(changes)
    return form


def test_a_p_that_the_permuted_labels_beside_it_do_not_give_is_refused():
    form = to_dict_form(TRACE)
    assert code_of(form, "--significant alignment_score") == Exit.OK
    assert code_of(within_null(form), "--significant alignment_score") == Exit.USER_ERROR


TOLD = 0.6 / np.log(4)


@pytest.mark.parametrize(
    ("values", "edit", "limit"),
    [
        ({"mutual_information": 0.6, "homogeneity": TOLD}, 0.9, "--min homogeneity=0.1"),
        (
            {"homogeneity": TOLD, "inverse_mutual_information": 1 - TOLD},
            0.1,
            "--max inverse_mutual_information=0.9",
        ),
        (
            {"mutual_information": 0.6, "rule_specialization": 0.6},
            1.2,
            "--min rule_specialization=0.1",
        ),
        ({"imbalance_ratio": 3.0, "max_violation": 2.0}, 0.1, "--max max_violation=2.5"),
        ({"effective_modules": 1.2, "effective_share": 0.3}, 0.9, "--min effective_share=0.26"),
        ({"alignment_distance": 0.6, "alignment_score": 0.2}, 0.9, "--min alignment_score=0.1"),
    ],
)
def test_two_numbers_that_say_the_same_and_differ_are_refused(values, edit, limit):
    form = to_dict_form(trace_card({name: [value] for name, value in values.items()}))
    assert code_of(form, limit) == Exit.OK
    edited_one = of_metric(form, [*values][1], value=edit, low=None, high=None)
    assert code_of(edited_one, limit) == Exit.USER_ERROR


def test_shares_of_modules_agree_with_one_another_and_with_the_matrix():
    same = Activation(model="olmo", layer=0, matrix=((0.25,) * 4,) * 4, prior=(0.25,) * 4)
    other = replace(same, matrix=((0.7, 0.1, 0.1, 0.1),) * 4)
    limit = "--max modules.worst.share=0.5"
    assert code_of(replace(TRACE, activations=(same,)), limit) == Exit.OK
    assert code_of(replace(TRACE, activations=(other,)), limit) == Exit.USER_ERROR
    form = to_dict_form(TRACE)
    form["profiles"][0]["values"] = [0.2] * 4
    assert code_of(form, limit) == Exit.USER_ERROR


def test_a_layer_that_was_recorded_in_part_does_not_pass(tmp_path):
    """Layer 1 holds all labels, and three of four documents; enough for its recorder not to ask."""
    rows = ["layer,document,label,chosen"]
    for document in range(24):
        for token in range(8):
            own = f"{document},{'abcd'[document // 6]},{2 * (document % 4) + token % 2}"
            rows += [f"0,{own}"] + [f"1,{own}"] * (document % 4 > 0)
    (tmp_path / "part.csv").write_text("\n".join(rows) + "\n")
    for command in (
        "import part.csv --modules 8 --out part.trace",
        "score part.trace --json part.json --quiet",
    ):
        assert runner.invoke(program.app, shlex.split(command)).exit_code == Exit.OK
    flags = "gate part.json --no-policy --max layers.{}.dead_fraction=0.6"
    result = runner.invoke(program.app, shlex.split(flags.format("worst")))
    assert result.exit_code == Exit.USER_ERROR
    assert "144 tokens where others hold 192" in " ".join(result.stdout.split())
    assert runner.invoke(program.app, shlex.split(flags.format("0"))).exit_code == Exit.OK


def test_a_drop_that_no_baseline_leaves_room_for_is_refused():
    assert code_of(TRACE, "--max-drop alignment_score=0.5", TRACE) == Exit.OK
    assert code_of(TRACE, "--max-drop alignment_score=0.6", TRACE) == Exit.USER_ERROR
    poor = trace_card({"alignment_score": [0.04, 0.05]})
    assert code_of(poor, DROP, poor) == Exit.USER_ERROR
    assert code_of(poor, "--max-drop alignment_score=0.02", poor) == Exit.OK


@pytest.mark.parametrize("flags", ["", "--quiet"])
def test_a_scorecard_that_nothing_is_required_of_is_not_passed_over(flags, tmp_path):
    other = cohort_card({"alignment_score": [0.1] * 3}, model="other")
    write_scorecard(tmp_path / "card.json", TRACE)
    write_scorecard(tmp_path / "other.json", other)
    (tmp_path / "gate.toml").write_text('model = "olmo"\nmax.dead_fraction = 0.1\n')
    command = f"gate card.json other.json --policy gate.toml {flags}"
    result = runner.invoke(program.app, shlex.split(command))
    assert isinstance(result.exception, ModevalError)
    assert "no requirement of the policy is about a model of it" in str(result.exception)


# --- how often it is wrong -----------------------------------------------------------------------


def seeds_in(tasks, models):
    return [(task, model) for task in range(tasks) for model in range(models)]


@pytest.mark.parametrize(("tasks", "models"), [(5, 5), (2, 5), (5, 1)])
@pytest.mark.parametrize("within", [0.3, 1.0])
def test_tasks_that_a_change_suits_and_others_raise_no_alarm(tasks, models, within):
    """A change that helps some tasks and harms others, on the average none: 5 % at most."""
    from modeval.score.comparison.differences import above, differences  # noqa: PLC0415
    from modeval.score.scorecard import Score  # noqa: PLC0415

    rng = np.random.default_rng(7)
    seeds, repeats = seeds_in(tasks, models), 300

    def scores(values):
        return [
            Score(model="m", metric="x", seed=seed, value=float(value))
            for seed, value in zip(seeds, values, strict=True)
        ]

    drops = beaten = 0
    for _ in range(repeats):
        effect = np.repeat(rng.standard_normal(tasks), models)
        new, old = (within / np.sqrt(2) * rng.standard_normal(len(seeds)) for _ in range(2))
        drops += differences(scores(new + effect), scores(old)).p_above() <= 0.05
        beaten += above(scores(new + effect), 0.0).p_above() <= 0.05
    assert drops <= binom.ppf(0.999, repeats, 0.05)
    assert beaten <= binom.ppf(0.999, repeats, 0.05)


def test_no_warnings_stops_at_any_of_them():
    assumed = model_of(TRACE, warnings=(Warned("assumed", "the layers"),))
    assert code_of(assumed, f"{LIMIT} --no-warnings") == Exit.INCONCLUSIVE
    assert code_of(assumed, f"{LIMIT} --no-warnings --left-out ignore") == Exit.INCONCLUSIVE
    assert code_of(TRACE, f"{LIMIT} --no-warnings") == Exit.OK
    assert from_table({"no_warnings": True, "max": {"collapse_worst": 0.5}}, "p").no_warnings
    with pytest.raises(SpecError, match="expected true or false"):
        from_table({"no_warnings": "yes"}, "p")
