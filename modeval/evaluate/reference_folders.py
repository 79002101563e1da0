"""Folders of the reference implementation (its users call it Mod_Arch): what lies where.

A model is a folder; its name and the names above it say what was trained on what:

    MLP        Logs[_scheduler] / Data-Seed_d / GT_Rules_R / Model_encoder_width_M_seed
    attention  Sequence_T[_scheduler] / Search-Version_v / Data-Seed_d / GT_Rules_R /
               Model_encoder_width_heads_M_seed
    recurrent  Sequence_T_Order_o_Dim_n[_scheduler] / Data-Seed_d / GT_Rules_R /
               Model_encoder_width_M_seed

with Model one of Monolithic, Modular, Modular_joint, Modular_operation-only, GT_Modular, and in it
``model_last.pt``, ``model_best.pt`` (weights), ``prob_last.npy``, ``prob_best.npy`` (the joint
distribution of rule and module). A folder above named Regression or Classification tells the
objective.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from modeval.errors import CheckpointError, ModevalError, SpecError
from modeval.evaluate import reference_weights as weights
from modeval.evaluate.subject import Subject
from modeval.spec import (
    MODEL_TITLES,
    MODELS,
    DataSpec,
    ModelSpec,
    Objective,
    Search,
    Selection,
    module_count,
)

NAME = re.compile(
    r"(?P<model>Monolithic|GT_Modular|Modular)(?P<variant>_joint|_operation-only)?"
    r"(?P<numbers>(?:_\d+)+)"
)
RULES = re.compile(r"GT_Rules_(\d+)")
SEED = re.compile(r"Data-Seed_(\d+)")
SEARCH = re.compile(r"Search-Version_([12])")
SETS = re.compile(r"Sequence_(\d+)(_scheduler)?")
SERIES = re.compile(r"Sequence_(\d+)_Order_(\d+)_Dim_(\d+)(_scheduler)?")
BINARY = re.compile(r"Logs(_scheduler)?")
NUMBERS = {
    "binary": ("encoder", "width", "modules", "seed"),
    "sets": ("encoder", "width", "heads", "modules", "seed"),
    "series": ("encoder", "width", "modules", "seed"),
}
FAMILY_TITLES = {"binary": "an MLP", "sets": "an attention model", "series": "a recurrent model"}
ROW_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model folder, as its path describes it.

    Attributes:
        path: where it is.
        cohort: the path with both seeds left out: models that share it differ in seeds only.
        name: of the model, a key of :data:`modeval.spec.MODELS`.
        data: the task; its objective is a guess unless ``objective`` says it.
        model: the model.
        heads: attention heads as the folder's name counts them.
        objective: what a folder above says, if any does.
        seeds: task seed and model seed.
    """

    path: Path
    cohort: str
    name: str
    data: DataSpec
    model: ModelSpec
    heads: int
    objective: Objective | None
    seeds: tuple[int, int]


def is_model_folder(path: Path) -> bool:
    """Tell whether a folder is named as the reference names the folder of a model."""
    return bool(NAME.fullmatch(path.name) and RULES.fullmatch(path.parent.name))


def find_models(root: Path) -> Iterator[Path]:
    """Yield the model folders at and below ``root``, in order of their names."""
    root = root.resolve()
    if is_model_folder(root):
        yield root
        return
    for parent, folders, _ in os.walk(root):
        folders.sort()
        models = [name for name in folders if is_model_folder(Path(parent, name))]
        yield from (Path(parent, name) for name in models)
        folders[:] = [name for name in folders if name not in models and name[0] != "."]


# --- what a path says ----------------------------------------------------------------------------


def parse(path: Path) -> ModelFolder:
    """Read what the path of a model folder says.

    Raises:
        CheckpointError: the path is not laid out as the reference does.
        SpecError: it asks for a task or model that cannot be.
    """
    path = path.resolve()
    name, rules = NAME.fullmatch(path.name), RULES.fullmatch(path.parent.name)
    seed = SEED.fullmatch(path.parent.parent.name)
    if name is None or rules is None or seed is None:
        raise CheckpointError(
            f"{path} is not in the reference's layout: expected .../Data-Seed_0/GT_Rules_4/"
            "Modular_joint_32_128_4_0 or the like. Keep the folders that it was saved in."
        )
    objective = _objective(path)
    data = _data(path, int(rules[1]), objective or "regression")
    model, key, numbers = _model(path, name, data)
    parts = [*path.parts[:-3], "Data-Seed_*", path.parent.name, path.name.rpartition("_")[0] + "_*"]
    return ModelFolder(
        path=path,
        cohort=str(Path(*parts)),
        name=key,
        data=data,
        model=model,
        heads=numbers.get("heads", 1),
        objective=objective,
        seeds=(int(seed[1]), numbers["seed"]),
    )


def _objective(path: Path) -> Objective | None:
    for part in reversed(path.parts):
        for objective in get_args(Objective):
            if part.lower() == objective:
                return objective  # type: ignore[no-any-return]
    return None


def _data(path: Path, rules: int, objective: Objective) -> DataSpec:
    above = path.parents[2].name
    search = SEARCH.fullmatch(above)
    if search:
        above = path.parents[3].name
        length = SETS.fullmatch(above)
        if length:
            kind: Search = "nearest" if search[1] == "1" else "product"
            return DataSpec(
                task="sets", objective=objective, rules=rules, search=kind, length=int(length[1])
            )
    series = SERIES.fullmatch(above)
    if series:
        length_, order, dimension = (int(series[group]) for group in (1, 2, 3))
        return DataSpec(
            task="series",
            objective=objective,
            rules=rules,
            length=length_,
            order=order,
            dimension=dimension,
        )
    if BINARY.fullmatch(above):
        return DataSpec(task="binary", objective=objective, rules=rules)
    raise CheckpointError(
        f"{path}: the folder {above!r} above Data-Seed does not tell the family. Expected Logs "
        "(MLP), Sequence_10/Search-Version_1 (attention) or Sequence_10_Order_1_Dim_32 "
        "(recurrent). Keep the folders that the model was saved in."
    )


def _model(
    path: Path, name: re.Match[str], data: DataSpec
) -> tuple[ModelSpec, str, dict[str, int]]:
    fields = NUMBERS[data.task]
    values = [int(number) for number in name["numbers"].split("_")[1:]]
    if len(values) != len(fields):
        raise CheckpointError(
            f"{path} has {len(values)} numbers in its name; {FAMILY_TITLES[data.task]} has "
            f"{len(fields)}: {', '.join(fields)}. Keep the folders that the model was saved in."
        )
    numbers = dict(zip(fields, values, strict=True))
    key = _key(path, name["model"], name["variant"] or "", data)
    modules, heads = numbers["modules"], numbers.get("heads", 2)
    if key == "monolithic":
        # Its heads are counted together there, and for each rule in a specification.
        heads = max(1, heads // data.rules)
        modules = 1
    if key == "gt-modular":
        # It sends rule r to module r. The reference's MLP takes no notice of --num-rules, which its
        # name says all the same: --gt-rules 4 alone writes GT_Rules_4/GT_Modular_32_128_2_0.
        modules = data.rules
    choices = {**MODELS[key], "modules": 0 if modules == data.rules else modules}
    if key == "monolithic":
        choices["modules"] = 1
    model = ModelSpec(**choices, encoder=numbers["encoder"], width=numbers["width"], heads=heads)
    return model, key, numbers


def _key(path: Path, model: str, variant: str, data: DataSpec) -> str:
    if model == "Monolithic" and not variant:
        return "monolithic"
    if model == "GT_Modular" and not variant:
        return "gt-modular"
    if model == "Modular" and variant == "_operation-only":
        return "modular-op"
    if model == "Modular" and variant == "_joint" and data.task == "binary":
        return "modular"
    if model == "Modular" and not variant:
        return "modular-shared" if data.task == "binary" else "modular"
    raise CheckpointError(
        f"{path}: the reference has no {model}{variant} for {FAMILY_TITLES[data.task]}. Known: "
        "Monolithic, Modular, Modular_joint (MLP), Modular_operation-only, GT_Modular."
    )


def readable(paths: Sequence[Path]) -> tuple[list[ModelFolder], list[str]]:
    """Read what paths say; of those that say nothing or the impossible, return the reasons."""
    folders: list[ModelFolder] = []
    reasons: list[str] = []
    for path in paths:
        try:
            folders.append(parse(path))
        except CheckpointError as error:
            reasons.append(str(error))
        except SpecError as error:
            reasons.append(f"{path}: {error}")
    return folders, reasons


def cohorts(folders: Sequence[ModelFolder]) -> list[list[ModelFolder]]:
    """Group model folders that differ in seeds only, each group in order of its seeds."""
    groups: dict[str, list[ModelFolder]] = {}
    for folder in folders:
        groups.setdefault(folder.cohort, []).append(folder)
    return [sorted(group, key=lambda folder: folder.seeds) for group in groups.values()]


# --- what a folder holds -------------------------------------------------------------------------


def missing(folder: ModelFolder, selection: Selection) -> str:
    """Say what keeps a model folder from being scored; empty if nothing does."""
    wanted = (f"model_{selection}.pt", f"prob_{selection}.npy")
    if any((folder.path / name).is_file() for name in wanted):
        return ""
    found = sorted(path.name for path in folder.path.iterdir())
    if selection not in ("last", "best"):
        return f"{folder.path} holds no {selection}: the reference has no phases. Use last or best."
    other = "best" if selection == "last" else "last"
    advice = (
        f"Use --selection {other}."
        if f"model_{other}.pt" in found or f"prob_{other}.npy" in found
        else "Was its training finished?"
    )
    holds = ", ".join(found[:5]) if found else "nothing"
    return f"{folder.path} holds neither {wanted[0]} nor {wanted[1]}, but {holds}. {advice}"


def load(
    group: Sequence[ModelFolder], *, selection: Selection, objective: Objective | None = None
) -> list[Subject]:
    """Read a group of models that differ in seeds only.

    Members with weights make one subject; those of which only the matrix is left make another.

    Args:
        group: from :func:`cohorts`, members without files left out.
        selection: last or best checkpoint.
        objective: overrides what the path says.

    Raises:
        CheckpointError: a file is damaged, holds code, or is not the model its path names.
        SpecError: nothing tells the objective.
    """
    file = f"model_{selection}.pt"
    trained = [folder for folder in group if (folder.path / file).is_file()]
    others = [folder for folder in group if folder not in trained]
    subjects = []
    if trained:
        subjects.append(_trained(trained, selection, objective))
    if others:
        subjects.append(_recorded(others, selection, objective))
    return subjects


def load_usable(
    group: Sequence[ModelFolder], *, selection: Selection, objective: Objective | None = None
) -> tuple[list[Subject], list[tuple[ModelFolder, str]]]:
    """Read a group as :func:`load` does, without the members that cannot be read.

    Returns:
        What can be scored, and each other member with the reason.
    """
    try:
        return load(group, selection=selection, objective=objective), []
    except ModevalError:
        usable: list[ModelFolder] = []
        damaged: list[tuple[ModelFolder, str]] = []
        for folder in group:
            try:
                load([folder], selection=selection, objective=objective)
                usable.append(folder)
            except ModevalError as error:
                damaged.append((folder, str(error)))
    return load(usable, selection=selection, objective=objective) if usable else [], damaged


def damaged_subject(
    damaged: Sequence[tuple[ModelFolder, str]],
    *,
    selection: Selection,
    objective: Objective | None = None,
) -> Subject:
    """Describe members that cannot be read, from their paths: all are at fault."""
    first = damaged[0][0]
    told = objective or first.objective
    return Subject(
        title=MODEL_TITLES[first.name],
        origin="modarch",
        data=replace(first.data, objective=told or first.data.objective),
        model=first.model,
        objective_known=told is not None,
        seeds=tuple(folder.seeds for folder, _ in damaged),
        sources=tuple(str(folder.path) for folder, _ in damaged),
        faults=tuple(reason for _, reason in damaged),
        selection=selection,
    )


def _trained(
    group: Sequence[ModelFolder], selection: Selection, objective: Objective | None
) -> Subject:
    paths = [folder.path / f"model_{selection}.pt" for folder in group]
    states = [weights.read_weights(path) for path in paths]
    first = group[0]
    told = objective or first.objective or _objective_of_width(first, states[0])
    if told is None:
        raise SpecError(
            f"Nothing tells whether {first.path} was trained for regression or classification: "
            "no folder above it is named Regression or Classification. Say so with "
            "--objective regression (or classification)."
        )
    data, model = replace(first.data, objective=told), first.model
    for path, state in zip(paths, states, strict=True):
        _check_family(path, data, state)
        sizes = weights.Sizes(heads=first.heads, scorer=weights.scorer_width(state))
        weights.check(path, state, weights.layout(data, model, sizes), _sizes(first))
    return Subject(
        title=MODEL_TITLES[first.name],
        origin="modarch",
        data=data,
        model=model,
        objective_known=True,
        seeds=tuple(folder.seeds for folder in group),
        sources=tuple(str(path) for path in paths),
        faults=tuple(
            "" if weights.is_finite(state) else "its weights are not finite" for state in states
        ),
        selection=selection,
        network=weights.network_of(data, model, states, sizes),
    )


def _check_family(path: Path, data: DataSpec, state: weights.State) -> None:
    found = weights.family(state)
    if found != data.task:
        held = (
            FAMILY_TITLES[found] if found else f"no model of its ({', '.join(sorted(state)[:3])})"
        )
        raise CheckpointError(
            f"{path} should be {FAMILY_TITLES[data.task]} of the reference by its folders, but "
            f"holds the weights of {held}. Put the checkpoint into the folder of its own model."
        )


def _objective_of_width(folder: ModelFolder, state: weights.State) -> Objective | None:
    """Tell the objective of a recurrent model: it predicts the whole state, or one label."""
    last = state.get("decoder.2.weight")
    if folder.data.task != "series" or folder.data.dimension == 1 or last is None:
        return None
    return "classification" if len(last) == 1 else "regression"


def _sizes(folder: ModelFolder) -> str:
    heads = f", {folder.heads} heads" if folder.data.task == "sets" else ""
    modules = module_count(folder.data, folder.model)
    return (
        f"{MODEL_TITLES[folder.name]}, {folder.data.rules} rules, {modules} "
        f"module{'s' * (modules > 1)}, encoder {folder.model.encoder}, width "
        f"{folder.model.width}{heads}"
    )


def _recorded(
    group: Sequence[ModelFolder], selection: Selection, objective: Objective | None
) -> Subject:
    paths = [folder.path / f"prob_{selection}.npy" for folder in group]
    first = group[0]
    told = objective or first.objective
    return Subject(
        title=MODEL_TITLES[first.name],
        origin="modarch",
        data=replace(first.data, objective=told or first.data.objective),
        model=first.model,
        objective_known=told is not None,
        seeds=tuple(folder.seeds for folder in group),
        sources=tuple(str(path) for path in paths),
        faults=("",) * len(group),
        selection=selection,
        joint=torch.stack([read_joint(path, first.data.rules, _columns(first)) for path in paths]),
    )


def _columns(folder: ModelFolder) -> int:
    return module_count(folder.data, folder.model)


def read_joint(path: Path, rules: int, modules: int) -> Tensor:
    """Read a recorded matrix as the joint distribution of rule and module, each rule 1/R.

    The reference writes the joint itself: R rows, each summing to 1/R. Rows that sum to 1 (the
    activation matrix A) are taken as well.

    Raises:
        CheckpointError: the file is damaged, holds objects, or is no such matrix.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except Exception as error:  # noqa: BLE001 - a damaged header can raise anything
        reason = (
            "it holds Python objects, which modeval never unpickles"
            if "allow_pickle" in str(error)
            else f"it is damaged or no NumPy file ({weights.first_line(error)})"
        )
        raise CheckpointError(f"{path} cannot be read: {reason}. Copy it again.") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        raise CheckpointError(f"{path} holds no array of real numbers. Copy it again.")
    if array.shape != (rules, modules):
        raise CheckpointError(
            f"{path} has shape {array.shape}; its folder names {rules} rules and {modules} "
            f"modules, so ({rules}, {modules}) was expected. Put it into its own model's folder."
        )
    table = torch.from_numpy(array).double()
    rows = table.sum(-1)
    shares = [
        share
        for share in (1 / rules, 1.0)
        if bool(((rows / share - 1).abs() < ROW_TOLERANCE).all())
    ]
    if not bool((table >= 0).all()) or not shares:
        raise CheckpointError(
            f"{path} is no distribution of rules and modules: rows sum to {rows.min():.4g} to "
            f"{rows.max():.4g} with a least entry of {table.min():.4g}; expected entries of at "
            f"least 0 and rows that sum to 1/{rules}. Copy it again."
        )
    return table / rows.unsqueeze(-1) / rules
