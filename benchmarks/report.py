"""Time of a written report: `lit-fa table report PATH --write DIR`, each in a new process.

    python -m benchmarks.report [PATH] [--rounds 3] [--json FILE]

PATH is a folder of a paper or of several papers; it is copied first, so that no card and no figure changes. The time is
that of the whole command, including Python's start and the PNG files of the figures.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from lit_fa.outputs import writable_file, write_text


def main() -> None:
    """Print the number of records and pages, megabytes and seconds."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("path", nargs="?", type=Path, default=Path("paper_configs/foundations"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.json:
        writable_file(arguments.json, "--json")
    with tempfile.TemporaryDirectory() as folder:
        result = measure(arguments.path, Path(folder), arguments.rounds)
    size = "{records} records, {pages} pages, {megabytes:.1f} MB".format(**result)
    Console().print(size + ": {seconds:.1f} s ({least:.1f} to {most:.1f}), {cpu:.1f} s of CPU".format(**result))
    if arguments.json:
        write_text(arguments.json, json.dumps(result, indent=1) + "\n", "--json")


def measure(path: Path, folder: Path, rounds: int) -> dict[str, float]:
    """Median, minimum and maximum of seconds, and CPU seconds, of `rounds` reports of a copy of `path` in `folder`."""
    copy = shutil.copytree(path, folder / path.resolve().name)
    (folder / "pyproject.toml").touch()  # marks the project's folder, which printed commands name
    command = [sys.executable, "-m", "lit_fa", "table", "report", str(copy), "--write", str(folder / "pages")]
    seconds, before = [], os.times()
    for _ in range(rounds):
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - start)
    spent = os.times()
    pages = list((folder / "pages").glob("*.html"))
    return {
        "records": len(list(copy.rglob("results/*/*/*.json"))),
        "pages": len(pages),
        "megabytes": sum(page.stat().st_size for page in pages) / 1e6,
        "seconds": statistics.median(seconds),
        "least": min(seconds),
        "most": max(seconds),
        "cpu": (sum(spent[2:4]) - sum(before[2:4])) / rounds,  # of children; other processes do not change it
    }


if __name__ == "__main__":
    main()
