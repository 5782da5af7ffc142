"""benchmarks.table --against: the same runs at two commits, each in a new process."""

from pathlib import Path

import pytest

from benchmarks.table import ROOT, checked_out, in_turns
from benchmarks.worker_time import PARTS
from lit_fa.spec.expand import expand
from lit_fa.spec.table import load_table


def test_an_unknown_revision_is_one_line():
    with pytest.raises(SystemExit, match=r"--against no-such-commit: .*no-such-commit"), checked_out("no-such-commit"):
        pass


@pytest.mark.slow  # two processes import torch and train
def test_runs_that_take_turns_have_equal_records_and_seconds_for_every_part():
    table = load_table(Path(ROOT) / "paper_configs/conservation/digits.yaml")
    runs = expand(table, table.scale("smoke"))[:2]
    for run in runs:
        run.config["trainer"]["max_epochs"] = 1
    found = in_turns(runs, {"before": (ROOT, 1), "packed": (ROOT, 0)}, rounds=1)
    assert all(one["equal"] and one["run_s"] > 0 and one["first_s"] > 0 for one in found.values())
    assert set(found["packed"]["parts_s"]) == {*PARTS} - {"import"}
    assert sum(found["packed"]["parts_s"].values()) <= 1.1 * found["packed"]["run_s"] + 0.1
