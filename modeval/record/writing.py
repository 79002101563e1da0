"""A recording as a trace on disk: what its header says, and its rows."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modeval.record.counter import Pending
from modeval.record.device_counts import normalise
from modeval.record.frames import TokenRows
from modeval.record.routers.find import is_a
from modeval.record.routers.readers import Router
from modeval.trace.files import TraceWriter
from modeval.trace.trace import Source, TraceHeader, Warned, WeightScale, make_chunk


class RowStream:
    """Writes choices to a trace as they are made.

    The folder is made when the first rows come, for only then is it known what a header says.
    """

    def __init__(self, path: Path, header: Callable[[], TraceHeader]) -> None:
        self._path = path
        self._header = header
        self._writer: TraceWriter | None = None

    def write(self, pending: Sequence[Pending]) -> None:
        """Append the choices of some calls."""
        if self._writer is None:
            self._writer = TraceWriter(self._path, self._header())
        header = self._writer.header
        arrays: dict[int, dict[str, Any]] = {}
        for entry in pending:
            rows = entry.rows
            if id(rows) not in arrays:
                arrays[id(rows)] = _columns(
                    rows, tokens=header.token_ids, labels=bool(header.labels)
                )
            columns = dict(arrays[id(rows)])
            keep = columns.pop("keep")
            chosen, weight = normalise(entry.chosen, entry.weight)
            if weight is not None and header.weighted:
                columns["weight"] = _wide(weight, keep, header.width, 0.0)
            self._writer.append(
                make_chunk(
                    layer=entry.layer,
                    chosen=_wide(chosen, keep, header.width, -1.0),
                    phase=rows.phase,
                    **columns,
                )
            )

    def close(
        self,
        *,
        complete: bool,
        notes: Sequence[str] = (),
        warnings: Sequence[Warned] = (),
        weight_scale: WeightScale | None = None,
    ) -> None:
        """End the trace: whole, with what is known at its end, or as a prefix of one."""
        writer, self._writer = self._writer, None
        if writer is None:
            return
        if not complete:
            writer.flush()
            return
        with writer:
            if notes or warnings:
                header = writer.header.warned(*warnings)
                if weight_scale is not None and header.weighted:
                    header = replace(header, weight_scale=weight_scale)
                writer.header = header
                writer.note(*notes)


def source_of(model: nn.Module) -> Source:
    """Return where routing comes from: the library and the name of a model."""
    return Source(_engine(model), _model_name(model), "live")


def shared_experts(model: nn.Module, routers: Sequence[Router]) -> int | None:
    """Return how many experts see every token: what the configuration says, or what is there."""
    config = getattr(model, "config", None)
    for name in ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts"):
        number = getattr(getattr(config, "text_config", config), name, None)
        if isinstance(number, int):
            return number
    blocks = [router.parent for router in routers]
    shared = [any("shared" in name for name, _ in block.named_children()) for block in blocks]
    if not any(shared):
        return 0
    return 1 if all(shared) else None


def _columns(rows: TokenRows, *, tokens: bool, labels: bool) -> dict[str, Any]:
    """Return the columns of a trace that all layers share, padding left out."""
    keep = rows.keep.cpu().numpy() if rows.keep is not None else slice(None)
    columns = {
        "keep": keep,
        "document": rows.document.cpu().numpy()[keep],
        "position": rows.position.cpu().numpy()[keep],
        "label": rows.label.cpu().numpy()[keep] if labels else -1,
    }
    return columns | ({"token": rows.tokens.cpu().numpy()[keep]} if tokens else {})


def _wide(values: Tensor, keep: Any, width: int, fill: float) -> Any:
    missing = width - values.shape[1]
    if missing:
        values = torch.nn.functional.pad(values, (0, missing), value=fill)
    return values.cpu().numpy()[keep]


def _engine(model: nn.Module) -> str:
    if any(is_a(module, "PreTrainedModel") for module in model.modules()):
        return f"transformers {getattr(sys.modules['transformers'], '__version__', '')}".strip()
    return "torch"


def _model_name(model: nn.Module) -> str:
    name = getattr(getattr(model, "config", None), "_name_or_path", "")
    return str(name) or type(model).__name__
