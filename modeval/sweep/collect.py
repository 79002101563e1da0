"""From the scorecards of a sweep's cohorts to one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from modeval.errors import RunError
from modeval.score.scorecard import Scorecard, together
from modeval.score.stored.files import read_scorecard, without_collection
from modeval.sweep.plan import Sweep, state_of


@dataclass(frozen=True, slots=True)
class Collected:
    """What a sweep gave so far.

    Attributes:
        card: the scorecards of all cohorts that are done, as one.
        missing: names of the cohorts that are not.
    """

    card: Scorecard
    missing: tuple[str, ...]


def collect(sweep: Sweep) -> Collected:
    """Put the scorecards of a sweep together; what is missing is noted in the scorecard, too.

    Raises:
        RunError: no cohort is done yet.
        ScorecardError: the scorecard of one is damaged.
    """
    done = [cohort for cohort in sweep.cohorts if sweep.card(cohort).is_file()]
    if not done:
        raise RunError(
            f"No cohort of {sweep.folder} is done yet. Work through it with: modeval sweep run "
            f"{sweep.folder}"
        )
    missing = tuple(
        f"{cohort.name} ({state_of(sweep, cohort)})"
        for cohort in sweep.cohorts
        if not sweep.card(cohort).is_file()
    )
    with without_collection():
        card = together([read_scorecard(sweep.card(cohort)) for cohort in done])
    if missing:
        note = f"{len(missing)} of {len(sweep.cohorts)} cohorts of the sweep are not done"
        card = replace(card, notes=(f"{note}: {_shortened(missing)}", *card.notes))
    return Collected(card, missing)


def _shortened(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
