"""What a reader acts on: did it specialise, on what does that rest, and what to do next?

The first lines of every report, whatever its format, as plain text.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from modeval.report import removal, routing_views, scorecard_views
from modeval.report.routing_views import Floats, Taste
from modeval.report.scorecard_views import ModelView
from modeval.report.words import (
    Vocabulary,
    count,
    interval,
    is_trace,
    number,
    percent,
    vocabulary,
)
from modeval.score.ablation import Ablation
from modeval.score.chosen import layer_findings
from modeval.score.frames import FOUND
from modeval.score.scorecard import ModelRecord, Score

MEANINGS = {
    "specialist": (FOUND["specialist"], "each {rule} has {modules} of its own"),
    "partial": (
        FOUND["partial"],
        "the {rule} decides in part which {modules} are used, but {rules} share them",
    ),
    "faint": (
        FOUND["faint"],
        "which {modules} are used depends on the {rule} more than chance would, but very little",
    ),
    "unproven": (
        FOUND["unproven"],
        "{modules} seem to follow the {rule}, but no more than when labels are permuted",
    ),
    "untested": (
        FOUND["untested"],
        "{modules} seem to follow the {rule}, but nothing tells what chance would do",
    ),
    "blind": (
        FOUND["blind"],
        "routing does not follow the {rule}; the work is shared out over many {modules}",
    ),
    "collapsed": (FOUND["collapsed"], "few {modules} do nearly all the work, whatever the {rule}"),
    "unlabelled": (
        FOUND["unlabelled"],
        "many {modules} share the work; without labels no more can be told",
    ),
}
"""For each finding a verdict for people, and what it means."""
UNLABELLED_COLLAPSE = "few {modules} do nearly all the work"
GRAVE = (
    "collapsed",
    "unproven",
    "untested",
    "blind",
    "faint",
    "unlabelled",
    "partial",
    "specialist",
)
"""Findings, what most needs an answer first."""
DIFFER = (
    "Do not call these {modules} specialists before you have held them against the model before "
    "training, recorded on the same texts: modeval compare BEFORE.json {source}"
)
TRAIN_ON = (
    "Do not call these {modules} specialists. Train longer (modeval train --out RUN --resume "
    "--steps N), and see in which seeds it helps: modeval plot ranking {source} --out ranking.pdf"
)
LOOSEN = "If {modules} should specialise, loosen what keeps the load even: the balance loss, say."
MEND = (
    "Mend the load first, for instance with a stronger balance loss or a lower rate for the "
    "router; how far it specialises can be told afterwards."
)
LABEL = "Score text with labels to see who does what: modeval score MODEL --data TEXT"
CHECK = (
    "Check that it matters, since {modules} can be chosen often and do little: switch them off and "
    "watch the loss (modeval ablate MODEL --data TEXT --alone)."
)
FLATTENED = (
    "The load is nearly even ({share} in effective use): a balance loss over small batches may "
    "have flattened what {modules} could specialise to. An earlier checkpoint, or one balanced "
    "over larger batches, would show it."
)
NOT_FLATTENED = (
    "The load is uneven ({share} in effective use), so a balance loss has hardly flattened what "
    "{modules} could specialise to."
)
KEEP = "Keep it so: modeval gate {source} --no-policy --min {metric}={floor}"
MORE_SAMPLES = "Score several documents or samples of each {rule}, so that labels can be permuted."
ADVICE: dict[str, tuple[str, ...]] = {
    "specialist": (CHECK, KEEP),
    "partial": ("See which {rules} share {modules}: modeval report {source}", KEEP),
    "faint": (DIFFER,),
    "unproven": ("Score more labelled documents: chance shrinks with their number.",),
    "untested": (MORE_SAMPLES,),
    "blind": (LOOSEN,),
    "collapsed": (MEND,),
    "unlabelled": (LABEL,),
}
"""For each finding what to do next."""
IN_COHORTS = {
    "specialist": (KEEP,),
    "faint": (TRAIN_ON,),
    "blind": (TRAIN_ON,),
    "unproven": ("Train more seeds: modeval train --out RUN --resume --seeds N",),
}
"""What it is in place of that for models that modeval trained, whose modules were switched off."""
UNEVEN = 0.9
"""Effective share of the modules of a cohort below which its load is worth a sentence."""
MANY_RULES = 12
"""Rules up to which each has a line that names its modules."""
FEW_RULES = 4
"""Rules up to which a line names what goes to the module of each."""
MUCH = 3
"""Times its share elsewhere from which a module plainly belongs to a rule."""
FLAT = 0.1
"""Share of what could be known of the rule below which a layer is called flat, as in findings."""
UNROUTED = 0.001
"""Share of the choices that no module took from which on it is said."""
DEAD = 0.1
"""Share of an even share below which a module is dead, as in dead_fraction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Brief:
    """The answer to a reader's three questions.

    Attributes:
        findings: a word for each layer or each seed, keys of :data:`MEANINGS`.
        verdict: what came out, in a few words.
        meaning: what that means.
        figures: the numbers it rests on, chance beside them.
        advice: what to do next.
    """

    findings: tuple[str, ...]
    verdict: str
    meaning: str
    figures: str
    advice: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """All of it but the advice."""
        return " ".join(filter(None, (f"{self.verdict}: {self.meaning}.", self.figures)))

    @property
    def gravest(self) -> str:
        """The finding that most needs an answer; empty where there is none."""
        return next((word for word in GRAVE if word in self.findings), "")


def brief(view: ModelView) -> Brief:
    """Say what the routing of a model does, what that rests on, and what to do."""
    record = view.record
    words = vocabulary(record)
    found = findings(view)
    if removed := view.own.ablations:
        return _removed(removed[0])
    if record.data.get("task") == "agreement":
        return _alike(view)
    if record.modules == 1 or not found:
        single = record.modules == 1
        return Brief(
            findings=(),
            verdict="No routing" if single else "Not known",
            meaning=(
                "there is a single module, which the others are compared with"
                if single
                else "nothing could be scored of its routing"
            ),
            figures=_loss(view),
            advice=(),
        )
    counted = sorted(Counter(found).items(), key=lambda pair: (-pair[1], GRAVE.index(pair[0])))
    told = _told(view, words)
    return Brief(
        findings=found,
        verdict=_verdict(record, counted, len(found)) + _doubts(record),
        meaning=_meaning(record, counted[0][0], words),
        figures=" ".join(filter(None, (told, _load(view, words)))),
        advice=_advice(view, next(word for word in GRAVE if word in found), words),
    )


def _removed(found: Ablation) -> Brief:
    """Say what became of a model without some of its modules."""
    lines = [*(removal.safe(found) if found.kept else ()), *removal.foreseen(found)]
    return Brief(
        findings=(),
        verdict=removal.verdict(found),
        meaning=removal.headline(found),
        figures=" ".join((*lines, *removal.unused(found))),
        advice=(),
    )


def _alike(view: ModelView) -> Brief:
    """Say how alike two builds of one model route."""
    shared, moved = (
        scorecard_views.worst(view, name) or scorecard_views.overall(view, name)
        for name in ("agreement_shared", "agreement_different")
    )
    told = [] if moved is None else [f"{interval(moved)} of the tokens differ somewhere"]
    note = ""
    if shared is not None:
        level, note = shared.chance_permuted, shared.note
        by_chance = "" if level is None else f" (chance {number(level)})"
        told.insert(
            0, f"in the worst layer they share {interval(shared)} of the choices{by_chance}"
        )
    return Brief(
        findings=(),
        verdict="Two builds",
        meaning="; ".join(told),
        figures=note,
        advice=(),
    )


def findings(view: ModelView) -> tuple[str, ...]:
    """Return the finding of each layer, or of each seed: keys of :data:`MEANINGS`."""
    kept = layer_findings(view.card, view.record)
    return tuple(str(each.word) for each in kept) if kept else _judged_again(view)


# --- what came out -------------------------------------------------------------------------------


def _verdict(record: ModelRecord, counted: Sequence[tuple[str, int]], whole: int) -> str:
    """Give the verdicts, the most frequent first: of how many layers or seeds."""
    noun = "layer" if is_trace(record) or len(record.layers) > 1 else "seed"
    seeds = sum(member.status == "ok" for member in record.members)
    of_seeds = f" of {count(seeds, 'seed')}" if noun == "layer" and seeds > 1 else ""
    (word, times), *others = counted
    title = MEANINGS[word][0]
    if not others:
        where = {1: "", 2: f" in both {noun}s"}.get(whole, f" in all {count(whole, noun)}")
        return title + where + of_seeds
    rest = ", ".join(f"{MEANINGS[other][0].lower()} in {times}" for other, times in others)
    return f"{title} in {times} of {count(whole, noun)}{of_seeds}, {rest}"


def _doubts(record: ModelRecord) -> str:
    """Name what was wrong with the recording, beside a verdict that it may have made."""
    kinds = dict.fromkeys(warning.kind for warning in record.warnings)
    return f", doubtful ({', '.join(kinds)})" if kinds else ""


def _meaning(record: ModelRecord, word: str, words: Vocabulary) -> str:
    text = MEANINGS[word][1]
    if word == "collapsed" and is_trace(record) and len(record.rules) < 2:  # noqa: PLR2004
        text = UNLABELLED_COLLAPSE  # of labels nothing is known
    return _filled(text, words)


def _filled(text: str, words: Vocabulary, **further: str) -> str:
    names = {"module": words.module, "modules": words.modules}
    return text.format(**names, rule=words.rule, rules=words.rules, **further)


# --- the numbers ---------------------------------------------------------------------------------


def _told(view: ModelView, words: Vocabulary) -> str:
    """Give the figure that decides, chance beside it; empty without labels."""
    told = scorecard_views.overall(view, "homogeneity")
    if told is not None and told.value is not None and is_trace(view.record):
        ends = "" if told.low is None else f" {_shares(told.low, told.high)}"
        beside = _beside(told)
        return (
            f"The {words.module} tells {percent(told.value)}{ends} of what could be known of the "
            f"{words.rule}{beside}."
        )
    score = scorecard_views.overall(view, "alignment_score")
    if score is None or score.value is None or scorecard_views.rule_count(view.record) < 2:  # noqa: PLR2004
        return ""
    parts = [_level("uniform routing", score.chance), _level("random maps", score.chance_hash)]
    beside = ", ".join(filter(None, parts))
    return f"Alignment score {interval(score)}" + (f" ({beside})." if beside else ".")


def _shares(low: float, high: float | None) -> str:
    return f"[{percent(low)}, {percent(high if high is not None else low)}]"


def _beside(score: Score) -> str:
    if score.chance_permuted is None:
        return ""
    return f", permuted labels {percent(score.chance_permuted)}"


def _level(name: str, value: float | None) -> str:
    return "" if value is None else f"{name} {number(value)}"


def _load(view: ModelView, words: Vocabulary) -> str:
    """Say how evenly the work is shared, and which modules are dead."""
    used = scorecard_views.overall(view, "effective_share")
    if used is None or used.value is None:
        return ""
    dead = _idle(view)
    text = f"{percent(used.value)} of the {words.modules} are in effective use"
    if not is_trace(view.record):
        return f"{text}." if used.value < UNEVEN else ""
    state = f"; dead: {_listed(dead, words.module)}." if dead else ", none is dead."
    return text + state + _dropped(view, words)


def _dropped(view: ModelView, words: Vocabulary) -> str:
    """Say how much of the routing did not take place, where that is not nothing."""
    score = scorecard_views.overall(view, "unrouted_share")
    if score is None or score.value is None or score.value < UNROUTED:
        return ""
    return f" {percent(score.value)} of the choices went to no {words.module}."


def _idle(view: ModelView) -> dict[str, list[tuple[int, float | None]]]:
    """Return dead modules by layer, and as how many tokens they get weight; unknown for cohorts."""
    labels, _ = scorecard_views.layer_names(view.record.layers)
    layers: list[tuple[str, int | None]] = [("", None)]
    if view.layered:
        layers = [(label, layer) for layer, label in enumerate(labels)]
    found: dict[str, list[tuple[int, float | None]]] = {}
    for label, layer in layers:
        shares = routing_views.shares(view, layer)
        if len(shares) == 1:
            used = view.card.find(view.record.id, "effective_share", layer=layer)
            tokens = used.samples if used is not None and is_trace(view.record) else None
            idle = [
                (n, None if tokens is None else float(share * tokens))
                for n, share in enumerate(shares[0])
                if share * shares.shape[1] < DEAD
            ]
            if idle:
                found[label] = idle
    return found


def _listed(dead: dict[str, list[tuple[int, float | None]]], module: str, most: int = 4) -> str:
    parts = []
    for label, numbers in list(dead.items())[:most]:
        more = f" and {len(numbers) - most} more" if len(numbers) > most else ""
        name = module if len(numbers) == 1 else f"{module}s"
        where = f" in layer {label}" if label else ""
        parts.append(f"{name} {', '.join(map(_with_tokens, numbers[:most]))}{more}{where}")
    rest = f"; some in {len(dead) - most} more layers" if len(dead) > most else ""
    return "; ".join(parts) + rest


def _with_tokens(idle: tuple[int, float | None]) -> str:
    """Write a module, and the weight that it got as a number of tokens.

    >>> _with_tokens((1, 0.0)), _with_tokens((3, 12.4)), _with_tokens((2, None))
    ('1 (no token)', '3 (12 tokens)', '2')
    """
    number_, tokens = idle
    if tokens is None:
        return str(number_)
    if tokens == 0:
        return f"{number_} (no token)"
    return f"{number_} ({count(max(round(tokens), 1), 'token')})"


def _loss(view: ModelView) -> str:
    score = scorecard_views.overall(view, "in_distribution_loss")
    return "" if score is None or score.value is None else f"Its loss is {interval(score)}."


# --- what to do ----------------------------------------------------------------------------------


def _advice(view: ModelView, word: str, words: Vocabulary) -> tuple[str, ...]:
    source = view.source or "SCORECARD"
    flattened = _flattened(view, words)
    score = scorecard_views.overall(view, "alignment_score")
    floor = ""
    if score is not None and score.value is not None:
        low = score.value if score.low is None else score.low
        floor = f"{math.floor(low * 100) / 100:g}"
    cohort = not is_trace(view.record)
    told = tuple(
        _filled(text, words, source=source, metric="alignment_score", floor=floor)
        for text in (IN_COHORTS if cohort else {}).get(word, ADVICE[word])
        if floor or "{floor}" not in text
    )
    return (*told, flattened) if flattened else told


def _flattened(view: ModelView, words: Vocabulary) -> str:
    """Say whether balancing seems to have flattened specialisation, and what would make it sure."""
    used = scorecard_views.overall(view, "effective_share")
    told = scorecard_views.overall(view, "homogeneity")
    few_rules = scorecard_views.rule_count(view.record) < 2  # noqa: PLR2004
    if not is_trace(view.record) or few_rules or used is None or told is None:
        return ""
    if used.value is None or told.value is None or told.value >= FLAT:
        return ""
    return _filled(
        FLATTENED if used.value >= UNEVEN else NOT_FLATTENED, words, share=percent(used.value)
    )


# --- scorecards of version 0.1 -------------------------------------------------------------------

SPECIALIST, BLIND, BALANCED, SIGNIFICANT = 0.75, 0.1, 0.5, 0.05
"""Bounds of version 0.1, whose scorecards of cohorts name no findings."""


def _judged_again(view: ModelView) -> tuple[str, ...]:
    """Return the findings that version 0.1 took from activation matrices and p values."""
    if view.card.ablations:
        return ()
    activations = [each for each in routing_views.activations(view) if each.prior]
    tested = [
        view.card.find(view.record.id, "inverse_mutual_information", each.seed)
        for each in activations
    ]
    p = [score.p_value for score in tested if score is not None and score.p_value is not None]
    known = len(p) == len(activations)
    ranks = sorted(range(len(p)), key=p.__getitem__)
    real: dict[int, bool] = {}
    for rank, index in enumerate(ranks):  # Holm: once one is not, none after it is
        sure = (len(p) - rank) * p[index] <= SIGNIFICANT
        real[index] = sure and all(real.values())
    return tuple(
        _word_of(np.array(each.prior), np.array(each.matrix), real[index] if known else None)
        for index, each in enumerate(activations)
    )


def _word_of(prior: Floats, matrix: Floats, real: bool | None) -> str:  # noqa: FBT001 - three states
    rules, modules = matrix.shape
    usage = prior @ matrix
    entropy = routing_views.entropy(usage)
    most = max(math.log(min(rules, modules)), 1e-300)
    told = float(entropy - prior @ routing_views.entropy(matrix)) / most
    spread = (math.exp(float(entropy)) - 1) / max(modules - 1, 1)
    if told >= BLIND:
        word = "specialist" if told >= SPECIALIST else "partial"
        return "unproven" if real is False else word
    if spread < BALANCED:
        return "collapsed"
    return "faint" if real else "blind"


# --- who does what -------------------------------------------------------------------------------


def taste_words(taste: Taste, words: Vocabulary) -> str:
    """Write which modules get most of a rule.

    >>> from modeval.report.words import EXPERTS
    >>> taste = Taste(rule="code", modules=(4, 7), shares=(0.25, 0.25), even=False)
    >>> taste_words(taste, EXPERTS)
    'experts 4 (25 %), 7 (25 %)'
    """
    listed = ", ".join(
        f"{module} ({percent(share)})"
        for module, share in zip(taste.modules, taste.shares, strict=True)
    )
    name = words.module if len(taste.modules) == 1 else words.modules
    text = f"spread over many; most to {name} {listed}" if taste.even else f"{name} {listed}"
    clear = taste.own in taste.modules[:1] and taste.elsewhere * MUCH < taste.own_share
    if taste.own is None or clear:
        return text
    return (
        f"{text}; most typical: {taste.own} ({percent(taste.own_share)}, "
        f"elsewhere {percent(taste.elsewhere)})"
    )


def own_shares(view: ModelView) -> str:
    """Say what of each rule goes to the module of its own, where seeds are several.

    Numbers of modules mean nothing across seeds; empty where there is nothing to say.
    """
    words = vocabulary(view.record)
    index = routing_views.most_telling(view)
    found = routing_views.activations(view, index)
    if view.record.modules == 1 or not found or len(found[0].matrix) < 2:  # noqa: PLR2004
        return ""
    mean = routing_views.mean_map(found)
    names = routing_views.rule_names(view.record, len(mean.matrix))
    got = {
        name: float(row[column])
        for name, row, column in zip(names, mean.matrix, mean.matched, strict=True)
        if column >= 0
    }
    if not got:
        return ""
    shares, even = list(got.values()), percent(1 / mean.matrix.shape[1])
    names_, _ = scorecard_views.layer_names(view.record.layers)
    where = "" if index is None else f" in layer {names_[index]}"
    ends = dict.fromkeys((percent(min(shares)), percent(max(shares))))
    if len(got) > FEW_RULES or len(ends) == 1:
        who = f"Own {words.module} of a {words.rule}{where}"
        return f"{who}: {' to '.join(ends)} of it (even: {even})."
    listed = ", ".join(f"{name} {percent(share)}" for name, share in got.items())
    return f"Own {words.module} of each {words.rule}{where}: {listed} (even: {even})."


def tastes_in_words(view: ModelView) -> tuple[str, list[tuple[str, str]]]:
    """Return a heading, and for each rule which modules get most of it, where most is told."""
    words = vocabulary(view.record)
    index = routing_views.most_telling(view)
    found = routing_views.tastes(view, index)
    if not found or len(found) > MANY_RULES:
        return "", []
    names, _ = scorecard_views.layer_names(view.record.layers)
    where = "" if index is None else f" in layer {names[index]}, where they tell most"
    heading = f"{words.modules.capitalize()} of each {words.rule}{where}:"
    return heading, [(taste.rule, taste_words(taste, words)) for taste in found]
