"""`lit-fa list`, `lit-fa new` and `lit-fa doctor`: what there is, how to begin, and what this machine lacks."""

import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from lit_fa import datamodules
from lit_fa.__main__ import main
from lit_fa.commands import doctor, new
from lit_fa.config.catalogue import KINDS, entries, entry
from lit_fa.config.fit_help import HIDDEN
from lit_fa.errors import UserError

ROOT = Path(__file__).parents[2]


def printed(capsys, *words: str) -> str:
    capsys.readouterr()
    assert main([*words]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("kind", KINDS)
def test_every_entry_has_one_sentence_and_its_options_have_types(kind):
    listed = entries(kind)
    assert listed
    for one in listed:
        assert one.sentence.strip()
        assert "\n" not in one.sentence
        detail = entry(kind, one.name)
        assert all(option.type and option.name for option in detail.options), one.name


def test_a_rule_is_shown_with_its_options_defaults_and_paper(capsys):
    text = printed(capsys, "list", "rules", "PEPITA")
    assert "output_error" in text
    assert "second | first" in text
    assert "arXiv:2201.11665" in text


def test_options_of_a_base_class_are_options_too():
    assert {"batch_size", "val_size", "flatten"} <= {option.name for option in entry("data", "Digits").options}


def test_json_is_printed_or_written(capsys, tmp_path):
    listed = json.loads(printed(capsys, "list", "networks", "--json"))
    assert "mlp" in {one["name"] for one in listed}
    assert printed(capsys, "list", "rules", "DLL", "--json", str(tmp_path / "a.json")) == ""
    assert json.loads((tmp_path / "a.json").read_text())["name"] == "DLL"


def test_a_class_of_the_users_own_is_described_by_its_import_path(tmp_path, monkeypatch, capsys):
    text = "from lit_fa import Backprop\n\nclass Mine(Backprop):\n    '''My own rule.'''\n"
    (tmp_path / "mylab_rules.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    assert printed(capsys, "list", "rules", "mylab_rules.Mine").startswith("Mine: My own rule")


@pytest.mark.parametrize(
    ("kind", "name", "wrong"),
    [
        ("rules", "PEPTA", "nearest: PEPITA"),
        ("networks", "lenett", "nearest: lenet"),
        ("rules", "torch.nn.Linear", "has to extend LearningRule"),
        ("data", "no.such.Data", "cannot be imported"),
    ],
)
def test_a_name_that_is_not_there_is_one_line(kind, name, wrong):
    with pytest.raises(UserError, match=wrong):
        entry(kind, name)


def test_the_help_of_a_fit_shows_what_can_be_chosen_and_no_internal_class(capsys):
    text = printed(capsys, "fit", "--help")
    assert "--name NAME" in text
    assert "max_epochs" in text
    assert "lightning.pytorch" not in text
    shown = {line.split()[0] for line in text.splitlines() if line.startswith("  ")}
    rows = (
        (ROOT / "docs/lightning.md").read_text(encoding="utf-8").partition("## Trainer")[2].partition("## Callbacks")[0]
    )
    for row in rows.splitlines():
        if row.startswith("| `"):
            name, status = (cell.strip(" `") for cell in row.split("|")[1:3])
            assert (name in shown) != (name in HIDDEN), name
            assert name in HIDDEN or "honoured" in status, name


def test_the_help_names_every_command(capsys):
    from lit_fa.__main__ import _COMMANDS, _LIGHTNING

    text = printed(capsys, "--help")
    assert [name for name in (*_COMMANDS, *_LIGHTNING) if f" {name}" not in text] == []


@pytest.mark.slow  # three processes that import everything
def test_what_was_written_for_a_rule_and_a_data_set_passes_its_own_tests(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    printed(capsys, "new", "rule", "my_rule")
    said = printed(capsys, "new", "dataset", "my_data")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_rule.py", "test_my_data.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:]
    words = next(line for line in said.splitlines() if line.startswith("train: ")).split()[2:]
    monkeypatch.syspath_prepend(tmp_path)
    assert main([*words, "--trainer.max_epochs", "1"]) == 0


@pytest.mark.slow
def test_what_was_written_for_a_paper_is_run_and_reported(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lines = printed(capsys, "new", "paper", "my_paper").splitlines()
    for line in lines:
        if line.startswith(("run: ", "report: ")):
            words = line.partition(": lit-fa ")[2].split()
            assert main([*words, *(["--allow-dirty"] if "run" in words else [])]) == 0
    assert "| BP |" in (tmp_path / "my_paper/README.md").read_text()


def test_nothing_is_overwritten(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test_my_rule.py").write_text("mine")
    assert main(["new", "rule", "my_rule"]) == 2
    assert "test_my_rule.py is there already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["test_my_rule.py"]


@pytest.mark.parametrize("name", ["MyRule", "my-rule", "class", "torch", "../a", "a", "callbacks", "match"])
def test_a_name_that_no_module_can_have_or_that_hides_one_is_refused(name):
    with pytest.raises(UserError):
        new.checked(name, "rule")


def test_the_templates_have_no_name_left_open():
    for kind in new.NEXT:
        for path, text in new.written_for(kind, "some_name").items():
            assert not re.search("@name@|@Class@", f"{path}{text}"), path


def test_doctor_finds_everything_that_is_needed_here(capsys):
    text = printed(capsys, "doctor")
    assert text.splitlines()[-1] == "lit-fa can run here"
    for about in ("Python", "threads", "data root", "W&B key", "git", "extra text"):
        assert about in text


def test_doctor_exits_with_one_and_the_command_that_mends_it(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "requirements", lambda: [Requirement("timm>=99"), Requirement("nothing-like-this>=1")])
    assert main(["doctor", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["ok"]
    bad = {one["about"]: one["remedy"] for one in found["findings"] if one["state"] == "bad"}
    assert bad == {"timm": "pip install 'timm>=99'", "nothing-like-this": "pip install 'nothing-like-this>=1'"}


def test_doctor_says_that_there_is_a_key_and_not_which(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    assert "present, in WANDB_API_KEY" in (text := printed(capsys, "doctor"))
    assert "a" * 40 not in text
    monkeypatch.delenv("WANDB_API_KEY")
    (tmp_path / "netrc").write_text(f"machine api.wandb.ai login user password {'b' * 40}\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert "present, in the netrc file" in (text := printed(capsys, "doctor", "--json"))
    assert "b" * 40 not in text


def test_doctor_knows_the_files_of_every_data_set():
    kinds = {name for _, kind in KINDS["data"].classes() for name in [kind.__name__]}
    without = {
        "Digits",
        "Synthetic",
        "Federated",
        "ImageFolder",
        "Npz",
        "MedMNIST",
        "GLUE",
    }  # none, own, or listed apart
    assert kinds - without == {*doctor.DATA_SETS}
    for name in ("CIFAR10", "CIFAR100", "STL10"):
        folder = getattr(datamodules, name).source.base_folder
        assert all(pattern.startswith(f"{folder}/") for pattern in doctor.DATA_SETS[name])
    assert any(file in doctor.DATA_SETS["SVHN"] for _, file, _ in datamodules.SVHN.source.split_list.values())


def test_doctor_lists_the_data_sets_that_are_there(capsys, monkeypatch, tmp_path):
    (tmp_path / "cifar-100-python").mkdir()
    (tmp_path / "cifar-100-python" / "train").touch()
    (tmp_path / "GLUE" / "RTE").mkdir(parents=True)
    monkeypatch.setenv("LIT_FA_DATA", str(tmp_path))
    assert f"{tmp_path}: CIFAR100, GLUE (RTE)" in printed(capsys, "doctor").replace("\n", " ")


def test_requirements_are_read_from_an_installation_without_its_checkout(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    try:
        extras = {name for each in doctor.requirements() for name in doctor._extras_of(each)}
    except PackageNotFoundError:  # pragma: no cover
        pytest.skip("lit-fa is not installed")
    assert {"text", "onnx"} <= extras or not extras
