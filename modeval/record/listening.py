"""Hooks on a model and its routers: what each router chose, and for which token.

Nothing here waits for a device, except to ask masks of pairs and caches of fixed size what they
hold. A call of the model (or of its ``generate``) is counted whole or not at all: what it had
counted before it failed is taken back.
"""

import contextlib
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from modeval.errors import TraceError
from modeval.record.calls import Calls
from modeval.record.counter import Counter, Pending
from modeval.record.coverage import SeenTokens
from modeval.record.facts import ModelFacts
from modeval.record.frames import (
    TRAIN,
    UNKNOWN,
    Frame,
    Labelling,
    TokenRows,
    by_phase,
    make_frame,
    parameter_names,
    sample_rows_of,
    subset,
    token_rows_of,
)
from modeval.record.generation import Generation
from modeval.record.labels import Labeller
from modeval.record.routers.experts import ExpertWatch, note, watch
from modeval.record.routers.find import is_a, named_modules
from modeval.record.routers.readers import Choice, Router, selected, settled


class Listener:
    """Hears what the routers of a model choose, and gives it away with the tokens it is about.

    Attributes:
        routers: the routers that are listened to.
        seen: what happened at each so far.
        active: whether it listens.
        facts: what happened that whoever reads the counts must know.
        watches: experts whose rows are compared with what their router is read to have chosen.
    """

    def __init__(
        self,
        model: nn.Module,
        routers: list[Router],
        labeller: Labeller,
        counter: Counter,
        *,
        blocks: int,
        ended: Callable[[], None],
    ) -> None:
        self.routers = routers
        self.seen = [SeenTokens(router.choices) for router in routers]
        self.active = False
        self.facts = ModelFacts()
        self.watches: dict[int, ExpertWatch] = {}
        self._model, self._labeller, self._blocks = model, labeller, blocks
        self._counter, self._ended = counter, ended
        self.calls = Calls(self._keep, self._let_go, self._take_back)
        self.generation = Generation(self.calls.whole)
        self._exits = contextlib.ExitStack()
        self._frames: list[Frame] = []
        self._error: BaseException | None = None  # what was handled when the outermost call began
        self._before: tuple[list[SeenTokens], Labelling | None, Labelling] | None = None
        self._inputs: dict[int, tuple[str, ...]] = {}
        self._types: dict[int, Tensor] = {}
        self._last: dict[int, TokenRows] = {}

    def start(self) -> None:
        """Hang hooks on the model, all or none."""
        with contextlib.ExitStack() as exits:
            self._hook(exits)
            self._exits = exits.pop_all()
        self.active = True

    def stop(self) -> None:
        """Take all hooks away."""
        self.active = False
        self._exits.close()
        self._frames.clear()

    def _hook(self, exits: contextlib.ExitStack) -> None:
        def keep(handle: RemovableHandle) -> None:
            exits.callback(handle.remove)

        for module in _stacks(self._model, self.routers):
            self._inputs[id(module)] = parameter_names(module)
            keep(module.register_forward_pre_hook(self._enter_frame, with_kwargs=True))
            keep(module.register_forward_hook(self._leave_frame, always_call=True))
            if callable(getattr(module, "generate", None)):
                exits.enter_context(self.generation.around(module))
        for number, router in enumerate(self.routers):
            if router.doubt or router.read is selected:  # older classes return logits alone
                self.watches[number] = watch(router, keep, lambda: self._deaf)
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

    # --- hooks ------------------------------------------------------------------------------------

    # --- calls ------------------------------------------------------------------------------------

    def _keep(self) -> None:
        labeller = self._labeller
        self._before = [replace(seen) for seen in self.seen], labeller.given, labeller.current
        self._counter.begin()

    def _let_go(self) -> None:
        self._before = None
        self._counter.end()
        self._ended()

    def _take_back(self) -> None:
        self._counter.undo()
        if self._before is not None:
            self.seen[:], self._labeller.given, self._labeller.current = self._before

    @property
    def _deaf(self) -> bool:
        return not self.active or self.generation.drafting or _recomputing()

    def _enter_frame(
        self, module: nn.Module, arguments: tuple[Any, ...], by_name: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self._deaf:
            return None
        self.calls.refuse_threads()
        names = self._inputs[id(module)]
        if self._frames and self._frames[0].module is module:  # it was left without a word
            self._frames.clear()
            self.calls.end(failed=True)
        if self._frames:
            self._frames.append(make_frame(module, names, arguments, by_name, self._frames[-1]))
            return None
        self.calls.begin()
        self._error = sys.exc_info()[1]
        self._frames.append(Frame(module, None, None, None, None, None, UNKNOWN))
        given = self._labeller.given
        by_hand = given is not None and given.mask is not None
        frame = make_frame(
            module, names, arguments, by_name, None,
            masked=not by_hand and not self.generation.tells(module),
            within=bool(self.generation.runs),
        )  # fmt: skip
        self._frames[0] = frame
        self._begin(frame, dict(zip(names, arguments, strict=False)) | by_name)
        key = self._labeller.source
        if isinstance(key, str) and key in by_name and key not in names:
            return arguments, {name: value for name, value in by_name.items() if name != key}
        return None

    def _leave_frame(self, module: nn.Module, arguments: Any, output: Any) -> None:
        del arguments, output
        if self._deaf or not any(frame.module is module for frame in self._frames):
            return
        while self._frames.pop().module is not module:
            pass
        if not self._frames:
            self.calls.end(failed=sys.exc_info()[1] is not self._error)

    def _begin(self, frame: Frame, inputs: Mapping[str, Any]) -> None:
        """Settle labels and documents of a call of the model, once for each batch."""
        labeller, generation = self._labeller, self.generation
        writing = bool(generation.runs)
        if writing:
            continues, generation.started = generation.started, True
        else:  # a loop by hand: the batch goes on while its cache is filled
            known = labeller.given is None and len(labeller.current.document) > 0
            continues = known and frame.past.filled and frame.phase != TRAIN
        if not continues:
            labeller.begin(frame, inputs, repeated=writing)
        if writing:
            generation.settle(frame, labeller.current.mask)
        elif not continues:
            labeller.refuse_misfits(frame)
        self.facts.note(frame, labeller.current, generation, inputs.get("position_ids"))

    def _reach(self, number: int, module: nn.Module, arguments: Any) -> None:
        del module, arguments
        self.seen[number].reached = True

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
        if self._deaf:
            return
        self.calls.refuse_threads()
        router, seen = self.routers[number], self.seen[number]
        with torch.no_grad():
            choice = router.read(router, output)
            chosen, weight = _flat(router, choice)
        router = self.routers[number] = settled(router, choice, first=seen.calls == 0)
        if number in self.watches and (choice.inferred or router.doubt):
            note(self.watches[number], chosen, inferred=choice.inferred)
        _refuse_capture(router, chosen)
        token_rows = self._rows(router, chosen)
        if self._last.get(number) is token_rows:
            self.facts.looped[router.name] = None
        self._last[number] = token_rows
        seen.calls += 1
        seen.tokens += len(chosen)
        seen.choices = max(seen.choices or 0, chosen.shape[1])
        seen.weighted = seen.weighted and weight is not None
        for part, rows in by_phase(token_rows):
            if rows is None:
                self._counter.add(Pending(number, part, chosen, weight))
            else:
                shares = None if weight is None else weight[rows]
                self._counter.add(Pending(number, part, chosen[rows], shares))

    def _rows(self, router: Router, chosen: Tensor) -> TokenRows:
        if not self._frames:
            self._labeller.take_given()
        options: Any = {"rules": self._labeller.rules, "blocks": self._blocks}
        options |= {"device": chosen.device, "labelling": self._labeller.current}
        if router.row != "token" and self._samples(router, len(chosen)):
            rows = sample_rows_of(self._frames, len(chosen), **options)
            if rows is not None:
                return rows
        types = self._types.get(id(router.split[0])) if router.split else None
        if router.split is None or types is None or len(types) == len(chosen):
            return token_rows_of(self._frames, len(chosen), **options)
        return subset(
            token_rows_of(self._frames, len(types), **options), types if router.split[1] else ~types
        )

    def _samples(self, router: Router, rows: int) -> bool:
        """Return whether so many rows are the samples of a batch, rather than its tokens."""
        sizes = {(frame.batch, frame.length) for frame in self._frames}
        tokens = any(batch and length and rows == batch * length for batch, length in sizes)
        return router.row == "sample" or (not tokens and any(rows == batch for batch, _ in sizes))


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


def _stacks(model: nn.Module, routers: Sequence[Router]) -> list[nn.Module]:
    """Return the modules whose calls are frames: the model, and models within it that route."""
    mine = {id(router.module) for router in routers}
    stacks = [dict(named_modules(model))[""]]
    for module in stacks[0].modules():
        routes = any(id(part) in mine for part in module.modules())
        if routes and is_a(module, "PreTrainedModel") and module is not stacks[0]:
            stacks.append(module)
    return stacks
