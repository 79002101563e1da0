"""What an importer gives, whatever it read: rows or counts, and what is known of their meaning."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from modeval.trace.trace import PHASES, Capacity, Padding, Phase, WeightScale


@dataclass(frozen=True, slots=True)
class Options:
    """What the user says of a source, because the format cannot.

    Attributes:
        label: label of all rows.
        labels: label by the name of a file, its name without endings, or the name of its folder.
        label_from: take labels from the names of files or folders; empty for the format's own way.
        modules: modules of each layer.
        choices: chosen modules K.
        layers: number of layers, for formats that store them without saying how many.
        model: name of the model.
        columns: name of a column in the files, by our name of it.
        axes: what the axes of an array are: of label, layer, expert, document, token, choice.
        leave_out: kinds of warnings whose rows are left out.
        allow_partial: keep the readable part of damaged files, and say what was left out.
        shard: number, from 1, and count of the parts that the files are dealt out to; the others
            are read elsewhere.
    """

    label: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    label_from: Literal["", "file", "folder"] = ""
    modules: int | None = None
    choices: int | None = None
    layers: int | None = None
    model: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    axes: tuple[str, ...] = ()
    leave_out: frozenset[str] = frozenset()
    allow_partial: bool = False
    shard: tuple[int, int] = (1, 1)


@dataclass(frozen=True, slots=True)
class Rows:
    """Routing decisions of one stretch of a file: N rows, K choices.

    Attributes:
        layer: name of the layer, or ``(N,)`` absolute layer numbers.
        chosen: ``(N, K)`` modules; -1 pads, and a row of -1 alone was not routed.
        document: ``(N,)`` or one number, counted from 0 within the file; -1 unknown.
        position: ``(N,)`` or one number; -1 unknown.
        phase: ``(N,)`` or one number into the phases of a trace.
        label: one label, one for each row, or None for the label of the file.
        token: ``(N,)`` token ids or None.
        weight: ``(N, K)`` or None.
        modules: modules M of the layer, where the file has a number for each of them.
    """

    layer: str | NDArray[Any]
    chosen: NDArray[Any]
    document: Any = -1
    position: Any = -1
    phase: Any = 0
    label: str | list[str | None] | None = None
    token: NDArray[Any] | None = None
    weight: NDArray[Any] | None = None
    modules: int | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """How often each module of one layer was chosen.

    Attributes:
        layer: name or absolute number of the layer.
        selections: ``(M,)`` choices of each module; NaN where unknown.
        label: label, or None for that of the file.
        document: replicate, counted from 0 within the file; -1 unknown.
        choices: chosen modules K of each token, None if unknown.
        mass: ``(M,)`` summed weight, None to take 1/K for each choice.
        samples: tokens counted, None to take all choices over K.
        sized: whether it has an entry for every module, as all of a ``sized`` format have.
    """

    layer: str | int
    selections: NDArray[Any]
    label: str | None = None
    document: int = -1
    choices: int | None = None
    mass: NDArray[Any] | None = None
    samples: float | None = None
    sized: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """What a file says of its model, before or among its pieces; the user's word goes first.

    Attributes:
        modules: modules of each layer.
        choices: chosen modules K.
        model: name of the model.
        phase: when the rows were measured, where the format cannot say it of all its files.
    """

    modules: int | None = None
    choices: int | None = None
    model: str = ""
    phase: Phase | None = None


PREFILL, DECODE, TRAIN = (PHASES.index(name) for name in ("prefill", "decode", "train"))

Piece = Rows | Counts | Facts
Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Format:
    """One foreign format.

    Attributes:
        name: what ``--from`` takes.
        about: one line for lists.
        patterns: names of its files, as shell patterns; other files in a folder are not read.
        sniff: whether the beginning of a file looks like this format.
        read: yields the pieces of a file in order; ``note`` takes warnings.
        engine: program that writes it.
        counts: whether it holds counts, not decisions; None where the files tell.
        sized: whether its arrays have an entry for every module, chosen or not.
        keep_empty: whether a row without any choice is a decision (a dropped token), not padding.
        label_from: where labels come from if the user does not say.
        weight_scale, phase, capacity, padding: as in the header of a trace; None to look at the
            weights.
        notes: what holds of every file of this format.
    """

    name: str
    about: str
    patterns: tuple[str, ...]
    sniff: Callable[[Path, bytes], bool]
    read: Callable[[Path, Options, Note], Iterator[Piece]]
    engine: str = ""
    counts: bool | None = False
    sized: bool = False
    keep_empty: bool = False
    label_from: Literal["", "file", "folder"] = ""
    weight_scale: WeightScale | None = "none"
    phase: Phase = "unknown"
    capacity: Capacity = "unknown"
    padding: Padding = "unknown"
    notes: tuple[str, ...] = ()


def layer_name(number: int) -> str:
    """Return the name of a layer that a format only numbers.

    >>> layer_name(3)
    'layers.3'
    """
    return f"layers.{number}"
