"""``modeval help``: what is longer than the help of a command."""

from typing import Annotated

import typer

from modeval.cli.manual.topics import title_of, topic, topic_names


def _complete(incomplete: str) -> list[str]:
    return [name for name in topic_names() if name.startswith(incomplete)]


def help_command(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[TOPIC]", help="What to read.", autocompletion=_complete),
    ] = None,
) -> None:
    """Read about a topic: words, values, policies, formats and others."""
    if name is None:
        width = max(map(len, topic_names()))
        for each in topic_names():
            typer.echo(f"{each:{width}}  {title_of(each)}")
        typer.echo("\nRead one with: modeval help TOPIC")
        return
    show(topic(name).text)


def show(markdown: str) -> None:
    """Print Markdown: laid out on a terminal, as it is where something else reads it."""
    from rich.markdown import Markdown

    from modeval.cli.output import stdout

    console = stdout()
    if console.is_terminal:
        console.print(Markdown(markdown))
    else:
        typer.echo(markdown)
