"""Verdicts of the gate as JUnit XML, which build servers show as tests.

A test suite for each scorecard, a test case for each verdict. An inconclusive verdict is a failure
of type ``inconclusive``, or skipped where the policy lets it pass.
"""

import re
from collections.abc import Sequence
from importlib.metadata import version
from xml.etree import ElementTree as ET

from modeval.gate.verdicts import GateResult, Verdict
from modeval.report.verdicts.terminal import (
    chance,
    chance_words,
    measurement,
    scope_of,
    sentence,
)
from modeval.report.words import measured
from modeval.text import visible

NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, escaped or not."""


def render(result: GateResult, _exit_code: int = 0) -> str:
    """Return the text of the file."""
    lenient = result.policy.inconclusive == "pass"
    root = ET.Element("testsuites", {"name": "modeval gate"} | _counts(result.verdicts, lenient))
    for source in dict.fromkeys(each.source for each in result.checked):
        models = [each for each in result.checked if each.source == source]
        own = [verdict for each in models for verdict in each.verdicts]
        suite = ET.SubElement(root, "testsuite", {"name": _clean(source)} | _counts(own, lenient))
        facts = ET.SubElement(suite, "properties")
        _property(facts, "modeval", version("modeval-cli"))
        _property(facts, "policy", result.policy.source or "flags")
        _property(facts, "baseline", result.policy.baseline or "none")
        _property(facts, "chance", chance_words(result))
        for each in models:
            for term, text in measured(each.card, each.model):
                _property(facts, f"{each.model.id}: {term}", text)
        for verdict in own:
            _case(suite, verdict, lenient=lenient)
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _counts(verdicts: Sequence[Verdict], lenient: bool) -> dict[str, str]:  # noqa: FBT001 - one caller
    count = {
        outcome: sum(verdict.outcome == outcome for verdict in verdicts)
        for outcome in ("fail", "error", "inconclusive")
    }
    return {
        "tests": str(len(verdicts)),
        "failures": str(count["fail"] + count["inconclusive"] * (not lenient)),
        "errors": str(count["error"]),
        "skipped": str(count["inconclusive"] * lenient),
        "time": "0",
    }


def _property(parent: ET.Element, name: str, value: str) -> None:
    ET.SubElement(parent, "property", name=_clean(name), value=_clean(value))


def _case(suite: ET.Element, verdict: Verdict, *, lenient: bool) -> None:
    case = ET.SubElement(
        suite,
        "testcase",
        classname=_clean(verdict.model),
        name=_clean(f"{verdict.requirement} ({scope_of(verdict)})"),
        time="0",
    )
    text = _clean(sentence(verdict))
    if verdict.outcome == "inconclusive" and lenient:
        ET.SubElement(case, "skipped", message=text)
    elif verdict.outcome != "pass":
        tag = "error" if verdict.outcome == "error" else "failure"
        ET.SubElement(case, tag, message=_clean(verdict.why), type=verdict.outcome).text = text
    beside = f"; chance: {chance(verdict)}" if chance(verdict) else ""
    shown = f"measured {measurement(verdict)}{beside}\n{sentence(verdict)}"
    ET.SubElement(case, "system-out").text = _clean(shown)


def _clean(text: str) -> str:
    return NOT_XML.sub("?", visible(text, lines=True))
