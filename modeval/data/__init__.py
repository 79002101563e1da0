"""Rule tasks: data whose ground-truth rules are known, drawn as a stream or kept in folders."""

from modeval.data.composition import skill_matrix
from modeval.data.files import Dataset, is_dataset, open_dataset, require, write_dataset
from modeval.data.stream import batches, in_order
from modeval.data.tasks import Coefficients, Dynamics, TaskStack, draw, stack_tasks, task_parameters
from modeval.spec.layouts import skills_of_rules

__all__ = [
    "Coefficients",
    "Dataset",
    "Dynamics",
    "TaskStack",
    "batches",
    "draw",
    "in_order",
    "is_dataset",
    "open_dataset",
    "require",
    "skill_matrix",
    "skills_of_rules",
    "stack_tasks",
    "task_parameters",
    "write_dataset",
]
