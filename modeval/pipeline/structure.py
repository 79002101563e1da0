"""Structure of networks: of any module of linear layers, and of the seeds of a run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeval.data.tasks import draw, stack_tasks
from modeval.errors import SpecError
from modeval.evaluate.cohort import sample_losses
from modeval.evaluate.runs import load_run
from modeval.evaluate.structure.chain import Chain, chain_of
from modeval.evaluate.structure.clusters import Clusters, clusterability
from modeval.evaluate.structure.lesions import Lesions, lesion_test
from modeval.evaluate.structure.masks import Masks, learned_masks
from modeval.evaluate.structure.monolithic import monolithic_chain
from modeval.evaluate.structure.redundancy import Held, against_untrained
from modeval.evaluate.subject import Subject
from modeval.pipeline.connections import SeedConnection, connections
from modeval.spec import DataSpec, Selection
from modeval.types import Batch

SAMPLES = 2_048
"""Samples that lesions are measured on."""
FEWEST = 128
"""Samples that they are measured on where each has many positions."""
COMPARED = 512
"""Samples that modules are compared on."""
PARTS = 4
"""Parts of a network that is told no rules."""
STREAM = 0x7374727563
"""Where the stream of samples starts."""
Loss = Callable[[Tensor, Tensor], Tensor]
"""Gives the loss of each sample from predictions and targets."""
Watch = Callable[[int, int], None]
"""What is told how many of how many seeds are done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """What the structure of one dense network is.

    Attributes:
        clusters: its parts, and whether it falls apart better than shuffled networks.
        lesions: what switching parts off does; nothing where no samples were given.
        masks: the weights that each rule needs; nothing unless asked for.
    """

    clusters: Clusters
    lesions: Lesions | None = None
    masks: Masks | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as lists and numbers."""
        found: dict[str, Any] = {"clusters": _plain(self.clusters)}
        found |= {} if self.lesions is None else {"lesions": _plain(self.lesions)}
        return found | ({} if self.masks is None else {"masks": _plain(self.masks)})


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStructure:
    """The structure of each seed of a run.

    Attributes:
        title: the model.
        seeds: task and model seed of each usable member.
        dense: of each seed, where the model is Monolithic.
        modules: how alike modules are, by measure; empty for one module.
        connections: what lies between seeds of one task, in pairs; empty where a task has one seed,
            or units cannot be matched.
    """

    title: str
    seeds: tuple[tuple[int, int], ...]
    dense: tuple[Structure, ...] = ()
    modules: dict[str, Held]
    connections: tuple[SeedConnection, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as lists and numbers."""
        return {
            "title": self.title,
            "seeds": [{"task": task, "model": model} for task, model in self.seeds],
            "dense": [each.to_dict() for each in self.dense],
            "modules": {name: _plain(held) for name, held in self.modules.items()},
            "connections": [each.to_dict() for each in self.connections],
        }


def structure(
    module: nn.Module,
    inputs: Tensor | None = None,
    target: Tensor | None = None,
    rule: Tensor | None = None,
    *,
    loss: Loss | None = None,
    layers: Sequence[str] = (),
    clusters: int | None = None,
    masks: bool = False,
    permutations: int = 99,
    seed: int = 0,
) -> Structure:
    """Do the parts of a dense network cluster, and does each do something of its own?

    Args:
        module: any module whose linear layers follow each other.
        inputs: samples ``(N, ...)``, for lesions and masks; weights alone are looked at without.
        target: what is wanted of them, as the loss takes it.
        rule: ``(N,)`` rule of each sample.
        loss: gives the loss of each sample, ``(N,)``; absolute error when absent.
        layers: names of the linear layers, in order; all of them when empty.
        clusters: parts; as many as rules, or 4, when absent.
        masks: whether to learn which weights each rule needs, which takes seconds for each.
        permutations: shuffled networks and random partitions.
        seed: of all that is drawn.

    Raises:
        SpecError: layers do not follow each other, or samples do not go together.

    >>> network = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    >>> found = structure(network, clusters=2, permutations=19)
    >>> found.clusters.count, 0.05 <= found.clusters.p_value <= 1
    (2, True)
    """
    chain = chain_of(module, layers)
    samples = _samples(inputs, target, rule)
    if samples is None and masks:
        raise SpecError("masks need samples: give inputs, target and rule.")
    return _structure(
        chain,
        samples,
        loss or absolute,
        clusters=clusters,
        masks=masks,
        permutations=permutations,
        seed=seed,
    )


def absolute(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the absolute error of each sample."""
    return (prediction - target).abs().flatten(1).mean(1)


def structure_of_run(
    folder: str | Path,
    *,
    selection: Selection = "last",
    clusters: int | None = None,
    masks: bool = False,
    permutations: int = 99,
    seed: int = 0,
    watch: Watch | None = None,
) -> RunStructure:
    """Tell the structure of each seed of a run: parts of Monolithic, likeness of modules of others.

    And of seeds of one task whether a line of low loss connects them.

    Args:
        folder: of ``modeval train``.
        selection: checkpoint.
        clusters: parts; as many as rules when absent.
        masks: whether to learn which weights each rule needs.
        permutations: shuffled networks and random partitions.
        seed: of all that is drawn.
        watch: told how many of how many seeds are done.

    Raises:
        RunError: the folder holds no run, or is damaged.
        SpecError: the model has no structure that could be told.
    """
    subject = load_run(Path(folder), selection)
    usable = [index for index, fault in enumerate(subject.faults) if not fault]
    if not usable or subject.network is None:
        raise SpecError(f"{folder}: no seed can be used: {subject.faults[0]}. Train again.")
    known = {"title": subject.title, "seeds": tuple(subject.seeds[index] for index in usable)}
    between = connections(
        subject, usable, _batch(subject, _samples_of(subject.data, COMPARED), seed)
    )
    if subject.network.module_count > 1:
        held = against_untrained(
            subject.data, subject.model, subject.network, _batch(subject, COMPARED, seed)
        )
        kept = {name: _of_seeds(each, usable) for name, each in held.items()}
        if watch is not None:
            watch(len(usable), len(usable))
        return RunStructure(modules=kept, connections=between, **known)  # type: ignore[arg-type]
    batch = _batch(subject, _samples_of(subject.data, SAMPLES), seed)
    found = []
    for done, index in enumerate(usable):
        if watch is not None:
            watch(done, len(usable))
        chain = monolithic_chain(subject.network, index)
        one_hot = F.one_hot(batch.told[index], subject.data.rules).to(batch.inputs.dtype)
        inputs = torch.cat((batch.inputs[index], one_hot), -1)
        found.append(
            _structure(
                chain,
                (inputs, batch.target[index], batch.rule[index]),
                lambda output, wanted: sample_losses(
                    output.unsqueeze(0), wanted.unsqueeze(0), subject.data.objective
                )[0].squeeze(0),
                clusters=clusters,
                masks=masks,
                permutations=permutations,
                seed=seed,
            )
        )
    if watch is not None:
        watch(len(usable), len(usable))
    return RunStructure(dense=tuple(found), modules={}, connections=between, **known)  # type: ignore[arg-type]


def _structure(
    chain: Chain,
    samples: tuple[Tensor, Tensor, Tensor] | None,
    loss: Loss,
    *,
    clusters: int | None,
    masks: bool,
    permutations: int,
    seed: int,
) -> Structure:
    generator = torch.Generator().manual_seed(seed)
    rules = 0 if samples is None else int(samples[2].max()) + 1
    count = clusters or max(rules, 2) if samples is not None else clusters or PARTS
    if count < 2:  # noqa: PLR2004 - one part is no structure
        raise SpecError(f"clusters = {count}: expected 2 or more.")
    parts = clusterability(chain, clusters=count, shuffles=permutations, generator=generator)
    if samples is None:
        return Structure(clusters=parts)
    inputs, target, rule = samples
    lesions = lesion_test(
        chain,
        parts.labels[1:-1],
        lambda: loss(chain.module(inputs), target),
        rule,
        partitions=permutations,
        generator=generator,
    )
    learned = None
    if masks:
        learned = learned_masks(chain, inputs, target, rule, loss, generator=generator)
    return Structure(clusters=parts, lesions=lesions, masks=learned)


def _samples(
    inputs: Tensor | None, target: Tensor | None, rule: Tensor | None
) -> tuple[Tensor, Tensor, Tensor] | None:
    if inputs is None and target is None and rule is None:
        return None
    if inputs is None or target is None or rule is None:
        raise SpecError("inputs, target and rule go together: give all three or none.")
    if not len(inputs) == len(target) == len(rule):
        raise SpecError(
            f"There are {len(inputs)} inputs, {len(target)} targets and {len(rule)} rules: "
            "expected one of each for every sample."
        )
    counts = torch.bincount(rule)
    if bool((counts == 0).any()):
        raise SpecError(f"Rule {int(counts.argmin())} has no samples: number rules from 0 on.")
    return inputs, target, rule


def _samples_of(data: DataSpec, wanted: int) -> int:
    """Return how many samples to draw: of sequences fewer, as each has many positions."""
    return max(wanted // (1 if data.task == "binary" else data.length), FEWEST)


def _batch(subject: Subject, samples: int, seed: int) -> Batch:
    tasks = stack_tasks(subject.data, [task for task, _ in subject.seeds])
    generators = [torch.Generator().manual_seed(STREAM + seed) for _ in subject.seeds]
    even = torch.full((subject.data.rules,), 1 / subject.data.rules, dtype=torch.float64)
    return draw(subject.data.clean, tasks, generators, samples=samples, rule_probabilities=even)


def _of_seeds(held: Held, usable: list[int]) -> Held:
    return Held(value=held.value[usable], untrained=held.untrained, p_value=held.p_value[usable])


def _plain(record: Any) -> dict[str, Any]:
    """Return the fields of a record as lists and numbers."""
    return {
        name: value.tolist() if isinstance(value, Tensor) else value
        for name in record.__dataclass_fields__
        for value in (getattr(record, name),)
    }
