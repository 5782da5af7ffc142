"""A submission of other people's records is checked as a whole before it is kept."""

import json

import pytest

from lit_fa.__main__ import main
from lit_fa.results.imported import load_submission
from lit_fa.spec.overrides import run_id

CONFIG = {"seed_everything": 3, "model": {"init_args": {"network": "mlp"}}, "data": "datamodules.MNIST"}


def record(**changes):
    return {
        "schema": 2,
        "id": run_id(CONFIG),
        "seed": 3,
        "status": "finished",
        "metrics": {"test/accuracy": 97.5},
        "curves": {},
        "config": CONFIG,
    } | changes


def submission(tmp_path, *records, **changes):
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps({"submission": "lab A", "from": "a group", "records": list(records)} | changes))
    return path


def test_a_submission_is_kept_with_its_digest_and_importing_it_again_changes_nothing(tmp_path, capsys):
    path, into = submission(tmp_path, record()), tmp_path / "imported"
    for _ in range(2):
        assert main(["results", "import", str(path), "--into", str(into)]) == 0
    kept = json.loads((into / "lab-A.json").read_text())
    assert kept["records"] == [record()]
    assert len(kept["sha256"]) == 64
    assert load_submission(into / "lab-A.json").author == "a group"


@pytest.mark.parametrize(
    ("records", "changes", "words"),
    [
        ([record(id="0" * 12)], {}, "contradicts its own config: its id"),
        ([record(seed=4)], {}, "contradicts its own config: its seed is 4, there 3"),
        ([record(config=CONFIG | {"trainer": {"max_epochs": 9}})], {}, "contradicts its own config"),
        ([record(config=None)], {}, "has no config"),
        ([record(schema=99)], {}, "schema 99 is not known"),
        ([record(status="running")], {}, "status is 'running'"),
        ([record(metrics={"test/accuracy": "97"})], {}, "not numbers"),
        ([record(hardware={"cores": "two"})], {}, "hardware.cores cannot be read"),
        ([record(), record()], {}, "is there twice"),
        ([], {}, "at least one record"),
        ([record()], {"from": ""}, "from is not one line"),
        ([record()], {"records": "none"}, "records is not a list"),
    ],
)
def test_a_wrong_submission_is_one_line_and_nothing_is_kept(tmp_path, capsys, records, changes, words):
    path, into = submission(tmp_path, *records, **changes), tmp_path / "imported"
    assert main(["results", "import", str(path), "--into", str(into)]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not into.exists()


def test_another_submission_of_the_same_name_is_refused(tmp_path, capsys):
    into = tmp_path / "imported"
    assert main(["results", "import", str(submission(tmp_path, record())), "--into", str(into)]) == 0
    other = submission(tmp_path, record(metrics={"test/accuracy": 50.0}))
    assert main(["results", "import", str(other), "--into", str(into)]) == 2
    assert "rename this one" in capsys.readouterr().err
    assert json.loads((into / "lab-A.json").read_text())["records"] == [record()]


def test_what_is_exported_can_be_imported(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(record()))
    words = ["--submission", "mine", "--from", "us", "--to", str(tmp_path / "mine.json")]
    assert main(["results", "export", str(tmp_path / "run.json"), *words]) == 0
    assert load_submission(tmp_path / "mine.json").records[0].data["metrics"] == {"test/accuracy": 97.5}


def test_the_record_of_a_tables_run_is_exported_with_the_id_of_its_whole_config(tmp_path):
    asked = "0123456789ab"  # of the config that the table asks for, without defaults
    data = record(id=asked, table="table1", row="FA", column="width 32")
    file = tmp_path / f"FA__width-32__seed3__{asked}.json"
    file.write_text(json.dumps(data))
    words = ["--submission", "mine", "--from", "us", "--to", str(tmp_path / "mine.json")]
    assert main(["results", "export", str(file), *words]) == 0
    (sent,) = load_submission(tmp_path / "mine.json").records
    assert (sent.data["id"], sent.data["id_of_table"]) == (run_id(CONFIG), asked)


def test_records_that_would_be_refused_are_not_exported(tmp_path, capsys):
    file = tmp_path / "FA__width-32__seed3__0123456789ab.json"
    file.write_text(json.dumps(record(id="0123456789ab", table="table1", row="BP", column="width 32")))
    words = ["--submission", "mine", "--from", "us", "--to", str(tmp_path / "mine.json")]
    assert main(["results", "export", str(file), *words]) == 2
    assert "its row, column, seed and id are those of BP__width-32__" in capsys.readouterr().err
    (tmp_path / "run.json").write_text(json.dumps(record()))
    assert main(["results", "export", *[str(tmp_path / "run.json")] * 2, *words]) == 2
    assert "is there twice" in capsys.readouterr().err


def test_a_record_without_its_config_is_not_exported(tmp_path, capsys):
    (tmp_path / "run.json").write_text(json.dumps(record(config=None)))
    words = ["--submission", "mine", "--from", "us", "--to", str(tmp_path / "mine.json")]
    assert main(["results", "export", str(tmp_path / "run.json"), *words]) == 2
    assert "has no config" in capsys.readouterr().err
    assert not (tmp_path / "mine.json").exists()
