"""Pictures as inline SVG: sharp at any size, coloured by the page's own style, named for readers.

Colours are classes that the style sheet of the report defines for light and dark. Elements are
made with the standard library's XML writer, so that any text may stand in them.
"""

import base64
import struct
import zlib
from collections.abc import Sequence
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray

Element = ET.Element
CHARACTER = 7.0
"""Width of a character at the size of labels, in user units; on the wide side."""


def picture(width: float, height: float, title: str, description: str, name: str) -> Element:
    """Start a picture with a name and a description for those who do not see it.

    Args:
        width: in user units, which are CSS pixels at the natural size.
        height: likewise.
        title: its name.
        description: what it shows, in a sentence.
        name: unique in the page.
    """
    svg = ET.Element(
        "svg",
        {
            "viewBox": f"0 0 {coordinate(width)} {coordinate(height)}",
            "width": coordinate(width),
            "height": coordinate(height),
            "role": "img",
            "aria-labelledby": f"{name}-title {name}-description",
        },
    )
    ET.SubElement(svg, "title", {"id": f"{name}-title"}).text = title
    ET.SubElement(svg, "desc", {"id": f"{name}-description"}).text = description
    return svg


def add(
    parent: Element,
    tag: str,
    words: str | None = None,
    *,
    style: str = "",
    tip: str = "",
    **attributes: object,
) -> Element:
    """Add an element.

    Args:
        parent: what it stands in.
        tag: its kind.
        words: its text.
        style: its classes.
        tip: text shown when it is pointed at.
        attributes: numbers or words; an underscore stands for a hyphen.
    """
    plain = {
        key.replace("_", "-"): coordinate(value) if isinstance(value, int | float) else str(value)
        for key, value in attributes.items()
    }
    element = ET.SubElement(parent, tag, ({"class": style} if style else {}) | plain)
    if words is not None:
        element.text = words
    if tip:
        ET.SubElement(element, "title").text = tip
    return element


def label(  # noqa: PLR0917 - where, what, how
    parent: Element, x: float, y: float, words: str, style: str = "label", anchor: str = "start"
) -> Element:
    """Add a line of text; ``y`` is its baseline."""
    return add(parent, "text", words, style=style, x=x, y=y, text_anchor=anchor)


def coordinate(value: float) -> str:
    """Write a coordinate; a hundredth of a pixel is enough.

    >>> coordinate(12.0), coordinate(0.126)
    ('12', '0.13')
    """
    return f"{value:.2f}".rstrip("0").rstrip(".") if value % 1 else f"{value:.0f}"


def points(xs: Sequence[float], ys: Sequence[float]) -> str:
    """Write points for a line or an area."""
    return " ".join(f"{coordinate(x)},{coordinate(y)}" for x, y in zip(xs, ys, strict=True))


def shorten(words: str, most: int) -> str:
    """Leave out the middle of a text that is too long.

    >>> shorten("chemistry and materials science", 16)
    'chemist…science'
    """
    if len(words) <= most:
        return words
    ahead = (most - 1) // 2
    return words[:ahead].rstrip() + "…" + words[len(words) - (most - 1 - ahead) :].lstrip()


def fits(width: float) -> int:
    """Return how many characters of a label fit in a width."""
    return max(int(width / CHARACTER), 3)


def png(colours: NDArray[np.uint8]) -> str:
    """Return pixels ``(height, width, 3)`` as a PNG in a data address.

    Source: W3C, Portable Network Graphics, third edition, sections 5, 9 and 10.
    """
    height, width = colours.shape[:2]
    rows = b"".join(b"\0" + row.tobytes() for row in np.ascontiguousarray(colours))  # no filter
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits each of three colours
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    content = b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")


def _chunk(name: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


def text_of(svg: Element) -> str:
    """Return the picture as text to put into a page."""
    return ET.tostring(svg, encoding="unicode")
