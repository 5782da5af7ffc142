"""No file is read or written in the encoding of the locale: that of `LC_ALL=C` is ASCII."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = [
    path for folder in ("lit_fa", "callbacks", "datamodules", "benchmarks") for path in (ROOT / folder).rglob("*.py")
]


def opens_text(call: ast.Call) -> bool:
    """The call reads, writes or hears text."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    if name in ("read_text", "write_text"):
        return isinstance(call.func, ast.Attribute)  # a function of this name is our own writer, of UTF-8 alone
    if any(word.arg in ("text", "universal_newlines") for word in call.keywords):
        return name in ("run", "Popen", "check_output")
    if name != "open":
        return False
    modes = [a.value for a in [*call.args, *(k.value for k in call.keywords)] if isinstance(a, ast.Constant)]
    modes = [mode for mode in modes if isinstance(mode, str) and set(mode) <= set("rwaxbt+")]
    builtin = isinstance(call.func, ast.Name)
    return not any("b" in mode for mode in modes) and (builtin or bool(modes))


def test_every_text_file_has_its_encoding():
    silent = []
    for path in SOURCES:
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        without = [c for c in calls if opens_text(c) and "encoding" not in [word.arg for word in c.keywords]]
        silent += [f"{path.relative_to(ROOT)}:{call.lineno}" for call in without]
    assert not silent
