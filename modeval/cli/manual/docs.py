"""``modeval docs``: the whole reference as one page that loads nothing."""

import html
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer

from modeval.cli.manual.docstrings import to_markdown
from modeval.cli.manual.sources import described
from modeval.cli.manual.topics import topic, topic_names

PAGE = "index.html"


@dataclass(frozen=True, slots=True)
class Chapter:
    """A chapter of the reference: its title, and entries of a title and Markdown each."""

    title: str
    entries: tuple[tuple[str, str], ...]


def docs_command(
    context: typer.Context,
    out: Annotated[Path, typer.Option("--out", help="Folder to write the page to.")],
) -> None:
    """Write the reference of commands, library, metrics, systems and formats as one page."""
    from modeval.cli.output import deliver, stdout
    from modeval.errors import SpecError

    if out.exists() and not out.is_dir():
        raise SpecError(f"--out {out}: a file stands there, and this takes a folder. Name another.")
    deliver(out / PAGE, render(parts(context.find_root())), flag="--out")
    stdout().print(f"Wrote {out / PAGE}", highlight=False, markup=False)


def parts(root: Any) -> list[Chapter]:
    """Return the chapters: topics, commands, library, metrics and systems."""
    topics = [topic(name) for name in topic_names() if name != "metrics"]
    return [
        Chapter("Topics", tuple((each.title, _without_title(each.text)) for each in topics)),
        Chapter("Commands", tuple(_commands(root))),
        Chapter("Library", tuple(_library())),
        Chapter("Metrics", tuple(_metrics())),
        Chapter("Systems", tuple(_systems())),
    ]


def _without_title(markdown: str) -> str:
    return markdown.split("\n", 1)[1]


def _commands(root: Any) -> Iterator[tuple[str, str]]:
    """Return each command with its help as the terminal shows it, groups opened."""

    def walk(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
        below = getattr(command, "commands", None)
        if below is None:
            yield " ".join(path), _command(command, path)
            return
        for name, each in below.items():
            yield from walk(each, (*path, name))

    yield from walk(root.command, ("modeval",))


def _command(command: Any, path: tuple[str, ...]) -> str:
    name = " ".join(path)
    with command.make_context(name, [], resilient_parsing=True) as context:
        records = [each.get_help_record(context) for each in command.get_params(context)]
        usage = " ".join(command.collect_usage_pieces(context))
    rows = [(names, text.replace("|", "\\|")) for names, text in filter(None, records)]
    table = "\n".join(f"| `{names}` | {text} |" for names, text in rows)
    about = inspect.cleandoc(command.help or "")
    lines = [f"```text\n{name} {usage}\n```", about]
    return "\n\n".join([*lines, f"| option | |\n|---|---|\n{table}" if table else ""])


def _library() -> Iterator[tuple[str, str]]:
    """Return the public names with signature and docstring."""
    import modeval

    for name, module in modeval.PUBLIC.items():
        found = described(module, name)
        signature = f"```python\nmodeval.{name}{found.signature}\n```"
        yield f"modeval.{name}", f"{signature}\n\n{to_markdown(found.docstring)}"


def _metrics() -> Iterator[tuple[str, str]]:
    from modeval.metrics.table import METRICS

    for metric in METRICS.values():
        facts = (
            f"`{metric.name}`: better {metric.better}, range {metric.bounds}, ideal "
            f"{metric.ideal}, uniform routing {metric.chance}. {metric.source}."
        )
        text = to_markdown(metric.docstring)
        yield metric.title, f"{facts}\n\n{text}"


def _systems() -> Iterator[tuple[str, str]]:
    """Return every system that can be trained by name, explained."""
    from modeval.cli.training.systems import explain
    from modeval.spec.systems import SYSTEMS

    for system in SYSTEMS:
        yield system.title, _without_title(explain(system))


def render(chapters: list[Chapter]) -> str:
    """Return the page: a list of contents beside the chapters, styles within."""
    from markdown_it import MarkdownIt

    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    contents, body = [], []
    for number, part in enumerate(chapters):
        contents.append(f"<h2>{html.escape(part.title)}</h2><ul>")
        body.append(f"<h1>{html.escape(part.title)}</h1>")
        for index, (title, text) in enumerate(part.entries):
            anchor = f"p{number}-{index}"
            name = html.escape(title)
            contents.append(f'<li><a href="#{anchor}">{name}</a></li>')
            body.append(f'<section id="{anchor}"><h2>{name}</h2>{markdown.render(text)}</section>')
        contents.append("</ul>")
    template = (files("modeval.cli.manual") / "docs.html").read_text(encoding="utf-8")
    return (
        template.replace("{{version}}", html.escape(version("modeval-cli")))
        .replace("{{contents}}", "".join(contents))
        .replace("{{body}}", "".join(body))
    )
