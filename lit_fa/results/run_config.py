"""The config of a recorded run, for running it again.

Records contain it since schema 2. The config of an older record is rebuilt from the table's file at the record's
commit, as git stores it. Where git does not know the commit, the table as it is now serves if it has a run of the same
id, because the id is a hash of the config.
"""

import os
import re
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from lit_fa.config.yaml_reader import load
from lit_fa.errors import UserError
from lit_fa.escaping import plain, short
from lit_fa.provenance import git, git_bytes
from lit_fa.spec.cell import Cell
from lit_fa.spec.expand import resolve
from lit_fa.spec.grid import Grid, cross
from lit_fa.spec.overrides import run_id, without_machine
from lit_fa.spec.table import Scale, Table
from lit_fa.spec.validation import validated

_COMMIT = re.compile(r"[0-9a-fA-F]{4,64}")  # a record may contain any text
_CELL = ("row", "column", "set", "scales")  # what decides the config of a cell
_SIDE = ("set", "scales")


def config_of(record: dict[str, Any], table: Table) -> tuple[dict[str, Any], str]:
    """The config of a record's run, and where it comes from, such as "the table at commit 1234567".

    Args:
        record: the content of its file: `config`, if any, is the config itself or the path of one in the project.
        table: that the record belongs to.

    Raises:
        UserError: there is no config; the reason in one line.
    """
    own = record.get("config")
    if isinstance(own, dict):
        _check_own(own, record)
        asked = without_machine(_run_of_today(record, table) or {})
        return _on_this_machine(_with_nulls(own, asked), record), "the record"
    try:
        commit = _commit(record)
        if isinstance(own, str):
            return _read(table, commit, own), f"{plain(own)} at commit {commit[:7]}"
        return _from_table(table, commit, record), f"the table at commit {commit[:7]}"
    except UserError as error:
        config = _run_of_today(record, table)
        if config is None:
            raise UserError(f"its config is gone: the record has none, and {error}") from None
        return config, "the table as it is now, which has a run of the same id"


def _check_own(config: dict[str, Any], record: dict[str, Any]) -> None:
    """Refuses a recorded config that cannot be the run's."""
    if not isinstance(config.get("trainer") or {}, dict):
        raise UserError(f"its config cannot be read: trainer is {short(config['trainer'])}; run the table again")
    seed = config.get("seed_everything", record.get("seed"))
    if seed != record.get("seed"):
        raise UserError(f"it contradicts its config: its seed is {short(record.get('seed'))}, there {short(seed)}")


def _on_this_machine(config: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    """A recorded config, which names no device and no logger, with those that a rerun needs."""
    gpu = (record.get("hardware") or {}).get("gpu")
    machine = {"accelerator": "auto" if gpu else "cpu", "devices": 1, "logger": False}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    return config | {"trainer": machine | quiet | (config.get("trainer") or {})}


def _with_nulls(recorded: Any, asked: Any) -> Any:
    """A recorded config with the nulls of the config that was asked for, which older records lack.

    Without them a null that is not its option's default would mean that default.
    """
    if isinstance(recorded, list) and isinstance(asked, list) and len(recorded) == len(asked):
        return [_with_nulls(*pair) for pair in zip(recorded, asked, strict=True)]
    if not (isinstance(recorded, dict) and isinstance(asked, dict)):
        return recorded
    missing = {key: None for key, value in asked.items() if value is None and key not in recorded}
    return {key: _with_nulls(value, asked.get(key)) for key, value in recorded.items()} | missing


def _commit(record: dict[str, Any]) -> str:
    commit = str(record.get("commit", "unknown"))
    if not _COMMIT.fullmatch(commit):
        raise UserError(f"its commit is {short(commit)}")
    return commit


def _read(table: Table, commit: str, path: str) -> dict[str, Any]:
    """The YAML file at a path below the project's folder, as it was at a commit."""
    folder = table.path.resolve().parent
    if git(folder, "rev-parse", "--show-toplevel") is None:
        raise UserError("there is no git, or no repository, to rebuild it from")
    if git(folder, "cat-file", "-e", f"{commit}^{{commit}}") is None:
        raise UserError(f"git does not know its commit {commit[:12]} here: fetch the whole history")
    path = os.path.normpath(path)
    data = None if path.startswith(("..", "/")) else git_bytes(folder, "cat-file", "blob", f"{commit}:{path}")
    if data is None:
        raise UserError(f"commit {commit[:12]} has no file {plain(path)}")
    return validated(dict[str, Any], load(data.decode("utf-8-sig", "replace"), plain(path)), plain(path))


def _from_table(table: Table, commit: str, record: dict[str, Any]) -> dict[str, Any]:
    """The config of the record's run by the table's file at a commit.

    Only the keys that decide a config are read: others may have been renamed since.
    """
    folder = table.path.resolve().parent
    place = git(folder, "rev-parse", "--show-prefix")
    path = PurePosixPath(place or "") / table.path.name
    file = _read(table, commit, str(path))
    base = _read(table, commit, str(path.parent / str(file.get("base"))))
    entry = (file.get("scales") or {"full": {}}).get(record.get("scale")) or {}
    then = replace(table, base=base, seeded=tuple(file.get("seeded") or ()))
    protocol = next(iter(table.scales.values())).protocol  # all scales of a table have one
    scale = Scale(str(record.get("scale")), (), entry.get("set") or {}, protocol=protocol)
    for cell in _cells(file, table, str(path)):
        if (cell.row, cell.column) == (record.get("row"), record.get("column")):
            config = resolve(then, cell, scale, record["seed"])
            if run_id(config) == record.get("id"):
                return config
    raise UserError(f"the table at commit {commit[:12]} has no run of its id")


def _cells(file: dict[str, Any], table: Table, where: str) -> list[Cell]:
    entries = [_only(entry, _CELL) for entry in file.get("cells") or ()]
    if grid := file.get("grid"):
        sides = {axis: {k: _only(v or {}, _SIDE) for k, v in grid[axis].items()} for axis in ("rows", "columns")}
        crossed = cross(validated(Grid, sides, where), list(file.get("scales") or ("full",)), where)
        entries += [{"row": entry.row, "column": entry.column, "set": entry.set} for entry in crossed]
    return [
        Cell(str(e["row"]), str(e.get("column", "")), e.get("set") or {}, table.metric, tuple(table.scales))
        for e in entries
    ]


def _only(entry: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key in keys and value is not None}


def _run_of_today(record: dict[str, Any], table: Table) -> dict[str, Any] | None:
    """The config of the run that has the record's id in the table as it is now."""
    scale = table.scales.get(str(record.get("scale")))
    if scale is None:
        return None
    for cell in table.cells:
        if (cell.row, cell.column) == (record.get("row"), record.get("column")):
            config = resolve(table, cell, scale, record["seed"])
            if run_id(config) == record.get("id"):
                return config
    return None
