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

import os
import re
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic.dataclasses
import yaml
from pydantic import AfterValidator, Field

from lit_fa.errors import UserError
from lit_fa.shipped import shipped
from lit_fa.spec.distributions import Parameter, parameter
from lit_fa.spec.overrides import run_id, without_machine
from lit_fa.spec.sweep_command import DEFAULT_COMMAND, fit_words
from lit_fa.spec.validation import (
    Count,
    Entry,
    FileName,
    Filled,
    Line,
    MetricName,
    Number,
    OneOf,
    read_yaml,
    validated,
    whole,
)

_UNUSED = ("name", "description", "entity", "apiVersion", "kind")  # keys of W&B's pages, not of the search
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*")
Keys = tuple[str, ...]  # of a parameter: its own, after those it is nested in


@pydantic.dataclasses.dataclass(frozen=True)
class Metric(Entry):
    """What a sweep is for; with a `target` it ends when a trial has reached it."""

    name: MetricName
    goal: Annotated[Literal["minimize", "maximize"], OneOf()] = "minimize"
    target: Number | None = None
    impute: Any = None
    impute_while_running: Any = None


@dataclass(frozen=True)
class Halving:
    """Successive halving: after `first` values, and every `factor` times as many, the best 1/factor go on."""

    first: int
    factor: int


@pydantic.dataclasses.dataclass(frozen=True)
class Hyperband(Entry):
    """W&B's hyperband has one bracket: it is successive halving, by its first band or counted down from `max_iter`."""

    type: Annotated[Literal["hyperband"], OneOf()]
    min_iter: Count | None = None
    max_iter: Count | None = None
    s: Count | None = None
    eta: Annotated[Number, Field(ge=2), AfterValidator(whole)] = 3
    strict: Any = None

    def halving(self, where: str) -> Halving:
        """The same in Optuna's terms.

        >>> Hyperband("hyperband", max_iter=27, s=2, eta=3).halving("")
        Halving(first=3, factor=3)
        """
        factor = int(self.eta)
        if self.min_iter is not None:
            return Halving(int(self.min_iter), factor)
        if self.max_iter is None or self.s is None:
            key = "max_iter" if self.max_iter is None else "s"
            raise UserError(f"{where}: the key {key!r} is missing; add it, or write min_iter")
        last = int(self.max_iter)
        first = [last // factor**k for k in range(1, int(self.s) + 1) if last >= factor**k]
        if not first:
            raise UserError(f"{where}: max_iter {last} leaves no band at eta {factor}; write at least {factor}")
        return Halving(first[-1], factor)


@pydantic.dataclasses.dataclass(frozen=True)
class Nested(Entry):
    """Parameters below a name."""

    parameters: Annotated[dict[str, Any], Filled]


@pydantic.dataclasses.dataclass(frozen=True)
class SweepFile(Entry):
    """The keys of a sweep file."""

    method: Annotated[Literal["grid", "random", "bayes"], OneOf()]
    parameters: Annotated[dict[str, Any], Filled]
    program: Any = None
    command: Annotated[list[Any], Filled] = field(default_factory=lambda: [*DEFAULT_COMMAND])
    metric: Metric | None = None
    early_terminate: Hyperband | None = None
    run_cap: Count | None = None
    project: Line = "lit-fa"


_MACHINE = ("accelerator", "devices", "num_nodes")  # options of the trainer that say what a run needs


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
        content = {
            key: value for key, value in self.declared.items() if key not in (*_UNUSED, "project", "run_cap", "command")
        }
        return self.trial_id(content)

    def trial_id(self, values: dict[str, Any]) -> str:
        """Of the run with these parameters: of the configs' content and the command's words, without its logger."""
        words = [word for part in self.command for word in part if not word.startswith("--trainer.logger")]
        configs = [without_machine(validated(dict[str, Any], read_yaml(file), str(file))) for file in self.configs]
        return run_id({"configs": configs, "words": words, "parameters": values})

    @property
    def configs(self) -> list[Path]:
        """The config files of the command."""
        words = [word for part in self.command for word in part]
        separate = [words[i + 1] for i, word in enumerate(words[:-1]) if word in ("--config", "-c")]
        joined = [word.partition("=")[2] for word in words if word.startswith("--config=")]
        return [shipped(Path(file)) for file in separate + joined]

    @property
    def trainers(self) -> list[dict[str, Any]]:
        """What the trainers of the trials may be: `accelerator`, `devices` and `num_nodes` where something sets them.

        A parameter of the sweep overrides a word of the command, and this the config files.
        """
        trainer: dict[str, list[Any]] = {}
        for file in self.configs:
            given = validated(dict[str, Any], read_yaml(file), str(file)).get("trainer") or {}
            trainer |= {name: [given[name]] for name in _MACHINE if name in given}
        words = [word for part in self.command for word in part]
        for word, following in zip(words, [*words[1:], ""], strict=True):
            name, equals, value = word.removeprefix("--trainer.").partition("=")
            if word.startswith("--trainer.") and name in _MACHINE:
                trainer[name] = [value if equals else following]
        for path, entry in self.parameters.items():
            whole, _, name = ".".join(path).partition(".")
            if whole == "trainer" and name in _MACHINE and entry.grid:
                trainer[name] = [*entry.grid]
        return [dict(zip(trainer, values, strict=True)) for values in product(*trainer.values())]

    def grid(self) -> list[dict[str, Any]]:
        """Every point of the grid as Optuna draws it, in W&B's order: the last name in the alphabet turns fastest."""
        axes = {name: p.choices for name, p in sorted(self.searched.items())}
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
    validated(FileName, path.stem, f"{path}: the file's name")
    read_yaml(path)  # its errors have a line number, and a key may not be there twice
    data = yaml.safe_load(path.read_text(encoding="utf-8"))  # to W&B 1e-3 is text, so it is here
    searched = {key: data[key] for key in data if key not in _UNUSED} if isinstance(data, dict) else data
    file = validated(SweepFile, searched, str(path))
    if file.metric is None and (file.method == "bayes" or file.early_terminate):
        example = "{name: val/accuracy, goal: maximize}"
        raise UserError(f"{path}: metric: bayes and early_terminate need one; write {example}")
    sweep = Sweep(
        path=path,
        method=file.method,
        metric=file.metric or Metric("val/accuracy", "maximize"),
        parameters=_parameters(file.parameters, f"{path}: parameters"),
        declared=data,
        command=fit_words(file.command, file.program, f"{path}: command"),
        halving=file.early_terminate.halving(f"{path}: early_terminate") if file.early_terminate else None,
        run_cap=None if file.run_cap is None else int(file.run_cap),
        project=file.project,
        notes=tuple(_notes(data)),
    )
    _check(sweep)
    return sweep


def _parameters(data: dict[str, Any], where: str, above: Keys = ()) -> dict[Keys, Parameter]:
    parameters: dict[Keys, Parameter] = {}
    for name, entry in data.items():
        entry_where = f"{where}.{name}"
        if not _NAME.fullmatch(name):
            raise UserError(f"{entry_where}: a name has letters, digits, dots, dashes and underscores")
        if "parameters" in validated(dict[str, Any], entry, entry_where):
            nested = validated(Nested, entry, entry_where).parameters
            parameters |= _parameters(nested, entry_where, (*above, name))
        else:
            parameters[(*above, name)] = parameter(entry, entry_where)
    return parameters


def _check(sweep: Sweep) -> None:
    if sweep.method == "grid":
        for path, entry in sweep.parameters.items():
            if entry.grid is None:
                raise UserError(
                    f"{sweep.path}: parameters.{'.'.join(path)}: a grid has values, int_uniform or q_uniform"
                )
    names = [".".join(path) for path in sweep.parameters]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{sweep.path}: parameters.{twice} is there twice, dotted and nested; keep one")
    if not sweep.searched:
        raise UserError(f"{sweep.path}: parameters: all are constant; give one of them values or a distribution")
    for file in sweep.configs:
        if not os.path.isfile(file):  # Path.is_file raises an error for a name that is too long
            name = str(file)[:100]
            raise UserError(f"{sweep.path}: command: there is no file {name} here; start in the folder of its path")


def _notes(data: dict[str, Any]) -> list[str]:
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
