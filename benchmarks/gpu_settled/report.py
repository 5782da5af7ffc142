"""The results as JSON and Markdown."""

import json
from pathlib import Path
from typing import Any

from lit_fa.callbacks.environment import hardware, versions
from lit_fa.outputs import write_text
from lit_fa.provenance import our_code


def write(out: Path, state: dict[str, Any], left: list[str]) -> None:
    """Write `results.json` and `results.md`; `left` are the names of the remaining runs."""
    code = our_code()
    about = {"hardware": hardware(), "versions": versions(), "commit": code.commit, "dirty": code.dirty, "left": left}
    write_text(out / "results.json", json.dumps(about | state, indent=1, allow_nan=False) + "\n")
    write_text(out / "results.md", markdown(about, state))


def markdown(about: dict[str, Any], state: dict[str, Any]) -> str:
    """The tables: accuracies and published numbers, seconds to an accuracy, times of steps."""
    machine = about["hardware"]["gpu"] or about["hardware"]["cpu"]
    lines = [f"# One device: {machine}", "", f"Commit {about['commit'][:7]}, torch {about['versions']['torch']}.", ""]
    titles: tuple[str, ...] = ("network", "rule", "seed", "epochs", "images", "accuracy", "published", "minutes")
    lines += _table("Test accuracy, %", titles, [_run(run) for run in state["runs"]])
    titles = ("rule", "seconds", "best", "epochs")
    lines += _table(f"Training seconds to {state['target']:g} % (VGG-13)", titles, [_race(r) for r in state["race"]])
    peak = f"peak: a matrix product at {state['peak_flops'] / 1e12:.1f} Tflop/s" if state.get("peak_flops") else ""
    titles = ("network", "rule", "batch", "ms", "x backprop", "share of peak")
    lines += _table(f"One step; {peak}", titles, [_step(row) for row in state["steps"]])
    titles = ("network", "one process", "processes", "together", "lanes", "packed", "packed / one")
    lines += _table("Run-steps a second", titles, [_pack(row) for row in state.get("packs") or ()])
    if whole := state.get("packed_table"):
        about_it = f"{whole['images']}, programs of up to {whole['lanes']} lanes"
        lines += [f"{whole['runs']} runs of mnist_mlp as one pack ({about_it}): {whole['seconds']:g} s.", ""]
    lines += ["Not done yet: " + (", ".join(about["left"]) or "nothing"), ""]
    lines += [f"* {line}" for line in state["failed"]]
    return "\n".join(lines) + "\n"


def _table(title: str, titles: tuple[str, ...], rows: list[tuple[Any, ...]]) -> list[str]:
    pipes = [f"| {' | '.join(str(cell).replace('|', '/') for cell in row)} |" for row in (titles, *rows)]
    return [f"## {title}", "", pipes[0], f"|{' --- |' * len(titles)}", *pipes[1:], ""]


def _run(run: dict[str, Any]) -> tuple[Any, ...]:
    accuracy = f"{run['accuracy']:.2f}" if run["accuracy"] is not None else "diverged"
    minutes = f"{run['wall_time_s'] / 60:.1f}"
    return (*(run[key] for key in ("column", "row", "seed", "epochs", "images")), accuracy, _published(run), minutes)


def _published(run: dict[str, Any]) -> str:
    published = run["published"]
    if not published:
        return ""
    return f"{published['value']}" + (f" ± {published['std']} (n {published['n']})" if "std" in published else "")


def _pack(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[key] for key in ("network", "one", "processes", "many", "lanes", "packed", "ratio"))


def _step(row: dict[str, Any]) -> tuple[Any, ...]:
    ratio = row.get("ratio", row.get("reason"))
    return (row["network"], row["rule"], row["batch"], row.get("ms", ""), ratio, row.get("share_of_peak", ""))


def _race(row: dict[str, Any]) -> tuple[Any, ...]:
    seconds = row.get("reason") or ("not reached" if row["seconds"] is None else row["seconds"])
    return (row["rule"], seconds, *((f"{row['best']:.2f}", row["epochs"]) if "best" in row else ("", "")))
