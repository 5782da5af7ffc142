"""`--protocol converged`: records, reports and lines of their own, and verdicts for the paper's protocol only."""

import json
import os
import re
from pathlib import Path

import pytest

from lit_fa.commands.table import main
from lit_fa.results.compare import compare
from lit_fa.results.records import collect
from lit_fa.results.settled import State, settled
from lit_fa.results.verdict import Kind, Reason
from lit_fa.spec.expand import expand
from lit_fa.spec.table import load_table
from tests.fake_runner import record_of

RUNNER = "tests.fake_runner:run"
CONVERGED = ["--protocol", "converged"]


@pytest.fixture
def table(declared, save, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return save(declared).relative_to(tmp_path)


def test_converged_runs_have_a_folder_of_their_own(table, capsys):
    assert main(["run", str(table), *CONVERGED, "--seeds", "0"], runner=RUNNER) == 0
    records = [json.loads(file.read_text()) for file in Path("results/table1/cpu-converged").glob("*.json")]
    assert {(record["scale"], record["protocol"]) for record in records} == {("cpu", "converged")}
    assert len(records) == 2
    assert not Path("results/table1/cpu").exists()
    capsys.readouterr()
    assert main(["report", str(table), *CONVERGED, "--format", "md"]) == 0
    said = capsys.readouterr().out
    assert "<!-- scale: cpu-converged -->" in said
    assert "protocol: converged: early stopping after 10 validations without a better val/accuracy" in said
    assert "2 of 4 runs finished" in said


def test_an_emitted_line_names_the_protocol(table, capsys):
    assert main(["emit", str(table), *CONVERGED, "--slurm"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if " table run " in line]
    assert len(lines) == 4
    assert all("--scale cpu --protocol converged --id " in line for line in lines)


def test_records_of_another_protocol_are_named_where_a_scale_has_none(table, capsys):
    assert main(["run", str(table), "--scale", "cpu", *CONVERGED], runner=RUNNER) == 0
    capsys.readouterr()
    assert main(["verify", str(table), "--scale", "full", "--sample", "1"]) == 2
    assert "no record at scale full; give --scale cpu --protocol converged, which has some" in capsys.readouterr().out
    assert main(["report", str(table), "--scale", "cpu"]) == 0
    assert "no record at scale cpu, but with --scale cpu --protocol converged" in capsys.readouterr().out
    assert main(["report", str(table), "--scale", "full", *CONVERGED]) == 0
    assert "no record at scale full-converged, but with --scale cpu\n" in capsys.readouterr().out


def test_the_list_counts_converged_runs(table, tmp_path, capfd):
    assert main(["run", str(table), "--scale", "cpu", *CONVERGED], runner=RUNNER) == 0
    assert main(["list", str(table), "--json", str(tmp_path / "list.json")]) == 0
    assert re.search(r"\d+ done, 0 missing\s*│?\s*\(converged\)", capfd.readouterr().out) is not None
    scales = json.loads((tmp_path / "list.json").read_text())["tables"][0]["scales"]
    assert scales["cpu"]["converged"]["missing"] == scales["cpu"]["done"] == 0
    assert "converged" not in scales["full"]


@pytest.mark.parametrize(("published", "protocol"), [("matched", "matched"), ("converged", "converged")])
def test_only_the_papers_protocol_has_a_verdict(declared, save, published, protocol):
    if published == "converged":
        declared["cells"][0]["published"]["protocol"] = published
    path = save(declared)
    for run_under in ("matched", "converged"):
        under = load_table(path).under(run_under)
        scale = under.scale("full")
        folder = path.parent / "results" / "table1" / scale.label
        os.makedirs(folder)
        for run in expand(under, scale):
            head = {"id": run.id, "seed": run.seed, "row": run.cell.row, "column": run.cell.column}
            metrics = {"test/accuracy": 91.0 + run.seed / 100}
            (folder / run.file_name).write_text(json.dumps(record_of(head, run.config, metrics=metrics)))
        verdict = compare(collect(under, scale, folder))[0].verdict
        assert (verdict.kind, verdict.reason) == (
            (Kind.AGREES, None) if run_under == protocol else (Kind.OPEN, Reason.OTHER_END)
        )
    assert settled(load_table(path)).counts == {State.AGREED: 1}
