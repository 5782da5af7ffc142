"""Where Python lacks what only Linux and macOS have, everything is imported, and what cannot work is one line.

Windows is imitated in a process of its own: the modules are hidden and the names are taken from `os` and `signal`.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from lit_fa import operating_system, parts
from lit_fa.errors import UserError
from lit_fa.operating_system import blocked, can_lock, flags, lock, needs_posix
from lit_fa.outputs import write_text

ROOT = Path(__file__).parents[1]
HIDE = """
import os, signal, sys
for name in ("fcntl", "resource", "termios", "pwd", "grp"):
    sys.modules[name] = None
lacking = {
    os: "fork forkpty killpg getuid geteuid fchmod sysconf getloadavg sched_getaffinity wait4 setsid mkfifo "
        "O_NOFOLLOW O_NONBLOCK O_NOCTTY O_DIRECTORY",
    signal: "SIGHUP SIGKILL SIGUSR1 SIGUSR2 SIGALRM SIGCHLD pthread_sigmask alarm setitimer",
}
def hide(keep):
    for module, names in lacking.items():
        for name in names.split():
            if hasattr(module, name) and name not in keep.split():
                delattr(module, name)
"""
FILES = [
    file.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
    for folder in ("lit_fa", "callbacks", "datamodules")
    for file in sorted((ROOT / folder).rglob("*.py"))
    if file.name != "__main__.py"
]
WORDS = ["fit", "--model", "Classifier", "--model.init_args.network", "mlp", "--data", "Digits", "--name", "first"]
WORDS += ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.enable_progress_bar", "false"]


def imitated(code: str, cwd: Path, keep: str = "") -> subprocess.CompletedProcess[str]:
    """Run code where the names are hidden; libraries are imported before, as theirs on Windows need none of them."""
    libraries = "torch, lightning, multiprocessing.resource_tracker, subprocess, tempfile, filelock, wandb, optuna"
    optional = "for name in ('psutil', 'flwr'):\n    with suppress(ImportError):\n        import_module(name)"
    begin = f"from contextlib import suppress\nfrom importlib import import_module\nimport {libraries}\n{optional}"
    text = f"{begin}\n{HIDE}\nhide({keep!r})\n{code}"
    return subprocess.run([sys.executable, "-c", text], cwd=cwd, capture_output=True, text=True, timeout=300)


@pytest.mark.slow  # a process that imports everything
def test_every_module_is_imported_without_the_modules_of_posix(tmp_path):
    code = """
failed = []
for name in NAMES:
    try:
        import_module(name)
    except ImportError as error:
        missing = getattr(error, "name", "") or ""
        if missing.split(".")[0] not in OPTIONAL:
            failed.append(f"{name}: {error!r}")
    except Exception as error:
        failed.append(f"{name}: {error!r}")
print("\\n".join(failed))
"""
    optional = ("flwr", "ray", "trackio", "opacus", "onnx", "onnxscript", "onnxruntime", "pynvml", "datasets", "grpc")
    done = imitated(f"NAMES = {FILES!r}\nOPTIONAL = {optional!r}\n{code}", tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == ""


@pytest.mark.slow
def test_a_fit_leaves_its_record_and_is_listed_without_them(tmp_path):
    code = f"""
from lit_fa.__main__ import main
assert main({WORDS!r}) == 0
assert main(["runs", "lightning_logs"]) == 0
assert main(["doctor"]) == 0
"""
    done = imitated(code, tmp_path, keep="SIGKILL SIGUSR1")  # Lightning sees that this is Linux, and uses these
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "lightning_logs/first/record.json").is_file()
    assert list((tmp_path / "lightning_logs/first").rglob("*.ckpt"))
    assert "1 runs" in done.stdout


def test_a_file_is_written_where_nothing_can_be_locked_and_old_parts_go_after_a_day(tmp_path, monkeypatch):
    monkeypatch.setattr(operating_system, "_locks", None)
    fresh, old = tmp_path / ".a.json.0.tmp", tmp_path / ".a.json.1.tmp"
    fresh.touch(), old.touch()
    monkeypatch.setattr(parts.time, "time", lambda: old.stat().st_mtime + 90_000)
    assert not can_lock()
    write_text(tmp_path / "a.json", "{}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json"]
    monkeypatch.undo()
    monkeypatch.setattr(operating_system, "_locks", None)
    fresh.touch()
    write_text(tmp_path / "a.json", "new")
    assert fresh.exists()  # another process may be writing it
    assert (tmp_path / "a.json").read_text() == "new"


def test_what_needs_a_lock_is_refused_where_there_is_none(monkeypatch):
    monkeypatch.setattr(operating_system, "_locks", None)
    with pytest.raises(UserError, match="cannot be locked on this operating system: use Linux, macOS, or"):
        lock(0, wait=False)


def test_what_needs_groups_of_processes_is_refused_where_there_are_none(monkeypatch):
    needs_posix("a run")
    monkeypatch.delattr("os.killpg")
    with pytest.raises(
        UserError, match=r"a run needs groups of processes, which this operating system lacks: use Linux"
    ):
        needs_posix("a run")


def test_flags_that_are_not_there_are_left_out_and_signals_are_not_blocked(monkeypatch):
    import os

    assert flags("O_RDONLY", "O_NONBLOCK") == os.O_RDONLY | os.O_NONBLOCK
    monkeypatch.delattr("os.O_NONBLOCK")
    assert flags("O_RDONLY", "O_NONBLOCK") == os.O_RDONLY
    monkeypatch.delattr("signal.pthread_sigmask")
    with blocked("SIGINT", "SIGHUP"):
        pass


def test_the_names_of_posix_are_used_in_one_file_alone():
    """A new use of them is a crash elsewhere."""
    allowed = {"lit_fa/operating_system.py", "callbacks/environment.py", "lit_fa/memory.py"}  # the last: Linux alone
    used = set()
    for folder in ("lit_fa", "callbacks", "datamodules"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            text = file.read_text(encoding="utf-8")
            if any(word in text for word in ("import fcntl", "import resource", "pthread_sigmask", "os.fchmod")):
                used.add(file.relative_to(ROOT).as_posix())
    assert {name for name in used if not name.startswith("lit_fa/callbacks")} <= allowed
