"""How fast models train, from the logs of their runs: F10."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from modeval.report.paper.deciding import PaperFinding, by_mean, without
from modeval.report.paper.seed_table import GT, MODULAR, OP, SeedTable, Setting


@dataclass(frozen=True, slots=True)
class Curve:
    """Validation losses of a cohort.

    Attributes:
        steps: at which it was validated.
        losses: a row for each of them, a value for each seed; nothing where it was not finite.
        seeds: pairs of task seed and model seed.
    """

    steps: tuple[int, ...]
    losses: tuple[tuple[float | None, ...], ...]
    seeds: tuple[tuple[int, int], ...]

    def steps_to(self, limits: Mapping[int, float]) -> dict[int, float]:
        """Return for each task the mean number of steps until its seeds are below its limit.

        A seed that never gets there counts with the last step, so that the mean is too low, never
        too high.
        """
        found: dict[int, list[int]] = {}
        for place, (task, _) in enumerate(self.seeds):
            if task not in limits:
                continue
            below = (
                step
                for step, row in zip(self.steps, self.losses, strict=True)
                if (loss := row[place]) is not None and loss <= limits[task]
            )
            found.setdefault(task, []).append(next(below, self.steps[-1]))
        return {task: sum(steps) / len(steps) for task, steps in found.items()}


def speed(table: SeedTable, curves: Mapping[tuple[Setting, str], Curve]) -> Iterator[PaperFinding]:
    """Compare steps until twice the final loss of GT-Modular: GT < Modular-op < Modular."""
    for slow, fast, said in (
        (MODULAR, GT, "Specialised models train faster: GT-Modular than Modular"),
        (MODULAR, OP, "Modular-op trains faster than Modular"),
    ):
        finding = PaperFinding(
            name="F10",
            statement=said,
            measured="log of steps until twice the final loss of GT-Modular: of the slower less "
            "of the faster",
        )
        values = list(_log_ratios(table, curves, slow, fast))
        if values:
            yield by_mean(finding, values)
        else:
            logs = "takes the logs of runs: modeval findings, with the folder of the sweep"
            yield without(finding, "" if curves else logs)


def _log_ratios(
    table: SeedTable, curves: Mapping[tuple[Setting, str], Curve], slow: str, fast: str
) -> Iterator[tuple[int, float]]:
    for setting in table.settings:
        behind, ahead = curves.get((setting, slow)), curves.get((setting, fast))
        if behind is None or ahead is None:
            continue
        final = table.by_task(setting, GT, "in_distribution_loss")
        limits = {task: 2 * loss for task, loss in final.items()}
        late, early = behind.steps_to(limits), ahead.steps_to(limits)
        yield from ((t, math.log(late[t] / early[t])) for t in sorted(late.keys() & early.keys()))
