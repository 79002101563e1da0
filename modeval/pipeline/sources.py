"""What lies at the paths that are to be scored, and how each of it is scored."""

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from modeval.data import Dataset, open_dataset
from modeval.errors import CheckpointError, CodeError, ModevalError, RunError, SpecError
from modeval.evaluate.interventions import Asked
from modeval.evaluate.reference_folders import (
    ModelFolder,
    cohorts,
    damaged_subject,
    find_models,
    load_usable,
    missing,
    readable,
)
from modeval.evaluate.runs import damaged_run, load_run
from modeval.evaluate.subject import Evaluation, Subject
from modeval.pipeline.machine import choose_device
from modeval.score.scorecard import Scorecard
from modeval.spec import Objective, Selection
from modeval.trace.counts import SUFFIX, Survey, find_traces, gather, is_trace, survey
from modeval.trace.files import Trace, open_trace
from modeval.trace.fold import LayerGroup
from modeval.trace.trace import TraceHeader
from modeval.train.files import take_code
from modeval.train.records import find_runs, read_run
from modeval.types import Prior


def silent(_text: str) -> None:
    """Tell nobody."""


def unseen(_tokens: int, _rate: float) -> None:
    """Show nobody how far it is."""


def uncounted(_done: int, _all: int) -> None:
    """Count nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreOptions:
    """What is asked for; see :func:`modeval.pipeline.scoring.score`."""

    origin: str = "auto"
    selection: Selection = "last"
    objective: Objective | None = None
    only: str | None = None
    task_seeds: tuple[int, ...] | None = None
    model_seeds: tuple[int, ...] | None = None
    data: tuple[str, ...] = ()
    view: str | None = "auto"
    prior: Prior = "uniform"
    layers: tuple[int, ...] | None = None
    phase: str | None = None
    text: str = "text"
    label: str = "label"
    max_tokens: int | None = None
    precision: float = 0.005
    seed: int = 0
    device: str = "auto"
    trust_code: bool = False
    interventions: bool | None = None
    shapley: int = 0
    passes: Callable[[int, int], None] = uncounted
    quiet: bool = True
    tell: Callable[[str], None] = silent
    watch: Callable[[int, float], None] = unseen

    @property
    def of_traces(self) -> list[str]:
        """Return the flags that were given and mean something for traces only."""
        given = {
            "--view": self.view != "auto",
            "--prior": self.prior != "uniform",
            "--layers": self.layers is not None,
            "--phase": self.phase is not None,
        }
        return [flag for flag, used in given.items() if used]

    @property
    def of_cohorts(self) -> list[str]:
        """Return the flags that were given and mean something for trained cohorts only."""
        given = {
            "--only-task-seeds": self.task_seeds is not None,
            "--only-model-seeds": self.model_seeds is not None,
            "--objective": self.objective is not None,
            "--interventions": self.interventions is True,
            "--no-interventions": self.interventions is False,
            "--shapley": self.shapley > 0,
        }
        return [flag for flag, used in given.items() if used]

    def wanted(self, seeds: tuple[int, int]) -> bool:
        """Tell whether a member is to be scored."""
        return all(
            chosen is None or seed in chosen
            for chosen, seed in zip((self.task_seeds, self.model_seeds), seeds, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Job:
    """Something to score.

    Attributes:
        what: names it in messages.
        kind: ``run``, ``modarch``, ``trace`` or ``model``.
        run: scores it.
    """

    what: str
    kind: str
    run: Callable[[], list[Scorecard]]


@dataclass(frozen=True, slots=True)
class _Sources:
    """What lies at and below all paths."""

    runs: list[Path]
    models: list[Path]
    traces: list[Path]
    networks: list[str]


def find_jobs(
    paths: Sequence[str], asked: ScoreOptions
) -> tuple[list[Job], list[str], Dataset | None]:
    """Return what there is to score, what cannot be scored, and the data folder of cohorts.

    Raises:
        RunError: there is nothing of a known kind at a path.
        SpecError: the flags rule out all of it, or are of no use for it.
    """
    sources = _Sources([], [], [], [])
    for path in paths:
        _look(path, asked, sources)
    dataset = _dataset(asked, sources)
    jobs, left_out = _cohort_jobs(sources, asked, dataset)
    jobs += [
        Job(str(path), "trace", functools.partial(_score_trace, path, asked))
        for path in dict.fromkeys(sources.traces)
    ]
    jobs += [
        Job(name, "model", functools.partial(_score_network, name, asked))
        for name in dict.fromkeys(sources.networks)
    ]
    if not jobs:
        raise _no_jobs(asked, left_out)
    _check_flags(asked, {job.kind for job in jobs})
    return jobs, [f"left out: {reason}" for reason in left_out], dataset


def _look(text: str, asked: ScoreOptions, sources: _Sources) -> None:
    """Add what lies at and below one path."""
    if not text.strip():
        raise SpecError("A path is empty. Give a folder, a file of counts, or '.' for all of this.")
    path, origin = Path(text), asked.origin
    if origin in ("auto", "model") and _is_network(text, asked):
        if not asked.data:
            raise SpecError(
                f"{text} is a model of Hugging Face, which is scored on labelled text: modeval "
                f"score {text} --data FILE.jsonl --text text --label domain"
            )
        sources.networks.append(text)
        return
    _check_path(path)
    runs = find_runs(path) if origin in ("auto", "run") else []
    models = list(find_models(path)) if origin in ("auto", "modarch") else []
    traces = find_traces(path) if origin in ("auto", "trace") else []
    if _is_matrix(path):
        traces = [path]
    if not runs and not models and not traces:
        raise _nothing(path, origin)
    for each, places in ((sources.runs, runs), (sources.models, models), (sources.traces, traces)):
        each += [place for place in places if asked.only is None or asked.only in str(place)]


def _is_network(text: str, asked: ScoreOptions) -> bool:
    """Tell whether a path is the folder of a Hugging Face model, or seems an id on the hub."""
    path = Path(text)
    if not path.exists():
        looks = text.count("/") == 1 and not text.startswith((".", "/")) and not path.suffix
        return asked.origin == "model" or (looks and bool(asked.data))
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return asked.origin == "model"
    known = {"model_type", "architectures", "auto_map"}
    return isinstance(config, dict) and bool(known & config.keys())


def _is_matrix(path: Path) -> bool:
    if not path.is_file():
        return False
    from modeval.trace.importers.plain.matrix import is_matrix  # noqa: PLC0415 - files alone

    return is_matrix(path)


def _check_path(path: Path) -> None:
    if not path.exists():
        raise RunError(
            f"There is nothing at {path}. Give a folder that exists (a model of the hub by its id "
            "needs --data as well)."
        )
    if path.is_file() and not is_trace(path) and not _is_matrix(path):
        if path.suffix == ".json":
            raise RunError(
                f"{path} is no model but perhaps a scorecard, which is scored already: "
                f"modeval report {path}"
            )
        selection = " --selection best" if "best" in path.name else ""
        raise RunError(
            f"{path} is a file; models are scored by their folder: "
            f"modeval score {path.parent}{selection}"
        )


def _nothing(path: Path, origin: str) -> ModevalError:
    looked = {
        "run": "a run of modeval train (run.json)",
        "trace": f"a trace (header.json, or a file NAME{SUFFIX})",
        "modarch": "a model of the reference implementation "
        "(.../Data-Seed_0/GT_Rules_4/Modular_joint_32_128_4_0 or the like)",
        "model": "a model of Hugging Face (config.json)",
    }
    sought = " or ".join(text for name, text in looked.items() if origin in ("auto", name))
    held = sorted(file.name for file in path.iterdir()) if path.is_dir() else []
    found = ", ".join(held[:6]) + (", ..." if len(held) > 6 else "") if held else "nothing"  # noqa: PLR2004
    matrix = next((path / name for name in held if _is_matrix(path / name)), None)
    if matrix is not None:
        return RunError(
            f"{path.resolve()} is no folder of a model, and holds {matrix.name}. A matrix of rules "
            f"and modules is scored as it is: modeval score {matrix}"
        )
    return RunError(
        f"{path.resolve()} holds neither at its top nor below it {sought}; found there: {found}. "
        "Give such a folder or one above it, or make one: modeval train --out runs/first, or "
        "modeval record MODEL --data FILE --out first.trace"
    )


def _no_jobs(asked: ScoreOptions, left_out: list[str]) -> ModevalError:
    if left_out:
        return CheckpointError(left_out[0])
    if asked.task_seeds is not None or asked.model_seeds is not None:
        return SpecError(
            "--only-task-seeds and --only-model-seeds leave no member of what was found. Give "
            "other seeds, or drop them."
        )
    return SpecError(
        f"--only {asked.only}: no path that was found has this text in it. Drop --only."
    )


def _check_flags(asked: ScoreOptions, kinds: set[str]) -> None:
    """Refuse flags that change nothing of what was found."""
    if not kinds & {"trace", "model"} and asked.of_traces:
        raise SpecError(f"{asked.of_traces[0]} is for traces, and there is none here. Drop it.")
    if not kinds & {"run", "modarch"} and asked.of_cohorts:
        raise SpecError(
            f"{asked.of_cohorts[0]} is for trained cohorts, and there is none here. Drop it."
        )
    if kinds == {"trace"} and asked.data:
        raise SpecError(
            "--data is for models that are to be run, and a trace is recorded already. Drop it."
        )


# --- trained cohorts -----------------------------------------------------------------------------


def _dataset(asked: ScoreOptions, sources: _Sources) -> Dataset | None:
    """Open the folder of samples, which is of use for trained cohorts."""
    if not asked.data or not (sources.runs or sources.models):
        return None
    if sources.networks:
        raise SpecError(
            "--data is a folder of samples for runs, and labelled text for models of Hugging "
            "Face. Score the two apart."
        )
    if len(asked.data) > 1:
        raise SpecError("Trained cohorts are scored on one data folder: give --data once.")
    return open_dataset(Path(asked.data[0]))


def _cohort_jobs(
    sources: _Sources, asked: ScoreOptions, dataset: Dataset | None
) -> tuple[list[Job], list[str]]:
    jobs = [
        Job(str(folder), "run", functools.partial(_score_run, folder, asked, dataset))
        for folder in dict.fromkeys(sources.runs)
        if _has_wanted(folder, asked)
    ]
    folders, left_out = readable(list(dict.fromkeys(sources.models)))
    for group in cohorts(folders):
        members = [folder for folder in group if asked.wanted(folder.seeds)]
        reasons = [missing(folder, asked.selection) for folder in members]
        left_out += [reason for reason in reasons if reason]
        kept = [folder for folder, reason in zip(members, reasons, strict=True) if not reason]
        if kept:
            run = functools.partial(_score_group, kept, asked, dataset)
            jobs.append(Job(kept[0].cohort, "modarch", run))
    return jobs, left_out


def _has_wanted(folder: Path, asked: ScoreOptions) -> bool:
    """Tell whether a run has a member that is wanted; a damaged one says so when it is scored."""
    try:
        return any(map(asked.wanted, read_run(folder).train.seeds))
    except ModevalError:
        return True


def _score_run(folder: Path, asked: ScoreOptions, dataset: Dataset | None) -> list[Scorecard]:
    try:
        if asked.trust_code:
            take_code(folder)
        subject = load_run(folder, asked.selection, asked.wanted)
    except CodeError:
        raise  # no fault of the run: it may be scored once its code is there and trusted
    except ModevalError as error:
        return [_fault_card(damaged_run(folder, asked.selection, str(error), asked.wanted))]
    return _evaluated([subject], asked, dataset)


def _score_group(
    group: list[ModelFolder], asked: ScoreOptions, dataset: Dataset | None
) -> list[Scorecard]:
    """Score a cohort of the reference; members that cannot be read are marked."""
    options = {"selection": asked.selection, "objective": asked.objective}
    subjects, damaged = load_usable(group, **options)  # type: ignore[arg-type]
    faults = [_fault_card(damaged_subject(damaged, **options))] if damaged else []  # type: ignore[arg-type]
    if not subjects:
        return faults
    cards = _evaluated(subjects, asked, dataset)
    return [_with_members(cards[0], faults[0]), *cards[1:]] if faults else cards


def _evaluated(
    subjects: list[Subject], asked: ScoreOptions, dataset: Dataset | None
) -> list[Scorecard]:
    return score_subjects(
        subjects,
        precision=asked.precision,
        device=choose_device(asked.device),
        seed=asked.seed,
        dataset=dataset,
        interventions=Asked(
            wanted=asked.interventions,
            shapley=asked.shapley,
            seed=asked.seed,
            watch=asked.passes,
        ),
    )


def score_subjects(
    subjects: Sequence[Subject],
    *,
    precision: float,
    device: torch.device | str = "cpu",
    seed: int = 0,
    dataset: Dataset | None = None,
    interventions: Asked | None = None,
) -> list[Scorecard]:
    """Evaluate and score cohorts."""
    from modeval.evaluate.cohort import evaluate  # noqa: PLC0415 - not needed for traces
    from modeval.score.cohorts import score  # noqa: PLC0415

    return [
        score(
            subject,
            evaluate(
                subject,
                precision=precision,
                device=device,
                seed=seed,
                dataset=dataset,
                interventions=interventions,
            ),
            precision=precision,
        )
        for subject in subjects
    ]


def _fault_card(subject: Subject) -> Scorecard:
    """Return the scorecard of a model of which no member can be scored."""
    from modeval.score.cohorts import score  # noqa: PLC0415 - not needed for traces

    card = score(subject, Evaluation(losses=()))
    record = replace(card.models[0], origin=subject.origin)  # type: ignore[arg-type]
    return replace(card, models=(record,))


def _with_members(card: Scorecard, faults: Scorecard) -> Scorecard:
    """Add the failed members of a model to it, in order of seeds."""
    model = card.models[0]
    members = (*model.members, *faults.models[0].members)
    ordered = tuple(sorted(members, key=lambda member: member.seed or (0, 0)))
    return replace(card, models=(replace(model, members=ordered), *card.models[1:]))


# --- traces --------------------------------------------------------------------------------------


def _gathered(path: Path, asked: ScoreOptions) -> tuple[TraceHeader, tuple[LayerGroup, ...]]:
    if not _is_matrix(path):
        return gather(path, phase=asked.phase)
    from modeval.trace.importers.plain.matrix import read_matrix  # noqa: PLC0415 - files alone

    return read_matrix(path)


def _score_trace(path: Path, asked: ScoreOptions) -> list[Scorecard]:
    header, groups = _gathered(path, asked)
    name = path.resolve().name.removesuffix(SUFFIX).removesuffix(".trace")
    known = asdict(survey(path))
    if asked.phase is not None:
        header = replace(header, phase=asked.phase)  # type: ignore[arg-type]
        known |= {"documents": None, "rows": None}
    trace = open_trace(path) if path.is_dir() and asked.phase is None else None
    return [_scored(header, groups, asked, trace, source=str(path), name=name, **known)]


def _score_network(name: str, asked: ScoreOptions) -> list[Scorecard]:
    """Record a model on labelled text, in memory, and score what it did."""
    from modeval.pipeline.recording import record_model  # noqa: PLC0415 - for models alone

    recording, documents = record_model(
        name,
        data=asked.data,
        text=asked.text,
        label=asked.label,
        max_tokens=asked.max_tokens,
        device=asked.device,
        quiet=asked.quiet,
        tell=asked.tell,
        watch=asked.watch,
    )
    header, groups = recording.header(), recording.groups(asked.phase)
    known = None if asked.max_tokens else documents
    title = Path(name).resolve().name if Path(name).exists() else name
    seen = asdict(Survey(documents=known))
    return [_scored(header, groups, asked, None, source=name, name=title, **seen)]


def _scored(
    header: TraceHeader,
    groups: Sequence[LayerGroup],
    asked: ScoreOptions,
    trace: Trace | None,
    **reading: Any,
) -> Scorecard:
    # not needed for cohorts, and a tenth of the time that scoring one checkpoint takes
    from modeval.score.traces import Reading, score_trace  # noqa: PLC0415

    return score_trace(
        header,
        groups,
        Reading(**reading),
        view=None if asked.view == "auto" else asked.view,  # type: ignore[arg-type]
        prior=asked.prior,
        layers=asked.layers,
        generator=torch.Generator().manual_seed(asked.seed),
        trace=trace,
    )
