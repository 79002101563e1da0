"""A small model and a batch for it."""

import pytest
import torch
from small_models import Model  # type: ignore[import-not-found, unused-ignore]


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model().eval()


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(0, 32, (3, 5), generator=torch.Generator().manual_seed(0))
