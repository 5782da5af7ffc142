"""Every committed table expands, runs at scale smoke, and every card shows what the records say."""

import copy
import json
from functools import cache
from pathlib import Path

import pytest

from lit_fa import experiment
from lit_fa.commands.table import main
from lit_fa.jobs.pool import missing_jobs
from lit_fa.reports.card import is_stale, read_block
from lit_fa.results.records import collect
from lit_fa.spec.expand import expand
from lit_fa.spec.output_paths import places, tree_of
from lit_fa.spec.table import load_table

ROOT = Path(__file__).parents[2]
FILES = sorted(p for p in (ROOT / "paper_configs").glob("*/*.yaml") if not p.stem.endswith("base"))
TABLES = [path for path in FILES if not path.stem.startswith("sweep_")]
# a small network of the same make: the factors of VGG-13 alone take seconds
NARROW = {"vgg13_cifar": "conv3_32_64_128", "vgg13_bn": "conv3_32_64_128"}


def tables() -> list:
    return [pytest.param(path, id=f"{path.parent.name}/{path.stem}") for path in TABLES]


@pytest.mark.parametrize("path", tables())
def test_every_scale_expands_to_runs_of_their_own(path):
    table = load_table(path)
    for name in table.scales:
        runs = expand(table, table.scale(name))
        assert runs
        assert name == "smoke" or len({run.id for run in runs}) == len(runs)


@pytest.mark.parametrize("path", tables())
def test_a_cell_of_every_kind_runs_at_scale_smoke(path, tmp_path, monkeypatch):
    def choose(jobs):
        return [job for job in jobs if job.run.id in first_of_their_kind()[path]] or jobs[:1]

    runs_at_scale_smoke(path, tmp_path, monkeypatch, choose, narrow)


@pytest.mark.slow  # 200 cells, VGG-13 among them
@pytest.mark.parametrize("path", tables())
def test_every_cell_runs_at_scale_smoke(path, tmp_path, monkeypatch):
    runs_at_scale_smoke(path, tmp_path, monkeypatch, lambda jobs: jobs, lambda config: config)


def runs_at_scale_smoke(path, tmp_path, monkeypatch, choose, changed):
    """In this process: `table run` and its workers are tested elsewhere, and workers cost seconds."""
    if path.stem == "privacy":
        pytest.importorskip("opacus", reason="pip install 'lit-fa[privacy]'")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIT_FA_CACHE", str(tmp_path / "cache"))
    table = load_table(path)
    runs, tree = expand(table, table.scale("smoke")), tree_of(table)
    where = places(table, "smoke", tree, out=tmp_path / "records", allow_dirty=True)
    where.target.mkdir(parents=True)
    jobs = missing_jobs(table, runs, where, tree)[0]
    chosen = choose(jobs)
    for job in chosen:
        experiment.run(changed(job.run.config), job.record)
    found = collect(table, table.scale("smoke"), where.target)
    assert len(found.missing) == len(jobs) - len(chosen)
    assert not found.problems
    assert main(["report", str(path), "--scale", "smoke", "--out", str(tmp_path / "records")]) == 0


@cache
def first_of_their_kind() -> dict[Path, set[str]]:
    """Table to the runs whose models differ by more than numbers from those of every run before, in all tables."""
    kinds, found = set(), {}
    for path in TABLES:
        table = load_table(path)
        found[path] = set()
        for run in expand(table, table.scale("smoke")):
            config = narrow(run.config)
            models = [without_numbers(config.get(part)) for part in ("model", "pretrain")]
            kind = json.dumps(models, sort_keys=True)
            if kind not in kinds:
                kinds.add(kind)
                found[path].add(run.id)
    return found


def narrow(config: dict) -> dict:
    """The config with a network that is soon factorised."""
    config = copy.deepcopy(config)
    options = config["model"]["init_args"]
    options["network"] = NARROW.get(options["network"], options["network"])
    return config


def without_numbers(value):
    if isinstance(value, dict):
        return {key: without_numbers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_numbers(inner) for inner in value]
    return None if isinstance(value, (int, float)) and not isinstance(value, bool) else value


@pytest.mark.parametrize("path", tables())
def test_the_card_shows_what_the_records_say(path):
    for card in (path.parent / "README.md", ROOT / "README.md"):
        if read_block(card, path.stem) is not None:
            assert not is_stale(path, card), f"lit-fa table report {path.relative_to(ROOT)} --card {card.name}"
