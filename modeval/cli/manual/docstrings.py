"""Docstrings as Markdown: for a terminal, where nobody wants markup, and for the reference."""

import re
from inspect import cleandoc

SECTIONS = {
    "Args:": "Arguments",
    "Attributes:": "Fields",
    "Returns:": "Returns",
    "Yields:": "Yields",
    "Raises:": "Errors",
}
ENTRY = re.compile(r"(\*{0,2}\w[\w.]*)(?: \([^)]*\))?: (.*)", re.DOTALL)
ROLE = re.compile(r":\w+:`~?([^`<]+)(?: <[^>]*>)?`")


def to_markdown(docstring: str, *, examples: bool = True) -> str:
    """Turn a docstring into Markdown: sections become headings, roles and literals plain code.

    Args:
        docstring: in the style of this package (Google's), with doctests.
        examples: whether doctests are kept, as blocks of Python.

    >>> print(to_markdown("How far? :func:`~a.far` tells ``x``."))
    How far? `far` tells `x`.
    """
    blocks = _blocks(cleandoc(docstring))
    parts = [_block(lines, examples=examples) for lines in blocks]
    return "\n\n".join(part for part in parts if part)


def _blocks(text: str) -> list[list[str]]:
    """Cut at blank lines; a section keeps the blank lines between its entries."""
    blocks: list[list[str]] = [[]]
    for line in text.splitlines():
        inside = bool(blocks[-1]) and blocks[-1][0] in SECTIONS
        if line.strip():
            if inside and not line.startswith(" "):
                blocks.append([])
            blocks[-1].append(line)
        elif blocks[-1] and not inside:
            blocks.append([])
    return [block for block in blocks if block]


def _block(lines: list[str], *, examples: bool) -> str:
    if lines[0].startswith(">>>"):
        return "\n".join(["```python", *lines, "```"]) if examples else ""
    if lines[0] in SECTIONS:
        return f"**{SECTIONS[lines[0]]}**\n\n{_section(lines[1:])}"
    if all(line.startswith("    ") for line in lines):
        return "\n".join(["```text", *(line[4:] for line in lines), "```"])
    return _plain("\n".join(lines))


def _section(lines: list[str]) -> str:
    """Write the entries of a section as a list; what has no names stays a paragraph."""
    entries: list[str] = []
    for line in lines:
        text = line[4:]
        if text.startswith(" ") and entries:
            entries[-1] += f" {text.strip()}"
        else:
            entries.append(text)
    matched = [ENTRY.fullmatch(name) for name in entries]
    if not all(matched):
        return _plain(" ".join(entries))
    return "\n".join(f"- `{match[1]}`: {_plain(match[2])}" for match in matched if match)


def _plain(text: str) -> str:
    """Write roles and double backquotes as code: the last name of a role says enough."""

    def name(match: re.Match[str]) -> str:
        dotted = match[1].strip()
        return f"`{dotted.rsplit('.', 1)[-1] if '~' in match[0] else dotted}`"

    return ROLE.sub(name, text).replace("``", "`")
