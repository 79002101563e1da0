"""What to draw: a family of tasks whose ground-truth rules are known."""

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from modeval.spec.checks import check, check_choices, check_positive
from modeval.spec.layouts import skills_of_rules
from modeval.spec.settings import refuse_unread, setting

Task = Literal["binary", "sets", "series"]
Objective = Literal["regression", "classification"]
Operation = Literal["linear", "named"]
Search = Literal["nearest", "product"]
Composition = Literal["additive", "sequential", "tree"]
Told = Literal["rule", "skills"]

NAMED_OPERATIONS = ("sum", "subtract", "product", "min", "max")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSpec:
    """A family of tasks whose ground-truth rules are known.

    A setting that the task does not read is refused: it would name the same task anew.

    Attributes:
        task: ``binary`` (operations on two numbers, for MLPs), ``sets`` (search and retrieve among
            positions, for attention) or ``series`` (switching linear dynamics, recurrent).
        objective: predict the value, or whether it is at least zero.
        rules: number of ground-truth rules R.
        operation: of ``binary``: ``linear`` with coefficients of its own for each rule, or the
            ``named`` operations sum, subtract, product, min, max (at most five rules).
        search: of ``sets``: the ``nearest`` scalar, or the largest dot ``product`` of unit vectors.
        dimension: of ``series``: size of the state and of the input.
        order: of ``series``: how many earlier states a state depends on.
        length: positions of a sequence (``sets`` and ``series``).
        scale: inputs are multiplied by this; 2 is the paper's out-of-distribution shift.
        rule_probabilities: shares of the rules, as 0.5,0.3,0.2; empty for equal shares.
        noise: standard deviation of normal noise on what is to be learned (before the sign, for
            classification); scores are of targets without it.
        hidden: share of samples (or positions) of which a model is told a rule drawn at random in
            place of the true one; with 1 it is told nothing.
        variants: rules in a group whose members are variants of its first; 1 for rules that have
            nothing in common.
        spread: how far variants lie from the first of their group, in parameters of rules of their
            own; 0 for duplicates.
        telling: of ``binary`` with weighted sums: how much inputs tell of their rule. So large a
            share is taken from what a rule does not read of its two numbers; 0 where inputs are
            drawn alike for all, 1 where they lie on a line of each rule's own.
        skills: of ``binary``: number of operations that rules are made of; 0 where each rule is one
            of its own.
        skills_per_rule: of ``binary`` with skills: how many of them a rule uses.
        composition: of ``binary`` with skills: results are added (``additive``); each takes the
            result of the one before it in the place of the first number (``sequential``); or skills
            stand in a balanced binary tree whose leaves are the two numbers (``tree``), where a
            skill may stand more than once.
        told: of ``binary`` with skills: a model is told the number of the ``rule``, or its
            ``skills`` (in their places, where the order matters), of which what it learned of some
            rules can tell it others.
        held_out: of ``binary`` with skills: the last so many rules are never trained on; models are
            scored on them apart.
    """

    task: Task = setting("binary", common=True)
    objective: Objective = "regression"
    rules: int = setting(4, common=True)
    operation: Operation = setting("linear", read_by={"task": ("binary",)})
    search: Search = setting("nearest", read_by={"task": ("sets",)})
    dimension: int = setting(32, read_by={"task": ("series",)})
    order: int = setting(1, read_by={"task": ("series",)})
    length: int = setting(10, unit="positions", read_by={"task": ("sets", "series")})
    scale: float = 1.0
    rule_probabilities: tuple[float, ...] = setting((), unit="shares")
    noise: float = 0.0
    hidden: float = setting(0.0, unit="share")
    variants: int = setting(1, unit="rules", read_by={"operation": ("linear",)})
    spread: float = 0.0
    telling: float = setting(
        0.0, unit="share", read_by={"task": ("binary",), "operation": ("linear",)}
    )
    skills: int = setting(0, unit="skills", read_by={"task": ("binary",)})
    skills_per_rule: int = setting(2, unit="skills", read_by={"task": ("binary",)})
    composition: Composition = setting("additive", read_by={"task": ("binary",)})
    told: Told = setting("rule", read_by={"task": ("binary",)})
    held_out: int = setting(0, unit="rules", read_by={"task": ("binary",)})

    def __post_init__(self) -> None:
        check_choices(self)
        refuse_unread(self)
        check_positive(self, "rules", "dimension", "order", "length", "scale", "variants")
        check(0 <= self.noise < float("inf"), f"noise = {self.noise}: expected 0 or more.")
        check(0 <= self.hidden <= 1, f"hidden = {self.hidden}: expected a share from 0 to 1.")
        check(0 <= self.telling <= 1, f"telling = {self.telling}: expected a share from 0 to 1.")
        _check_composition(self)
        if self.operation == "named" and not self.skills:
            check(
                self.rules <= len(NAMED_OPERATIONS),
                f"rules = {self.rules} with named operations: there are {len(NAMED_OPERATIONS)} "
                f"({', '.join(NAMED_OPERATIONS)}). Use --rules {len(NAMED_OPERATIONS)} or fewer, "
                "or --operation linear.",
            )
        if self.task == "sets":
            check(
                self.length > 1,
                f"length = {self.length}: a search needs at least 2 positions. Use --length 10.",
            )
        if self.rule_probabilities:
            check(
                len(self.rule_probabilities) == self.rules,
                f"rule_probabilities has {len(self.rule_probabilities)} entries for "
                f"{self.rules} rules: give one for each rule.",
            )
            total = sum(self.rule_probabilities)
            check(
                min(self.rule_probabilities) >= 0 and abs(total - 1) < 1e-6,  # noqa: PLR2004
                f"rule_probabilities sum to {total:g}: give shares from 0 to 1 that sum to 1.",
            )

    @property
    def trained_shares(self) -> tuple[float, ...]:
        """Shares of the rules in training, none for those held out; empty for equal shares.

        >>> DataSpec(skills=3, rules=3, held_out=1).trained_shares
        (0.5, 0.5, 0.0)
        """
        if not self.held_out:
            return self.rule_probabilities
        kept = self.rules - self.held_out
        usual = self.rule_probabilities or (1.0,) * self.rules
        total = sum(usual[:kept])
        return (*(share / total for share in usual[:kept]), *(0.0,) * self.held_out)

    @property
    def clean(self) -> "DataSpec":
        """The same without noise on the targets."""
        return replace(self, noise=0.0)

    @property
    def sequence(self) -> bool:
        """Whether a sample is a sequence with a rule at each position."""
        return self.task != "binary"

    @property
    def tested_lengths(self) -> tuple[int, ...]:
        """Lengths at which a model of sequences is tested, as the reference does; none elsewhere.

        The last one, with inputs x2, is the headline of what lies out of distribution. The
        reference stops at 50; a model trained at that length or beyond is tested at three times its
        own as well, so that the headline is longer than what it was trained on.

        >>> DataSpec(task="sets", length=10).tested_lengths
        (3, 5, 10, 20, 30)
        >>> DataSpec(task="series", length=20).tested_lengths
        (10, 20, 30, 40, 50)
        >>> DataSpec(task="series", length=50).tested_lengths
        (10, 20, 30, 40, 50, 150)
        """
        if not self.sequence:
            return ()
        usual = (3, 5, 10, 20, 30) if self.length == 10 else (10, 20, 30, 40, 50)  # noqa: PLR2004
        beyond = {3 * self.length} if self.length >= usual[-1] else set()
        return tuple(sorted({*usual, self.length} | beyond))

    @property
    def features(self) -> int:
        """Width of the inputs beside the rule."""
        per_rule = {"nearest": 4, "product": 6}[self.search]
        return {"binary": 2, "sets": per_rule * self.rules, "series": self.dimension}[self.task]

    @property
    def outputs(self) -> int:
        """Width of the target: the whole state for ``series`` regression, else one."""
        whole_state = self.task == "series" and self.objective == "regression"
        return self.dimension if whole_state else 1


def _check_composition(spec: DataSpec) -> None:
    """Refuse rules that cannot be made of so many skills, or be variants of one another."""
    check(
        spec.spread == 0 or (spec.variants > 1 and 0 < spec.spread < float("inf")),
        f"spread = {spec.spread}: how far variants lie from the first of their group, a number "
        "above 0 with at least 2 variants. Use --variants 2, or drop --spread.",
    )
    if not spec.skills:
        check(
            (spec.skills_per_rule, spec.composition) == (2, "additive"),
            "skills_per_rule and composition say how rules are made of skills, and there are none. "
            "Use --skills 4, or drop them.",
        )
        check(
            (spec.told, spec.held_out) == ("rule", 0),
            "told and held_out are about rules that are made of skills, and there are none: rules "
            "of their own tell nothing of each other. Use --skills 4, or drop them.",
        )
        return
    check(spec.variants == 1, "variants and skills: rules are one or the other. Drop one of them.")
    most_each = spec.skills if spec.composition != "tree" else 15
    check(
        1 <= spec.skills_per_rule <= most_each,
        f"skills_per_rule = {spec.skills_per_rule} of {spec.skills} skills: give from 1 to "
        f"{most_each}.",
    )
    named = spec.operation == "named"
    check(
        not named or spec.skills <= len(NAMED_OPERATIONS),
        f"skills = {spec.skills} with named operations: there are {len(NAMED_OPERATIONS)} "
        f"({', '.join(NAMED_OPERATIONS)}). Use --skills {len(NAMED_OPERATIONS)} or fewer, or "
        "--operation linear.",
    )
    ways: dict[Composition, Callable[[int, int], int]] = {
        "additive": math.comb,
        "sequential": math.perm,
        "tree": operator.pow,
    }
    most = ways[spec.composition](spec.skills, spec.skills_per_rule)
    check(
        spec.rules <= most,
        f"rules = {spec.rules} made of {spec.skills_per_rule} of {spec.skills} skills: there are "
        f"{most}. Use --rules {most} or fewer, or more --skills.",
    )
    if spec.held_out:
        _check_held_out(spec)


def _check_held_out(spec: DataSpec) -> None:
    """Refuse to hold out rules that nothing trained can tell of."""
    kept = spec.rules - spec.held_out
    check(
        spec.held_out > 0 and kept > 0,
        f"held_out = {spec.held_out} of {spec.rules} rules: give from 1 to {spec.rules - 1}.",
    )
    every = skills_of_rules(spec)
    ordered = spec.composition != "additive"
    seen, wanted = (
        {(place * ordered, skill) for used in rules for place, skill in enumerate(used)}
        for rules in (every[:kept], every)
    )
    check(
        wanted <= seen,
        f"held_out = {spec.held_out}: the {kept} rules that are left do not have every skill of "
        "the others in its place, so nothing could tell of it. Hold out fewer, or use more "
        "--rules.",
    )
    check(
        not spec.rule_probabilities or min(spec.rule_probabilities) > 0,
        "held_out with a rule whose share is 0: it is held out already. Use shares above 0.",
    )
