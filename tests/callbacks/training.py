"""Small networks, a noisy toy task, and one call that trains."""

import logging
from itertools import pairwise

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lit_fa.modules import Classifier

logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
CLASSES, IMAGE = 3, (1, 4, 4)


def task(samples=48, dtype=torch.float64):
    """Images and labels of which a third is noise."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(samples, *IMAGE, generator=generator, dtype=torch.float64)
    y = x.flatten(1)[:, :CLASSES].argmax(1)
    noise = torch.rand(samples, generator=generator) < 1 / 3
    return x.to(dtype), torch.where(noise, torch.randint(CLASSES, (samples,), generator=generator), y)


def mlp(hidden=(8, 6), activation=nn.ReLU, bias=True):
    """Layers 1, 3, 5, ...; hidden layers are followed by `activation`."""
    widths, links = [16, *hidden], [nn.Flatten()]
    for i, o in pairwise(widths):
        links += [nn.Linear(i, o, bias=bias), activation()]
    return nn.Sequential(*links, nn.Linear(widths[-1], CLASSES, bias=bias))


def conv_net():
    """conv 0, conv 3, linear 7."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 5, 3, padding=1, bias=False), nn.LeakyReLU(), nn.AvgPool2d(2, ceil_mode=True), nn.Flatten(),
        nn.Linear(5, CLASSES),
    )  # fmt: skip


def flat_conv_net():
    """conv 0 with maps of 2 x 2 that linear 4 reads flattened, linear 6."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, CLASSES),
    )  # fmt: skip


def norm_net():
    """BatchNorm and dropout: linear 1, linear 5, linear 8."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3),
        nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, CLASSES),
    )  # fmt: skip


def fit(network, rule, callbacks=(), *, lr=0.1, epochs=2, batches=None, sgd=None, double=True, test=False, **options):
    """Train; returns (trainer, classifier).

    `batches`: a list of batches for one epoch, in the place of the shuffled task, without a global draw.
    `sgd`: further options of SGD. `test`: test afterwards. `options`: of the classifier.
    """
    torch.manual_seed(0)
    trainer_options = {name: options.pop(name) for name in ("ckpt_path", "logger", "precision") if name in options}
    checkpoint = trainer_options.pop("ckpt_path", None)
    dtype = torch.float64 if double else torch.float32
    options.setdefault("optimizer", lambda params: torch.optim.SGD(params, lr=lr, **(sgd or {})))
    module = Classifier(network, rule, CLASSES, IMAGE, **options).to(dtype)
    x, y = task(dtype=dtype)
    train = DataLoader(TensorDataset(x, y), batch_size=16, shuffle=True)
    train = train if batches is None else DataLoader(batches, batch_size=None, generator=torch.Generator())
    held_out = DataLoader(TensorDataset(x[:20], y[:20]), batch_size=8)
    trainer_options = {"precision": "64-true" if double else "32-true", "logger": False} | trainer_options
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[*callbacks],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(c, Checkpoint) for c in callbacks),
        **trainer_options,
    )
    trainer.fit(module, train, held_out, ckpt_path=checkpoint)
    if test:
        trainer.test(module, held_out, verbose=False)
    return trainer, module
