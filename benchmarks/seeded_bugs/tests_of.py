"""The tests that belong to a source file, determined from the imports."""

import ast
from collections import deque
from functools import cache
from pathlib import Path

PACKAGES = ("lit_fa", "callbacks", "datamodules", "tests")
MIRRORS = ("tests/functional/", "tests/layers/", "tests/rules/")


class Imports:
    """Which files of a tree import which; a name that a package passes on counts as its module's."""

    def __init__(self, tree: Path):
        """Reads all files once."""
        self.tree = tree
        files = [path for package in PACKAGES for path in sorted((tree / package).rglob("*.py"))]
        self.trees = {str(path.relative_to(tree)): ast.parse(path.read_bytes()) for path in files}

    @cache  # noqa: B019
    def of(self, file: str) -> frozenset[str]:
        """The files that `file` imports from."""
        imported = set()
        for node in ast.walk(self.trees[file]):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported |= {self.origin(node.module, alias.name) for alias in node.names}
            if isinstance(node, ast.Import):
                imported |= {self.file(alias.name) for alias in node.names}
        return frozenset(imported - {"", file})

    def origin(self, module: str, name: str) -> str:
        """The file in which `name` of `module` is written, "" outside of the tree."""
        if inner := self.file(f"{module}.{name}"):
            return inner
        file = self.file(module)
        if not file.endswith("__init__.py"):
            return file
        for node in self.trees[file].body:
            if isinstance(node, ast.ImportFrom) and node.module and name in {a.asname or a.name for a in node.names}:
                return self.origin(node.module, name)
        return file

    def file(self, module: str) -> str:
        """The file of a module, "" outside of the tree."""
        path = module.replace(".", "/")
        return next((file for file in (f"{path}.py", f"{path}/__init__.py") if file in self.trees), "")

    def distances(self, target: str) -> dict[str, int]:
        """File to the least number of imports on the way to `target`, of all files that reach it."""
        users: dict[str, set[str]] = {}
        for file in self.trees:
            for imported in self.of(file):
                users.setdefault(imported, set()).add(file)
        distances, waiting = {target: 0}, deque([target])
        while waiting:
            file = waiting.popleft()
            for user in sorted(users.get(file, ())):
                if user not in distances:
                    distances[user] = distances[file] + 1
                    waiting.append(user)
        return distances


def stages(imports: Imports, file: str) -> dict[str, list[str]]:
    """Test files in the order in which they are tried.

    Returns:
        `own`: tests that are named after the file; `near`: those of formulas, layers and rules that import from it or
        from what does; `contract`: the suites that every rule goes through; `rest`: all others that reach the file, the
        nearest first.
    """
    steps = imports.distances(file)
    tests = [name for name in imports.trees if name.startswith("tests/") and Path(name).name.startswith("test_")]
    reached = sorted((name for name in tests if name in steps), key=lambda name: (steps[name], name))
    contract = [name for name in reached if name.startswith("tests/contract/")]
    package, stem = Path(file).parent.name, Path(file).stem

    def named_after(name: str) -> bool:
        return name.startswith(f"tests/{package}/") and stem in Path(name).stem

    outside = [name for name in reached if name not in contract]
    own = [name for name in outside if named_after(name)]
    near = [name for name in outside if name.startswith(MIRRORS) and steps[name] <= 2 and name not in own]
    quick = ["equals_reference", "weights_as_feedback", "locality", "streaming", "optimiser"]
    contract.sort(key=lambda name: next((k for k, word in enumerate(quick) if word in name), len(quick)))
    rest = [name for name in outside if name not in (*own, *near)]
    return {"own": own, "near": near, "contract": contract, "rest": rest}
