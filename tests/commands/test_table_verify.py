"""`table verify`: drawn records are run again by today's code, and every number is compared."""

import json
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lit_fa.__main__ import main as lit_fa
from lit_fa.commands.table import main
from lit_fa.jobs.pool import Job, Outcome, run_jobs
from lit_fa.jobs.worker import Done, work
from lit_fa.results.verification import Outcome as Verdict
from lit_fa.results.verification import Verified, add_verified, last_verified, read_verified
from lit_fa.spec.expand import expand
from lit_fa.spec.table import load_table
from tests.fake_runner import record_of

RUNNER = "tests.fake_runner:run"
POOL = "lit_fa.commands.table_verify.run_jobs"


@pytest.fixture
def table(declared, save) -> Path:
    """A table whose four runs at scale cpu have been run."""
    return with_records(save(declared))


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Run the jobs here, because a pool takes a second to start."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(POOL, lambda jobs, runner, **_: (Outcome(job, worked(job, runner)) for job in jobs))


def worked(job: Job, runner: str) -> Done:
    Path(job.record["path"]).parent.mkdir(parents=True, exist_ok=True)
    return work(runner, job.config, job.record, str(job.log))


def with_records(path: Path, commit: str = "unknown") -> Path:
    """The records that the runner writes for every run of a table."""
    table = load_table(path)
    for run in expand(table, table.scale("cpu")):
        head = {"id": run.id, "row": run.cell.row, "column": run.cell.column, "scale": "cpu", "seed": run.seed}
        file = path.parent / "results/table1/cpu" / run.file_name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(record_of(head | {"commit": commit, "dirty": False}, run.config)))
    return path


def records(path: Path) -> list[Path]:
    return sorted((path.parent / "results/table1/cpu").glob("*.json"))


def verify(path: Path, *words: str) -> tuple[int, list[dict]]:
    """The exit code, and the report as JSON."""
    report = path.parent / "report.json"
    code = main(["verify", str(path), "--scale", "cpu", "--json", str(report), *words], runner=RUNNER)
    return code, json.loads(report.read_text())


def edit(path: Path, **changes) -> None:
    data = json.loads(path.read_text())
    for name, value in changes.items():
        data[name] = data[name] | value if isinstance(value, dict) and name in data else value
    path.write_text(json.dumps({name: value for name, value in data.items() if value is not None}))


def other_id(path: Path, **changes) -> Path:
    """Changes a record's id, in the record and in the name of its file, and what else is given."""
    edit(path, id="gone", **changes)
    return path.rename(path.with_name(re.sub(r"__[0-9a-f]{12}\.json", "__gone.json", path.name)))


def reruns(path: Path) -> int:
    return len(list((path.parent / "scratch/verified").rglob("*.tries")))


def test_equal_records_are_noted_and_not_run_again_by_the_same_code(table, capsys, monkeypatch):
    monkeypatch.setattr(POOL, run_jobs)
    code, report = verify(table, "--sample", "3")
    assert (code, [entry["outcome"] for entry in report]) == (0, ["equal"] * 3)
    assert [entry["judged"] for entry in report] == ["bit for bit"] * 3
    assert last_verified(table.parent / "results/table1/cpu").text.endswith("commit unknown: 3 of 3 records equal")
    assert (verify(table, "--sample", "3")[0], reruns(table)) == (0, 3)
    assert "3 records drawn, 3 already run again by this code" in capsys.readouterr().out
    assert verify(table, "--sample", "9")[1][0]["config_from"] == "the record"
    assert len(last_verified(table.parent / "results/table1/cpu").records) == 4


def test_the_draw_depends_on_the_seed_alone(table):
    drawn = {seed: [e["record"] for e in verify(table, "--sample", "2", "--seed", seed)[1]] for seed in "01"}
    assert drawn["0"] == [e["record"] for e in verify(table, "--sample", "2", "--seed", "0")[1]]
    assert drawn["0"] != drawn["1"]


def test_the_cheapest_are_those_that_took_least_cpu_time_and_old_records_have_wall_time_alone(table):
    files = records(table)
    for file, seconds in zip(files, (30.0, 10.0, 20.0, 40.0), strict=True):
        edit(file, cpu_time_s=seconds, wall_time_s=1.0)
    edit(files[3], cpu_time_s=None, wall_time_s=5.0)
    names = [entry["record"] for entry in verify(table, "--sample", "2", "--cheapest")[1]]
    assert names == [f"cpu/{files[1].name}", f"cpu/{files[3].name}"]


def test_cheapest_and_a_seed_exclude_each_other(table):
    assert lit_fa(["table", "verify", str(table), "--cheapest", "--seed", "1"]) == 2


def test_a_record_that_was_tampered_with_differs(table, capsys):
    first = records(table)[0]
    edit(first, metrics={"test/accuracy": 99.5})
    code, report = verify(table, "--sample", "4", "--write", str(table.parent / "report.md"))
    (differing,) = (entry for entry in report if entry["outcome"] == "differs")
    assert (code, differing["record"]) == (1, f"cpu/{first.name}")
    assert [(d["metric"], d["recorded"], d["rerun"]) for d in differing["differences"]] == [("test/accuracy", 99.5, 90)]
    assert "3 of 4 records agree" in capsys.readouterr().out
    assert "test/accuracy: 99.5, now 90" in (table.parent / "report.md").read_text()
    assert not last_verified(table.parent / "results/table1/cpu").agrees


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"curves": {"conserve/normalised": [[0, 0, 0.5]]}}, "conserve/normalised (curve)"),
        ({"metrics": {"test/loss": float("nan")}}, "test/loss"),
        ({"status": "diverged", "diverged": {"step": 3}}, "status (diverged at step 3, now finished)"),
    ],
)
def test_every_kind_of_number_is_compared(table, change, name):
    edit(records(table)[0], **change)
    code, report = verify(table, "--sample", "4")
    assert (code, [d["metric"] for d in report[0]["differences"]]) == (1, [name])


@pytest.mark.parametrize(
    ("accuracy", "outcome", "code"), [(90.0, "equal", 0), (92.0, "within tolerance", 0), (94.0, "differs", 1)]
)
def test_on_another_machine_the_spread_of_the_seeds_is_the_tolerance(table, accuracy, outcome, code):
    edit(records(table)[0], hardware={"cpu": "another"}, metrics={"test/accuracy": accuracy})
    edit(records(table)[1], metrics={"test/accuracy": accuracy + 0.7})
    ended, report = verify(table, "--sample", "4")
    assert report[0]["elsewhere"] == ["cpu another, now a cpu"]
    assert report[0]["outcome"] == outcome
    if accuracy != 90.0:
        assert report[0]["differences"][0]["why"] == "4 x the deviation over seeds, 0.707"
        assert report[0]["differences"][0]["tolerance"] == pytest.approx(4 * 0.5**0.5)
    assert ended == 1  # the second record was tampered with on the same machine
    assert (not report[0]["outcome"].startswith("differs")) == (code == 0)


@pytest.mark.parametrize(
    ("processor", "line"),
    [
        ("another model", "processor another model, now a model"),
        (None, "the record does not say which model of processor"),
    ],
)
def test_a_processor_of_one_name_may_be_another_model_which_rounds_otherwise(table, processor, line):
    edit(records(table)[0], hardware={"processor": processor}, metrics={"test/accuracy": 90.0001})
    code, report = verify(table, "--sample", "4")
    assert report[0]["elsewhere"] == [line]
    assert (code, report[0]["outcome"]) == (0, "within tolerance")


def test_a_config_that_the_record_lacks_is_rebuilt_from_its_commit(declared, save, capsys):
    path = save(declared)
    git(path.parent, "init", "-q")
    git(path.parent, "add", ".")
    git(path.parent, "commit", "-qm", "first")
    with_records(path, git(path.parent, "rev-parse", "HEAD"))
    for record in records(path):
        edit(record, config=None)
    declared |= {"seeds": [5], "seeded": ["seed_everything"]}
    declared["scales"]["cpu"] = {"set": {"trainer.max_epochs": 3}}
    save(declared)
    git(path.parent, "commit", "-qam", "second")
    code, report = verify(path, "--sample", "4")
    assert (code, {entry["outcome"] for entry in report}) == (0, {"equal"})
    first = git(path.parent, "rev-parse", "HEAD~1")
    assert {entry["config_from"] for entry in report} == {f"the table at commit {first[:7]}"}


def test_a_commit_that_changes_no_code_leaves_finished_reruns_valid(declared, save, capsys):
    path = save(declared)
    git(path.parent, "init", "-q")
    git(path.parent, "add", ".")
    git(path.parent, "commit", "-qm", "first")
    with_records(path, git(path.parent, "rev-parse", "HEAD"))
    verify(path, "--sample", "4")
    git(path.parent, "add", "results")
    git(path.parent, "commit", "-qm", "records")
    assert (verify(path, "--sample", "4")[0], reruns(path)) == (0, 4)
    assert "4 records drawn, 4 already run again by this code" in capsys.readouterr().out


def test_a_rerun_whose_package_has_another_version_now_is_run_again(table, capsys):
    verify(table, "--sample", "4")
    first = next((table.parent / "scratch/verified").rglob("*.json"))
    edit(first, outside={"peft.LoraModel": "peft 0.0.1"})
    assert verify(table, "--sample", "4")[0] == 0
    assert "4 records drawn, 3 already run again by this code" in capsys.readouterr().out


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    return subprocess.run(
        ["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_without_a_known_commit_a_table_with_the_same_id_serves(table):
    edit(records(table)[0], config=None, commit="f" * 40)
    code, report = verify(table, "--sample", "4")
    assert (code, report[0]["config_from"]) == (0, "the table as it is now, which has a run of the same id")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"id": None}, "its row, column, seed and id are those of BP__width-32__seed0__None.json; remove it"),
        ({"row": "FA"}, "its row, column, seed and id are those of FA__width-32__seed0__"),
        ({"metrics": None, "curves": None}, "it has no numbers; remove it"),
        ({"config": {"trainer": [1]}}, r"its config cannot be read: trainer is \[1\]; run the table again"),
        ({"config": {"seed_everything": 7}}, "it contradicts its config: its seed is 0, there 7"),
        ({"config": 3}, "config cannot be read"),
        ({"schema": 99}, "schema 99 is not known here"),
        ({"status": "fitted"}, "status is 'fitted'"),
        ({"seed": None}, "it has no seed"),
    ],
)
def test_a_record_that_cannot_be_run_again_is_one_line_and_the_others_go_on(table, change, says, capsys):
    first = records(table)[0]
    edit(first, **change)
    code, report = verify(table, "--sample", "4")
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("left out: "))
    assert str(first) in line
    assert re.search(says, line)
    assert (code, len(report)) == (2, 3)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"config": None, "commit": "unknown"}, "its config is gone: .* its commit is 'unknown'"),
        ({"config": None, "commit": "f" * 40}, "its config is gone: .* there is no git"),
        ({"config": "runs/one.yaml", "commit": "f" * 40}, "its config is gone: .* there is no git"),
    ],
)
def test_a_record_whose_config_is_gone_is_one_line(table, changes, says, capsys):
    record = other_id(records(table)[0], **changes)
    assert verify(table, "--sample", "4")[0] == 2
    assert re.search(f"left out: {re.escape(str(record))}: {says}", capsys.readouterr().out)


def test_a_wrong_number_does_not_widen_its_own_tolerance(table):
    edit(records(table)[0], hardware={"cpu": "another"}, metrics={"test/accuracy": 40.0})
    code, report = verify(table, "--sample", "4")
    assert (code, report[0]["outcome"]) == (1, "differs")


def test_a_record_whose_config_has_changed_is_run_again(table, capsys):
    verify(table, "--sample", "4")
    first = records(table)[0]
    edit(first, config=json.loads(first.read_text())["config"] | {"lr": 0.5})
    assert verify(table, "--sample", "4")[0] == 0
    assert "4 records drawn, 3 already run again by this code" in capsys.readouterr().out


def test_verifications_that_are_written_at_once_are_all_kept(table):
    files = [file.with_name(f"{k}.json") for file in records(table)[:1] for k in range(8)]
    for file in files:
        file.write_text("{}")
    entries = [Verified(f"cpu/{file.name}", "c", "2026-11-29T00:00:00+00:00", Verdict.EQUAL) for file in files]
    target = table.parent / "results/table1/verified.json"
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda entry: add_verified(target, [entry]), entries))
    assert {entry.record for entry in read_verified(target)} == {entry.record for entry in entries}
    files[0].unlink()
    add_verified(target, [])
    assert len(read_verified(target)) == 7


def test_the_last_verification_is_of_the_scale_and_of_records_that_are_there(table, fill):
    fill(table, "full")
    verify(table, "--sample", "4")
    assert len(last_verified(table.parent / "results/table1/cpu").records) == 4
    assert last_verified(table.parent / "results/table1/full") is None
    records(table)[0].unlink()
    assert len(last_verified(table.parent / "results/table1/cpu").records) == 3


def test_a_folder_in_the_place_of_the_verifications_is_refused_before_anything_runs(table, capsys):
    (table.parent / "results/table1/verified.json").mkdir()
    assert lit_fa(["table", "verify", str(table), "--sample", "1"]) == 2
    assert "verified.json: is not a file; move it away" in capsys.readouterr().err
    assert not (table.parent / "scratch").exists()


def test_git_that_does_not_know_the_commit_is_told(table, capsys):
    git(table.parent, "init", "-q")
    other_id(records(table)[0], config=None, commit="f" * 40)
    assert verify(table, "--sample", "4")[0] == 2
    assert "git does not know its commit ffffffffffff here: fetch the whole history" in capsys.readouterr().out


def test_a_table_without_records_is_told_and_the_others_go_on(table, declared, save, fill, capsys):
    empty, full = save(declared, "empty.yaml"), save(declared, "full.yaml")
    fill(full, "full")
    assert main(["verify", str(empty), str(full), str(table), "--sample", "1", "--scale", "cpu"], runner=RUNNER) == 2
    said = capsys.readouterr().out
    assert "empty.yaml: no record at scale cpu; run it first" in said
    assert "full.yaml: no record at scale cpu; give --scale full, which has some" in said
    assert "1 of 1 records agree" in said


def test_a_rerun_that_fails_is_told_and_noted(table, capsys):
    first = records(table)[0]
    data = json.loads(first.read_text())
    edit(first, config=data["config"] | {"fake": {"fail": "user"}})
    code, report = verify(table, "--sample", "4")
    assert (code, report[0]["outcome"]) == (2, "failed")
    assert "batch_size 0 is too small" in report[0]["reason"]
    assert str(last_verified(table.parent / "results/table1/cpu").records[0].outcome) == "failed"


@pytest.mark.parametrize("words", [["--sample", "0"], ["--sample", "-1"], ["--sample", "x"], ["--seed", "-1"]])
def test_a_wrong_number_is_one_line(declared, save, words, capsys):
    assert lit_fa(["table", "verify", str(save(declared)), *words]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_broken_file_of_verifications_is_one_line(table, capsys):
    file = table.parent / "results/table1/verified.json"
    file.write_text('{"verified": [{"record": 3}]}')
    assert last_verified(table.parent / "results/table1/cpu") is None
    assert lit_fa(["table", "verify", str(table), "--sample", "1"]) == 2
    assert "verified.json" in capsys.readouterr().err
