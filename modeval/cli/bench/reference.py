"""The loop of the paper's own code, run from a checkout of it: ``modeval bench train --reference``.

The checkout's trainer is a script: it reads flags, builds a model, defines ``train_step`` and then
trains for hours. It is executed as it stands up to that definition, in a folder of its own that is
thrown away, with another device than ``cuda`` where there is none; then ``train_step`` is called.
Plotting libraries that it loads and does not need until its end are replaced by nothing.
"""

import ast
import importlib.util
import os
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modeval.errors import SpecError
from modeval.spec import DataSpec, ModelSpec, attention_heads, module_count

FOLDERS = {"binary": "MLP", "sets": "MHA", "series": "RNN"}
OBJECTIVES = {"regression": "Regression", "classification": "Classification"}
_NOT_NEEDED = ("matplotlib", "matplotlib.pyplot", "seaborn", "pandas")
_NAMES = {"none": "Monolithic", "module": "Modular", "rule": "Modular", "oracle": "GT_Modular"}


def trainer(checkout: Path, data: DataSpec) -> Path:
    """Return the script that trains on a task.

    Raises:
        SpecError: the checkout has none.
    """
    path = checkout / FOLDERS[data.task] / OBJECTIVES[data.objective] / "main.py"
    if not path.is_file():
        raise SpecError(
            f"--reference {checkout}: there is no {path.relative_to(checkout)} in it. Give the "
            "folder of a checkout of the paper's code."
        )
    return path


def flags(data: DataSpec, model: ModelSpec, batch: int, seed: int) -> list[str]:
    """Return the flags by which the script trains the same model."""
    modules = module_count(data, model)
    said = {
        "gt-rules": data.rules,
        "num-rules": modules,
        "batch-size": batch,
        "seed": seed,
        "model": _NAMES[model.scorer],
    }
    if data.task == "binary":
        said |= {"encoder-dim": model.encoder, "dim": model.width}
    elif data.task == "sets":
        heads = attention_heads(data, model)
        said |= {"dim": model.encoder, "att-dim": model.width, "num-heads": heads}
        said |= {"seq-len": data.length}
        said["num-rules"] = data.rules  # which its inputs are as wide as
    else:
        said |= {"enc-dim": model.encoder, "h-dim": model.width}
        said |= {"seq-len": data.length, "d-dim": data.dimension}
    words = [word for name, value in said.items() for word in (f"--{name}", str(value))]
    return [*words, "--op"] if model.scorer == "rule" else words


def reference_step(script: Path, arguments: list[str], device: str) -> Callable[[], object]:
    """Return the script's own ``train_step``; to be called in a process of its own.

    Raises:
        RuntimeError: the script has no such function, or stopped before it.
    """
    tree = ast.parse(script.read_text(encoding="utf-8"), str(script))
    ends = [
        number
        for number, part in enumerate(tree.body, 1)
        if isinstance(part, ast.FunctionDef) and part.name == "train_step"
    ]
    if not ends:
        raise RuntimeError(f"{script} defines no train_step")
    tree.body = tree.body[: ends[0]]
    if device == "cpu":
        tree = ast.fix_missing_locations(_OnProcessor().visit(tree))
        _keep_on_processor()
    for name in _NOT_NEEDED:
        if importlib.util.find_spec(name.partition(".")[0]) is None:
            sys.modules[name] = _Nothing(name)
    os.environ.setdefault("SLURM_PROCID", "0")
    sys.argv = [str(script), *arguments]
    sys.path.insert(0, str(script.parent))
    for name in ("data", "model"):  # of the family before
        sys.modules.pop(name, None)
    found: dict[str, Any] = {"__name__": "__main__", "__file__": str(script)}
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            exec(compile(tree, str(script), "exec"), found)  # noqa: S102 - a checkout that the user named
        except SystemExit:
            raise RuntimeError(f"{script} stopped by itself") from None
        finally:
            os.chdir(before)
            sys.path.remove(str(script.parent))
    step: Callable[[], object] = found["train_step"]
    return step


class _OnProcessor(ast.NodeTransformer):
    """Has a script say ``cpu`` where it says ``cuda``."""

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        """Replace the name of the device."""
        return ast.copy_location(ast.Constant("cpu"), node) if node.value == "cuda" else node


def _keep_on_processor() -> None:
    """Have ``.cuda()`` leave tensors and models where they are, in this process."""
    import torch

    def stay(self: Any, *_args: object, **_more: object) -> Any:
        return self

    torch.Tensor.cuda = stay  # type: ignore[method-assign]
    torch.nn.Module.cuda = stay  # type: ignore[method-assign]


class _Nothing(types.ModuleType):
    """Stands for a module that is loaded and not needed: whatever is asked of it does nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Nothing(name)

    def __call__(self, *_args: object, **_more: object) -> "_Nothing":
        return self
