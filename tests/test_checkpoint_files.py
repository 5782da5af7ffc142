"""A checkpoint is written whole or not at all, and a damaged or dangerous one is noticed."""

import os
import resource
import zipfile
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins.io import AsyncCheckpointIO, TorchCheckpointIO

from lit_fa.checkpoints.files import UnreadableError, read, save, set_aside
from lit_fa.checkpoints.lightning_io import WholeCheckpointIO, use_whole_files
from lit_fa.errors import UserError
from tests.checkpoint_attacks import BROKEN, malicious

CONTENT = {"state_dict": {"w": torch.arange(5.0)}, "pytorch-lightning_version": "2.6.0", "hyper": {"a": (1, None, "x")}}


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "a.ckpt"
    save(CONTENT, path)
    return path


def same(found: dict) -> bool:
    return torch.equal(found["state_dict"]["w"], CONTENT["state_dict"]["w"]) and found["hyper"] == CONTENT["hyper"]


def test_torch_lightning_and_zip_still_read_a_file_with_a_digest(file):
    assert same(read(file))
    assert same(read(file, mmap=True))
    assert same(torch.load(file, weights_only=True))
    assert same(TorchCheckpointIO().load_checkpoint(file, weights_only=True))
    assert zipfile.ZipFile(file).comment.startswith(b"lit-fa sha256 ")
    assert [path.name for path in file.parent.iterdir()] == ["a.ckpt"]


def test_one_flipped_bit_anywhere_is_noticed(file):
    whole = file.read_bytes()
    places = {*range(0, len(whole), 7), *range(200), *range(len(whole) - 200, len(whole))}
    for place in sorted(places):
        content = bytearray(whole)
        content[place] ^= 1 << place % 8
        file.write_bytes(content)
        with pytest.raises(UnreadableError):
            read(file)


def test_a_cut_file_is_noticed_wherever_it_is_cut(file):
    whole = file.read_bytes()
    for length in (*range(0, len(whole), 61), *range(len(whole) - 100, len(whole))):
        file.write_bytes(whole[:length])
        with pytest.raises(UnreadableError):
            read(file)


def test_a_file_without_a_digest_is_read(tmp_path):
    for zipped in (True, False):
        torch.save(CONTENT, tmp_path / "b.ckpt", _use_new_zipfile_serialization=zipped)
        assert same(read(tmp_path / "b.ckpt"))


def test_a_file_that_would_run_code_is_refused_and_runs_nothing(tmp_path):
    malicious(tmp_path / "evil.ckpt", tmp_path / "proof")
    with pytest.raises(UnreadableError, match=r"more than plain data \(posix.mkdir\)") as refused:
        read(tmp_path / "evil.ckpt")
    assert refused.value.unsafe
    with pytest.raises(UnreadableError):
        WholeCheckpointIO().load_checkpoint(tmp_path / "evil.ckpt")
    with pytest.raises(UserError, match="cannot be fetched or read"):
        WholeCheckpointIO().load_checkpoint(f"file://{tmp_path}/evil.ckpt")
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_one_line_and_out_of_the_way_once_it_is_set_aside(kind, file):
    BROKEN[kind](file)
    if kind != "another":
        with pytest.raises(UnreadableError) as refused:
            read(file)
        assert "\n" not in str(refused.value)
    assert set_aside(file).name == "a.ckpt.unreadable"
    assert not file.exists()


def test_a_full_disk_leaves_the_old_file_and_nothing_else(file):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # a larger write fails, as on a full disk
    try:
        with pytest.raises(UserError, match=r"a\.ckpt: cannot be written \(File too large\); free space"):
            save({"state_dict": {"w": torch.zeros(100_000)}}, file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert same(read(file))
    assert [path.name for path in file.parent.iterdir()] == ["a.ckpt"]


def test_a_folder_for_temporary_files_is_not_needed(file, monkeypatch):
    monkeypatch.setenv("TMPDIR", "/nowhere")
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("tempfile.mkstemp", lambda *_, **__: pytest.fail("a temporary file elsewhere"))
    WholeCheckpointIO().save_checkpoint(CONTENT, file)
    assert same(read(file))


def test_what_a_killed_writer_has_left_goes_and_what_is_being_written_stays(file):
    gone, busy = file.with_name(".a.ckpt.1.part"), file.with_name(".a.ckpt.2.part")
    gone.touch()
    with busy.open("wb") as held:
        import fcntl

        fcntl.flock(held, fcntl.LOCK_EX)
        save(CONTENT, file)
        assert busy.exists()
        assert not gone.exists()


def test_a_trainer_of_our_modules_writes_files_with_a_digest_without_the_command_line(tmp_path):
    from lit_fa.datamodules import Digits
    from lit_fa.modules import Classifier

    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(max_steps=1, accelerator="cpu", limit_val_batches=0, default_root_dir=tmp_path, **quiet)
    trainer.fit(Classifier("mlp", image_shape=(1, 8, 8)), Digits())
    (kept,) = tmp_path.rglob("*.ckpt")
    assert zipfile.ZipFile(kept).comment.startswith(b"lit-fa sha256 ")
    assert os.stat(kept).st_mode & 0o444


@pytest.mark.parametrize("plugin", [AsyncCheckpointIO(), AsyncCheckpointIO(TorchCheckpointIO())])
def test_files_that_a_thread_writes_are_whole_too(plugin, tmp_path):
    trainer = L.Trainer(accelerator="cpu", plugins=[plugin], logger=False, enable_checkpointing=False)
    use_whole_files(trainer)
    trainer.strategy.checkpoint_io.save_checkpoint(CONTENT, tmp_path / "a.ckpt")
    trainer.strategy.checkpoint_io.teardown()
    assert trainer.strategy.checkpoint_io is plugin
    assert zipfile.ZipFile(tmp_path / "a.ckpt").comment.startswith(b"lit-fa sha256 ")
    assert same(trainer.strategy.checkpoint_io.load_checkpoint(tmp_path / "a.ckpt"))


def test_another_way_of_writing_inside_a_thread_is_kept():
    class Own(TorchCheckpointIO):
        pass

    plugin = AsyncCheckpointIO(own := Own())
    use_whole_files(L.Trainer(accelerator="cpu", plugins=[plugin], logger=False, enable_checkpointing=False))
    assert plugin.checkpoint_io is own
