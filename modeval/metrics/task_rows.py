"""Rows for tasks of one kind, which a scorecard holds for them alone: of skills, of sequences."""

from modeval.metrics import levels
from modeval.metrics.metric import Metric

SKILL_ROWS = (
    Metric(
        name="skill_match",
        title="Skills matched",
        formula_id="skill-match/soft-f1",
        better="higher",
        bounds=levels.UNIT,
        ideal=levels.ONE,
        chance=levels.Level("by permuted rules"),
        source="after Ponti et al. 2023, arXiv 2202.13914, section 5",
        needs="skills",
        home="skills",
        tells="specialisation",
        shown=("table", "comparison"),
    ),
    Metric(
        name="discreteness",
        title="Discreteness",
        formula_id="discreteness/largest",
        better="higher",
        bounds=levels.UNIT,
        ideal=levels.ONE,
        chance=levels.Level("1: all modules alike are all or nothing, too"),
        source="after Ponti et al. 2023, arXiv 2202.13914, section 5",
        needs="skills",
        home="skills",
        tells="specialisation",
        few_samples="neither",
    ),
)
"""What routing finds of the skills."""

POSITION_ROWS = (
    Metric(
        name="position_information",
        title="Position information",
        formula_id="mutual-information/position",
        better="neither",
        bounds=levels.UP_TO_LOG_MODULES,
        ideal=levels.ZERO,
        chance=levels.Level("0; by permuted positions"),
        source="Cover & Thomas, section 2.3",
        needs="positions",
        home="positions",
        labels=False,
        tells="information",
        shown=("table",),
        few_samples="better",
    ),
)
"""What routing tells of where in a sequence a sample is."""
