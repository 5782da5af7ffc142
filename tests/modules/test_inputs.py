"""What a rule is installed on has the shape of a batch, and a batch of one sample is known before training."""

import lightning as L
import pytest
import torch
from torch import nn

from lit_fa.datamodules import Digits, Federated
from lit_fa.errors import UserError
from lit_fa.experiment import build
from lit_fa.federated import LocalSGD
from lit_fa.modules import Classifier, FederatedClassifier
from lit_fa.rules import ForwardForward

QUIET = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)


def trainer(**options) -> L.Trainer:
    return L.Trainer(**QUIET, **({"accelerator": "cpu", "max_epochs": 1, "limit_val_batches": 0} | options))


@pytest.mark.parametrize("flatten", [True, False])
@pytest.mark.parametrize("kind", ["Classifier", "FederatedClassifier"])
def test_the_command_line_installs_on_the_shape_of_a_batch(flatten, kind):
    data = {"class_path": "Digits", "init_args": {"flatten": flatten}}
    if kind == "FederatedClassifier":
        data = {"class_path": "Federated", "init_args": {"data": data, "clients": 4, "clients_per_round": 2}}
    _, model, data = build({"model": {"class_path": kind, "init_args": {"network": "mlp"}}, "data": data})
    assert model.shown == ((64,) if flatten else (1, 8, 8)) == data.sample_shape


class SharesOfPixels(ForwardForward):
    """A rule that reads the shape of what it is installed on."""

    def install(self, network, example, criterion):
        self.pixels = example.shape[1:]
        return super().install(network, example, criterion)

    def surrogate(self, network, batch, criterion):
        batch[0].view(-1, *self.pixels)
        assert batch[0].shape[1:] == self.pixels
        return super().surrogate(network, batch, criterion)


def test_the_first_batch_is_compared_with_it():
    data = Digits(flatten=True)
    shapes = {"image_shape": data.image_shape, "network_args": {"hidden": [8]}}
    with pytest.raises(
        UserError, match=r"shape \(64,\) \(the data have flatten: true\), .* on \(1, 8, 8\): give the mod"
    ):
        trainer().fit(Classifier("mlp", **shapes), data)
    for reads in ("validate", "test", "predict", "fit"):
        with pytest.raises(UserError, match=r"input_shape=\(64,\)"):
            getattr(trainer(limit_val_batches=1), reads)(
                Classifier("mlp", **shapes | {"image_shape": (1, 28, 28)}), data
            )
    federated = FederatedClassifier("mlp", executor="sequential", **shapes)
    with pytest.raises(UserError, match=r"input_shape=\(64,\)"):
        trainer().fit(federated, Federated(data, 4, 2))
    trainer(limit_train_batches=1).fit(
        Classifier("mlp", SharesOfPixels(), input_shape=data.sample_shape, **shapes), data
    )


def normalised(*, flat: bool, positions: int = 1) -> nn.Module:
    front = [nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8)]
    if not flat:
        front = [nn.AdaptiveAvgPool2d(positions), nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(positions**2, 8)]
    return nn.Sequential(*front, nn.ReLU(), nn.Linear(8, 10))


REST = (
    r"a training batch has one sample, which BatchNorm cannot normalise .*: set the data's drop_last: true, or another"
)


def data(n: int = 65, **options) -> Digits:
    return Digits(batch_size=64, limit_train=n, **options)


@pytest.mark.parametrize("network", [normalised(flat=True), normalised(flat=False)])
def test_a_last_batch_of_one_before_batch_norm_is_refused_before_training(network):
    run = trainer()
    with pytest.raises(UserError, match=REST):
        run.fit(Classifier(network, image_shape=(1, 8, 8)), data())
    assert run.global_step == 0


@pytest.mark.parametrize(
    ("network", "images", "options"),
    [
        (normalised(flat=True), data(66), {}),
        (normalised(flat=True), data(drop_last=True), {}),
        (normalised(flat=True), data(), {"limit_train_batches": 1}),
        (normalised(flat=False, positions=2), data(), {}),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10)), data(), {}),
    ],
)
def test_what_batch_norm_can_normalise_trains(network, images, options):
    run = trainer(**options)
    run.fit(Classifier(network, image_shape=(1, 8, 8)), images)
    assert run.global_step > 0


def test_statistics_that_do_not_move_take_one_sample():
    network = normalised(flat=True)
    network[2].eval()
    run = trainer()
    run.fit(Classifier(network, image_shape=(1, 8, 8)), data())
    assert run.global_step > 0


def test_a_rank_with_one_sample_and_a_foreign_loader_are_known():
    from lit_fa.datamodules.batches import BatchLoader
    from lit_fa.datamodules.image_set import InMemory
    from lit_fa.modules.inputs import smallest_batch

    samples = InMemory(torch.zeros(67, 1), torch.zeros(67, dtype=torch.int64))
    assert [BatchLoader(samples, 64, shuffle=True, world_size=n).smallest() for n in (1, 2, 3, 4)] == [3, 1, 1, 1]
    foreign = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(samples.images), batch_size=11)
    assert [smallest_batch(foreign, batches) for batches in (None, 7, 6)] == [1, 1, 11]


def test_a_client_with_one_image_left_over_is_known():
    images = Digits(limit_train=100)
    network = normalised(flat=True)
    module = FederatedClassifier(network, local_optimizer=LocalSGD(0.1), executor="sequential", image_shape=(1, 8, 8))
    with pytest.raises(UserError, match="a client's batch has one sample"):
        trainer(max_epochs=3).fit(module, Federated(images, clients=4, clients_per_round=2, batch_size=12))
    trainer().fit(module, Federated(images, clients=4, clients_per_round=2, batch_size=12, drop_last=True))
