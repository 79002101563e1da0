"""How far long work has come: told by whatever does it, heard by whoever shows it.

Functions of the library that a user calls take ``watch=``. This is for what lies deep below them,
such as reading a large file: a command line says it on standard error, and everyone else hears
nothing of it.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Hearer = Callable[[str, float, float | None], None]
"""Is told what is done now, how much of it is done, and of how much, where that is known."""

_hearers: list[Hearer] = []
_parts: list[str] = []


@contextmanager
def heard_by(hearer: Hearer) -> Iterator[None]:
    """Have somebody told for a while.

    >>> with heard_by(print):
    ...     tell("reading", 3, 7)
    reading 3 7
    """
    _hearers.append(hearer)
    try:
        yield
    finally:
        _hearers.remove(hearer)


@contextmanager
def during(part: str) -> Iterator[None]:
    """Have what is told begin with a part of the work that it belongs to.

    >>> with heard_by(print), during("first of two passes: "):
    ...     tell("reading", 3, 7)
    first of two passes: reading 3 7
    """
    _parts.append(part)
    try:
        yield
    finally:
        _parts.pop()


def tell(what: str, done: float, every: float | None = None) -> None:
    """Tell how far something has come; costs next to nothing where nobody listens."""
    for hearer in _hearers:
        hearer("".join(_parts) + what, done, every)


def counted(items: Collection[Item], what: str) -> Iterator[Item]:
    """Yield items, and tell how many of them are done.

    >>> with heard_by(print):
    ...     found = [*counted("ab", "letters")]
    letters 0 2
    letters 1 2
    letters 2 2
    """
    for number, item in enumerate(items):
        tell(what, number, len(items))
        yield item
    tell(what, len(items), len(items))
