"""Soft routing that is kept from settling early: noise, dropout and a falling temperature."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from modeval.spec.checks import check, check_positive

if TYPE_CHECKING:  # settings are read where torch is not yet loaded; tensors bring their methods
    from torch import Tensor

    from modeval.types import Noise


@dataclass(frozen=True, slots=True)
class Unsettled:
    """Softmax that training shakes: ``softmax(l (1 + jitter (2u - 1)) / t)``, less what is dropped.

    At evaluation there is neither jitter nor dropout, and t is the last one.

    Attributes:
        jitter: how far logits are scaled up or down, as a share.
        dropout: share of the modules that a sample cannot go to, drawn for each sample; the one
            with the largest number stays where all would go.
        temperature: t at the end of training.
        start: t at its beginning; it falls by the same factor each step.

    Source: Fedus et al. 2021 (jitter, arXiv 2101.03961, section 2.4); Zoph et al. 2022; the survey
    (arXiv 2302.11529), section 4.2.

    >>> import torch
    >>> Unsettled()(torch.tensor([[[0.0, 0.0]]])).tolist()
    [[[0.5, 0.5]]]
    """

    logits: ClassVar[int] = 1
    chance: ClassVar[int] = 2
    batchwise: ClassVar[bool] = False
    sparse: ClassVar[bool] = False
    kind: Literal["unsettled"] = "unsettled"
    jitter: float = 0.1
    dropout: float = 0.0
    temperature: float = 1.0
    start: float = 1.0

    @property
    def anneals(self) -> bool:
        """Whether a step depends on how many there are in all."""
        return self.start != self.temperature

    def __post_init__(self) -> None:
        check_positive(self, "temperature", "start")
        for name in ("jitter", "dropout"):
            value = getattr(self, name)
            check(0 <= value < 1, f"{name} = {value}: expected a share from 0 to below 1.")

    def __call__(self, logits: "Tensor", noise: "Noise | None" = None) -> "Tensor":
        """Return softmax weights, shaken in training."""
        if noise is None:
            return (logits / self.temperature).softmax(-1)
        scale, drop = noise.uniform.chunk(2, -1)
        shaken = logits * (1 + self.jitter * (2 * scale - 1))
        warm = self.start * (self.temperature / self.start) ** noise.progress
        kept = (drop >= self.dropout) | (drop == drop.amax(-1, keepdim=True))
        return (shaken / warm).masked_fill(~kept, -1e9).softmax(-1)
