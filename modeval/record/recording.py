"""Record the routing of a model while it runs.

    with modeval.record(model, labels=["code", "prose"]) as recording:
        for batch, labels in batches:
            recording.label(labels)
            model(**batch)
    counts = recording.counts()

A hook on each router reads the modules that were really used (:mod:`modeval.record.routers`) and
adds them to counts on the model's own device, without waiting for it; ``trace="NAME.trace"``
also streams every choice to disk, which does wait. Padding is left out by the model's own
attention mask. Layers have the names of their router modules. Shared experts, which see every
token, are never counted.

What cannot be recorded: hooks do not fire inside CUDA graphs that are replayed, in TorchScript,
in exported programs, nor in fused kernels that replace a whole block; a router that was passed by
in this way is an error, not a layer of zeros. Models under ``torch.compile`` run without it while
they are recorded. With tensor parallelism every rank sees all tokens: give ``group=`` the ranks
that see different ones. Chunks of a long prompt are prefill, and speculative tokens that were
rejected are counted, because the model did route them; the header says so. Continuous batching
(``generate_batch``) and calls of two threads at once are refused.

Nothing is guessed silently. Padding is known by the mask of the model or of ``generate``, or by one
given by hand, and where none came the header says so; labels that are not one for each sample of a
batch are an error at once; a call that fails is taken back, and may be tried again.
"""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import nn

from modeval.errors import TraceError
from modeval.record.counter import Counter, Pending
from modeval.record.coverage import Coverage, check_coverage, coverage_of
from modeval.record.doubts import Doubts
from modeval.record.facts import inferred, unconfirmed
from modeval.record.labels import Labeller, LabelSource
from modeval.record.listening import Listener
from modeval.record.ranks import reduce_counts
from modeval.record.routers.find import Patterns, find_routers
from modeval.record.routers.readers import Router
from modeval.record.writing import RowStream, shared_experts, source_of
from modeval.trace.fold import BLOCKS, LayerGroup
from modeval.trace.trace import PHASES, Phase, TraceHeader, Warned, WeightScale
from modeval.types import RoutingCounts


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
        partial: accept modules with experts for which no router was found, and leave out tokens
            that can be given no label, as those of a vision tower in a batch of several labels.
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
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise TraceError(f"Two labels are named {twice[0]!r}: expected different names.")
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
        partial=partial,
        phase=phase,
        notes=tuple(notes),
        group=group,
    )


class Recording:
    """What :func:`record` returns: use it as a context, then ask for counts.

    Attributes:
        model: the model that is recorded.
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
        partial: bool = False,
        phase: Phase = "mixed",
        notes: tuple[str, ...] = (),
        group: Any = None,
    ) -> None:
        self.model = model
        self._routers = list(routers)
        self.labels = names
        self._missing, self._partial = tuple(missing), partial
        self._phase, self._notes = phase, notes
        self._group, self._tokens = group, tokens
        self._labeller = Labeller(names, label_from, group, stray=partial)
        self._stream = None if trace is None else RowStream(trace, self._header)
        self._doubts = Doubts(self._routers)
        self._counter = Counter(self._routers, self._labeller.rules, blocks, self._write)
        self._exits = contextlib.ExitStack()
        self._listener = Listener(
            model,
            self._routers,
            self._labeller,
            self._counter,
            blocks=blocks,
            ended=self._call_ended,
        )

    # --- what users call --------------------------------------------------------------------------

    def label(self, labels: Any, *, documents: Any = None, mask: Any = None) -> None:
        """Say what the samples of the next batch are.

        Args:
            labels: names or numbers of rules, one for each sample (or each token); one name
                stands for all samples. -1 is none. Nothing when the recording has no labels.
            documents: number of the document of each sample (or of each token, where several
                are packed into a sample); each sample is one of its own when absent. Samples of
                one document go to one replicate block.
            mask: ``(batch, positions)`` of the tokens that count, instead of the model's mask.

        Raises:
            TraceError: a label is not among those of the recording.
        """
        self._labeller.give(labels, documents, mask)

    @property
    def routers(self) -> tuple[Router, ...]:
        """Return the routers that are listened to."""
        return tuple(self._routers)

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
            sizes = ", ".join(str(group.counts.mass.shape[-1]) for group in groups)
            raise TraceError(
                f"Layers have different numbers of modules ({sizes}), so their counts are no one "
                "table. Use recording.groups(), which gives one for each number of modules."
            )
        return groups[0].counts

    def groups(self, phase: str | None = None, *, local: bool = False) -> tuple[LayerGroup, ...]:
        """Return the counts, one entry for each number of modules that layers have.

        Layer numbers are those of :attr:`layers`. Like :meth:`counts` otherwise.
        """
        self._counter.flush()
        groups = self._counter.groups(None if phase is None else _phase_number(phase))
        return groups if local else reduce_counts(groups, self.layers, self._group)

    def coverage(self) -> Coverage:
        """Return what was expected, listened to and recorded, layer by layer."""
        self._counter.flush()
        return coverage_of(
            self.routers, self._listener.seen, self._counter.counted(), self._missing
        )

    def header(self) -> TraceHeader:
        """Return what the rows of this recording's trace mean."""
        return self._header().noted(*self._notes_at_end()).warned(*self.warnings())

    def warnings(self) -> tuple[Warned, ...]:
        """Return what makes this recording doubtful: kinds and sentences.

        Rows that no routing of text gives, layers with far fewer tokens than others of their kind,
        experts with the same parameters, choices that were assumed.
        """
        groups = self.groups(local=True)
        choices = [seen.choices for seen in self._listener.seen]
        assumed = unconfirmed(self._listener.watches.values())
        return (*self._doubts.warnings(groups, choices), *assumed)

    def _notes_at_end(self) -> tuple[str, ...]:
        said = dict.fromkeys(router.note for router in self.routers if router.note)
        watches = self._listener.watches.values()
        return (*said, *self._listener.facts.notes(), *inferred(watches))

    def _header(self) -> TraceHeader:
        """Return the header without what is only known at the end."""
        capacity = {router.capacity for router in self.routers}
        return TraceHeader(
            layers=self.layers,
            modules=tuple(router.modules for router in self.routers),
            choices=tuple(seen.choices or 1 for seen in self._listener.seen),
            labels=self.labels,
            source=source_of(self.model),
            weight_scale=self._weight_scale(),
            phase=self._phase,
            capacity=capacity.pop() if len(capacity) == 1 else "unknown",
            padding="excluded" if self._listener.facts.unmasked == 0 else "unknown",
            shared=shared_experts(self.model, self.routers),
            token_ids=self._tokens,
            notes=self._notes,
        )

    def _weight_scale(self) -> WeightScale:
        if not all(seen.weighted for seen in self._listener.seen):
            return "none"
        assumed = any(watch.inferred for watch in self._listener.watches.values())
        return "assumed" if assumed else "renormalised"

    # --- the life of a recording ------------------------------------------------------------------

    def start(self) -> "Recording":
        """Begin to listen, as entering the context does.

        Raises:
            TraceError: it runs already.
        """
        if self._listener.active:
            raise TraceError("This recording runs already: use one `with` at a time.")
        with contextlib.ExitStack() as exits:
            self._listener.start()
            exits.callback(self._listener.stop)
            exits.enter_context(_without_compile(self.model))
            self._exits = exits.pop_all()
        return self

    def stop(self) -> None:
        """End, as leaving the context does: check that all was recorded, and complete the trace.

        Raises:
            TraceError: a router recorded nothing, or something strange.
        """
        self._exits.close()
        try:
            self._counter.flush()
            self._check()
        except TraceError:
            self._close(complete=False)
            raise
        self._close(complete=True)

    def discard(self) -> None:
        """End without a check, as an error within the context does: a trace stays a prefix."""
        self._exits.close()
        try:
            self._counter.flush()
        finally:
            self._close(complete=False)

    def __enter__(self) -> "Recording":  # noqa: PYI034 - types are checked at run time
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.stop()
        else:
            self.discard()

    def _write(self, pending: Sequence[Pending]) -> None:
        """Look at choices and write them down; where only counts are kept, do not wait for them."""
        if self._stream is None and pending[0].chosen.device.type != "cpu":
            return
        self._counter.refuse_broken()
        if self._stream is not None:
            self._stream.write(pending)
        self._doubts.look(pending)

    def _call_ended(self) -> None:
        if self._stream is not None:
            self._counter.flush()

    def _close(self, *, complete: bool) -> None:
        stream, self._stream = self._stream, None
        if stream is None:
            return
        if not complete:
            stream.close(complete=False)
            return
        notes = list(self._notes_at_end())
        layers = self.coverage().layers
        for status, text in (
            ("not run", "did not run"),
            ("nothing counted", "ran on tokens that could be given no label"),
        ):
            names = [layer.name for layer in layers if layer.status == status]
            if names:
                notes.append(f"{len(names)} layers {text}: {', '.join(names[:4])}")
        scale = self._weight_scale()
        stream.close(complete=True, notes=notes, warnings=self.warnings(), weight_scale=scale)

    def _check(self) -> None:
        """Refuse a recording in which something is missing or strange."""
        self._listener.calls.check()
        self._labeller.check()
        self._counter.check(self._phase)
        check_coverage(self.coverage(), partial=self._partial)


@contextlib.contextmanager
def _without_compile(model: nn.Module) -> Iterator[None]:
    """Run compiled models as they were written: compiled code does not call hooks."""
    on_device = any(part.device.type == "cuda" for part in model.parameters())
    if "torch._dynamo" not in sys.modules and not on_device:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def _phase_number(phase: str) -> int:
    if phase not in PHASES:
        raise TraceError(f"No phase is named {phase!r}: expected {', '.join(PHASES)}.")
    return PHASES.index(phase)
