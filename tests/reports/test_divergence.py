"""Runs that diverged: told everywhere, a value nowhere."""

import json

import pytest

from lit_fa.commands.table import main
from lit_fa.reports.figures import mean_curve
from lit_fa.reports.formats import comma_separated, markdown
from lit_fa.reports.rows import paired_difference
from lit_fa.results.compare import compare
from lit_fa.results.records import collect
from lit_fa.results.verdict import Kind
from lit_fa.spec.table import load_table

LOST = {"status": "diverged", "diverged": {"step": 40, "first": "the output of head"}}


@pytest.fixture
def with_lost(declared, save, fill):
    """A table at full scale with three seeds, of which FA has lost some."""

    def write(*seeds, remove=(), **changes):
        path = save(declared | changes)
        for file in fill(path, "full"):
            data = json.loads(file.read_text(encoding="utf-8"))
            if data["row"] == "FA" and data["seed"] in seeds:
                file.write_text(json.dumps(data | LOST), encoding="utf-8")
            if data["row"] == "FA" and data["seed"] in remove:
                file.unlink()
        table = load_table(path)
        collected = collect(table, table.scale("full"), path.parent / "results" / table.name / "full")
        return collected, compare(collected), path

    return write


def test_a_mean_over_survivors_is_flagged_and_takes_in_no_diverged_value(with_lost):
    collected, (fa, _), _ = with_lost(2)
    assert fa.summary.values == (90.0, 91.0)
    assert (fa.kind, fa.verdict.kind, fa.counts.diverged) == (Kind.FAILED, Kind.UNDECIDED, 1)
    assert collected.missing == ()
    assert "2 of 3" in markdown(collected, [fa])


def test_a_cell_whose_runs_all_diverged_has_failed_and_is_not_missing(with_lost):
    _, (fa, bp), _ = with_lost(0, 1, 2)
    assert (fa.counts.diverged, fa.summary.n, fa.kind) == (3, 0, Kind.FAILED)
    assert bp.counts.diverged == 0


def test_diverged_runs_and_missing_runs_are_counted_apart(with_lost):
    _, (fa, _), _ = with_lost(0, 1, remove=(2,))
    assert (fa.counts.expected, fa.counts.diverged, fa.counts.finished) == (3, 2, 0)


def test_every_text_names_the_seed_the_step_and_the_layer(with_lost, capfd):
    collected, compared, path = with_lost(1)
    told = "diverged: FA, width 32, seed 1 at step 40 (the output of head)"
    assert f"* {told}" in markdown(collected, compared)
    assert "seeds: 0, 1, 2; 5 of 6 runs finished" in markdown(collected, compared)
    assert main(["report", str(path), "--scale", "full", "--write", str(path.parent / "pages")]) == 0
    page = (path.parent / "pages" / "conservation.html").read_text(encoding="utf-8")
    assert "diverged at step 40 (the output of head)" in page
    assert "5 of 6, 1 diverged" in page
    assert "seed 1: not run" not in page
    header, *lines = comma_separated(collected, compared).splitlines()
    assert next(line.split(",")[header.split(",").index("diverged")] for line in lines) == "1"


def test_a_lost_seed_has_no_paired_difference(declared, with_lost):
    declared["cells"][1]["paired_with"] = "FA"
    _, (_, bp), _ = with_lost(2)
    assert bp.paired.n == 2
    assert paired_difference(bp).endswith("to FA, n 2, 1 lost to divergence (p 1, Holm 1)")


def test_no_curve_takes_in_a_diverged_run(with_lost):
    collected, (fa, _), _ = with_lost(0, 1, 2)
    assert mean_curve(collected.of(fa.cell), "conserve/normalised", "step") == []


def test_watching_and_listing_count_a_diverged_run_as_done(with_lost, capfd):
    _, _, path = with_lost(2)
    assert main(["watch", str(path), "--scale", "full"]) == 0
    assert "3/3, 1 diverged" in capfd.readouterr().out
    assert main(["list", str(path), "--json", str(path.parent / "list.json")]) == 0
    assert "6 done, 0 missing, 1 diverged" in " ".join(capfd.readouterr().out.split())
    counts = json.loads((path.parent / "list.json").read_text(encoding="utf-8"))["tables"][0]["scales"]["full"]
    assert counts["done"] == 6
    assert (counts["missing"], counts["diverged"]) == (0, 1)
