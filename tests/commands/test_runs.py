"""Run records listed, filtered and laid side by side."""

import json

import pytest

from lit_fa.commands.runs import main
from lit_fa.errors import UserError


@pytest.fixture
def records(tmp_path):
    """Four records; row, seed and accuracy differ."""
    for row, base in (("FA", 90.0), ("BP", 95.0)):
        for seed in (0, 1):
            record = {
                "id": f"{row}{seed}", "row": row, "seed": seed, "status": "finished", "commit": "abcdef0123",
                "hardware": {"cpu": "a cpu"}, "metrics": {"test/accuracy": base + seed}, "curves": {},
            }  # fmt: skip
            (tmp_path / f"{row}{seed}.json").write_text(json.dumps(record))
    return tmp_path


def found(records, *arguments):
    assert main([str(records), *arguments, "--json", str(records / "out.txt")]) == 0
    return [run["id"] for run in json.loads((records / "out.txt").read_text())]


@pytest.mark.parametrize(
    ("arguments", "ids"),
    [
        ([], ["BP0", "BP1", "FA0", "FA1"]),
        (["--where", "row=FA"], ["FA0", "FA1"]),
        (["--where", "row!=FA", "--where", "seed=1"], ["BP1"]),
        (["--where", "test/accuracy>=91"], ["BP0", "BP1", "FA1"]),
        (["--where", "test/accuracy<91"], ["FA0"]),
        (["--where", "commit=abcdef"], ["BP0", "BP1", "FA0", "FA1"]),
        (["--where", "hardware.cpu=another"], []),
        (["--sort", "test/accuracy"], ["FA0", "FA1", "BP0", "BP1"]),
    ],
)
def test_runs_are_chosen_and_ordered_by_fields_and_metrics(records, arguments, ids):
    assert found(records, *arguments) == ids


def test_a_half_written_record_is_named_and_skipped(records, capsys):
    (records / "FA0.json").write_text('{"id": "FA0", "met')
    assert found(records) == ["BP0", "BP1", "FA1"]
    assert "FA0.json: half-written or not JSON" in capsys.readouterr().out


def test_other_json_is_no_record(records):
    (records / "outcome.json").write_text('[{"status": "finished"}]')
    assert len(found(records)) == 4


def test_runs_side_by_side_show_what_differs(records, capsys):
    assert main([str(records), "--compare", "--where", "seed=0"]) == 0
    shown = capsys.readouterr().out
    assert [word in shown for word in ("row", "test/accuracy", "hardware.cpu", "commit")] == [True, True, False, False]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--metric", "test/acuracy"], "no run has a field or metric 'test/acuracy'; nearest: test/accuracy"),
        (["--where", "rwo=FA"], "nearest: row"),
        (["--where", "row"], "write key=value"),
        (["--where", "row>FA"], "'FA' is no number"),
        (["--compare", "--where", "row=none"], "2 to 8 runs side by side, not 0"),
    ],
)
def test_a_wrong_argument_is_one_line(records, arguments, says):
    with pytest.raises(UserError, match=says):
        main([str(records), *arguments])


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such file or folder"):
        main([str(tmp_path / "nowhere")])
