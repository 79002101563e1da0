"""Record the routing of a model while it runs.

    with modeval.record(model, labels=["code", "prose"]) as recording:
        for batch, labels in batches:
            recording.label(labels)
            model(**batch)
    counts = recording.counts()

A hook on each router reads the modules that were really used (see ``modeval.record.routers``) and
adds them to counts on the model's own device, without waiting for it; ``trace="NAME.trace"``
also streams every choice to disk, which does wait. Padding is left out by the model's own
attention mask. Layers have the names of their router modules. Shared experts, which see every
token, are never counted.

What cannot be recorded: hooks do not fire inside CUDA graphs that are replayed, in TorchScript,
in exported programs, nor in fused kernels that replace a whole block; a router that was passed by
in this way is an error, not a layer of zeros. Models under ``torch.compile`` run without it while
they are recorded. With tensor parallelism every rank sees all tokens: give ``group=`` the ranks
that see different ones. Chunks of a long prompt are prefill, and speculative tokens that were
rejected are counted, because the model did route them.
"""

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from modeval.errors import TraceError
from modeval.record.device_counts import Tally, add_choices, counts_of, normalise
from modeval.record.frames import (
    DECODE,
    Frame,
    Labelling,
    Place,
    make_frame,
    parameter_names,
    place_rows,
    subset,
)
from modeval.record.routers import Choice, Patterns, Router, clean_name, find_routers
from modeval.trace.files import TraceWriter
from modeval.trace.fold import BLOCKS, LayerGroup
from modeval.trace.trace import PHASES, Phase, Source, TraceHeader, make_chunk
from modeval.types import RoutingCounts

PENDING = 1 << 22  # choices that wait, at most, before they are added up

LabelSource = str | Callable[[Mapping[str, Any]], Any]


@dataclass(frozen=True, slots=True)
class LayerCoverage:
    """What was recorded of one layer.

    Attributes:
        name: qualified name of its router.
        router: class of the router.
        found: how it was found: ``class``, ``registry``, ``experts``, ``name`` or ``pattern``.
        modules: number of modules M.
        choices: modules chosen for each token, K; nothing when it never ran.
        calls: how often it ran.
        tokens: rows it saw, padding included.
        counted: rows that were counted: neither padding nor without a label.
        reached: whether the module around it ran.
    """

    name: str
    router: str
    found: str
    modules: int
    choices: int | None
    calls: int
    tokens: int
    counted: int
    reached: bool

    @property
    def status(self) -> str:
        """Return ``recorded``, ``not run``, ``passed by`` or ``nothing counted``."""
        if self.calls == 0:
            return "passed by" if self.reached else "not run"
        return "recorded" if self.counted else "nothing counted"


@dataclass(frozen=True, slots=True)
class Coverage:
    """Whether everything that routes was recorded.

    Attributes:
        layers: one entry for each router that was listened to.
        missing: modules with experts for which no router was found.
    """

    layers: tuple[LayerCoverage, ...]
    missing: tuple[str, ...]

    @property
    def expected(self) -> int:
        """Return the number of modules that seem to route."""
        return len(self.layers) + len(self.missing)

    @property
    def hooked(self) -> int:
        """Return the number of routers that were listened to."""
        return len(self.layers)

    @property
    def recorded(self) -> int:
        """Return the number of routers of which something was counted."""
        return sum(layer.status == "recorded" for layer in self.layers)

    def __str__(self) -> str:
        lines = [f"{self.expected} expected, {self.hooked} hooked, {self.recorded} recorded"]
        lines += [
            f"{layer.name} ({layer.router}): {layer.status}, {layer.choices} of {layer.modules} "
            f"modules, {layer.counted} of {layer.tokens} tokens in {layer.calls} calls"
            for layer in self.layers
        ]
        lines += [f"{name}: has experts, and no router was found" for name in self.missing]
        return "\n".join(lines)


@dataclass(slots=True)
class _Seen:
    """What happened at one router so far."""

    choices: int | None
    calls: int = 0
    tokens: int = 0
    weighted: bool = True
    reached: bool = False


@dataclass(frozen=True, slots=True)
class _Pending:
    """Choices that are not added up yet."""

    layer: int
    place: Place
    chosen: Tensor
    weight: Tensor | None


def record(
    model: nn.Module,
    labels: Sequence[str] | int | None = None,
    *,
    label_from: LabelSource | None = None,
    routers: Patterns | None = None,
    modules: int | None = None,
    trace: Path | str | None = None,
    tokens: bool = False,
    blocks: int = BLOCKS,
    partial: bool = False,
    phase: Phase = "mixed",
    notes: Sequence[str] = (),
    group: Any = None,
) -> "Recording":
    """Return a context in which a model's routing is recorded.

    Args:
        model: any module; routers of Hugging Face models are found by themselves.
        labels: names of the rules (or their number) that samples are labelled with. Without them
            all samples are of one rule, and only metrics of balance can be computed.
        label_from: where the labels of a batch are: a key of the model's inputs (which is taken
            out of them when the model does not know it), or a function of the inputs. Otherwise
            call :meth:`Recording.label` before each batch.
        routers: names of the routers, with ``*`` and ``?``; a mapping gives for each a function of
            the router's output that returns the chosen modules, (chosen, weights), or the weights
            of all modules.
        modules: number of modules of the routers named, when their weights do not tell it.
        trace: folder to stream every choice to.
        tokens: whether the trace keeps token ids.
        blocks: number of replicate blocks that documents are hashed to.
        partial: accept modules with experts for which no router was found.
        phase: the one phase that all calls will be of, where it is known: the header of the trace
            says it then. Rows of another phase are refused.
        notes: what whoever reads the scores must know of the measurement.
        group: ranks of ``torch.distributed`` to sum over; all of them when absent.

    Raises:
        TraceError: the model has no router that is known or matches, or (when the context ends)
            a router recorded nothing.

    >>> router = nn.Linear(4, 3)
    >>> soft = {"0": lambda logits: logits.softmax(-1)}
    >>> with record(nn.Sequential(router), routers=soft) as seen:
    ...     _ = seen.model(torch.randn(5, 4))
    >>> seen.counts().samples.sum().item()
    5.0
    """
    names = tuple(map(str, range(labels))) if isinstance(labels, int) else tuple(labels or ())
    if labels is not None and not names:
        raise TraceError(
            "labels= is empty: give the names of the rules, as labels=['code', 'prose']."
        )
    if label_from is not None and not names:
        raise TraceError("label_from= needs labels=: the names of the rules, or their number.")
    if type(model).__name__ == "DataParallel":
        raise TraceError(
            "DataParallel copies the model for each call, and its copies cannot be recorded. "
            "Record model.module, or use DistributedDataParallel."
        )
    found = find_routers(model, routers, modules=modules)
    if found.missing and not partial:
        raise TraceError(
            f"No router was found for {len(found.missing)} modules that hold experts: "
            f"{', '.join(found.missing[:4])}. Name them all with modeval.record(model, "
            "routers={'layers.*.gate': function}), or accept this with partial=True."
        )
    for router in found.routers:
        if isinstance(router.module, torch.jit.ScriptModule):
            raise TraceError(
                f"{router.name} is TorchScript, and hooks do not fire in it. Record the model "
                "before torch.jit.script or torch.jit.trace."
            )
    return Recording(
        model,
        found.routers,
        found.missing,
        names=names,
        label_from=label_from,
        trace=None if trace is None else Path(trace),
        tokens=tokens,
        blocks=blocks,
        phase=phase,
        notes=tuple(notes),
        group=group,
    )


class Recording:
    """What :func:`record` returns: use it as a context, then ask for counts.

    Attributes:
        model: the model that is recorded.
        routers: the routers that are listened to.
        labels: names of the rules, empty without.
    """

    def __init__(
        self,
        model: nn.Module,
        routers: Sequence[Router],
        missing: Sequence[str] = (),
        *,
        names: tuple[str, ...] = (),
        label_from: LabelSource | None = None,
        trace: Path | None = None,
        tokens: bool = False,
        blocks: int = BLOCKS,
        phase: Phase = "mixed",
        notes: tuple[str, ...] = (),
        group: Any = None,
    ) -> None:
        self.model = model
        self.routers = tuple(routers)
        self.labels = names
        self._missing = tuple(missing)
        self._label_from = label_from
        self._rules = max(len(names), 1)
        self._blocks = blocks
        self._phase, self._notes = phase, notes
        self._group = group
        self._trace, self._tokens = trace, tokens
        self._writer: TraceWriter | None = None
        self._exits = contextlib.ExitStack()
        self._active = False
        self._frames: list[Frame] = []
        self._inputs: dict[int, tuple[str, ...]] = {}
        self._types: dict[int, Tensor] = {}
        self._seen = [_Seen(router.choices) for router in self.routers]
        self._tallies: dict[tuple[torch.device, int, int], Tally] = {}
        self._pending: list[_Pending] = []
        self._waiting = 0
        self._given: Labelling | None = None
        self._current = Labelling(None, torch.zeros(0, dtype=torch.int64))
        self._documents = 0
        self._stop: Tensor | None = None
        self._finished: Tensor | None = None
        self._generating = False
        self._started = False
        self._strange_label: Tensor | None = None

    # --- what users call --------------------------------------------------------------------------

    def label(
        self, labels: Any, *, documents: Sequence[int] | Tensor | None = None, mask: Any = None
    ) -> None:
        """Say what the samples of the next batch are.

        Args:
            labels: names or numbers of rules, one for each sample (or each token); one name
                stands for all samples. -1 is none. Nothing when the recording has no labels.
            documents: number of the document of each sample; each sample is one of its own when
                absent. Samples of one document go to one replicate block.
            mask: ``(batch, positions)`` of the tokens that count, instead of the model's mask.

        Raises:
            TraceError: a label is not among those of the recording.
        """
        label, uniform = self._numbers(labels)
        if label is None and documents is None and mask is None:
            raise TraceError(
                "This recording has no labels to choose from. Give their names when it begins: "
                "modeval.record(model, labels=['code', 'prose'])."
            )
        numbers = torch.zeros(0, dtype=torch.int64)
        if documents is not None:
            numbers = torch.as_tensor(documents, dtype=torch.int64).reshape(-1)
        elif label is not None:
            numbers = self._new_documents(len(label)) if label.ndim else numbers
        flags = None if mask is None else torch.as_tensor(mask) > 0
        self._given = Labelling(label, numbers, flags, uniform)

    @property
    def layers(self) -> tuple[str, ...]:
        """Return the names of the layers: the qualified names of their routers."""
        return tuple(router.name for router in self.routers)

    def counts(self, phase: str | None = None, *, local: bool = False) -> RoutingCounts:
        """Return the counts of all layers, ``(L, blocks, rules, modules)``.

        Args:
            phase: count one phase only: ``prefill``, ``decode`` or ``train``.
            local: do not sum over the ranks of ``torch.distributed``. Otherwise every rank must
                make this call.

        Raises:
            TraceError: layers differ in their number of modules (use :meth:`groups`).
        """
        groups = self.groups(phase, local=local)
        if len(groups) > 1:
            sizes = ", ".join(str(entry.counts.mass.shape[-1]) for entry in groups)
            raise TraceError(
                f"Layers have different numbers of modules ({sizes}), so their counts are no one "
                "table. Use recording.groups(), which gives one for each number of modules."
            )
        return groups[0].counts

    def groups(self, phase: str | None = None, *, local: bool = False) -> tuple[LayerGroup, ...]:
        """Return the counts, one entry for each number of modules that layers have.

        Layer numbers are those of :attr:`layers`. Like :meth:`counts` otherwise.
        """
        self._flush()
        wanted = None if phase is None else _phase_number(phase)
        sizes = sorted({router.modules for router in self.routers})
        groups = tuple(self._group_of(size, wanted) for size in sizes)
        return groups if local else reduce_counts(groups, self.layers, self._group)

    def coverage(self) -> Coverage:
        """Return what was expected, listened to and recorded, layer by layer."""
        self._flush()
        counted = [0.0] * len(self.routers)
        for tally in self._tallies.values():
            for layer, samples in zip(tally.layers, tally.samples[:, :-1].sum(-1), strict=True):
                counted[layer] += float(samples)
        layers = tuple(
            LayerCoverage(
                name=router.name,
                router=type(router.module).__name__,
                found=router.found,
                modules=router.modules,
                choices=seen.choices,
                calls=seen.calls,
                tokens=seen.tokens,
                counted=int(number),
                reached=seen.reached,
            )
            for router, seen, number in zip(self.routers, self._seen, counted, strict=True)
        )
        return Coverage(layers, self._missing)

    # --- the context ------------------------------------------------------------------------------

    def __enter__(self) -> "Recording":  # noqa: PYI034 - types are checked at run time
        if self._active:
            raise TraceError("This recording runs already: use one `with` at a time.")
        with contextlib.ExitStack() as exits:
            self._hook(exits)
            exits.enter_context(_without_compile(self.model))
            self._exits = exits.pop_all()
        self._active = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._active = False
        self._exits.close()
        self._frames.clear()
        try:
            self._flush()
            if kind is None:
                self._check()
        except TraceError:
            self._close(complete=False)
            raise
        self._close(complete=kind is None)

    def _hook(self, exits: contextlib.ExitStack) -> None:
        def keep(handle: RemovableHandle) -> None:
            exits.callback(handle.remove)

        for module in _stacks(self.model, self.routers):
            self._inputs[id(module)] = parameter_names(module)
            keep(module.register_forward_pre_hook(self._enter_frame, with_kwargs=True))
            keep(module.register_forward_hook(self._leave_frame, always_call=True))
            if callable(getattr(module, "generate", None)):
                exits.enter_context(self._around_generate(module))
        for number, router in enumerate(self.routers):
            keep(router.parent.register_forward_pre_hook(functools.partial(self._reach, number)))
            if router.split is not None:
                block = router.split[0]
                keep(block.register_forward_pre_hook(self._note_types, with_kwargs=True))
            if router.where == "arguments":
                hook = functools.partial(self._read_arguments, number)
                keep(router.module.register_forward_pre_hook(hook, with_kwargs=True))
            else:
                # First among the hooks: others may rewrite the output, as for expert parallelism.
                hook = functools.partial(self._read_output, number)
                keep(router.module.register_forward_hook(hook, prepend=True))

    def _close(self, *, complete: bool) -> None:
        if self._writer is None:
            return
        writer, self._writer = self._writer, None
        self._trace = None
        if not complete:
            writer.flush()
            return
        skipped = [layer.name for layer in self.coverage().layers if layer.status == "not run"]
        if skipped:
            writer.note(f"{len(skipped)} layers did not run: {', '.join(skipped[:4])}")
        writer.__exit__(None, None, None)

    # --- hooks ------------------------------------------------------------------------------------

    def _enter_frame(
        self, module: nn.Module, arguments: tuple[Any, ...], by_name: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if _recomputing():
            return None
        outer = self._frames[-1] if self._frames else None
        names = self._inputs[id(module)]
        frame = make_frame(module, names, arguments, by_name, outer)
        self._frames.append(frame)
        if outer is not None:
            return None
        self._begin(frame, dict(zip(names, arguments, strict=False)) | by_name)
        key = self._label_from
        if isinstance(key, str) and key in by_name and key not in names:
            return arguments, {name: value for name, value in by_name.items() if name != key}
        return None

    def _leave_frame(self, module: nn.Module, arguments: Any, output: Any) -> None:
        del arguments, output
        if _recomputing() or not any(frame.module is module for frame in self._frames):
            return
        while self._frames.pop().module is not module:
            pass
        if not self._frames and self._trace is not None:
            self._flush()

    def _reach(self, number: int, module: nn.Module, arguments: Any) -> None:
        del module, arguments
        self._seen[number].reached = True

    def _note_types(self, module: nn.Module, arguments: Any, by_name: dict[str, Any]) -> None:
        types = by_name.get("moe_mm_token_type_ids")
        if types is None:
            types = arguments[1] if len(arguments) > 1 else None
        self._types.pop(id(module), None)
        if types is not None:
            self._types[id(module)] = types.reshape(-1) != 0

    def _read_output(self, number: int, module: nn.Module, arguments: Any, output: Any) -> None:
        del module, arguments
        self._take(number, output)

    def _read_arguments(
        self, number: int, module: nn.Module, arguments: Any, by_name: dict[str, Any]
    ) -> None:
        del module
        self._take(number, (arguments, by_name))

    def _take(self, number: int, output: Any) -> None:
        """Keep what a router chose; nothing here waits for the device."""
        if not self._active or _recomputing():
            return
        router, seen = self.routers[number], self._seen[number]
        with torch.no_grad():
            choice = router.read(router, output)
            chosen, weight = _flat(router, choice)
        _refuse_capture(router, chosen)
        place = self._place(router, chosen)
        seen.calls += 1
        seen.tokens += len(chosen)
        seen.choices = max(seen.choices or 0, chosen.shape[1])
        seen.weighted = seen.weighted and weight is not None
        self._pending.append(_Pending(number, place, chosen, weight))
        self._waiting += chosen.numel()
        if self._waiting > PENDING:
            self._flush()

    def _place(self, router: Router, chosen: Tensor) -> Place:
        options = {"rules": self._rules, "blocks": self._blocks}
        if not self._frames and self._given is not None:
            self._current, self._given = self._given, None
        types = self._types.get(id(router.split[0])) if router.split else None
        if router.split is None or types is None or len(types) == len(chosen):
            return place_rows(self._frames, len(chosen), chosen.device, self._current, **options)
        whole = place_rows(self._frames, len(types), chosen.device, self._current, **options)
        return subset(whole, types if router.split[1] else ~types)

    # --- labels and documents ---------------------------------------------------------------------

    def _numbers(self, labels: Any) -> tuple[Tensor | None, int | None]:
        """Return labels as numbers, and the one that all are when they are."""
        if labels is None or not self.labels:
            return None, None
        if isinstance(labels, (str, int)):
            number = self._number(labels)
            return torch.tensor(number), number
        if isinstance(labels, Tensor):
            return self._checked(labels.long())
        if any(isinstance(label, str) for label in labels):
            labels = [self._number(label) for label in labels]
        return self._checked(torch.as_tensor(labels, dtype=torch.int64))

    def _number(self, label: str | int) -> int:
        if isinstance(label, str) and label in self.labels:
            return self.labels.index(label)
        if isinstance(label, int) and -1 <= label < len(self.labels):
            return label
        raise TraceError(
            f"Label {label!r} is not among the labels of this recording: expected one of "
            f"{', '.join(self.labels)}, or 0 to {len(self.labels) - 1}."
        )

    def _checked(self, labels: Tensor) -> tuple[Tensor, int | None]:
        strange = (labels < -1) | (labels >= self._rules)
        if labels.device.type != "cpu":  # looked at when the recording ends: asking now would wait
            before = self._strange_label
            self._strange_label = strange.any() if before is None else before | strange.any()
            return labels, None
        if bool(strange.any()):
            self._number(int(labels[strange][0]))
        same = labels.numel() > 0 and bool((labels == labels.reshape(-1)[0]).all())
        return labels, int(labels.reshape(-1)[0]) if same else None

    def _new_documents(self, samples: int) -> Tensor:
        rank, ranks = _rank(self._group)
        numbers = (self._documents + torch.arange(samples)) * ranks + rank
        self._documents += samples
        return numbers

    def _begin(self, frame: Frame, inputs: Mapping[str, Any]) -> None:
        """Settle labels and documents of a call of the model, once for each batch."""
        continues = (self._generating and self._started) or (
            frame.phase == DECODE and self._given is None and len(self._current.document) > 0
        )
        if not continues:
            self._current = self._next_labelling(frame, inputs)
            self._started, self._finished = True, None
        if self._generating:
            self._leave_out_finished(frame)

    def _next_labelling(self, frame: Frame, inputs: Mapping[str, Any]) -> Labelling:
        given, self._given = self._given, None
        if given is None and self._label_from is not None:
            source = self._label_from
            if isinstance(source, str) and source not in inputs:
                raise TraceError(
                    f"label_from={source!r} is not among the model's inputs: expected one of "
                    f"{', '.join(inputs)}."
                )
            label, uniform = self._numbers(
                inputs[source] if isinstance(source, str) else source(inputs)
            )
            given = Labelling(label, torch.zeros(0, dtype=torch.int64), None, uniform)
        if given is None:
            given = Labelling(None, torch.zeros(0, dtype=torch.int64))
        if given.label is None and self.labels:
            raise TraceError(
                "This batch has no labels. Call recording.label(labels) before each batch; the "
                f"labels are {', '.join(self.labels)}."
            )
        return self._complete(given, frame.batch or 1)

    def _complete(self, given: Labelling, batch: int) -> Labelling:
        label, document = given.label, given.document
        if label is not None and label.ndim == 0:
            label = label.expand(batch)
        if not len(document):
            document = self._new_documents(batch if label is None else len(label))
        return replace(given, label=label, document=document)

    # --- generate ---------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _around_generate(self, module: nn.Module) -> Iterator[None]:
        """Know when a model generates: labels hold to its end, and sequences end one by one."""
        original: Any = module.generate
        own = "generate" in vars(module)

        @functools.wraps(original)
        def generate(*arguments: Any, **by_name: Any) -> Any:
            if self._generating:
                return original(*arguments, **by_name)
            self._generating, self._started = True, False
            self._stop = _stop_tokens(module, by_name)
            try:
                return original(*arguments, **by_name)
            finally:
                self._generating = False

        object.__setattr__(module, "generate", generate)
        try:
            yield
        finally:
            if own:
                object.__setattr__(module, "generate", original)
            else:
                object.__delattr__(module, "generate")

    def _leave_out_finished(self, frame: Frame) -> None:
        """Leave out what is fed to a sequence that has ended while others of its batch go on.

        So a batch counts what its samples would count one by one.
        """
        if frame.phase != DECODE or frame.tokens is None or self._stop is None:
            return
        ended = torch.isin(frame.tokens[:, -1], self._stop.to(frame.tokens.device))
        before = self._finished
        if before is not None and before.shape == ended.shape:
            ended = ended | before
        self._finished = ended
        frame.going = ~ended.unsqueeze(1)

    # --- adding up --------------------------------------------------------------------------------

    def _flush(self) -> None:
        pending, self._pending, self._waiting = self._pending, [], 0
        if not pending:
            return
        device = pending[0].chosen.device.type
        # A caller's autocast would round the products, its inference mode would taint the tables.
        with (
            torch.inference_mode(mode=False),
            torch.no_grad(),
            torch.autocast(device, enabled=False),
        ):
            for key, layers, cell, chosen, weight in _batches(pending, self.routers):
                tally = self._tally(*key)
                rows = [tally.layers.index(layer) for layer in layers]
                add_choices(tally, rows, cell, chosen, weight)
        if self._trace is not None:
            self._write(pending)

    def _tally(self, device: torch.device, modules: int, phase: int) -> Tally:
        key = (device, modules, phase)
        if key not in self._tallies:
            layers = tuple(
                layer for layer, router in enumerate(self.routers) if router.modules == modules
            )
            cells = self._blocks * self._rules
            self._tallies[key] = Tally.zeros(layers, cells, modules, device)
        return self._tallies[key]

    def _group_of(self, modules: int, phase: int | None) -> LayerGroup:
        tallies = [
            tally
            for (_, size, at), tally in self._tallies.items()
            if size == modules and phase in (None, at)
        ]
        layers = tuple(
            layer for layer, router in enumerate(self.routers) if router.modules == modules
        )
        total = RoutingCounts.zeros(
            len(layers), rules=self._rules, modules=modules, blocks=self._blocks
        )
        for tally in tallies:
            total = total + counts_of(tally, self._blocks, self._rules).to("cpu")
        return LayerGroup(layers, total)

    # --- the trace --------------------------------------------------------------------------------

    def header(self) -> TraceHeader:
        """Return what the rows of this recording's trace mean."""
        capacity = {router.capacity for router in self.routers}
        return TraceHeader(
            layers=self.layers,
            modules=tuple(router.modules for router in self.routers),
            choices=tuple(seen.choices or 1 for seen in self._seen),
            labels=self.labels,
            source=Source(_engine(self.model), _model_name(self.model), "live"),
            weight_scale="renormalised" if all(s.weighted for s in self._seen) else "none",
            phase=self._phase,
            capacity=capacity.pop() if len(capacity) == 1 else "unknown",
            padding="excluded",
            shared=_shared_experts(self.model, self.routers),
            token_ids=self._tokens,
            notes=self._notes,
        )

    def _write(self, pending: Sequence[_Pending]) -> None:
        if self._writer is None:
            if self._trace is None:
                return
            self._writer = TraceWriter(self._trace, self.header())
        header = self._writer.header
        arrays: dict[int, dict[str, Any]] = {}
        for entry in pending:
            place = entry.place
            if id(place) not in arrays:
                arrays[id(place)] = _columns(place, tokens=self._tokens, labels=bool(self.labels))
            columns = dict(arrays[id(place)])
            keep = columns.pop("keep")
            chosen, weight = normalise(entry.chosen, entry.weight)
            if weight is not None and header.weighted:
                columns["weight"] = _wide(weight, keep, header.width, 0.0)
            self._writer.append(
                make_chunk(
                    layer=entry.layer,
                    chosen=_wide(chosen, keep, header.width, -1.0),
                    phase=place.phase,
                    **columns,
                )
            )

    # --- the end ----------------------------------------------------------------------------------

    def _check(self) -> None:
        """Refuse a recording in which something is missing or strange."""
        if self._strange_label is not None and bool(self._strange_label):
            raise TraceError(
                f"Some labels are out of range: expected -1 to {self._rules - 1} for "
                f"{', '.join(self.labels)}."
            )
        for _, _, number in self._tallies:
            if self._phase not in ("mixed", PHASES[number]):
                raise TraceError(
                    f"Some calls were of phase {PHASES[number]!r}: this recording was said to be "
                    f"of phase {self._phase!r} alone. Drop phase=."
                )
        for tally in self._tallies.values():
            for layer, strange in zip(tally.layers, tally.strange.tolist(), strict=True):
                if strange:
                    raise TraceError(
                        f"Router {self.layers[layer]} chose {int(strange)} times a module that "
                        f"does not exist: expected 0 to {self.routers[layer].modules - 1}. Say "
                        "how many there are with modules=, or what its output means with routers=."
                    )
        coverage = self.coverage()
        faults = [x for x in coverage.layers if x.status in ("passed by", "nothing counted")]
        if coverage.recorded == 0 or faults:
            raise TraceError(_nothing(coverage, faults))


# --- parts that need no state --------------------------------------------------------------------


def _nothing(coverage: Coverage, faults: Sequence[LayerCoverage]) -> str:
    first = faults[0] if faults else coverage.layers[0]
    reasons = {
        "not run": "The model did not run within the recording. Call it inside the `with` block.",
        "passed by": (
            "The module around it ran and did not call it: a fused kernel, a CUDA graph or a "
            "compiled block replaces it. Run the model without these (use_kernels=False, no "
            "torch.compile), or name another module with routers=."
        ),
        "nothing counted": (
            "It ran, and all its tokens were padding or could be given no label (tokens of a "
            "vision tower can be labelled only when all samples of the batch have the same "
            "label). Record batches of one label, or name the routers you want with routers=."
        ),
        "recorded": "",
    }
    return (
        f"Router {first.name} recorded nothing ({coverage.expected} expected, {coverage.hooked} "
        f"hooked, {coverage.recorded} recorded). {reasons[first.status]}"
    )


def _recomputing() -> bool:
    """Return whether a backward pass runs this forward again, as gradient checkpointing does."""
    return bool(torch._C._current_graph_task_id() != -1)  # noqa: SLF001 - torch asks it so itself


def _refuse_capture(router: Router, chosen: Tensor) -> None:
    if chosen.is_cuda and torch.cuda.is_current_stream_capturing():
        raise TraceError(
            f"Router {router.name} runs while a CUDA graph is captured, and replays of the graph "
            "cannot be recorded. Record the model without CUDA graphs."
        )


def _flat(router: Router, choice: Choice) -> tuple[Tensor, Tensor | None]:
    """Return copies of a choice as ``(N, K)``: whoever made it may change it in place later."""
    chosen, weight = _whole_tensor(choice.chosen), choice.weight
    if chosen.ndim < 2:  # noqa: PLR2004
        raise TraceError(
            f"Router {router.name} gives its choices as {list(chosen.shape)}: expected (tokens, "
            "choices). With one choice for each token, keep its axis: argmax(-1, keepdim=True)."
        )
    wide = chosen.shape[-1]
    flat = chosen.detach().reshape(-1, wide).to(torch.int32, copy=True)
    if weight is None:
        return flat, None
    weight = _whole_tensor(weight)
    if weight.shape != chosen.shape:
        raise TraceError(
            f"Router {router.name} gives weights of shape {list(weight.shape)} for choices of "
            f"shape {list(chosen.shape)}: expected the same."
        )
    return flat, weight.detach().reshape(-1, wide).to(torch.float32, copy=True)


def _whole_tensor(part: Tensor) -> Tensor:
    """Return the tensor that is spread over the ranks of a mesh."""
    gather = getattr(part, "full_tensor", None)
    return part if gather is None else gather()


_Key = tuple[torch.device, int, int]


def _batches(
    pending: Sequence[_Pending], routers: Sequence[Router]
) -> Iterator[tuple[_Key, list[int], Tensor, Tensor, Tensor | None]]:
    """Join the calls of each layer, then the layers that saw the same tokens."""
    by_layer: dict[tuple[Any, ...], list[_Pending]] = {}
    for entry in pending:
        device, phase = entry.chosen.device, entry.place.phase
        key = (device, routers[entry.layer].modules, phase)
        shape = (entry.chosen.shape[1], entry.weight is None)
        by_layer.setdefault((entry.layer, key, shape), []).append(entry)
    together: dict[tuple[Any, ...], list[tuple[int, list[_Pending]]]] = {}
    for (layer, key, shape), entries in by_layer.items():
        same = (key, shape, tuple(id(entry.place) for entry in entries))
        together.setdefault(same, []).append((layer, entries))
    for (key, _, _), members in together.items():
        cell = torch.cat([entry.place.cell for entry in members[0][1]])
        chosen = torch.stack([torch.cat([e.chosen for e in entries]) for _, entries in members])
        weights = [[e.weight for e in entries if e.weight is not None] for _, entries in members]
        weight = torch.stack([torch.cat(part) for part in weights]) if weights[0] else None
        yield key, [layer for layer, _ in members], cell, chosen, weight


def _columns(place: Place, *, tokens: bool, labels: bool) -> dict[str, Any]:
    """Return the columns of a trace that all layers share, padding left out."""
    keep = place.keep.cpu().numpy() if place.keep is not None else slice(None)
    columns = {
        "keep": keep,
        "document": place.document.cpu().numpy()[keep],
        "position": place.position.cpu().numpy()[keep],
        "label": place.label.cpu().numpy()[keep] if labels else -1,
    }
    return columns | ({"token": place.tokens.cpu().numpy()[keep]} if tokens else {})


def _wide(values: Tensor, keep: Any, width: int, fill: float) -> Any:
    missing = width - values.shape[1]
    if missing:
        values = torch.nn.functional.pad(values, (0, missing), value=fill)
    return values.cpu().numpy()[keep]


def _stacks(model: nn.Module, routers: Sequence[Router]) -> list[nn.Module]:
    """Return the modules whose calls are frames: the model, and models within it that route."""
    named = {clean_name(name): module for name, module in model.named_modules()}
    if type(model).__name__ == "DistributedDataParallel":
        inner = model.get_submodule("module")
        named = {clean_name(name): module for name, module in inner.named_modules()}
    stacks = [named[""]]
    for name, module in named.items():
        routes = any(router.name.startswith(f"{name}.") for router in routers)
        if name and routes and _is_pretrained(module):
            stacks.append(module)
    return stacks


def _is_pretrained(module: nn.Module) -> bool:
    return any(kind.__name__ == "PreTrainedModel" for kind in type(module).__mro__)


@contextlib.contextmanager
def _without_compile(model: nn.Module) -> Iterator[None]:
    """Run compiled models as they were written: compiled code does not call hooks."""
    on_device = any(part.device.type == "cuda" for part in model.parameters())
    if "torch._dynamo" not in sys.modules and not on_device:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def _stop_tokens(module: nn.Module, by_name: Mapping[str, Any]) -> Tensor | None:
    """Return the tokens that end a sequence in this call of generate."""
    given = by_name.get("eos_token_id")
    for config in (
        by_name.get("generation_config"),
        getattr(module, "generation_config", None),
        getattr(module, "config", None),
    ):
        given = getattr(config, "eos_token_id", None) if given is None else given
    if given is None:
        return None
    return torch.as_tensor(given, dtype=torch.int64).reshape(-1)


def _rank(group: Any) -> tuple[int, int]:
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(group), distributed.get_world_size(group)


def _phase_number(phase: str) -> int:
    if phase not in PHASES:
        raise TraceError(f"No phase is named {phase!r}: expected {', '.join(PHASES)}.")
    return PHASES.index(phase)


def _engine(model: nn.Module) -> str:
    library = type(model).__module__.partition(".")[0]
    if library == "transformers":
        return f"transformers {getattr(sys.modules['transformers'], '__version__', '')}".strip()
    return "torch"


def _model_name(model: nn.Module) -> str:
    name = getattr(getattr(model, "config", None), "_name_or_path", "")
    return str(name) or type(model).__name__


def _shared_experts(model: nn.Module, routers: Sequence[Router]) -> int | None:
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


def reduce_counts(
    groups: tuple[LayerGroup, ...], layers: Sequence[str], group: Any = None
) -> tuple[LayerGroup, ...]:
    """Sum counts over the ranks of ``torch.distributed``; every rank must make this call.

    Raises:
        TraceError: ranks recorded different layers.
    """
    distributed = torch.distributed
    if _rank(group)[1] == 1:
        return groups
    mine = [list(layers), [list(entry.counts.mass.shape) for entry in groups]]
    all_of_them: list[Any] = [None] * _rank(group)[1]
    distributed.all_gather_object(all_of_them, mine, group)
    if any(entry != mine for entry in all_of_them):
        raise TraceError(
            "Ranks recorded different layers, so their counts do not add: expected the same "
            "model, routers, labels and blocks on each. Take recording.groups(local=True) of each "
            "rank, or give group= the ranks that share layers."
        )
    parts = [part for entry in groups for part in entry.counts.tensors().values()]
    device = "cuda" if "nccl" in distributed.get_backend(group) else "cpu"
    flat = torch.cat([part.reshape(-1) for part in parts]).to(device)
    distributed.all_reduce(flat, group=group)
    sums = iter(flat.cpu().split([part.numel() for part in parts]))
    return tuple(
        replace(
            entry,
            counts=RoutingCounts(
                **{
                    name: next(sums).reshape(part.shape)
                    for name, part in entry.counts.tensors().items()
                }
            ),
        )
        for entry in groups
    )
