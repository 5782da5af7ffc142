"""Records as pandas frames."""

import json
import math
import subprocess
import sys

import pytest

from lit_fa.errors import UserError
from lit_fa.results import frame
from lit_fa.results.records import collect
from lit_fa.spec.table import load_table

COLUMNS = ["table", "cell", "row", "column", "seed", "scale", "status", "commit", "metric", "at", "value", "path"]


@pytest.fixture
def table(declared, save, fill):
    """A table with records at two scales; one run diverged, and one has a number that was not finite."""
    declared["also"] = [{"name": "conserve/normalised", "unit": "1", "at": "best", "better": "lower"}]
    path = save(declared)
    fill(path, "cpu")
    first, second, *_ = fill(path, "full")
    first.write_text(json.dumps(json.loads(first.read_text()) | {"status": "diverged", "diverged": {"step": 3}}))
    second.write_text(json.dumps(json.loads(second.read_text()) | {"metrics": {"test/accuracy": None}}))
    return path


def test_a_table_has_every_number_of_every_run_of_its_scales(table):
    found = frame(table)
    assert list(found.columns) == COLUMNS
    assert set(found.scale) == {"cpu", "full"}
    # FA and BP with two seeds at scale cpu and three at full: accuracy and the best point of the curve, and losses
    assert found.groupby("metric").size().to_dict() == {"conserve/normalised": 10, "test/accuracy": 10, "test/loss": 9}
    full = found[(found.metric == "test/accuracy") & (found.scale == "full")]
    assert full[full.cell == "FA|width 32"].value.tolist() == [90.0, 91.0, 92.0]
    assert found[found.metric == "conserve/normalised"]["at"].unique().tolist() == ["best"]


def test_a_table_under_a_protocol_has_the_runs_of_that_protocol(table, fill):
    fill(table, "full-converged", accuracy=lambda run: 80.0)
    of_protocol = frame(load_table(table).under("converged"))
    assert set(of_protocol[of_protocol.metric == "test/accuracy"].value) == {80.0}
    assert 80.0 not in frame(table).value.tolist()


def test_diverged_runs_and_numbers_that_were_not_finite_are_marked(table):
    found = frame(load_table(table))
    assert sorted(found[found.status == "diverged"].metric) == ["conserve/normalised", "test/accuracy", "test/loss"]
    assert math.isnan(found[found.value.isna()].value.item())


def test_a_folder_a_record_and_collected_records_are_frames_as_well(table):
    loaded = load_table(table)
    folder = table.parent / "results" / "table1" / "full"
    collected = collect(loaded, loaded.scale("full"), folder)
    of_folder = frame(folder)
    assert len(of_folder) == 11  # final metrics of six runs
    assert frame(collected).value.sum() == frame(table).query("scale == 'full'").value.sum()
    assert len(frame(sorted(folder.glob("*.json"))[0])) == 2
    assert list(frame(collected.ended).metric.unique()) == ["test/accuracy", "test/loss"]
    assert list(frame([]).columns) == COLUMNS


def test_a_source_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        frame(tmp_path / "none")


def test_pandas_is_imported_only_for_a_frame():
    code = (
        "import sys, lit_fa.results, lit_fa.reports.report, lit_fa.commands.table, lit_fa.commands.runs;"
        "print([name for name in ('pandas', 'scipy', 'matplotlib', 'jinja2', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
