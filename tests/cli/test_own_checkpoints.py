"""A cell's own checkpoint: taken up where it is whole, out of the way where it is not, gone when the cell is done."""

import copy
import json
import logging
import os
from pathlib import Path

import pytest

from lit_fa.experiment import run
from lit_fa.jobs.lock import clear, lock_of, locked
from tests.checkpoint_attacks import BROKEN, malicious
from tests.cli.test_command_line import RUN
from tests.cli.test_equal_runs import TIMES

CELL = copy.deepcopy(RUN)
CELL["trainer"] |= {"max_epochs": 2, "limit_train_batches": 2, "limit_val_batches": 1, "limit_test_batches": 1}


class StoppedError(Exception):
    """In place of a kill."""


def train(folder: Path, config: dict = CELL, observers: tuple = ()) -> dict:
    path = folder / "r.json"
    run(copy.deepcopy(config), {"path": str(path), "id": "a"}, observers=observers)
    return {key: value for key, value in json.loads(path.read_text()).items() if key not in TIMES}


def killed_after_an_epoch(folder: Path, config: dict = CELL) -> Path:
    from lightning.pytorch.callbacks import LambdaCallback

    def stop(trainer, _):
        if trainer.current_epoch == 1:
            raise StoppedError

    with pytest.raises(StoppedError):
        train(folder, config, (LambdaCallback(on_train_epoch_start=stop),))
    return folder / ".r" / "last.ckpt"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict:
    return train(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("kind", [*BROKEN, "malicious", "of another rule"])
def test_a_cell_begins_afresh_where_its_checkpoint_cannot_be_used(kind, whole, tmp_path, caplog):
    if kind == "of another rule":
        other = copy.deepcopy(CELL)
        other["model"]["init_args"]["rule"] = {"class_path": "Backprop"}
        killed_after_an_epoch(tmp_path, other)
    elif kind == "malicious":
        malicious(tmp_path / ".r" / "last.ckpt", tmp_path / "proof")
    else:
        BROKEN[kind](killed_after_an_epoch(tmp_path))
    assert train(tmp_path) == whole
    assert not (tmp_path / "proof").exists()
    (line,) = [entry.getMessage() for entry in caplog.records if entry.name == "lit_fa.checkpoints.resume"]
    assert "last.ckpt cannot be used (" in line
    assert line.endswith("renamed to last.ckpt.unreadable, the run begins afresh")
    assert [file.name for file in tmp_path.iterdir()] == ["r.json"]


def test_a_cell_goes_on_from_a_whole_checkpoint(whole, tmp_path, caplog):
    killed_after_an_epoch(tmp_path)
    with caplog.at_level(logging.INFO, logger="lightning.pytorch"):
        assert train(tmp_path) == whole
    assert "Restored all states" in caplog.text


def test_what_a_killed_process_has_left_beside_a_record_is_removed(tmp_path):
    record, claim, folder = tmp_path / "r.json", tmp_path / ".r.claim", tmp_path / ".r"
    folder.mkdir()
    for file in (folder / "last.ckpt", claim, record):
        file.touch()
    with locked(lock_of(record)):
        clear(record)
        assert folder.exists()  # somebody trains it again
    os.utime(folder / "last.ckpt", (2**31, 2**31))
    clear(record)
    assert folder.exists()  # of a later run than the record's
    os.utime(folder / "last.ckpt", (1, 1))
    clear(record)
    assert [file.name for file in tmp_path.iterdir()] == ["r.json"]
