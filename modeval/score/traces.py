"""Scores of traces: from the counts of recorded or imported routing to a scorecard of one model."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from modeval.errors import TraceError
from modeval.score.card import better_of, routing_card, with_scores
from modeval.score.clean import Cleaned, clean, default_view
from modeval.score.content import content_digest
from modeval.score.entries import Members, entries
from modeval.score.measure import Measured
from modeval.score.routing import Routing
from modeval.score.scorecard import LeftOut, Member, ModelRecord, Score, Scorecard
from modeval.score.tokens import TokenScore, Words, sample_layers, token_scores, words_of_layers
from modeval.trace.files import Trace
from modeval.trace.fold import LayerGroup
from modeval.trace.trace import TraceHeader
from modeval.types import Prior, View

STOPPED = "the trace is incomplete: its recording stopped early. What is there is used."


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What is known of a trace beside its counts.

    Attributes:
        source: its folder or file.
        name: what people call it.
        rows: number of rows, pairs of a token and a layer; nothing for counts.
        documents: number of documents; nothing where unknown.
        mixed: whether labels change within a document.
        complete: whether its writer came to its end.
    """

    source: str
    name: str
    rows: int | None = None
    documents: int | None = None
    mixed: bool = False
    complete: bool = True


def score_trace(
    header: TraceHeader,
    groups: Sequence[LayerGroup],
    reading: Reading,
    *,
    view: View | None = None,
    prior: Prior = "uniform",
    layers: Sequence[int] | None = None,
    permutations: int | None = None,
    generator: torch.Generator | None = None,
    trace: Trace | None = None,
) -> Scorecard:
    """Turn the counts of a trace into a scorecard of one model.

    Each layer is scored on its own, then their mean, then the worst of them. Values are corrected
    for the bias of few documents and have intervals over documents, the worst layer's from the
    worst without each document. Metrics that tell of labels are held against permuted labels.

    Args:
        header: what the trace says of itself.
        groups: its counts, of :func:`modeval.trace.counts.gather`.
        reading: what is known beside them.
        view: what counts as routing; by default the weights where they are shares, else choices.
        prior: weight of the rules.
        layers: numbers of the layers to score; all when absent.
        permutations: number of permutations; when absent 999, and more for many layers.
        generator: draws permutations; two calls give the same numbers.
        trace: the trace that was counted, where its tokens are to be looked at as well.

    Raises:
        TraceError: weights are asked for and there are none, a layer is not there, or nothing can
            be scored.
    """
    cleaned = clean(
        header,
        groups,
        view=_checked_view(view, header),
        prior=prior,
        only=_checked_layers(layers, header),
    )
    record = _record(header, cleaned, reading)
    generator = generator or torch.Generator().manual_seed(0)
    samples = {} if trace is None else sample_layers(trace, cleaned.routing.layers)
    words = words_of_layers(samples, generator)
    card = routing_card(
        record,
        cleaned.routing,
        Members(),
        generator=generator,
        permutations=permutations,
        vocabulary=_vocabulary(cleaned.routing, words),
    )
    scores = [*token_scores(samples, header.modules, words, generator)]
    card = with_scores(card, tuple(_token_entries(record.id, cleaned.routing, scores)))
    doubts = (f"warning, {each.kind}: {each.text}" for each in header.warnings)
    notes = (*doubts, *cleaned.notes, *_reading_notes(reading, cleaned))
    return replace(card, notes=(*(f"{record.title}: {note}" for note in notes), *card.notes))


def _vocabulary(routing: Routing, words: Mapping[int, Words]) -> tuple[bool | None, ...]:
    return tuple(
        words[layer].all_vocabulary if layer in words else None for layer in routing.layers
    )


def _token_entries(model: str, routing: Routing, scores: Sequence[TokenScore]) -> Iterator[Score]:
    """Return the entries of metrics of tokens: over layers, and layer by layer."""
    places = {layer: index for index, layer in enumerate(routing.layers)}
    for name in dict.fromkeys(score.metric for score in scores):
        own = {places[score.layer]: score for score in scores if score.metric == name}
        value = torch.full((1, len(places)), torch.nan, dtype=torch.float64)
        for index, score in own.items():
            value[0, index] = score.value
        base = Score(model=model, metric=name, better=better_of(name))
        for entry in entries(base, Measured(value), Members()):
            single = own.get(entry.layer or 0) if entry.over != "mean" else None
            yield replace(
                entry,
                samples=max(score.tokens for score in own.values()),
                plug_in=None if single is None else single.plug_in,
                chance_permuted=None if single is None else single.shuffled,
            )


def _checked_view(view: View | None, header: TraceHeader) -> View:
    own = default_view(header)
    if view == "weight" and own != "weight":
        raise TraceError(
            f"--view weight: the weights of this trace are {header.weight_scale!r}, which are no "
            "shares of a token. Use --view assignment."
        )
    return view or own


def _checked_layers(layers: Sequence[int] | None, header: TraceHeader) -> tuple[int, ...]:
    every = tuple(range(len(header.layers)))
    if layers is None:
        return every
    strange = [layer for layer in layers if layer not in every]
    if strange or not layers:
        what = strange[0] if strange else "none"
        raise TraceError(
            f"--layers {what}: this trace has layers 0 to {every[-1]}. Give numbers as 0,4,8-11."
        )
    return tuple(sorted(set(layers)))


def _reading_notes(reading: Reading, cleaned: Cleaned) -> list[str]:
    notes = []
    if not reading.complete:
        notes.append(STOPPED)
    if cleaned.routing.rules == 1:
        notes.append(
            "tokens have no labels (or only one), so load can be told, and specialisation cannot. "
            "Record with --label, or import with --label-from, to tell it."
        )
    return notes


# --- the model -----------------------------------------------------------------------------------


def _record(header: TraceHeader, cleaned: Cleaned, reading: Reading) -> ModelRecord:
    routing = cleaned.routing
    chosen, title = routing.layers, reading.name
    stopped = () if reading.complete else (LeftOut(kind="rest", why=STOPPED),)
    return ModelRecord(
        id="".join(c if c.isalnum() or c in "-._" else "-" for c in title.lower()) or "trace",
        title=title,
        origin="trace",
        selection=None,
        data={
            "task": "trace",
            "documents": reading.documents,
            "tokens": int(routing.samples.max()),
            "rows": reading.rows,
            "phase": header.phase,
            "capacity": header.capacity,
            "padding": header.padding,
            "labels_within_documents": reading.mixed,
            "copies_of_documents": cleaned.copies,
            "complete": reading.complete,
            "notes": list(header.notes),
        },
        model={
            **asdict(header.source),
            "choices": [header.choices[layer] or None for layer in chosen],
            "layer_numbers": list(chosen),
            "weight_scale": header.weight_scale,
            "shared_modules": header.shared,
            "weights_digest": header.digest or None,
        },
        digest=header.fingerprint(),
        modules=max(header.modules[layer] for layer in chosen),
        rules=tuple(header.labels[rule] for rule in cleaned.rules) if header.labels else (),
        layers=tuple(header.layers[layer] for layer in chosen),
        layer_modules=tuple(header.modules[layer] for layer in chosen),
        prior=routing.prior,
        view=routing.view,
        adaptation="reweight" if routing.rules > 1 else "none",
        members=(
            Member(
                seed=None,
                source=reading.source,
                note=" ".join(header.notes),
                precision=_half_width(routing),
            ),
        ),
        left_out=(*cleaned.left_out, *stopped),
        warnings=header.warnings,
        content=content_digest(_counted(header, routing)),
    )


def _counted(header: TraceHeader, routing: Routing) -> Iterator[tuple[str, Tensor]]:
    """Yield what is counted of each layer, and the header; sums in half their digits."""
    yield "header", torch.frombuffer(bytearray(header.fingerprint().encode()), dtype=torch.uint8)
    for group in routing.groups:
        for place, layer in enumerate(group.layers):
            yield f"{layer} samples", group.counts.samples[:, place]
            yield f"{layer} table", group.table(routing.view)[:, place].float()


def _half_width(routing: Routing) -> float | None:
    """Return half of the 95 % interval of the least certain entry of A, of all layers.

    A is a ratio of sums over documents; its variance is that of their residuals (Cochran 1977,
    Sampling Techniques, section 2.11).
    """
    widest: float | None = None
    for group in routing.groups:
        units = group.units
        if units is None:
            return None
        member = torch.nn.functional.one_hot(units.label, units.rules).double()
        number = member.sum(0)
        if float(number.min()) < 2:  # noqa: PLR2004 - one document has no spread
            return None
        table = units.table(routing.view)
        size = table.sum(-1)
        whole = (size @ member).unsqueeze(-1)
        share = (member.T @ table) / whole
        residual = table - size.unsqueeze(-1) * share[..., units.label, :]
        variance = (member.T @ residual.square()) / whole.square()
        variance *= (number / (number - 1))[:, None]
        widest = max(widest or 0.0, 1.96 * float(variance.max().sqrt()))
    return widest
