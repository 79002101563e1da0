"""Scorecards in words: what was measured, what came out, and what cannot be claimed.

Every report says these, whatever its format. Each function takes a scorecard and one of its models
and returns plain text.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from modeval.metrics.table import METRICS, metric_of, shown_in
from modeval.score.inference.seeds import unseen_share
from modeval.score.scorecard import ModelRecord, Score, Scorecard

SAMPLES_PER_CELL = 50
"""Samples for each pair of rule and module below which information is biased upwards."""
"""Seeds below which a bootstrap interval is narrower than it says."""
SIGNIFICANT = 0.05
TELLING = tuple(
    name for name in reversed(shown_in("glance")) if name in METRICS and METRICS[name].labels
)
"""Scores at a glance that tell of rules."""

WITHIN_NUMBERS = re.compile(r" (?=%)|(?<=,) (?=[-\d.e %\xa0]+\])|(?<=\d) (?=\()")

CHANCE = {
    "chance": "uniform routing: every sample spread evenly over the modules",
    "chance_hash": "hashed routing: each rule sent to a module drawn at random (mean of all maps)",
    "chance_permuted": "permuted labels: the same routing, its labels exchanged at random between "
    "documents, or blocks of samples (the middle 95 %)",
}
"""What stands beside a score, by its field."""
OWN_CHANCE = (
    "chance: what the same score gives by accident, such as removing modules at random; what each "
    "score means says how"
)
"""What stands beside a score of answers or of single tokens."""


KINDS = {"ablation": "Modules removed", "agreement": "Two builds, token by token"}
"""What a language model's scorecard is of, by the task that it names; routing otherwise."""


def is_trace(record: ModelRecord) -> bool:
    """Tell whether a model was scored from recorded or imported routing."""
    return record.origin == "trace"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a field calls the things that are routed to, and what routing may follow.

    Attributes:
        module: one thing that is routed to.
        rule: one component of the data.
    """

    module: str
    rule: str

    @property
    def modules(self) -> str:
        """Several of them."""
        return f"{self.module}s"

    @property
    def a_module(self) -> str:
        """One of them, with its article."""
        return f"an {self.module}" if self.module[0] in "aeiou" else f"a {self.module}"

    def spoken(self, text: str) -> str:
        """Return a text about rules and modules in these words.

        >>> EXPERTS.spoken("Dead modules: a module that no rule needs")
        'Dead experts: an expert that no domain needs'
        """
        if self == MODULES:
            return text
        text = text.replace("a module", self.a_module).replace("module", self.module)
        return text.replace("rule", self.rule)

    @property
    def rules(self) -> str:
        """Several of them."""
        return f"{self.rule}s"


EXPERTS = Vocabulary("expert", "domain")
MODULES = Vocabulary("module", "rule")


def vocabulary(record: ModelRecord) -> Vocabulary:
    """Return experts and domains for language models, modules and rules for the study of both."""
    return EXPERTS if is_trace(record) else MODULES


def metric_title(name: str) -> str:
    """Return the title of a metric or loss.

    >>> metric_title("collapse_worst"), metric_title("loss_at_length_30_x2")
    ('Collapse (worst)', 'Loss at length 30, inputs x2')
    """
    row = metric_of(name)
    return name.replace("_", " ").capitalize() if row is None else row.title


def title_for(record: ModelRecord, name: str) -> str:
    """Return the title of a metric in the words of the field that a model is from."""
    return vocabulary(record).spoken(metric_title(name))


def number(value: float | None) -> str:
    """Write a number with three digits that matter; every report writes numbers so.

    >>> [number(value) for value in (0.25, 0.00123, 0.0000123, 12.34, 1234.5, 0.0, 1.0, None)]
    ['0.250', '0.0012', '1.2e-5', '12.3', '1,234', '0', '1', 'unknown']
    """
    if value is None:
        return "unknown"
    size = abs(value)
    if size < 1e-12 or abs(size - 1) < 1e-9:  # noqa: PLR2004 - 0 and 1 but for rounding
        return f"{value:.0f}".replace("-0", "0")
    if size < 1e-4:  # noqa: PLR2004 - zeros that nobody counts
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa}e{int(exponent)}"
    if size < 0.01:  # noqa: PLR2004 - three places would lose digits
        return f"{value:.4f}"
    if size < 10:  # noqa: PLR2004
        return f"{value:.3f}" if size < 1 else f"{value:.2f}"
    return f"{value:.1f}" if size < 100 else f"{value:,.0f}"  # noqa: PLR2004


def percent(share: float) -> str:
    """Write a share of a whole.

    >>> percent(0.254), percent(0.0382), percent(0.0), percent(1.0)
    ('25 %', '3.8 %', '0 %', '100 %')
    """
    digits = 1 if 0 < abs(share) < 0.0995 else 0  # noqa: PLR2004 - two digits that matter
    return f"{share:.{digits}%}".replace("%", " %")


def interval(score: Score) -> str:
    """Write a value with its interval, where it has one."""
    ends = span(score.low, score.high)
    return f"{number(score.value)} {ends}" if ends else number(score.value)


def span(low: float | None, high: float | None) -> str:
    """Write an interval or a range; every report writes them so.

    >>> span(0.1, 0.25), span(None, None)
    ('[0.100, 0.250]', '')
    """
    return "" if low is None or high is None else f"[{number(low)}, {number(high)}]"


def whole(text: str) -> str:
    """Return text with spaces that do not break where a number, interval or share would.

    >>> whole("3.8 % [3.2 %, 4.5 %] of it").count("\N{NO-BREAK SPACE}")
    4
    """
    return WITHIN_NUMBERS.sub("\N{NO-BREAK SPACE}", text)


def count(amount: int, noun: str) -> str:
    """Write a number with its noun.

    >>> count(1, "seed"), count(12_000, "token")
    ('1 seed', '12,000 tokens')
    """
    return f"{amount:,} {noun}" + "s" * (amount != 1)


OF_ROUTING = {"joint", "counts", "sums", "table", "skills", "positions"}
"""What scores need whose first chance level is that of uniform routing."""


def chance_name(metric: str) -> str:
    """Return what the first chance level of a score is: uniform routing, where routing is scored.

    What is scored by answers or by single tokens has a chance of its own, such as keep-sets drawn
    at random; the meaning of the score says which.

    >>> chance_name("alignment_score"), chance_name("safe_share")
    ('uniform routing', 'chance')
    """
    row = metric_of(metric)
    return "uniform routing" if row is None or row.needs in OF_ROUTING else "chance"


def beside_chance(score: Score) -> str:
    """Name the chance levels of a score; empty for losses."""
    parts = []
    if score.null_low is not None and score.null_high is not None:
        parts.append(f"permuted labels {span(score.null_low, score.null_high)}")
    if score.chance is not None:
        parts.append(f"{chance_name(score.metric)} {number(score.chance)}")
    if score.chance_hash is not None:
        parts.append(f"hashed routing {number(score.chance_hash)}")
    return ", ".join(parts)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


# --- what was measured ---------------------------------------------------------------------------


def task(record: ModelRecord) -> str:
    """Name what a model was measured on in a few words."""
    data = record.data
    if is_trace(record):
        several = len(record.rules) > 1
        rules = count(len(record.rules), vocabulary(record).rule) if several else "no labels"
        return f"{KINDS.get(str(data.get('task')), 'Recorded routing')} · {rules}"
    kind = {
        "binary": f"{data.get('operation')} operations on two numbers",
        "sets": f"search ({data.get('search')}) among {data.get('length')} positions",
        "series": f"switching dynamics, {data.get('dimension')} states, {data.get('length')} steps",
    }.get(str(data.get("task")), str(data.get("task")))
    return (
        f"{count(int(data['rules']), 'rule')} · {kind} · {data['objective'] or 'objective unknown'}"
    )


def measured(card: Scorecard, record: ModelRecord) -> list[tuple[str, str]]:
    """List what was measured and how: pairs of a term and what is known of it."""
    facts = [("Task", task(record)), *(_of_trace(record) if is_trace(record) else _of_run(record))]
    said = vocabulary(record)
    facts += [
        (said.modules.capitalize(), _modules(record)),
        ("Samples", _samples(card, record)),
        (f"Prior of the {said.rules}", _prior(record)),
        ("What counts as routing", VIEWS[record.view]),
        ("Adaptation", ADAPTATIONS[record.adaptation].replace("rule", said.rule)),
        ("Intervals", _intervals(card, record)),
    ]
    if card.dataset is not None:
        facts.append(("Data folder", f"{card.dataset['folder']} ({card.dataset['digest']})"))
    reached = [m.precision for m in record.members if m.precision is not None]
    if reached:
        sure = f"±{number(max(reached))} for its least certain entry (95 %)"
        exact = "exact: the router sees the rule alone"
        facts.append(("Certainty of A", sure if max(reached) > 0 else exact))
    facts += [
        ("Read from", "; ".join(dict.fromkeys(member.source for member in record.members))),
        ("Digest", record.shown_digest),
        ("Scored by", f"modeval {card.modeval}, format {card.format}"),
    ]
    return [(term, text) for term, text in facts if text]


VIEWS = {
    "weight": "routing weights",
    "assignment": "choices: each chosen module counts the same",
}
ADAPTATIONS = {
    "reweight": "shares under shifted rules follow from A, as if inputs do not depend on the rule",
    "regenerate": "measured on samples drawn under each shift",
    "none": "",
}


def _prior(record: ModelRecord) -> str:
    if record.prior == "uniform":
        return (
            f"uniform: each {vocabulary(record).rule} counts the same, however many samples it has"
        )
    return f"empirical: each {vocabulary(record).rule} counts by its share of the samples"


def _modules(record: ModelRecord) -> str:
    sizes = sorted(set(record.layer_modules)) or [record.modules]
    said = vocabulary(record)
    text = f"{sizes[0]} to {sizes[-1]} {said.modules}"
    text = count(sizes[0], said.module) if len(sizes) == 1 else text
    return text + (f" in each of {len(record.layers)} layers" if len(record.layers) > 1 else "")


def _samples(card: Scorecard, record: ModelRecord) -> str:
    own = [
        score.samples
        for score in card.scores_of(record.id)
        if score.samples is not None and score.metric in METRICS
    ]
    if not own:
        return ""
    seeds = sum(member.status == "ok" for member in record.members)
    what = "tokens" if is_trace(record) else "samples"
    over = f" over {seeds} seeds" if seeds > 1 else ""
    return f"{max(own):,} {what}{over} for the routing scores"


def _intervals(card: Scorecard, record: ModelRecord) -> str:
    level = f"{card.level:.0%}".replace("%", " %")
    if is_trace(record):
        return (
            f"{level}, around the corrected value: every document is left out once (tokens of one "
            "document depend on each other)"
        )
    if len(record.members) == 1:
        return "none: one seed"
    tasks = len({member.seed[0] for member in record.members if member.seed is not None})
    if tasks < 2:  # noqa: PLR2004 - one task says nothing of others
        return f"{level}, Student's t over seeds of one task: about that task alone"
    unseen = f"{100 * unseen_share(tasks):.0f} %"
    return (
        f"{level}, Student's t over the means of {tasks} tasks: about tasks like these; a kind of "
        f"task that none of them is may be up to {unseen} of all"
    )


def _of_run(record: ModelRecord) -> list[tuple[str, str]]:
    good = sum(member.status == "ok" for member in record.members)
    seeds = count(len(record.members), "seed")
    failed = f", {len(record.members) - good} of them failed" if good < len(record.members) else ""
    origin = {
        "run": "run of modeval train",
        "module": "module of the user's, in memory",
        "modarch": "checkpoint of the reference implementation",
        "matrix": "recorded matrix of the reference implementation",
    }[record.origin]
    parts = ("scorer", "encoder", "width", "heads", "match")
    model = ", ".join(f"{name} {record.model[name]}" for name in parts if name in record.model)
    return [
        ("Origin", origin),
        ("Model", model),
        ("Parameters", _parameters(record)),
        ("Seeds", seeds + failed),
        ("Checkpoint", record.selection or ""),
    ]


def _parameters(record: ModelRecord) -> str:
    """Return how many there are, and how many of them a sample uses; nothing where unknown."""
    total, active = record.parameters, record.active_parameters
    if total is None:
        return ""
    if active is None or round(active) == total:
        return f"{total:,}"
    return f"{total:,}, of which a sample uses {active:,.0f}"


def _of_trace(record: ModelRecord) -> list[tuple[str, str]]:
    data, model = record.data, record.model
    choices = sorted({value for value in model.get("choices", ()) if value})
    scale = model.get("weight_scale")
    return [
        ("Model", str(model.get("model") or record.title)),
        ("Engine", str(model.get("engine") or "unknown")),
        ("Format", str(model.get("format") or "")),
        ("Domains", ", ".join(record.rules) or "no labels"),
        ("Documents", _whole(data.get("documents"))),
        ("Tokens", _whole(data.get("tokens"))),
        ("Phase", str(data.get("phase") or "unknown")),
        ("Capacity", _capacity(str(data.get("capacity") or "unknown"))),
        ("Padding", str(data.get("padding") or "unknown")),
        ("Chosen per token", " or ".join(map(str, choices)) or "unknown"),
        ("Scale of the weights", str(scale or "")),
        ("Shared modules, not scored", _whole(model.get("shared_modules"))),
        ("Weights digest", str(model.get("weights_digest") or "")),
        ("Layers", _layers(record)),
    ]


def _capacity(word: str) -> str:
    return f"choices taken {word} tokens are dropped" if word in ("before", "after") else word


def _layers(record: ModelRecord) -> str:
    names = record.layers
    if len(names) > 4:  # noqa: PLR2004 - a list that fits in a line
        return f"{len(names)}, from {names[0]} to {names[-1]}"
    return ", ".join(names)


def _whole(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else "unknown"


# --- what cannot be claimed ----------------------------------------------------------------------


def cautions(card: Scorecard, record: ModelRecord) -> list[str]:
    """List what the scores of a model do not show."""
    if record.modules == 1:
        return _about_seeds(record)
    found = [*_about_seeds(record), *_about_chance(card, record), *_about_samples(card, record)]
    found += _about_trace(record) if is_trace(record) else _about_task(card, record)
    if record.data.get("task") in KINDS:
        return found
    found.append(
        "Routing says where samples went, not what modules contribute: a module can be chosen "
        "often and matter little. Switching modules off would tell."
    )
    return found


def _about_seeds(record: ModelRecord) -> list[str]:
    if is_trace(record):
        return [
            "This is one trained model: nothing is said of other seeds of the same architecture."
        ]
    good = sum(member.status == "ok" for member in record.members)
    failed = len(record.members) - good
    found = []
    if good == 1:
        found.append(
            "One seed: there is no interval, and differences from other models may be the seed's."
        )
    if failed:
        found.append(
            f"{count(failed, 'seed')} failed and count in no mean: the rest may be the better ones."
        )
    return found


def _about_chance(card: Scorecard, record: ModelRecord) -> list[str]:
    """Name scores that are not clear of chance."""
    own = [score for score in card.scores_of(record.id) if score.seed is None]
    found = _about_permuted(record, own)
    whole = {score.metric: score for score in own if score.layer is None and score.over is None}
    level = [
        metric_title(name)
        for name in TELLING
        if name in whole and above_chance(whole[name]) is False
    ]
    by_chance = [
        metric_title(name)
        for name in TELLING
        if not is_trace(record) and name in whole and _significant(whole[name]) is False
    ]
    if by_chance:
        found.append(f"Not distinguishable from permuted labels: {', '.join(by_chance)}.")
    if level:
        found.append(f"Not distinguishable from uniform routing: {', '.join(level)}.")
    hashed = [
        metric_title(name)
        for name in TELLING
        if name in whole and _reaches_hash(whole[name]) is False
    ]
    if hashed:
        found.append(
            "No closer to one module for each rule than a random map from rules to modules is: "
            f"{', '.join(hashed)}."
        )
    return found


def _about_permuted(record: ModelRecord, own: Sequence[Score]) -> list[str]:
    if not is_trace(record):
        return []
    if len(record.rules) < 2:  # noqa: PLR2004 - one label tells nothing apart
        return ["There are no labels: load can be told, specialisation cannot."]
    tested = [score for score in own if score.metric == "alignment_score" and score.over is None]
    with_p = [score for score in tested if score.p_adjusted is not None]
    if not with_p:
        return ["Permuted labels were not tried: whether scores are above chance is not known."]
    weak = [score for score in with_p if (score.p_adjusted or 0.0) > SIGNIFICANT]
    if not weak:
        return []
    where = f"In {len(weak)} of {count(len(with_p), 'layer')} " if len(with_p) > 1 else ""
    text = "alignment is not distinguishable from that of permuted labels (corrected p > 0.05)."
    return [where + text if where else _capital(text)]


def p_of(score: Score) -> float | None:
    """Return the p value of a score against permuted labels, corrected where it was."""
    return score.p_value if score.p_adjusted is None else score.p_adjusted


def _significant(score: Score) -> bool | None:
    """Tell whether a score is more than permuted labels give; None: it was not tried."""
    p = p_of(score)
    return None if p is None else p <= SIGNIFICANT


def above_chance(score: Score) -> bool | None:
    """Tell whether an interval lies on the better side of uniform routing; None: unknown."""
    return _clear_of(score, score.chance)


def _reaches_hash(score: Score) -> bool | None:
    return _clear_of(score, score.chance_hash)


def _clear_of(score: Score, level: float | None) -> bool | None:
    if level is None or score.low is None or score.high is None or score.better is None:
        return None
    return score.low > level if score.better == "higher" else score.high < level


def _about_samples(card: Scorecard, record: ModelRecord) -> list[str]:
    rules = len(record.rules) if is_trace(record) else int(record.data["rules"])
    wanted = SAMPLES_PER_CELL * max(rules, 1) * record.modules
    own = [
        score
        for score in card.scores_of(record.id)
        if score.metric in METRICS and score.samples is not None
    ]
    marked = {score.layer: score.note for score in own if score.few_samples}
    if marked:
        where = f"In {count(len(marked), 'layer')}: " if len(marked) > 1 else ""
        first = next(iter(marked.values()))
        text = (
            f"{where}{first if where else _capital(first)}. Information and alignment look better "
            "than they are; compare them with permuted labels."
        )
        return [text]
    seeds = max(sum(member.status == "ok" for member in record.members), 1)
    fewest = min((score.samples or 0) // score.seeds for score in own) if own else None
    if fewest is None or fewest >= wanted or rules < 2:  # noqa: PLR2004
        return []
    each = " for each seed" if seeds > 1 else ""
    text = (
        f"Few samples: {fewest:,}{each}, where {count(rules, 'rule')} and "
        f"{count(record.modules, 'module')} need {wanted:,}. Information and alignment look "
        "better than they are."
    )
    return [text]


def _about_task(card: Scorecard, record: ModelRecord) -> list[str]:
    found = []
    data = record.data
    if data["task"] == "binary" and data["operation"] == "linear" and int(data["rules"]) > 2:  # noqa: PLR2004
        found.append(
            "All linear operations on two numbers are combinations of two: modules may share "
            "rules without loss, so low alignment alone is no failure."
        )
    gap, loss = (card.find(record.id, name) for name in ("hard_gap", "in_distribution_loss"))
    if gap and loss and gap.value is not None and loss.value and gap.value > loss.value:
        found.append(
            f"Sending each sample to its largest module only adds {number(gap.value)} to a loss of "
            f"{number(loss.value)}: the mixture matters, and the largest module alone misleads."
        )
    return found


def _about_trace(record: ModelRecord) -> list[str]:
    data = record.data
    found = []
    unknown = [name for name in ("phase", "padding", "capacity") if data.get(name) == "unknown"]
    if unknown:
        listed = " and ".join(unknown) if len(unknown) < 3 else ", ".join(unknown)  # noqa: PLR2004
        found.append(
            f"Unknown of the trace: {listed}. Numbers of traces that differ in these cannot be "
            "compared."
        )
    if data.get("phase") == "mixed":
        found.append("Prefill and decode are mixed: they can be routed differently.")
    if data.get("padding") == "included":
        found.append("Padding is among the tokens, and is routed as text that nobody wrote.")
    if data.get("labels_within_documents"):
        found.append(
            "Labels change within documents, so documents are no independent samples of a label."
        )
    if data.get("complete") is False:
        found.append("The recording stopped early: the trace holds what came before.")
    return found
