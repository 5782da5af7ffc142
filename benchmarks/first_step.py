"""CPU seconds until the first training step of `lit-fa fit` on Digits, over those of `import lightning.pytorch.cli`.

    python -m benchmarks.first_step [--rounds 5] [--json FILE]

Each is a new process; the two take turns. Children, such as git, count.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

import lightning as L
from rich.console import Console

from lit_fa.outputs import writable_file, write_text

IMPORT = ("-c", "import lightning.pytorch.cli")
FIT = ("-m", "lit_fa", "fit", "--model=Classifier", "--model.network=mlp", "--data=Digits", "--trainer.logger=false")
STOP = ("--trainer.callbacks+=benchmarks.first_step.LeaveAfterOneStep",)


class LeaveAfterOneStep(L.Callback):
    """Ends the process after the first training step."""

    def on_train_batch_end(self, *_: object) -> None:
        """At once, without what follows a run."""
        os._exit(0)


def cpu_seconds(words: tuple[str, ...], folder: str) -> float:
    """Of a new process with these words after `python`, and of its children."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path),
    }
    process = subprocess.Popen(
        [sys.executable, *words], cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"python {' '.join(words)} has failed ({process.returncode})")
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    if options.json:
        writable_file(options.json, "--json")
    with tempfile.TemporaryDirectory() as folder:
        turns = [(cpu_seconds(IMPORT, folder), cpu_seconds((*FIT, *STOP), folder)) for _ in range(options.rounds)]
    imported, trained = (statistics.median(seconds) for seconds in zip(*turns, strict=True))
    ratio = statistics.median(fit / bare for bare, fit in turns)
    line = f"import lightning.pytorch.cli {imported:.2f} s, first step {trained:.2f} s: {ratio:.2f} times"
    Console().print(line, highlight=False)
    if options.json:
        found = {"import_s": imported, "first_step_s": trained, "ratio": ratio}
        write_text(options.json, json.dumps(found, indent=1) + "\n", "--json")


if __name__ == "__main__":
    main()
