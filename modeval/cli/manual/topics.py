"""Topics of the manual: Markdown files beside this module, and pages made from tables."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files

from modeval.errors import SpecError, nearest


@dataclass(frozen=True, slots=True)
class Topic:
    """A page of the manual.

    Attributes:
        name: what ``modeval help`` takes.
        title: its first heading.
        text: Markdown, the title included.
    """

    name: str
    title: str
    text: str


WRITTEN = (
    "words",
    "values",
    "statistics",
    "interventions",
    "scorecard",
    "policies",
    "ci",
    "recording",
    "traces",
    "ablate",
    "reference",
    "regimes",
    "own",
    "python",
    "exit-codes",
)
"""Pages that were written by hand, in the order in which a reader may want them."""


def topic_names() -> tuple[str, ...]:
    """Return the names of all topics, in order."""
    return (*WRITTEN, *_MADE)


def title_of(name: str) -> str:
    """Return the title of a topic, without making the page."""
    return _MADE[name][0] if name in _MADE else topic(name).title


def topic(name: str) -> Topic:
    """Return a page.

    Raises:
        SpecError: there is no such topic.
    """
    key = name.strip().lower()
    if key not in topic_names():
        raise SpecError(
            f"{name}: there is no such topic{nearest(key, topic_names())}. "
            f"Topics: {', '.join(topic_names())}."
        )
    if key in _MADE:
        title, table = _MADE[key]
        text = f"# {title}\n\n{table()}"
    else:
        text = (files("modeval.cli.manual") / "topics" / f"{key}.md").read_text(encoding="utf-8")
    return Topic(key, text.splitlines()[0].removeprefix("# "), text)


def _formats() -> str:
    """Return the table of import formats."""
    from modeval.trace.importers.formats import FORMATS

    rows = "\n".join(
        f"| `{file_format.name}` | {file_format.about} |" for file_format in FORMATS.values()
    )
    return (
        "The format is told by the beginning of a file; `--from NAME` names it where that is not "
        f"enough.\n\n| `--from` | what it is |\n|---|---|\n{rows}\n"
    )


def _metrics() -> str:
    """Return the table of metrics."""
    from modeval.metrics.table import METRICS

    rows = "\n".join(
        f"| `{metric.name}` | {_cell(metric.question)} | {_cell(metric.bounds.text)} | "
        f"{_cell(metric.ideal.text)} | {_cell(metric.chance.text)} |"
        for metric in METRICS.values()
    )
    return (
        "Information is in nats. R rules, M modules, K chosen modules. Explain one "
        "with `modeval metrics NAME`.\n\n"
        f"| metric | question | range | ideal | uniform routing |\n|---|---|---|---|---|\n{rows}\n"
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


_MADE: dict[str, tuple[str, Callable[[], str]]] = {
    "formats": ("Formats that modeval import reads", _formats),
    "metrics": ("Metrics", _metrics),
}
"""Pages that are made from the tables that the program itself reads: title, and the rest."""
