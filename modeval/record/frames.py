"""Which token is which row of a router's output: masks, labels, documents, positions, phase.

Routers see a flat list of tokens. What these are is known further out, where a model, its encoder,
its decoder or its vision tower is called with a mask and a batch. Each such call is a *frame*;
frames nest, and a router's rows belong to the innermost frame with as many tokens.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Int, Int64
from torch import Tensor, nn

from modeval.errors import TraceError
from modeval.record.masks import NOTHING, Past, past_of, token_mask
from modeval.trace.fold import document_block

UNKNOWN, PREFILL, DECODE, TRAIN = range(4)
SHAPES = ("input_ids", "inputs_embeds", "decoder_input_ids", "decoder_inputs_embeds")
FIRST_INPUTS = (*SHAPES, "hidden_states", "input", "inputs", "x", "pixel_values", "input_features")


@dataclass(frozen=True, slots=True)
class Labelling:
    """What the user said of the samples of a batch.

    Attributes:
        label: ``(B,)`` or ``(B, T)`` numbers of rules, -1 for none; nothing without rules.
        document: ``(B,)`` or ``(B, T)`` number of the document of each sample, or of each token.
        mask: ``(B, T)`` the tokens that count, given by hand instead of the model's mask.
        uniform: the one label of all samples, when it is one.
        repeated: whether a sample may stand for several rows of the batch, as beams and returned
            sequences do while a model generates.
        stray: whether tokens that can be given no label are left out rather than refused.
    """

    label: Int64[Tensor, "*samples"] | None
    document: Int64[Tensor, "*documents"]
    mask: Bool[Tensor, "batch positions"] | None = None
    uniform: int | None = None
    repeated: bool = False
    stray: bool = False

    def fits(self, batch: int) -> bool:
        """Return whether its labels and documents are of a batch of this size."""
        given = [part for part in (self.label, self.document) if part is not None and part.ndim]
        return all(
            len(part) in (0, batch) or (self.repeated and batch % len(part) == 0) for part in given
        )


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
        phase: number of the phase, of what is not prompt where ``prompt`` says so.
        past: what the call was given of earlier tokens.
        prompt: how many of the positions are of the prompt, where a call of generate mixes these
            with tokens that were written; nothing where all are of one phase.
        kin: whether its tokens are those of the outermost call.
        targets: ``(B, T)`` mask of a decoder that this call feeds with its targets.
        going: ``(B, 1)`` sequences of a batch that have not ended yet, while it generates.
        rows: what was worked out for rows of this frame, by number of rows and device.
    """

    module: nn.Module
    batch: int | None
    length: int | None
    mask: Bool[Tensor, "batch positions"] | None
    position: Int64[Tensor, "batch positions"] | None
    tokens: Int[Tensor, "batch positions"] | None
    phase: int
    past: Past = NOTHING
    prompt: int | None = None
    kin: bool = True
    targets: Bool[Tensor, "batch positions"] | None = None
    going: Bool[Tensor, "batch 1"] | None = None
    rows: dict[tuple[int, torch.device], "TokenRows"] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class TokenRows:
    """What the rows of a router's output are.

    Attributes:
        cell: ``(N,)`` number of block and rule, B R for rows that count nowhere.
        keep: ``(N,)`` rows that are not padding; nothing when none is.
        label: ``(N,)`` rule, -1 for none.
        document: ``(N,)``; -1 where unknown.
        position: ``(N,)``; -1 where unknown.
        tokens: ``(N,)``; -1 where unknown.
        phase: number of the phase.
        early: ``(N,)`` rows that are of the prompt although the others are not; nothing when all
            are of one phase.
    """

    cell: Int64[Tensor, " rows"]
    keep: Bool[Tensor, " rows"] | None
    label: Int64[Tensor, " rows"]
    document: Int64[Tensor, " rows"]
    position: Int64[Tensor, " rows"]
    tokens: Int64[Tensor, " rows"]
    phase: int
    early: Bool[Tensor, " rows"] | None = None


# --- frames --------------------------------------------------------------------------------------


def parameter_names(module: nn.Module) -> tuple[str, ...]:
    """Return the names of the positional parameters of a module's forward."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(module.forward).parameters.values()
    return tuple(parameter.name for parameter in parameters if parameter.kind in kinds)


def make_frame(
    module: nn.Module,
    names: Sequence[str],
    arguments: tuple[Any, ...],
    by_name: Mapping[str, Any],
    outer: Frame | None,
    *,
    masked: bool = True,
    within: bool = False,
) -> Frame:
    """Return the frame of a call: its tokens, its mask, its phase.

    Args:
        module: what is called.
        names: names of its positional parameters.
        arguments: what it is given by position.
        by_name: what it is given by name.
        outer: the call around it.
        masked: whether its mask is of interest; not when another one is given by hand.
        within: whether it is made by ``generate``: it may be of a part of the model, of images too.

    Raises:
        TraceError: the mask of the outermost call cannot be read.
    """
    given = {**dict(zip(names, arguments, strict=False)), **by_name}
    batch, length = _shape(given, arguments, inner=outer is not None)
    past = past_of(given)
    inner = within or outer is not None
    mask = _mask(given, batch, length, past, inner=inner) if masked else None
    frame = Frame(
        module=module,
        batch=batch,
        length=length,
        mask=None,
        position=None,
        tokens=_tokens(given, batch, length),
        phase=_phase(module, filled=past.filled, length=length),
        past=past,
        targets=_targets(given),
    )
    put_mask(frame, mask)
    if outer is not None:
        _inherit(frame, outer, decoder=given.get("encoder_hidden_states") is not None)
    return frame


def put_mask(frame: Frame, mask: Tensor | None, past: int | None = None) -> None:
    """Give a frame the mask of its tokens, or of all tokens up to them, and so their positions."""
    frame.rows.clear()
    if frame.length is None:
        return
    if mask is not None:
        position = mask.long().cumsum(1) - 1
        frame.mask, frame.position = mask[:, -frame.length :], position[:, -frame.length :]
        return
    frame.mask = None
    past = frame.past.tokens if past is None else past
    if past is not None and frame.batch is not None:
        position = torch.arange(past, past + frame.length)
        frame.position = position.expand(frame.batch, frame.length)


def _inherit(frame: Frame, outer: Frame, *, decoder: bool) -> None:
    """Take over from the call around what this one was not told."""
    frame.phase, frame.going = outer.phase, outer.going
    same = (outer.batch, outer.length) == (frame.batch, frame.length)
    frame.kin = same and outer.kin and _same_ids(frame.tokens, outer.tokens, decoder=decoder)
    if decoder and not frame.kin:  # the mask around it is that of the encoder
        targets = outer.targets
        if frame.mask is None and targets is not None:
            fits = tuple(targets.shape) == (frame.batch, frame.length)
            frame.mask = targets if fits else None
        return
    frame.targets = outer.targets if frame.targets is None else frame.targets
    if frame.kin:
        frame.mask, frame.position, frame.prompt = outer.mask, outer.position, outer.prompt
        frame.tokens = outer.tokens if frame.tokens is None else frame.tokens


def _same_ids(mine: Tensor | None, outer: Tensor | None, *, decoder: bool) -> bool:
    """Return whether two calls are about the same tokens: ids of another tensor are others."""
    if mine is None or outer is None:
        return not decoder
    return mine.data_ptr() == outer.data_ptr()


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
    given: Mapping[str, Any], batch: int | None, length: int | None, past: Past, *, inner: bool
) -> Tensor | None:
    """Return the mask of the tokens of this call, or of all up to these."""
    own = [name for name in SHAPES if isinstance(given.get(name), Tensor)]
    decoder = bool(own) and own[0].startswith("decoder")
    mask = given.get("decoder_attention_mask" if decoder else "attention_mask")
    try:
        return token_mask(mask, batch, length, past.tokens or 0)
    except TraceError:
        if inner:  # as of the patches of an image: the call around it knows better, or nothing does
            return None
        raise


def _tokens(given: Mapping[str, Any], batch: int | None, length: int | None) -> Tensor | None:
    for name in ("input_ids", "decoder_input_ids"):
        ids = given.get(name)
        if isinstance(ids, Tensor) and ids.shape == (batch, length):
            return None if ids.is_floating_point() else ids
    return None


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


# --- rows ----------------------------------------------------------------------------------------


def token_rows_of(
    frames: Sequence[Frame],
    rows: int,
    device: torch.device,
    labelling: Labelling,
    *,
    rules: int,
    blocks: int,
) -> TokenRows:
    """Return what ``rows`` tokens of a router are, by the innermost frame that they fit."""
    for frame in reversed(frames):
        key = (rows, device)
        if key in frame.rows:
            return frame.rows[key]
        token_rows = _fit(frame, rows, device, labelling, rules=rules, blocks=blocks)
        if token_rows is not None:
            frame.rows[key] = token_rows
            return token_rows
    samples = labelling.label
    if not frames and samples is not None and samples.ndim == 1:
        whole = Frame(nn.Identity(), len(samples), None, None, None, None, UNKNOWN)
        token_rows = _fit(whole, rows, device, labelling, rules=rules, blocks=blocks)
        if token_rows is not None:
            return token_rows
    phase = frames[-1].phase if frames else UNKNOWN
    return _rows_of_none(rows, device, labelling, rules=rules, blocks=blocks, phase=phase)


def sample_rows_of(
    frames: Sequence[Frame],
    rows: int,
    device: torch.device,
    labelling: Labelling,
    *,
    rules: int,
    blocks: int,
) -> TokenRows | None:
    """Return what the rows of a router are that routes whole samples; nothing if they are not."""
    for frame in reversed(frames):
        if frame.batch == rows:
            mask = _mask_of(frame, labelling)
            some = None if mask is None else mask.any(1, keepdim=True)
            whole = Frame(frame.module, rows, 1, some, None, None, frame.phase)
            return _fit(whole, rows, device, labelling, rules=rules, blocks=blocks)
    return None


def _fit(
    frame: Frame, rows: int, device: torch.device, labelling: Labelling, *, rules: int, blocks: int
) -> TokenRows | None:
    mask = _mask_of(frame, labelling)
    length = _length(frame, rows, mask)
    if not frame.batch or length is None or not labelling.fits(frame.batch):
        return None
    shape = (frame.batch, length)
    inside = None  # padding was taken out before the router
    if rows != frame.batch * length and mask is not None:
        inside = mask.reshape(-1).to(device)
    flat = [
        part.to(device, non_blocking=True).reshape(-1).long()
        for part in _columns(frame, labelling, shape)
    ]
    if inside is not None:
        return _make_rows([part[inside] for part in flat], None, frame.phase, rules, blocks)
    keep = None
    if mask is not None and mask.shape == shape:
        keep = mask.to(device, non_blocking=True).reshape(-1)
    token_rows = _make_rows(flat, keep, frame.phase, rules, blocks)
    if frame.prompt is None:
        return token_rows
    early = torch.arange(length, device=device) < frame.prompt
    return replace(token_rows, early=early.expand(shape).reshape(-1))


def _length(frame: Frame, rows: int, mask: Tensor | None) -> int | None:
    """Return how many positions of the samples of a frame so many rows are, if they can be."""
    if not frame.batch:
        return None
    if frame.length is None:
        return None if rows % frame.batch else rows // frame.batch
    whole = rows == frame.batch * frame.length
    return frame.length if whole or (mask is not None and rows == int(mask.sum())) else None


def _columns(frame: Frame, labelling: Labelling, shape: tuple[int, int]) -> list[Tensor]:
    """Return label, document, position and token id of each token, ``(B, T)`` each."""
    document = _spread(labelling.document, shape, frame, labelling)
    position = frame.position
    if labelling.document.ndim > 1:  # several documents in a row
        position = _within(document)
    elif position is None or position.shape != shape:
        position = torch.arange(shape[1]).expand(shape)
    tokens = frame.tokens if frame.tokens is not None else torch.full((1, 1), -1).expand(shape)
    return [_labels(frame, labelling, shape), document, position, tokens]


def _mask_of(frame: Frame, labelling: Labelling) -> Tensor | None:
    given, mask = labelling.mask, frame.mask
    if given is not None and frame.kin and tuple(given.shape) == (frame.batch, frame.length):
        mask = given
    if frame.going is None or len(frame.going) != frame.batch:
        return mask
    if mask is None and frame.length is not None:
        return frame.going.expand(-1, frame.length)
    return None if mask is None else mask.to(frame.going.device) & frame.going


def _labels(frame: Frame, labelling: Labelling, shape: tuple[int, int]) -> Tensor:
    if labelling.label is None:
        return torch.zeros(1, 1, dtype=torch.int64).expand(shape)
    return _spread(labelling.label, shape, frame, labelling)


def _spread(values: Tensor, shape: tuple[int, int], frame: Frame, labelling: Labelling) -> Tensor:
    """Give each sample's value to its tokens; beams and returned sequences share a sample's.

    Tokens that are written take the value of the last token of the prompt.
    """
    batch, length = shape
    if values.ndim > 1 and values.shape[1] != length:  # a value for each token of the prompt
        after = frame.past.filled or labelling.repeated
        values = _go_on(values, shape, frame.past.tokens or 0, after=after)
    rows = values.repeat_interleave(batch // max(len(values), 1), 0)
    return rows.expand(shape) if rows.ndim > 1 else rows.unsqueeze(1).expand(shape)


def _go_on(values: Tensor, shape: tuple[int, int], past: int, *, after: bool) -> Tensor:
    """Return values of the tokens of a prompt for those of one of the calls that it takes."""
    length = shape[1]
    if after:
        end = values[:, -1:].expand(-1, past + length)
        return torch.cat([values, end], 1)[:, past : past + length]
    raise TraceError(
        f"Labels have the shape {tuple(values.shape)}, and the tokens {shape}: expected "
        "one label for each sample, or one for each token. Give one for each sample: "
        "recording.label(labels)."
    )


def _within(document: Tensor) -> Tensor:
    """Return the place of each token in its document, where documents follow in a row.

    >>> _within(torch.tensor([[7, 7, 7, 2, 2, 7]])).tolist()
    [[0, 1, 2, 0, 1, 0]]
    """
    place = torch.arange(document.shape[1], device=document.device).expand(document.shape)
    begins = torch.ones_like(document, dtype=torch.bool)
    begins[:, 1:] = document[:, 1:] != document[:, :-1]
    return place - torch.where(begins, place, 0).cummax(1).values


def _rows_of_none(
    rows: int, device: torch.device, labelling: Labelling, *, rules: int, blocks: int, phase: int
) -> TokenRows:
    """Place rows that no frame explains: they have a label only when all samples have the same.

    Raises:
        TraceError: they have none, and are not to be left out.
    """
    label = 0 if labelling.label is None else -1
    if labelling.uniform is not None:
        label = labelling.uniform
    elif labelling.label is not None and not labelling.stray:
        raise TraceError(
            f"{rows} tokens can be given no label: they are not those of the batch of "
            f"{len(labelling.label)} labels (tokens of a vision tower can be labelled only when "
            "all samples of the batch have the same label). Record batches of one label, name the "
            "routers you want with routers=, or leave such tokens out with partial=True."
        )
    alone = labelling.document.ndim == 1 and len(labelling.document) == 1
    document = int(labelling.document[0]) if alone else -1
    fill = [torch.full((rows,), value, device=device) for value in (label, document, -1, -1)]
    return _make_rows(fill, None, phase, rules, blocks)


def _make_rows(
    parts: Sequence[Tensor], keep: Tensor | None, phase: int, rules: int, blocks: int
) -> TokenRows:
    label, document, position, tokens = parts
    cell = document_block(document, blocks) * rules + label
    outside = (label < 0) | (label >= rules)
    if keep is not None:
        outside = outside | ~keep
    cell = torch.where(outside, blocks * rules, cell)
    return TokenRows(cell, keep, label, document, position, tokens, phase)


def subset(token_rows: TokenRows, rows: Bool[Tensor, " rows"]) -> TokenRows:
    """Return the place of those rows that a block sends to one of its routers."""
    return replace(
        token_rows,
        cell=token_rows.cell[rows],
        keep=None if token_rows.keep is None else token_rows.keep[rows],
        label=token_rows.label[rows],
        document=token_rows.document[rows],
        position=token_rows.position[rows],
        tokens=token_rows.tokens[rows],
        early=None if token_rows.early is None else token_rows.early[rows],
    )


def by_phase(rows: TokenRows) -> list[tuple[TokenRows, Tensor | None]]:
    """Return a place as places of one phase each, with the rows that each holds."""
    if rows.early is None:
        return [(rows, None)]
    whole = replace(rows, early=None)
    return [
        (replace(subset(whole, rows.early), phase=PREFILL), rows.early),
        (subset(whole, ~rows.early), ~rows.early),
    ]
