"""What the values of a scorecard must be together, or it is refused whole.

A scorecard is what a gate believes, so it is checked when it is read: every name is known, nothing
is there twice, every number lies within the bounds of its metric, faces the metric's own direction
and agrees with the numbers that it is made of. What is merely absent, or null with a reason, is
not an error here: the gate judges it.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence, Sized
from importlib.metadata import version

from modeval.errors import ScorecardError, nearest
from modeval.metrics.profile_table import PROFILES
from modeval.score.scorecard import (
    LEVEL,
    Activation,
    Coactivation,
    Effect,
    Finding,
    Member,
    ModelRecord,
    PhaseLosses,
    Profile,
    Removal,
    Scorecard,
)
from modeval.score.stored.ablation_checks import ablation_faults
from modeval.score.stored.score_checks import (
    CLOSE,
    FaultError,
    Known,
    check_scores,
    direction_faults,
    place_faults,
)

SHARES = 1e-3
"""How far shares may add up to something else than 1, in matrices that others recorded."""
RELEASE = re.compile(r"(\d+(?:\.\d+)*)[\w.+-]*")


def check_scorecard(card: Scorecard, *, where: str) -> None:
    """Refuse a scorecard whose values do not go together.

    Raises:
        ScorecardError: names the first entry that is wrong, and why.
    """
    try:
        _check_head(card)
        models = {model.id: _known(model) for model in card.models}
        _check_unique("models", [model.id for model in card.models])
        check_scores(card.scores, models)
        for entries, name in (
            (card.profiles, "profiles"),
            (card.findings, "findings"),
            (card.activations, "activations"),
            (card.coactivations, "coactivations"),
            (card.effects, "effects"),
            (card.removals, "removals"),
        ):
            _check_entries(entries, name, models)
        _check_shares(card)
        _check_courses(card.courses, models)
        _check_ablations(card, models)
    except FaultError as fault:
        raise ScorecardError(
            f"{where} is damaged or was edited: {fault}. Score again: modeval score RUN "
            f"--json {where}"
        ) from None


def _check_head(card: Scorecard) -> None:
    for name in ("digest", "folder"):
        if card.dataset is not None and not isinstance(card.dataset.get(name), str):
            raise FaultError(f"dataset has no {name}")
    if not math.isclose(card.level, LEVEL):
        raise FaultError(f"level is {card.level:g}, where intervals are of {LEVEL:g}")
    if card.precision is not None and card.precision <= 0:
        raise FaultError(f"precision is {card.precision:g}")
    if not card.modeval:
        return
    mine, its = _release(version("modeval-cli")), _release(card.modeval)
    if its is None:
        raise FaultError(f"modeval is {card.modeval!r}, which is no version")
    if mine is not None and its > mine:
        raise FaultError(
            f"it was written by modeval {card.modeval}, which is newer than this one "
            f"({version('modeval-cli')}): update modeval"
        )


def _release(text: str) -> tuple[int, ...] | None:
    match = RELEASE.fullmatch(text)
    return tuple(int(part) for part in match[1].split(".")) if match else None


def _check_unique(name: str, keys: Sequence[object]) -> None:
    seen: set[object] = set()
    for at, key in enumerate(keys):
        if key in seen:
            raise FaultError(f"{name}[{at}]: {_words(key)} is there twice")
        seen.add(key)


def _words(key: object) -> str:
    parts = key if isinstance(key, tuple) else (key,)
    return ", ".join(str(part) for part in parts if part is not None)


# --- models --------------------------------------------------------------------------------------


def _known(model: ModelRecord) -> Known:
    for fault in (
        *_size_faults(model),
        *_member_faults(model.members),
        *_task_faults(model),
        *_recording_faults(model),
    ):
        raise FaultError(f"model {model.id}: {fault}")
    told = model.data.get("rules")
    rules = len(model.rules) or (told if isinstance(told, int) and told > 0 else 0)
    seeds = frozenset(member.seed for member in model.members if member.seed is not None)
    return Known(model, rules, seeds)


def _size_faults(model: ModelRecord) -> Iterator[str]:
    counts = model.layer_modules
    if min((model.modules, *counts)) < 1:
        yield "a layer has fewer than one module"
    if len(counts) not in (0, len(model.layers)):
        yield f"it has {len(model.layers)} layers, but modules of {len(counts)}"
    if counts and max(counts) != model.modules:
        yield f"modules is {model.modules}, but its layers have up to {max(counts)}"
    for name, given in (("layers", model.layers), ("rules", model.rules)):
        if len({*given}) < len(given):
            yield f"a name is twice in {name}"


def _task_faults(model: ModelRecord) -> Iterator[str]:
    """Yield what a trained model does not say of its task."""
    if model.origin == "trace":
        return
    rules = model.data.get("rules")
    if type(rules) is not int or rules < 1:
        yield f"its number of rules is {rules!r}"
    for name in ("task", "objective"):
        if name not in model.data:
            yield f"its {name} is not said"


def _recording_faults(model: ModelRecord) -> Iterator[str]:
    """Yield what a trace says of its recording that cannot be."""
    if model.origin != "trace":
        return
    if any(gap.kind == "rest" and gap.wanted for gap in model.left_out):
        yield "the rest of a recording is never left out on purpose"
    complete = model.data.get("complete", True)
    if not isinstance(complete, bool):
        yield f"complete is {complete!r}, expected true or false"
    for name in ("documents", "tokens", "rows"):
        count = model.data.get(name)
        if count is not None and (type(count) is not int or count < 1):
            yield f"its number of {name} is {count!r}"
    yield from _layer_faults(model)
    yield from _document_faults(model)


def _layer_faults(model: ModelRecord) -> Iterator[str]:
    for name in ("choices", "layer_numbers"):
        told = model.model.get(name)
        if isinstance(told, Sized) and len(told) != len(model.layers):
            yield f"it has {len(model.layers)} layers, but {name} of {len(told)}"
    numbers = model.model.get("layer_numbers")
    if isinstance(numbers, list) and len({*map(str, numbers)}) < len(numbers):
        yield "a number is twice in layer_numbers"
    choices = model.model.get("choices")
    told = zip(choices, model.layer_modules, strict=False) if isinstance(choices, list) else ()
    for layer, (chosen, count) in enumerate(told):
        if isinstance(chosen, int) and chosen > count:
            yield f"layer {layer} has {count} modules, and {chosen} choices of a token"


def _document_faults(model: ModelRecord) -> Iterator[str]:
    documents, tokens = model.data.get("documents"), model.data.get("tokens")
    if type(documents) is not int:
        return
    if type(tokens) is int and documents > max(tokens, model.data.get("rows") or 0):
        yield f"it has {documents} documents of {tokens} tokens"
    if model.data.get("labels_within_documents") is not False:
        return
    if documents < len(model.rules):
        yield f"it has {documents} documents, each of one of {len(model.rules)} labels"
    copies = model.data.get("copies_of_documents") or 0
    if type(copies) is not int or not 0 <= copies < documents:
        yield f"{copies!r} of its {documents} documents are copies of others"


def _member_faults(members: Sequence[Member]) -> Iterator[str]:
    if not members:
        yield "it has no members, so nothing was measured"
    seeds = [member.seed for member in members]
    if len({*seeds}) < len(seeds):
        yield "a seed is there twice"
    if None in seeds and len(seeds) > 1:
        yield "some members have a seed and some have none"
    if any(member.precision is not None and member.precision < 0 for member in members):
        yield "a precision is below 0"


# --- entries beside the scores -------------------------------------------------------------------

Entry = Profile | Finding | Activation | Coactivation | Effect | Removal


def _check_entries(entries: Sequence[Entry], name: str, models: dict[str, Known]) -> None:
    keys = [(part.model, getattr(part, "metric", None), part.layer, part.seed) for part in entries]
    _check_unique(name, keys)
    for at, (part, key) in enumerate(zip(entries, keys, strict=True)):
        for fault in _entry_faults(part, models.get(part.model)):
            raise FaultError(f"{name}[{at}] ({_words(key)}): {fault}")


def _entry_faults(part: Entry, known: Known | None) -> Iterator[str]:
    if known is None:
        yield "there is no such model"
        return
    yield from place_faults(part.layer, None, known)
    if part.seed is not None and part.seed not in known.seeds:
        yield "the model has no such seed"
    yield from _content_faults(part, known.rules, known.modules(part.layer))


def _content_faults(part: Entry, rules: int, modules: int) -> Iterator[str]:
    match part:
        case Profile():
            yield from _profile_faults(part, rules, modules)
        case Finding():
            yield from _finding_faults(part, rules, modules)
        case Activation():
            yield from _matrix_faults(part.matrix, len(part.prior) or rules, modules)
            yield from _share_faults((*part.matrix, *filter(None, [part.prior])))
        case Coactivation():
            yield from _matrix_faults(part.matrix, len(part.modules), len(part.modules))
            yield from _index_faults(part.modules, modules, "module")
        case Effect():
            yield from _effect_faults(part, rules, modules)
        case Removal():
            yield from _removal_faults(part, modules)


def _check_shares(card: Scorecard) -> None:
    """Hold the share of each module against the matrix A of the same layer and seed."""
    matrices = {(part.model, part.layer, part.seed): part for part in card.activations}
    for at, profile in enumerate(card.profiles):
        activation = matrices.get((profile.model, profile.layer, profile.seed))
        if profile.metric != "module_share" or activation is None:
            continue
        rules = len(activation.matrix)
        prior = activation.prior or (1 / rules,) * rules
        for module, (share, column) in enumerate(
            zip(profile.values, zip(*activation.matrix, strict=True), strict=True)
        ):
            known = math.fsum(map(math.prod, zip(prior, column, strict=True)))
            if share is not None and not math.isclose(share, known, abs_tol=SHARES):
                raise FaultError(
                    f"profiles[{at}] ({_words((profile.model, profile.metric, profile.layer))}): "
                    f"module {module} has {share:.4g}, and {known:.4g} in the matrix A"
                )


def _effect_faults(effect: Effect, rules: int, modules: int) -> Iterator[str]:
    wanted = (effect.necessity, effect.floor, effect.needed)
    asked = [each for each in (effect.shapley, effect.shapley_error) if each]
    tried = [each for each in (effect.silenced, effect.sufficiency) if each]
    for matrix in (*wanted, *tried, *asked):
        if len(matrix) != (rules or len(matrix)) or any(len(row) != modules for row in matrix):
            yield f"a matrix is not one of {rules} rows of {modules} numbers"
    if len(effect.intact) != len(effect.necessity):
        yield f"it has {len(effect.intact)} intact losses for {len(effect.necessity)} rules"
    if len(asked) == 1:
        yield "Shapley values and their errors go together"
    yield from _share_faults(effect.needed)


def _removal_faults(removal: Removal, modules: int) -> Iterator[str]:
    removed = removal.removed
    if not removed or removed[0] != 0 or removed[-1] != modules or [*removed] != sorted({*removed}):
        yield f"numbers of removed modules do not rise from 0 to {modules}"
    for curve in (removal.by_use, removal.random, removal.low, removal.high):
        if len(curve) != len(removed):
            yield f"a curve has {len(curve)} losses for {len(removed)} levels"


def _check_ablations(card: Scorecard, models: dict[str, Known]) -> None:
    _check_unique("ablations", [part.model for part in card.ablations])
    for at, part in enumerate(card.ablations):
        if part.model not in models:
            raise FaultError(f"ablations[{at}]: there is no model {part.model!r}")
        for fault in ablation_faults(part):
            raise FaultError(f"ablations[{at}]: {fault}")


def _check_courses(courses: Sequence[PhaseLosses], models: dict[str, Known]) -> None:
    _check_unique("courses", [(part.model, part.seed) for part in courses])
    for at, part in enumerate(courses):
        for fault in _course_faults(part, models.get(part.model)):
            raise FaultError(f"courses[{at}] ({_words((part.model, part.seed))}): {fault}")


def _course_faults(part: PhaseLosses, known: Known | None) -> Iterator[str]:
    if known is None:
        yield "there is no such model"
        return
    if part.seed is not None and part.seed not in known.seeds:
        yield "the model has no such seed"
    rules = known.rules or len(part.matrix[0] if part.matrix else ())
    if len(part.matrix) != len(part.phases) or any(len(row) != rules for row in part.matrix):
        yield f"its matrix is not one of {len(part.phases)} rows of {rules} numbers"
    if len(part.drawn) + 1 != len(part.phases):
        yield f"it has rules of {len(part.drawn)} phases, and {len(part.phases)} rows"
    yield from _index_faults([rule for row in part.drawn for rule in row], rules, "rule")
    if any(value is not None and value < 0 for row in part.matrix for value in row):
        yield "a loss is below 0"


def _profile_faults(profile: Profile, rules: int, modules: int) -> Iterator[str]:
    row = PROFILES.get(profile.metric)
    if row is None:
        yield (
            f"there is no number {profile.metric!a} for each {profile.axis}"
            f"{nearest(profile.metric, list(PROFILES))}"
        )
        return
    if profile.axis != row.axis:
        yield f"it is a number for each {profile.axis}, expected each {row.axis}"
    yield from direction_faults(profile.better, row.better)
    wanted = modules if row.axis == "module" else rules
    if wanted and len(profile.values) != wanted:
        yield f"it has {len(profile.values)} numbers for {wanted} {row.axis}s"
    low, high = row.bounds(rules or len(profile.values), modules)
    slack = CLOSE * (1 + (high if math.isfinite(high) else 0.0))
    for value in profile.values:
        if value is not None and not low - slack <= value <= high + slack:
            yield f"{value:.4g} is outside {row.bounds}"
    shares = [value for value in profile.values if value is not None]
    if row.name == "module_share" and len(shares) == len(profile.values):
        yield from _share_faults([shares])


def _finding_faults(finding: Finding, rules: int, modules: int) -> Iterator[str]:
    yield from _index_faults([finding.rule], rules, "rule")
    yield from _index_faults([finding.module], modules, "module")
    if finding.p_adjusted is not None and not 0 < finding.p_adjusted <= 1:
        yield f"p is {finding.p_adjusted:g}, and no test gives that"


def _index_faults(indices: Iterable[int | None], count: int, what: str) -> Iterator[str]:
    for index in indices:
        if index is not None and not 0 <= index < count:
            yield f"there is no {what} {index}"


def _matrix_faults(matrix: Sequence[Sequence[float]], rows: int, columns: int) -> Iterator[str]:
    if (rows and len(matrix) != rows) or any(len(row) != columns for row in matrix):
        yield f"its matrix is not one of {rows} rows of {columns} numbers"
    if any(not -CLOSE <= value <= 1 + CLOSE for row in matrix for value in row):
        yield "a share is below 0 or above 1"


def _share_faults(rows: Iterable[Sequence[float]]) -> Iterator[str]:
    for row in rows:
        total = math.fsum(row)
        if not math.isclose(total, 1, abs_tol=SHARES):
            yield f"shares add up to {total:.6g}, expected 1"
