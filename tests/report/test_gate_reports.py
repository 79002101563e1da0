"""What each format says of verdicts, held against gold files.

After a change that is meant: UPDATE_GOLD=1 pytest tests/report/test_gate_reports.py, and read the
difference.
"""

import io
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import jsonschema  # type: ignore[import-untyped]
import pytest
from gate_cards import cohort_card, trace_card
from junitparser import JUnitXml
from rich.console import Console

from modeval import __version__
from modeval.gate.gate import gate
from modeval.gate.policy import from_table
from modeval.report.verdicts import badge, gate_json, gitlab, junit, markdown, sarif
from modeval.report.verdicts import comment as gate_comment
from modeval.report.verdicts.formats import GATE_FORMATS
from modeval.report.verdicts.github import render_github
from modeval.report.verdicts.history import history_line
from modeval.report.verdicts.terminal import render_gate

GOLD = Path(__file__).parent / "gold"


def result_of(**settings):
    """Return verdicts of every kind: two cohorts and a trace, with a name that needs escaping."""
    cohorts = cohort_card(
        {"collapse_worst": [0.1, 0.3, 0.2], "alignment_score": [0.8, 0.7, 0.9]}, p_value=0.005
    ) + cohort_card({"collapse_worst": [0.6] * 3}, model="two|<three> & *four*")
    trace = trace_card(
        {"collapse_worst": [0.1, 0.5], "alignment_score": [0.9, 0.3]}, p_values=[0.001, 0.4]
    )
    table = {
        "max": {"collapse_worst": 0.3},
        "min": {"alignment_score": {"limit": 0.82, "on": "bound", "significant": True}},
        "max_drop": {"collapse_worst": 0.05},
        "baseline": "main.json",
    } | settings
    baseline = cohort_card({"collapse_worst": [0.1, 0.2, 0.1]})
    return gate(
        [("cards/four.json", cohorts), ("cards/olmo, 1.json", trace)],
        from_table(table, "gate.toml"),
        baseline,
    )


def terminal(result):
    console = Console(file=io.StringIO(), width=100, color_system=None)
    for part in render_gate(result):
        console.print(part)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


FORMATS = {
    "gate.txt": terminal,
    "gate.json": lambda result: gate_json.render(result, 2),
    "gate.xml": junit.render,
    "gate.md": markdown.render,
    "gate.github": render_github,
    "gate.sarif": sarif.render,
}


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_is_as_its_gold_file_says(name):
    text = FORMATS[name](result_of()).replace(__version__, "VERSION").replace("0.1.0", "VERSION")
    path = GOLD / name
    if os.environ.get("UPDATE_GOLD"):
        path.write_text(text, encoding="utf-8")
    assert seven_digits(text) == seven_digits(path.read_text(encoding="utf-8"))


def seven_digits(text):
    """Return a text whose long numbers have seven digits: quantiles differ by release of SciPy."""
    return re.sub(r"\d+\.\d{7,}(e-?\d+)?", lambda number: f"{float(number[0]):.7g}", text)


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_says_what_was_measured_and_names_chance(name):
    text = FORMATS[name](result_of())
    for fact in (
        "4 rules",  # the task
        "30,000 samples",
        "3 seeds",
        "0123456789abcdef",  # the digest of the trace
        "400",  # its documents
        "prefill",
        "uniform",  # chance, and the prior
        "hashed",
        __version__,
        "layer 1 (model.layers.1.mlp)",
    ):
        flat = re.sub(r"%3A|%2C", "", " ".join(text.replace("\\", "").split()))
        assert fact in flat, fact


def test_junit_is_read_by_a_parser_of_its_own():
    result = result_of()
    read = JUnitXml.fromstring(junit.render(result).encode())
    assert (read.tests, read.failures, read.errors, read.skipped) == (
        len(result.verdicts),
        result.count("fail") + result.count("inconclusive"),
        result.count("error"),
        0,
    )
    assert [suite.name for suite in read] == ["cards/four.json", "cards/olmo, 1.json"]
    cases = [case for suite in read for case in suite]
    assert len({(case.classname, case.name) for case in cases}) == len(result.verdicts)
    outcomes = [case.result[0].type if case.result else "pass" for case in cases]
    assert outcomes == [verdict.outcome for verdict in result.verdicts]


def test_junit_skips_what_is_inconclusive_where_that_passes():
    result = result_of(inconclusive="pass")
    read = JUnitXml.fromstring(junit.render(result).encode())
    assert read.skipped == result.count("inconclusive") > 0
    assert read.failures == result.count("fail")


def test_junit_stays_xml_whatever_a_model_is_called():
    card = cohort_card({"collapse_worst": [0.6] * 3}, model='a\x00\x1b]0;<&>"\ud800')
    policy = from_table({"max": {"collapse_worst": 0.3}}, "gate.toml")
    root = ET.fromstring(junit.render(gate([("card.json", card)], policy)))
    [case] = root.iter("testcase")
    assert case.get("classname") == 'a\\x00\\x1b]0;<&>"\\ud800'


def test_json_has_no_number_that_is_none():
    card = cohort_card({"collapse_worst": [0.6] * 3})
    broken = replace(card, scores=tuple(replace(each, value=float("nan")) for each in card.scores))
    policy = from_table({"max": {"collapse_worst": 0.3}}, "gate.toml")
    form = json.loads(gate_json.render(gate([("card.json", broken)], policy), 2))
    assert form["verdicts"][0]["value"] is None
    assert form["verdicts"][0]["outcome"] == "error"


def test_json_keeps_every_verdict_as_it_was_measured():
    result = result_of()
    form = json.loads(gate_json.render(result, 2))
    assert form["outcome"] == result.outcome
    assert form["exit_code"] == 2
    for entry, verdict in zip(form["verdicts"], result.verdicts, strict=True):
        assert entry["value"] == verdict.value
        assert entry["limit"] == verdict.requirement.limit
        assert entry["requirement"] == str(verdict.requirement)


def test_annotations_are_one_line_each_and_escaped():
    result = result_of()
    lines = render_github(result).splitlines()
    assert len(lines) == len(result.verdicts) - result.count("pass") + 1
    for line in lines:
        kind, _, rest = line.removeprefix("::").partition(" ")
        properties, _, message = rest.partition("::")
        assert kind in {"error", "warning", "notice"}
        assert all(part.split("=")[0] in {"file", "title"} for part in properties.split(","))
        assert not re.search("%(?!25|0A|0D|3A|2C)", message)


def test_markdown_tables_have_a_cell_for_each_column_whatever_a_model_is_called():
    lines = markdown.render(result_of()).splitlines()
    start = lines.index("|---|---|---|---|---|")
    rows = []
    for line in lines[start + 1 :]:
        if not line.startswith("|"):
            break
        rows.append(line)
    assert len(rows) == len(result_of().verdicts)
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {6}


SARIF = {
    "type": "object",
    "required": ["version", "runs"],
    "properties": {
        "version": {"const": "2.1.0"},
        "runs": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/run"}},
    },
    "$defs": {
        "message": {
            "type": "object",
            "required": ["text"],
            "properties": {"text": {"minLength": 1}},
        },
        "run": {
            "type": "object",
            "required": ["tool", "results"],
            "properties": {
                "tool": {
                    "type": "object",
                    "required": ["driver"],
                    "properties": {
                        "driver": {
                            "type": "object",
                            "required": ["name", "version", "rules"],
                            "properties": {
                                "rules": {
                                    "type": "array",
                                    "uniqueItems": True,
                                    "items": {
                                        "type": "object",
                                        "required": ["id"],
                                        "properties": {
                                            "shortDescription": {"$ref": "#/$defs/message"},
                                            "fullDescription": {"$ref": "#/$defs/message"},
                                            "help": {"$ref": "#/$defs/message"},
                                        },
                                    },
                                }
                            },
                        }
                    },
                },
                "columnKind": {"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
                "results": {"type": "array", "items": {"$ref": "#/$defs/result"}},
            },
        },
        "result": {
            "type": "object",
            "required": ["message", "ruleId", "ruleIndex", "level", "kind", "locations"],
            "properties": {
                "message": {"$ref": "#/$defs/message"},
                "kind": {"enum": ["pass", "fail"]},
                "level": {"enum": ["none", "note", "warning", "error"]},
                "locations": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["physicalLocation"],
                        "properties": {
                            "physicalLocation": {
                                "type": "object",
                                "required": ["artifactLocation"],
                                "properties": {
                                    "artifactLocation": {
                                        "type": "object",
                                        "required": ["uri"],
                                        "properties": {"uri": {"pattern": "^[^ ]+$"}},
                                    }
                                },
                            }
                        },
                    },
                },
                "partialFingerprints": {
                    "type": "object",
                    "additionalProperties": {"type": "string"},
                },
            },
        },
    },
}
"""The parts of the SARIF 2.1.0 schema that a log of ours has, from the standard's sections 3.13,
3.14, 3.18, 3.19, 3.27, 3.28, 3.29 and 3.49."""


def test_sarif_is_of_the_form_that_the_standard_asks():
    result = result_of()
    log = json.loads(sarif.render(result))
    jsonschema.validate(log, SARIF)
    [run] = log["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert len(run["results"]) == len(result.verdicts)
    for entry, verdict in zip(run["results"], result.verdicts, strict=True):
        assert rules[entry["ruleIndex"]] == entry["ruleId"] == verdict.requirement.metric
        # section 3.27.10: a result of another kind than fail has no level
        assert (
            (entry["level"] == "none") == (entry["kind"] != "fail") == (verdict.outcome == "pass")
        )


# --- the table of formats ------------------------------------------------------------------------


@pytest.mark.parametrize("name", GATE_FORMATS)
def test_every_format_renders_and_has_a_flag_and_an_example_of_its_own(name):
    entry = GATE_FORMATS[name]
    assert entry.render(result_of(), 2).endswith("\n")
    assert len({each.flag for each in GATE_FORMATS.values()}) == len(GATE_FORMATS)
    assert len({each.example for each in GATE_FORMATS.values()}) == len(GATE_FORMATS)


def with_lines(result):
    """Return a result of a policy whose requirements stand on lines 1, 2, ... of their file."""
    checked = tuple(
        replace(
            each,
            verdicts=tuple(
                replace(verdict, requirement=replace(verdict.requirement, line=number))
                for number, verdict in enumerate(each.verdicts, 1)
            ),
        )
        for each in result.checked
    )
    return replace(result, checked=checked)


def test_annotations_code_scanning_and_code_quality_name_the_line_of_the_policy():
    result = with_lines(result_of())
    assert "::error file=gate.toml,line=1,title=" in render_github(result)
    [run] = json.loads(sarif.render(result))["runs"]
    lines = [
        each["locations"][0]["physicalLocation"]["region"]["startLine"] for each in run["results"]
    ]
    assert lines == [1, 2, 3, 4] * 3
    quality = json.loads(gitlab.render(result))
    assert {each["location"]["path"] for each in quality} == {"gate.toml"}
    assert quality[0]["location"]["lines"]["begin"] == 2
    failed = [each for each in result.verdicts if each.outcome != "pass"]
    assert len({each["fingerprint"] for each in quality}) == len(quality) == len(failed)
    assert {each["severity"] for each in quality} <= {"major", "critical", "minor"}


def test_a_badge_says_the_outcome():
    made = json.loads(badge.render(result_of()))
    assert made["schemaVersion"] == 1
    assert (made["message"], made["color"]) == ("could not be checked", "lightgrey")


def test_a_comment_shows_before_and_after():
    text = gate_comment.render(result_of())
    assert text.startswith(gate_comment.MARKER)
    [row] = [line for line in text.splitlines() if "0.1333 | 0.2 " in line]
    assert "✅ pass" in row
    assert "<three>" not in text  # names of others are no markup


def test_a_line_of_history_has_commit_date_and_values():
    line = history_line(result_of(), date="2026-01-02T03:04:05+00:00", commit="abc")
    assert line.count("\n") == 1
    made = json.loads(line)
    assert (made["commit"], made["date"], made["outcome"]) == (
        "abc",
        "2026-01-02T03:04:05+00:00",
        "error",
    )
    assert made["values"][0]["metric"] == "collapse_worst"
    assert made["values"][0]["value"] == pytest.approx(0.2)
