"""What to draw: a family of tasks whose ground-truth rules are known."""

from dataclasses import dataclass
from typing import Literal

from modeval.spec.checks import check, check_choices, check_positive

Task = Literal["binary", "sets", "series"]
Objective = Literal["regression", "classification"]
Operation = Literal["linear", "named"]
Search = Literal["nearest", "product"]

NAMED_OPERATIONS = ("sum", "subtract", "product", "min", "max")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSpec:
    """A family of tasks whose ground-truth rules are known.

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
        rule_probabilities: shares of the rules; empty for equal shares.
    """

    task: Task = "binary"
    objective: Objective = "regression"
    rules: int = 4
    operation: Operation = "linear"
    search: Search = "nearest"
    dimension: int = 32
    order: int = 1
    length: int = 10
    scale: float = 1.0
    rule_probabilities: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_choices(self)
        check_positive(self, "rules", "dimension", "order", "length", "scale")
        if self.operation == "named":
            check(
                self.rules <= len(NAMED_OPERATIONS) or self.task != "binary",
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
    def sequence(self) -> bool:
        """Whether a sample is a sequence with a rule at each position."""
        return self.task != "binary"

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
