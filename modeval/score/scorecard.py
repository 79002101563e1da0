"""Scorecards: what was measured of models, with intervals and chance levels beside it.

The JSON form is this module's types, field by field; ``stored/scorecard.schema.json`` describes it:

    format, modeval            version of the form, version of the program
    precision, level           what was asked of A; level of the intervals
    dataset, notes             the folder that was scored on, if any; what was left out, and why
    models                     one for each cohort or trace: what it is, where it was read
    scores                     one for each model, metric, layer and seed; seed null is over seeds
    findings                   one for each model, layer and seed: a word for how it routes
    profiles                   one for each model, metric, layer and seed that has a number for each
                               rule or each module
    activations                A for each model, layer and seed
    coactivations              modules chosen together, for each model, layer and seed
    courses                    losses by phase of training and rule, for each model and seed
    effects                    what switching modules off does, for each model, layer and seed
    removals                   loss while modules are removed, likewise
    ablations                  what removing modules of a language model did

No number in it is NaN or infinite: what could not be computed is null, and a note says why.
:mod:`modeval.score.stored` reads it and checks it as a whole.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import chain
from typing import Any, Literal

from modeval.metrics.losses import LOSSES
from modeval.score import frames
from modeval.score.ablation import Ablation
from modeval.trace.trace import Warned

FORMAT = 1
OF_MODELS = (
    *("scores", "findings", "profiles", "activations"),
    *("coactivations", "courses", "effects", "removals", "ablations"),
)
"""Lists of a scorecard whose items each belong to a model."""
LEVEL = 0.95
Better = Literal["lower", "higher"]
Over = Literal["mean", "worst"]
Origin = Literal["run", "module", "modarch", "matrix", "trace"]
Seed = tuple[int, int]

LOSS_TITLES = {name: row.title for name, row in LOSSES.items()}

Word = Literal[
    "specialist", "partial", "faint", "unproven", "untested", "blind", "collapsed", "unlabelled"
]

FINDINGS: dict[str, str] = {
    "specialist": "modules tell the rules apart",
    "partial": "modules tell the rules apart in part",
    "faint": "modules tell little of the rules, yet more than chance would",
    "unproven": "modules seem to tell the rules apart, but so they would by chance",
    "untested": "what modules tell of the rules could not be held against permuted labels",
    "blind": "modules tell nothing of the rules; the work is shared out over many",
    "collapsed": "modules tell nothing of the rules, and few do all the work",
    "unlabelled": "the work is shared out over many modules; without labels no more can be told",
}
"""Words for the routing of a layer, and what they mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One number.

    Attributes:
        model: ``id`` of its model.
        metric: what was measured.
        layer: number of the layer in ``layers`` of its model; null where a model has one, and for
            the mean over layers.
        over: null for one layer; ``mean`` over layers; ``worst`` for the layer, named by ``layer``,
            where the value is worst.
        seed: pair of task seed and model seed; null for the mean over seeds, and for a trace.
        value: null where it could not be computed. Information measured from few documents is
            larger than it is; where that could be told, the value is corrected for it.
        plug_in: what the formula gives as it stands, where ``value`` is corrected; else null.
        low: lower end of the interval: over seeds for cohorts (null for single seeds), over
            documents for traces.
        high: upper end; likewise.
        error: standard error of the value from the samples that were drawn, the seed given; null
            where it is not known.
        chance: value of uniform routing; of removed modules mean of random sets; null for losses.
        chance_hash: mean value of routing that sends each rule to a module drawn at random (to K
            of them where K are chosen).
        chance_permuted: mean value when the labels of documents are permuted; null without labels.
        null_low: 2.5 % point of the value when labels are permuted, or sets are random.
        null_high: 97.5 % point; likewise.
        p_value: one-sided p that permuted labels, or random sets, do as well.
        p_adjusted: the same, corrected (Holm) over the layers of the model.
        better: direction; null for a metric that has none.
        samples: samples behind it: positions for routing, whole sequences for their losses; null
            for recorded matrices, which do not say.
        seeds: number of seeds behind it.
        length: positions of the sequences; null where there are none or it does not matter.
        scale: what inputs were multiplied by.
        few_samples: so few independent samples that chance alone moves it noticeably; what it is
            moved to is in ``note``.
        note: what to know when reading it.
    """

    model: str
    metric: str
    layer: int | None = None
    over: Over | None = None
    seed: Seed | None = None
    value: float | None = None
    plug_in: float | None = None
    low: float | None = None
    high: float | None = None
    error: float | None = None
    chance: float | None = None
    chance_hash: float | None = None
    chance_permuted: float | None = None
    null_low: float | None = None
    null_high: float | None = None
    p_value: float | None = None
    p_adjusted: float | None = None
    better: Better | None = "lower"
    samples: int | None = None
    seeds: int = 1
    length: int | None = None
    scale: float | None = None
    few_samples: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """How one layer of one seed routes, in a word, and what the word was cut on.

    Attributes:
        model: ``id`` of its model.
        layer: null where a model has one.
        seed: pair of task seed and model seed; null for a trace.
        word: key of :data:`FINDINGS`.
        told: share of the information that modules could carry on the rules, log min(R, M), that
            they do carry, corrected as ``mutual_information`` is; null without labels.
        low: lower end of its interval; null where none could be given.
        high: upper end; likewise.
        p_adjusted: that permuted labels tell as much, corrected over layers and seeds; null where
            that could not be tested, which makes every word that needs it ``untested``.
        margin: share below which a finding is nothing, whatever p is: ``blind`` says that ``told``
            was shown to be below it.
        narrow: one module tells one rule apart though all rules and modules together tell little.
        rule: number of that rule, where ``narrow``.
        module: number of that module; likewise.
        share: share of the rule's samples that go to the module; likewise.
        vocabulary: whether all that is told is told by the tokens' identity, so that labels are
            told apart by their words alone; null where tokens are not known.
    """

    model: str
    layer: int | None = None
    seed: Seed | None = None
    word: Word
    told: float | None = None
    low: float | None = None
    high: float | None = None
    p_adjusted: float | None = None
    margin: float | None = None
    narrow: bool = False
    rule: int | None = None
    module: int | None = None
    share: float | None = None
    vocabulary: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Something of a model that was not scored, so that no gate passes on what is missing.

    Attributes:
        kind: ``layer``, ``rule``, ``metric``, or ``rest`` for the end of a
            recording that stopped early.
        name: which; empty for ``rest``.
        why: the reason, a sentence.
        wanted: whether whoever scored it asked for this, as with ``--layers``.
        layer: name of the layer, for rules and metrics that are missing in one layer alone.
    """

    kind: Literal["layer", "rule", "metric", "rest"]
    name: str = ""
    why: str = ""
    wanted: bool = False
    layer: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One seed of a model.

    Attributes:
        seed: pair of task seed and model seed; null for a trace.
        source: file it was read from.
        status: ``ok``, or ``failed`` for a seed that counts in no mean.
        note: what is wrong with it, or with its numbers.
        precision: half width of the 95 % interval of the least certain entry of its A.
    """

    seed: Seed | None
    source: str
    status: Literal["ok", "failed"] = "ok"
    note: str = ""
    precision: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord:
    """What was scored, and how.

    Attributes:
        id: names the model within the scorecard.
        title: for people.
        origin: ``run`` (written by ``modeval train``), ``module`` (of a user's, in memory),
            ``modarch`` (weights of the reference), ``matrix`` (a recorded matrix of it)
            or ``trace`` (recorded or imported routing).
        selection: ``last`` or ``best`` checkpoint, or ``phase-2`` for the weights after the second
            phase of training; null for a trace.
        data: the task; its objective is null where nothing tells it. Of a trace: ``task`` is
            ``trace``, then ``documents``, ``tokens``, ``phase``, ``padding`` and what is known.
        model: the model. Of a trace: engine, name, choices of each layer and what else is known.
        digest: hash of both, the same for all checkpoints; of a trace that of its header.
        modules: number of modules, the largest of all layers.
        rules: names of the rules; empty where they have numbers only.
        layers: names of the routed layers; empty where there is one.
        layer_modules: number of modules of each of them.
        prior: weight of the rules in the joint distribution.
        view: what counts as routing.
        adaptation: how module shares under shifted rules were got: ``reweight`` (from A),
            ``regenerate`` (from samples drawn under each shift) or ``none``.
        members: its seeds.
        left_out: what was not scored of it.
        warnings: what makes its scores doubtful, as it was seen when it was recorded or imported.
        parameters: of one seed; null where no network was there to count.
        active_parameters: of them, those that a sample uses on average: all that has no module, and
            the modules whose weight is not 0. Null likewise, and for models of the user's own.
        content: hash of the weights that were scored, or of the routing; empty in scorecards that
            were written before it was.
    """

    id: str
    title: str
    origin: Origin
    selection: str | None
    data: Mapping[str, Any]
    model: Mapping[str, Any]
    digest: str
    modules: int
    rules: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    layer_modules: tuple[int, ...] = ()
    prior: Literal["uniform", "empirical"] = "uniform"
    view: Literal["weight", "assignment"] = "weight"
    adaptation: Literal["reweight", "regenerate", "none"] = "none"
    members: tuple[Member, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    warnings: tuple[Warned, ...] = ()
    parameters: int | None = None
    active_parameters: float | None = None
    content: str = ""

    @property
    def shown_digest(self) -> str:
        """What tells what was scored from other checkpoints, where the scorecard knows."""
        return self.content or self.digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """A of one seed: how each rule shares itself out over the modules.

    Attributes:
        model: ``id`` of its model.
        layer: null where a model has one.
        seed: pair of task seed and model seed; null for a trace.
        matrix: R rows of M shares.
        prior: weight of each rule in the joint distribution.
        chosen: domain specialization, R rows of M: share of the rule's samples that choose each
            module; empty where one is chosen, for then it is A, or where choices are not known.
    """

    model: str
    layer: int | None = None
    seed: Seed | None = None
    matrix: tuple[tuple[float, ...], ...]
    prior: tuple[float, ...] = ()
    chosen: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One number for each rule or each module.

    Attributes:
        model: ``id`` of its model.
        metric: what was measured.
        axis: ``rule`` or ``module``.
        layer: null where a model has one.
        seed: pair of task seed and model seed; null for the mean over seeds, and for a trace.
        values: the numbers; null where one could not be computed.
        chance: value of uniform routing, the same for all.
        better: direction; null for a metric that has none.
    """

    model: str
    metric: str
    axis: Literal["rule", "module"]
    layer: int | None = None
    seed: Seed | None = None
    values: tuple[float | None, ...]
    chance: float | None = None
    better: Better | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Coactivation:
    """Modules that are chosen together: the share of a module's selections with each other one.

    Attributes:
        model: ``id`` of its model.
        layer: null where a model has one.
        seed: null for a trace.
        modules: those that are shown, at most 32, the busiest.
        matrix: row i, column j: of the selections of ``modules[i]``, the share where
            ``modules[j]`` was chosen too; the diagonal is 0.
    """

    model: str
    layer: int | None = None
    seed: Seed | None = None
    modules: tuple[int, ...]
    matrix: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What switching off each module does to each rule, of one seed and layer: R rows of M.

    Attributes:
        model: ``id`` of its model.
        layer: null where a model has one.
        seed: pair of task seed and model seed.
        intact: R losses with all modules.
        necessity: growth of the loss without the module, the others of a sample taking over.
        silenced: growth when the others keep their weights; empty where that was not tried.
        sufficiency: loss with the module alone; likewise.
        floor: necessity up to which there is none: sampling error and arithmetic.
        needed: share of each module in what the rule needs, 1/M each where it needs none.
        shapley: mean growth when the module goes, over random orders; empty unless asked for.
        shapley_error: its standard error; likewise.
        samples: positions behind it.
    """

    model: str
    layer: int | None = None
    seed: Seed | None = None
    intact: tuple[float, ...]
    necessity: tuple[tuple[float, ...], ...]
    silenced: tuple[tuple[float, ...], ...]
    sufficiency: tuple[tuple[float, ...], ...]
    floor: tuple[tuple[float, ...], ...]
    needed: tuple[tuple[float, ...], ...]
    shapley: tuple[tuple[float, ...], ...] = ()
    shapley_error: tuple[tuple[float, ...], ...] = ()
    samples: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """Loss while more and more modules are removed, of one seed and layer: J levels.

    Attributes:
        model: ``id`` of its model.
        layer: null where a model has one.
        seed: pair of task seed and model seed.
        removed: numbers of modules that are removed, from 0 to M.
        by_use: loss when the least used go first.
        random: mean loss over random orders.
        low: 2.5 % point of the random orders.
        high: 97.5 % point.
        orders: number of random orders.
    """

    model: str
    layer: int | None = None
    seed: Seed | None = None
    removed: tuple[int, ...]
    by_use: tuple[float, ...]
    random: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    orders: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseLosses:
    """The loss on each rule at the start and after each phase of training.

    Attributes:
        model: ``id`` of its model.
        seed: pair of task seed and model seed; null for the mean over seeds.
        phases: names of the rows: ``start``, ``phase-1``, ...
        drawn: numbers of the rules that each phase draws as its own.
        matrix: P + 1 rows of R losses; null where one is not finite.
    """

    model: str
    seed: Seed | None = None
    phases: tuple[str, ...]
    drawn: tuple[tuple[int, ...], ...]
    matrix: tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True, kw_only=True)  # no slots: the index of its scores is made once, and kept
class Scorecard:
    """Scores of one or several models; see the fields of its parts."""

    format: int = FORMAT
    modeval: str = ""
    precision: float | None = None
    level: float = LEVEL
    dataset: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    models: tuple[ModelRecord, ...] = ()
    scores: tuple[Score, ...] = ()
    findings: tuple[Finding, ...] = ()
    profiles: tuple[Profile, ...] = ()
    activations: tuple[Activation, ...] = ()
    coactivations: tuple[Coactivation, ...] = ()
    courses: tuple[PhaseLosses, ...] = ()
    effects: tuple[Effect, ...] = ()
    removals: tuple[Removal, ...] = ()
    ablations: tuple[Ablation, ...] = ()

    def __add__(self, other: "Scorecard") -> "Scorecard":
        """Put two scorecards together; models that share an ``id`` get a number."""
        return together((self, other))

    def find(
        self,
        model: str,
        metric: str,
        seed: Seed | None = None,
        *,
        layer: int | None = None,
        over: Over | None = None,
    ) -> Score | None:
        """Return a score, by default over seeds, if it is there."""
        return self._index.get((model, metric, seed, layer, over))

    @cached_property
    def _index(self) -> dict[tuple[str, str, Seed | None, int | None, Over | None], Score]:
        index: dict[tuple[str, str, Seed | None, int | None, Over | None], Score] = {}
        for score in self.scores:
            key = (score.model, score.metric, score.seed, score.layer, score.over)
            index.setdefault(key, score)
        return index

    def scores_of(self, model: str) -> tuple[Score, ...]:
        """Return the scores of a model, in order."""
        return self.of(model).scores

    def of(self, model: str) -> "Scorecard":
        """Return the lists of one model, without its record; found at once among many."""
        return self._by_model.get(model, Scorecard())

    @cached_property
    def _by_model(self) -> dict[str, "Scorecard"]:
        lists: dict[str, dict[str, Any]] = {}
        for part in OF_MODELS:
            for item in getattr(self, part):
                lists.setdefault(item.model, {}).setdefault(part, []).append(item)
        for own in lists.values():
            own |= {part: tuple(own[part]) for part in own}
        return {model: Scorecard(**own) for model, own in lists.items()}

    def to_frame(self) -> Any:
        """Return the scores as a pandas DataFrame; see :mod:`modeval.score.frames`."""
        return frames.to_frame(self)

    def to_csv(self) -> str:
        """Return the scores as comma-separated values."""
        return frames.to_csv(self)

    def to_markdown(self, metrics: Sequence[str] = ()) -> str:
        """Return a table of models and metrics in Markdown."""
        return frames.to_markdown(self, metrics)

    def to_latex(self, metrics: Sequence[str] = ()) -> str:
        """Return a table of models and metrics for LaTeX."""
        return frames.to_latex(self, metrics)

    def _repr_html_(self) -> str:
        return frames.to_html(self)

    def __repr__(self) -> str:
        named = ", ".join(model.id for model in self.models)
        return f"<Scorecard of {named or 'no model'}: {len(self.scores)} scores>"

    def find_profile(
        self, model: str, metric: str, seed: Seed | None = None, *, layer: int | None = None
    ) -> Profile | None:
        """Return the numbers for each rule or module of a layer, if they are there."""
        return self._profile_index.get((model, metric, seed, layer))

    def metrics_of(self, model: str) -> tuple[str, ...]:
        """Return the names of all that was scored of a model."""
        return self._metrics.get(model, ())

    @cached_property
    def _profile_index(self) -> dict[tuple[str, str, Seed | None, int | None], Profile]:
        return {(each.model, each.metric, each.seed, each.layer): each for each in self.profiles}

    @cached_property
    def _metrics(self) -> dict[str, tuple[str, ...]]:
        names: dict[str, set[str]] = {}
        for score in self.scores:
            names.setdefault(score.model, set()).add(score.metric)
        return {model: tuple(sorted(each)) for model, each in names.items()}

    def only(self, patterns: Sequence[str]) -> "Scorecard":
        """Return the part about models that match one of the patterns; all of it without any.

        See :func:`is_named`. What is left may be empty: whoever asks says what that means.
        """
        if not patterns:
            return self
        models = tuple(
            model for model in self.models if any(is_named(each, model) for each in patterns)
        )
        kept = {model.id for model in models}

        def of_kept(entries: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(item for item in entries if item.model in kept)

        lists: dict[str, Any] = {part: of_kept(getattr(self, part)) for part in OF_MODELS}
        return replace(self, models=models, **lists)


def together(cards: Sequence[Scorecard]) -> Scorecard:
    """Return the sum of scorecards, in order; models that share an ``id`` get a number.

    Raises:
        ValueError: there is none.
    """
    if not cards:
        raise ValueError("nothing to put together")
    taken: set[str] = set()
    parts: dict[str, list[Any]] = {part: [] for part in OF_MODELS}
    models: list[ModelRecord] = []
    for card in cards:
        names = {model.id: _free(model.id, taken) for model in card.models}
        other = {old for old, name in names.items() if old != name}
        models += [replace(m, id=names[m.id]) if m.id in other else m for m in card.models]
        for part, kept in parts.items():
            items = getattr(card, part)
            kept.extend(
                (replace(i, model=names[i.model]) if i.model in other else i for i in items)
                if other
                else items
            )
    notes = tuple(note for card in cards for note in card.notes)
    lists: dict[str, Any] = {part: tuple(kept) for part, kept in parts.items()}
    return replace(cards[0], notes=notes, models=tuple(models), **lists)


def is_named(pattern: str, model: ModelRecord) -> bool:
    """Tell whether a pattern names a model, by its id or its title, whatever their case."""
    names = (model.id.lower(), model.title.lower())
    return any(fnmatchcase(name, pattern.lower()) for name in names)


def _free(name: str, taken: set[str]) -> str:
    free, number = name, 1
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    taken.add(free)
    return free


# --- JSON ----------------------------------------------------------------------------------------


def to_dict_form(card: Scorecard) -> dict[str, Any]:
    """Return the JSON form: seeds as ``{"task": 0, "model": 0}``."""
    form = asdict(card)
    for item in (*chain.from_iterable(form[part] for part in OF_MODELS), *_members(form["models"])):
        if item["seed"] is not None:
            item["seed"] = dict(zip(("task", "model"), item["seed"], strict=True))
    return form


def _members(models: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [member for model in models for member in model["members"]]
