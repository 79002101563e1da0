"""Scripts of fixtures/, which are no package: tests take their functions from the files."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

FIXTURES = Path(__file__).parents[1] / "fixtures"


def load_script(name: str) -> Any:
    """Return fixtures/NAME.py as a module, known by its name so that its processes find it."""
    spec = importlib.util.spec_from_file_location(name, FIXTURES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
