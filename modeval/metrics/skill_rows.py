"""Rows for tasks whose rules are made of skills, which a scorecard holds for them alone."""

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
