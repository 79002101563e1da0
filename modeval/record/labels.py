"""What the samples of a batch are: labels and documents, said by the user or in the inputs."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from modeval.errors import TraceError
from modeval.record.frames import Frame, Labelling
from modeval.record.ranks import rank_of

LabelSource = str | Callable[[Mapping[str, Any]], Any]


class Labeller:
    """Knows the labels and documents of the batch that runs, and of the next one.

    Attributes:
        names: names of the rules, empty without.
        source: where the labels of a batch are found in the model's inputs.
        current: labels of the batch that runs.
        given: labels that the user gave for the next batch.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        source: LabelSource | None,
        group: Any,
        *,
        stray: bool = False,
    ) -> None:
        self.names = names
        self._stray = stray
        self.source = source
        self.rules = max(len(names), 1)
        self.given: Labelling | None = None
        self.current = Labelling(None, torch.zeros(0, dtype=torch.int64))
        self._group = group
        self._documents = 0
        self._strange: Tensor | None = None

    def give(self, labels: Any, documents: Any, mask: Any) -> None:
        """Keep what the user says of the next batch.

        Raises:
            TraceError: a label is not among the names.
        """
        label, uniform = self._numbers(labels)
        if label is None and documents is None and mask is None:
            raise TraceError(
                "This recording has no labels to choose from. Give their names when it begins: "
                "modeval.record(model, labels=['code', 'prose'])."
            )
        numbers = torch.zeros(0, dtype=torch.int64)
        if documents is not None:
            numbers = torch.as_tensor(documents, dtype=torch.int64)
            numbers = numbers if numbers.ndim else numbers.reshape(1)
        elif label is not None:
            numbers = self._new_documents(len(label)) if label.ndim else numbers
        flags = None if mask is None else torch.as_tensor(mask) > 0
        self.given = Labelling(label, numbers, flags, uniform)

    def take_given(self) -> None:
        """Let labels that were given hold from now on, for a router that is called by itself."""
        if self.given is not None:
            self.current, self.given = self.given, None

    def begin(self, frame: Frame, inputs: Mapping[str, Any], *, repeated: bool = False) -> None:
        """Settle labels and documents of a batch.

        Args:
            frame: the call of the model.
            inputs: what it is given.
            repeated: whether a sample may stand for several rows, as beams do.

        Raises:
            TraceError: there are no labels, or they are of another number of samples.
        """
        given = self._next(frame, inputs)
        self.current = replace(given, repeated=repeated, stray=self._stray)
        batch, samples = frame.batch, len(given.document)
        if batch is not None and not self.current.fits(batch):
            if given.label is not None and given.label.ndim:
                samples = len(given.label)
            raise TraceError(
                f"{samples} labels were given for a batch of {batch} samples: expected {batch}. "
                "Call recording.label(labels) with the labels of the batch, before each batch."
            )

    def refuse_misfits(self, frame: Frame) -> None:
        """Refuse a mask or labels of tokens that do not fit the tokens of a call.

        Raises:
            TraceError: gives both shapes.
        """
        if frame.batch is None or frame.length is None:
            return
        shape = (frame.batch, frame.length)
        given = {"mask": self.current.mask, "labels": self.current.label}
        given["documents"] = self.current.document
        for name, part in given.items():
            if part is not None and part.ndim > 1 and tuple(part.shape) != shape:
                raise TraceError(
                    f"{name}= has the shape {tuple(part.shape)}, and the tokens {shape}: expected "
                    "the same, or one label for each sample."
                )

    def check(self) -> None:
        """Refuse labels out of range, which a device knows of only now.

        Raises:
            TraceError: some were.
        """
        if self._strange is not None and bool(self._strange):
            raise TraceError(
                f"Some labels are out of range: expected -1 to {self.rules - 1} for "
                f"{', '.join(self.names)}."
            )

    def _numbers(self, labels: Any) -> tuple[Tensor | None, int | None]:
        """Return labels as numbers, and the one that all are when they are."""
        if labels is None or not self.names:
            return None, None
        if isinstance(labels, (str, int)):
            number = self._number(labels)
            return torch.tensor(number), number
        if not isinstance(labels, Tensor):
            if any(isinstance(label, str) for label in labels):
                labels = [self._number(label) for label in labels]
            labels = torch.as_tensor(labels)
        if labels.is_floating_point() or labels.is_complex():
            raise TraceError(
                f"Labels are of type {str(labels.dtype).removeprefix('torch.')}: expected names, "
                "or whole numbers."
            )
        return self._checked(labels.long())

    def _number(self, label: str | int) -> int:
        if isinstance(label, str) and label in self.names:
            return self.names.index(label)
        if isinstance(label, int) and -1 <= label < len(self.names):
            return label
        raise TraceError(
            f"Label {label!r} is not among the labels of this recording: expected one of "
            f"{', '.join(self.names)}, or 0 to {len(self.names) - 1}."
        )

    def _checked(self, labels: Tensor) -> tuple[Tensor, int | None]:
        strange = (labels < -1) | (labels >= self.rules)
        if labels.device.type != "cpu":  # looked at when the recording ends: asking now would wait
            before = self._strange
            self._strange = strange.any() if before is None else before | strange.any()
            return labels, None
        if bool(strange.any()):
            self._number(int(labels[strange][0]))
        same = labels.numel() > 0 and bool((labels == labels.reshape(-1)[0]).all())
        return labels, int(labels.reshape(-1)[0]) if same else None

    def _new_documents(self, samples: int) -> Tensor:
        rank, ranks = rank_of(self._group)
        numbers = (self._documents + torch.arange(samples)) * ranks + rank
        self._documents += samples
        return numbers

    def _next(self, frame: Frame, inputs: Mapping[str, Any]) -> Labelling:
        given, self.given = self.given, None
        if given is None and self.source is not None:
            source = self.source
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
        if given.label is None and self.names:
            raise TraceError(
                "This batch has no labels. Call recording.label(labels) before each batch; the "
                f"labels are {', '.join(self.names)}."
            )
        return self._complete(given, frame.batch or 1)

    def _complete(self, given: Labelling, batch: int) -> Labelling:
        label, document = given.label, given.document
        if label is not None and label.ndim == 0:
            label = label.expand(batch)
        if not len(document):
            document = self._new_documents(batch if label is None else len(label))
        return replace(given, label=label, document=document)
