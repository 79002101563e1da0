"""Routing scores while a model trains, through the loggers that the trainer already has.

    trainer = transformers.Trainer(...)
    modeval.record.callbacks.follow(trainer, every=100)

    lightning.Trainer(callbacks=[modeval.record.callbacks.lightning_callback(every=100)])

One step of every ``every`` is recorded, so the cost is that of one step's hooks. Few numbers are
logged, as a training run has many already: the mean and the worst of all layers, and how many
modules nothing was routed to. ``stop_when="layers.worst.dead_fraction>0.3"`` ends the training as
soon as a step crosses that bound.
"""

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from modeval.errors import DependencyError, SpecError, TraceError
from modeval.metrics.collapse import collapse_avg
from modeval.metrics.information import inverse_mutual_information
from modeval.record.alarm import parse_alarm, value_of
from modeval.record.labels import LabelSource
from modeval.record.recording import Recording, record
from modeval.record.routers.find import Patterns

Log = Callable[[dict[str, float]], None]


def headline(recording: Recording, prefix: str = "routing") -> dict[str, float]:
    """Return the few numbers that tell whether routing is well.

    ``collapse_mean`` and ``collapse_worst_layer``: the mean over layers of ``collapse_avg``, and
    that of the worst layer; ``dead_modules``: modules that nothing was routed to, summed over
    layers. With labels also ``inverse_mutual_information_mean`` and ``..._best_layer``: 0 when the
    modules tell the labels apart, 1 when they know nothing of them. Each chosen module counts the
    same; rules that did not occur are left out.

    Raises:
        TraceError: nothing was counted.
    """
    collapse, blind, dead = [], [], 0
    for group in recording.groups():
        table = group.counts.selections.sum(-3)
        for layer in table[table.sum((-2, -1)) > 0]:
            dead += int((layer.sum(0) == 0).sum())
            joint = _joint(layer)
            collapse.append(collapse_avg(joint))
            if joint.shape[0] > 1:
                blind.append(inverse_mutual_information(joint))
    if not collapse:
        raise TraceError("Nothing was recorded in this step, so there is nothing to log.")
    values = {
        "collapse_mean": torch.stack(collapse).mean(),
        "collapse_worst_layer": torch.stack(collapse).max(),
        "dead_modules": torch.tensor(float(dead)),
    }
    if blind:
        values["inverse_mutual_information_mean"] = torch.stack(blind).mean()
        values["inverse_mutual_information_best_layer"] = torch.stack(blind).min()
    return {f"{prefix}/{name}": float(value) for name, value in values.items()}


def _joint(table: Tensor) -> Tensor:
    """Return the joint distribution of the rules that occur, each with the same weight."""
    seen = table[table.sum(-1) > 0]
    return seen / seen.sum(-1, keepdim=True) / len(seen)


class Sampler:
    """Records one step of every ``every``, and gives its headline scores to a logger.

    Attributes:
        every: how many steps lie between two that are recorded.
        last: the scores of the last step that was recorded.
        alarm: why training should stop; empty while it should not.
    """

    def __init__(
        self,
        every: int = 100,
        *,
        labels: Sequence[str] | int | None = None,
        label_from: LabelSource | None = None,
        routers: Patterns | None = None,
        prefix: str = "routing",
        stop_when: str | None = None,
    ) -> None:
        if every < 1:
            raise SpecError(f"every={every}: expected 1 or more steps.")
        self.every = every
        self.last: dict[str, float] = {}
        self._options: dict[str, Any] = {
            "labels": labels,
            "label_from": label_from,
            "routers": routers,
            "blocks": 1,
        }
        self.alarm = ""
        self._stop = None if stop_when is None else parse_alarm(stop_when)
        self._prefix = prefix
        self._recording: Recording | None = None

    def begin(self, model: nn.Module, step: int) -> Recording | None:
        """Begin to record, when it is this step's turn."""
        self.close()
        if step % self.every:
            return None
        self._recording = record(model, **self._options).start()
        return self._recording

    def end(self, log: Log) -> None:
        """End recording and log what was seen; a step that cannot be scored is a warning."""
        recording, self._recording = self._recording, None
        if recording is None:
            return
        try:
            recording.stop()
            self.last = headline(recording, self._prefix)
            self._watch(recording)
        except TraceError as error:
            warnings.warn(f"Routing was not logged in this step: {error}", stacklevel=2)
            return
        log(self.last)

    def _watch(self, recording: Recording) -> None:
        """Sound the alarm when a step has crossed its bound."""
        if self._stop is None:
            return
        value = value_of(self._stop, recording.groups())
        self.last[f"{self._prefix}/{self._stop.metric}_{self._stop.layers}_layer"] = value
        if self._stop.crossed(value) and not self.alarm:
            self.alarm = f"{self._stop} holds: it is {value:.4g}"
            warnings.warn(f"Training stops, as {self.alarm}.", stacklevel=3)

    def close(self) -> None:
        """Take all hooks away without logging."""
        recording, self._recording = self._recording, None
        if recording is not None:
            recording.discard()


def follow(trainer: Any, every: int = 100, **options: Any) -> Any:
    """Log routing scores of a Hugging Face ``Trainer`` every ``every`` steps; return the callback.

    The scores go through ``trainer.log``: to the history, the console and each tracker it reports
    to. Options are those of :class:`Sampler`.

    Raises:
        DependencyError: transformers is not installed.
        TraceError: the model has no router that is known or named.
    """
    callback = trainer_callback(every, **options)
    callback.log = trainer.log
    trainer.add_callback(callback)
    return callback


def trainer_callback(every: int = 100, **options: Any) -> Any:
    """Return a Hugging Face ``TrainerCallback`` that logs routing scores.

    Prefer :func:`follow`: a callback alone can only add to what the trainer logs next, which
    trackers that come before it do not see.

    Raises:
        DependencyError: transformers is not installed.
    """
    try:
        from transformers import TrainerCallback  # noqa: PLC0415 - an extra
    except ImportError:
        raise DependencyError(
            'The callback needs transformers: pip install "modeval-cli[hf]"'
        ) from None
    sampler = Sampler(every, **options)

    class RoutingCallback(TrainerCallback):  # type: ignore[misc, unused-ignore]
        """Records steps of training and logs their routing scores."""

        log: Log | None = None

        def on_step_begin(
            self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
        ) -> None:
            del args, control
            sampler.begin(model, state.global_step)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            del args, state
            sampler.end(self.log or functools.partial(_ask_to_log, control))
            if sampler.alarm:
                control.should_training_stop = True

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            del args, control
            if self.log is None and logs is not None:
                _add_to(logs, state, sampler)

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            del args, state, control
            sampler.close()

    callback = RoutingCallback()
    callback.sampler = sampler  # type: ignore[attr-defined, unused-ignore]
    return callback


def _ask_to_log(control: Any, values: dict[str, float]) -> None:
    del values
    control.should_log = True


def _add_to(logs: dict[str, float], state: Any, sampler: Sampler) -> None:
    """Add what was not logged yet to what the trainer logs, and to its history."""
    values, sampler.last = sampler.last, {}
    logs.update(values)
    if state.log_history:
        state.log_history[-1].update(values)


def lightning_callback(every: int = 100, **options: Any) -> Any:
    """Return a Lightning callback that logs routing scores with ``log_dict``.

    ``label_from`` is a function of the batch here (or its key). Other options are those of
    :class:`Sampler`.

    Raises:
        DependencyError: Lightning is not installed.
    """
    base = _lightning_base()
    label_from = options.pop("label_from", None)
    sampler = Sampler(every, **options)

    class RoutingCallback(base):  # type: ignore[misc, valid-type, unused-ignore]
        """Records steps of training and logs their routing scores."""

        def on_train_batch_start(
            self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
        ) -> None:
            del batch_idx
            recording = sampler.begin(pl_module, trainer.global_step)
            if recording is not None and label_from is not None:
                recording.label(label_from(batch) if callable(label_from) else batch[label_from])

        def on_train_batch_end(
            self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            del outputs, batch, batch_idx
            sampler.end(pl_module.log_dict)
            if sampler.alarm:
                trainer.should_stop = True

        def on_exception(self, trainer: Any, pl_module: Any, exception: Any) -> None:
            del trainer, pl_module, exception
            sampler.close()

    callback = RoutingCallback()
    callback.sampler = sampler
    return callback


def _lightning_base() -> Any:
    try:
        from lightning.pytorch import Callback  # noqa: PLC0415 - an extra
    except ImportError:
        try:
            from pytorch_lightning import Callback  # noqa: PLC0415
        except ImportError:
            raise DependencyError("The callback needs Lightning: pip install lightning") from None
    return Callback
