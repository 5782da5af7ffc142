import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_fa.datamodules import DataError, Synthetic

# the resumed runs keep no checkpoints of their own
pytestmark = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
BATCHES, EPOCHS = 4, 3


class Witness(L.LightningModule):
    """Trains one weight and writes down a checksum of every batch it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, float, int]] = []

    def training_step(self, batch, batch_index):
        images, labels = batch
        weights = torch.arange(1, images.numel() + 1).view_as(images)
        self.seen.append((self.current_epoch, (images * weights).sum().item(), hash(tuple(labels.tolist()))))
        return self.weight * images.mean()

    def validation_step(self, batch, batch_index):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def data(**options) -> Synthetic:
    settings = {"n_train": 30, "n_test": 10, "image_shape": (1, 8, 8), "batch_size": 8, "label_noise": 0.2} | options
    return Synthetic(augment="crop_flip", **settings)


def run(folder, *, checkpoint=None, resume=None, **options):
    model = Witness()
    callbacks = [checkpoint] if checkpoint else []
    trainer = L.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=False,
        default_root_dir=folder,
        callbacks=callbacks,
        enable_checkpointing=bool(checkpoint),
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, data(**options), ckpt_path=resume)
    return model


@pytest.fixture(scope="module")
def every_step(tmp_path_factory):
    """One run with a checkpoint after every step: what it saw and the folder of its checkpoints."""
    folder = tmp_path_factory.mktemp("every_step")
    keep = ModelCheckpoint(folder, "step{step}", save_top_k=-1, every_n_train_steps=1, auto_insert_metric_name=False)
    return run(folder, checkpoint=keep).seen, folder


def test_a_run_sees_different_batches_in_every_step(every_step):
    seen, _ = every_step
    assert len(set(seen)) == BATCHES * EPOCHS


@pytest.mark.parametrize("step", range(1, BATCHES * EPOCHS))
def test_a_run_stopped_after_any_step_goes_on_with_the_very_next_batch(every_step, tmp_path, step):
    seen, folder = every_step
    assert run(tmp_path, resume=folder / f"step{step}.ckpt").seen == seen[step:]


@pytest.mark.parametrize("on_train_epoch_end", [True, False])
def test_a_run_stopped_between_epochs_goes_on_with_the_next_epoch(every_step, tmp_path, on_train_epoch_end):
    keep = ModelCheckpoint(tmp_path, "e{epoch}", save_top_k=-1, save_on_train_epoch_end=on_train_epoch_end)
    run(tmp_path, checkpoint=keep)
    seen, _ = every_step
    saved = sorted(tmp_path.glob("*.ckpt"))
    assert len(saved) == EPOCHS
    for done, path in enumerate(saved[:-1], start=1):
        assert run(tmp_path, resume=path).seen == seen[done * BATCHES :]


def test_resuming_mid_epoch_with_another_batch_size_is_refused(every_step, tmp_path):
    with pytest.raises(DataError, match="batch_size=8"):
        run(tmp_path, resume=every_step[1] / "step2.ckpt", batch_size=5)


def test_resuming_between_epochs_with_another_batch_size_is_allowed(every_step, tmp_path):
    assert len(run(tmp_path, resume=every_step[1] / f"step{BATCHES}.ckpt", batch_size=15).seen) == 2 * (EPOCHS - 1)


def test_a_loader_taken_up_at_the_end_of_an_epoch_starts_the_next_one():
    datamodule = data()
    datamodule.setup()
    loader = datamodule.train_dataloader()
    list(loader)
    other = datamodule.train_dataloader()
    other.load_state_dict(loader.state_dict())
    assert len(list(other)) == BATCHES
