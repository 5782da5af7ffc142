"""Who may import whom, read from the source."""

import ast
import gc
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest

from lit_fa.importing import collector_off

ROOT = Path(__file__).parent.parent
OURS = ("lit_fa", "datamodules", "callbacks", "tests")
TOP = ("datamodules", "callbacks")  # folders of the top level that Python imports as parts of lit_fa
# what the rooms around the core share: no torch, so that a table renders on a laptop without it
SHELL = [
    "rich",
    *(
        f"lit_fa.{name}"
        for name in (
            "config",
            "errors",
            "outputs",
            "escaping",
            "bounded_reading",
            "importing",
            "import_paths",
            "shipped",
        )
    ),
]
# folder: what may be imported besides the standard library and the folder itself; None: anything that is not ours
ALLOWED = {
    "lit_fa/functional": ["torch"],
    "lit_fa/layers": ["torch", "lit_fa.functional", "lit_fa.errors"],
    "lit_fa/rules": ["torch", "lit_fa.functional", "lit_fa.layers", "lit_fa.errors", "lit_fa.described"],
    "lit_fa/networks": [
        "torch",
        "torchvision",
        "timm",
        "peft",
        "transformers",
        "lit_fa.errors",
        "lit_fa.checkpoints.files",
    ],
    "lit_fa/written": ["torch", "lit_fa.functional", "lit_fa.layers", "lit_fa.rules", "lit_fa.errors"],
    "lit_fa/federated": [
        *("torch", "lit_fa.functional", "lit_fa.layers", "lit_fa.rules", "lit_fa.errors", "lit_fa.written"),
    ],
    "lit_fa/modules": [None, "lit_fa"],
    "lit_fa/packs": [
        *("torch", "numpy", "lightning", "greenlet", "lit_fa.errors", "lit_fa.lightning_privates", "lit_fa.stopping"),
        *("lit_fa.rules", "lit_fa.written", "lit_fa.modules"),
    ],
    "lit_fa/parallel": [
        *("torch", "lightning", "lit_fa.errors", "lit_fa.lightning_privates", "lit_fa.stage_strategy"),
        *("lit_fa.layers", "lit_fa.rules", "lit_fa.modules"),
    ],
    "lit_fa/spec": [*SHELL, "yaml", "optuna", "pydantic", "pydantic_core", "lit_fa.provenance"],
    "lit_fa/results": [*SHELL, "numpy", "filelock", "lit_fa.provenance", "lit_fa.spec"],
    "lit_fa/jobs": [
        *SHELL,
        "lit_fa.operating_system",
        "lit_fa.provenance",
        "yaml",
        "filelock",
        "lit_fa.stopping",
        "lit_fa.results.records",
    ],
    "lit_fa/reports": [
        *SHELL,
        "lit_fa.heat_maps",
        "lit_fa.plot_style",
        *("yaml", "jinja2", "markupsafe", "markdown_it", "mdit_py_plugins", "latex2mathml"),
        *("lit_fa.provenance", "lit_fa.spec", "lit_fa.results"),
    ],
    "lit_fa/sweeps": [
        *SHELL,
        "optuna",
        "filelock",
        "lit_fa.stopping",
        "lit_fa.spec",
        "lit_fa.results",
        "lit_fa.jobs",
    ],
    "datamodules": [None],
    "callbacks": [
        None,
        *(f"lit_fa.{room}" for room in ("functional", "layers", "rules.base", "rules.learner", "deployment")),
        *(
            f"lit_fa.{module}"
            for module in (
                "errors",
                "outputs",
                "provenance",
                "stopping",
                "faults",
                "lightning_privates",
                "heat_maps",
                "plot_style",
                "stage_strategy",
            )
        ),
        *("lit_fa.lightning_privates", "lit_fa.stage_strategy"),
    ],
    "tests/reference": ["numpy", "torch", "scipy", "pytest"],
}
# what these may import inside a function
LATE = {
    "lit_fa/spec": ["torch", "scipy"],
    "lit_fa/jobs": ["torch", "ray", "lit_fa.packs"],
    "lit_fa/results": ["scipy", "pandas"],
    "lit_fa/reports": ["matplotlib", "numpy", "pandas"],
    "datamodules": ["lit_fa.plot_style"],
    "lit_fa/sweeps": ["scipy", "sqlalchemy"],
}


@cache
def nodes(file: Path) -> list[ast.AST]:
    return [*ast.walk(ast.parse(file.read_text(encoding="utf-8")))]


@cache
def imported(file: Path, *, late: bool) -> frozenset[str]:
    """Absolute names of imported modules; `late`: inside functions or for type checkers, else at import."""
    deferred = (f for f in nodes(file) if isinstance(f, ast.FunctionDef) or _for_type_checkers(f))
    inside = {n for f in deferred for n in ast.walk(f)}
    found: set[str] = set()
    for node in nodes(file):
        if (node in inside) is late and isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif (node in inside) is late and isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {f"lit_fa.{a.name}" for a in node.names} if node.module == "lit_fa" else {node.module}
    return frozenset(found)


def _for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def permitted(name: str, allowed: list[str | None]) -> bool:
    top = name.split(".")[0]
    within = any(a and (name == a or name.startswith(a + ".")) for a in allowed)
    return within or top in sys.stdlib_module_names or (None in allowed and top not in OURS)


@pytest.mark.parametrize("folder", [folder for folder in ALLOWED if (ROOT / folder).is_dir()])
def test_imports_point_downward(folder: str):
    itself = f"lit_fa.{folder}" if folder in TOP else folder.replace("/", ".")
    for file in sorted((ROOT / folder).rglob("*.py")):
        allowed = [*ALLOWED[folder], itself]
        late = [*allowed, *LATE.get(folder, [])]
        names = {(n, False) for n in imported(file, late=False)} | {(n, True) for n in imported(file, late=True)}
        wrong = [n for n, is_late in names if not permitted(n, late if is_late else allowed)]
        assert not wrong, f"{file.relative_to(ROOT)} imports {wrong}"


def test_no_module_imports_a_command_as_a_library():
    folders = [ROOT / name for name in ("lit_fa", "callbacks", "datamodules", "benchmarks")]
    for file in sorted(file for folder in folders for file in folder.rglob("*.py")):
        names = imported(file, late=False) | imported(file, late=True)
        commands = [name for name in names if permitted(name, ["lit_fa.commands"]) and "lit_fa" in name]
        commands = [] if file.parent.name == "commands" or file.name == "__main__.py" else commands
        assert not commands, f"{file.relative_to(ROOT)} imports {commands}"


@pytest.mark.parametrize("folder", ["lit_fa", "callbacks", "datamodules", "benchmarks", "tests"])
def test_ours_are_imported_where_no_module_of_a_user_can_take_their_place(folder: str):
    for file in sorted((ROOT / folder).rglob("*.py")):
        names = imported(file, late=False) | imported(file, late=True)
        wrong = [name for name in names if name.partition(".")[0] in TOP]
        assert not wrong, f"{file.relative_to(ROOT)}: lit_fa.{wrong}"


def test_one_file_changes_the_words_of_its_process():
    """Flower's tools read `sys.argv`. Nothing else does, and Lightning starts its ranks with it."""
    changed = [
        file.relative_to(ROOT).as_posix()
        for folder in ("lit_fa", "callbacks", "datamodules", "benchmarks")
        for file in sorted((ROOT / folder).rglob("*.py"))
        if any(
            isinstance(target, ast.Attribute) and ast.unparse(target) == "sys.argv"
            for node in nodes(file)
            if isinstance(node, ast.Assign)
            for each in node.targets
            for target in ast.walk(each)
        )
    ]
    assert changed == ["lit_fa/flower/owner.py"]


def test_only_the_command_line_knows_all_packages():
    for file in sorted((ROOT / "lit_fa").rglob("*.py")):
        names = imported(file, late=False) | imported(file, late=True)
        if {n.partition(".")[2].partition(".")[0] for n in names if n.startswith("lit_fa.")} & {*TOP}:
            assert file.parent.name in ("lit_fa", "commands", "config"), (
                f"{file.relative_to(ROOT)} knows data or callbacks"
            )


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_as_before_an_import(enabled: bool):
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with suppress(ImportError), collector_off():
            assert not gc.isenabled()
            raise ImportError
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()
