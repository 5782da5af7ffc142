"""Published numbers are counted once, at the paper's own scale, by the best of their readings."""

import json

import pytest

from lit_fa.commands.table import main
from lit_fa.results.settled import State, settled
from lit_fa.spec.table import load_table

PRINTED = {"value": 91.0, "unit": "%", "exact": True}


def counts(declared, save, fill, values, **fields):
    """The counts of a table whose cell i has the given three values; None: it has not run."""
    declared["cells"] = [
        {"row": f"r{i}", "set": {"model.init_args.width": i}, "published": PRINTED, **fields}
        for i, _ in enumerate(values)
    ]
    path = save(declared)
    for file in fill(path, "full", accuracy=lambda run: (values[int(run.cell.row[1])] or [0] * 3)[run.seed]):
        if values[int(json.loads(file.read_text())["row"][1])] is None:
            file.unlink()
    return settled(load_table(path)).counts


AGREE, DIFFER, SPREAD = [90.9, 91.0, 91.1], [80.9, 81.0, 81.1], [90.0, 91.0, 92.0]


def test_every_number_has_one_state(declared, save, fill):
    found = counts(declared, save, fill, [AGREE, DIFFER, SPREAD, None, AGREE])
    assert found == {State.AGREED: 2, State.REFUTED: 1, State.UNDECIDED: 1, State.NOT_RUN: 1}


@pytest.mark.parametrize(
    ("values", "state"),
    [
        ([DIFFER, AGREE], State.AGREED),
        ([DIFFER, SPREAD], State.UNDECIDED),
        ([DIFFER, None], State.REFUTED),
        ([AGREE, None], State.AGREED),
        ([None, None], State.NOT_RUN),
        ([DIFFER, DIFFER], State.REFUTED),
    ],
)
def test_a_number_is_refuted_only_if_all_readings_that_have_run_are(declared, save, fill, values, state):
    assert counts(declared, save, fill, values, reading_of="FA") == {state: 1}


def test_runs_at_a_reduced_scale_settle_nothing(declared, save, fill):
    path = save(declared)
    fill(path, "cpu")
    assert settled(load_table(path)).counts == {State.NOT_RUN: 1}


def test_the_command_prints_and_writes_the_counts(declared, save, fill, tmp_path, capsys):
    counts(declared, save, fill, [AGREE, None])
    card, out = tmp_path / "README.md", tmp_path / "counts.json"
    card.write_text("# Results\n\n<!-- table:published:begin -->\n<!-- table:published:end -->\n")
    words = ["published", str(tmp_path / "table1.yaml"), "--card", str(card), "--json", str(out)]
    assert main(words) == 0
    assert "not run" in capsys.readouterr().out
    assert "**2 published numbers are declared: 1 agreed, 1 not run.**" in card.read_text()
    assert json.loads(out.read_text())[0]["agreed"] == 1


def test_a_card_without_markers_is_refused(declared, save, tmp_path):
    card = tmp_path / "README.md"
    card.write_text("# Results\n")
    with pytest.raises(ValueError, match="add the two lines <!-- table:published:begin -->"):
        main(["published", str(save(declared)), "--card", str(card)])
