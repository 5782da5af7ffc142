"""Wrong variants of a right file, drawn by a seed: keys dropped, renamed, doubled, retyped and nested, text cut."""

import copy
import json
import random
from typing import Any

import yaml

NUMBERS = (True, -1, 0, 3, 1e308, 10**400, float("nan"), float("inf"), -0.0)
TEXTS = ("", " ", "x", "on", "²", "a\nb", "\ud800", "../x", "/etc", "1e-3")
WRONG = (None, *NUMBERS, *TEXTS, [], {}, [None], [[1]], {"a": {"b": 1}}, {1: 2})


def places(node: Any, path: tuple = ()) -> list[tuple]:
    """The path of every entry of nested mappings and lists."""
    entries = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [place for key, value in entries for place in [(*path, key), *places(value, (*path, key))]]


def mutated(data: dict, draw: random.Random, kinds: tuple = WRONG) -> Any:
    """`data` with one to three entries changed."""
    data = copy.deepcopy(data)
    for _ in range(draw.choice((1, 1, 2, 3))):
        if not (found := places(data)):
            break
        *parents, last = draw.choice(found)
        node = data
        for name in parents:
            node = node[name]
        change(node, last, draw, kinds)
    return data


def change(node: Any, last: Any, draw: random.Random, kinds: tuple) -> None:
    """One entry dropped, renamed, retyped, nested or doubled."""
    how = draw.choice(("drop", "rename", "retype", "retype", "nest", "double"))
    if how == "drop":
        del node[last]
    elif how == "rename" and isinstance(node, dict):
        node[draw.choice(("x", "", f"{last}s", str(last)[:-1]))] = node.pop(last)
    elif how == "nest":
        node[last] = draw.choice(({last: node[last]}, [node[last]]))
    elif how == "double" and isinstance(node, list):
        node.append(node[last])
    else:
        node[last] = copy.deepcopy(draw.choice(kinds))  # later changes are for this draw alone


def as_yaml(data: Any, draw: random.Random) -> bytes:
    """The text, now and then cut, or with a line doubled, moved or of other bytes."""
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=False)
    lines = text.splitlines(keepends=True)
    how = draw.choice(("", "", "", "cut", "double", "indent", "bytes", "json"))
    if how == "cut":
        return text[: draw.randrange(len(text) + 1)].encode()
    if how == "double":
        lines.insert(draw.randrange(len(lines) + 1), draw.choice(lines))
    if how == "indent":
        at = draw.randrange(len(lines))
        lines[at] = f" {lines[at]}"
    if how == "bytes":
        at = draw.randrange(len(text) + 1)
        return text[:at].encode() + draw.randbytes(2) + text[at:].encode()
    if how == "json":
        return json.dumps(data, default=str).encode("utf-8", "replace")
    return "".join(lines).encode()
