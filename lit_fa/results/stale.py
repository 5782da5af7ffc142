"""Records whose code is no longer today's: told, never refused.

Where git knows the commit of a record, the files that its run can reach are compared one by one, without docstrings and
comments. Elsewhere the hash of all our sources decides, which records have from schema 2 on. A class that is not ours
has changed where its source or its distribution's version has.
"""

import io
import re
import tarfile
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from lit_fa.escaping import plain
from lit_fa.provenance import DECIDING, ROOT, code_digest, git, git_bytes, source_of, sources
from lit_fa.results.reachable_files import reached
from lit_fa.results.records import Collected, Record
from lit_fa.spec.expand import Run

_COMMIT = re.compile(r"[0-9a-fA-F]{4,64}")  # a record may say anything
SHOWN = 4  # files in a line
# Packages of which a record says the version anyway; another one is not other code.
_VERSIONED = ("torch", "lightning", "torchvision", "timm", "numpy", "python")


def changed(record: dict[str, Any], config: dict[str, Any]) -> tuple[str, ...]:
    """What differs today from the code that a record was made by: files, and classes that are not ours; () if nothing.

    Args:
        record: as it was read.
        config: of its run.
    """
    found = [name for name, said in (record.get("outside") or {}).items() if not _still(said)]
    commits = [str(record.get("commit", "unknown")), *(record.get("resumed_from") or [])]
    if record.get("pretrained"):
        commits.append(str(record["pretrained"].get("commit")))
    parts = [_since(commit, config) for commit in commits]
    if record.get("dirty") or any(part is None for part in parts):
        noted = record.get("sources")
        return tuple([*found, *(["the package's sources"] if noted and noted != sources() else [])])
    return tuple(dict.fromkeys([*found, *(file for part in parts for file in part or ())]))


def stale_line(collected: Collected) -> str:
    """`2 of 6 records are from code that has changed since: lit_fa/rules/flfa.py`; "" where none is."""
    found = changes(collected)
    files = sorted({file for change in found for file in change})
    if not files:
        return ""
    stale = sum(bool(change) for change in found)
    more = f" and {len(files) - SHOWN} more" if len(files) > SHOWN else ""
    verb = "is" if stale == 1 else "are"
    named = plain(", ".join(files[:SHOWN]))
    return f"{stale} of {len(found)} records {verb} from code that has changed since: {named}{more}"


def changes(collected: Collected) -> list[tuple[str, ...]]:
    """Of each record, finished or diverged, what has changed since."""
    configs = {(run.cell.id, run.seed): run.config for run in collected.runs}
    cells = [(cell, record) for cell in collected.cells for record in (*collected.of(cell), *collected.lost(cell))]
    return [changed(record.data, configs[cell.id, record.seed]) for cell, record in cells]


def of_other_code(record: Record, run: Run) -> bool:
    """Whether the code of the run's record differs from today's."""
    return bool(changed(record.data, run.config))


def _since(commit: str, config: dict[str, Any]) -> tuple[str, ...] | None:
    """The files that a config reaches whose code differs from that of a commit; None where git does not know it."""
    touched = _touched(commit)
    return None if touched is None else _different(commit, tuple(sorted(reached(config) & touched)))


@cache
def _touched(commit: str) -> frozenset[str] | None:
    """The files of the deciding packages whose text is not what it was at `commit`."""
    if not _COMMIT.fullmatch(commit):
        return None
    printed = git(ROOT, "diff", "--no-renames", "--name-only", commit, "--", *DECIDING)
    return None if printed is None else frozenset(printed.splitlines())


@cache
def _different(commit: str, files: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(file for file in files if _code_then(commit, file) != _code_now(file))


@cache
def _code_then(commit: str, file: str) -> str:
    return code_digest(_texts(commit).get(file, ""))


@cache
def _code_now(file: str) -> str:
    return code_digest((ROOT / file).read_text(encoding="utf-8"))


@cache
def _texts(commit: str) -> dict[str, str]:
    """The Python files of the deciding packages as they were at a commit."""
    packed = git_bytes(ROOT, "archive", "--format=tar", commit, "--", *{package.split("/")[0] for package in DECIDING})
    if packed is None:
        return {}
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        members = [member for member in archive if member.isfile() and member.name.endswith(".py")]
        return {m.name: archive.extractfile(m).read().decode("utf-8", "replace") for m in members}


def _still(said: str) -> bool:
    """Whether the code is what a record says of a class that is not ours: `peft 0.15.1`, or `my.rules sha256 ...`."""
    origin, _, rest = said.partition(" ")
    if rest.startswith("sha256 "):
        try:
            return source_of(origin) == rest
        except (OSError, ValueError):  # a name that no file can have
            return False
    return all(_version_is(*part.split(" ", 1)) for part in said.split(", ") if " " in part)


def _version_is(distribution: str, noted: str) -> bool:
    if distribution in _VERSIONED:
        return True
    try:
        return version(distribution) == noted
    except (PackageNotFoundError, ValueError):
        return False
