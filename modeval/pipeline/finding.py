"""What a sweep, or a scorecard, holds for the findings of the paper."""

from dataclasses import dataclass, field
from pathlib import Path

from modeval.report.paper.deciding import PaperFinding
from modeval.report.paper.findings import paper_findings
from modeval.report.paper.seed_table import Setting, name_of, setting_of
from modeval.report.paper.speed import Curve
from modeval.score.scorecard import Scorecard
from modeval.score.stored.files import read_scorecard
from modeval.spec import to_dict
from modeval.sweep.collect import collect
from modeval.sweep.plan import Sweep, read_sweep
from modeval.train.records import is_run, read_log


@dataclass(frozen=True, slots=True)
class Trained:
    """Scores of trained models, and how they came to them.

    Attributes:
        card: the scores.
        curves: losses while they trained, by setting and name of the model; none of a scorecard.
    """

    card: Scorecard
    curves: dict[tuple[Setting, str], Curve] = field(default_factory=dict)

    def findings(self) -> list[PaperFinding]:
        """Return what they say of the findings of the paper."""
        return paper_findings(self.card, self.curves)


def read_trained(path: Path) -> Trained:
    """Read the folder of a sweep, what of it is done, or a scorecard.

    Raises:
        RunError: the folder is no sweep, or nothing of it is done.
        ScorecardError: a scorecard is missing or damaged.
    """
    if not path.is_dir():
        return Trained(read_scorecard(path))
    sweep = read_sweep(path)
    return Trained(collect(sweep).card, _curves(sweep))


def _curves(sweep: Sweep) -> dict[tuple[Setting, str], Curve]:
    curves = {}
    for cohort in sweep.cohorts:
        folder = sweep.run_folder(cohort)
        log = read_log(folder) if is_run(folder) else []
        if log:
            data, model = to_dict(cohort.spec.data), to_dict(cohort.spec.model)
            curves[setting_of(data, model), name_of(model)] = Curve(
                steps=tuple(item["step"] for item in log),
                losses=tuple(tuple(item["validation_loss"]) for item in log),
                seeds=cohort.spec.train.seeds,
            )
    return curves
