"""What `import lit_fa` offers, to a program and to an editor."""

import ast
import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import lit_fa
from lit_fa import rules
from lit_fa.rules import DirectFeedbackAlignment, FeedbackAlignment, FeedbackSource, LearningRule, SignFeedback

ROOT = Path(__file__).parent.parent
ROOMS = ("modules", "federated", "networks")


@pytest.mark.parametrize("name", lit_fa.__all__)
def test_every_name_loads(name: str):
    assert getattr(lit_fa, name).__name__ == name
    assert name in dir(lit_fa)


@pytest.mark.parametrize("room", ROOMS)
def test_all_that_a_package_exports_is_offered(room: str):
    package = importlib.import_module(f"lit_fa.{room}")
    assert all(getattr(lit_fa, name) is getattr(package, name) for name in package.__all__)


@pytest.mark.parametrize("kind", [LearningRule, FeedbackSource])
def test_every_rule_and_every_feedback_source_is_offered(kind: type):
    classes = {name for name in rules.__all__ if isinstance(getattr(rules, name), type)}
    assert {name for name in classes if issubclass(getattr(rules, name), kind)} <= {*lit_fa.__all__}


def test_every_rule_is_in_the_table_of_rules():
    table = (ROOT / "docs/rule_table.md").read_text(encoding="utf-8")
    kinds = [kind for name in rules.__all__ if isinstance(kind := getattr(rules, name), type)]
    classes = {kind.__name__ for kind in kinds if issubclass(kind, LearningRule) and kind is not LearningRule}
    assert {name for name in classes if f"`{name}`" not in table} == set()


def test_the_door_is_offered():
    from lit_fa import experiment

    assert (lit_fa.build, lit_fa.run, lit_fa.load) == (experiment.build, experiment.run, experiment.load)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'lit_fa' has no attribute 'Bakprop'"):
        _ = lit_fa.Bakprop


def test_importing_it_imports_no_torch():
    code = "import lit_fa, sys; lit_fa.__version__; dir(lit_fa); lit_fa.UserError; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_version_is_that_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert lit_fa.__version__ == project["version"]


def test_an_editor_sees_every_name():
    """Type checkers take a name of a stub as public where it is imported as itself."""
    stub = ast.parse((ROOT / "lit_fa/__init__.pyi").read_text(encoding="utf-8"))
    names = [alias for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(a.asname for a in names) == sorted(a.name for a in names) == lit_fa.__all__


def test_stub_and_marker_are_in_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    data = project["tool"]["setuptools"]["package-data"]["lit_fa"]
    files = {file.name for pattern in data for file in (ROOT / "lit_fa").glob(pattern)}
    assert {"py.typed", "__init__.pyi"} <= files


def test_a_rule_shows_its_options():
    rule = FeedbackAlignment(SignFeedback(), layers=["0", "2"])
    assert repr(rule).startswith("FeedbackAlignment(source=SignFeedback(")
    assert "layers=['0', '2'], backend='fused'" in repr(rule)
    options = DirectFeedbackAlignment().constructor["init_args"]
    assert all(f"{name}=" in repr(DirectFeedbackAlignment()) for name in options)
