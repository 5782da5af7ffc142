"""Small runs under a real Trainer, in other processes than the test's: for the tests of resuming and of two ranks.

`train` is one run; it leaves weights, feedback and losses in a file. The processes come from a fork server, a fresh
interpreter that has imported torch and Lightning once and has done nothing else. A run that is to be killed gets a
process of its own; all others go one after another through the same process, or the same two ranks.
"""

import atexit
import multiprocessing
import os
import signal
import socket
import traceback
from contextlib import suppress
from functools import cache, partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from pydoc import locate

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, ModelCheckpoint, OnExceptionCheckpoint
from lightning.pytorch.cli import ReduceLROnPlateau
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch import nn

from lit_fa.__main__ import main
from lit_fa.callbacks import AlignmentDominance, ConservationPotential, GradientAlignment
from lit_fa.callbacks.curves import Recorder
from lit_fa.datamodules import Synthetic
from lit_fa.layers.sharding import whole
from lit_fa.modules import Classifier
from lit_fa.parallel.strategy import LayerParallelStrategy
from tests.cases import IMPOSSIBLE, RULES
from tests.small_networks import CLASSES

IMAGE = (2, 8, 8)
TIMEOUT = 240  # seconds that one run may take


def network(dropout: float) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.Tanh()),
        nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Dropout(dropout), nn.Flatten()),
        nn.Sequential(nn.Linear(64, 12), nn.Tanh(), nn.Dropout(dropout)),
        nn.Linear(12, CLASSES),
    )


def mlp(dropout: float) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(128, 20), nn.ReLU(), nn.Dropout(dropout), nn.Linear(20, 16), nn.Tanh(),
        nn.Linear(16, 12), nn.ReLU(), nn.Dropout(dropout), nn.Linear(12, CLASSES),
    )  # fmt: skip


def norm(dropout: float) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(2, 4, 3, stride=2), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Dropout(dropout)),
        nn.Linear(36, CLASSES),
    )


SCHEDULERS = {
    "step": partial(torch.optim.lr_scheduler.StepLR, step_size=3, gamma=0.5),
    "epoch": partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5),
    "plateau": partial(ReduceLROnPlateau, monitor="val/loss", patience=0, threshold=0.9),
}
NETWORKS = {"conv": network, "mlp": mlp, "norm": norm}


def network_for(rule: str) -> str:
    """The first of the networks here that the rule can be on."""
    return next(name for name in NETWORKS if (rule, name) not in IMPOSSIBLE)


class Losses(L.Callback):
    """Keeps the loss of every batch, and kills the process where it is told to."""

    def __init__(self, kill_at: int | None):
        self.losses, self.kill_at = [], kill_at

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.losses.append(float(outputs["loss"]))
        if trainer.global_step == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


class Stopped(Exception):
    """A run ends here, as if it had been killed."""


class EarlyKeep(L.Callback):
    """Leaves `kept.ckpt` at one hook after so many batches; with `stop` the run ends there.

    It comes before the callbacks that save and monitor, and in hooks before the module.
    """

    def __init__(self, folder: Path, batches: int | None, moment: str = "on_train_batch_end", stop: bool = False):
        self.path, self.batches, self.stop = folder / "kept.ckpt", batches, stop
        setattr(self, moment, self.keep)

    def keep(self, trainer: L.Trainer, *_: object) -> None:
        done = trainer.fit_loop.epoch_loop.batch_progress.total.processed
        if done == self.batches and not trainer.sanity_checking:
            trainer.save_checkpoint(self.path)
            if self.stop:
                raise Stopped


class Keep(EarlyKeep, Checkpoint):
    """The same as the last of all callbacks, where also Ctrl-C leaves its checkpoint."""


class Rows(Logger):
    """Keeps what loggers are given: (step, key) to value."""

    name, version = "rows", 0

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[tuple[int, str], float] = {}

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows |= {(step, key): value for key, value in metrics.items()}

    def log_hyperparams(self, *_: object, **__: object) -> None:
        pass


def train(options: dict) -> None:
    torch.set_num_threads(1)
    L.seed_everything(options.get("seed", 0), verbose=False)
    double = options.get("double", True)
    data = Synthetic(
        n_train=options.get("n_train", 40), n_test=11, image_shape=IMAGE, num_classes=CLASSES, batch_size=8, seed=1,
        device="cpu", augment=options.get("augment", "none"), dtype="float64" if double else "float32",
        validation_is_test="allow",
    )  # fmt: skip
    # decay lets Kolen-Pollack's feedback move in its own way; momentum is state that a checkpoint must carry
    sgd = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=1e-2)
    module = Classifier(
        NETWORKS[options.get("network", "conv")](options.get("dropout", 0.0)).to(
            torch.float64 if double else torch.float32
        ),
        RULES[options["rule"]][0](**options.get("rule_options", {})),
        num_classes=CLASSES,
        image_shape=IMAGE,
        optimizer=sgd,
        scheduler=SCHEDULERS[options.get("scheduler", "step")],
        scheduler_interval=options.get("interval", "step"),
        accumulate=options.get("accumulate", 1),
        clip=options.get("clip"),
        probe=options.get("probe"),
    )
    losses = Losses(options.get("kill_at"))
    checkpoints = ModelCheckpoint(
        options["folder"], "{step}", every_n_train_steps=options.get("save_every", 1), save_top_k=-1
    )
    moment = options.get("moment", "on_train_batch_end")
    kind = EarlyKeep if options.get("early_keep") else Keep
    kept = kind(Path(options["folder"]), options.get("keep_after"), moment, options.get("stop", False))
    measuring = [GradientAlignment(), ConservationPotential(), AlignmentDominance()] if options.get("measured") else []
    devices = options.get("devices", 1)
    rows, curves = Rows(), Recorder()
    stopping = [EarlyStopping(**options["early"])] if "early" in options else []
    stopping += [OnExceptionCheckpoint(options["folder"], "kept")] if options.get("of_exceptions") else []
    trainer = L.Trainer(
        accelerator="cpu", devices=devices, max_epochs=options.get("epochs", 3), logger=rows,
        strategy=_strategy(options) if devices > 1 else "auto",
        callbacks=[checkpoints, losses, kept, curves, *stopping, *measuring], enable_progress_bar=False,
        enable_model_summary=False, precision=options.get("precision", "64-true" if double else "32-true"),
        num_sanity_val_steps=1,
        **options.get("trainer", {}),
    )  # fmt: skip
    with suppress(Stopped):
        trainer.fit(module, data, ckpt_path=options.get("resume"), weights_only=False)
    record = {"state": wholes(module.learner.state_dict()), "losses": losses.losses}
    record["metrics"] = dict(trainer.callback_metrics)
    record |= {"rows": rows.rows, "curves": curves.curves.points, "steps": trainer.global_step}
    record["schedule"] = [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs]
    record["world_size"] = trainer.world_size
    record["optimizer"] = module.optimizers().optimizer.state_dict()
    record["optimizer"]["state"] = {i: wholes(state) for i, state in record["optimizer"]["state"].items()}
    images = torch.randn(4, *IMAGE, generator=torch.Generator().manual_seed(2)).to(next(module.parameters()).dtype)
    with torch.no_grad():
        record["predictions"] = {"logits": module.learner.eval().predict(images)}
    torch.save(record, f"{options['out']}.{trainer.global_rank}")


def _strategy(options: dict) -> Strategy | str:
    """The `strategy` of the options, stages of one network if a `schedule` is given, or DDP with the options `ddp`."""
    if "schedule" not in options:
        return options.get("strategy") or DDPStrategy(process_group_backend="gloo", **options.get("ddp", {}))
    return LayerParallelStrategy(options["schedule"], options.get("splits"), process_group_backend="gloo")


class Ranks:
    """Processes that together do one run after another, one of them for each rank."""

    def __init__(self, number: int):
        """Start them; they wait for runs."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        self.connections, self.processes = [], []
        for rank in range(number):
            environment = {**place, "LOCAL_RANK": str(rank)} if number > 1 else {}
            here, there = multiprocessing.Pipe()
            self.processes.append(_fork_server().Process(target=serve, args=(there, environment), daemon=True))
            self.processes[-1].start()
            self.connections.append(here)
            there.close()

    def train(self, options: dict) -> None:
        """Do one run on all ranks: of `train`, the command whose `words` are given, or `call`: a function's path and
        its argument.

        Raises:
            AssertionError: with the traceback of the rank that fails first.
        """
        for connection in self.connections:
            connection.send(options)
        waiting = [*self.connections]
        while waiting:
            ready = wait(waiting, TIMEOUT)
            failures = [failure for connection in ready if (failure := _answer(connection))]
            if failures or not ready:
                self.end()
                raise AssertionError(failures[0] if failures else f"no answer after {TIMEOUT} seconds")
            waiting = [connection for connection in waiting if connection not in ready]

    def end(self) -> None:
        """Kill the processes, whatever they wait for; the next run starts new ones."""
        for process in self.processes:
            process.kill()
            process.join()
        ranks.cache_clear()


@cache
def ranks(number: int) -> Ranks:
    """So many ranks, which serve all tests of this session."""
    made = Ranks(number)
    atexit.register(made.end)
    return made


def serve(connection: Connection, environment: dict[str, str]) -> None:
    """The body of a rank's process: does the runs that it is sent; answers "" or a traceback."""
    os.environ |= environment
    while True:
        options = connection.recv()
        try:
            if "call" in options:
                name, argument = options["call"]
                locate(name)(argument)
            else:
                train(options) if "rule" in options else command(options["words"])
            connection.send("")
        except BaseException:
            connection.send(traceback.format_exc())


def wholes(state: dict) -> dict:
    """The whole of every tensor of a state dictionary."""
    return {name: whole(value) if isinstance(value, torch.Tensor) else value for name, value in state.items()}


def command(words: list[str]) -> None:
    """What `lit-fa WORDS` does, on this rank."""
    assert main(words) == 0


def record(folder: Path, **options: object) -> dict:
    """Train in one process, or on so many ranks as `devices` says; what rank 0 has left, and all in `ranks`."""
    folder.mkdir(parents=True, exist_ok=True)
    devices = options.get("devices", 1)
    options = {**options, "folder": str(folder), "out": str(folder / "record")}
    if options.get("kill_at"):
        process = _fork_server().Process(target=train, args=(options,))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        return {}
    ranks(devices).train(options)
    records = [torch.load(folder / f"record.{rank}", weights_only=False) for rank in range(devices)]
    return {**records[0], "ranks": records}


def _fork_server() -> multiprocessing.context.BaseContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.contract.training"])
    return context


def _answer(connection: Connection) -> str:
    try:
        return connection.recv()
    except EOFError:
        return "a rank died without a word"
