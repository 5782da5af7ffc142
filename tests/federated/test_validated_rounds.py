"""Which rounds are validated, and what curves keep of them."""

import lightning as L
from torch import nn

from lit_fa.callbacks import Recorder
from lit_fa.datamodules import Digits, Federated
from lit_fa.federated import FedAvg, LocalSGD
from lit_fa.modules import FederatedClassifier


def test_curves_hold_the_rounds_that_were_validated_and_no_other():
    images = Digits(flatten=True, limit_train=80, limit_test=40)
    data = Federated(images, clients=4, clients_per_round=2, batch_size=10, local_epochs=1)
    module = FederatedClassifier(
        nn.Linear(64, 10), algorithm=FedAvg(), local_optimizer=LocalSGD(0.1), image_shape=(64,), executor="sequential",
        validate_every=5,
    )  # fmt: skip
    recorder = Recorder()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(
        max_epochs=23, accelerator="cpu", devices=1, callbacks=[recorder], enable_checkpointing=False, **quiet
    )
    trainer.fit(module, data)
    rounds = [step for step, _, _ in recorder.curves.points["val/accuracy"]]
    assert rounds == [5, 10, *range(14, 24)]  # and the last ten, of which papers report the mean
    assert [step for step, _, _ in recorder.curves.points["train/loss"]] == [*range(1, 24)]
