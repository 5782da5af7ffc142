"""Files are written whole or not at all, by one writer, and what cannot be written is refused before the work."""

import ast
import errno
import os
import resource
import stat
import threading
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from lit_fa import outputs
from lit_fa.callbacks import PredictionTable
from lit_fa.errors import UserError
from lit_fa.outputs import growing, usable_folder, writable_file, write_text, written

ROOT = Path(__file__).parents[1]
BIG = "x" * 100_000


@contextmanager
def full_disk(most: int = 20_000):
    """No file of this process can grow further: what a full disk does, with another number of error."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refusal(action, *words: object) -> str:
    """The one line of a refusal."""
    with pytest.raises(UserError) as told:
        action(*words)
    assert len(str(told.value).splitlines()) == 1
    return str(told.value)


def test_a_full_disk_leaves_the_old_file_and_no_temporary_one(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("by hand")
    with full_disk():
        line = refusal(write_text, path, BIG, "--card")
    assert line == f"--card {path}: cannot be written (File too large); free space on its disk, or name another one"
    assert path.read_text() == "by hand"
    assert names(tmp_path) == ["README.md"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
def test_every_error_of_the_system_is_one_line_that_names_the_file(tmp_path, monkeypatch, number, call):
    path = tmp_path / "a.json"
    path.write_text("old")

    def fail(*_: object, **__: object):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, fail)
    line = refusal(write_text, path, "new")
    monkeypatch.undo()
    assert str(path) in line
    assert os.strerror(number) in line
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.json"]


def test_what_a_killed_writer_has_left_goes_and_what_is_being_written_stays(tmp_path):
    gone, other = tmp_path / ".a.json.0.tmp", tmp_path / ".b.json.0.tmp"
    gone.touch(), other.touch()
    with written(tmp_path / "a.json") as part:
        part.write_text("one")
        write_text(tmp_path / "a.json", "two")
        assert part.exists()
    assert (tmp_path / "a.json").read_text() == "one"
    assert names(tmp_path) == [other.name, "a.json"]


def test_an_interruption_leaves_no_temporary_file(tmp_path):
    def interrupted() -> None:
        with written(tmp_path / "a.png") as part:
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda f: f, "is a folder"),
        (lambda f: f / "file" / "a.json", "Not a directory"),
        (lambda f: f / ("n" * 300), "File name too long"),
        (lambda f: f / "nul\0", "null byte"),
        (lambda f: f / "loop", "symbolic links"),
        (lambda f: Path("/proc/none/a.json"), "cannot write in /proc/none"),
        (lambda f: Path("/dev/fd/987"), "cannot write in /dev/fd"),
    ],
    ids=["folder", "below a file", "long", "nul", "loop", "proc", "closed"],
)
def test_what_cannot_be_a_file_is_refused_before_and_while_it_is_written(tmp_path, make, said):
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    path = make(tmp_path)
    assert said in refusal(writable_file, path, "--json")
    refusal(write_text, path, "{}")


def test_a_check_makes_nothing_and_the_writer_makes_the_folder(tmp_path):
    path = writable_file(tmp_path / "new" / "a.json", "--json")
    assert names(tmp_path) == []
    write_text(path, "{}")
    assert path.read_text() == "{}"


def test_a_link_stays_a_link_and_a_file_keeps_its_mode(tmp_path):
    target = tmp_path / "elsewhere" / "card.md"
    target.parent.mkdir()
    target.write_text("old")
    target.chmod(0o640)
    (tmp_path / "README.md").symlink_to(target)
    write_text(tmp_path / "README.md", "new")
    assert (tmp_path / "README.md").is_symlink()
    assert target.read_text() == "new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    write_text(tmp_path / "fresh", "")
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE((tmp_path / "fresh").stat().st_mode) == 0o666 & ~mask


def test_a_link_is_replaced_where_it_is_not_followed(tmp_path):
    (tmp_path / "kept").write_text("kept")
    (tmp_path / "record.json").symlink_to("kept")
    write_text(tmp_path / "record.json", "new", follow=False)
    assert (tmp_path / "kept").read_text() == "kept"
    assert not (tmp_path / "record.json").is_symlink()


def test_a_read_only_file_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "kept.json"
    path.write_text("kept")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everything
    assert "it is read-only" in refusal(writable_file, path, "--json")
    assert "it is read-only" in refusal(write_text, path, "new")
    assert path.read_text() == "kept"


def test_pipes_and_devices_are_written_as_they_are(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    heard: list[str] = []
    listener = threading.Thread(target=lambda: heard.append((tmp_path / "pipe").read_text()))
    listener.start()
    write_text(tmp_path / "pipe", "{}")
    listener.join(10)
    assert heard == ["{}"]
    assert writable_file("/dev/null", "--json") == write_text("/dev/null", "{}")
    assert "No space left" in refusal(write_text, "/dev/full", "{}", "--json")


def test_the_folder_of_temporary_files_is_named_where_it_is_the_full_one(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    told = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "x"))
    assert f"the folder of temporary files, {tmp_path}, is full: set TMPDIR" in outputs.space_left(told)
    monkeypatch.setattr(outputs, "_is_full", lambda folder: folder == tmp_path)
    assert "TMPDIR" in outputs.space_left(OSError(errno.ENOSPC, "No space left on device"))
    assert "TMPDIR" not in outputs.space_left(OSError(errno.ENOSPC, "No space left on device", "/elsewhere/x"))


def test_a_log_goes_elsewhere_where_its_folder_takes_no_files(tmp_path):
    (tmp_path / "file").write_text("")
    assert usable_folder(tmp_path / "logs") == tmp_path / "logs"
    other = usable_folder(tmp_path / "file" / "logs")
    assert other.is_dir()
    other.rmdir()


def test_a_log_is_not_written_through_a_link(tmp_path):
    (tmp_path / "kept").write_text("kept")
    (tmp_path / "run.log").symlink_to(tmp_path / "kept")
    with growing(tmp_path / "run.log") as log:
        log.write(b"said")
    assert (tmp_path / "kept").read_text() == "kept"
    assert (tmp_path / "run.log").read_text() == "said"


def test_a_predicted_file_is_no_formula_of_a_spreadsheet(tmp_path):
    table = PredictionTable(tmp_path / "out.csv")
    images = SimpleNamespace(paths=[Path("=cmd.png"), Path("a.png")], labelled=True)
    table.loader = SimpleNamespace(image_set=images)
    table._write({0: (1, [-0.5, 0.5]), 1: (0, [0.5, -0.5])})
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines[1:] == ["'=cmd.png,1,1,-0.5,0.5", "a.png,0,0,0.5,-0.5"]


def test_half_a_character_is_one_line(tmp_path):
    assert "is no character" in refusal(write_text, tmp_path / "a", "\ud800")


# who else opens files for writing, and why that is right
ALLOWED = {
    "lit_fa/outputs.py": "the writer",
    "callbacks/best_validation.py": "a checkpoint in a temporary folder, for `load_from_checkpoint`",
    "lit_fa/parts.py": "what the writer hands out",
    "callbacks/environment.py": "a switch of Linux, not a file: the peak of this process's memory starts again",
    "callbacks/prediction_table.py": "a part that the writer hands out",
    "callbacks/file_loggers.py": "a part that the writer hands out",
    "lit_fa/sweeps/report.py": "a part that the writer hands out",
    "lit_fa/deployment/files.py": "a part that the writer hands out",
    "datamodules/tokenised.py": "a part that the writer hands out",
    "datamodules/vision.py": "a part that the writer hands out",
    "lit_fa/sweeps/journal.py": "the journal of a study is Optuna's; half a line is cut off",
    "lit_fa/flower/loopback.py": "logs and settings in a temporary folder of its own",
    "lit_fa/flower/server.py": "a report in a temporary folder of its own",
    "lit_fa/checkpoints/files.py": "a part that the writer hands out",
    "lit_fa/checkpoints/store_files.py": "a part that the writer hands out",
    "lit_fa/flower/certificates.py": "a key in a temporary folder, which only its owner may ever have read",
    **dict.fromkeys(
        [f"benchmarks/chaos/{name}.py" for name in ("__main__", "disk", "process", "work")],
        "what is attacked, in a folder of its own",
    ),
    **dict.fromkeys(
        [f"benchmarks/seeded_bugs/{name}.py" for name in ("__main__", "running")],
        "a copy of the sources, in a folder of its own",
    ),
    "benchmarks/federated.py": "data for a peer's process, in a temporary folder",
}
WRITES = {"write_text", "write_bytes", "mkstemp", "NamedTemporaryFile", "mkdtemp", "savez", "to_csv", "copyfile"}
SAVES = {"save", "savefig", "dump", "imsave"}


def writes(call: ast.Call) -> bool:
    """The call opens a file for writing, whatever the library."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    owner = ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""
    if name in ("write_text", "write_bytes") and not owner:
        return False  # the writer's own
    if owner == "os" and name == "open":
        return "O_RDONLY" not in ast.unparse(call)
    if name == "open":
        modes = [a.value for a in [*call.args, *(k.value for k in call.keywords)] if isinstance(a, ast.Constant)]
        return any(isinstance(m, str) and set(m) & set("wax+") and len(m) <= 3 for m in modes)
    if name in SAVES:
        into = call.args[-1] if name == "dump" and len(call.args) > 1 else call.args[0] if call.args else None
        if owner == "torch" and len(call.args) > 1:
            into = call.args[1]
        handed = isinstance(into, ast.Name) and into.id in ("part", "half", "packed", "image", "file")
        return owner.split(".")[0] in ("torch", "np", "figure", "canvas", "image") and not handed
    return name in WRITES


def test_nothing_is_opened_for_writing_outside_the_writer():
    folders = ("lit_fa", "callbacks", "datamodules", "benchmarks")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*.py")]
    found = {}
    for path in files:
        calls = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)]
        if lines := [call.lineno for call in calls if writes(call)]:
            found[path.relative_to(ROOT).as_posix()] = lines
    assert {name: lines for name, lines in found.items() if name not in ALLOWED} == {}
    assert ALLOWED.keys() <= found.keys(), "nothing is written there any more"
