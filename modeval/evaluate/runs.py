"""Runs of ``modeval train`` as something to evaluate."""

from pathlib import Path

from modeval.errors import RunError
from modeval.evaluate.history import history_of
from modeval.evaluate.subject import Subject, Wanted, every_seed
from modeval.nn import Network, build
from modeval.spec import RunSpec, Selection, phase_selected, title_of
from modeval.train.files import read_network
from modeval.train.records import read_record, read_run


def load_run(folder: Path, selection: Selection, wanted: Wanted = every_seed) -> Subject:
    """Read a run folder as something to score.

    Args:
        folder: of ``modeval train``.
        selection: last or best checkpoint.
        wanted: the members to take, at least one; the others cost nothing.

    Raises:
        RunError: the folder is damaged, incomplete, or mixes two runs.
    """
    spec, record = read_run(folder), read_record(folder)
    seeds = spec.train.seeds
    if len(record.diverged) not in (0, len(seeds)):
        raise RunError(
            f"{folder} has {len(seeds)} seeds and says how {len(record.diverged)} of them ended. "
            "The folder mixes two runs; train again."
        )
    kept = [index for index, pair in enumerate(seeds) if wanted(pair)]
    network = read_network(folder, selection)
    if len(kept) < len(seeds):
        whole = network.state_dict()
        network = build(spec.data, spec.model, seeds=len(kept))
        network.load_state_dict({name: tensor[kept] for name, tensor in whole.items()})
    diverged = record.diverged or (None,) * len(seeds)
    return Subject(
        title=title_of(spec.model),
        origin="run",
        data=spec.data,
        model=spec.model,
        objective_known=True,
        seeds=tuple(seeds[index] for index in kept),
        sources=(str(folder / f"{selection}.safetensors"),) * len(kept),
        faults=tuple(
            _fault(network, position, _lost(spec, selection, diverged[index]))
            for position, index in enumerate(kept)
        ),
        selection=selection,
        history=history_of(folder, spec, kept),
        network=network,
    )


def damaged_run(
    folder: Path, selection: Selection, reason: str, wanted: Wanted = every_seed
) -> Subject:
    """Describe a run whose weights cannot be read: all its seeds are at fault.

    Raises:
        RunError: not even its specification can be read.
    """
    spec = read_run(folder)
    seeds = tuple(pair for pair in spec.train.seeds if wanted(pair))
    return Subject(
        title=title_of(spec.model),
        origin="run",
        data=spec.data,
        model=spec.model,
        objective_known=True,
        seeds=seeds,
        sources=(str(folder / f"{selection}.safetensors"),) * len(seeds),
        faults=(reason,) * len(seeds),
        selection=selection,
    )


def _lost(spec: RunSpec, selection: Selection, diverged: int | None) -> str:
    """Say where a seed was lost; nothing where that was after the weights that are read."""
    if diverged is None:
        return ""
    where = f"step {diverged}"
    if len(spec.stretches) > 1:
        ends = [end for _, end, _ in spec.stretches]
        phase = next(number for number, end in enumerate(ends, 1) if diverged <= end)
        if phase > (phase_selected(selection) or len(ends)):
            return ""
        where += f", in phase {phase}"
    return f"its loss stopped being finite at {where}"


def _fault(network: Network, index: int, lost: str) -> str:
    if lost:
        return lost
    finite = all(bool(parameter[index].isfinite().all()) for parameter in network.parameters())
    return "" if finite else "its weights are not finite"
