"""All bugs of each kind that can be inserted into a source file, from its syntax tree.

A bug replaces one expression, operator or number by another. Error messages, annotations and documentation are not
changed, because nothing is computed from them.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

KINDS = ("sign", "transposition", "factor", "detach", "comparison", "index", "term")
TURNED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "==": "!=", "!=": "==", "is": "is not", "is not": "is"}
SYMBOLS = {ast.Lt: "<", ast.Gt: ">", ast.LtE: "<=", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="} | {
    ast.Is: "is", ast.IsNot: "is not", ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.MatMult: "@",
}  # fmt: skip
TRANSPOSITIONS = ("t", "transpose", "permute", "movedim", "swapaxes")
WITH_AN_AXIS = ("sum", "mean", "norm", "softmax", "log_softmax", "argmax", "flatten", "unsqueeze", "squeeze", "flip",
                "cumsum", "size", "split", "chunk", "cat", "stack")  # fmt: skip
AXES = ("dim", "axis", "start_dim", "end_dim")


@dataclass(frozen=True)
class Bug:
    """One replacement.

    Attributes:
        file: relative to the tree.
        kind: one of `KINDS`.
        start: first byte that is replaced.
        end: the byte after the last one.
        after: the new text.
        line: of `start`, counted from 1.
        was: the original line, without its indentation.
        becomes: the line with the bug.
    """

    file: str
    kind: str
    start: int
    end: int
    after: str
    line: int
    was: str
    becomes: str

    @property
    def id(self) -> str:
        """The same as long as the file's text up to the bug is."""
        return f"{self.file}:{self.start}:{self.end}:{self.after}"


def bugs(tree: Path, file: str) -> list[Bug]:
    """All bugs of one file, in its order; not every one leaves valid Python."""
    source = (tree / file).read_bytes()
    by_id: dict[str, Bug] = {}
    for kind, start, end, after in Seeder(source).all():
        with_bug = source[:start] + after.encode() + source[end:]
        line = source.count(b"\n", 0, start)
        was, becomes = (text.splitlines()[line].decode().strip() for text in (source, with_bug))
        bug = Bug(file, kind, start, end, after, line + 1, was, becomes)
        by_id.setdefault(bug.id, bug)
    return sorted(by_id.values(), key=lambda bug: (bug.start, bug.end, bug.after))


def apply(bug: Bug, source: bytes) -> bytes:
    """The source with the bug."""
    return source[: bug.start] + bug.after.encode() + source[bug.end :]


def valid(source: bytes) -> bool:
    """Whether Python reads it."""
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True


class Seeder:
    """Walks through a source; every method yields (kind, first byte, end, new text)."""

    def __init__(self, source: bytes):
        """Reads the source once."""
        self.source = source
        self.starts = [0]
        for line in source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))

    def all(self) -> Iterator[tuple[str, int, int, str]]:
        """Of all nodes from which something is computed."""
        for node in computed(ast.parse(self.source)):
            for seed in (self.arithmetic, self.unary, self.calls, self.attributes, self.comparisons, self.indices):
                yield from seed(node)
            yield from self.terms(node)

    def arithmetic(self, node: ast.AST) -> Iterator[tuple[str, int, int, str]]:
        """A sum's sign, a product's factor, a matrix product's transposition."""
        if not isinstance(node, ast.BinOp) or textual(node):
            return
        if isinstance(node.op, ast.Add | ast.Sub):
            yield from self.operator("sign", node, "-" if isinstance(node.op, ast.Add) else "+")
        if isinstance(node.op, ast.Mult | ast.Div):
            yield ("factor", *self.span(node), f"({self.text(node.left)})")
        if isinstance(node.op, ast.Mult):
            yield ("factor", *self.span(node), f"({self.text(node.right)})")
        if isinstance(node.op, ast.MatMult):
            yield ("transposition", *self.span(node.right), f"({self.text(node.right)}).mT")

    def unary(self, node: ast.AST) -> Iterator[tuple[str, int, int, str]]:
        """A minus that is lost; a sum that is added up with the wrong sign."""
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and not number(node.operand):
            yield ("sign", *self.span(node), f"({self.text(node.operand)})")
        if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add | ast.Sub) and not textual(node):
            yield from self.operator("sign", node, "-" if isinstance(node.op, ast.Add) else "+")

    def calls(self, node: ast.AST) -> Iterator[tuple[str, int, int, str]]:
        """Transpositions and `detach` that are lost; a mean that becomes a sum."""
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            return
        inner, name = self.text(node.func.value), node.func.attr
        if name in TRANSPOSITIONS:
            yield ("transposition", *self.span(node), inner)
        if name == "detach":
            yield ("detach", *self.span(node), inner)
        if name == "mean":
            end = self.span(node.func)[1]
            yield ("factor", end - len("mean"), end, "sum")

    def attributes(self, node: ast.AST) -> Iterator[tuple[str, int, int, str]]:
        """`.T` and `.mT` that are lost."""
        if isinstance(node, ast.Attribute) and node.attr in ("T", "mT"):
            yield ("transposition", *self.span(node), self.text(node.value))

    def comparisons(self, node: ast.AST) -> Iterator[tuple[str, int, int, str]]:
        """One that is turned round."""
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in SYMBOLS:
            yield from self.operator("comparison", node, TURNED[SYMBOLS[type(node.ops[0])]])

    def indices(self, node: ast.AST) -> Iterator[tuple[str, int, int, str]]:
        """An index or an axis that is off by one; two letters of einsum's result that change places."""
        for place, value in axes(node):
            yield ("index", *self.span(place), str(value - 1 if value > 0 else value + 1))
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "einsum" and text(node.args[0]):
            terms, _, result = str(ast.literal_eval(node.args[0])).partition("->")
            result = result.strip()
            if len(result) > 1 and result.isalpha():
                swapped = f'"{terms}->{result[1]}{result[0]}{result[2:]}"'
                yield ("transposition", *self.span(node.args[0]), swapped)

    def terms(self, node: ast.AST) -> Iterator[tuple[str, int, int, str]]:
        """A term of a sum or of a condition that is left out."""
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub) and not textual(node):
            yield ("term", *self.span(node), f"({self.text(node.left)})")
        if isinstance(node, ast.BoolOp):
            for operands in (node.values[:-1], node.values[1:]):
                joined = (" and " if isinstance(node.op, ast.And) else " or ").join(
                    f"({self.text(v)})" for v in operands
                )
                yield ("term", *self.span(node), f"({joined})")
        if isinstance(node, ast.AugAssign):
            yield ("term", *self.span(node), "pass")

    def operator(
        self, kind: str, node: ast.BinOp | ast.AugAssign | ast.Compare, after: str
    ) -> Iterator[tuple[str, int, int, str]]:
        """The operator between two operands; besides it there are only brackets and spaces."""
        left: ast.expr
        if isinstance(node, ast.Compare):
            left, symbol, right = node.left, SYMBOLS[type(node.ops[0])], node.comparators[0]
        elif isinstance(node, ast.AugAssign):
            left, symbol, right, after = node.target, SYMBOLS[type(node.op)] + "=", node.value, after + "="
        else:
            left, symbol, right = node.left, SYMBOLS[type(node.op)], node.right
        start, end = self.span(left)[1], self.span(right)[0]
        between = self.source[start:end].decode()
        if "#" not in between and between.count(symbol) == 1:
            at = start + len(between.partition(symbol)[0].encode())
            yield (kind, at, at + len(symbol), after)

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        """First byte and end; brackets around an expression are no part of it."""
        assert node.end_lineno is not None  # of parsed code
        assert node.end_col_offset is not None
        return (
            self.starts[node.lineno - 1] + node.col_offset,
            self.starts[node.end_lineno - 1] + node.end_col_offset,
        )

    def text(self, node: ast.expr) -> str:
        """The source of a node, in brackets where it would not hold together."""
        start, end = self.span(node)
        words = self.source[start:end].decode()
        return words if isinstance(node, ast.Name | ast.Attribute | ast.Call | ast.Subscript) else f"({words})"


def computed(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that numbers come from."""
    if isinstance(node, ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom | ast.AnnAssign | ast.Assert):
        value = getattr(node, "value", None)
        if isinstance(node, ast.AnnAssign) and value is not None:
            yield from computed(value)
        return
    yield node
    for name, child in ast.iter_fields(node):
        if name not in ("annotation", "returns", "decorator_list"):
            for inner in child if isinstance(child, list) else [child]:
                if isinstance(inner, ast.AST):
                    yield from computed(inner)


def axes(node: ast.AST) -> Iterator[tuple[ast.expr, int]]:
    """Whole numbers that are an index or an axis, with their values."""
    places: list[ast.expr | None] = []
    if isinstance(node, ast.Subscript):
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        places += [
            bound for part in parts for bound in ([part.lower, part.upper] if isinstance(part, ast.Slice) else [part])
        ]
    if isinstance(node, ast.Call):
        places += [keyword.value for keyword in node.keywords if keyword.arg in AXES]
        if getattr(node.func, "attr", "") in WITH_AN_AXIS:
            places += node.args
    for place in places:
        negative = isinstance(place, ast.UnaryOp) and isinstance(place.op, ast.USub)
        inner = place.operand if isinstance(place, ast.UnaryOp) and negative else place
        if place and isinstance(inner, ast.Constant) and isinstance(inner.value, int) and number(inner):
            yield place, -inner.value if negative else inner.value


def number(node: ast.AST) -> bool:
    """A literal number."""
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool)


def text(node: ast.AST) -> bool:
    """A literal text."""
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def textual(node: ast.AST) -> bool:
    """A sum of texts or of lists."""
    plain = (ast.JoinedStr, ast.List, ast.ListComp, ast.Tuple)
    return any(isinstance(inner, plain) or text(inner) for inner in ast.iter_child_nodes(node))
