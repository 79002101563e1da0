"""What to generate, build and train: frozen specifications, the same in Python, TOML and flags.

Each section of a spec file is one dataclass; each field is one flag of the command line. A
combination that makes no sense is refused here, before anything is computed.
"""

from modeval.spec.data import NAMED_OPERATIONS, DataSpec, Objective, Operation, Search, Task
from modeval.spec.model import (
    MODEL_TITLES,
    MODELS,
    Match,
    ModelSpec,
    Scorer,
    attention_heads,
    check_pair,
    module_count,
)
from modeval.spec.plain import digest, from_dict, to_dict
from modeval.spec.run import RunSpec
from modeval.spec.toml import load_toml, to_toml
from modeval.spec.train import Schedule, Selection, TrainSpec, seed_grid

__all__ = [
    "MODELS",
    "MODEL_TITLES",
    "NAMED_OPERATIONS",
    "DataSpec",
    "Match",
    "ModelSpec",
    "Objective",
    "Operation",
    "RunSpec",
    "Schedule",
    "Scorer",
    "Search",
    "Selection",
    "Task",
    "TrainSpec",
    "attention_heads",
    "check_pair",
    "digest",
    "from_dict",
    "load_toml",
    "module_count",
    "seed_grid",
    "to_dict",
    "to_toml",
]
