"""Every committed table expands, runs at scale smoke, and every card shows what the records say."""

import copy
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from lit_fa import experiment
from lit_fa.commands.table import main
from lit_fa.commands.table_jobs import missing_jobs
from lit_fa.reports.card import is_stale, read_block
from lit_fa.results.records import collect
from lit_fa.spec.expand import expand
from lit_fa.spec.output_paths import output_paths, tree_of
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
def test_every_scale_declares_its_cost(path):
    for scale in load_table(path).scales.values():
        assert scale.cost is not None, scale.name
        hours = scale.cost.gpu_hours if scale.cost.device == "gpu" else scale.cost.cpu_hours
        assert hours
        assert scale.cost.memory_gib


@pytest.mark.parametrize("path", tables())
def test_every_class_and_network_runs_at_scale_smoke(path, tmp_path, monkeypatch):
    def choose(jobs):
        return [job for job in jobs if job.record["id"] in first_to_choose(is_class_or_network)[path]]

    runs_at_scale_smoke(path, tmp_path, monkeypatch, choose, narrow)


@pytest.mark.parametrize("path", tables())
def test_a_model_is_built_for_every_choice_of_an_option(path):
    table = load_table(path)
    built = first_to_choose(is_any)[path] - first_to_choose(is_class_or_network)[path]
    for cell in expand(table, table.scale("smoke")):
        if cell.id in built:
            config = narrow(cell.config)
            config.pop("pretrain", None)  # which would be trained
            built.remove(cell.id)
            assert experiment.build(config).model.rule is not None
    assert not built


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
    where = output_paths(table, "smoke", tree, out=tmp_path / "records", allow_dirty=True)
    where.target.mkdir(parents=True)
    jobs = missing_jobs(table, runs, where, tree)[0]
    chosen = choose(jobs)
    for job in chosen:
        experiment.run(changed(job.config), job.record)
    found = collect(table, table.scale("smoke"), where.target)
    assert len(found.missing) == len(jobs) - len(chosen)
    assert not found.problems
    if chosen:
        assert main(["report", str(path), "--scale", "smoke", "--out", str(tmp_path / "records")]) == 0


@cache
def first_to_choose(counts: Callable[[str], bool]) -> dict[Path, set[str]]:
    """Table to the runs that are the first, in all tables, to make some choice of model, data or pretraining.

    Combinations of choices are many; `test_every_cell_runs_at_scale_smoke` runs them all.

    Args:
        counts: whether an option, such as `lit_fa.rules.FLFA.layers`, is one of the choices.
    """
    seen, first = set(), {}
    for path in TABLES:
        first[path] = set()
        for run, made in choices_at_scale_smoke(path):
            made = {choice for choice in made if counts(choice[0])}
            if made - seen:
                first[path].add(run)
            seen |= made
    return first


def is_any(_: str) -> bool:
    return True


def is_class_or_network(option: str) -> bool:
    return option.endswith((".class_path", ".network"))


@cache
def choices_at_scale_smoke(path: Path) -> list[tuple[str, set]]:
    """Run and its choices, for every run of a table."""
    table = load_table(path)
    configs = [(run.id, narrow(run.config)) for run in expand(table, table.scale("smoke"))]
    parts = ("model", "data", "pretrain")
    return [(run, {choice for part in parts for choice in choices(config.get(part), part)}) for run, config in configs]


def narrow(config: dict) -> dict:
    """The config with a network that is soon factorised."""
    config = copy.deepcopy(config)
    options = config["model"]["init_args"]
    options["network"] = NARROW.get(options["network"], options["network"])
    return config


def choices(value: object, key: str) -> Iterator[tuple[str, object]]:
    """(option of its class, choice) for everything in a config that is chosen, not counted or measured."""
    if isinstance(value, dict):
        owner = str(value.get("class_path", key))
        for name, inner in value.items():
            yield from choices(inner, owner if name == "init_args" else f"{owner}.{name}")
    elif isinstance(value, list):
        for inner in value:
            yield from choices(inner, key)
    elif isinstance(value, bool | str | None):
        yield key, value


@pytest.mark.parametrize("path", tables())
def test_the_card_shows_what_the_records_say(path):
    for card in (path.parent / "README.md", ROOT / "README.md"):
        if read_block(card, path.stem) is not None:
            assert not is_stale(path, card), f"lit-fa table report {path.relative_to(ROOT)} --card {card.name}"
