"""Tells whether a trained model made of parts is really modular.

    generate        samples of tasks whose rules are known
    train           a cohort of seeds of one model, as one stacked program
    evaluate        run a cohort on fresh samples, and count how it routes them
    record          listen to the routers of a model while it runs
    import_trace    read the routing that another program wrote
    score           how modular did models become? gives a Scorecard
    ablate          which modules of a language model matter for what, and how many can go?
    structure       does a dense network fall into parts, and do they do anything of their own?
    compare         what changed between scorecards, and is it more than noise?
    gate            do models keep to a policy?
    plot            a figure for a paper
    read_scorecard  read what ``score --json`` wrote

Each is the function behind the command of that name, and is loaded when it is asked for.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modeval.pipeline.ablating import ablate as ablate
    from modeval.pipeline.comparing import compare as compare
    from modeval.pipeline.judging import gate as gate
    from modeval.pipeline.making import generate as generate
    from modeval.pipeline.making import import_trace as import_trace
    from modeval.pipeline.making import train as train
    from modeval.pipeline.plotting import plot as plot
    from modeval.pipeline.scoring import evaluate as evaluate
    from modeval.pipeline.scoring import score as score
    from modeval.pipeline.structure import structure as structure
    from modeval.record.recording import record as record
    from modeval.score.scorecard import Scorecard as Scorecard
    from modeval.score.stored.files import read_scorecard as read_scorecard

    __version__: str

PUBLIC = {
    "Scorecard": "modeval.score.scorecard",
    "ablate": "modeval.pipeline.ablating",
    "compare": "modeval.pipeline.comparing",
    "evaluate": "modeval.pipeline.scoring",
    "gate": "modeval.pipeline.judging",
    "generate": "modeval.pipeline.making",
    "import_trace": "modeval.pipeline.making",
    "plot": "modeval.pipeline.plotting",
    "read_scorecard": "modeval.score.stored.files",
    "record": "modeval.record.recording",
    "score": "modeval.pipeline.scoring",
    "structure": "modeval.pipeline.structure",
    "train": "modeval.pipeline.making",
}
"""Where each public name is defined."""

__all__ = [
    "Scorecard",
    "__version__",
    "ablate",
    "compare",
    "evaluate",
    "gate",
    "generate",
    "import_trace",
    "plot",
    "read_scorecard",
    "record",
    "score",
    "structure",
    "train",
]


class _Package(ModuleType):
    """This package, whose public functions stay functions.

    The rooms ``modeval/score``, ``ablate``, ``gate``, ``record``, ``evaluate`` and ``train`` have
    the names of functions. When one of their modules is imported for the first time, Python binds
    the room to its name in the package, and ``modeval.score(path)`` would call a module from then
    on: which of the two a name means would depend on who was imported before. Here it is always the
    function. Rooms are found by ``from modeval.score.stored.files import ...`` as ever.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name in PUBLIC and isinstance(value, ModuleType):
            return
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        """Load a public name when it is asked for: importing modeval loads nothing heavy."""
        if name == "__version__":
            from importlib.metadata import version  # noqa: PLC0415 - slow, and seldom asked for

            found: Any = version("modeval-cli")
        elif name in PUBLIC:
            found = getattr(import_module(PUBLIC[name]), name)
        else:
            raise AttributeError(f"module 'modeval' has no attribute {name!r}")
        super().__setattr__(name, found)
        return found

    def __dir__(self) -> list[str]:
        hidden = (name for name in super().__dir__() if name.startswith("__"))
        return sorted({*hidden, *__all__})  # what is there to call, not what this file imports


sys.modules[__name__].__class__ = _Package
