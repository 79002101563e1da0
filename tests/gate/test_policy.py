"""Policies: what flags and TOML say, and what of it is refused."""

import pytest
from gate_cards import cohort_card, trace_card

from modeval.errors import SpecError
from modeval.gate.files import policy_table, read_policy
from modeval.gate.policy import (
    Policy,
    PolicyScope,
    Requirement,
    from_flags,
    from_table,
    merge,
    parse_name,
)
from modeval.gate.policy_check import require_possible
from modeval.score.scorecard import Profile, is_named

CARD = cohort_card({"collapse_worst": [0.1] * 3, "alignment_score": [0.8] * 3})
PROFILE = Profile(model="olmo", metric="module_share", axis="module", layer=0, values=(0.5, 0.5))
TRACE = trace_card({"collapse_worst": [0.1, 0.2]}, profiles=[PROFILE])


@pytest.mark.parametrize(
    ("name", "place", "metric"),
    [
        ("collapse_worst", PolicyScope(), "collapse_worst"),
        ("layers.worst.dead_fraction", PolicyScope(layers="worst"), "dead_fraction"),
        ("layers.12.load_cv", PolicyScope(layers="12"), "load_cv"),
        ("layers.model.layers.3.mlp.load_cv", PolicyScope(layers="model.layers.3.mlp"), "load_cv"),
        ("rules.law.share", PolicyScope(axis="rule", entry="law"), "share"),
        ("rules.c4.en.share", PolicyScope(axis="rule", entry="c4.en"), "share"),
        (
            "layers.3.modules.17.module_share",
            PolicyScope(layers="3", axis="module", entry="17"),
            "module_share",
        ),
        ("seeds.worst.collapse_avg", PolicyScope(seeds="worst"), "collapse_avg"),
        (
            "seeds.each.layers.mean.rules.worst.x",
            PolicyScope(seeds="each", layers="mean", axis="rule", entry="worst"),
            "x",
        ),
    ],
)
def test_names_say_where_and_what(name, place, metric):
    assert parse_name(name, "--max") == (place, metric)
    assert f"{place}{metric}" == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "names no metric"),
        ("layers.", "names no metric"),
        ("layer.worst.load_cv", "did you mean layers"),
        ("seeds.3.load_cv", "expected worst or each"),
        ("layers..load_cv", "a name is missing"),
    ],
)
def test_names_that_say_nothing_are_refused(name, message):
    with pytest.raises(SpecError, match=message):
        parse_name(name, "--max")


def test_flags_and_toml_say_the_same():
    flags = from_flags(
        {
            "max": ["collapse_worst=0.2", "layers.worst.dead_fraction=0"],
            "min": ["alignment_score=0.6"],
            "max_drop": ["alignment_score=0.05"],
            "significant": ["mutual_information"],
        }
    )
    table = {
        "max": {"collapse_worst": 0.2, "layers": {"worst": {"dead_fraction": 0}}},
        "min": {"alignment_score": {"limit": 0.6}},
        "max_drop": {"alignment_score": 0.05},
        "significant": ["mutual_information"],
    }
    policy = from_table(table, "gate.toml")
    assert [str(each) for each in policy.requirements] == [str(each) for each in flags]
    assert [str(each) for each in flags] == [
        "collapse_worst <= 0.2",
        "layers.worst.dead_fraction <= 0",
        "alignment_score >= 0.6",
        "alignment_score drop <= 0.05",
        "mutual_information beats chance",
    ]


def test_a_requirement_in_toml_has_settings_of_its_own():
    policy = from_table(
        {
            "on": "bound",
            "model": "a*",
            "min": {
                "alignment_score": [
                    {"limit": 0.6, "significant": True, "chance": "hash"},
                    {"limit": 0.2, "model": "b", "on": "value"},
                ]
            },
        },
        "gate.toml",
    )
    first, beats, second = policy.requirements
    assert (first.limit, first.on, first.model) == (0.6, "bound", "a*")
    assert (beats.comparison, beats.chance, beats.limit) == ("significant", "hash", None)
    assert (second.limit, second.on, second.model) == (0.2, "value", "b")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"maxx": {}}, "did you mean max"),
        ({"max": 0.2}, "expected metrics with limits"),
        ({"max": {"collapse_worst": "0.2x"}}, "no number that can be a limit"),
        ({"max": {"collapse_worst": "20%"}}, "20/100"),
        ({"max": {"collapse_worst": True}}, "no number that can be a limit"),
        ({"max": {"collapse_worst": float("nan")}}, "no number that can be a limit"),
        ({"max": {"collapse_worst": {"limit": 1, "one": 2}}}, "no setting of a requirement"),
        ({"max": {"collapse_worst": {"limit": 1, "on": "both"}}}, "value or bound"),
        ({"on": "bounds"}, "value or bound"),
        ({"inconclusive": "maybe"}, "pass or fail or 3"),
        ({"failed_seeds": "drop"}, "error or ignore"),
        ({"significant": [3]}, "expected a list of metrics"),
        ({"baseline": 3}, "expected the path"),
        ({"model": 3}, "name or pattern"),
        ({"min": {"a": {"limit": 0.1, "significant": "yes"}}}, "expected true or false"),
    ],
)
def test_toml_that_says_nothing_is_refused(table, message):
    with pytest.raises(SpecError, match=message):
        from_table(table, "gate.toml")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"max": ["collapse_worst"]}, "METRIC=NUMBER"),
        ({"max": ["collapse_worst=low"]}, "no number"),
        ({"max": ["collapse_worst=inf"]}, "no number"),
        ({"significant": ["v_measure=1"]}, "a metric and no number"),
    ],
)
def test_flags_that_say_nothing_are_refused(flags, message):
    with pytest.raises(SpecError, match=message):
        from_flags(flags)


def test_flags_replace_what_the_file_says_of_the_same_metric():
    policy = from_table({"max": {"collapse_worst": 0.2, "collapse_avg": 0.1}}, "gate.toml")
    merged = merge(policy, from_flags({"max": ["collapse_worst=0.3"]}))
    assert [str(each) for each in merged.requirements] == [
        "collapse_avg <= 0.1",
        "collapse_worst <= 0.3",
    ]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({}, "has no requirements"),
        ({"max": ["colapse_worst=0.2"]}, "did you mean collapse_worst"),
        ({"min": ["collapse_worst=0.2"]}, "Did you mean --max collapse_worst=0.2"),
        ({"max": ["alignment_score=0.2"]}, "Did you mean --min alignment_score=0.2"),
        ({"max": ["in_distribution_los=0.2"]}, "did you mean in_distribution_loss"),
        ({"min": ["in_distribution_loss=0.2"]}, "better when it is lower"),
        ({"max": ["collapse_worst=20"]}, "Is 0.2 meant"),
        ({"min": ["alignment_score=-0.1"]}, "can never be broken"),
        ({"min": ["alignment_score=0"]}, "can never be broken"),
        ({"max": ["collapse_worst=1"]}, "can never be broken"),
        ({"max": ["imbalance=1000"]}, r"can never be broken"),
        ({"max": ["imbalance_ratio=1e9"]}, "here from 1 to 4"),
        ({"min": ["mutual_information=-5"]}, "can never be broken"),
        ({"min": ["mutual_information=5"]}, "can never be kept"),
        ({"min": ["effective_modules=0"]}, "can never be broken"),
        ({"max": ["imbalance_ratio=0.5"]}, "can never be kept"),
        ({"max": ["in_distribution_loss=-1"]}, "can never be kept"),
        ({"max_drop": ["alignment_score=-0.1"]}, "at least 0"),
        ({"max_drop": ["alignment_score=0.1"]}, "none is named"),
        ({"significant": ["collapse_worst"]}, "nothing beats it"),
        ({"significant": ["load_gini"]}, "nothing beats it"),
        ({"significant": ["domain_specialization"]}, "no better and worse"),
        ({"max": ["modules.each.share=0.5"]}, "no number 'share' for each module"),
    ],
)
def test_what_no_scorecard_can_break_or_keep_is_refused(flags, message):
    with pytest.raises(SpecError, match=message):
        require_possible(Policy(requirements=from_flags(flags)), [CARD])


def test_numbers_of_rules_and_modules_are_known_by_either_name():
    for name in ("modules.worst.share", "modules.worst.module_share", "layers.0.modules.1.share"):
        require_possible(Policy(requirements=from_flags({"max": [f"{name}=0.9"]})), [TRACE])
    with pytest.raises(SpecError, match=r"modules\.worst\.module_share"):
        require_possible(Policy(requirements=from_flags({"max": ["module_share=0.9"]})), [TRACE])


def test_a_baseline_that_is_not_used_is_refused():
    flags = from_flags({"max": ["collapse_worst=0.2"]})
    with pytest.raises(SpecError, match="would not be used"):
        require_possible(Policy(requirements=flags, baseline="main.json"), [CARD])


def test_models_that_are_not_there_are_named():
    wanted = Requirement(metric="collapse_worst", comparison="max", limit=0.1, model="modula")
    with pytest.raises(SpecError, match="did you mean modular"):
        require_possible(Policy(requirements=(wanted,)), [CARD])
    assert is_named("MOD*", CARD.models[0])
    assert not is_named("mono*", CARD.models[0])


# --- files ---------------------------------------------------------------------------------------


def test_a_policy_is_read_from_its_file_and_its_baseline_from_beside_it(tmp_path):
    path = tmp_path / "gate.toml"
    path.write_text('baseline = "main.json"\nmax_drop.alignment_score = 0.05\n')
    policy = read_policy(path)
    assert policy.baseline == str(tmp_path / "main.json")
    assert [str(each) for each in policy.requirements] == ["alignment_score drop <= 0.05"]
    assert policy.source == str(path)


def test_pyproject_holds_a_policy_among_other_things(tmp_path):
    path = tmp_path / "pyproject.toml"
    path.write_text("[project]\nname = 'x'\n")
    assert policy_table(path) is None
    with pytest.raises(SpecError, match=r"tool\.modeval\.gate"):
        read_policy(path)
    path.write_text("[tool.modeval.gate]\nmax.collapse_worst = 0.2\n")
    assert [str(each) for each in read_policy(path).requirements] == ["collapse_worst <= 0.2"]


@pytest.mark.parametrize(
    ("text", "message"), [(None, "No policy at"), ("max = ", "not valid TOML"), ("\xff", "TOML")]
)
def test_files_that_are_no_policy_are_refused(tmp_path, text, message):
    path = tmp_path / "gate.toml"
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    with pytest.raises(SpecError, match=message):
        read_policy(path)
    with pytest.raises(SpecError, match="Cannot read the policy"):
        read_policy(tmp_path)
