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


# settings of a repository that name a program, and what else they need
PROGRAMS = {
    **{key: {} for key in ("core.fsmonitor", "core.pager", "core.editor", "core.sshCommand", "core.gitProxy")},
    **{key: {} for key in ("diff.external", "pager.diff", "pager.status", "alias.status", "alias.diff", "gpg.program")},
    **{key: {".gitattributes": "*.py diff=x\n"} for key in ("diff.x.textconv", "diff.x.command")},
    **{key: {".gitattributes": "*.py filter=x\n"} for key in ("filter.x.clean", "filter.x.smudge", "filter.x.process")},
    "filter.X y.z.clean": {".git/info/attributes": "*.py filter=X y.z\n*.py filter=x\n"},
    "filter.a=b.clean": {".gitattributes": "*.py filter=a=b\n"},
    "tar.tar.command": {},
    "interactive.diffFilter": {},
    "core.hooksPath": {},
    "remote.origin.uploadpack": {},
}


@pytest.mark.parametrize("key", PROGRAMS)
def test_a_repository_runs_no_program_when_its_state_is_asked_for(repository, tmp_path_factory, key):
    ran = tmp_path_factory.mktemp("ran") / "ran"
    script = ran.with_name("script")
    script.write_text(f"#!/bin/sh\ntouch {ran}\ncat\n")
    script.chmod(0o755)
    for hook in ("post-index-change", "reference-transaction", "pre-auto-gc"):
        for folder in (ran.parent, repository / ".git" / "hooks"):
            (folder / hook).write_bytes(script.read_bytes())
            (folder / hook).chmod(0o755)
    value = ran.parent if key == "core.hooksPath" else script
    for name, said in {key: value, "remote.origin.url": repository, "remote.origin.promisor": "true"}.items():
        subprocess.run(["git", "-C", str(repository), "config", name, str(said)], check=True)
    for file, text in PROGRAMS[key].items():
        (repository / file).parent.mkdir(exist_ok=True)
        (repository / file).write_text(text, encoding="utf-8")
    (repository / "code.py").write_text("a = 2\n", encoding="utf-8")
    commit = code_in(repository)
    assert commit.dirty or "=" in key.removeprefix("core")
    provenance.git(repository, "diff", "--name-only", "HEAD")
    provenance.git(repository, "diff", "0" * 40)
    provenance.git_bytes(repository, "archive", "--format=tar", "HEAD")
    assert not ran.exists()


def test_the_filters_of_an_included_file_and_the_watcher_of_a_submodule_do_not_run(repository, tmp_path_factory):
    ran = tmp_path_factory.mktemp("ran") / "ran"
    script = ran.with_name("script")
    script.write_text(f"#!/bin/sh\ntouch {ran}\ncat\n")
    script.chmod(0o755)

    def git(*words: str) -> None:
        allowed = ["-c", "protocol.file.allow=always", "-c", "user.name=n", "-c", "user.email=e@e"]
        subprocess.run(["git", "-C", str(repository), *allowed, *words], check=True, capture_output=True)

    git("submodule", "add", "-q", str(repository), "inner.py")
    git("commit", "-qm", "second")
    git("-C", "inner.py", "config", "core.fsmonitor", str(script))
    (repository / "more").write_text(f'[filter "x"]\n\tclean = {script}\n')
    git("config", "include.path", "../more")
    (repository / ".git" / "info" / "attributes").write_text("code.py filter=x\n")
    for file in ("code.py", "inner.py/code.py"):
        (repository / file).write_text("a = 2\n", encoding="utf-8")
    assert code_in(repository).dirty
    assert not ran.exists()


def test_a_filter_of_the_user_is_used(repository, tmp_path, monkeypatch):
    (tmp_path / "mine").write_text('[filter "own"]\n\tclean = sed s/2/1/\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "mine"))
    (repository / ".git" / "info" / "attributes").write_text("code.py filter=own\n")
    (repository / "code.py").write_text("a = 2\n", encoding="utf-8")
    assert not code_in(repository).dirty


def test_prose_and_layout_are_no_code_and_names_are():
    plain = "def f(a):\n    return a + 1\n"
    told = 'r"""Module."""\n\ndef f(a):  # why\n    """Doc."""\n    return (\n        a + 1\n    )\n'
    assert code_digest(told) == code_digest(plain)
    assert code_digest(plain.replace("1", "2")) != code_digest(plain)
    assert code_digest("not python:") != code_digest("not python!")


@pytest.fixture
def fresh():
    """The hash of the sources as a new process computes it."""

    def digest() -> str:
        for cached in (provenance._deciding_sources, provenance.sources):
            cached.cache_clear()
        return sources()

    yield digest
    provenance._deciding_sources.cache_clear(), sources.cache_clear()


def test_the_sources_are_the_packages_that_decide_a_result(tmp_path, monkeypatch, fresh):
    (tmp_path / "lit_fa" / "rules").mkdir(parents=True)
    (tmp_path / "lit_fa" / "rules" / "a.py").write_text("x = 1\n", encoding="utf-8")
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    before = fresh()
    (tmp_path / "lit_fa" / "rules" / "a.py").write_text("x = 1  # one\n", encoding="utf-8")
    assert fresh() == before
    (tmp_path / "lit_fa" / "rules" / "a.py").write_text("x = 2\n", encoding="utf-8")
    assert fresh() != before


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


def test_the_hash_of_the_sources_is_of_the_code_when_it_was_noted(tmp_path, monkeypatch, fresh):
    code = tmp_path / "lit_fa" / "rules" / "inner" / "a.py"
    code.parent.mkdir(parents=True)
    code.write_text("x = 1\n", encoding="utf-8")
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    before = fresh()
    sources.cache_clear()
    code.write_text("x = 2\n", encoding="utf-8")
    provenance.note_sources()
    assert sources() == before
    assert fresh() != before
    names = [name for name, _ in provenance._deciding_sources()]
    assert "lit_fa/rules/inner/a.py" in names
    assert names == sorted(names)
