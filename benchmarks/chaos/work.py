"""The runs that are attacked: small runs on scikit-learn's digits, each in its own folder.

A kind of run writes its files into a folder, gives its command, the command that resumes it and the command of its
report, and reads its results as plain data. `VOLATILE`, fields of a record, and `VOLATILE_FACTS`, lines of a report,
may differ between an uninterrupted and a resumed run.
"""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml

VOLATILE = (
    *(
        "wall_time_s",
        "cpu_time_s",
        "peak_memory_mib",
        "started",
        "finished",
        "hardware",
        "versions",
        "packed",
        "energy_j",
    ),
    *("commit", "dirty", "sources", "outside", "resumed_from"),
)
VOLATILE_FACTS = (
    "wall time",
    "CPU time",
    "peak memory",
    "hardware",
    "versions",
    "commit",
    "commits",
    "begun",
    "resumed",
)
OUT, REPORT, SAID = "out", "report", "said.txt"
_FACT = re.compile(rf"\s*(?:\* |<div><dt>)?(?:{'|'.join(VOLATILE_FACTS)})\b")
_SGD = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.05, "momentum": 0.9}}
_DIGITS = {"class_path": "Digits", "init_args": {"flatten": True, "val_size": 0.2, "batch_size": 16}}
_TRAINER = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}


@dataclass(frozen=True)
class Kind:
    """One kind of run.

    Attributes:
        name: of the kind.
        write: writes configs into a folder.
        words: the command for a folder, which starts or resumes the run.
        left: results of the run: name to plain data, without the volatile fields.
        report: the command of its report, which is written to the folder `report`.
        workers: whether the command trains in worker processes.
    """

    name: str
    write: Callable[[Path], None]
    words: Callable[[Path], list[str]]
    left: Callable[[Path], dict[str, Any]]
    report: tuple[str, ...] = ()
    workers: bool = False


def _config(epochs: int, **changes: object) -> dict[str, Any]:
    model = {"network": "mlp", "network_args": {"hidden": [32]}, "rule": "FeedbackAlignment", "optimizer": _SGD}
    return {
        "seed_everything": 0,
        "trainer": _TRAINER | {"max_epochs": epochs},
        "model": {"class_path": "Classifier", "init_args": model},
        "data": _DIGITS,
        **changes,
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    _written(path, yaml.safe_dump(content, sort_keys=False))


def _written(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _alone(folder: Path, config: dict[str, Any]) -> None:
    """One run with a record and a checkpoint of every epoch."""
    record = {"class_path": "callbacks.RunRecord", "init_args": {"path": f"{OUT}/record.json", "finish_after": "fit"}}
    options = {"dirpath": f"{OUT}/kept", "filename": "last", "enable_version_counter": False}
    checkpoint = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": options}
    config["trainer"] = config["trainer"] | {"callbacks": [record, checkpoint], "default_root_dir": OUT}
    _write(folder / "run.yaml", config)


def _fit(folder: Path) -> None:
    _alone(folder, _config(5))


def _federated(folder: Path) -> None:
    data = {"data": _DIGITS, "clients": 6, "clients_per_round": 3, "partition": "dirichlet", "batch_size": 16}
    config = _config(20, data={"class_path": "Federated", "init_args": data | {"partition_args": {"beta": 0.5}}})
    config["model"]["class_path"] = "FederatedClassifier"
    config["model"]["init_args"] = config["model"]["init_args"] | {
        "algorithm": {"class_path": "lit_fa.federated.Scaffold"},
        "local_optimizer": {"class_path": "lit_fa.federated.LocalSGD", "init_args": {"lr": 0.1}},
        "executor": "sequential",
    }
    _alone(folder, config)


def _fit_words(folder: Path) -> list[str]:
    """The command, which continues from the newest checkpoint, as its last line recommends."""
    files = sorted((folder / OUT).rglob("*.ckpt"), key=lambda file: file.stat().st_mtime)
    there = [str(file.relative_to(folder)) for file in files if not file.name.startswith(".")]
    resuming = ["--ckpt_path", there[-1]] if there else []
    return ["fit", "--config", "run.yaml", "--json", f"{OUT}/metrics.json", *resuming]


def _table(folder: Path) -> None:
    _write(folder / "base.yaml", _config(3))
    rules = {"BP": "Backprop", "FA": "FeedbackAlignment", "DFA": "DirectFeedbackAlignment"}
    cells = [{"row": r, "column": "digits", "set": {"model.init_args.rule": c}} for r, c in rules.items()]
    table = {
        "paper": {"key": "chaos", "title": "Chaos", "arxiv": "0000.00000", "table": "Table 1"},
        "base": "base.yaml",
        "metric": {"name": "test/accuracy", "unit": "%"},
        "seeds": [0],
        "seeded": ["seed_everything"],
        "scales": {"smoke": {"set": {}}, "full": {"set": {}}},
        "cells": cells,
        "figures": [{"file": "curves.png", "title": "Chaos", "y": "val/accuracy", "x": "epoch", "lines": "row"}],
    }
    _write(folder / "table1.yaml", table)
    card = "# Chaos\n\nBy hand.\n\n<!-- table:table1:begin -->\n<!-- table:table1:end -->\n\nBelow.\n"
    _written(folder / REPORT / "card.md", card)


def _table_words(folder: Path) -> list[str]:
    return ["table", "run", "table1.yaml", "--scale", "smoke", "--jobs", "2", "--out", OUT, "--allow-dirty"]


def _packed_words(folder: Path) -> list[str]:
    """Of two workers one trains two of the three runs as one program."""
    return [*_table_words(folder), "--pack", "2"]


_TABLE_REPORT = (
    *("table", "report", "table1.yaml", "--scale", "smoke", "--out", OUT),
    *("--card", f"{REPORT}/card.md", "--write", REPORT, "--json", f"{REPORT}/table.json"),
)


def _sweep(folder: Path) -> None:
    _write(folder / "base.yaml", _config(3))
    rates = {"values": [0.02, 0.05, 0.1]}
    sweep = {
        "command": ["lit-fa", "fit", "--config", "base.yaml", "${args}"],
        "method": "grid",
        "metric": {"name": "val/accuracy", "goal": "maximize"},
        "parameters": {"model.init_args.optimizer.init_args.lr": rates},
    }
    _write(folder / "sweep.yaml", sweep)


def _sweep_words(folder: Path) -> list[str]:
    return ["sweep", "run", "sweep.yaml", "--jobs", "2", "--out", OUT]


_SWEEP_REPORT = ("sweep", "report", "sweep.yaml", "--out", OUT, "--csv", f"{REPORT}/sweep.csv")


def _records(folder: Path) -> dict[str, Any]:
    """Every record, the weights of a single run's last checkpoint, and the reports."""
    records = {str(p.relative_to(folder)): _record(p) for p in sorted((folder / OUT).rglob("*.json"))}
    checkpoint = folder / OUT / "kept" / "last.ckpt"
    return records | ({"weights": _weights(checkpoint)} if checkpoint.is_file() else {}) | _reports(folder)


def _reports(folder: Path) -> dict[str, Any]:
    """Every file of a report and every figure: the lines of a text without volatile facts, else a digest."""
    files = [*(folder / REPORT).rglob("*"), *(folder / OUT).glob("*.png")]
    return {str(p.relative_to(folder)): _report(p) for p in sorted(files) if p.is_file()}


def _report(path: Path) -> list[str] | str:
    try:
        text = unquote(path.read_bytes().decode())  # pages contain their downloads as links
    except UnicodeDecodeError:
        return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    return [line for line in text.splitlines() if not _FACT.match(line)]


def _record(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return {name: value for name, value in data.items() if name not in VOLATILE}
    except (OSError, ValueError) as error:
        return {"unreadable": type(error).__name__}


def _weights(path: Path) -> str:
    import torch

    try:
        state = torch.load(path, weights_only=True)["state_dict"]
    except Exception as error:
        return f"unreadable: {type(error).__name__}"
    whole = hashlib.blake2b(digest_size=16)
    for name in sorted(state):
        whole.update(name.encode() + state[name].contiguous().numpy().tobytes())
    return whole.hexdigest()


def _trials(folder: Path) -> dict[str, Any]:
    """The records, and state and value of every trial in the study."""
    import optuna

    from lit_fa.sweeps.journal import storage

    (study,) = optuna.get_all_study_summaries(storage(folder / OUT))
    trials = optuna.load_study(study_name=study.study_name, storage=storage(folder / OUT)).trials
    return _records(folder) | {f"trial {trial.number}": [trial.state.name, trial.value] for trial in trials}


KINDS = {
    kind.name: kind
    for kind in (
        Kind("table", _table, _table_words, _records, _TABLE_REPORT, workers=True),
        Kind("sweep", _sweep, _sweep_words, _trials, _SWEEP_REPORT, workers=True),
        Kind("packed", _table, _packed_words, _records, _TABLE_REPORT, workers=True),
        Kind("federated", _federated, _fit_words, _records),
        Kind("fit", _fit, _fit_words, _records),
    )
}
