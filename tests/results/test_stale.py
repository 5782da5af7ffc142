"""Records whose code is no longer today's are told, file by file, and only where a run could reach the file."""

import json
import subprocess

import pytest

from lit_fa import provenance
from lit_fa.commands.table import main
from lit_fa.results import reachable_files as closure
from lit_fa.results import stale
from lit_fa.results.reachable_files import reached
from lit_fa.results.records import collect
from lit_fa.results.stale import changed, stale_line
from lit_fa.spec.expand import expand
from lit_fa.spec.table import load_table

RUNNER = "tests.fake_runner:run"
FILES = {
    "lit_fa/__init__.py": "",
    "lit_fa/functional/__init__.py": "",
    "lit_fa/functional/feedback.py": "def draw():\n    return 1\n",
    "lit_fa/functional/goodness.py": "def goodness():\n    return 1\n",
    "lit_fa/rules/__init__.py": "from lit_fa.rules.fa import FA\nfrom lit_fa.rules.ff import FF\n",
    "lit_fa/rules/fa.py": "from lit_fa.functional.feedback import draw\n\nclass FA:\n    scale = draw()\n",
    "lit_fa/rules/ff.py": "from lit_fa.functional.goodness import goodness\n\nclass FF:\n    pass\n",
    "lit_fa/networks/__init__.py": "from lit_fa.networks import mlp, lenet\n",
    "lit_fa/networks/mlp.py": "def mlp():\n    pass\n",
    "lit_fa/networks/lenet.py": "def lenet():\n    pass\n",
    "datamodules/__init__.py": "",
    "callbacks/__init__.py": "",
}
CONFIG = {"model": {"init_args": {"rule": {"class_path": "lit_fa.rules.FA"}, "network": "mlp"}}}


@pytest.fixture
def project(tmp_path_factory, monkeypatch):
    """A package of two rules and two networks in a repository of its own, taken for ours."""
    root = tmp_path_factory.mktemp("project")
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-qm", "first")
    for module in (provenance, stale):
        monkeypatch.setattr(module, "ROOT", root)
    forget()  # the same files committed in the same second are the same commit
    return root


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def edited(root, name, text):
    """Changes a file; what was read before is forgotten, as in a new process."""
    (root / name).write_text(text, encoding="utf-8")
    forget()


def forget():
    cached = (stale._touched, stale._changed_files, stale._different, stale._code_then, stale._code_now, stale._texts)
    for function in (*cached, closure._closure, closure._imported, closure._named, closure._tree):
        function.cache_clear()


def since(root, config=CONFIG, **record):
    return changed({"commit": git(root, "rev-parse", "HEAD"), "dirty": False, **record}, config)


@pytest.fixture(autouse=True)
def reach_of_the_project(monkeypatch, request):
    if "project" in request.fixturenames:
        root = request.getfixturevalue("project")
        monkeypatch.setattr(stale, "reached", lambda config: reached(config, root))


def test_a_config_reaches_its_rule_its_network_and_what_they_import_and_no_other(project):
    assert reached(CONFIG, project) == {"lit_fa/rules/fa.py", "lit_fa/functional/feedback.py", "lit_fa/networks/mlp.py"}


def test_unchanged_code_is_not_stale(project):
    assert since(project) == ()


@pytest.mark.parametrize("name", ["lit_fa/functional/feedback.py", "lit_fa/networks/mlp.py"])
def test_changed_code_that_the_run_reaches_is_named(project, name):
    edited(project, name, FILES[name] + "x = 1\n")
    assert since(project) == (name,)


@pytest.mark.parametrize("name", ["lit_fa/rules/ff.py", "lit_fa/functional/goodness.py", "lit_fa/networks/lenet.py"])
def test_changed_code_of_another_rule_or_network_makes_nothing_stale(project, name):
    edited(project, name, FILES[name] + "x = 1\n")
    assert since(project) == ()


def test_prose_makes_nothing_stale(project):
    text = FILES["lit_fa/rules/fa.py"].replace("class FA:", 'class FA:\n    """Feedback."""\n    # alignment')
    edited(project, "lit_fa/rules/fa.py", text)
    assert since(project) == ()


def test_a_part_that_was_made_by_other_code_is_seen_too(project):
    first = git(project, "rev-parse", "HEAD")
    edited(project, "lit_fa/rules/fa.py", FILES["lit_fa/rules/fa.py"] + "x = 1\n")
    git(project, "commit", "-qam", "second")
    assert since(project) == ()
    assert since(project, resumed_from=[first]) == ("lit_fa/rules/fa.py",)


@pytest.mark.parametrize("known", [{"commit": "unknown"}, {"commit": "0" * 40}, {"dirty": True}])
def test_without_a_clean_commit_the_hash_of_the_sources_decides(project, known, monkeypatch):
    monkeypatch.setattr(stale, "sources", lambda: "of today")
    assert since(project, **known, sources="of today") == ()
    assert since(project, **known, sources="of then") == ("the package's sources",)
    assert since(project, **known) == ()  # records of schema 1 cannot tell


def test_a_class_of_the_user_is_stale_when_its_source_has_changed(project, tmp_path, monkeypatch):
    (tmp_path / "my_own_rules.py").write_text("class Mine:\n    pass\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    noted = {"my_own_rules.Mine": f"my_own_rules {provenance.source_of('my_own_rules')}", "torch.optim.SGD": "torch 1"}
    assert since(project, outside=noted) == ()
    (tmp_path / "my_own_rules.py").write_text("class Mine:\n    x = 1\n", encoding="utf-8")
    assert since(project, outside=noted) == ("my_own_rules.Mine",)
    assert since(project, outside={"pytest.Item": "pytest 0.1"}) == ("pytest.Item",)


def test_every_command_tells_and_run_makes_them_again_when_asked(declared, save, fill, monkeypatch, capfd):
    path = save(declared)
    fill(path, "cpu", finished="then")
    monkeypatch.setattr(stale, "_changed", lambda record, _: ("lit_fa/a.py",) if record.get("finished") else ())
    told = "4 of 4 records are from code that has changed since: lit_fa/a.py"
    assert main(["run", str(path), "--scale", "cpu"], runner=RUNNER) == 0
    assert f"{told}; --stale runs them again" in capfd.readouterr().out
    assert main(["report", str(path), "--scale", "cpu", "--write", str(path.parent / "pages")]) == 0
    assert told in capfd.readouterr().out
    assert told in (path.parent / "pages" / "conservation.html").read_text(encoding="utf-8")
    main(["list", str(path)])
    assert "4 done, 0 missing, 4 stale" in " ".join(capfd.readouterr().out.split())
    assert main(["run", str(path), "--scale", "cpu", "--stale"], runner=RUNNER) == 0
    assert "4 runs finished, 0 failed" in capfd.readouterr().out
    data = [json.loads(f.read_text(encoding="utf-8")) for f in (path.parent / "results/table1/cpu").glob("*.json")]
    assert [entry["replaces"] for entry in data] == [{"commit": "abcdef01", "finished": "then"}] * 4
    table = load_table(path)
    assert stale_line(collect(table, table.scale("cpu"), path.parent / "results/table1/cpu")) == ""


def test_the_committed_tables_name_only_files_that_are_there(tmp_path):
    table = load_table(provenance.ROOT / "paper_configs" / "foundations" / "mnist_mlp.yaml")
    rules = {run.cell.row: reached(run.config) for run in expand(table, table.scale("cpu"))}
    assert all((provenance.ROOT / file).is_file() for files in rules.values() for file in files)
    assert all("lit_fa/modules/classifier.py" in files for files in rules.values())
    assert not any("lit_fa/rules/svd_space_alignment.py" in files for files in rules.values())
