"""Verdicts of the gate for the terminal, and the words that all formats of them share."""

from rich.console import RenderableType
from rich.text import Text

from modeval.gate.verdicts import GateResult, Outcome, Verdict, figure
from modeval.report.terminal.grid import Prose
from modeval.report.words import EXPERTS, is_trace, measured
from modeval.score.scorecard import ModelRecord, Scorecard
from modeval.text import visible

STYLES: dict[Outcome, str] = {
    "pass": "green",
    "fail": "bold red",
    "inconclusive": "bold yellow",
    "error": "bold magenta",
}
HEADLINES: dict[Outcome, str] = {
    "pass": "Gate passed",
    "fail": "Gate failed",
    "inconclusive": "Gate inconclusive",
    "error": "Gate could not be checked",
}
COUNTED: tuple[tuple[Outcome, str], ...] = (
    ("fail", "failed"),
    ("error", "in error"),
    ("inconclusive", "inconclusive"),
    ("pass", "passed"),
)
CHANCE_WORDS = (
    "Chance is what routing scores that knows nothing of the rules: permuted exchanges the labels, "
    "uniform (where labels were not permuted) spreads each sample over all modules, hashed sends "
    "each rule to a module drawn at random."
)
IN_DOMAINS = EXPERTS.spoken(CHANCE_WORDS)
INDENT = "  "
"""Before what belongs to the verdict above."""
OF_KIND = {
    "ablation": (
        "Chance is the mean of random sets of as many modules; p says how many of them cost as "
        "little."
    ),
    "agreement": (
        "Chance is what two builds share that use each module as often and know nothing of each "
        "other."
    ),
}
SHORT_TERMS = {
    "Task": "",
    "Seeds": "",
    "Documents": "documents ",
    "Tokens": "tokens ",
    "Samples": "",
    "Modules": "",
    "Experts": "",
    "Phase": "phase ",
    "Digest": "digest ",
    "Scored by": "",
}
"""Facts that stand in one line, and what stands before each."""


# --- words ---------------------------------------------------------------------------------------


def headline(result: GateResult) -> str:
    """Say in one line how it ended: the worst outcome, and how many there are of each."""
    counts = [
        f"{result.count(outcome)} {word}" for outcome, word in COUNTED if result.count(outcome)
    ]
    return f"{HEADLINES[result.outcome]}: {', '.join(counts)}"


def in_a_line(result: GateResult) -> str:
    """Say in one line how it ended, and why: the first verdict of the worst outcome."""
    worst = [verdict for verdict in result.verdicts if verdict.outcome == result.outcome]
    if not worst:
        return headline(result)
    more = f" (and {len(worst) - 1} more)" if len(worst) > 1 else ""
    first = worst[0]
    return visible(f"{headline(result)}. {first.requirement}: {scope_of(first)}: {first.why}{more}")


def measurement(verdict: Verdict) -> str:
    """Write what was measured with its interval; for a drop, the drop.

    The digits are enough to tell it from the limit.
    """
    limit = verdict.requirement.limit
    if verdict.value is None:
        return "none"
    if verdict.drop is not None:
        change = "worse" if verdict.drop > 0 else "better" if verdict.drop < 0 else "the same"
        by = f"{figure(abs(verdict.drop), limit)} {change}" if verdict.drop else change
        return f"{by} ({figure(verdict.value)}, was {figure(verdict.baseline or 0.0)})"
    text = figure(verdict.value, limit)
    if verdict.low is not None and verdict.high is not None:
        text += f" [{figure(verdict.low, limit)}, {figure(verdict.high, limit)}]"
    return text


def chance(verdict: Verdict) -> str:
    """Name the chance levels that stand beside a verdict; empty where there are none."""
    levels = (
        ("uniform", verdict.chance),
        ("permuted", verdict.chance_permuted),
        ("hashed", verdict.chance_hash),
    )
    return ", ".join(f"{name} {figure(level)}" for name, level in levels if level is not None)


def scope_of(verdict: Verdict) -> str:
    """Say where it was measured: model, layer, rule, module, seed, and what it is the worst of."""
    return verdict.where + (f"; {verdict.claim}" if verdict.claim else "")


def sentence(verdict: Verdict) -> str:
    """Give the verdict in one sentence, with what to do about it."""
    return f"{scope_of(verdict)}: {verdict.why}." + (f" {verdict.advice}" if verdict.advice else "")


def chance_words(result: GateResult) -> str:
    """Say what chance is, of experts and domains where nothing else was checked."""
    traces = result.checked and all(is_trace(each.model) for each in result.checked)
    kinds = dict.fromkeys(each.model.data.get("task") for each in result.checked)
    said = [OF_KIND[str(kind)] for kind in kinds if kind in OF_KIND]
    if len(said) < len(kinds) or not said:
        said.insert(0, IN_DOMAINS if traces else CHANCE_WORDS)
    return " ".join(said)


def in_short(card: Scorecard, model: ModelRecord) -> str:
    """Say in one line what was measured of a model."""
    facts = dict(measured(card, model))
    parts = [f"{front}{facts[term]}" for term, front in SHORT_TERMS.items() if term in facts]
    parts.insert(-2, f"{model.prior} prior, {model.view} view")
    return f"{model.title}: {' · '.join(parts)}"


# --- terminal ------------------------------------------------------------------------------------


def render_gate(result: GateResult) -> list[RenderableType]:
    """Return everything that the terminal shows of a run of the gate, in order."""
    shown: list[RenderableType] = [part for each in result.verdicts for part in _verdict(each)]
    shown.append(Text(""))
    shown += [Prose(in_short(each.card, each.model), dim=True) for each in result.checked]
    if result.policy.source:
        shown.append(Text(f"Policy: {result.policy.source}", style="dim"))
    shown.append(Prose(chance_words(result), dim=True))
    shown.append(Text(headline(result), style=STYLES[result.outcome]))
    return shown


def _verdict(verdict: Verdict) -> list[RenderableType]:
    """Return what was required, of what, what was measured beside chance, and why it is not met.

    Why is said of all that did not pass, and of what passed by a narrow margin.
    """
    head = f"{verdict.outcome} {verdict.requirement}"
    style = STYLES[verdict.outcome]
    permuted = verdict.chance_permuted
    levels = (
        ("chance", verdict.chance if permuted is None else permuted),
        ("hashed routing", verdict.chance_hash),
    )
    beside = [f"{name} {figure(level)}" for name, level in levels if level is not None]
    measured_ = " · ".join((f"measured {measurement(verdict)}", *beside))
    shown: list[RenderableType] = [
        Prose(head, head=len(head), style=style, indent=INDENT),
        _indented(scope_of(verdict)),
        _indented(measured_),
    ]
    if verdict.outcome != "pass" or verdict.narrow:
        advice = f" {verdict.advice}" if verdict.advice else ""
        shown.append(_indented(f"{verdict.why[:1].upper()}{verdict.why[1:]}.{advice}"))
    return shown


def _indented(text: str) -> Prose:
    return Prose(f"{INDENT}{visible(text)}", indent=INDENT)
