"""What was expected, listened to and recorded, layer by layer; the error when it is too little."""

from collections.abc import Sequence
from dataclasses import dataclass

from modeval.errors import TraceError
from modeval.record.routers.readers import Router


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
class SeenTokens:
    """What happened at one router so far."""

    choices: int | None
    calls: int = 0
    tokens: int = 0
    weighted: bool = True
    reached: bool = False


def coverage_of(
    routers: Sequence[Router],
    seen: Sequence[SeenTokens],
    counted: Sequence[float],
    missing: Sequence[str],
) -> Coverage:
    """Return the coverage of routers at which so much was seen and counted."""
    layers = tuple(
        LayerCoverage(
            name=router.name,
            router=type(router.module).__name__,
            found=router.found,
            modules=router.modules,
            choices=kind.choices,
            calls=kind.calls,
            tokens=kind.tokens,
            counted=int(number),
            reached=kind.reached,
        )
        for router, kind, number in zip(routers, seen, counted, strict=True)
    )
    return Coverage(layers, tuple(missing))


def check_coverage(coverage: Coverage, *, partial: bool = False) -> None:
    """Refuse a recording in which a router recorded nothing.

    Args:
        coverage: what was recorded.
        partial: whether routers may be left of which no token could be given a label.

    Raises:
        TraceError: names the first such router, and the reason.
    """
    wrong = ("passed by",) if partial else ("passed by", "nothing counted")
    faults = [layer for layer in coverage.layers if layer.status in wrong]
    if coverage.recorded == 0 or faults:
        raise TraceError(_nothing(coverage, faults))


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
            "label). Record batches of one label, name the routers you want with routers=, or "
            "leave such layers out with partial=True."
        ),
        "recorded": "",
    }
    return (
        f"Router {first.name} recorded nothing ({coverage.expected} expected, {coverage.hooked} "
        f"hooked, {coverage.recorded} recorded). {reasons[first.status]}"
    )
