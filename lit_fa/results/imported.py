"""Records that others made: one file for each submission, checked when it is imported, and kept apart from ours.

A submission is a JSON file `{"submission": NAME, "from": WHO, "records": [...]}`; its records have the form of ours.
Each must hold its config, and its id must be the hash of that config, so that a number cannot stand beside another
experiment. The id of a table's run is the hash of the config that the table asks for, without defaults; an exported
record has it as `id_of_table`.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lit_fa.bounded_reading import bounded, read_json, reason
from lit_fa.errors import UserError
from lit_fa.escaping import plain, short
from lit_fa.outputs import write_text
from lit_fa.results.atlas import Entry
from lit_fa.results.nominal import Setup, setup
from lit_fa.results.record_schema import restored
from lit_fa.results.records import Record, misnamed, unfinished
from lit_fa.results.summary import summarise
from lit_fa.spec.expand import slug
from lit_fa.spec.overrides import run_id
from lit_fa.spec.table import Metric

FOLDER = "imported"
_KEYS = ("submission", "from", "records")
METRIC = Metric("test/accuracy", "%")


@dataclass(frozen=True)
class Submission:
    """A checked submission: its name, who made it, and its records."""

    path: Path
    name: str
    author: str
    records: tuple[Record, ...]


def load_submission(path: Path) -> Submission:
    """Reads and checks a submission.

    Raises:
        UserError: one line that names the file, the record and what is wrong with it.
    """
    where = plain(str(path))
    try:
        data = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{where}: cannot be read ({reason(error)}); give the JSON file of a submission") from None
    if not isinstance(data, dict) or not set(_KEYS) <= data.keys():
        raise UserError(f"{where}: is no submission; it has the keys {', '.join(_KEYS)} (lit-fa results export)")
    for key in ("submission", "from"):
        if not isinstance(data[key], str) or not data[key].strip() or plain(data[key]) != data[key]:
            raise UserError(f"{where}: {key} is not one line of text; write it")
    if not isinstance(data["records"], list) or not data["records"]:
        raise UserError(f"{where}: records is not a list with at least one record")
    records = tuple(_checked(record, f"{where}: records[{i}]", path) for i, record in enumerate(data["records"]))
    _refuse_twice([record.data["id"] for record in records], where)
    return Submission(path, data["submission"], data["from"], records)


def _refuse_twice(ids: Sequence[str], where: str) -> None:
    twice = [id for id, count in Counter(ids).items() if count > 1]
    if twice:
        raise UserError(f"{where}: the record {short(twice[0])} is there twice; keep one of the two")


def _checked(data: Any, where: str, path: Path) -> Record:
    if not isinstance(data, dict) or not isinstance(data.get("config"), dict):
        raise UserError(f"{where}: has no config; take records of schema 2, which contain theirs")
    own = run_id(data["config"])
    if data.get("id") != own:
        raise UserError(
            f"{where}: contradicts its own config: its id is {short(data.get('id'))}, that of its config {own}; "
            "import the record as the run wrote it"
        )
    seed = data["config"].get("seed_everything", data.get("seed"))
    if seed != data.get("seed"):
        raise UserError(f"{where}: contradicts its own config: its seed is {short(data.get('seed'))}, there {seed}")
    if problem := unfinished(data, own):
        raise UserError(f"{where}: {problem}; leave it out")
    return Record(path, restored(data)[0])


def import_submission(path: Path, folder: Path) -> Path:
    """Copies a checked submission to `folder`, with its SHA-256 and the date; returns the new file.

    Raises:
        UserError: as `load_submission`; or another submission of that name has been imported.
    """
    submission = load_submission(path)
    digest = hashlib.sha256(bounded(path)).hexdigest()
    target = folder / f"{slug(submission.name)}.json"
    if target.exists():
        if json.loads(target.read_text(encoding="utf-8")).get("sha256") == digest:
            return target
        raise UserError(f"{path}: another submission {submission.name!r} is in {folder}; rename this one")
    data = read_json(path) | {"sha256": digest, "imported": datetime.now(UTC).date().isoformat()}
    return write_text(target, json.dumps(data) + "\n", "import")


def export_submission(records: Sequence[Record], name: str, author: str, target: Path) -> None:
    """Writes records as a submission that `import_submission` accepts.

    Raises:
        UserError: a record that it would refuse, or the file cannot be written.
    """
    exported = [_exported(record) for record in records]
    for record, data in zip(records, exported, strict=True):
        _checked(data, plain(str(record.path)), record.path)
    _refuse_twice([data["id"] for data in exported], plain(str(target)))
    write_text(target, json.dumps({"submission": name, "from": author, "records": exported}) + "\n", "--to")


def _exported(record: Record) -> dict[str, Any]:
    """A record as a submission has it."""
    data = json.loads(bounded(record.path))
    if not (data.get("table") and isinstance(data.get("config"), dict)):
        return data
    if problem := misnamed(record):
        raise UserError(f"{plain(str(record.path))}: {problem}; run the table again")
    return data | {"id": run_id(data["config"]), "id_of_table": data["id"]}


def imported_entries(submission: Submission) -> Iterator[Entry]:
    """The accuracies of a submission, each a mean over the seeds of equal configs."""
    groups: dict[Setup, list[float]] = {}
    for record in submission.records:
        value = None if record.diverged else record.value(METRIC)
        if value is not None:
            groups.setdefault(setup(record.data["config"]), []).append(value)
    for run, values in groups.items():
        summary = summarise(values, METRIC)
        if summary.mean is None or summary.mean != summary.mean:
            continue
        yield Entry(
            origin="imported",
            nominal=run.nominal,
            layers=run.layers,
            training=run.training,
            epochs=run.epochs,
            selection="final epoch",
            value=summary.mean,
            std=summary.sd,
            interval=summary.interval,
            runs=summary.n,
            source=f"{submission.name}, {submission.author}",
            links=(str(submission.path),),
        )
