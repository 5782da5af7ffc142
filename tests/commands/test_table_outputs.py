"""What a command of the tables shall write is tried before its work, and a failure of writing harms nothing."""

import errno
import os
from multiprocessing.util import get_temp_dir
from pathlib import Path

import pytest

from lit_fa import outputs
from lit_fa.__main__ import main as lit_fa
from lit_fa.commands.runs import main as runs
from lit_fa.commands.table import main
from lit_fa.errors import UserError
from lit_fa.reports import figures as plot
from lit_fa.reports.card import markers
from tests.test_outputs import full_disk

RUNNER = "tests.fake_runner:run"
FOLDER, BELOW_A_FILE, LONG = "made", "file/a", "n" * 300


@pytest.fixture
def table(declared, save, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path(FOLDER).mkdir()
    Path("file").write_text("kept")
    declared["figures"] = [{"file": "law.png", "y": "conserve/normalised", "panels": "column"}]
    return save(declared).relative_to(tmp_path)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "table1.yaml", "--dry-run", "--json", "o.json"], "--dry-run trains nothing"),
        (["verify", "table1.yaml", "--json", "o.md", "--write", "./o.md"], "--json writes to the same file"),
        (["report", "table1.yaml", "--json", "o.svg", "--figure", "o.svg"], "--json writes to the same file"),
        (["verify", "table1.yaml", "--seed", "0", "--cheapest"], "not allowed with"),
    ],
)
def test_an_output_that_another_option_would_make_empty_or_overwrite_is_refused(table, words, says):
    with pytest.raises(UserError, match=says):
        main(words, runner=RUNNER)


def test_a_table_that_is_named_twice_is_read_once(table, capsys):
    assert main(["run", "table1.yaml", "./table1.yaml", "--scale", "cpu", "--dry-run"], runner=RUNNER) == 0
    assert capsys.readouterr().out.count("would run") == 4


@pytest.mark.parametrize("bad", [FOLDER, BELOW_A_FILE, LONG, "made/"])
@pytest.mark.parametrize(
    "words",
    [
        ["list", ".", "--json"],
        ["report", "table1.yaml", "--json"],
        ["report", "table1.yaml", "--card"],
        ["run", "table1.yaml", "--json"],
        ["emit", "table1.yaml", "--slurm", "--to"],
        ["emit", "table1.yaml", "--wandb", "--to"],
    ],
    ids=lambda words: " ".join(words),
)
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_read(table, words, bad, monkeypatch, capsys):
    monkeypatch.setattr("lit_fa.commands.table.load_table", lambda _: pytest.fail("it was read"))
    with pytest.raises(UserError) as told:
        main([*words, bad], runner=RUNNER)
    assert str(told.value).startswith(words[-1])
    assert len(str(told.value).splitlines()) == 1
    assert capsys.readouterr().out == ""
    assert {*os.listdir()} == {"base.yaml", "file", "made", "table1.yaml"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["report", "table1.yaml", "--write", "file"], "--write: cannot write in .*file"),
        (["report", "table1.yaml", "--out", "file"], "--out file: is no folder"),
        (["run", "table1.yaml", "--out", "file"], "--out: cannot write in file"),
        (["run", "table1.yaml", "--out", "file/a"], "--out: cannot write in .*file/a"),
        (["run", "table1.yaml", "--out", LONG], "--out: cannot write in"),
    ],
)
def test_a_folder_that_takes_no_files_is_refused_before_training(table, words, said):
    with pytest.raises(UserError, match=said):
        main(words, runner="no.such:runner")
    assert Path("file").read_text() == "kept"


def test_a_results_folder_that_takes_no_files_is_refused_before_training(table, monkeypatch):
    def full(folder: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(folder))

    monkeypatch.setattr(outputs, "_try", full)
    with pytest.raises(UserError, match=r"the folder of the records: cannot write in .* \(Read-only file system\)"):
        main(["run", "table1.yaml", "--scale", "full"], runner="no.such:runner")


@pytest.mark.parametrize("bad", [FOLDER, BELOW_A_FILE])
def test_runs_refuses_a_file_that_cannot_be_written(table, bad):
    with pytest.raises(UserError, match="--json"):
        runs(["no-such-folder", "--json", bad])


def test_a_report_on_a_full_disk_leaves_card_figures_and_pages_as_they_were(table, fill, capsys):
    begin, end = markers("table1")
    by_hand = f"# By hand\n\n{begin}\n{end}\n\n" + "Kept.\n" * 5000
    Path("README.md").write_text(by_hand)
    fill(table, "full")
    with full_disk(5000):  # less than a figure has
        assert lit_fa(["table", "report", "table1.yaml", "--scale", "full", "--card"]) == 2
    assert "README.md: cannot be written" in capsys.readouterr().out
    assert Path("README.md").read_text() == by_hand
    with full_disk(5000):
        assert lit_fa(["table", "report", "table1.yaml", "--scale", "full", "--card", "--write", "pages"]) == 2
    assert "pages" in (told := capsys.readouterr().err)
    assert len(told.splitlines()) == 1
    assert [path for path in Path().rglob("*") if path.suffix == ".tmp"] == []
    assert not Path("results/law-full.png").exists()


def test_a_figure_that_cannot_be_drawn_keeps_the_old_one(table, fill, monkeypatch):
    fill(table, "full")
    Path("results/law-full.png").write_bytes(b"old")
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "full")))
    assert lit_fa(["table", "report", "table1.yaml", "--scale", "full", "--card"]) == 2
    assert Path("results/law-full.png").read_bytes() == b"old"
    assert plot.Path is Path


def test_the_logs_of_runs_beside_a_read_only_project_go_to_a_temporary_folder(table, tmp_path, monkeypatch, capfd):
    get_temp_dir()  # the pool's sockets stay where they are: a long path is none for them
    Path("scratch").write_text("no folder")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "made"))
    monkeypatch.setattr("tempfile.tempdir", None)
    words = ["run", "table1.yaml", "--scale", "smoke", "--out", "records", "--only", "row=FA"]
    assert main(words, runner=RUNNER) == 0
    said = [
        line for line in capfd.readouterr().out.splitlines() if "takes no files; the logs of the runs go to" in line
    ]
    assert len(said) == 1
    (log,) = Path("made").rglob("*.log")
    assert "training" in log.read_text()
