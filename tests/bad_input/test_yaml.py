"""Text that is no config, no table and no sweep file is refused within a second, with file and line."""

import itertools
import random
import time
from pathlib import Path

import pytest
import yaml

from lit_fa import build
from lit_fa.__main__ import main
from lit_fa.errors import UserError
from tests.bad_input.conftest import PLAIN

LETTERS = "abcdefghi"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in itertools.pairwise(LETTERS)
)
BROKEN = {
    "bomb": (BOMB, "anchors make more than 1,000,000 values"),
    "deep lists": ("[" * 5000 + "]" * 5000, "nested more than 50 levels"),
    "deep mappings": ("{a: " * 5000 + "1" + "}" * 5000, "nested more than 50 levels"),
    "deep blocks": ("".join(f"{' ' * k}a:\n" for k in range(400)), "nested more than 50 levels"),
    "deep entries": ("- " * 4000 + "a", "nested more than 50 levels"),
    "itself in a list": ("a: &a [*a]", "an anchor that contains itself"),
    "itself in a mapping": ("a: &a {b: *a}", "an anchor that contains itself"),
    "long": ("a: " + "x" * 1_000_001, "more than 1,000,000 characters"),
    "long number": ("a: " + "9" * 5000, "at most 4300 digits"),
    "bytes": (random.Random(0).randbytes(300), "is not UTF-8 text"),
    "utf-16": (yaml.safe_dump(PLAIN).encode("utf-16"), "is not UTF-8 text"),
    "utf-16 without a mark": (yaml.safe_dump(PLAIN).encode("utf-16-le"), "not valid YAML"),
    "zeros": (b"\0" * 100, "not valid YAML"),
    "open list": ("a: [1", "not valid YAML"),
    "two colons": ("a: b: c", "not valid YAML"),
    "tab": ("a:\n\tb: 1", "not valid YAML"),
    "twice": ("a: 1\na: 2", "written twice"),
    "tag of Python": ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
    "tag": ("a: !foo 1", "could not determine a constructor"),
    "tag of a set": ("a: !!set {b, c}", "could not determine a constructor"),
    "tag that does not fit": ("a: !!float abc", "does not fit its tag"),
    "tag of another kind": ("a: !!int [1]", "does not fit its tag"),
    "alias of nothing": ("a: *b", "undefined alias"),
    "merge of a number": ("<<: 3", "for merging"),
    "list as a key": ("? [1]\n: 2", "unhashable key"),
    "tuple": ("a: (1, 2)", "a list: [7, 7]"),
    "two documents": ("--- a\n--- b", "single document"),
    "version": ("%YAML 9.9\n---\na: 1", "not valid YAML"),
}
EMPTY = {
    "nothing": "",
    "comment": "# nothing",
    "null": "null",
    "number": "3",
    "text": "abc",
    "list": "[1]",
    "empty list": "[]",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_cannot_be_read(name, refused):
    content, said = BROKEN[name]
    Path("c.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    started = time.process_time()
    line = refused("table", "report", "c.yaml")
    assert time.process_time() - started < 1
    assert "c.yaml" in line
    assert said in line


@pytest.mark.parametrize("name", ["bomb", "deep lists", "bytes", "utf-16", "itself in a list", "tag that does not fit"])
def test_a_config_that_cannot_be_read(name, refused):
    content, said = BROKEN[name]
    Path("c.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert said in refused("fit", "--config", "c.yaml")


@pytest.mark.parametrize("name", ["bomb", "deep entries", "bytes", "long number", "tuple", "twice"])
def test_a_sweep_that_cannot_be_read(name, refused):
    content, said = BROKEN[name]
    Path("c.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert said in refused("sweep", "run", "c.yaml")


@pytest.mark.parametrize("kind", [("table", "run"), ("sweep", "report")])
@pytest.mark.parametrize("name", EMPTY)
def test_a_file_that_is_no_mapping(name, kind, refused):
    Path("c.yaml").write_text(EMPTY[name])
    assert "c.yaml" in refused(*kind, "c.yaml")


@pytest.mark.parametrize("name", ["nothing", "null", "number", "list"])
def test_a_config_that_is_no_mapping(name, refused):
    Path("c.yaml").write_text(EMPTY[name])
    assert "--config" in refused("fit", "--config", "c.yaml")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"class_path": "Digits", "init_args": None}, "init_args of Digits is None: write its options as a mapping"),
        ({"class_path": "Digits", "init_args": [1]}, "init_args of Digits is [1]: write its options as a mapping"),
        ({"class_path": "Digits", "batch_size": 1}, "'batch_size' beside class_path Digits: write the options under"),
        ({"class_path": ["Digits"]}, "class_path is ['Digits']: write the name of a class"),
        ({"class_path": " "}, "class_path is ' ': write the name of a class"),
        ({"class_path": "Federated", "init_args": {"data": {"class_path": 3}}}, "class_path is 3: write the name of"),
    ],
)
def test_a_class_whose_parts_have_other_types(data, said, refused):
    Path("c.yaml").write_text(yaml.safe_dump(PLAIN | {"data": data}))
    assert f"c.yaml: {said}" in refused("fit", "--config", "c.yaml")
    assert said in refused("fit", "--config", "run.yaml", "--data", yaml.safe_dump(data, default_flow_style=True))
    with pytest.raises(UserError) as told:
        build(PLAIN | {"data": data})
    assert said in str(told.value) or "unknown data ' '" in str(told.value)


@pytest.mark.parametrize("value", ["1:0", "1:30:00"])
def test_a_time_is_no_number(value, refused):
    fit = ("fit", "--config", "run.yaml")
    assert "max_epochs: expected a whole number" in refused(*fit, "--trainer.max_epochs", value)
    options = f"{{class_path: SGD, init_args: {{lr: '{value}'}}}}"
    assert "lr: expected a number" in refused(*fit, "--model.init_args.optimizer", options)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--config", "none.yaml"), "--config: there is no file"),
        (("--config", "."), "--config: "),
        (("--config",), "--config"),
        (("--model.init_args.network_args", "[" * 300), "nested more than 50 levels"),
        (("--model.init_args.network_args", "{a: 1, a: 2}"), "written twice"),
        (("--modl", "3"), "unrecognized arguments: --modl 3"),
    ],
)
def test_words_of_a_command_line(words, said, refused):
    assert said in refused("fit", *(() if "--config" in words else ("--config", "run.yaml")), *words)


def test_anchors_and_depth_that_people_write_are_read():
    Path("base.yaml").write_text("a: &a {b: [1, 2]}\nc: *a\nd: {<<: *a, e: " + "[" * 40 + "]" * 40 + "}")
    Path("t.yaml").write_text(Path("table.yaml").read_text().replace("run.yaml", "base.yaml"))
    assert main(["table", "list", "t.yaml"]) == 0
