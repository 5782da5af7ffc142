"""The examples in docstrings, of every module that has one."""

import ast
import doctest
import importlib
from pathlib import Path

import pytest

import lit_fa

ROOT = Path(lit_fa.__file__).parents[1]
FILES = [file for package in ("lit_fa", "callbacks", "datamodules") for file in sorted((ROOT / package).rglob("*.py"))]


def has_example(file: Path) -> bool:
    """Whether a docstring of the file has an example."""
    described = (ast.Module, ast.ClassDef, ast.FunctionDef)
    nodes = [node for node in ast.walk(ast.parse(file.read_bytes())) if isinstance(node, described)]
    return any(">>> " in (ast.get_docstring(node) or "") for node in nodes)


def module(file: Path) -> str:
    """The name by which a file is imported."""
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


SHOWN = [module(file) for file in FILES if has_example(file)]


@pytest.mark.parametrize("name", SHOWN)
def test_examples_in_docstrings_hold(name: str):
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted > 0
    assert results.failed == 0


def test_public_functions_have_examples():
    executed_elsewhere = {"run"}  # trains for seconds: tests/test_experiment.py
    functions = {name: f for name in lit_fa.__all__ if callable(f := getattr(lit_fa, name)) and not isinstance(f, type)}
    without = {name for name, function in functions.items() if ">>> " not in (function.__doc__ or "")}
    assert without == executed_elsewhere
