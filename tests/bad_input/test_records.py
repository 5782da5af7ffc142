"""Mutated records, drawn by a seed: named and left out, or read; the report of the rest stands."""

import json
import random
from pathlib import Path

import pytest

from lit_fa.__main__ import main
from lit_fa.spec.expand import expand
from lit_fa.spec.output_paths import output_paths, tree_of
from lit_fa.spec.table import load_table
from tests.bad_input.mutations import mutated
from tests.fake_runner import record_of

QUICK, LONG = range(60), range(60, 1500)
HEAD = {"table": "table", "scale": "full", "commit": "a" * 40, "dirty": False, "sources": "b" * 16, "host": "h"}


def records() -> list[tuple[Path, dict]]:
    table = load_table("table.yaml")
    folder = output_paths(table, "full", tree_of(table), out=Path("results")).results
    folder.mkdir(parents=True)
    made = []
    for run in expand(table, table.scales["full"]):
        head = HEAD | {"id": run.id, "seed": run.seed, "row": run.cell.row, "column": run.cell.column}
        made.append((folder / run.file_name, record_of(head, run.config)))
    return made


def content(record: dict, draw: random.Random) -> bytes:
    """The record changed, as text that is now and then cut or of other bytes."""
    text = json.dumps(mutated(record, draw), default=str).encode("utf-8", "replace")
    how, at = draw.choice(("", "", "", "cut", "bytes")), draw.randrange(len(text) + 1)
    return {"": text, "cut": text[:at], "bytes": text[:at] + draw.randbytes(2) + text[at:]}[how]


def check(seeds: range, capsys) -> None:
    (first, record), *others = records()
    for path, other in others:
        path.write_text(json.dumps(other))
    for seed in seeds:
        draw = random.Random(seed)
        first.write_bytes(content(record, draw))
        for command in (("table", "report"), ("table", "list")):
            words = [*command, "table.yaml", *(("--out", "results") if command[1] == "report" else ())]
            assert main(words) == 0, (seed, first.read_bytes(), capsys.readouterr().err)
        said = capsys.readouterr().out
        assert "not run" not in said.split("table.yaml")[0], said  # the other seed's record counts


def test_a_record_of_a_table(capsys):
    check(QUICK, capsys)


@pytest.mark.slow
def test_many_records_of_a_table(capsys):
    check(LONG, capsys)
