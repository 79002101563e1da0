"""What a row of the table of metrics says."""

import ast
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.resources import files
from typing import Any, Literal

from modeval.errors import TraceError
from modeval.metrics.levels import Bounds, Level

Better = Literal["lower", "higher", "neither"]
Needs = Literal[
    "joint",
    "counts",
    "sums",
    "table",
    "skills",
    "positions",
    "tokens",
    "logits",
    "outputs",
    "interventions",
]
Tells = Literal[
    "load", "specialisation", "information", "budget", "selections", "tokens", "loss", "causal"
]
Place = Literal["headline", "glance", "table", "layers", "columns", "comparison"]
MadeOf = Literal["matching", "entropies", "probes", "softness"]
Bias = Literal["better", "worse", "neither"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric: how to compute it, how to read it, and where it is shown.

    Question and formula are those of the function's docstring, so they cannot drift apart. The
    function is imported when it is asked for: the table itself loads nothing heavy.

    Attributes:
        name: key in :data:`~modeval.metrics.table.METRICS`, in scorecards and in gates.
        title: for people.
        formula_id: names the formula, so that two numbers can be told to be the same metric.
        version: counts changes of what the function returns.
        better: the direction.
        bounds: smallest and largest value, ``bounds(R, M)``.
        ideal: best value that routing can have, ``ideal(R, M)``; its text is that for M = R.
        chance: value when routing knows nothing of the rule, ``chance(R, M, K)``: uniform over the
            modules, from as many samples as one likes.
        source: publication, with equation or section.
        needs: what the function takes. ``joint``: the joint distribution ``(..., R, M)``;
            ``counts``: :class:`~modeval.types.RoutingCounts`; ``sums``: the same, and the number of
            choices; ``table``: whole counts
            ``(..., R, M)``; ``skills``: the joint distribution, of rules that are made of skills;
            ``positions``: that of position and module ``(..., T, M)``, of sequences;
            ``tokens``: choices of single tokens; ``logits``: logits or weights of
            single tokens; ``outputs``: what the model answers, for losses, which have no function;
            ``interventions``: what it answers with modules switched off.
        home: module of this package where the function is; empty for losses.
        about: question and formula, where no function has them.
        shape: what it returns for each batch member; empty for one number.
        usage_only: it looks at p(m) alone, so the joint may be given as that one row.
        labels: it needs to know the rules.
        tells: what kind of thing it tells.
        shown: where it is shown, unless all is asked for. ``headline``: first sentence of a model;
            ``glance``: table of all models; ``table``: scores of a model; ``layers``: scores of a
            model over its layers; ``columns``: of one layer in a line; ``comparison``.
        tested: whether it is held against permuted labels.
        twin: the score that asks the same of what is sent to modules, where there is one.
        made_of: what it is computed from and shares with others, so that it is found once.
        few_samples: which way too few samples shift it: information seems larger (``better``),
            load more uneven (``worse``), a loss is as it is (``neither``).
    """

    name: str
    title: str
    formula_id: str
    version: int = 1
    better: Better
    bounds: Bounds
    ideal: Level
    chance: Level
    source: str
    needs: Needs = "joint"
    home: str = ""
    about: str = ""
    shape: str = ""
    usage_only: bool = False
    labels: bool = True
    tells: Tells
    shown: tuple[Place, ...] = ()
    tested: bool = False
    twin: str = ""
    made_of: tuple[MadeOf, ...] = ()
    few_samples: Bias = "neither"

    @property
    def function(self) -> Callable[..., Any]:
        """The metric itself.

        Raises:
            TraceError: a loss comes from a model and its task, not from routing.
        """
        if not self.home:
            raise TraceError(
                f"{self.name} is what a model answers, so it cannot be measured from its routing. "
                "Score the model on its task: modeval score RUN"
            )
        function: Callable[..., Any] = getattr(
            import_module(f"modeval.metrics.{self.home}"), self.name
        )
        return function

    @property
    def question(self) -> str:
        """The question that the metric answers, in words."""
        return self._paragraph(0)

    @property
    def formula(self) -> str:
        """The formula, in the words of the docstring."""
        return self._paragraph(1).replace("``", "")

    @property
    def docstring(self) -> str:
        """All that is said of the metric where it is defined."""
        return _docstrings(self.home)[self.name] if self.home else self.about

    def _paragraph(self, number: int) -> str:
        return " ".join(self.docstring.split("\n\n")[number].split())


@cache
def _docstrings(home: str) -> dict[str, str]:
    """Read the docstrings of a module's functions from its source, which loads nothing."""
    source = (files("modeval.metrics") / f"{home}.py").read_text(encoding="utf-8")
    return {
        node.name: inspect.cleandoc(ast.get_docstring(node) or "")
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef)
    }
