"""Numbers that OLMoE's published expert counts give, to the printed digits.

The counts are data of others and not part of this repository: give the folder that holds
``published/olmoe_counts.json`` as MODEVAL_CASES, or put it beside the checkout as shared/cases.
"""

import json
import math
import os
from pathlib import Path

import pytest
import torch

from modeval.metrics import imbalance, imbalance_ratio, mutual_information

FOLDER = Path(os.environ.get("MODEVAL_CASES", Path(__file__).parents[3] / "shared" / "cases"))
FILE = FOLDER / "published" / "olmoe_counts.json"
TOKENS = 208_896
LABELS = ("github", "arxiv", "wikipedia", "book", "c4")
LARGEST = {  # layer: share in percent and expert, for each label
    0: ((62.58, 21), (97.66, 0), (77.23, 11), (45.40, 28), (37.71, 41)),
    7: ((76.96, 17), (78.54, 17), (84.76, 27), (50.71, 28), (33.22, 1)),
    15: ((56.36, 30), (93.69, 17), (58.13, 36), (36.60, 45), (31.24, 7)),
}


@pytest.fixture(scope="module")
def published():
    if not FILE.is_file():
        pytest.skip(f"there is no {FILE.name}: set MODEVAL_CASES to the folder of cases")
    return json.loads(FILE.read_text(encoding="utf-8"))


def counts(published, choices):
    order = [published["labels"].index(label) for label in LABELS]
    table = torch.tensor(published[f"chosen_per_token_{choices}"], dtype=torch.float64)
    return table[:, order]


def joint(table):
    return table / table.sum(-1, keepdim=True) / table.shape[-2]


@pytest.mark.parametrize(
    ("choices", "bits"), [(8, (0.16740, 0.40050, 0.50124)), (1, (0.62842, 0.97330, 1.02778))]
)
def test_domain_information_is_the_published_one(published, choices, bits):
    found = mutual_information(joint(counts(published, choices))) / math.log(2)
    assert [round(value, 5) for value in found.tolist()] == list(bits)


def test_largest_domain_specialization_is_the_published_one(published):
    share = 100 * counts(published, 8) / TOKENS
    assert published["layers"] == list(LARGEST)
    for layer, expected in zip(share, LARGEST.values(), strict=True):
        value, expert = layer.max(-1)
        assert [round(entry, 2) for entry in value.tolist()] == [pair[0] for pair in expected]
        assert expert.tolist() == [pair[1] for pair in expected]


def test_pooled_load_is_the_published_one(published):
    pooled = joint(counts(published, 8)).sum(-2, keepdim=True)
    entropy = 1 - imbalance(pooled) / math.log(64)
    assert [round(value, 4) for value in entropy.tolist()] == [0.9876, 0.9751, 0.9715]
    ratio = imbalance_ratio(pooled)
    assert [round(value, 3) for value in ratio.tolist()] == [2.098, 2.751, 2.727]
