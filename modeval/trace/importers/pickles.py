"""Pickled counters, read without an unpickler: nothing can be called, built or changed.

A pickle is a program. Here a few of its instructions are carried out on values of our own: numbers,
text, lists, tuples and dictionaries. What a pickle names (``collections.Counter``, numpy's numbers)
is a name and no object, so that no instruction reaches anything that this process shares, and every
other name and instruction is refused. Steps are counted, so a small file costs little time.

Source: Python's pickletools, which documents the instructions and splits a pickle into them.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

MOST_STEPS = 2_000_000
LARGEST_KEY = 1 << 32
NUMBER_TYPES = frozenset(f"{kind}{size}" for kind in "iuf" for size in (1, 2, 4, 8))
COUNTER, DTYPE = ("collections", "Counter"), ("numpy", "dtype")
SCALARS = (("numpy.core.multiarray", "scalar"), ("numpy._core.multiarray", "scalar"))
ENCODE = ("_codecs", "encode")
ALLOWED = frozenset((COUNTER, DTYPE, ENCODE, *SCALARS))  # numpy 2 renamed numpy.core
_MARK = object()


class PickleError(Exception):
    """A pickle asks for what counters have no need of; the message says for what."""


@dataclass(frozen=True, slots=True)
class _Name:
    module: str
    name: str


@dataclass(frozen=True, slots=True)
class _Type:
    """A type of numbers: ``i8``, and ``<`` or ``>``."""

    kind: str
    order: str = "<"


@dataclass(slots=True)
class _Machine:
    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def above_mark(self) -> list[Any]:
        """Take what stands above the last mark off the stack, and the mark too."""
        items: list[Any] = []
        while (item := self.stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]


def read_pickle(data: bytes) -> Any:
    """Return what a pickle of counters holds: lists and dictionaries of plain numbers and text.

    Raises:
        PickleError: it asks for anything else, or is too long.
        Exception: whatever a damaged one causes in taking it apart.

    >>> import collections, pickle
    >>> read_pickle(pickle.dumps([collections.Counter({3: 5})]))
    [{3: 5}]
    """
    machine = _Machine()
    for step, (code, argument, _) in enumerate(pickletools.genops(data)):
        if step >= MOST_STEPS:
            raise PickleError(f"more than {MOST_STEPS} steps")
        if code.name == "STOP":
            return machine.stack.pop()
        act = _ACTS.get(code.name)
        if act is None:
            raise PickleError(f"the instruction {code.name}")
        act(machine, argument)
    raise PickleError("more than there is: it has no end")


def _push(machine: _Machine, argument: Any) -> None:
    machine.stack.append(argument)


def _constant(make: Callable[[], Any]) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.stack.append(make())


def _gather(make: Callable[[list[Any]], Any]) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.stack.append(make(machine.above_mark()))


def _tuple_of(size: int) -> Callable[[_Machine, Any], None]:
    def act(machine: _Machine, _: Any) -> None:
        items = tuple(machine.stack[-size:])
        del machine.stack[-size:]
        machine.stack.append(items)

    return act


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return {_key(key): value for key, value in zip(items[::2], items[1::2], strict=True)}


def _key(key: Any) -> Any:
    """Return a key that is hashed at once: nested tuples, or numbers of one hash, take years."""
    if type(key) is str or (type(key) is int and -LARGEST_KEY < key < LARGEST_KEY):
        return key
    raise PickleError(f"a key of a kind that names no expert ({type(key).__name__})")


def _append(machine: _Machine, _: Any) -> None:
    item = machine.stack.pop()
    _of_type(machine.stack[-1], list).append(item)


def _appends(machine: _Machine, _: Any) -> None:
    items = machine.above_mark()
    _of_type(machine.stack[-1], list).extend(items)


def _set_item(machine: _Machine, _: Any) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    _of_type(machine.stack[-1], dict)[_key(key)] = value


def _set_items(machine: _Machine, _: Any) -> None:
    items = machine.above_mark()
    _of_type(machine.stack[-1], dict).update(_pairs(items))


def _of_type(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise PickleError(f"a change of a {type(value).__name__}")
    return value


def _put(machine: _Machine, argument: Any) -> None:
    machine.memo[len(machine.memo) if argument is None else int(argument)] = machine.stack[-1]


def _get(machine: _Machine, argument: Any) -> None:
    machine.stack.append(machine.memo[int(argument)])


def _name(machine: _Machine, argument: Any) -> None:
    if argument is None:
        name, module = machine.stack.pop(), machine.stack.pop()
    else:
        module, _, name = argument.partition(" ")
    if (module, name) not in ALLOWED:
        raise PickleError(f"{module!s:.80}.{name!s:.80}")
    machine.stack.append(_Name(module, name))


def _reduce(machine: _Machine, _: Any) -> None:
    arguments, called = machine.stack.pop(), machine.stack.pop()
    if not isinstance(called, _Name) or not isinstance(arguments, tuple):
        raise PickleError(f"a call of a {type(called).__name__}")
    machine.stack.append(_called((called.module, called.name), arguments))


def _called(name: tuple[str, str], arguments: tuple[Any, ...]) -> Any:
    """Return what a call would give."""
    if name == COUNTER:
        return dict(_of_type(arguments[0], dict)) if arguments else {}
    if name == DTYPE:
        kind = arguments[0]
        if kind not in NUMBER_TYPES:
            raise PickleError(f"the numpy type {kind!s:.40}")
        return _Type(kind)
    if name == ENCODE:
        return _of_type(arguments[0], str).encode("latin1")
    kind, data = arguments
    if not isinstance(kind, _Type) or not isinstance(data, bytes):
        raise PickleError("a numpy number of no type of numbers")
    return np.frombuffer(data, f"{kind.order}{kind.kind}", count=1)[0].item()


def _build(machine: _Machine, _: Any) -> None:
    """Take the order of bytes of a numpy type; nothing else may be built."""
    state, built = machine.stack.pop(), machine.stack.pop()
    if not isinstance(built, _Type) or not isinstance(state, tuple):
        raise PickleError(f"a change of a {type(built).__name__} that is there already")
    machine.stack.append(_Type(built.kind, ">" if state[1] == ">" else "<"))


_VALUES = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
    *("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
)
_ACTS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(_VALUES, _push),
    **dict.fromkeys(("PROTO", "FRAME"), lambda _machine, _argument: None),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _get),
    **dict.fromkeys(("GLOBAL", "STACK_GLOBAL"), _name),
    "NONE": _constant(lambda: None),
    "NEWTRUE": _constant(lambda: True),
    "NEWFALSE": _constant(lambda: False),
    "MARK": _constant(lambda: _MARK),
    "EMPTY_LIST": _constant(list),
    "EMPTY_DICT": _constant(dict),
    "EMPTY_TUPLE": _constant(tuple),
    "LIST": _gather(list),
    "TUPLE": _gather(tuple),
    "DICT": _gather(_pairs),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "APPEND": _append,
    "APPENDS": _appends,
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "REDUCE": _reduce,
    "BUILD": _build,
}
