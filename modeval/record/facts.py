"""What happened while a model was recorded that whoever reads the counts must know."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import Tensor

from modeval.record.frames import PREFILL, Frame, Labelling
from modeval.record.generation import Generation
from modeval.record.routers.experts import ExpertWatch
from modeval.trace.trace import Warned


@dataclass(slots=True)
class ModelFacts:
    """Numbers of calls of the model, by what was special about them.

    Attributes:
        calls: all calls.
        unmasked: calls of several samples of several tokens that came without a mask.
        continued: calls of several tokens after others, outside of ``generate``.
        drafted: whether tokens were guessed first and then verified.
        unheard: calls of ``generate`` that told nothing of their sequences.
        packed: calls whose samples hold several documents, as their positions tell, that were not
            told apart.
        looped: names of routers that route the same tokens several times in a call.
    """

    calls: int = 0
    unmasked: int = 0
    continued: int = 0
    drafted: bool = False
    unheard: bool = False
    packed: int = 0
    looped: dict[str, None] = field(default_factory=dict)

    def note(
        self, frame: Frame, labelling: Labelling, generation: Generation, positions: object = None
    ) -> None:
        """Take down what is special about an outermost call, which was given these positions."""
        self.calls += 1
        if not generation.runs and labelling.document.ndim == 1 and _restarts(frame, positions):
            self.packed += 1
        runs = generation.runs
        if runs and runs[-1].module is frame.module:
            self.drafted = self.drafted or runs[-1].drafted
            self.unheard = self.unheard or not runs[-1].told
        told = labelling.mask is not None or (runs and runs[-1].told)
        several = (frame.batch or 0) > 1 and (frame.length or 0) > 1
        self.unmasked += several and frame.mask is None and not told
        after = frame.past.filled and frame.phase == PREFILL
        self.continued += after and not runs and (frame.length or 0) > 1

    def notes(self) -> tuple[str, ...]:
        """Return these facts as sentences."""
        said = {
            f"{self.unmasked} of {self.calls} calls of several samples came without an attention "
            "mask: all their tokens were counted, padding too if there was any.": self.unmasked,
            f"{self.continued} calls of several tokens after others were counted as prefill: "
            "chunks of a prompt, or tokens that were written.": self.continued,
            "Tokens were guessed and then verified: those that were rejected are counted, as the "
            "model routed them.": self.drafted,
            f"{self.packed} calls hold several documents in a sample, as their positions tell, and "
            "each sample was taken for one: say recording.label(labels, documents=...) with a "
            "number for each token.": self.packed,
            f"{len(self.looped)} routers ({', '.join(list(self.looped)[:3])}) route the same "
            "tokens several times in a call: each pass is counted.": len(self.looped),
            "A model generated in a way of its own: sequences that had ended may be counted "
            "on.": self.unheard,
        }
        return tuple(text for text, holds in said.items() if holds)


def _restarts(frame: Frame, positions: object) -> bool:
    """Return whether positions begin anew within a sample, among tokens that are not padding."""
    shape = (frame.batch, frame.length)
    if not isinstance(positions, Tensor) or tuple(positions.shape) != shape:
        return False
    begins = positions == 0
    if frame.mask is not None:
        begins = begins & frame.mask.to(begins.device)
    return bool((begins.sum(1) > 1).any())


def inferred(watches: Iterable[ExpertWatch]) -> tuple[str, ...]:
    """Return what must be known of routers that are read as the K largest of their logits."""
    mine = [watch for watch in watches if watch.inferred]
    notes = []
    for agreed, ending in (
        (
            True,
            "their experts were given as many tokens in each call; weights are taken as a softmax",
        ),
        (False, "nothing confirms that nothing else decides, nor that weights are a softmax"),
    ):
        names = [watch.router.name for watch in mine if watch.agreed == agreed]
        if names:
            shown = f"{', '.join(names[:3])}{', ...' if names[3:] else ''}"
            notes.append(
                f"{len(names)} routers are read as the largest of their logits ({shown}): {ending}."
            )
    return tuple(notes)


def unconfirmed(watches: Iterable[ExpertWatch]) -> tuple[Warned, ...]:
    """Return a warning of routers that are read by their logits alone, without their experts."""
    names = [watch.router.name for watch in watches if watch.inferred and not watch.agreed]
    if not names:
        return ()
    shown = f"{', '.join(names[:3])}{', ...' if names[3:] else ''}"
    return (
        Warned(
            "assumed",
            f"{len(names)} routers ({shown}) are taken to choose the largest of their logits: "
            "their experts do not show what they were given. Say what is chosen with routers=.",
        ),
    )
