"""A W&B sweep file, read and checked: what is searched, how, for which metric, and the command of a trial.

    program: lit-fa
    command: ["${env}", "${program}", fit, --config, base.yaml, "${args}"]
    method: bayes                                  # grid random bayes
    metric: {name: val/accuracy, goal: maximize}
    early_terminate: {type: hyperband, min_iter: 3}
    parameters:
      model.init_args.optimizer.init_args.lr: {distribution: log_uniform_values, min: 0.001, max: 1.0}

Keys and meaning are W&B's (docs.wandb.ai, "sweep configuration"); what only its server can do is refused by name.
"""

import re
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from lit_fa.errors import UserError
from lit_fa.spec.distributions import Parameter, parameter
from lit_fa.spec.expand import run_id, without_machine
from lit_fa.spec.sweep_command import fit_words
from lit_fa.spec.validation import choice, component, keys, line, mapping, number, read_yaml, text

METHODS = ("grid", "random", "bayes")
_IGNORED = ("name", "description", "project", "entity", "apiVersion", "kind")  # of W&B's pages, not of the search
_KEYS = ("program", "command", "method", "metric", "parameters", "early_terminate", "run_cap", *_IGNORED)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
Keys = tuple[str, ...]  # of a parameter: its own, after those it is nested in


@dataclass(frozen=True)
class Metric:
    """What a sweep is for; with a `target` it ends when a trial has reached it."""

    name: str = "val/accuracy"
    goal: str = "maximize"
    target: float | None = None


@dataclass(frozen=True)
class Halving:
    """Successive halving: after `first` values, and every `factor` times as many, the best 1/factor go on."""

    first: int
    factor: int


@dataclass(frozen=True)
class Sweep:
    """A sweep file; `command` is that of `lit-fa fit` up to the place of the parameters, and what follows them."""

    path: Path
    method: str
    metric: Metric
    parameters: dict[Keys, Parameter]
    declared: dict[str, Any]
    command: tuple[tuple[str, ...], tuple[str, ...]]
    halving: Halving | None = None
    run_cap: int | None = None
    project: str = "lit-fa"
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The file's stem."""
        return self.path.stem

    @property
    def searched(self) -> dict[str, Parameter]:
        """The parameters that vary, by dotted name; in a grid as choices."""
        varying = {".".join(path): p for path, p in self.parameters.items() if p.search is not None}
        return {name: p.on_grid() for name, p in varying.items()} if self.method == "grid" else varying

    @property
    def id(self) -> str:
        """Changes with whatever changes a trial or what is searched, so that a changed file is another study."""
        kept = {key: value for key, value in self.declared.items() if key not in (*_IGNORED, "run_cap", "command")}
        return self.trial_id(kept)

    def trial_id(self, values: dict[str, Any]) -> str:
        """Of the run with these parameters: of the configs' content and the command's words, without its logger."""
        words = [word for part in self.command for word in part if not word.startswith("--trainer.logger")]
        configs = [without_machine(mapping(read_yaml(file), str(file))) for file in self.configs]
        return run_id({"configs": configs, "words": words, "parameters": values})

    @property
    def configs(self) -> list[Path]:
        """The config files of the command."""
        words = [word for part in self.command for word in part]
        given = [words[i + 1] for i, word in enumerate(words[:-1]) if word in ("--config", "-c")]
        return [Path(file) for file in given + [w.partition("=")[2] for w in words if w.startswith("--config=")]]

    def grid(self) -> list[dict[str, Any]]:
        """Every point of the grid as Optuna draws it, in W&B's order: the last name in the alphabet turns fastest."""
        axes = {name: p.search.choices for name, p in sorted(self.searched.items())}
        return [dict(zip(axes, point, strict=True)) for point in product(*axes.values())]

    def values(self, drawn: dict[str, Any]) -> dict[str, Any]:
        """The parameters of a trial from what Optuna drew, by dotted name."""
        entries = {".".join(path): entry for path, entry in self.parameters.items()} | self.searched
        return {name: entry.value(drawn.get(name)) for name, entry in entries.items()}

    def nested(self, values: dict[str, Any]) -> dict[str, Any]:
        """Parameters by dotted name, nested as in the file."""
        tree: dict[str, Any] = {}
        for path in self.parameters:
            node = tree
            for part in path[:-1]:
                node = node.setdefault(part, {})
            node[path[-1]] = values[".".join(path)]
        return tree


def load_sweep(path: Path | str) -> Sweep:
    """Reads a sweep file and checks all of it.

    Raises:
        UserError: one line that names the file, the key and what to write instead.
    """
    path = Path(path)
    component(path.stem, f"{path}: the file's name")
    read_yaml(path)  # its errors have a line number, and a key may not be there twice
    data = yaml.safe_load(path.read_text(encoding="utf-8"))  # to W&B 1e-3 is text, so it is here
    data = keys(data, str(path), _KEYS, ["method", "parameters"])
    method = choice(data["method"], f"{path}: method", METHODS)
    sweep = Sweep(
        path=path,
        method=method,
        metric=_metric(data, method, f"{path}: metric"),
        parameters=_parameters(data["parameters"], f"{path}: parameters"),
        declared=data,
        command=fit_words(data, f"{path}: command"),
        halving=_halving(data["early_terminate"], f"{path}: early_terminate") if "early_terminate" in data else None,
        run_cap=_whole(data["run_cap"], f"{path}: run_cap") if "run_cap" in data else None,
        project=line(data.get("project", "lit-fa"), f"{path}: project"),
        notes=tuple(_notes(data)),
    )
    _check(sweep)
    return sweep


def _parameters(data: Any, where: str, above: Keys = ()) -> dict[Keys, Parameter]:
    if not mapping(data, where):
        raise UserError(f"{where}: nothing in it; write name: {{values: [...]}}")
    found: dict[Keys, Parameter] = {}
    for name, entry in data.items():
        at = f"{where}.{name}"
        if not _NAME.fullmatch(name):
            raise UserError(f"{at}: a name has letters, digits, dots, dashes and underscores")
        if "parameters" in mapping(entry, at):
            keys(entry, at, ["parameters"])
            found |= _parameters(entry["parameters"], at, (*above, name))
        else:
            found[(*above, name)] = parameter(entry, at)
    return found


def _metric(data: dict, method: str, where: str) -> Metric:
    if "metric" not in data:
        if method == "bayes" or "early_terminate" in data:
            raise UserError(
                f"{where}: bayes and early_terminate need one; write {{name: val/accuracy, goal: maximize}}"
            )
        return Metric()
    entry = keys(data["metric"], where, ["name", "goal", "target", "impute", "impute_while_running"], ["name"])
    goal = choice(entry.get("goal", "minimize"), f"{where}.goal", ("minimize", "maximize"))
    target = number(entry["target"], f"{where}.target") if "target" in entry else None
    return Metric(text(entry["name"], f"{where}.name"), goal, target)


def _halving(data: Any, where: str) -> Halving:
    """W&B's hyperband has one bracket: it is successive halving, given by its first band or counted down from max_iter.

    >>> _halving({"type": "hyperband", "max_iter": 27, "s": 2, "eta": 3}, "")
    Halving(first=3, factor=3)
    """
    keys(data, where, ["type", "min_iter", "max_iter", "s", "eta", "strict"], ["type"])
    choice(data["type"], f"{where}.type", ("hyperband",))
    factor = _whole(data.get("eta", 3), f"{where}.eta", least=2)
    if "min_iter" in data:
        return Halving(_whole(data["min_iter"], f"{where}.min_iter"), factor)
    keys(data, where, data, ["max_iter", "s"])
    last, bands = _whole(data["max_iter"], f"{where}.max_iter"), _whole(data["s"], f"{where}.s")
    first = [last // factor**k for k in range(1, bands + 1) if last >= factor**k]
    if not first:
        raise UserError(f"{where}: max_iter {last} leaves no band at eta {factor}; write at least {factor}")
    return Halving(first[-1], factor)


def _whole(value: Any, where: str, least: int = 1) -> int:
    if number(value, where, least=least) != int(value):
        raise UserError(f"{where}: {value} is not a whole number")
    return int(value)


def _check(sweep: Sweep) -> None:
    if sweep.method == "grid":
        for name, entry in sweep.parameters.items():
            if entry.grid is None:
                name = ".".join(name)
                raise UserError(f"{sweep.path}: parameters.{name}: a grid has values, int_uniform or q_uniform")
    names = [".".join(path) for path in sweep.parameters]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{sweep.path}: parameters.{twice} is there twice, dotted and nested; keep one")
    if not sweep.searched:
        raise UserError(f"{sweep.path}: parameters: all are constant; give one of them values or a distribution")
    for file in sweep.configs:
        if not file.is_file():
            raise UserError(
                f"{sweep.path}: command: there is no file {file} here; start in the folder it is relative to"
            )


def _notes(data: dict) -> list[str]:
    """What is read another way than W&B's server would."""
    metric, stop = data.get("metric") or {}, data.get("early_terminate") or {}
    return [
        *(f"metric.{key} is not used here: failed trials are left out" for key in metric if key.startswith("impute")),
        *(["early_terminate.strict: false is not used here"] if stop.get("strict") is False else []),
        *(
            f"{name}: {entry['distribution']} takes exponents of e; for limits write {entry['distribution']}_values"
            for name, entry in data["parameters"].items()
            if str(entry.get("distribution")).endswith("log_uniform")
        ),
    ]
