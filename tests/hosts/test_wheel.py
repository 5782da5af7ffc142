"""A wheel, made from the source distribution, in an environment of its own, used from other folders."""

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from lit_fa.reports.listing import find_tables

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
MINE = """
import lightning as L

class Mine(L.Callback):
    def on_fit_end(self, trainer, module):
        print("the user's callback")
"""
BACKEND = "import sys; from setuptools import build_meta; print(build_meta.build_sdist(sys.argv[1]))"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The source distribution, and the wheel that is made from it."""
    made = tmp_path_factory.mktemp("dist")
    clone, environment = made / "clone", os.environ | {"PYTHONPATH": ""}
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    subprocess.run(
        [sys.executable, "-c", BACKEND, str(made)], cwd=clone, env=environment, check=True, capture_output=True
    )
    (source,) = made.glob("*.tar.gz")
    words = [
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        str(made),
        str(source),
    ]
    subprocess.run([sys.executable, *words], env=environment, check=True)
    (wheel,) = made.glob("*.whl")
    return source, wheel


@pytest.fixture(scope="module")
def installed(files, tmp_path_factory):
    """The commands of an environment with the wheel; its dependencies are those of the present environment."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    packages = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    Path(packages, "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n", encoding="utf-8")
    words = ["--python", str(folder), "install", "-q", "--no-deps", "--no-index", "--ignore-installed", str(files[1])]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True)
    return folder / "bin"


@pytest.fixture
def run(installed, tmp_path):
    """Call a program of the environment in an empty folder, without the repository on the path."""

    def call(*words, code=0):
        environment = {"PATH": f"{installed}:/usr/bin:/bin", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
        program = [str(installed / words[0]), *words[1:]]
        done = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    return call


def test_the_wheel_holds_one_package_with_the_tables_and_no_folder_of_the_top_level(files):
    with zipfile.ZipFile(files[1]) as wheel:
        names = wheel.namelist()
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"lit_fa", next(top for top in tops if top.endswith(".dist-info"))}
    tracked = subprocess.run(["git", "-C", str(ROOT), "ls-files"], check=True, capture_output=True, text=True).stdout
    expected = [
        name if name.startswith("lit_fa/") else f"lit_fa/{name}"
        for name in tracked.splitlines()
        if name.startswith(("lit_fa/", "callbacks/", "datamodules/", "paper_configs/"))
        and not name.endswith(".png")
        and not (ROOT / name).is_symlink()
    ]
    assert sorted({*expected} - {*names}) == []


def test_the_source_distribution_has_files_in_place_of_links(files):
    with tarfile.open(files[0]) as source:
        assert not [member.name for member in source if member.issym()]


def test_python_imports_the_installed_package(run, installed):
    shown = run(
        "python", "-c", "import lit_fa, lit_fa.callbacks as c, lit_fa.datamodules as d; print(c.__file__, d.__file__)"
    )
    assert all(Path(file).is_relative_to(installed.parent) for file in shown.split())


def test_tables_are_listed_and_reported_from_any_folder(run, tmp_path):
    run("lit-fa", "table", "list", "--json", "list.json")
    listed = json.loads((tmp_path / "list.json").read_text(encoding="utf-8"))["tables"]
    assert len(listed) == len(find_tables(ROOT / "paper_configs"))
    command = "lit-fa table run paper_configs/conservation/rates.yaml --scale cpu"
    assert command in run("lit-fa", "table", "report", "paper_configs/conservation/rates.yaml", "--format", "md")
    assert "0 to run" in run(*command.split(), "--dry-run")


def test_a_shipped_table_runs_into_a_folder_of_the_user_and_never_into_the_package(run, tmp_path, installed):
    table = ("lit-fa", "table", "run", "paper_configs/conservation/digits.yaml")
    chosen = ("--scale", "cpu", "--only", "row=BP,column=width 32", "--seeds", "0")
    refused = run(*table, *chosen, "--stale", code=2)
    assert "--out" in refused
    assert refused.count("\n") <= 2
    run(*table, *chosen, "--out", "mine")
    assert len([*(tmp_path / "mine").rglob("*.json")]) == 1


def test_modules_of_the_user_with_the_packages_names_are_left_to_the_user(run, tmp_path):
    for name in ("callbacks", "datamodules"):
        (tmp_path / f"{name}.py").write_text(MINE, encoding="utf-8")
    words = ["--trainer.callbacks+=callbacks.Mine", "--trainer.callbacks+=callbacks.RunRecord"]
    words += ["--trainer.callbacks.path", "record.json", "--trainer.max_epochs", "1", "--data", "datamodules.Digits"]
    shown = run("lit-fa", "fit", "--config", "paper_configs/conservation/base.yaml", *words)
    assert "the user's callback" in shown
    config = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))["config"]
    assert config["data"]["class_path"] == "datamodules.Digits"
    assert "lit_fa.callbacks" not in json.dumps(config)
