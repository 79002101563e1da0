"""Kernels are right whatever instructions they are compiled for, and kept apart in the cache."""

import platform
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from modeval import native
from modeval.nn import create
from modeval.spec import MODELS, DataSpec, ModelSpec
from modeval.train import fused
from modeval.train.fused import Fused, load
from modeval.train.goal import losses
from modeval.train.stream import Stream, batches

SEEDS = (3, 4)
NAMES = ("monolithic", "modular", "modular-op", "gt-modular")
PATHS = ("x86-64-v3", "x86-64", "without shuffles")
"""AVX2; the four lanes that every processor has, Arm too; those without a compiler's shuffles."""

pytestmark = [
    pytest.mark.usefixtures("compiler"),
    pytest.mark.skipif(
        platform.machine() not in {"x86_64", "AMD64"}, reason="names the instructions of x86"
    ),
]


def runs(march: str) -> bool:
    """Tell whether this processor has the instructions."""
    flags = Path("/proc/cpuinfo")
    return march != "x86-64-v3" or (flags.is_file() and "avx2" in flags.read_text())


@pytest.fixture(scope="module", params=PATHS)
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    """Compile for other instructions than those of this machine."""
    march = "x86-64" if request.param == "without shuffles" else request.param
    if not runs(march):
        pytest.skip(f"this processor has no {march}")
    source_of = fused.source_of
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(native.INSTRUCTIONS, march)
        if request.param == "without shuffles":
            patch.setattr(
                fused,
                "source_of",
                lambda name: source_of(name).replace("__has_builtin(__builtin_shuffle", "0 && ("),
            )
        load.cache_clear()
        yield request.param
    load.cache_clear()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("task", ["binary", "sets", "series"])
def test_gradients_are_those_of_autograd_on_every_path(path: str, task: str, name: str) -> None:
    if path == "without shuffles" and task != "sets":
        pytest.skip("the same code as with them, but for transposing, which attention does most")
    more = {} if task == "binary" else {"length": 5}
    data = DataSpec(task=task, rules=3, **more)  # type: ignore[arg-type]
    network = create(data, ModelSpec(**MODELS[name], encoder=20, width=60), SEEDS)
    stream = Stream(data, tuple((s, s) for s in SEEDS), 19, torch.device("cpu"))
    batch = next(batches(stream))
    seen, gradients = Fused(network, "regression").gradients(batch)
    precise = network.double()
    each = losses(precise(batch.inputs.double(), batch.rule).prediction, batch.target, "regression")
    exact = torch.autograd.grad(each.sum(), [*precise.parameters()])
    torch.testing.assert_close(seen, each.detach().float(), rtol=1e-5, atol=1e-5)
    for gradient, right in zip(gradients, exact, strict=True):
        scale = float(right.abs().max())
        torch.testing.assert_close(gradient, right.float(), rtol=1e-3, atol=1e-4 * scale + 1e-7)


def test_each_set_of_instructions_has_a_file_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = 'extern "C" int modeval_answer() { return 42; }\n'
    for march in ("", "x86-64", "x86-64-v2"):
        monkeypatch.setenv(native.INSTRUCTIONS, march)
        assert native.compiled("answer", source, tmp_path).modeval_answer() == 42
    assert len(list(tmp_path.glob("*.so"))) == 3


def test_instructions_that_no_compiler_knows_are_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(native.INSTRUCTIONS, "no-such-processor")
    with pytest.raises(native.KernelError, match="no-such-processor"):
        native.compiled("answer", "int x;\n", tmp_path)
