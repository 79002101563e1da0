"""What to generate, build and train: frozen specifications, the same in Python, TOML and flags.

Each section of a spec file is one dataclass; each field is one flag of the command line. A
combination that makes no sense is refused here, before anything is computed.
"""

from modeval.spec.data import NAMED_OPERATIONS, DataSpec, Objective, Operation, Search, Task
from modeval.spec.model import (
    MODELS,
    Match,
    ModelSpec,
    Scorer,
    attention_heads,
    check_pair,
    module_count,
    name_of,
    title_of,
)
from modeval.spec.phases import Phase, Rate, Remedy
from modeval.spec.plain import choices_of, differences, digest, from_dict, sparse, to_dict
from modeval.spec.run import (
    REFERENCE_CLIP,
    RunSpec,
    digest_of,
    digests,
    read_spec,
    recorded_differences,
    recorded_digests,
    run_differences,
)
from modeval.spec.settings import without_unread
from modeval.spec.toml import load_toml, to_toml
from modeval.spec.train import (
    Engine,
    Schedule,
    Selection,
    TrainSpec,
    check_selection,
    phase_selected,
    seed_grid,
)
from modeval.titles import MODEL_TITLES

__all__ = [
    "MODELS",
    "MODEL_TITLES",
    "NAMED_OPERATIONS",
    "REFERENCE_CLIP",
    "DataSpec",
    "Engine",
    "Match",
    "ModelSpec",
    "Objective",
    "Operation",
    "Phase",
    "Rate",
    "Remedy",
    "RunSpec",
    "Schedule",
    "Scorer",
    "Search",
    "Selection",
    "Task",
    "TrainSpec",
    "attention_heads",
    "check_pair",
    "check_selection",
    "choices_of",
    "differences",
    "digest",
    "digest_of",
    "digests",
    "from_dict",
    "load_toml",
    "module_count",
    "name_of",
    "phase_selected",
    "read_spec",
    "recorded_differences",
    "recorded_digests",
    "run_differences",
    "seed_grid",
    "sparse",
    "title_of",
    "to_dict",
    "to_toml",
    "without_unread",
]
