"""A runner without training: it writes the record that a real one would, or fails in the way the config asks for."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from lit_fa.errors import RanksNeeded


class Mendable(ValueError):
    user_error = True


def run(config: dict, record: dict) -> None:
    wish = config.get("fake", {})
    print("training", record["id"])
    Path(record["path"]).parent.mkdir(parents=True, exist_ok=True)
    with open(Path(record["path"]).parent / f"{record['id']}.tries", "a", encoding="utf-8") as tries:
        tries.write(f"{os.getpid()} {os.environ['OMP_NUM_THREADS']} {'torch' in sys.modules}\n")
    time.sleep(wish.get("sleep", 0))
    fail(wish, record)
    lost = {"status": "diverged", "diverged": wish["diverged"]} if "diverged" in wish else {}
    write(record, record_of(record, config, **lost))
    if wish.get("fail") == "afterwards":
        raise RuntimeError("a rank ended with an error")


def run_with_ranks(config: dict, record: dict) -> None:
    """As `run`, for a run that a worker cannot do; in its own process it may wait for a signal, a rank beside it."""
    if multiprocessing.parent_process() is not None:
        config["parsed"] = object()  # as a parser leaves it
        raise RanksNeeded
    if config.get("fake", {}).get("wait"):
        rank = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        Path(record["path"]).with_name("rank").write_text(str(rank.pid))
        signal.pause()
    run(config, record)


def fail(wish: dict, record: dict) -> None:
    kind, again = wish.get("fail"), len(tries_of(Path(record["path"]).parent, record["id"])) > 1
    if kind == "error":
        raise RuntimeError("out of luck\nsecond line")
    if kind == "user":
        raise Mendable("batch_size 0 is too small; write at least 1")
    if kind in ("exit 1", "exit 2"):
        print("error: no such option")
        sys.exit(int(kind[-1]))
    if kind == "killed" or (kind == "killed once" and not again):
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "terminated" or (kind == "terminated once" and not again):
        os.kill(os.getpid(), signal.SIGTERM)


def record_of(head: dict, config: dict, **changes) -> dict:
    accuracy = config.get("fake", {}).get("accuracy", 90.0) + head["seed"]
    return {
        **{key: value for key, value in head.items() if key != "path"},
        "status": "finished",
        "metrics": {"test/accuracy": accuracy, "test/loss": 1 - accuracy / 100},
        "curves": {"conserve/normalised": [[step, step // 10, 1 - step * 1e-4] for step in range(0, 50, 5)]},
        "config": config,
        "versions": {"torch": "2"},
        "hardware": {"cpu": "a cpu", "processor": "a model", "cores": 2, "threads": 1, "gpu": None, "memory_gib": 8},
        "wall_time_s": 2.0,
        "peak_memory_mib": 100,
        **changes,
    }


def write(head: dict, record: dict) -> None:
    path = Path(head["path"])
    part = path.with_suffix(".part")
    part.write_text(json.dumps(record))
    part.replace(path)


def tries_of(folder: Path, run_id: str) -> list[str]:
    return (folder / f"{run_id}.tries").read_text().splitlines()
