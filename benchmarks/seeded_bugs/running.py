"""Runs tests on a copy of the tree, in forks of one process that has imported the large packages."""

import atexit
import gc
import itertools
import json
import os
import resource
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

COPIED = ("lit_fa", "callbacks", "datamodules", "tests", "paper_configs", "benchmarks")
FILES = ("pyproject.toml", "README.md", "Makefile", "constraints.txt")
HEAVY = (
    "hypothesis",
    "torch",
    "torch.func",
    "lightning",
    "timm",
    "numpy",
    "jsonargparse",
    "PIL.Image",
    "yaml",
    "rich.console",
)
STARTED = "started.txt"
IGNORED = shutil.ignore_patterns("__pycache__", "results")


def copied(tree: Path, folder: Path) -> Path:
    """Copy the parts of the tree that tests read, without records. The leftovers of a killed run are removed."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in COPIED:
        if (tree / name).is_dir():
            shutil.copytree(tree / name, folder / name, ignore=IGNORED, symlinks=True)
    for name in FILES:
        if (tree / name).is_file():
            shutil.copy(tree / name, folder / name)
    return folder


def warm_up() -> None:
    """Import what every run needs and no bug is in."""
    for name in HEAVY:
        __import__(name)
    gc.collect()
    gc.freeze()  # pytest collects garbage in every run, and need not walk through these
    atexit.register(gc.unfreeze)  # or extensions report what is frozen as leaked


@dataclass(frozen=True)
class Run:
    """Tests to run in the copy.

    Attributes:
        names: test files, or one test, relative to the copy, in order.
        reaching: the modules that import the file with the bug, itself included; tests of other rules are left out.
        seconds: limit of processor time; tests that exceed it count as hanging, which is a failure.
        without: tests that are left out.
        collecting: whether tests are only imported.
    """

    names: tuple[str, ...]
    reaching: frozenset[str]
    seconds: int
    without: frozenset[str] = frozenset()
    collecting: bool = False


class Observer:
    """A pytest plugin: leaves the first failure, and the test that runs; keeps the order of files."""

    def __init__(self, out: Path, run: Run):
        """`out` is where the failure is written."""
        self.out, self.run = out, run
        self.places = {name: k for k, name in enumerate(run.names)}
        self.rules: dict[str, bool] = {}

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """A test that hangs is named."""
        self.out.with_name(STARTED).write_text(nodeid, encoding="utf-8")

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leaves out the rules that have no part in the file; keeps the order of `files` otherwise."""
        items[:] = sorted(
            (item for item in items if self.concerned(item)),
            key=lambda item: self.places.get(item.nodeid.partition("::")[0], len(self.places)),
        )

    def concerned(self, item: pytest.Item) -> bool:
        """Whether a test runs: it is not left out, and the rule of a test of the contract reaches the file."""
        if item.nodeid in self.run.without:
            return False
        given = getattr(getattr(item, "callspec", None), "params", {})
        case = getattr(given.get("case"), "name", "").rsplit("-", 1)[0]
        rule = case or given.get("rule", "")
        if not isinstance(rule, str) or "tests/contract/" not in item.nodeid:
            return True
        if rule not in self.rules:
            from tests.cases import RULES  # the copy's, with the bug

            instance = RULES[rule][0]() if rule in RULES else None
            modules = {type(instance).__module__, type(getattr(instance, "source", None)).__module__}
            self.rules[rule] = instance is None or bool(modules & self.run.reaching)
        return self.rules[rule]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Writes the first failure."""
        if report.failed:
            self.write(report.nodeid, getattr(report.longrepr, "reprcrash", None))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A bug that no test can import is caught as well."""
        if report.failed:
            self.write(report.nodeid, None)

    def write(self, test: str, crash: object) -> None:
        """Once."""
        if not self.out.exists():
            lines = (getattr(crash, "message", "") or "").splitlines()
            self.out.write_text(json.dumps({"test": test, "said": lines[0][:200] if lines else ""}), encoding="utf-8")


def first_failure(folder: Path, run: Run) -> tuple[dict[str, Any] | None, float]:
    """Run tests of the copy until one fails.

    Returns:
        The first failing test and what it says, None if all pass; and the seconds of processor time.
    """
    out, started = folder / "failure.json", folder / STARTED
    out.unlink(missing_ok=True)
    started.unlink(missing_ok=True)
    child = os.fork()
    if not child:
        _run(folder, run, Observer(out, run))
    _, status, used = os.wait4(child, 0)
    spent = used.ru_utime + used.ru_stime
    if out.exists():
        return json.loads(out.read_text(encoding="utf-8")), spent
    code = os.waitstatus_to_exitcode(status)
    if code in (0, 5):  # all passed; nothing collected
        return None, spent
    reason = "hangs" if code in (-signal.SIGXCPU, -signal.SIGKILL) else f"ends with {code}"
    test = started.read_text(encoding="utf-8") if started.exists() else run.names[0]
    return {"test": test, "said": reason}, spent


def _run(folder: Path, run: Run, observer: Observer) -> None:
    """The body of a run, in a process of its own, which it never leaves."""
    code = 70
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (run.seconds, run.seconds + 10))
        words = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(words, 1)
        os.dup2(words, 2)
        os.chdir(folder)
        sys.path[:] = [str(folder), *(path for path in sys.path if path not in ("", str(Path.cwd())))]
        os.environ["PYTHONPATH"] = str(folder)
        ours = ("lit_fa", "callbacks", "datamodules", "tests", "benchmarks")
        for name in [name for name in sys.modules if name.split(".")[0] in ours]:
            del sys.modules[name]
        options = ["-x", "-q", "--tb=short", "-p", "no:cacheprovider", "-p", "no:xdist"]
        options += ["-p", "no:hypothesispytest"]  # imports hypothesis at the end of every run
        options += ["--collect-only"] if run.collecting else []
        code = int(pytest.main([*options, f"--rootdir={folder}", *run.names], plugins=[observer]))
    finally:
        os._exit(code)


_STAMPS = itertools.count()


def stamp(path: Path, content: bytes) -> None:
    """Write a source file with a date that no earlier content had, so that its byte code is compiled again."""
    path.write_bytes(content)
    os.utime(path, times=(now := time.time() - 10**8 + next(_STAMPS), now))
