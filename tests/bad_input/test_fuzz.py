"""Mutated table and sweep files, drawn by a seed, are read as what they say or refused in one line."""

import random
from pathlib import Path

import pytest
import yaml

from lit_fa.config.yaml_reader import dump, read_yaml
from lit_fa.spec.expand import expand
from lit_fa.spec.sweep import load_sweep
from lit_fa.spec.table import load_table
from tests.bad_input.conftest import SWEEP, TABLE, contents
from tests.bad_input.mutations import as_yaml, mutated

COMMITTED = Path(__file__).parents[2] / "paper_configs"
QUICK, LONG = range(200), range(200, 5000)


def table_of(path: str) -> list[tuple]:
    """What a table file stands for."""
    table = load_table(path)
    runs = [(run.id, run.seed) for scale in table.scales.values() for run in expand(table, scale)]
    return [(cell.id, cell.set, cell.published) for cell in table.cells] + runs


def sweep_of(path: str) -> list[tuple]:
    """What a sweep file stands for."""
    sweep = load_sweep(path)
    return [sweep.method, sweep.metric, [*sweep.parameters], sweep.configs, sweep.run_cap, sweep.halving]


def check(read, path: str, content: bytes) -> bool:
    """Whether the file is read; if so as the same file written out anew, if not in one line, and nothing is written."""
    Path(path).write_bytes(content)
    before = contents()
    try:
        first = read(path)
    except Exception as error:
        said = str(error) if getattr(error, "user_error", False) else ""
        if len(said.splitlines()) != 1 or len(said) > 2000 or contents() != before:
            raise AssertionError(f"{type(error).__name__} for {content!r}") from error
        return False
    content = yaml.safe_load(Path(path).read_text(encoding="utf-8")) if read is sweep_of else read_yaml(path)
    Path(path).write_text(dump(content), encoding="utf-8")  # to a sweep 1e-3 is text, as to W&B
    assert repr(read(path)) == repr(first)
    return True


def tries(data: dict, seeds: range, read, path: str) -> int:
    drawn = [random.Random(seed) for seed in seeds]
    return sum(check(read, path, as_yaml(mutated(data, draw), draw)) for draw in drawn)


def test_tables():
    assert 10 < tries(TABLE, QUICK, table_of, "t.yaml") < 150


def test_sweeps():
    assert 10 < tries(SWEEP, QUICK, sweep_of, "s.yaml") < 150


@pytest.mark.slow
def test_many_tables_and_sweeps():
    assert 0 < tries(TABLE, LONG, table_of, "t.yaml") < len(LONG)
    assert 0 < tries(SWEEP, LONG, sweep_of, "s.yaml") < len(LONG)


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(COMMITTED.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_committed_files(path):
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    read = sweep_of if "method" in data else table_of if "cells" in data or "grid" in data else None
    if read is None:
        pytest.skip("a base config")
    if read is table_of:
        Path(data["base"]).parent.mkdir(parents=True, exist_ok=True)
        Path(data["base"]).write_text((path.parent / data["base"]).read_text(encoding="utf-8"), encoding="utf-8")
    assert tries(data, range(100), read, "t.yaml") < 100  # `check` compares what is read; some must be refused
