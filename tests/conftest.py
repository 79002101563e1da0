"""What several tests use."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from modeval.native import KernelError, find_compiler

if TYPE_CHECKING:
    import torch

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def compiler() -> None:
    """Skip where there is no C++ compiler; a kernel that it cannot compile is a failure."""
    try:
        find_compiler()
    except KernelError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def kernels(compiler: None) -> None:
    """Compile the kernels of training once."""
    from modeval.train.fused import load  # noqa: PLC0415 - loads PyTorch

    for name in ("fused_mlp", "fused_attention", "fused_recurrent"):
        load(name)


@pytest.fixture(scope="session")
def readme() -> str:
    """Return the manual."""
    return (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def topics() -> dict[str, str]:
    """Return the topics that were written by hand, by name."""
    folder = ROOT / "modeval" / "cli" / "manual" / "topics"
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.md"))}


@pytest.fixture
def model() -> "torch.nn.Module":
    """Return a small model with routers of its own."""
    import torch  # noqa: PLC0415 - loads PyTorch
    from small_models import Model  # noqa: PLC0415

    torch.manual_seed(0)
    small: torch.nn.Module = Model().eval()
    return small


@pytest.fixture
def ids() -> "torch.Tensor":
    """Return a batch for it."""
    import torch  # noqa: PLC0415 - loads PyTorch

    return torch.randint(0, 32, (3, 5), generator=torch.Generator().manual_seed(0))
