"""Which token is which row of a router's output: masks, labels, documents, positions, phase.

Routers see a flat list of tokens. What these are is known further out, where a model, its encoder,
its decoder or its vision tower is called with a mask and a batch. Each such call is a *frame*;
frames nest, and a router's rows belong to the innermost frame with as many tokens.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Int, Int64
from torch import Tensor, nn

from modeval.errors import TraceError
from modeval.trace.fold import document_block

UNKNOWN, PREFILL, DECODE, TRAIN = range(4)
SHAPES = ("input_ids", "inputs_embeds", "decoder_input_ids", "decoder_inputs_embeds")
CACHES = ("cache", "past_key_values", "cache_params")  # renamed in transformers 5.24
FIRST_INPUTS = (*SHAPES, "hidden_states", "input", "inputs", "x", "pixel_values", "input_features")


@dataclass(frozen=True, slots=True)
class Labelling:
    """What the user said of the samples of a batch.

    Attributes:
        label: ``(B,)`` or ``(B, T)`` numbers of rules, -1 for none; nothing without rules.
        document: ``(B,)`` number of the document of each sample.
        mask: ``(B, T)`` the tokens that count, given by hand instead of the model's mask.
        uniform: the one label of all samples, when it is one.
    """

    label: Int64[Tensor, "*samples"] | None
    document: Int64[Tensor, " documents"]
    mask: Bool[Tensor, "batch positions"] | None = None
    uniform: int | None = None


@dataclass(slots=True)
class Frame:
    """One call of a model or of one of its stacks.

    Attributes:
        module: the module that was called.
        batch: samples B, when inputs tell it.
        length: positions T, when inputs tell it.
        mask: ``(B, T)`` tokens that are not padding; nothing when no mask was given.
        position: ``(B, T)`` place of each token in its sample, padding left out.
        tokens: ``(B, T)`` token ids.
        phase: number of the phase.
        targets: ``(B, T)`` mask of a decoder that this call feeds with its targets.
        going: ``(B, 1)`` sequences of a batch that have not ended yet, while it generates.
        places: what was worked out for rows of this frame, by number of rows and device.
    """

    module: nn.Module
    batch: int | None
    length: int | None
    mask: Bool[Tensor, "batch positions"] | None
    position: Int64[Tensor, "batch positions"] | None
    tokens: Int[Tensor, "batch positions"] | None
    phase: int
    targets: Bool[Tensor, "batch positions"] | None = None
    going: Bool[Tensor, "batch 1"] | None = None
    places: dict[tuple[int, torch.device], "Place"] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """What the rows of a router's output are.

    Attributes:
        cell: ``(N,)`` number of block and rule, B R for rows that count nowhere.
        keep: ``(N,)`` rows that are not padding; nothing when all are.
        label: ``(N,)`` rule, -1 for none.
        document: ``(N,)``; -1 where unknown.
        position: ``(N,)``; -1 where unknown.
        tokens: ``(N,)``; -1 where unknown.
        phase: number of the phase.
    """

    cell: Int64[Tensor, " rows"]
    keep: Bool[Tensor, " rows"] | None
    label: Int64[Tensor, " rows"]
    document: Int64[Tensor, " rows"]
    position: Int64[Tensor, " rows"]
    tokens: Int64[Tensor, " rows"]
    phase: int


# --- frames --------------------------------------------------------------------------------------


def parameter_names(module: nn.Module) -> tuple[str, ...]:
    """Return the names of the positional parameters of a module's forward."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(module.forward).parameters.values()
    return tuple(entry.name for entry in parameters if entry.kind in kinds)


def make_frame(
    module: nn.Module,
    names: Sequence[str],
    arguments: tuple[Any, ...],
    by_name: Mapping[str, Any],
    outer: Frame | None,
) -> Frame:
    """Return the frame of a call: its tokens, its mask, its phase."""
    given = {**dict(zip(names, arguments, strict=False)), **by_name}
    batch, length = _shape(given, arguments, inner=outer is not None)
    mask, position, past = _mask(given, batch, length)
    frame = Frame(
        module=module,
        batch=batch,
        length=length,
        mask=mask,
        position=position,
        tokens=_tokens(given, batch, length),
        phase=_phase(module, filled=past > 0 or _cached(given), length=length),
        targets=_targets(given),
    )
    if outer is not None:
        _inherit(frame, outer, decoder=given.get("encoder_hidden_states") is not None)
    return frame


def _inherit(frame: Frame, outer: Frame, *, decoder: bool) -> None:
    """Take over from the call around what this one was not told."""
    frame.phase, frame.going = outer.phase, outer.going
    if decoder:  # the mask around it is that of the encoder
        targets = outer.targets
        if frame.mask is None and targets is not None:
            fits = tuple(targets.shape) == (frame.batch, frame.length)
            frame.mask = targets if fits else None
        return
    frame.targets = outer.targets if frame.targets is None else frame.targets
    if (outer.batch, outer.length) == (frame.batch, frame.length):
        frame.mask = outer.mask if frame.mask is None else frame.mask
        frame.position = outer.position if frame.position is None else frame.position
        frame.tokens = outer.tokens if frame.tokens is None else frame.tokens


def _shape(
    given: Mapping[str, Any], arguments: tuple[Any, ...], *, inner: bool
) -> tuple[int | None, int | None]:
    """Return batch and positions of the tokens of a call, as far as its inputs tell them."""
    for name in SHAPES:
        ids = given.get(name)
        if isinstance(ids, Tensor) and ids.ndim > 1:
            return int(ids.shape[0]), int(ids.shape[1])
    named = [given[name] for name in FIRST_INPUTS if isinstance(given.get(name), Tensor)]
    pixels = given.get("pixel_values")
    for part in (*named, *arguments, *given.values()):
        if isinstance(part, Tensor) and part.ndim > 0:
            return _guess(part, patches=inner or part is pixels)
    return None, None


def _guess(part: Tensor, *, patches: bool) -> tuple[int | None, int | None]:
    """Guess from the first tensor: ids or vectors of tokens, vectors of samples, or images.

    Rows of patches (of a vision tower) are of several samples, and nothing says of which.
    """
    if part.is_floating_point() and part.ndim > 3:  # noqa: PLR2004
        return int(part.shape[0]), None
    if part.is_floating_point() and part.ndim < 3 and patches:  # noqa: PLR2004
        return None, None
    tokens = part.ndim > 2 if part.is_floating_point() else part.ndim > 1  # noqa: PLR2004
    return int(part.shape[0]), int(part.shape[1]) if tokens else 1


def _mask(
    given: Mapping[str, Any], batch: int | None, length: int | None
) -> tuple[Tensor | None, Tensor | None, int]:
    """Return the mask of the tokens of this call, their positions, and how many came before."""
    mask = given.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.ndim != 2 or length is None:  # noqa: PLR2004
        return None, None, 0
    if mask.shape[0] != batch or mask.shape[1] < length:
        return None, None, 0
    whole = mask > 0
    if mask.is_floating_point() and not mask.requires_grad:
        whole = mask > 0.5  # noqa: PLR2004 - ones and zeros kept as real numbers
    position = whole.long().cumsum(1) - 1
    return whole[:, -length:], position[:, -length:], int(mask.shape[1]) - length


def _tokens(given: Mapping[str, Any], batch: int | None, length: int | None) -> Tensor | None:
    for name in ("input_ids", "decoder_input_ids"):
        ids = given.get(name)
        if isinstance(ids, Tensor) and ids.shape == (batch, length):
            return None if ids.is_floating_point() else ids
    return None


def _cached(given: Mapping[str, Any]) -> bool:
    """Return whether keys and values of earlier tokens are given."""
    cache = next((given[name] for name in CACHES if given.get(name) is not None), None)
    if cache is None:
        return False
    length = getattr(cache, "get_seq_length", None)
    if length is None:
        return bool(len(cache)) if isinstance(cache, (tuple, list)) else True
    try:
        filled = length()
    except (ValueError, IndexError, AttributeError, NotImplementedError):
        return True  # a cache of states alone, without a length
    return bool(filled)  # a cache of fixed size counts on its device, and is asked there


def _phase(module: nn.Module, *, filled: bool, length: int | None) -> int:
    if module.training:
        return TRAIN
    return DECODE if filled and length == 1 else PREFILL


def _targets(given: Mapping[str, Any]) -> Tensor | None:
    """Return the mask of a decoder that is fed its own targets: padding is -100 among these."""
    labels = given.get("labels")
    if given.get("decoder_attention_mask") is not None or not isinstance(labels, Tensor):
        return None
    return labels != -100  # noqa: PLR2004 - the number that Hugging Face losses ignore


# --- places --------------------------------------------------------------------------------------


def place_rows(
    frames: Sequence[Frame],
    rows: int,
    device: torch.device,
    labelling: Labelling,
    *,
    rules: int,
    blocks: int,
) -> Place:
    """Return what ``rows`` tokens of a router are, by the innermost frame that they fit."""
    for frame in reversed(frames):
        key = (rows, device)
        if key in frame.places:
            return frame.places[key]
        place = _fit(frame, rows, device, labelling, rules=rules, blocks=blocks)
        if place is not None:
            frame.places[key] = place
            return place
    samples = labelling.label
    if not frames and samples is not None and samples.ndim == 1:
        whole = Frame(nn.Identity(), len(samples), None, None, None, None, UNKNOWN)
        place = _fit(whole, rows, device, labelling, rules=rules, blocks=blocks)
        if place is not None:
            return place
    phase = frames[-1].phase if frames else UNKNOWN
    return _unplaced(rows, device, labelling, rules=rules, blocks=blocks, phase=phase)


def _fit(
    frame: Frame, rows: int, device: torch.device, labelling: Labelling, *, rules: int, blocks: int
) -> Place | None:
    batch, length = frame.batch, frame.length
    if batch is None or not batch:
        return None
    mask = _mask_of(frame, labelling)
    inside = None
    if length is None:
        if rows % batch:
            return None
        length = rows // batch
    elif rows != batch * length:
        if mask is None or rows != int(mask.sum()):
            return None
        inside = mask.reshape(-1)  # padding was taken out before the router
    shape = (batch, length)
    label = _labels(labelling, shape)
    document = _spread(labelling.document, shape)
    position = frame.position
    if position is None or position.shape != shape:
        position = torch.arange(length).expand(shape)
    tokens = frame.tokens if frame.tokens is not None else torch.full((1, 1), -1).expand(shape)
    parts = [part.to(device, non_blocking=True) for part in (label, document, position, tokens)]
    keep = None if mask is None or mask.shape != shape else mask.to(device, non_blocking=True)
    flat = [part.reshape(-1).long() for part in parts]
    if inside is not None:
        flat, keep = [part[inside.to(device)] for part in flat], None
    flat_keep = None if keep is None else keep.reshape(-1)
    return _make_place(flat, flat_keep, frame.phase, rules, blocks)


def _mask_of(frame: Frame, labelling: Labelling) -> Tensor | None:
    given, mask = labelling.mask, frame.mask
    if given is not None and tuple(given.shape) == (frame.batch, frame.length):
        mask = given
    if frame.going is None or len(frame.going) != frame.batch:
        return mask
    if mask is None and frame.length is not None:
        return frame.going.expand(-1, frame.length)
    return None if mask is None else mask.to(frame.going.device) & frame.going


def _labels(labelling: Labelling, shape: tuple[int, int]) -> Tensor:
    if labelling.label is None:
        return torch.zeros(1, 1, dtype=torch.int64).expand(shape)
    if labelling.label.ndim == 1:
        return _spread(labelling.label, shape)
    if tuple(labelling.label.shape) == shape:
        return labelling.label
    if labelling.label.shape[1] > shape[1] == 1:  # decoding: a token takes the label of the last
        return _spread(labelling.label[:, -1], shape)
    raise TraceError(
        f"Labels have the shape {tuple(labelling.label.shape)}, and the tokens {shape}: expected "
        "one label for each sample, or one for each token. Give one for each sample: "
        "recording.label(labels)."
    )


def _spread(values: Tensor, shape: tuple[int, int]) -> Tensor:
    """Give each sample's value to its tokens; beams and returned sequences share a sample's."""
    batch, length = shape
    samples = len(values)
    if samples == 0 or batch % samples:
        raise TraceError(
            f"{samples} labels were given for a batch of {batch} samples: expected {batch}. Call "
            "recording.label(labels) with the labels of the batch, before each batch."
        )
    return values.repeat_interleave(batch // samples).unsqueeze(1).expand(batch, length)


def _unplaced(
    rows: int, device: torch.device, labelling: Labelling, *, rules: int, blocks: int, phase: int
) -> Place:
    """Place rows that no frame explains: they have a label only when all samples have the same."""
    label = 0 if labelling.label is None else -1
    if labelling.uniform is not None:
        label = labelling.uniform
    document = int(labelling.document[0]) if len(labelling.document) == 1 else -1
    fill = [torch.full((rows,), value, device=device) for value in (label, document, -1, -1)]
    return _make_place(fill, None, phase, rules, blocks)


def _make_place(
    parts: Sequence[Tensor], keep: Tensor | None, phase: int, rules: int, blocks: int
) -> Place:
    label, document, position, tokens = parts
    cell = document_block(document, blocks) * rules + label
    outside = (label < 0) | (label >= rules)
    if keep is not None:
        outside = outside | ~keep
    cell = torch.where(outside, blocks * rules, cell)
    return Place(cell, keep, label, document, position, tokens, phase)


def subset(place: Place, rows: Bool[Tensor, " rows"]) -> Place:
    """Return the place of those rows that a block sends to one of its routers."""
    return Place(
        cell=place.cell[rows],
        keep=None if place.keep is None else place.keep[rows],
        label=place.label[rows],
        document=place.document[rows],
        position=place.position[rows],
        tokens=place.tokens[rows],
        phase=place.phase,
    )
