"""From foreign files to a trace or counts: all or nothing, and nothing that is not said.

The first pass finds the layers, modules and labels that the header must name, and every fault; only
then is anything written, under a name that a failure leaves nothing of. What is too large to be
kept meanwhile is read twice.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeval import atomic
from modeval.errors import TraceError
from modeval.pace import during, tell
from modeval.text import natural
from modeval.trace.counts import SUFFIX, UNWRITTEN, save_counts
from modeval.trace.files import TraceWriter, check_new
from modeval.trace.importers.format import Counts, Facts, Format, Options, Rows, layer_name
from modeval.trace.importers.formats import detect, find_format, matching, source_files
from modeval.trace.importers.one_text import SHARED, FileLayers, numbered, same_documents
from modeval.trace.importers.to_counts import FROM_ONE, tally
from modeval.trace.suspicions import ROW_KINDS, RowWatch, of_counts
from modeval.trace.trace import (
    PHASES,
    Phase,
    Source,
    TraceChunk,
    TraceHeader,
    WeightScale,
    check_guess,
    make_chunk,
)

NEARLY_ONE = 0.01
KEPT_NUMBERS, ROW_NUMBERS = 1 << 25, 6
"""Numbers of rows that are kept from the first pass, 256 MiB of them; and how many a row has beside
its choices and weights."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import wrote.

    Attributes:
        path: folder of the trace, or file of the counts.
        header: its header, with every warning among the notes.
        rows: rows of a trace; 0 for counts.
        format: name of the format that was read.
    """

    path: Path
    header: TraceHeader
    rows: int
    format: str


@dataclass(slots=True)
class ImportedLayer:
    """What the first pass found of a layer; ``modules`` is 0 where the files do not tell them."""

    modules: int = 0
    largest: int = -1
    least: int = np.iinfo(np.int16).max
    choices: int = 0
    rows: int = 0
    routed: int = 0
    repeating: int = 0


@dataclass(slots=True)
class Inspection:
    """What the first pass found: everything that a header needs."""

    layers: dict[str, ImportedLayer] = field(default_factory=dict)
    labels: dict[str, None] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    phases: set[int] = field(default_factory=set)
    token_ids: bool = False
    weights: set[bool] = field(default_factory=set)
    facts: Facts = field(default_factory=Facts)
    watch: RowWatch = field(default_factory=RowWatch)
    left_out: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    sums: tuple[float, float] = (np.inf, -np.inf)
    least_weight: float = np.inf
    files: dict[Path, FileLayers] = field(default_factory=dict)

    def note(self, text: str) -> None:
        """Keep a warning, once."""
        self.notes[text] = None


def import_source(
    sources: Sequence[Path], out: Path, *, name: str | None = None, options: Options | None = None
) -> Imported:
    """Read files of one format and write a trace, or counts where the format has only those.

    Args:
        sources: files, or folders of them.
        out: a new folder, usually ``NAME.trace``; counts go to ``NAME.counts.safetensors``.
        name: name of the format; None to detect it.
        options: what the files do not say.

    Raises:
        TraceError: with the file, the place in it and the reason. Nothing was written then.
    """
    chosen = options or Options()
    files = source_files(sources)
    if name is None:
        file_format, fitting = detect(files, bare=bool(chosen.axes), columns=chosen.columns)
    else:
        file_format = find_format(name)
        fitting = matching(file_format, files)
    survey = Inspection()
    for note in file_format.notes:
        survey.note(note)
    if len(fitting) < len(files):
        others = sorted({path.name for path in files} - {path.name for path in fitting})
        survey.note(f"{len(files) - len(fitting)} other files were not read: {_some(others)}.")
    fitting = _share(fitting, *chosen.shard)
    if _holds_counts(file_format, fitting[0], chosen):
        return _import_counts(file_format, fitting, out, chosen, survey)
    return _import_rows(file_format, fitting, out, chosen, survey)


def _share(files: Sequence[Path], number: int, of: int) -> list[Path]:
    """Return the files of one shard; what they are does not depend on where they are read."""
    if of > len(files):
        raise TraceError(
            f"--shard {number}/{of}: there are {len(files)} files, and a file is in one shard. Use "
            f"at most {len(files)} shards."
        )
    return list(files[number - 1 :: of])


def _holds_counts(file_format: Format, path: Path, options: Options) -> bool:
    """Tell whether files hold counts; where a format has both, their first piece tells."""
    if file_format.counts is not None:
        return file_format.counts
    pieces = file_format.read(path, options, lambda _note: None)
    return isinstance(next((p for p in pieces if not isinstance(p, Facts)), None), Counts)


def _import_rows(
    file_format: Format, files: Sequence[Path], out: Path, options: Options, survey: Inspection
) -> Imported:
    kept: list[tuple[Path, Rows]] = []
    room = KEPT_NUMBERS
    with ExitStack() as stack:
        for path, piece in _pieces(file_format, files, options, survey):
            rows = _rows_only(piece, path)
            _look(survey, rows, path, options, file_format)
            room, before = room - 2 * rows.chosen.size - ROW_NUMBERS * len(rows.chosen), room
            if room >= 0:
                kept.append((path, rows))
            elif before >= 0:
                kept.clear()
                stack.enter_context(during("first of two passes: "))
    options = _informed(options, survey.facts)
    layers = survey.layers.values()
    if options.modules is None and all(seen.least > 0 and not seen.modules for seen in layers):
        survey.note(FROM_ONE)
    shared = same_documents(survey.files.values())
    if shared:
        survey.note(SHARED)
    dense = _check_layers(survey, file_format, options)
    header = make_header(file_format, options, survey, dense)
    header = _suspected(header, survey, dense, options)
    check_new(out)
    with during("second of two passes: "), atomic.whole_folder(out, UNWRITTEN) as draft:
        pieces: Iterable[tuple[Path, Rows | Counts]]
        pieces = kept if room >= 0 else _pieces(file_format, files, options, Inspection())
        with TraceWriter(draft, header) as writer:
            decisions = ((path, _rows_only(piece, path)) for path, piece in pieces)
            owned = numbered(decisions, shared=shared)
            for chunk in _build(file_format, owned, header, options, survey.left_out):
                writer.append(chunk)
        if not writer.rows:
            raise TraceError(f"{_some([str(path) for path in files])}: no routing in them.")
    return Imported(out, header, writer.rows, file_format.name)


def _import_counts(
    file_format: Format, files: Sequence[Path], out: Path, options: Options, survey: Inspection
) -> Imported:
    counts: list[Counts] = []
    labels: list[str | None] = []
    offset, largest, current = 0, -1, None
    for path, piece in _pieces(file_format, files, options, survey):
        if isinstance(piece, Rows):
            raise TraceError(f"{path}: holds decisions: import it with another --from.")
        if path != current:  # replicates of two files are never the same
            offset, current = largest + 1, path
        document = -1 if piece.document < 0 else piece.document + offset
        largest = max(largest, document)
        counts.append(replace(piece, document=document))
        labels.append(_label(piece.label, path, options, file_format))
    options = _informed(options, survey.facts)
    counts = [replace(piece, choices=piece.choices or options.choices) for piece in counts]
    header, groups = tally(counts, labels, options, file_format, tuple(survey.notes))
    if survey.facts.phase is not None:
        header = replace(header, phase=survey.facts.phase)
    header = header.warned(*of_counts(_by_layer(counts)))
    stem = out.name.removesuffix(SUFFIX).removesuffix(".trace")
    path = out.with_name(stem + SUFFIX)
    save_counts(path, header, groups)
    return Imported(path, header, 0, file_format.name)


def _informed(options: Options, facts: Facts) -> Options:
    """Return what is known: what the user says, else what the files say."""
    return replace(
        options,
        modules=options.modules or facts.modules,
        choices=options.choices or facts.choices,
        model=options.model or facts.model,
    )


def _by_layer(counts: Sequence[Counts]) -> dict[str, NDArray[np.float64]]:
    """Return the counts of each layer over all labels and documents."""
    width = max(len(piece.selections) for piece in counts)
    total: dict[str, NDArray[np.float64]] = {}
    for piece in counts:
        name = piece.layer if isinstance(piece.layer, str) else layer_name(piece.layer)
        row = np.pad(piece.selections, (0, width - len(piece.selections)))
        total[name] = total.get(name, np.zeros(width)) + row
    return total


def _suspected(
    header: TraceHeader, survey: Inspection, dense: frozenset[str], options: Options
) -> TraceHeader:
    """Return the header with what is suspicious of the rows; note which of them to leave out."""
    watch = RowWatch(
        {name: rows for name, rows in survey.watch.layers.items() if name not in dense}
    )
    warnings, rows = watch.warnings()
    for kind in sorted(options.leave_out):
        if kind not in ROW_KINDS:
            raise TraceError(f"--leave-out {kind!r}: expected of {', '.join(ROW_KINDS)}.")
        if kind in rows:
            survey.left_out[kind] = rows[kind]
            header = header.noted(f"Left out: {int(rows[kind].sum())} rows of each layer: {kind}.")
        else:
            header = header.noted(f"Nothing was left out as {kind}: there is none.")
    header = header.noted(*filter(None, [watch.unrouted()]))
    kept = tuple(each for each in warnings if each.kind not in survey.left_out)
    doubtful = header.padding == "excluded" and any(each.kind == "padding" for each in kept)
    return replace(header, padding="unknown" if doubtful else header.padding).warned(*kept)


def _pieces(
    file_format: Format, files: Sequence[Path], options: Options, survey: Inspection
) -> Iterator[tuple[Path, Rows | Counts]]:
    """Read every file; what a damaged one has to give is kept only if the user said so."""
    for index, path in enumerate(files):
        number = 0
        if len(files) > 1:
            tell("reading files", index, len(files))
        try:
            for piece in file_format.read(path, options, survey.note):
                if isinstance(piece, Facts):
                    survey.facts = _united(survey.facts, piece, path)
                    continue
                number += len(piece.chosen) if isinstance(piece, Rows) else 1
                yield path, piece
        except TraceError as error:
            if not options.allow_partial:
                raise TraceError(
                    f"{error} Nothing was imported; --allow-partial keeps what comes before."
                ) from None
            what = "counts of layers" if file_format.counts else "rows"
            survey.note(f"Read in part, the first {number} {what}; the rest was dropped: {error}")


def _united(facts: Facts, more: Facts, path: Path) -> Facts:
    """Put together what files say of their model; they must not contradict one another."""
    found: dict[str, Any] = {}
    for each in fields(Facts):
        one, other = getattr(facts, each.name), getattr(more, each.name)
        if one and other and one != other:
            raise TraceError(
                f"{path} says {each.name} {other}, and a file before it says {one}. Import files "
                "of one model together, others apart."
            )
        found[each.name] = other or one
    return Facts(**found)


def _rows_only(piece: Rows | Counts, path: Path) -> Rows:
    if isinstance(piece, Counts):
        raise TraceError(f"{path}: holds counts: import it with --from sglang-pass-counts.")
    return piece


# --- the first pass ------------------------------------------------------------------------------


def _look(
    survey: Inspection, rows: Rows, path: Path, options: Options, file_format: Format
) -> None:
    chosen = rows.chosen
    if chosen.size and (chosen.min() < -1 or chosen.max() > np.iinfo(np.int16).max):
        wrong = chosen.min() if chosen.min() < -1 else chosen.max()
        raise TraceError(f"{path}: module {wrong} is out of range: expected 0 or more, or -1.")
    if not len(chosen):
        return
    count, repeats = (chosen >= 0).sum(1), _repeating(chosen)
    document, position = (
        np.broadcast_to(each, (len(chosen),)) for each in (rows.document, rows.position)
    )
    file = survey.files.setdefault(path, FileLayers())
    for name, where in _layers_of(rows, path):
        file.add(name, document[where], position[where])
        layer = survey.layers.setdefault(name, ImportedLayer())
        layer.modules = max(layer.modules, rows.modules or 0)
        layer.largest = max(layer.largest, int(chosen[where].max(initial=-1)))
        least = chosen[where].min(initial=layer.least, where=chosen[where] >= 0)
        layer.least = min(layer.least, int(least))
        layer.choices = max(layer.choices, int(count[where].max(initial=0)))
        layer.rows += len(count[where])
        layer.routed += int((count[where] > 0).sum())
        layer.repeating += int(repeats[where].sum())
        weight = None if rows.weight is None else rows.weight[where]
        survey.watch.add(name, chosen[where], weight, path.name)
    for label in _labels(rows, path, options, file_format):
        file.labels.add(label)
        if label is not None:
            survey.labels[label] = None
    survey.phases |= set(np.unique(rows.phase).tolist())
    survey.token_ids |= rows.token is not None
    survey.weights.add(rows.weight is not None)
    if rows.weight is not None and (count > 0).any():
        kept = np.where(chosen >= 0, rows.weight, 0.0)
        sums = kept.sum(1)[count > 0]
        survey.sums = (min(survey.sums[0], sums.min()), max(survey.sums[1], sums.max()))
        survey.least_weight = min(survey.least_weight, kept.min())


def _repeating(chosen: NDArray[Any]) -> NDArray[np.bool_]:
    """Return whether a row names a module twice."""
    ordered = np.sort(chosen, axis=1)
    repeats: NDArray[np.bool_] = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(
        1
    )
    return repeats


def _layers_of(rows: Rows, path: Path) -> Iterator[tuple[str, Any]]:
    if isinstance(rows.layer, str):
        yield rows.layer, slice(None)
        return
    for number in np.unique(rows.layer).tolist():
        if number < 0:
            raise TraceError(f"{path}: layer {number}: expected 0 or more.")
        yield layer_name(number), rows.layer == number


def _check_layers(survey: Inspection, file_format: Format, options: Options) -> frozenset[str]:
    """Return the layers that hold no routing, after saying so; refuse rows that cannot be."""
    dense: set[str] = set()
    for name, layer in survey.layers.items():
        empty = layer.routed == 0 and not file_format.keep_empty
        if empty or (layer.repeating == layer.routed and layer.choices > 1 and layer.routed):
            dense.add(name)
        elif layer.repeating:
            reason = (
                f"{layer.repeating} of {layer.routed} rows of {name} name a module twice, so they "
                "are no routing (engines leave such rows where nothing was recorded)"
            )
            if not options.allow_partial:
                raise TraceError(f"{reason}. Leave them out with --allow-partial.")
            survey.note(f"Left out: {reason}.")
        if name not in dense and layer.routed < layer.rows and not file_format.keep_empty:
            survey.note(f"{layer.rows - layer.routed} rows of {name} chose nothing: left out.")
    if dense:
        names = _some(sorted(dense, key=natural))
        survey.note(f"Left out as dense, because no row of them is routing: {names}.")
    if len(survey.weights) > 1:
        raise TraceError("Some rows have weights and others have none: expected all or none.")
    return frozenset(dense)


def make_header(
    file_format: Format, options: Options, survey: Inspection, dense: frozenset[str]
) -> TraceHeader:
    """Return the header for what the first pass found, without the layers that are dense."""
    names = sorted((name for name in survey.layers if name not in dense), key=natural)
    if not names:
        if survey.layers and all(layer.largest == 0 for layer in survey.layers.values()):
            raise TraceError(
                f"All choices of all {len(survey.layers)} layers are module 0, several times a "
                "row: the engine recorded nothing. Have it record again."
            )
        if not survey.layers:
            raise TraceError("The files have no rows: give those that hold the routing.")
        raise TraceError("There is no routing in the files: every layer is dense or empty.")
    modules = _modules(survey, names, options)
    seen = [max(survey.layers[name].choices, 1) for name in names]
    if options.choices is not None and max(seen) > options.choices:
        raise TraceError(f"A token chooses {max(seen)} modules: --choices says {options.choices}.")
    return TraceHeader(
        layers=tuple(names),
        modules=modules,
        choices=tuple(options.choices or number for number in seen),
        labels=tuple(sorted(survey.labels, key=natural)),
        source=Source(file_format.engine, options.model, file_format.name),
        weight_scale=_weight_scale(file_format, survey),
        phase=_phase(file_format, survey),
        capacity=file_format.capacity,
        padding=file_format.padding,
        token_ids=survey.token_ids,
        notes=tuple(survey.notes),
    )


def _modules(survey: Inspection, names: Sequence[str], options: Options) -> tuple[int, ...]:
    """Return the modules of each layer: as the user says, as the files tell, or as many as seen."""
    layers = [survey.layers[name] for name in names]
    if options.modules is None and all(layer.modules for layer in layers):
        return tuple(layer.modules for layer in layers)
    modules = options.modules
    if modules is None:
        modules = max(max(layer.largest + 1, layer.modules) for layer in layers)
        check_guess(modules, "chosen")
        survey.note(
            f"The number of modules, {modules}, was taken from the largest that was chosen; "
            "modules that were never chosen are missed. Say it with --modules N."
        )
    for name, layer in zip(names, layers, strict=True):
        if layer.largest >= modules:
            raise TraceError(
                f"{name} chooses module {layer.largest}: --modules {modules} allows 0 to "
                f"{modules - 1}."
            )
    return (modules,) * len(names)


def _weight_scale(file_format: Format, survey: Inspection) -> WeightScale:
    if True not in survey.weights:
        return "none"
    if file_format.weight_scale is not None:
        return file_format.weight_scale
    least, most = survey.sums
    scale: WeightScale = "selection score"
    if survey.least_weight >= 0 and abs(least - 1) < NEARLY_ONE and abs(most - 1) < NEARLY_ONE:
        scale = "renormalised"
    elif survey.least_weight >= 0 and most < 1 + NEARLY_ONE:
        scale = "probability"
    survey.note(f"Weights were taken for {scale}: they sum to {least:.4g} to {most:.4g} a row.")
    return scale


def _phase(file_format: Format, survey: Inspection) -> Phase:
    known = {PHASES[number] for number in survey.phases}
    if known == {"unknown"}:
        return file_format.phase if file_format.phase != "mixed" else "unknown"
    phases: dict[str, Phase] = {"prefill": "prefill", "decode": "decode", "train": "train"}
    return phases.get(next(iter(known)), "mixed") if len(known) == 1 else "mixed"


# --- labels --------------------------------------------------------------------------------------


def _labels(rows: Rows, path: Path, options: Options, file_format: Format) -> Iterator[str | None]:
    if isinstance(rows.label, list):
        for label in dict.fromkeys(rows.label):
            yield _label(label, path, options, file_format)
    else:
        yield _label(rows.label, path, options, file_format)


def _label(given: str | None, path: Path, options: Options, file_format: Format) -> str | None:
    """Return the label of rows: what the user says, what the row says, what the names say."""
    if options.label is not None:
        return options.label
    if given is not None:
        return options.labels.get(given, given)
    stem = path.name.split(".")[0]
    for key in (path.name, path.stem, stem, path.parent.name):
        if key in options.labels:
            return options.labels[key]
    if options.labels:
        raise TraceError(
            f"--labels has no label for {path.name}: expected one of {path.name}, {stem} or "
            f"{path.parent.name} among {', '.join(options.labels)}."
        )
    kind = options.label_from or file_format.label_from
    return {"file": stem, "folder": path.parent.name}.get(kind)


# --- the second pass -----------------------------------------------------------------------------


def _build(
    file_format: Format,
    pieces: Iterable[tuple[Path, Rows, NDArray[Any]]],
    header: TraceHeader,
    options: Options,
    left_out: Mapping[str, NDArray[np.bool_]],
) -> Iterator[TraceChunk]:
    gone = np.logical_or.reduce(list(left_out.values())) if left_out else None
    labels = {name: number for number, name in enumerate(header.labels)}
    passed: dict[int, int] = {}  # rows of each layer
    numbers = {name: index for index, name in enumerate(header.layers)}
    for path, rows, document in pieces:
        label = _label_numbers(rows, path, labels, options, file_format)
        chunk = _chunk(rows, document, header, numbers, label)
        kept = _kept(chunk, file_format)
        yield chunk[kept if gone is None else kept & ~_marked(chunk, gone, passed)]


def _marked(
    chunk: TraceChunk, gone: NDArray[np.bool_], passed: dict[int, int]
) -> NDArray[np.bool_]:
    """Return which rows are marked, by their number within their layer."""
    marked = np.zeros(len(chunk), dtype=bool)
    for layer in np.unique(chunk.layer[chunk.layer >= 0]).tolist():
        where = np.flatnonzero(chunk.layer == layer)
        start = passed.get(layer, 0)
        marked[where] = gone[start : start + len(where)]
        passed[layer] = start + len(where)
    return marked


def _kept(chunk: TraceChunk, file_format: Format) -> NDArray[np.bool_]:
    """Return which rows are routing, by the same rules as :func:`_check_layers`."""
    kept: NDArray[np.bool_] = ~_repeating(chunk.chosen) & (chunk.layer >= 0)
    return kept if file_format.keep_empty else kept & (chunk.chosen >= 0).any(1)


def _label_numbers(
    rows: Rows, path: Path, labels: Mapping[str, int], options: Options, file_format: Format
) -> Any:
    def number(label: str | None) -> int:
        name = _label(label, path, options, file_format)
        return -1 if name is None else labels[name]

    if not isinstance(rows.label, list):
        return number(rows.label)
    known = {label: number(label) for label in dict.fromkeys(rows.label)}
    return np.array([known[label] for label in rows.label], dtype=np.int32)


def _chunk(
    rows: Rows, document: NDArray[Any], header: TraceHeader, numbers: dict[str, int], label: Any
) -> TraceChunk:
    if isinstance(rows.layer, str):
        layer: Any = numbers.get(rows.layer, -1)
    else:
        found, inverse = np.unique(rows.layer, return_inverse=True)
        layer = np.array([numbers.get(layer_name(n), -1) for n in found.tolist()], np.int16)[
            inverse
        ]
    missing = header.width - rows.chosen.shape[1]
    chosen, weight = rows.chosen[:, : header.width], rows.weight
    if missing < 0:  # slots that no row of any layer uses
        chosen, weight = _packed(rows.chosen, rows.weight, header.width)
    elif missing:
        chosen = np.pad(chosen, ((0, 0), (0, missing)), constant_values=-1)
        weight = None if weight is None else np.pad(weight, ((0, 0), (0, missing)))
    token = rows.token
    if header.token_ids and token is None:
        token = np.full(len(chosen), -1)
    return make_chunk(
        document=document,
        position=rows.position,
        phase=rows.phase,
        label=label,
        layer=layer,
        chosen=chosen,
        token=token,
        weight=np.where(chosen >= 0, weight, 0) if header.weighted and weight is not None else None,
    )


def _packed(chosen: NDArray[Any], weight: NDArray[Any] | None, width: int) -> tuple[Any, Any]:
    """Bring the choices of each row to its front, in order, and cut what is empty in every row."""
    order = np.argsort(chosen < 0, axis=1, kind="stable")[:, :width]
    packed = np.take_along_axis(chosen, order, 1)
    return packed, None if weight is None else np.take_along_axis(weight, order, 1)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")  # noqa: PLR2004
