"""What the reference says of public names, read from their source: importing them takes seconds."""

import ast
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

Definition = ast.FunctionDef | ast.ClassDef


@dataclass(frozen=True, slots=True)
class Described:
    """A public name: how it is called, and its docstring."""

    signature: str
    docstring: str


def described(module: str, name: str) -> Described:
    """Describe a function or a dataclass as it stands in the source of its module.

    >>> described("modeval.score.stored.files", "read_scorecard").signature
    '(path: Path) -> Scorecard'
    """
    package, *parts = module.split(".")
    source = files(package).joinpath(*parts[:-1], f"{parts[-1]}.py").read_text(encoding="utf-8")
    body = ast.parse(source).body
    found: Definition = next(
        node  # the last one: what stands before it are overloads of it
        for node in reversed(body)
        if isinstance(node, Definition) and node.name == name
    )
    docstring = inspect.cleandoc(ast.get_docstring(found) or "")
    written = _Written(_aliases(body)).visit(found)
    signature = _fields(written) if isinstance(written, ast.ClassDef) else _arguments(written)
    return Described(signature, docstring)


def _aliases(body: list[ast.stmt]) -> dict[str, ast.expr]:
    """Return the names that a module gives to unions and other types."""
    return {
        target.id: node.value
        for node in body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.BinOp | ast.Subscript)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


class _Written(ast.NodeTransformer):
    """Types as a reader needs them: aliases opened, quotes that only spare an import gone."""

    def __init__(self, aliases: Mapping[str, ast.expr]) -> None:
        self._aliases = aliases

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self._aliases.get(node.id, node)

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = self._opened(node.annotation)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        self.visit(node.args)
        node.returns = self._opened(node.returns)
        return node

    def _opened(self, annotation: ast.expr | None) -> Any:
        if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
            annotation = ast.parse(annotation.value, mode="eval").body
        return None if annotation is None else self.visit(annotation)


def _arguments(function: ast.FunctionDef) -> str:
    returns = f" -> {ast.unparse(function.returns)}" if function.returns else ""
    return f"({ast.unparse(function.args)}){returns}"


def _fields(record: ast.ClassDef) -> str:
    """Return what makes a dataclass, all of it by name."""
    fields = [ast.unparse(each) for each in record.body if isinstance(each, ast.AnnAssign)]
    return f"({', '.join(('*', *fields))})"
