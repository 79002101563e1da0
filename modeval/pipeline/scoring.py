"""Scoring whatever lies at paths, and evaluating runs."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, overload

import torch
from torch import nn

from modeval.data import Dataset, open_dataset
from modeval.errors import CheckpointError, ModevalError, SpecError
from modeval.evaluate.cohort import evaluate as evaluate_subject
from modeval.evaluate.interventions import Asked
from modeval.evaluate.runs import load_run
from modeval.evaluate.subject import Evaluation, Subject
from modeval.pipeline.machine import choose_device
from modeval.pipeline.sources import Job, ScoreOptions, find_jobs, score_subjects
from modeval.score.scorecard import Scorecard
from modeval.spec import DataSpec, Objective, Selection
from modeval.train.files import take_code
from modeval.types import Prior

LEAST_PRECISION, LARGEST_PRECISION = 1e-4, 0.5
"""Outside, no number of samples makes sense."""
FEWEST_ORDERS, MOST_ORDERS = 2, 10_000
"""Random orders for Shapley values: one has no error."""
OnProgress = Callable[[int, int], None]
"""What is told how many of how many things are done."""
Paths = str | Path | Sequence[str | Path]


def nobody(_done: int, _all: int) -> None:
    """Tell nobody how far it is."""


@dataclass(frozen=True, slots=True)
class Scored:
    """What came of scoring.

    Attributes:
        card: the scorecard.
        failed: what could not be scored, and why.
    """

    card: Scorecard
    failed: tuple[str, ...] = ()


def score(
    paths: Paths,
    *,
    kind: Literal["auto", "run", "modarch", "trace", "model"] = "auto",
    selection: Selection = "last",
    objective: Objective | None = None,
    only: str | None = None,
    task_seeds: Sequence[int] | None = None,
    model_seeds: Sequence[int] | None = None,
    data: Paths = (),
    view: Literal["auto", "weight", "assignment"] = "auto",
    prior: Prior = "uniform",
    layers: Sequence[int] | None = None,
    phase: Literal["prefill", "decode", "train"] | None = None,
    text: str = "text",
    label: str = "label",
    max_tokens: int | None = None,
    precision: float = 0.005,
    seed: int = 0,
    device: str = "auto",
    trust_code: bool = False,
    interventions: bool | None = None,
    shapley: int = 0,
    watch: OnProgress = nobody,
) -> Scorecard:
    """How modular did models become?

    Args:
        paths: run folders of ``train``, traces, counts, model folders of the reference
            implementation, folders above them; or a model folder or hub id of Hugging Face.
        kind: what they are; ``auto`` finds out.
        selection: checkpoint of a cohort.
        objective: of the reference's models, whose folders do not tell it.
        only: score only what has this text in its path.
        task_seeds: score only members of these task seeds.
        model_seeds: score only members of these model seeds.
        data: folder of samples to score cohorts on, or labelled text for a model.
        view: what counts as routing in traces: weights, or each chosen module the same.
        prior: weight of the rules of traces.
        layers: numbers of the layers of traces to score.
        phase: tokens of traces to score.
        text: column of the text for a model.
        label: column of the label.
        max_tokens: tokens of a model after which to stop.
        precision: half width of the 95 % interval to which cohorts are evaluated.
        seed: of samples and permutations; two calls give the same scorecard.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        trust_code: whether to run the code that run folders bring, with your rights.
        interventions: whether modules of cohorts are switched off, to see what they do; when
            absent where that takes seconds.
        shapley: random orders in which they are, for Shapley values; 0 for none.
        watch: called with how many of how many sources are done.

    Returns:
        One scorecard of all models. What could not be read stands in its notes.

    Raises:
        ModevalError: nothing can be scored, or an argument means nothing for what is there.

    >>> import modeval
    >>> card = modeval.score("fixtures/tiny-moe.counts.safetensors", layers=[0])
    >>> card.models[0].title, card.models[0].modules
    ('tiny-moe', 8)
    """
    asked = ScoreOptions(
        origin=kind,
        selection=selection,
        objective=objective,
        only=only,
        task_seeds=None if task_seeds is None else tuple(task_seeds),
        model_seeds=None if model_seeds is None else tuple(model_seeds),
        data=listed(data),
        view=view,
        prior=prior,
        layers=None if layers is None else tuple(layers),
        phase=phase,
        text=text,
        label=label,
        max_tokens=max_tokens,
        precision=precision,
        seed=seed,
        device=device,
        trust_code=trust_code,
        interventions=interventions,
        shapley=shapley,
    )
    return score_asked(listed(paths), asked, watch=watch).card


def listed(paths: Paths) -> tuple[str, ...]:
    """Return one path or several as texts."""
    return (str(paths),) if isinstance(paths, str | Path) else tuple(map(str, paths))


def score_asked(paths: Sequence[str], asked: ScoreOptions, *, watch: OnProgress = nobody) -> Scored:
    """Score what lies at paths; a source that fails stops only itself, unless all do."""
    if not LEAST_PRECISION <= asked.precision <= LARGEST_PRECISION:
        raise SpecError(
            f"--precision {asked.precision}: expected 0.0001 to 0.5. Use --precision 0.005."
        )
    check_interventions(asked)
    choose_device(asked.device)
    jobs, left_out, dataset = find_jobs(paths, asked)
    cards, failed = _work(jobs, watch)
    card = _together(cards, [*left_out, *failed])
    if dataset is not None:
        held = {"folder": str(dataset.folder), "digest": dataset.digest, "samples": dataset.samples}
        card = replace(card, dataset=held)
    return Scored(card, tuple(failed))


def check_interventions(asked: ScoreOptions) -> None:
    """Refuse numbers of orders that make no sense.

    Raises:
        SpecError: says which do.
    """
    if asked.shapley and not FEWEST_ORDERS <= asked.shapley <= MOST_ORDERS:
        raise SpecError(
            f"--shapley {asked.shapley}: expected {FEWEST_ORDERS} to {MOST_ORDERS:,} random "
            "orders. Use --shapley 50."
        )
    if asked.shapley and asked.interventions is False:
        raise SpecError("--shapley needs interventions. Drop --no-interventions.")


def _work(jobs: Sequence[Job], watch: OnProgress) -> tuple[list[Scorecard], list[str]]:
    cards: list[Scorecard] = []
    failed: list[str] = []
    first: ModevalError | None = None
    for done, job in enumerate(jobs):
        watch(done, len(jobs))
        try:
            cards += job.run()
        except ModevalError as error:
            first = first or error
            failed.append(f"failed: {job.what}: {error}")
    watch(len(jobs), len(jobs))
    if first is not None and not cards:
        raise first
    return cards, failed


def _together(cards: Sequence[Scorecard], notes: Sequence[str]) -> Scorecard:
    members = [member for card in cards for model in card.models for member in model.members]
    if all(member.status == "failed" for member in members):
        first = members[0]
        raise CheckpointError(
            f"Nothing can be scored: {first.source}: {first.note.rstrip('.')}"
            + (f" (and {len(members) - 1} more)" if len(members) > 1 else "")
            + ". Use another --selection (last, best, phase-1), or train again, perhaps with a "
            "lower learning rate."
        )
    card = cards[0]
    for other in cards[1:]:
        card += other
    return replace(card, notes=(*notes, *card.notes))


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A run, and what one pass over fresh samples tells of it.

    Attributes:
        subject: the cohort that was evaluated, with its networks.
        evaluation: losses, routing counts ``(S, L, B, R, M)``, and how sure they are.
    """

    subject: Subject
    evaluation: Evaluation


@overload
def evaluate(
    model: str | Path,
    *,
    selection: Selection = ...,
    data: str | Path | None = ...,
    precision: float = ...,
    seed: int = ...,
    device: str = ...,
    interventions: bool | None = ...,
    trust_code: bool = ...,
) -> Evaluated: ...


@overload
def evaluate(
    model: nn.Module | Sequence[nn.Module],
    *,
    task: DataSpec,
    seeds: Sequence[tuple[int, int]] = ...,
    forward: Callable[..., Any] | None = ...,
    routers: Sequence[str] | None = ...,
    title: str = ...,
    data: str | Path | None = ...,
    precision: float = ...,
    seed: int = ...,
    device: str = ...,
    interventions: bool | None = ...,
) -> Scorecard: ...


def evaluate(
    model: str | Path | nn.Module | Sequence[nn.Module],
    *,
    task: DataSpec | None = None,
    seeds: Sequence[tuple[int, int]] = ((0, 0),),
    forward: Callable[..., Any] | None = None,
    routers: Sequence[str] | None = None,
    title: str = "",
    selection: Selection = "last",
    data: str | Path | None = None,
    precision: float = 0.005,
    seed: int = 0,
    device: str = "auto",
    interventions: bool | None = None,
    trust_code: bool = False,
) -> Evaluated | Scorecard:
    """Run a model on fresh samples of a task with known rules, and count how it routes them.

    A run folder gives what was measured. Modules that you trained yourself, one for each seed, give
    a scorecard like that of a run: losses, intervals over seeds, chance, and the loss added by hard
    routing where their weights can be changed from outside. It can be compared with those of runs.

    A module is called with ``(inputs, rule)`` and returns ``(prediction, weights)``;
    ``modeval help own`` has the protocol, and ``forward`` adapts any other module to it. Samples to
    train on are those of :func:`modeval.generate`, or of your own drawing from the same task.

    Args:
        model: folder of ``train``; or a module, or a list of them.
        task: task that modules were trained on.
        seeds: pair (task seed, model seed) of each module.
        forward: ``(module, inputs, rule) -> (prediction, weights)``; with a fourth parameter
            ``route``, weights can be changed from outside: ``weights = route(weights, layer)``.
        routers: names of submodules whose outputs are routing weights, in the place of returned
            ones.
        title: name of the model; that of its class when empty.
        selection: checkpoint of a run.
        data: folder of samples of ``generate`` in place of fresh ones.
        precision: half width of the 95 % interval of each entry of A that is aimed at.
        seed: of the samples.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        interventions: whether modules are switched off, to see what they do; when absent where
            that takes seconds.
        trust_code: whether to run the code that a run folder brings, with your rights.

    Raises:
        RunError: the folder holds no run, or is damaged.
        SpecError: modules come without a task, or do not keep to the protocol.

    >>> import modeval
    >>> from torch import nn
    >>> from modeval.spec import DataSpec
    >>> class ByRule(nn.Module):
    ...     looks_at = "rule"
    ...     def __init__(self, rules):
    ...         super().__init__()
    ...         self.router = nn.Embedding(rules, 2)
    ...         self.experts = nn.Linear(2, 2)
    ...     def forward(self, inputs, rule, route):
    ...         weights = route(self.router(rule).softmax(-1), 0)
    ...         return (self.experts(inputs) * weights).sum(-1, keepdim=True), weights
    >>> card = modeval.evaluate(
    ...     [ByRule(2), ByRule(2)], task=DataSpec(rules=2), seeds=[(0, 0), (0, 1)],
    ...     precision=0.05, device="cpu",
    ... )
    >>> card.models[0].title, card.models[0].modules, len(card.models[0].members)
    ('ByRule', 2, 2)
    """
    dataset: Dataset | None = None if data is None else open_dataset(Path(data))
    options: dict[str, Any] = {
        "device": choose_device(device),
        "seed": seed,
        "dataset": dataset,
        "interventions": Asked(wanted=interventions, seed=seed),
    }
    if isinstance(model, str | Path):
        if trust_code:
            take_code(Path(model))
        subject = load_run(Path(model), selection)
        return Evaluated(subject, evaluate_subject(subject, precision=precision, **options))
    modules = [model] if isinstance(model, nn.Module) else list(model)
    if task is None or not modules:
        raise SpecError(
            "Modules are evaluated on a task: modeval.evaluate(module, task=DataSpec(rules=4), "
            "seeds=[(task seed, model seed)])."
        )
    with _resting(modules):
        from modeval.evaluate.modules import subject_of  # noqa: PLC0415 - modules alone

        subject = subject_of(modules, task, seeds, title=title, forward=forward, routers=routers)
        [card] = score_subjects([subject], precision=precision, **options)
    return card


@contextlib.contextmanager
def _resting(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Have modules behave as at evaluation, and leave them as they were: mode and device."""
    were = [(module, module.training, _device(module)) for module in modules]
    for module in modules:
        module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training, device in were:
            module.train(training)
            if device is not None:
                module.to(device)


def _device(module: nn.Module) -> torch.device | None:
    return next((value.device for value in module.parameters()), None)
