"""Only committed code writes results that count."""

import json
import subprocess

import pytest

from lit_fa.commands.table import main
from lit_fa.spec.output_paths import output_paths, tree_of
from lit_fa.spec.table import load_table

RUNNER = "tests.fake_runner:run"


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def committed(declared, save, tmp_path):
    path = save(declared)
    (tmp_path / "code.py").write_text("x = 1\n")
    (tmp_path / "notes.md").write_text("a note\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    return path


def test_a_clean_tree_is_its_commit_and_notes_or_new_files_do_not_make_it_dirty(committed, tmp_path):
    (tmp_path / "notes.md").write_text("another note\n")
    (tmp_path / "new.py").write_text("")
    tree = tree_of(load_table(committed))
    assert (len(tree.commit), tree.dirty) == (40, False)


@pytest.mark.parametrize("name", ["code.py", "table1.yaml", "base.yaml"])
def test_changed_code_table_or_base_makes_the_tree_dirty(committed, tmp_path, name):
    (tmp_path / name).write_text((tmp_path / name).read_text() + "\n# changed\n")
    assert tree_of(load_table(committed)).dirty


def test_each_state_of_changed_code_has_a_folder_of_its_own(committed, tmp_path):
    keys = []
    for text in ("x = 2\n", "x = 3\n", "x = 2\n"):
        (tmp_path / "code.py").write_text(text)
        keys.append(tree_of(load_table(committed)).key)
    assert keys[0] == keys[2] != keys[1]


def test_without_a_repository_the_commit_is_unknown_and_counted(declared, save, monkeypatch):
    monkeypatch.setenv("PATH", "")
    tree = tree_of(load_table(save(declared)))
    assert (tree.commit, tree.dirty) == ("unknown", False)


def test_dirty_runs_go_to_scratch_and_the_report_says_so(committed, tmp_path, capfd):
    (tmp_path / "code.py").write_text("x = 2\n")
    assert main(["run", str(committed), "--scale", "cpu"], runner=RUNNER) == 0
    assert not (tmp_path / "results").exists()
    (record, *_) = sorted((tmp_path / "scratch" / "tables").rglob("*.json"))
    assert json.loads(record.read_text())["dirty"] is True
    assert main(["run", str(committed), "--scale", "cpu"], runner=RUNNER) == 0
    assert main(["report", str(committed), "--scale", "cpu"]) == 0
    printed = capfd.readouterr().out
    assert "4 runs go to" in printed
    assert "4 of 4 runs done, 0 to run" in printed  # the same changed code does not run twice
    assert "4 dirty runs not counted" in printed
    assert "not run" in printed


def test_allowed_dirty_runs_are_counted_and_said_in_the_block(committed, tmp_path, capfd):
    (tmp_path / "code.py").write_text("x = 2\n")
    assert main(["run", str(committed), "--scale", "cpu", "--allow-dirty"], runner=RUNNER) == 0
    assert len(list((tmp_path / "results/table1/cpu").glob("*.json"))) == 4
    main(["report", str(committed), "--scale", "cpu", "--format", "md"])
    assert "4 of 4 runs are from a tree with uncommitted changes" in capfd.readouterr().out


def test_the_smoke_scale_goes_to_scratch_unless_a_folder_is_given(committed, tmp_path):
    table = load_table(committed)
    tree = tree_of(table)
    assert output_paths(table, "smoke", tree).results.is_relative_to(tmp_path / "scratch" / "tables" / tree.key)
    assert output_paths(table, "smoke", tree, out=tmp_path / "o").target == tmp_path / "o" / "table1" / "smoke"
