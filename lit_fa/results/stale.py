"""Records whose code has changed since they were written. They are reported, never refused.

If git knows the commit of a record, the files that its run can reach are compared one by one, without docstrings and
comments. Otherwise the hash of all our sources decides, which records contain since schema 2. A class that is not ours
has changed if its source or the version of its distribution has.
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

_COMMIT = re.compile(r"[0-9a-fA-F]{4,64}")  # a record may contain any text
SHOWN = 4  # files in a line
# Packages whose versions are recorded separately; another version does not make a record stale.
_VERSIONED = ("torch", "lightning", "torchvision", "timm", "numpy", "python")


def changed(record: dict[str, Any], config: dict[str, Any]) -> tuple[str, ...]:
    """What differs from the code that wrote a record: files of ours, and classes that are not ours; () if nothing.

    Args:
        record: the content of its file.
        config: of its run.
    """
    return _changed(record, reached(config))


def _changed(record: dict[str, Any], files: frozenset[str]) -> tuple[str, ...]:
    """As `changed`, of a run that can reach these files."""
    foreign = [name for name, source in (record.get("outside") or {}).items() if not _unchanged(source)]
    commits = [str(record.get("commit", "unknown")), *(record.get("resumed_from") or [])]
    if record.get("pretrained"):
        commits.append(str(record["pretrained"].get("commit")))
    parts = [_changed_files(commit, files) for commit in commits]
    if record.get("dirty") or any(part is None for part in parts):
        digest = record.get("sources")
        return tuple([*foreign, *(["the package's sources"] if digest and digest != sources() else [])])
    return tuple(dict.fromkeys([*foreign, *(file for part in parts for file in part or ())]))


def stale_line(collected: Collected) -> str:
    """`2 of 6 records are from code that has changed since: lit_fa/rules/flfa.py`; "" if none is."""
    by_record = changes(collected)
    files = sorted({file for change in by_record for file in change})
    if not files:
        return ""
    stale = sum(map(bool, by_record))
    more = f" and {len(files) - SHOWN} more" if len(files) > SHOWN else ""
    verb = "is" if stale == 1 else "are"
    names = plain(", ".join(files[:SHOWN]))
    return f"{stale} of {len(by_record)} records {verb} from code that has changed since: {names}{more}"


def changes(collected: Collected) -> list[tuple[str, ...]]:
    """For each finished or diverged record, what has changed since; all seeds of a cell reach the same files."""
    records = {cell.id: (*collected.of(cell), *collected.lost(cell)) for cell in collected.cells}
    files = {name: reached(collected.runs_of(name)[0].config) for name, of_cell in records.items() if of_cell}
    return [_changed(record.data, files[name]) for name, of_cell in records.items() for record in of_cell]


def of_other_code(record: Record, run: Run) -> bool:
    """Whether the code of the run's record differs from today's."""
    return bool(_changed(record.data, reached(run.config)))


@cache
def _changed_files(commit: str, files: frozenset[str]) -> tuple[str, ...] | None:
    """Those of the files whose code differs from that of a commit; None if git does not know it."""
    touched = _touched(commit)
    return None if touched is None else _different(commit, tuple(sorted(files & touched)))


@cache
def _touched(commit: str) -> frozenset[str] | None:
    """The files of the deciding packages whose text has changed since `commit`."""
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
        return {m.name: file.read().decode("utf-8", "replace") for m in members if (file := archive.extractfile(m))}


def _unchanged(source: str) -> bool:
    """Whether a class that is not ours has the recorded source: `peft 0.15.1`, or `my.rules sha256 ...`."""
    origin, _, rest = source.partition(" ")
    if rest.startswith("sha256 "):
        try:
            return source_of(origin) == rest
        except (OSError, ValueError):  # a name that no file can have
            return False
    return all(_version_is(*part.split(" ", 1)) for part in source.split(", ") if " " in part)


def _version_is(distribution: str, recorded: str) -> bool:
    if distribution in _VERSIONED:
        return True
    try:
        return version(distribution) == recorded
    except (PackageNotFoundError, ValueError):
        return False
