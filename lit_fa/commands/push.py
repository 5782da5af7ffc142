"""`lit-fa push RECORD_OR_CHECKPOINT --repo OWNER/NAME`: a trained network to a model hub, with a card.

The folder has safetensors, the module's arguments, the record and a card made from it. The record gets the SHA-256 of
the weights; its id is the hash of the config, which this does not change.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_fa.bounded_reading import read_json
from lit_fa.callbacks.run_record import write_json
from lit_fa.checkpoints.loading import newest_checkpoint, read_checkpoint
from lit_fa.checkpoints.pushed import WEIGHTS, write_module
from lit_fa.config.arguments import Arguments, file_path, nonempty
from lit_fa.errors import UserError, one_line
from lit_fa.hub.card import card, siblings_of
from lit_fa.hub.upload import check_target, upload
from lit_fa.outputs import writable_folder, write_text

RECORD = "record.json"


def main(argv: Sequence[str]) -> int:
    """Runs `lit-fa push <argv>` and returns the exit code."""
    arguments = _parser().parse_args(argv)
    record_file, checkpoint_file = found(arguments.path, arguments.ckpt_path)
    record, checkpoint = _record(record_file), read_checkpoint(checkpoint_file)
    _check_same_run(record, checkpoint, checkpoint_file)
    if arguments.dry_run:
        folder = arguments.out or Path(f"{arguments.repo.rpartition('/')[2]}-pushed")
        _check_empty(folder)
        digest = _write(folder, record_file, record, checkpoint, arguments)
        print(f"{folder}: {WEIGHTS} sha256 {digest}; nothing was sent")
        return 0
    api = check_target(arguments.repo, arguments.endpoint)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / arguments.repo.rpartition("/")[2]
        digest = _write(folder, record_file, record, checkpoint, arguments)
        address = upload(api, folder, arguments.repo, private=arguments.private, overwrite=arguments.overwrite)
    write_json(record_file, _noted(record, arguments.repo, digest), follow=False)
    print(f"{address}: {WEIGHTS} sha256 {digest}, noted in {record_file}")
    return 0


def found(path: Path, ckpt_path: Path | None) -> tuple[Path, Path]:
    """The files of the record and of the checkpoint.

    Args:
        path: a record, a checkpoint, or the folder of a run.
        ckpt_path: the checkpoint of a record that has none in its folder.

    Raises:
        UserError: one of them is missing.
    """
    if path.suffix == ".json":
        record, place = path, ckpt_path or path.parent
    else:
        place = ckpt_path or path
        around = [path, *path.parents[:2]]
        record = next((folder / RECORD for folder in around if (folder / RECORD).is_file()), path / RECORD)
    if not record.is_file():
        raise UserError(f"{path}: there is no record ({RECORD}) there, from which the card is made; name the record")
    if not place.exists():
        raise UserError(f"there is no checkpoint {place}: give its path with --ckpt_path")
    if place.is_dir() and not any(place.rglob("*.ckpt")):
        raise UserError(f"{place} holds no checkpoint; the runs of a table keep none: give one with --ckpt_path")
    return record, newest_checkpoint(place)


def _record(file: Path) -> dict[str, Any]:
    try:
        record = read_json(file, flat="curves")
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({one_line(error)}): name a record of a run") from None
    if not isinstance(record, dict) or not isinstance(record.get("config"), dict):
        raise UserError(f"{file} is no record of a run, or one without its config: name another one")
    return record


def _check_same_run(record: dict[str, Any], checkpoint: dict[str, Any], file: Path) -> None:
    """Refuse the checkpoint of another rule than the record's, whose card would be wrong."""
    there = _rule((checkpoint.get("constructor") or {}).get("init_args") or {})
    here = _rule((record["config"].get("model") or {}).get("init_args") or {})
    if there != here:
        raise UserError(f"{file} is of {there}, and the record is of {here}: give the checkpoint of the same run")


def _rule(options: dict[str, Any]) -> str:
    rule = options.get("rule") or "Backprop"
    return str(rule.get("class_path") if isinstance(rule, dict) else rule).rpartition(".")[2]


def _check_empty(folder: Path) -> None:
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty: name another folder with --out, or remove it")
    writable_folder(folder, "--out")


def _write(
    folder: Path, file: Path, record: dict[str, Any], checkpoint: dict[str, Any], arguments: argparse.Namespace
) -> str:
    digest = write_module(checkpoint, folder)
    text = card(record, siblings_of(file, record), arguments.repo, digest, arguments.licence)
    write_text(folder / "README.md", text)
    write_text(folder / RECORD, json.dumps(_noted(record, arguments.repo, digest), separators=(",", ":")))
    return digest


def _noted(record: dict[str, Any], repo: str, digest: str) -> dict[str, Any]:
    """The record with what was pushed; an earlier note of the same repository is replaced."""
    others = [note for note in record.get("pushed") or [] if isinstance(note, dict) and note.get("repo") != repo]
    return record | {"pushed": [*others, {"repo": repo, "file": WEIGHTS, "sha256": digest}]}


def _parser() -> Arguments:
    parser = Arguments(prog="lit-fa push", description="A trained network to a model hub, with a card of its record.")
    parser.add_argument("path", type=file_path, metavar="RECORD_OR_CHECKPOINT", help="or the folder of a run")
    parser.add_argument("--repo", required=True, type=nonempty, metavar="OWNER/NAME", help="it is made if needed")
    parser.add_argument("--ckpt_path", type=file_path, metavar="FILE", help="the checkpoint of a record without one")
    parser.add_argument("--endpoint", type=nonempty, metavar="URL", help="of the hub; default: HF_ENDPOINT, or its own")
    parser.add_argument("--private", action="store_true", help="make the repository visible to its owner only")
    parser.add_argument("--overwrite", action="store_true", help="replace weights that are there")
    parser.add_argument("--licence", default="", metavar="ID", help="of the weights, as the hub calls it: mit, ...")
    parser.add_argument("--dry-run", action="store_true", help="write the folder and send nothing")
    parser.add_argument("--out", type=file_path, metavar="FOLDER", help="of --dry-run; default: NAME-pushed")
    return parser
