"""`lit-fa sweep run | report | emit`: a W&B sweep file without W&B's server.

Exit codes as for tables: 0 success; 1 a trial failed or is not finished; 2 an error that the user can correct; 128 +
number of a signal (130: Ctrl-C, 143: SIGTERM).
"""

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import closing

from rich.console import Console

from lit_fa.config.arguments import Arguments, file_path, in_range, table_path
from lit_fa.errors import UserError
from lit_fa.jobs.emit import add_emit_options, check_emit_options, emit
from lit_fa.jobs.packing import Packing, Together, add_pack_option, fair_share
from lit_fa.jobs.pool import Outcome, run_jobs
from lit_fa.jobs.progress import Reporter, duration, reporter, say, short_path
from lit_fa.jobs.slurm import needs_of
from lit_fa.named_loggers import NAMES, words_of_a_trial
from lit_fa.outputs import writable_file, writable_folder
from lit_fa.spec.output_paths import root_of
from lit_fa.spec.sweep import Sweep, load_sweep
from lit_fa.stopping import exit_code
from lit_fa.sweeps.identical_trials import identical_trials
from lit_fa.sweeps.report import print_report, ranked, state_of
from lit_fa.sweeps.study import Trial, Trials

RUNNER = "lit_fa.trial:fit_trial"
SCALE = "full"  # a sweep has one scale, at which `accelerator: auto` means GPUs
_LOG_WIDTH = 160  # characters of a table in a log or a pipe, which have no width of their own


def main(argv: Sequence[str], *, runner: str = RUNNER) -> int:
    """Runs `lit-fa sweep <argv>` and returns the exit code; `runner` is the import path of what trains one trial."""
    arguments = _parser().parse_args(argv)
    output = Console(emoji=False) if sys.stdout.isatty() else Console(width=_LOG_WIDTH, emoji=False)
    sweep = load_sweep(arguments.path)
    folder = arguments.out or root_of(sweep.path) / "scratch" / "sweeps" / sweep.path.resolve().parent.name / sweep.name
    if arguments.command == "report":
        if arguments.csv:
            writable_file(arguments.csv, "--csv")
        return print_report(sweep, folder, output, top=arguments.top, by=arguments.by, csv_file=arguments.csv)
    if arguments.command == "emit":
        check_emit_options(arguments)
    count = _count(sweep, arguments.count)
    writable_folder(folder, "--out")
    if arguments.command == "emit":
        line = ["lit-fa", "sweep", "run", str(sweep.path), "--count", str(count), "--logger", arguments.logger]
        line += ["--out", str(folder.resolve())]
        gpus, nodes = needs_of([{"trainer": trainer} for trainer in sweep.trainers], SCALE)
        text = sweep.path.read_text(encoding="utf-8")
        return emit([line] * arguments.tasks, arguments, sweep.name, sweep_file=text, gpus=gpus, nodes=nodes)
    logger = words_of_a_trial(arguments.logger, sweep.project)
    for note in _notes(sweep):
        say(output, f"note: {note}")
    with closing(Trials(sweep, folder, count=count, seed=arguments.seed, logger=logger)) as trials:
        say(output, f"{sweep.path}: {trials.ended} of {count} trials done; study {trials.study.study_name} in {folder}")
        return _run(trials, arguments, runner, output, shlex.join(["lit-fa", "sweep", *argv]))


def _parser() -> argparse.ArgumentParser:
    parser = Arguments(prog="lit-fa sweep", description="W&B sweep files, run without W&B's server.")
    commands = parser.add_subparsers(dest="command", required=True)
    texts = {"run": "train what is missing", "report": "the best trials", "emit": "the sweep for a cluster"}
    for name, about in texts.items():
        command = commands.add_parser(name, help=about)
        command.add_argument("path", type=table_path, metavar="SWEEP", help="a W&B sweep file")
        command.add_argument("--out", type=file_path, help="folder of study and trials; default: scratch/sweeps/...")
    for name in ("run", "emit"):
        command = commands.choices[name]
        command.add_argument(
            "--count",
            type=in_range(least=1, most=10**9),
            metavar="N",
            help="trials in all; default: the grid, or run_cap",
        )
        command.add_argument("--logger", choices=NAMES, default="none", help="wandb: offline, in each trial")
    run, shown, sent = (commands.choices[name] for name in texts)
    run.add_argument(
        "--jobs", type=in_range(least=1, most=4096), default=1, metavar="J", help="worker processes, one thread each"
    )
    add_pack_option(run)
    run.add_argument(
        "--seed", type=in_range(least=0, most=2**32 - 1), default=0, help="of what is drawn (not of the trials)"
    )
    shown.add_argument("--top", type=in_range(least=1), default=10, metavar="N", help="trials to show")
    shown.add_argument("--by", metavar="rule", help="the best trial for each value of this parameter")
    shown.add_argument("--csv", type=file_path, metavar="FILE", help="write all trials there")
    sent.add_argument(
        "--tasks", type=in_range(least=1, most=10**6), default=1, metavar="N", help="processes that share the study"
    )
    add_emit_options(sent)
    return parser


def _count(sweep: Sweep, asked: int | None) -> int:
    limits = [limit for limit in (asked, sweep.run_cap) if limit is not None]
    limits += [len(sweep.grid())] if sweep.method == "grid" else []
    if not limits:
        raise UserError(
            f"{sweep.path}: a {sweep.method} sweep never ends by itself; give --count N, or run_cap in the file"
        )
    if min(limits) < 1:
        raise UserError(f"--count {min(limits)}: at least one trial is needed")
    return min(limits)


def _run(trials: Trials, arguments: argparse.Namespace, runner: str, output: Console, command: str) -> int:
    count, begun = trials.count, time.monotonic()
    if arguments.pack > (left := count - trials.ended):
        say(output, f"--pack {arguments.pack}: there are only {left} trials")
    outcomes: list[Outcome[Trial]] = []
    try:
        with reporter(count - trials.ended, output) as shown:
            _work(trials, outcomes, arguments, runner, shown)
    except KeyboardInterrupt as stopped:
        say(output, f"interrupted: {trials.ended} of {count} trials done; go on with: {command}")
        return exit_code(stopped)
    return _conclude(trials, outcomes, output, command, time.monotonic() - begun)


def _work(
    trials: Trials, outcomes: list[Outcome[Trial]], arguments: argparse.Namespace, runner: str, shown: Reporter
) -> None:
    """Train the trials; before the first success, an error that the user can correct ends the sweep."""
    jobs, left = arguments.jobs, trials.count - trials.ended
    together: Together = "measured" if arguments.pack == 0 else "off" if arguments.pack == 1 else "all"
    packing = Packing(arguments.pack or fair_share(left, jobs), lambda trial: trials.sweep.name, together)
    with closing(run_jobs(trials, workers=jobs, reporter=shown, runner=runner, packing=packing)) as running:
        for outcome in running:
            if outcome.done.user_error and not trials.succeeded:
                raise UserError(f"{trials.sweep.path}: {outcome.done.reason} (log: {outcome.job.log})")
            outcomes.append(outcome)
            note = f"; {outcome.done.note}" if outcome.done.note else ""
            end = trials.tell(outcome.job, outcome.done)
            shown.ended(outcome.job.label, f"{end}, {outcome.done.seconds:.1f} s{note}")


def _conclude(trials: Trials, outcomes: Sequence[Outcome[Trial]], output: Console, command: str, seconds: float) -> int:
    """Print what went wrong, and in the last line the outcome, the time, the folder and the command that reports."""
    failed = trials.failed
    for number, where in trials.diverged.items():
        say(output, f"diverged: trial {number}: {where}")
    for number, reason in failed.items():
        say(output, f"failed: trial {number}: {reason}")
    for number, reason in trials.unfinished.items():
        say(output, f"not finished: trial {number}: {reason}; go on with: {command}")
    for line in identical_trials(trials.study.trials):
        say(output, f"note: {line}")
    if trials.judged_by_the_test_set:
        hint = "hold images out: data.init_args.val_size"
        say(
            output,
            f"note: {trials.sweep.metric.name} was measured on the test set, which this data validates on; {hint}",
        )
    lost = f"{len(trials.diverged)} of them diverged, " if trials.diverged else ""
    counts = f"{trials.ended} of {trials.count} trials done, {lost}{len(failed)} of them failed"
    report = ["lit-fa", "sweep", "report", str(trials.sweep.path), "--out", short_path(trials.folder)]
    parts = [f"{counts}, in {duration(seconds)}", _best(trials), shlex.join(report)]
    say(output, "; ".join(part for part in parts if part))
    return int(bool(trials.unfinished) or any(outcome.job.number in failed for outcome in outcomes))


def _best(trials: Trials) -> str:
    """`best val/accuracy 97.5 (trial 3)`; "" before a trial has a value."""
    done = [trial for trial in ranked(trials.study) if state_of(trial) == "finished"]
    return f"best {trials.sweep.metric.name} {done[0].value:.4g} (trial {done[0].number})" if done else ""


def _notes(sweep: Sweep) -> list[str]:
    test = sweep.metric.name.startswith("test/")
    chosen = [f"{sweep.metric.name} chooses by the test set; report another number than the one that is chosen by"]
    return [*(chosen if test else []), *sweep.notes]
