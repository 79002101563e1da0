"""What routing tells of positions: nothing where it does not look at them, and what it tells."""

import math

import pytest
import torch
from sklearn.metrics import mutual_info_score

from modeval.evaluate.cohort import evaluate
from modeval.evaluate.positions import by_position
from modeval.evaluate.subject import Subject
from modeval.metrics.positions import position_information
from modeval.nn import create
from modeval.nn.network import Routed
from modeval.score.cohorts import score
from modeval.score.entries import Members
from modeval.score.positions import position_scores
from modeval.score.scorecard import Score
from modeval.spec import DataSpec, ModelSpec

BLOCKS = 8
ONE = Members(seeds=((0, 0),), faults=("",))


def scored(weight: torch.Tensor) -> Score:
    """Score routing weights ``(N, T, M)`` of one seed."""
    routed = Routed(weight[None], lambda: weight, weight)
    mass = by_position([routed], BLOCKS)
    return next(iter(position_scores("a", mass, ONE, int(mass.sum()))))


def test_information_of_hard_routing_is_that_of_its_table_of_counts() -> None:
    generator = torch.Generator().manual_seed(0)
    position, module = torch.randint(5, (2, 300), generator=generator)
    table = torch.zeros(5, 5, dtype=torch.float64)
    table.index_put_((position, module), torch.ones(300, dtype=torch.float64), accumulate=True)
    expected = mutual_info_score(position, module)
    assert float(position_information(table / 300)) == pytest.approx(expected)


def test_routing_by_turns_tells_all_that_modules_can_and_one_of_a_sequence_nothing() -> None:
    turns = torch.eye(2)[torch.arange(6) % 2].expand(64, -1, -1)
    found = scored(turns)
    assert found.value == pytest.approx(math.log(2))
    assert found.p_value == pytest.approx(1 / 200)
    whole = torch.eye(2)[torch.randint(2, (64, 1))].expand(-1, 6, -1)
    assert (scored(whole).value, scored(whole).p_value) == (0, 1)


def test_blind_routers_are_told_from_chance_as_often_as_the_level_says() -> None:
    generator = torch.Generator().manual_seed(1)

    def weights(shift: float) -> torch.Tensor:
        logits = torch.randn(64, 5, 3, generator=generator)
        logits[:, 0, 0] += shift  # the first position has a module of its own
        return logits.softmax(-1)

    blind = [scored(weights(0.0)).p_value for _ in range(80)]
    assert sum(p <= 0.05 for p in blind if p is not None) <= 9
    assert all((scored(weights(1.0)).p_value or 0) <= 0.05 for _ in range(5))


@pytest.mark.parametrize(
    ("task", "level", "known"),
    [("series", "layer", True), ("sets", "sample", True), ("binary", "layer", False)],
)
def test_a_scorecard_tells_it_of_every_layer_where_samples_have_positions(
    task: str, level: str, *, known: bool
) -> None:
    sizes = {"length": 4, "dimension": 3} if task == "series" else {"length": 4}
    data = DataSpec(task=task, rules=2, **(sizes if known else {}))  # type: ignore[arg-type]
    model = ModelSpec(scorer="both", level=level, layers=2, encoder=8, width=16)  # type: ignore[arg-type]
    seeds = ((0, 0), (1, 1))
    subject = Subject(
        title="a model", origin="run", data=data, model=model, objective_known=True, seeds=seeds,
        sources=("", ""), faults=("", "it stopped"), selection="last",
        network=create(data, model, [seed for _, seed in seeds]),
    )  # fmt: skip
    card = score(subject, evaluate(subject, precision=0.1))
    found = [each for each in card.scores if each.metric == "position_information"]
    assert {each.layer for each in found} == ({None, 0, 1} if known else set())
    for each in found:
        if each.seed == (1, 1):
            assert each.value is None
        else:
            assert each.value is not None
            assert (each.value == 0) == (level == "sample")
            assert (each.chance, each.better) == (0, None)
