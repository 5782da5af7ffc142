"""Nothing that a run computes or writes follows the order of a set or of a folder, which differ between processes."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(file for room in ("lit_fa", "callbacks", "datamodules") for file in (ROOT / room).rglob("*.py"))
SETS = ("set", "frozenset")
SET_METHODS = ("union", "intersection", "difference", "symmetric_difference")
# a function or attribute of ours that is a set: `def name(...) -> set[...]`, `self.name: set[...]`
GIVE_SETS = re.compile(
    r"^    \s*self\.(\w+): (?:frozen)?set\b|^\s*def (\w+)\(.*\) -> (?:frozen)?set\[[^|]*$", re.MULTILINE
)
LISTINGS = ("glob", "rglob", "iterdir", "listdir", "scandir", "walk", "iglob", "as_completed")
OURS = {name for file in FILES for pair in GIVE_SETS.findall(file.read_text(encoding="utf-8")) for name in pair if name}
UNORDERED = ("sorted", "any", "all", "len", "min", "max", *SETS)  # the same for every order
ORDERED = ("list", "tuple", "enumerate", "zip", "map", "filter", "iter", "reversed", "fromkeys", "join", "sum", "cat")
# places where the order decides nothing: file: beginnings of the lines
HARMLESS = {
    "lit_fa/jobs/pool.py": ("for process in self._workers()",),  # all of them are killed
}


def orderless(node: ast.AST, names: set[str]) -> bool:
    """Whether an expression is a set, or a listing of a folder; `names` are variables that are sets."""
    match node:
        case ast.Set() | ast.SetComp():
            return True
        case ast.Name(id=name):
            return name in names
        case ast.Attribute(attr=name):
            return name in OURS
        case ast.Call(func=ast.Name(id=name)):
            return name in SETS or name in LISTINGS or name in OURS
        case ast.Call(func=ast.Attribute(value=ast.Name(id="ast"))):
            return False
        case ast.Call(func=ast.Attribute(value=owner, attr=name)):
            return name in LISTINGS or name in OURS or (name in SET_METHODS and orderless(owner, names))
        case ast.BinOp(left=left, right=right, op=ast.BitAnd() | ast.BitOr() | ast.BitXor() | ast.Sub() as op):
            views = not isinstance(op, ast.BitOr) and (_keys(left) or _keys(right))
            return views or orderless(left, names) or orderless(right, names)
        case ast.IfExp(body=body, orelse=other):
            return orderless(body, names) or orderless(other, names)
    return False


def _keys(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("keys", "items")


def read_in_order(tree: ast.AST) -> Iterator[ast.AST]:
    """Expressions whose order a program reads."""
    free = {id(g) for call in ast.walk(tree) if _called(call) in UNORDERED for g in call.args}
    for node in ast.walk(tree):
        match node:
            case ast.For(iter=what):
                yield what
            case ast.ListComp(generators=loops) | ast.DictComp(generators=loops) | ast.GeneratorExp(generators=loops):
                yield from [] if id(node) in free else (loop.iter for loop in loops)
            case ast.List(elts=entries) | ast.Tuple(elts=entries):
                yield from [] if id(node) in free else (e.value for e in entries if isinstance(e, ast.Starred))
            case ast.Call(args=given) if _called(node) in ORDERED:
                yield from given


def _called(node: ast.AST) -> str:
    function = getattr(node, "func", None)
    return getattr(function, "id", None) or getattr(function, "attr", "") if isinstance(node, ast.Call) else ""


def variables(scope: ast.AST) -> set[str]:
    """Names that are given a set in a function, or said to be one."""
    names: set[str] = set()
    for node in ast.walk(scope):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if orderless(value, names):
                names.add(name)
            case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=values)):
                pairs = zip(targets, values, strict=False)
                names |= {t.id for t, v in pairs if isinstance(t, ast.Name) and orderless(v, names)}
            case ast.AnnAssign(target=ast.Name(id=name), annotation=said) if ast.unparse(said).startswith(SETS):
                names.add(name)
            case ast.arg(arg=name, annotation=said) if said and ast.unparse(said).startswith(SETS):
                names.add(name)
    return names


def found_in(source: str) -> list[int]:
    """Lines on which a set, or a folder, is read in its own order."""
    tree, lines = ast.parse(source), set()
    scopes = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    for scope in [tree, *scopes]:
        names = variables(scope) if scope is not tree else set()
        lines |= {node.lineno for node in read_in_order(scope) if orderless(node, names)}
    return sorted(lines)


@pytest.mark.parametrize(
    "source",
    [
        "for x in {1, 2}: pass",
        "[x for x in a.keys() & b.keys()]",
        "list(set(x))",
        "def f():\n    s = set(x) - {1}\n    return [y for y in s]",
        "def f(s: set[str]):\n    return {k: 1 for k in s}",
        "[*folder.iterdir()]",
        "for p in folder.rglob('*.png'): pass",
        "', '.join({*a} ^ {*b})",
    ],
)
def test_an_order_that_is_none_is_noticed(source):
    assert found_in(source)


@pytest.mark.parametrize("source", ["sorted(set(x))", "any(x for x in {1})", "[x for x in sorted(folder.glob('*'))]"])
def test_an_order_that_is_made_is_no_fault(source):
    assert not found_in(source)


def test_no_set_and_no_folder_is_read_in_its_own_order():
    wrong = []
    for file in FILES:
        name, text = file.relative_to(ROOT).as_posix(), file.read_text(encoding="utf-8")
        lines = [(number, text.splitlines()[number - 1].strip()) for number in found_in(text)]
        wrong += [f"{name}:{n}: {line}" for n, line in lines if not line.startswith(HARMLESS.get(name, ("\0",)))]
    assert not wrong, "\n".join(["sort what is read here", *wrong])
