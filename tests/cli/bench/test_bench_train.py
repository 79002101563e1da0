"""``modeval bench train``: all ways are timed, the reference's own loop runs, shares add up."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from modeval.cli.bench import rows
from modeval.cli.bench.crew import alone
from modeval.cli.bench.peak import peak
from modeval.cli.bench.reference import flags, reference_step, trainer
from modeval.cli.bench.rows import Bench, measure, measure_within
from modeval.cli.bench.train import show
from modeval.cli.bench.work import pace, workload
from modeval.errors import SpecError
from modeval.spec.system import System
from modeval.spec.systems import SYSTEMS

CPU = torch.device("cpu")

SCRIPT = """
import argparse
import os
import seaborn as sns
import matplotlib
matplotlib.use('Agg')
import torch
from data import rules

parser = argparse.ArgumentParser()
for name in ('gt-rules', 'num-rules', 'batch-size', 'seed', 'encoder-dim', 'dim'):
    parser.add_argument(f'--{name}', type=int)
parser.add_argument('--model')
parser.add_argument('--op', action='store_true')
args = parser.parse_args()
args.seed += int(os.environ['SLURM_PROCID'])
sns.set(style='darkgrid')
device = torch.device('cuda')
os.makedirs('Logs/here')
weight = torch.nn.Parameter(torch.zeros(2, 1, device=device).cuda())
optimiser = torch.optim.Adam([weight])

def train_step():
    x = torch.ones(args.batch_size, 2, device='cuda')
    loss = (x @ weight - rules(args.gt_rules)).abs().mean()
    loss.backward()
    optimiser.step()
    return args, loss

raise AssertionError('what comes after the step is not run')
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a checkout of nothing but a small trainer, in a process that is left as it was."""
    folder = tmp_path / "MLP" / "Regression"
    folder.mkdir(parents=True)
    (folder / "main.py").write_text(SCRIPT)
    (folder / "data.py").write_text("def rules(count):\n    return float(count)\n")
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setitem(os.environ, "SLURM_PROCID", "0")
    monkeypatch.setattr(torch.Tensor, "cuda", torch.Tensor.cuda)
    monkeypatch.setattr(torch.nn.Module, "cuda", torch.nn.Module.cuda)
    for name in ("data", "model", "seaborn", "matplotlib"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def test_the_loop_of_a_checkout_is_run_up_to_its_step_and_leaves_nothing(
    checkout: Path, tmp_path: Path
) -> None:
    work, before = workload("binary", 3, "modular-op"), Path.cwd()
    script = trainer(checkout, work.data)
    said = flags(work.data, work.model, 16, seed=1)
    step = reference_step(script, said, "cpu")
    args, loss = cast("tuple[Any, Any]", step())
    assert (args.gt_rules, args.batch_size, args.model, args.op) == (3, 16, "Modular", True)
    assert loss.item() == 3
    assert Path.cwd() == before
    assert not list(tmp_path.rglob("Logs"))


def test_a_checkout_without_the_trainer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"there is no MLP.Regression.main\.py"):
        trainer(tmp_path, workload("binary", 2, "modular").data)


def test_a_script_without_a_step_is_refused(checkout: Path) -> None:
    script = checkout / "MLP" / "Regression" / "main.py"
    script.write_text("x = 1\n")
    with pytest.raises(RuntimeError, match="defines no train_step"):
        reference_step(script, [], "cpu")


@pytest.mark.usefixtures("compiler")
def test_the_peak_grows_with_threads_and_beats_a_product() -> None:
    one, two = (peak(CPU, threads, 0.05) for threads in (1, 2))
    assert one is not None
    assert two is not None
    assert 1.5 * one < two < 2.5 * one
    left = torch.randn(512, 512)
    seen = pace(lambda: left @ left, 0.1, CPU)
    operations = 2 * 512**3 * seen.steps / seen.busy
    assert operations < 1.2 * one * torch.get_num_threads()


class Crew:
    """Stands for other processes: trains in this one."""

    def prepare(self, work: object, device: torch.device) -> None:
        self.step: Callable[[], None] = alone(work, 0, device)  # type: ignore[arg-type]

    def measure(self, what: str, seconds: float) -> float:
        assert what == "plain"
        return pace(self.step, seconds, CPU).rate


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(("task", "name"), [("binary", "modular"), ("sets", "gt-modular")])
def test_a_row_has_all_ways_and_the_share_that_its_numbers_say(task: str, name: str) -> None:
    row = measure(Bench(Crew(), 2, 0.01, CPU, "auto"), workload(task, 2, name))  # type: ignore[arg-type]
    assert row.engine == "fused"
    assert row.vmap
    assert row.plain
    assert row.ratio == row.cohort / row.plain
    assert row.arithmetic
    assert row.peak
    assert row.share
    assert row.share > 0


@pytest.mark.parametrize(("part", "seeds"), [(0.0, torch.get_num_threads()), (1e6, 3)])
def test_a_row_that_has_to_end_soon_has_as_many_seeds_as_that_allows(
    part: float, seeds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "STEP", part)
    work = workload("binary", 2, "smear")
    row = measure_within(Bench(Crew(), 3, 9.0, CPU, "auto"), work, 0.01)  # type: ignore[arg-type]
    assert (row.seeds, row.ratio) == (seeds, row.cohort / row.plain)


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)
def test_every_system_has_a_plain_loop(system: System) -> None:
    step = alone(workload(system.tasks[0], 4, system.name), 0, CPU)
    step()


def test_the_table_says_which_instructions_the_kernels_were_held_to(
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = {"rows": [], "cohort": 2, "cores": 1, "peak": None}
    show({**result, "instructions": "x86-64-v3"})
    assert "x86-64-v3" in capsys.readouterr().out
    show({**result, "instructions": None})
    assert "kernels for" not in capsys.readouterr().out
