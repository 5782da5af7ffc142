"""The same value means the same wherever it is written: file, dotted word, word in JSON, table, sweep."""

import json

import pytest
import torch
import yaml
from jsonargparse._actions import ActionFail, _ActionConfigLoad

from lit_fa.__main__ import main
from lit_fa.config.cli import LitFACLI, _built
from lit_fa.config.option_search import find_action_and_subcommand
from lit_fa.config.parser import Parser, _original_search
from lit_fa.config.yaml_reader import dump, read_yaml
from lit_fa.experiment import build
from lit_fa.spec.overrides import assign
from lit_fa.spec.sweep_command import flags

MODEL = {
    "class_path": "lit_fa.modules.Classifier",
    "init_args": {"network": "mlp", "network_args": {"hidden": [8]}},
}
INNER = {"class_path": "datamodules.Digits", "init_args": {"batch_size": 16}}
RUN = {
    "trainer": {"logger": False, "accelerator": "cpu"},
    "model": MODEL,
    "data": {"class_path": "datamodules.Federated", "init_args": {"data": INNER, "clients": 2, "clients_per_round": 2}},
}
IN_A_DICT = "model.init_args.network_args.x"
VALUES = [False, True, 0.1, 16, 1e-3, 2e5, -3, None, [16, None, 0.5], {"a": None, "b": [True], "c": {"d": "e"}}, "relu"]


@pytest.fixture(scope="module")
def parser():
    return build(RUN).cli.parser


@pytest.fixture
def base(tmp_path):
    path = tmp_path / "base.yaml"
    path.write_text(yaml.safe_dump(RUN), encoding="utf-8")
    return str(path)


def found(config, key: str):
    return plain(config[key.replace(".x", "")])["x"] if key.endswith(".x") else plain(config[key])


def plain(value):
    return value.as_dict() if hasattr(value, "as_dict") else value


def roads(parser, base: str, key: str, value) -> dict:
    """Road to the value at `key` in the config that it leads to."""
    in_file = yaml.safe_load(dump(RUN))
    assign(in_file, key, value, "")
    with open(base, encoding="utf-8") as file:
        in_table = yaml.safe_load(file)
    table = f"{base}.table"
    with open(table, "w", encoding="utf-8") as file:
        file.write(dump({"set": {key: value}}))
    assign(in_table, key, read_yaml(table)["set"][key], "")
    own = f"{base}.own"
    with open(own, "w", encoding="utf-8") as file:
        file.write(dump(in_file))
    configs = {
        "file": parser.parse_args(["--config", own]),
        "table": parser.parse_object(in_table),
        "dotted": parser.parse_args(["--config", base, f"--{key}", text(value)]),
        "sweep": parser.parse_args(["--config", base, *flags({key: value})]),
        "agent": parser.parse_args(["--config", base, f"--{key}={value}"]),  # as W&B's own writes it
    }
    return {road: found(config, key) for road, config in configs.items()}


def text(value) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_in_a_dict_is_the_same_by_every_road(parser, base, value):
    assert {road: repr(there) for road, there in roads(parser, base, IN_A_DICT, value).items()} == dict.fromkeys(
        ("file", "table", "dotted", "sweep", "agent"), repr(value)
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.init_args.weights", None),
        ("model.init_args.weights", "a.ckpt"),
        ("model.init_args.clip", 1e-3),
        ("data.init_args.data.init_args.batch_size", 32),
        ("data.init_args.partition_args", {"alpha": None, "b": False}),
        ("data.init_args.data.init_args.drop_last", True),
        ("trainer.max_epochs", 3),
        ("trainer.deterministic", None),
    ],
)
def test_a_typed_value_is_the_same_by_every_road(parser, base, key, value):
    assert {repr(there) for there in roads(parser, base, key, value).values()} == {repr(value)}


def test_words_for_one_dict_add_up(parser, base):
    words = ["--model.init_args.network_args.a.b", "1", "--model.init_args.network_args.a.c", "null"]
    assert plain(parser.parse_args(["--config", base, *words]).model.init_args.network_args) == {
        "hidden": [8], "a": {"b": 1, "c": None}
    }  # fmt: skip


@pytest.mark.parametrize("nothing", ["null", "None"])
def test_null_is_refused_where_the_option_takes_none(base, nothing, capsys):
    assert main(["fit", "--config", base, "--model.init_args.criterion", nothing]) == 2
    assert capsys.readouterr().err.startswith("lit-fa: criterion: null is no value of this option")


@pytest.mark.parametrize(
    ("tail", "said"),
    [
        ("trainer:\n  max_epochs: 2\n", ":{}: not valid YAML: the key 'trainer' is written twice (first on line 17)"),
        ("pretrain:\n  a:\n    b: 1\n    b: 1\n", ":{}: not valid YAML: the key 'b' is written twice"),
        ("trainer.logger: false\n", ": trainer.logger is written twice, with dots and nested; keep one"),
        ("ckpt_path: (7, 7)\n", ":{}: not valid YAML: there are no tuples here; write a list: [7, 7]"),
    ],
)
@pytest.mark.parametrize("command", [["fit"], ["export", "--ckpt_path", "FILE", "--output", "x.onnx"], ["flower"]])
def test_a_file_with_a_fault_is_named_with_its_line(base, tail, said, command, capsys):
    with open(base, encoding="utf-8") as file:
        lines = file.read()
    with open(base, "w", encoding="utf-8") as file:
        file.write(lines + tail)
    line = len(lines.splitlines()) + len(tail.splitlines())
    line -= tail.startswith("trainer:")
    torch.save({"state_dict": {}, "pytorch-lightning_version": "2.5.0"}, f"{base}.ckpt")
    words = [f"{base}.ckpt" if word == "FILE" else word for word in command]
    assert main([*words, "--config", base]) == 2
    assert f"{base}{said.format(line)}" in capsys.readouterr().err


def test_a_value_that_was_read_may_be_changed(base):
    read_yaml(base)["model"]["init_args"]["network"] = "another"
    assert read_yaml(base) == RUN


def test_two_config_files_are_still_merged(parser, base, tmp_path):
    (tmp_path / "more.yaml").write_text("trainer: {max_epochs: 7}", encoding="utf-8")
    config = parser.parse_args(["--config", base, "--config", str(tmp_path / "more.yaml")])
    assert (config.trainer.max_epochs, config.trainer.logger) == (7, False)


def test_a_whole_number_stays_one_in_whatever_order_a_union_names_its_types():
    parser = Parser()
    parser.add_argument("--batches", type=float | int | None, default=None)
    for number in (1, 2, 0.5):
        for config in (parser.parse_object({"batches": number}), parser.parse_args(["--batches", str(number)])):
            assert (config.batches, type(config.batches)) == (number, type(number))


@pytest.mark.parametrize("command", [None, "fit"])
def test_an_option_is_found_as_by_jsonargparse(parser, command):
    if command:
        with pytest.raises(SystemExit):
            LitFACLI([command, "--help"])
        parser = next(built["parser"] for key, built in vars(_built).items() if key[1:] == (command,))
    own = parser if command is None else parser._subcommands_action._name_parser_map[command]
    names = {a.dest for a in own._actions} | {w.lstrip("-") for a in own._actions for w in a.option_strings}
    names |= {
        *names,
        "model.init_args.network",
        "data.init_args",
        "trainer.x",
        "x",
        "trainer",
        "",
        "fit",
        "fit.model.x",
    }
    names |= {f"{command}.{name}" for name in names}
    for name in sorted(names):
        for exclude in (None, _ActionConfigLoad, (_ActionConfigLoad, ActionFail)):
            theirs = _original_search(parser, name, exclude=exclude)
            assert find_action_and_subcommand(parser, name, exclude) == theirs, name
    assert len(names) > 100


def test_an_option_that_is_added_later_is_found():
    parser = Parser()
    assert find_action_and_subcommand(parser, "a.b") == (None, None)
    action = parser.add_argument("--a.b", type=int)
    assert find_action_and_subcommand(parser, "a.b") == (action, None)
