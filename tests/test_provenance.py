"""Which code computed a number."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from lit_fa import provenance
from lit_fa.provenance import code_digest, code_in, outside, sources


@pytest.fixture
def repository(tmp_path):
    def git(*args):
        subprocess.run(["git", "-C", str(tmp_path), *args], check=True, capture_output=True)

    git("init", "-q")
    (tmp_path / "code.py").write_text("a = 1\n", encoding="utf-8")
    (tmp_path / "result.json").write_text("{}\n", encoding="utf-8")
    git("add", ".")
    git("-c", "user.name=n", "-c", "user.email=e@e", "commit", "-qm", "first")
    return tmp_path


def test_changed_code_is_dirty_and_a_changed_result_is_not(repository):
    code = code_in(repository)
    assert len(code.commit) == 40
    assert not code.dirty
    (repository / "result.json").write_text("[]\n", encoding="utf-8")
    (repository / "new.py").write_text("b = 1\n")
    assert code_in(repository) == code
    (repository / "code.py").write_text("a = 2\n", encoding="utf-8")
    assert (code_in(repository).commit, code_in(repository).dirty) == (code.commit, True)


def test_outside_a_repository_or_in_a_strangers_the_commit_is_unknown(repository, tmp_path_factory):
    assert code_in(tmp_path_factory.mktemp("plain")).commit == "unknown"
    (repository / "site-packages").mkdir()
    (repository / "site-packages" / "ours.py").write_text("", encoding="utf-8")
    assert code_in(repository / "site-packages").commit == "unknown"


def test_a_repository_runs_no_program_when_its_state_is_asked_for(repository, tmp_path_factory):
    ran = tmp_path_factory.mktemp("ran") / "ran"
    script = ran.with_name("script")
    script.write_text(f"#!/bin/sh\ntouch {ran}\n")
    script.chmod(0o755)
    for key in ("core.fsmonitor", "diff.external"):
        subprocess.run(["git", "-C", str(repository), "config", key, str(script)], check=True)
    (repository / "code.py").write_text("a = 2\n", encoding="utf-8")
    assert code_in(repository).dirty
    assert not ran.exists()


def test_prose_and_layout_are_no_code_and_names_are():
    plain = "def f(a):\n    return a + 1\n"
    told = 'r"""Module."""\n\ndef f(a):  # why\n    """Doc."""\n    return (\n        a + 1\n    )\n'
    assert code_digest(told) == code_digest(plain)
    assert code_digest(plain.replace("1", "2")) != code_digest(plain)
    assert code_digest("not python:") != code_digest("not python!")


def test_the_sources_are_the_packages_that_decide_a_result(tmp_path, monkeypatch):
    (tmp_path / "callbacks").mkdir()
    (tmp_path / "callbacks" / "a.py").write_text("x = 1\n", encoding="utf-8")
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    before = sources.__wrapped__()
    (tmp_path / "callbacks" / "a.py").write_text("x = 1  # one\n", encoding="utf-8")
    assert sources.__wrapped__() == before
    (tmp_path / "callbacks" / "a.py").write_text("x = 2\n", encoding="utf-8")
    assert sources.__wrapped__() != before


def test_classes_of_others_are_named_with_their_version_or_the_hash_of_their_source(tmp_path, monkeypatch):
    (tmp_path / "my_rules.py").write_text("class Mine:\n    pass\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    import my_rules

    config = {
        "model": {
            "class_path": "lit_fa.modules.Classifier",
            "init_args": {
                "rule": {"class_path": "my_rules.Mine"},
                "optimizer": {"class_path": "torch.optim.SGD"},
                "other": [{"class_path": "functools.partial"}, {"class_path": "never.Imported"}],
            },
        }
    }
    found = outside(config)
    assert found.pop("my_rules.Mine").startswith("my_rules sha256 ")
    assert found == {
        "torch.optim.SGD": f"torch {version('torch')}",
        "functools.partial": f"python {sys.version.split()[0]}",
    }
    first = outside(config)["my_rules.Mine"]
    Path(my_rules.__file__).write_text("class Mine:\n    x = 1\n")
    assert outside(config)["my_rules.Mine"] != first
