"""Bare arrays: NPY, NPZ and PyTorch tensors, which say nothing of what their axes are.

What an array holds follows from its axes, which ``--axes`` names: with ``expert`` it holds counts
(or, with ``token``, router logits, of which the K largest are the choices); with ``choice`` it
holds the ids of chosen experts. Where the user does not say, the numbers are looked at, and what
they were taken for is the first note; where two readings are possible, nothing is guessed.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeval.trace.importers.format import (
    Counts,
    Facts,
    Format,
    Note,
    Options,
    Piece,
    Rows,
    layer_name,
)
from modeval.trace.importers.packing import plain_name
from modeval.trace.importers.plain.count_tables import layer_of
from modeval.trace.importers.reading import (
    array_of,
    integers,
    is_whole,
    largest,
    load_npy,
    load_npz,
    load_torch,
    numbers,
    refuse,
    tallies,
)

AXES = ("label", "layer", "expert", "document", "token", "choice")
MOST_IDS, MOST_CHOICES, FEWEST_TOKENS = 1024, 64, 128
STRETCH = 1 << 16
SHOWN = 6
NUMBERED = re.compile(r"^arr_(?=\d)")  # as NumPy calls arrays without names


def read_npy(path: Path, options: Options, note: Note) -> Iterator[Piece]:
    """Read an NPY array by its axes."""
    yield from _read(load_npy(path), path, options, note)


def read_torch(path: Path, options: Options, note: Note) -> Iterator[Piece]:
    """Read a tensor, or a list or dictionary of one tensor for each layer."""
    value = load_torch(path)
    if isinstance(value, dict) and len(value) == 1 and not _numbered(value):
        value = next(iter(value.values()))  # {"router_logits": (...)}
    if hasattr(value, "numpy"):
        yield from _read(array_of(value), path, options, note)
        return
    layers = dict(enumerate(value)) if isinstance(value, list | tuple) else value
    if not isinstance(layers, dict) or not layers or not _tensors(layers):
        refuse(path, "", f"holds {_describe(value)}: expected a tensor for each layer")
    arrays = {str(key): array_of(tensor) for key, tensor in layers.items()}
    counted = not options.axes and all(map(_are_counts, arrays.values()))
    if counted or "layer" in options.axes:
        axes = options.axes or ("layer", "expert")
        yield from _read_each(arrays, path, replace(options, axes=axes), note)
        return
    for key, array in arrays.items():
        axes = options.axes or ({1: ("expert",), 2: ("token", "expert")}.get(array.ndim, ()))
        if not options.axes and array.ndim == 2 and array.dtype.kind in "iu":  # noqa: PLR2004
            axes = ("token", "choice")
        if axes == ("token", "choice") and not options.axes and not _may_be_ids(array):
            refuse(path, key, f"{array.shape} may hold ids of experts, or counts", _asking(array))
        name = layer_name(int(key)) if key.isdecimal() else key
        yield from _pieces(_Array(array, axes, path, name), options, note)


def read_npz(path: Path, options: Options, note: Note) -> Iterator[Piece]:
    """Read an NPZ of one array, or of one for each layer or label.

    Arrays that have an axis of layers are those of labels, called as the arrays are; others are
    those of layers.
    """
    arrays = load_npz(path)
    if not arrays:
        refuse(path, "", "holds no arrays")
    if len(arrays) == 1:
        yield from _read(next(iter(arrays.values())), path, options, note)
    else:
        yield from _read_each(arrays, path, options, note)


def _read_each(
    arrays: dict[str, NDArray[Any]], path: Path, options: Options, note: Note
) -> Iterator[Piece]:
    shapes = ", ".join(f"{name} {array.shape}" for name, array in [*arrays.items()][:SHOWN])
    axes = {options.axes or _axes_of_one(array, path, name) for name, array in arrays.items()}
    if len(axes) > 1:
        refuse(path, "", f"holds arrays of several kinds ({shapes})", "Save each kind by itself.")
    [shared] = axes
    what = "label" if "layer" in shared else "layer"
    if {"label", "layer"} <= {*shared}:
        refuse(path, "", f"holds several arrays ({shapes})", "Save one array for all labels.")
    if not options.axes:
        note(
            f"{path.name}: each array was taken for a {what}, with the axes {', '.join(shared)}: "
            f"{shapes}. Say other axes by --axes."
        )
    for name, array in arrays.items():
        layer = None if what == "label" else layer_of(NUMBERED.sub("", name), path, name)
        layer = layer_name(layer) if isinstance(layer, int) else layer
        for piece in _pieces(_Array(array, shared, path, layer), options, note):
            if what == "layer" or isinstance(piece, Facts):
                yield piece
            else:
                yield replace(piece, label=name)


def _axes_of_one(array: NDArray[Any], path: Path, name: str) -> tuple[str, ...]:
    """Return the axes of one of several arrays: one axis is that of experts."""
    if array.dtype.kind not in "iuf" or not array.ndim:
        refuse(
            path,
            f"array {name}",
            f"holds {array.dtype} of shape {array.shape}: expected counts, ids or logits",
            "Save the arrays of those alone.",
        )
    return ("expert",) if array.ndim == 1 else guess_axes(array, path)


def _numbered(value: dict[Any, Any]) -> bool:
    return all(str(key).isdecimal() for key in value)


def _tensors(layers: dict[Any, Any]) -> bool:
    return all(hasattr(tensor, "numpy") for tensor in layers.values())


def _describe(value: Any) -> str:
    """Say what a file holds, in a few words."""
    if isinstance(value, dict):
        shown = ", ".join(f"{key!s:.30}: {_describe(each)}" for key, each in [*value.items()][:4])
        return f"a dictionary of {len(value)} ({shown})"
    if isinstance(value, list | tuple):
        inner = f" of {_describe(value[0])}" if value else ""
        return f"a {type(value).__name__} of {len(value)}{inner}"
    if hasattr(value, "shape"):
        return f"{value.dtype} {tuple(value.shape)}"
    return f"a {type(value).__name__}"


def _read(array: NDArray[Any], path: Path, options: Options, note: Note) -> Iterator[Piece]:
    axes = options.axes or guess_axes(array, path)
    if not options.axes:
        shape = " x ".join(f"{size} {axis}s" for size, axis in zip(array.shape, axes, strict=True))
        note(f"{path.name} says nothing of its axes: it was taken for {shape}. Say them by --axes.")
    yield from _pieces(_Array(array, axes, path), options, note)


def guess_axes(array: NDArray[Any], path: Path) -> tuple[str, ...]:
    """Return the axes of an array of two axes by its numbers, or refuse and say what to type.

    Ids of chosen experts are whole, small, and each in many rows, of which there are more than a
    model has layers; counts and loads are not. Rows of numbers that sum to 1 are shares: of layers,
    or of rules.
    """
    if array.dtype.kind not in "iuf" or array.ndim != 2 or not array.size:  # noqa: PLR2004
        refuse(path, "", f"holds {array.dtype} of shape {array.shape}", _asking(array))
    if not np.isfinite(array).all():
        refuse(path, "", "holds a value that is not finite")
    if array.min() < 0 and not (array == np.round(array)).all():
        advice = "Say --axes token,expert --choices K"
        refuse(path, "", f"{array.shape} holds numbers below 0: no counts, logits perhaps", advice)
    if array.shape[1] > 2 and array.max() <= 1 and _holds_bits(array):  # noqa: PLR2004
        refuse(
            path,
            "",
            f"{array.shape} holds only 0 and 1: a mask of tokens and experts, or ids of two",
            "Of a mask save the places, by mask.nonzero(), as layer,chosen; of ids say --axes "
            "token,choice",
        )
    if _may_be_ids(array):
        if len(array) > FEWEST_TOKENS:
            return ("token", "choice")
        refuse(path, "", f"{array.shape} may hold ids of experts, or counts", _asking(array))
    if array.dtype.kind == "f" and (array >= 0).all() and np.allclose(array.sum(1), 1, atol=1e-3):
        refuse(
            path,
            "",
            f"{array.shape} holds rows that sum to 1: shares of layers, or a matrix of rules and "
            "modules",
            f"Score such a matrix as it is: modeval score {path}. Else say --axes layer,expert",
        )
    return ("layer", "expert")


def _holds_bits(array: NDArray[Any]) -> bool:
    """Return whether all numbers are 0 and 1, and both are there."""
    return bool(((array == 0) | (array == 1)).all() and array.any() and not array.all())


def _may_be_ids(array: NDArray[Any]) -> bool:
    rows, width = array.shape
    whole = array.dtype.kind in "iu" or bool((array == np.round(array)).all())
    if not whole or array.min() < -1 or array.max() >= MOST_IDS or width > MOST_CHOICES:
        return False
    if rows <= width or array.size < 4 * (array.max() + 1):
        return False  # counts are of any size: few of them are equal
    return rows > FEWEST_TOKENS or not _repeated(array).any()


def _are_counts(array: NDArray[Any]) -> bool:
    """Return whether whole numbers by two axes are counts: no ids of what a token chose."""
    if array.dtype.kind not in "iu" or array.ndim != 2 or not array.size:  # noqa: PLR2004
        return False
    many = bool(array.max() >= MOST_IDS) or bool(_repeated(array).any())
    return many and bool(array.min() >= 0) and not _may_be_ids(array)


def _repeated(chosen: NDArray[Any]) -> NDArray[np.bool_]:
    """Return where a row names a module that it has named already, ``(N, K)``."""
    order = np.argsort(chosen, axis=1, kind="stable")
    ordered = np.take_along_axis(chosen, order, 1)
    again = np.zeros(chosen.shape, dtype=bool)
    again[:, 1:] = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    found = np.zeros_like(again)
    np.put_along_axis(found, order, again, 1)
    return found


def _asking(array: NDArray[Any]) -> str:
    examples = {
        1: "--axes expert",
        2: "--axes layer,expert or --axes token,choice",
        3: "--axes label,layer,expert, --axes token,layer,choice, or --axes layer,token,expert "
        "--choices K for logits",
        4: "--axes label,document,layer,expert",
    }
    return f"Say what its axes are, of {', '.join(AXES)}: {examples.get(array.ndim, '--axes ...')}"


@dataclass(frozen=True, slots=True)
class _Array:
    """An array of which it is known what its axes are.

    Attributes:
        values: its numbers.
        axes: a name for each axis.
        path: where it was read.
        layer: the layer that all of it is of; nothing where an axis says, or there is one.
    """

    values: NDArray[Any]
    axes: tuple[str, ...]
    path: Path
    layer: str | None = None

    def ordered(self, *wanted: str) -> NDArray[Any]:
        """Return it with all the wanted axes in order; those that it lacks have the size 1."""
        held = [axis for axis in wanted if axis in self.axes]
        moved = self.values.transpose([self.axes.index(axis) for axis in held])
        shape = iter(moved.shape)
        return moved.reshape([next(shape) if axis in self.axes else 1 for axis in wanted])

    def about(self, rule: int, document: int) -> dict[str, Any]:
        """Return the label and the document of a part."""
        return {
            "label": f"label {rule}" if "label" in self.axes else None,
            "document": document if "document" in self.axes else -1,
        }


def _pieces(array: _Array, options: Options, note: Note) -> Iterator[Piece]:
    axes, path, values = array.axes, array.path, array.values
    strange = [axis for axis in axes if axis not in AXES]
    if strange or len(axes) != values.ndim or len(set(axes)) != len(axes):
        wrong = f", and --axes {','.join(axes)} is no name for each" if axes else ""
        refuse(path, "", f"has the shape {values.shape}{wrong}", _asking(values))
    if "token" in axes:
        yield from _rows(array, options, note)
    elif "expert" in axes and "choice" not in axes:
        yield from _counts(array, options)
    else:
        refuse(
            path, "", f"--axes {','.join(axes)} names neither experts nor tokens", _asking(values)
        )


def _counts(array: _Array, options: Options) -> Iterator[Counts]:
    table = array.ordered("label", "document", "layer", "expert")
    values = tallies(table, 4, array.path, "", "the array")
    for rule, document, place in np.ndindex(*values.shape[:3]):
        yield Counts(
            array.layer or place,
            values[rule, document, place],
            choices=options.choices,
            **array.about(rule, document),
        )


def _rows(array: _Array, options: Options, note: Note) -> Iterator[Rows]:
    axes, path = array.axes, array.path
    last = "choice" if "choice" in axes else "expert"
    if last not in axes:
        refuse(path, "", f"--axes {','.join(axes)} names tokens and neither choices nor experts")
    if last == "expert":
        note(LOGITS)
    table = array.ordered("label", "document", "layer", "token", last)
    for rule, document, place in np.ndindex(*table.shape[:3]):
        name = array.layer or layer_name(place)
        about = array.about(rule, document)
        tokens = table[rule, document, place]
        for start in range(0, len(tokens), STRETCH):
            part = tokens[start : start + STRETCH]
            position = np.arange(start, start + len(part))
            if last == "choice":
                chosen = integers(_whole(part), 2, path, name, "the array")
                again = _repeated(chosen)
                if again.any():
                    some = int(again.any(1).sum())
                    note(f"{some} rows of {name} name a module twice: it was counted once.")
                yield Rows(name, np.where(again, -1, chosen), position=position, **about)
            else:
                yield _of_logits(part, name, path, options, position=position, **about)


def _of_logits(part: NDArray[Any], name: str, path: Path, options: Options, **about: Any) -> Rows:
    """Return the K largest of the logits of each token, with their share of a softmax."""
    logits = numbers(part, 2, path, name, "the logits")
    if options.choices is None or options.choices > logits.shape[1]:
        refuse(
            path,
            name,
            f"holds logits of {logits.shape[1]} experts",
            "Say how many a token chooses: --choices K",
        )
    chosen = largest(logits, options.choices)
    share = np.exp(logits - logits.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    return Rows(name, chosen, weight=np.take_along_axis(share, chosen, 1), modules=logits.shape[1],
                **about)  # fmt: skip


def _whole(part: NDArray[Any]) -> NDArray[Any]:
    whole = part.dtype.kind == "f" and is_whole(part)
    return part.astype(np.int64) if whole else part


def _is_bare_torch(path: Path, start: bytes) -> bool:
    return path.suffix in {".pt", ".pth"} and start.startswith(b"PK")


LOGITS = "Of router logits the K largest were taken for the choices, as if nothing else chose."

FORMATS = (
    Format(
        name="npy",
        about="a bare array of counts, ids or logits; --axes says which axis is what",
        patterns=("*.npy",),
        sniff=lambda path, start: (
            start.startswith(b"\x93NUMPY") and plain_name(path).endswith(".npy")
        ),
        read=read_npy,
        counts=None,
        sized=True,
        weight_scale="probability",
    ),
    Format(
        name="npz-arrays",
        about="an array by itself, or one for each layer or label: as npy",
        patterns=("*.npz",),
        sniff=lambda path, start: start.startswith(b"PK") and path.suffix == ".npz",
        read=read_npz,
        counts=None,
        sized=True,
        weight_scale="probability",
    ),
    Format(
        name="torch",
        about="a bare tensor, or one for each layer (output_router_logits): needs --choices",
        patterns=("*.pt", "*.pth"),
        sniff=_is_bare_torch,
        read=read_torch,
        counts=None,
        sized=True,
        weight_scale="probability",
    ),
)
