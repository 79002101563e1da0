"""What is suspicious in a recording: rows and counts that no routing of text would give.

Each test asks how often independent tokens would give what was seen, and warns only where that is
all but impossible (:data:`RARE`) and there is enough of it to move a score. A warning names the
layer, the rows and their share; the numbers stay as they are unless the user leaves rows out.

Sources of the situations: vLLM issue 39244 and SGLang PR 9499 (padding rows read 0 to K-1), public
logs of vLLM that begin with a profiling run, Megatron-LM issue 1617 (padding to capacity) and PR
7081 (counts kept in bf16).
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special  # scipy.stats has these by name, and takes a second to load

from modeval.trace.trace import Warned

RARE = 1e-9
"""Probability under independent tokens below which a coincidence is none."""
SHORTEST_RUN = 32
"""Rows from which on one unbroken choice is looked at."""
FEWEST = 8
"""Rows that a warning needs at least."""
SHARE = 0.01
"""Share of the rows that a warning needs at least."""
MOST_RUNS = 8
"""Runs from which on a layer routes whole documents alike, and that is no warm-up."""
BITS = 12.0
"""Room for choices of a token in all layers below which frequent words coincide by themselves."""
REPEATED = 0.25
"""Share of rows that repeat their predecessor from which on that is no chance of the text."""
FAR_FEWER = 0.5
"""Share of the tokens of the usual layer below which a layer has far fewer."""
TIED = 0.5
"""Share of rows whose weights are all equal from which on the router does not choose."""
ROW_KINDS = ("warm-up", "padding", "repeated rows", "repeated ranks")
"""Kinds whose rows can be told, and left out."""


@dataclass(slots=True)
class LayerRows:
    """What is kept of the rows of a layer, in their order, while they pass.

    Attributes:
        rows: number of rows.
        counts: ``(M,)`` choices of each module.
        identity: for each row, whether it is 0 to K-1 in order.
        repeats: for each row, whether it repeats the row before.
        routed: for each row, whether it has a choice.
        ties: rows whose weights are all equal.
        weighted: rows of two choices or more that have weights.
        last: the last row.
        digests: hash of the choices, by file.
    """

    rows: int = 0
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    identity: list[NDArray[np.bool_]] = field(default_factory=list)
    repeats: list[NDArray[np.bool_]] = field(default_factory=list)
    routed: list[NDArray[np.bool_]] = field(default_factory=list)
    ties: int = 0
    weighted: int = 0
    last: NDArray[Any] | None = None
    digests: dict[str, tuple[Any, int]] = field(default_factory=dict)


@dataclass(slots=True)
class RowWatch:
    """Looks at rows as they pass, layer by layer.

    Attributes:
        layers: by name.
    """

    layers: dict[str, LayerRows] = field(default_factory=dict)

    def add(
        self, name: str, chosen: NDArray[Any], weight: NDArray[Any] | None = None, file: str = ""
    ) -> None:
        """Look at the next rows of a layer: ``(N, K)`` choices, -1 pads."""
        if not len(chosen):
            return
        layer = self.layers.setdefault(name, LayerRows())
        valid = chosen[chosen >= 0]
        if valid.size:
            counts = np.bincount(valid, minlength=len(layer.counts))
            counts[: len(layer.counts)] += layer.counts
            layer.counts = counts
        layer.identity.append(np.atleast_1d(np.all(chosen == np.arange(chosen.shape[1]), axis=1)))
        layer.repeats.append(_repeats(layer.last, chosen))
        layer.routed.append(np.atleast_1d(np.any(chosen >= 0, axis=1)))
        layer.last = chosen[-1].copy()
        layer.rows += len(chosen)
        if weight is not None and chosen.shape[1] > 1:
            several = (chosen >= 0).all(1)
            layer.weighted += int(several.sum())
            layer.ties += int((several & (weight == weight[:, :1]).all(1)).sum())
        content, rows = layer.digests.get(file) or (hashlib.sha256(), 0)
        content.update(np.ascontiguousarray(chosen, dtype=np.int64).data)
        layer.digests[file] = (content, rows + len(chosen))

    def warnings(self) -> tuple[tuple[Warned, ...], Mapping[str, NDArray[np.bool_]]]:
        """Return what was seen; and which rows of every layer, by kind, where that can be told."""
        if not self.layers:
            return (), {}
        found: list[Warned] = []
        rows: dict[str, NDArray[np.bool_]] = {}
        if nothing := _nothing_recorded(self.layers):
            return (nothing,), {}
        found += _repeated_ranks(self.layers, rows)
        found += _warm_up(self.layers, rows)
        found += _of_all_layers(self.layers, rows)
        found += _ties(self.layers)
        sizes = {name: float(layer.rows) for name, layer in self.layers.items()}
        found += uneven_layers(sizes)
        counts = {name: layer.counts.astype(np.float64) for name, layer in self.layers.items()}
        widths = {
            name: int((layer.last >= 0).sum())
            for name, layer in self.layers.items()
            if layer.last is not None
        }
        found += too_equal(counts, widths)
        return tuple(found), rows

    def unrouted(self) -> str:
        """Say how many rows chose no module, of the layer with most of them; empty for none."""
        empty = {name: int((~_joined(each.routed)).sum()) for name, each in self.layers.items()}
        name = max(empty, key=empty.__getitem__, default="")
        if not empty.get(name):
            return ""
        layer = self.layers[name]
        return (
            f"{_percent(empty[name], layer.rows)} of the rows of {name} ({empty[name]} of "
            f"{layer.rows}) chose no module; a row chose {layer.counts.sum() / layer.rows:.3g}."
        )


def _repeats(last: NDArray[Any] | None, chosen: NDArray[Any]) -> NDArray[np.bool_]:
    same = np.zeros(len(chosen), dtype=bool)
    same[1:] = (chosen[1:] == chosen[:-1]).all(1)
    if last is not None and len(last) == chosen.shape[1]:
        same[0] = (chosen[0] == last).all()
    return same


def _joined(parts: Sequence[NDArray[np.bool_]]) -> NDArray[np.bool_]:
    return np.concatenate(parts) if parts else np.zeros(0, dtype=bool)


def _percent(part: int, whole: int) -> str:
    share = 100 * part / whole
    return f"{share:.0f} %" if share >= 1 else f"{share:.1g} %"


def _nothing_recorded(layers: Mapping[str, LayerRows]) -> Warned | None:
    """Warn where every choice of every layer is module 0: an array that nobody filled."""
    rows = sum(layer.rows for layer in layers.values())
    if len(layers) < 2 or rows < FEWEST or any(layer.counts[1:].any() for layer in layers.values()):  # noqa: PLR2004
        return None
    if not any(layer.counts.any() for layer in layers.values()):
        return None
    return Warned(
        "nothing recorded",
        f"all choices of all {len(layers)} layers are module 0: the engine recorded nothing. Have "
        "it record again; these numbers mean nothing.",
    )


# --- runs of one choice --------------------------------------------------------------------------


def runs_of(same: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Yield first and end of each unbroken run of equal rows that is long enough."""
    starts = np.flatnonzero(~same)
    ends = np.append(starts[1:], len(same))
    for place in np.flatnonzero(ends - starts >= SHORTEST_RUN):
        yield int(starts[place]), int(ends[place])


def _warm_up(
    layers: Mapping[str, LayerRows], rows: dict[str, NDArray[np.bool_]]
) -> Iterator[Warned]:
    """Warn of unbroken runs of one choice, longer than the other rows could give by chance.

    In runs that are there by chance a row repeats the one before as often as elsewhere: with the
    share p of repeats outside, a run of n rows has probability N p^(n-1).
    """
    affected: dict[str, list[tuple[int, int]]] = {}
    for name, layer in layers.items():
        same = _joined(layer.repeats)
        runs = [run for run in runs_of(same) if run[1] - run[0] < layer.rows]
        inside = np.zeros(len(same), dtype=bool)
        for first, end in runs:
            inside[first:end] = True
        outside = same[~inside]
        share = (outside.sum() + 1) / (len(outside) + 2)
        long = [
            (first, end)
            for first, end in runs
            if len(same) * share ** (end - first - 1) < RARE
            and _joined(layer.routed)[first]
            and not _joined(layer.identity)[first]  # that is padding
            and end - first >= SHARE * layer.rows
        ]
        if 0 < len(long) <= MOST_RUNS and len(outside) >= FEWEST:
            affected[name] = long
    if not affected:
        return
    name = next(iter(affected))
    runs, total = affected[name], layers[name].rows
    length = sum(end - first for first, end in runs)
    places = ", ".join(f"rows {first + 1} to {end}" for first, end in runs[:3])
    further = f" and in {len(affected) - 1} other layers" if len(affected) > 1 else ""
    yield Warned(
        "warm-up",
        f"{_percent(length, total)} of the rows of {name} are one choice in an unbroken run "
        f"({places}){further}: a profiling run, or dummy tokens. Leave them out with --leave-out "
        "warm-up.",
    )
    if _same_size(layers):
        marked = np.zeros(total, dtype=bool)
        for first, end in runs:
            marked[first:end] = True
        rows["warm-up"] = marked


def _same_size(layers: Mapping[str, LayerRows]) -> bool:
    return len({layer.rows for layer in layers.values()}) == 1


# --- rows of all layers at once ------------------------------------------------------------------


def _of_all_layers(
    layers: Mapping[str, LayerRows], rows: dict[str, NDArray[np.bool_]]
) -> Iterator[Warned]:
    if not _same_size(layers):
        return
    total = next(iter(layers.values())).rows
    known = rows.get("warm-up", np.zeros(total, dtype=bool))
    identity = [_joined(layer.identity) & ~known for layer in layers.values()]
    padding, by_chance = _together(identity)
    if _room(layers) < BITS:
        return
    seen = int(padding.sum())
    if _telling(padding, by_chance):
        yield Warned(
            "padding",
            f"{_percent(seen, total)} of the tokens ({seen} of {total}) "
            "chose modules 0, 1, ... in order in every layer, as padding rows of an engine do. "
            "Leave them out with --leave-out padding.",
        )
        rows["padding"] = padding
        known = known | padding
    repeats = [_joined(layer.repeats) & ~known for layer in layers.values()]
    repeated, by_chance = _together(repeats)
    enough = repeated.sum() >= REPEATED * total and (~repeated).sum() >= FEWEST
    if enough and _telling(repeated, by_chance):
        yield Warned(
            "repeated rows",
            f"{_percent(int(repeated.sum()), total)} of the tokens repeat the choices of the token "
            "before them in every layer: padding, tokens read twice, or routing that is fixed "
            'within a document. Leave them out with --leave-out "repeated rows".',
        )
        rows["repeated rows"] = repeated


def _room(layers: Mapping[str, LayerRows]) -> float:
    """Return in bits how many different choices a token could make in all layers."""
    bits = 0.0
    for layer in layers.values():
        modules, choices = len(layer.counts), 0 if layer.last is None else len(layer.last)
        bits += sum(np.log2(modules - index) for index in range(min(choices, modules)))
    return float(bits)


def _together(marks: Sequence[NDArray[np.bool_]]) -> tuple[NDArray[np.bool_], float]:
    """Return the rows that are marked in every layer, and how many would be by chance."""
    every = np.logical_and.reduce(marks)
    rest = max(int((~every).sum()), 1)
    shares = [(int((mark & ~every).sum()) + 1) / (rest + 1) for mark in marks]
    return every, float(len(every) * np.prod(shares))


def _telling(marked: NDArray[np.bool_], by_chance: float) -> bool:
    seen = int(marked.sum())
    enough = seen >= max(FEWEST, SHARE * len(marked))
    return bool(enough and special.gammainc(seen, by_chance) < RARE)


def _repeated_ranks(
    layers: Mapping[str, LayerRows], rows: dict[str, NDArray[np.bool_]]
) -> Iterator[Warned]:
    """Warn of files whose choices are those of another, in every layer that they hold."""
    files: dict[str, dict[str, tuple[str, int]]] = {}
    for name, layer in layers.items():
        for file, (content, length) in layer.digests.items():
            files.setdefault(file, {})[name] = (content.hexdigest(), length)
    seen: dict[str, str] = {}
    copies: dict[str, str] = {}
    for file, held in files.items():
        key = repr(sorted(held.items()))
        if key in seen and sum(length for _, length in held.values()) >= FEWEST:
            copies[file] = seen[key]
        seen.setdefault(key, file)
    if not copies:
        return
    file, other = next(iter(copies.items()))
    more = f", and {len(copies) - 1} more repeat others" if len(copies) > 1 else ""
    count = sum(length for copy in copies for _, length in files[copy].values())
    yield Warned(
        "repeated ranks",
        f"{file} repeats {other} row for row{more}, so {count} rows were counted twice: ranks that "
        'share their tokens, or copies. Leave them out with --leave-out "repeated ranks".',
    )
    if _same_size(layers):
        first = next(iter(layers.values()))
        marks = [np.full(length, file in copies) for file, (_, length) in first.digests.items()]
        rows["repeated ranks"] = np.concatenate(marks)


def _ties(layers: Mapping[str, LayerRows]) -> Iterator[Warned]:
    tied = {
        name: layer
        for name, layer in layers.items()
        if layer.weighted >= FEWEST and layer.ties >= TIED * layer.weighted
    }
    if not tied:
        return
    name, layer = next(iter(tied.items()))
    yield Warned(
        "ties",
        f"in {_percent(layer.ties, layer.weighted)} of the rows of {name} all weights are equal"
        f"{f', and in {len(tied) - 1} other layers' if len(tied) > 1 else ''}: ties, not a choice. "
        "A router of zeros gives such rows.",
    )


# --- counts --------------------------------------------------------------------------------------


def of_counts(
    counts: Mapping[str, NDArray[np.float64]], samples: Mapping[str, float] | None = None
) -> tuple[Warned, ...]:
    """Return what is suspicious in counts of modules by layer; NaN is unknown."""
    known = {name: row for name, row in counts.items() if np.isfinite(row).all() and row.sum() > 0}
    if not known:
        return ()
    if len(known) > 1 and all(row[0] == row.sum() >= FEWEST for row in known.values()):
        text = (
            f"all choices of all {len(known)} layers are module 0: the engine recorded nothing. "
            "Have it record again; these numbers mean nothing."
        )
        return (Warned("nothing recorded", text),)
    sizes = samples or {name: float(row.sum()) for name, row in known.items()}
    return (*uneven_layers(sizes), *too_equal(known), *rounded(known))


def uneven_layers(sizes: Mapping[str, float]) -> Iterator[Warned]:
    """Warn of layers with far fewer tokens than the usual layer has."""
    usual = float(np.median(list(sizes.values())))
    few = {name: size for name, size in sizes.items() if size < FAR_FEWER * usual}
    if few:
        name = min(few, key=lambda each: few[each])
        more = f", and {len(few) - 1} other layers have few too" if len(few) > 1 else ""
        yield Warned(
            "uneven layers",
            f"{name} has {few[name]:,.0f} tokens where the usual layer has {usual:,.0f}{more}: "
            "layers were recorded on different tokens, or in part.",
        )


def too_equal(
    counts: Mapping[str, NDArray[np.float64]], choices: Mapping[str, int] | None = None
) -> Iterator[Warned]:
    """Warn of counts that are more equal than independent tokens could make them.

    Pearson's statistic against equal shares, summed over layers, lies below what chi-squared with
    M - 1 degrees of freedom a layer leaves to chance; unequal preferences only make it larger. K
    different modules of M for each token leave less room, by (M - K) / (M - 1); where K is unknown
    it is taken for half of M.
    """
    whole = {
        name: row
        for name, row in counts.items()
        if len(row) > 1 and row.sum() >= 5 * len(row) and (row == np.round(row)).all()
    }
    statistic = 0.0
    for name, row in whole.items():
        chosen = (choices or {}).get(name) or len(row) / 2
        room = max(len(row) - chosen, 0) / (len(row) - 1)
        statistic += float(((row - row.mean()) ** 2).sum() / row.mean()) / max(room, 1e-9)
        if chosen >= len(row):
            return  # every token takes every module
    freedom = sum(len(row) - 1 for row in whole.values())
    if whole and special.chdtr(freedom, statistic) < RARE:
        spread = np.sqrt(np.mean([row.mean() for row in whole.values()]))
        yield Warned(
            "too equal",
            "counts of modules are more equal than independent tokens could make them (chance "
            f"alone would spread them by about {spread:.0f}): padding to capacity, or a balanced "
            "assignment. Load says nothing then.",
        )


def rounded(counts: Mapping[str, NDArray[np.float64]]) -> Iterator[Warned]:
    """Warn of large counts that numbers of half precision can all hold: they were rounded."""
    large = np.concatenate([row[row >= 512] for row in counts.values()] or [np.zeros(0)])  # noqa: PLR2004
    if not len(large) or (large != np.round(large)).any():
        return
    for name, digits in (("bf16", 8), ("fp16", 11)):
        steps = 2.0 ** np.maximum(np.floor(np.log2(large)) + 1 - digits, 0)
        if (large % steps == 0).all() and -np.log(steps).sum() < np.log(RARE):
            yield Warned(
                "rounded",
                f"all {len(large)} counts above 512 are numbers that {name} can hold, as sums kept "
                f"in {name} are: the largest may be off by {int(steps.max()) // 2} or more.",
            )
            return
