"""Every margin is older than the runs that it judges, and the README counts the verdicts."""

from functools import cache
from pathlib import Path

import pytest
import yaml

from lit_fa.provenance import git
from lit_fa.reports.card import read_block
from lit_fa.reports.published import BLOCK, published_block
from lit_fa.results.records import collect
from lit_fa.results.settled import settled
from lit_fa.spec.output_paths import output_paths, tree_of
from lit_fa.spec.table import load_table

ROOT = Path(__file__).parents[2]
FILES = sorted(p for p in (ROOT / "paper_configs").glob("*/*.yaml") if not p.stem.endswith("base"))
TABLES = [path for path in FILES if not path.stem.startswith("sweep_")]
WITH_MARGIN = [path for path in TABLES if any(cell.accept for cell in load_table(path).cells)]


@cache
def margins_at(commit: str, path: Path) -> set[float]:
    """Every margin (earlier: floor) that the table had at a commit; empty if the commit is not in this clone."""
    text = git(ROOT, "show", f"{commit}:{path.relative_to(ROOT).as_posix()}")
    data = yaml.load(text, yaml.CSafeLoader) if text else {}
    entries = [
        data,
        *data.get("cells", []),
        *({"accept": a} for a in (data.get("grid") or {}).get("accept", {}).values()),
    ]
    declared = [entry["accept"] for entry in entries if entry.get("accept")]
    return {accept.get("margin", accept.get("floor")) for accept in declared}


@pytest.mark.parametrize("path", [pytest.param(p, id=f"{p.parent.name}/{p.stem}") for p in WITH_MARGIN])
def test_every_margin_was_committed_before_the_first_run_that_it_judges(path):
    table = load_table(path)
    collected = collect(table, table.scale("full"), output_paths(table, "full", tree_of(table)).results)
    for cell in collected.cells:
        for record in (*collected.of(cell), *collected.lost(cell)):
            declared = margins_at(record.data["commit"], path)
            if cell.accept and (cell.published or cell.published_difference) and declared:
                assert cell.accept.margin in declared, f"{record.path.name} is older than its margin"


def test_the_readme_counts_the_settled_numbers():
    found = [counted for counted in (settled(load_table(path)) for path in TABLES) if counted.declared]
    card = ROOT / "README.md"
    expected = published_block(found, card).replace(f"{ROOT.as_posix()}/", "")
    assert read_block(card, BLOCK) == expected, "lit-fa table published --card README.md"
