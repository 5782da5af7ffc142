"""Every function of `lit_fa.lightning_privates` has a test of its name: an upgrade of Lightning breaks it by name."""

import ast
import inspect
import os
import re
import signal
import warnings
from datetime import timedelta
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from lightning.pytorch import callbacks as shipped
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.plugins.io import AsyncCheckpointIO, TorchCheckpointIO
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import nn

from lit_fa import lightning_privates as privates
from lit_fa.callbacks import Interruption
from lit_fa.stopping import Stopped

ROOT = Path(__file__).parent.parent
OFF = ("enable_progress_bar", "enable_model_summary", "enable_checkpointing", "logger")
QUIET = {"accelerator": "cpu", **dict.fromkeys(OFF, False)}
BATCHES, EPOCHS = 3, 2


class Model(BoringModel):
    """Logs the number of its batch; has a BatchNorm."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Sequential(nn.BatchNorm1d(32), nn.Linear(32, 2))

    def training_step(self, batch, batch_idx):
        self.log("n", float(batch_idx), on_step=True, on_epoch=True)
        return super().training_step(batch, batch_idx)

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.randn(2 * BATCHES, 32), batch_size=2)


class Rows(Logger):
    """Keeps what it receives."""

    name = version = ""

    def __init__(self):
        self.rows = []

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, metrics))

    def log_hyperparams(self, *_):
        pass


class Seen(L.Callback):
    """Calls `look(trainer)` in every hook of training: hook to what it returned."""

    def __init__(self, look):
        self.look, self.found = look, {}

    def _note(self, hook, trainer):
        self.found.setdefault(hook, []).append(self.look(trainer))

    def on_train_start(self, trainer, *_):
        self._note("start", trainer)

    def on_train_batch_start(self, trainer, *_):
        self._note("batch start", trainer)

    def on_train_batch_end(self, trainer, *_):
        self._note("batch end", trainer)

    def on_train_epoch_end(self, trainer, *_):
        self._note("epoch end", trainer)

    def on_train_end(self, trainer, *_):
        self._note("end", trainer)

    def on_load_checkpoint(self, trainer, *_):
        self._note("load", trainer)


def fitted(*callbacks, model=None, loader=None, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limits = {"max_epochs": EPOCHS, "limit_val_batches": 0, "log_every_n_steps": 2}
        trainer = L.Trainer(**QUIET | limits | options, callbacks=[*callbacks])
        trainer.fit(Model() if model is None else model, loader)
    return trainer


def seen(look, **options) -> dict[str, list]:
    fitted(watch := Seen(look), **options)
    return watch.found


def test_every_function_has_a_test_of_its_name():
    functions = [name for name, value in vars(privates).items() if inspect.isfunction(value)]
    named = [name for name in functions if getattr(privates, name).__module__ == privates.__name__]
    assert len(named) > 20
    assert not [name for name in named if f"test_{name}" not in globals()]


def test_no_other_file_touches_a_private_attribute_of_lightning():
    for folder in ("lit_fa", "callbacks", "datamodules"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            if file == Path(privates.__file__):
                continue
            text = file.read_text(encoding="utf-8")
            nodes = [*ast.walk(ast.parse(text))]
            own = {*re.findall(r"def (_[a-z]\w*)", text)}
            stored = (n for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store))
            own |= {n.attr for n in stored if isinstance(n.value, ast.Name) and n.value.id == "self"}
            attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)} - own
            classes = {a.name for n in nodes if isinstance(n, ast.ImportFrom) for a in n.names if _of_lightning(n)}
            wrong = (attributes & lightning_privates()) | {name for name in classes if name.startswith("_")}
            assert not wrong, f"{file.relative_to(ROOT)} reads {sorted(wrong)}: lit_fa/lightning_privates.py may"


def _of_lightning(node: ast.ImportFrom) -> bool:
    return (node.module or "").split(".")[0] == "lightning"


@cache
def lightning_privates() -> set[str]:
    """Private attributes and methods of Lightning's classes, without those of torch's."""
    files = [f for name in ("pytorch", "fabric") for f in (Path(L.__file__).parent / name).rglob("*.py")]
    found = {name for f in files for name in re.findall(r"(?:self\.|def )(_[a-z]\w*)", f.read_text(encoding="utf-8"))}
    return found - {*dir(nn.Module())}


def test_callbacks_of():
    callback = L.Callback()
    assert callback in privates.callbacks_of(L.Trainer(callbacks=[callback], **QUIET))


def test_trainer_of():
    model = Model()
    assert privates.trainer_of(model) is None
    assert fitted(model=model, fast_dev_run=1) is privates.trainer_of(model)


def test_training_loader():
    loader = Model().train_dataloader()
    assert all(found is loader for found in seen(privates.training_loader, loader=loader)["start"])
    anew = seen(lambda trainer: (privates.training_loader(trainer), trainer.train_dataloader))["start"]
    assert [len(made) for made, _ in anew] == [BATCHES]
    assert all(made is not used for made, used in anew)


def test_batches_processed():
    found = seen(privates.batches_processed)
    assert found["batch start"] == [0, 1, 2] * EPOCHS
    assert found["batch end"] == [1, 2, 3] * EPOCHS


def test_in_epoch():
    found = seen(privates.in_epoch)
    assert (found["start"], found["end"]) == ([False], [False])
    assert all(found["batch start"] + found["batch end"] + found["epoch end"])


def test_epoch_is_ending():
    found = seen(privates.epoch_is_ending)
    assert found["epoch end"] == [True] * EPOCHS
    assert not any(found["start"] + found["batch start"] + found["batch end"] + found["end"])


def test_batch_is_ending():
    found = seen(privates.batch_is_ending)
    assert found["batch end"] == [True] * BATCHES * EPOCHS
    assert not any(found["start"] + found["epoch end"] + found["end"])


def test_values_to_log():
    found = seen(lambda trainer: {k: float(v) for k, v in privates.values_to_log(trainer).items()})
    assert found["batch end"] == [{"n_step": float(n)} for n in range(BATCHES)] * EPOCHS
    assert found["epoch end"] == [{"n_epoch": 1.0}] * EPOCHS


def test_logs_this_batch():
    assert seen(privates.logs_this_batch)["batch end"] == [False, True, False, True, False, True]


def test_log_values():
    rows = Rows()
    log = Seen(lambda trainer: trainer.current_epoch or privates.log_values(trainer, {"mine": 1}))
    fitted(log, logger=rows)
    mine = [(step, row) for step, row in rows.rows if "mine" in row]
    assert mine[-1] == (BATCHES - 1, {"mine": 1, "epoch": 0})


@pytest.fixture
def resumed() -> L.Trainer:
    """A trainer whose loops have the counters of another one, in the middle of its first epoch."""
    kept = {}
    fitted(Seen(lambda trainer: kept.setdefault(trainer.global_step, trainer.fit_loop.state_dict())), max_epochs=1)
    trainer = L.Trainer(**QUIET, max_epochs=EPOCHS)
    trainer.fit_loop.load_state_dict(kept[1])
    return trainer


def test_was_loaded(resumed):
    assert privates.was_loaded(resumed.fit_loop)
    assert not privates.was_loaded(L.Trainer(**QUIET).fit_loop)


def test_mark_restarting(resumed):
    loops = (resumed.fit_loop, resumed.fit_loop.epoch_loop, resumed.fit_loop.epoch_loop.val_loop)
    for value in (True, False):
        privates.mark_restarting(resumed.fit_loop, value)
        assert [loop.restarting for loop in loops] == [value] * 3


def test_end_resuming(resumed):
    assert resumed.fit_loop.is_resuming
    privates.end_resuming(resumed.fit_loop)
    assert not resumed.fit_loop.is_resuming


def test_iteration_ends_epoch_or_validates():
    def look(trainer):
        return privates.iteration_ends_epoch_or_validates(trainer.fit_loop.epoch_loop)

    assert seen(look)["batch end"] == [False, False, True] * EPOCHS
    every = {"limit_val_batches": 1, "val_check_interval": 2, "num_sanity_val_steps": 0}
    assert seen(look, max_epochs=1, **every)["batch end"] == [False, True, True]


def test_skip_validation():
    validated = []

    class Validated(Model):
        def on_validation_start(self):
            validated.append(self.trainer.global_step)

    skip = Seen(lambda trainer: privates.skip_validation(trainer.fit_loop.epoch_loop, trainer.current_epoch == 0))
    fitted(skip, model=Validated(), limit_val_batches=1, num_sanity_val_steps=0)
    assert validated == [2 * BATCHES]


def test_uncount_logged_batch():
    steps = []
    for uncounted in (False, True):
        rows = Rows()
        look = Seen(lambda trainer, at=uncounted: at and privates.uncount_logged_batch(trainer.fit_loop.epoch_loop))
        look.on_train_batch_start = look.on_train_batch_end = look.on_train_epoch_end = lambda *_: None
        fitted(look, logger=rows, max_epochs=1, log_every_n_steps=1)
        steps.append([step for step, _ in rows.rows])
    assert [a - b for a, b in zip(*steps, strict=True)] == [1] * (BATCHES + 1)


def test_is_restoring(tmp_path):
    fitted(max_epochs=1).save_checkpoint(path := tmp_path / "a.ckpt")
    trainer = L.Trainer(**QUIET, max_epochs=2, limit_val_batches=0, callbacks=[watch := Seen(privates.is_restoring)])
    trainer.fit(Model(), ckpt_path=path, weights_only=True)
    assert (watch.found["load"], watch.found["start"]) == ([True], [False])


def test_slurm_checkpoint(tmp_path):
    trainer = L.Trainer(**QUIET, default_root_dir=tmp_path)
    assert privates.slurm_checkpoint(trainer) is None
    (tmp_path / "hpc_ckpt_3.ckpt").touch()
    assert Path(privates.slurm_checkpoint(trainer)).name == "hpc_ckpt_3.ckpt"


def test_last_checkpoints(tmp_path):
    keeper, trainer = shipped.ModelCheckpoint(tmp_path, save_last=True), L.Trainer(**QUIET)
    assert not privates.last_checkpoints(keeper, trainer)
    (tmp_path / "last.ckpt").touch()
    assert [Path(path).name for path in privates.last_checkpoints(keeper, trainer)] == ["last.ckpt"]


def test_replace_innermost_io():
    class Mine(TorchCheckpointIO):
        pass

    for wrap in (lambda io: io, AsyncCheckpointIO):
        trainer = L.Trainer(**QUIET, plugins=[wrap(TorchCheckpointIO())])
        privates.replace_innermost_io(trainer, Mine, TorchCheckpointIO)
        assert type(innermost(trainer)) is TorchCheckpointIO
        privates.replace_innermost_io(trainer, TorchCheckpointIO, Mine)
        assert type(innermost(trainer)) is Mine


def innermost(trainer):
    io = trainer.strategy.checkpoint_io
    return io.checkpoint_io if isinstance(io, AsyncCheckpointIO) else io


def test_save_interval():
    hour = timedelta(hours=1)
    assert privates.save_interval(shipped.ModelCheckpoint(train_time_interval=hour)) == hour
    assert privates.save_interval(shipped.ModelCheckpoint()) is None


def test_counts_of():
    found = seen(lambda trainer: privates.counts_of(trainer.fit_loop.epoch_loop))
    assert found["batch start"][-1] == (BATCHES, EPOCHS * BATCHES, EPOCHS * BATCHES - 1, EPOCHS * BATCHES - 1)
    assert found["batch end"][-1] == (BATCHES, EPOCHS * BATCHES, EPOCHS * BATCHES, EPOCHS * BATCHES - 1)


def counted_by_hand(*functions):
    """The counters of a loop before and after `functions` of it, which count one batch or step."""
    loop = fitted(model=ByHand()).fit_loop.epoch_loop
    before = loop.batch_progress.state_dict()
    for function in functions:
        function(loop)
    return before, loop.batch_progress.state_dict(), loop


def begin_last(loop):
    privates.begin_batch(loop, True)


def test_begin_batch():
    before, after, loop = counted_by_hand(begin_last)
    for part in ("total", "current"):
        assert after[part] == before[part] | {key: before[part][key] + 1 for key in ("ready", "started")}
    assert loop.batch_progress.is_last_batch


def test_end_batch():
    before, after, loop = counted_by_hand(begin_last, privates.end_batch)
    for part in ("total", "current"):
        assert after[part] == {key: count + 1 for key, count in before[part].items()}
    assert privates.counts_of(loop)[3] == EPOCHS * BATCHES + 1


def test_step_taken():
    _, _, loop = counted_by_hand(privates.step_taken)
    assert loop.global_step == EPOCHS * BATCHES + 1
    progress = loop.manual_optimization.optim_step_progress
    assert progress.total.ready == progress.total.completed == EPOCHS * BATCHES + 1
    assert progress.current.ready == progress.current.completed


def test_save_every():
    assert privates.save_every(shipped.ModelCheckpoint(every_n_train_steps=7)) == 7
    assert privates.save_every(shipped.ModelCheckpoint(every_n_epochs=1)) == 0
    assert privates.save_every(L.Callback()) == 0


def test_save_is_due(tmp_path):
    for hours, due in ((0, True), (1, False)):
        keeper = shipped.ModelCheckpoint(tmp_path, train_time_interval=timedelta(hours=hours))
        watch = Seen(lambda trainer, keeper=keeper: privates.save_is_due(keeper))
        fitted(watch, keeper, enable_checkpointing=True, max_epochs=1)
        assert watch.found["batch end"] == [due] * BATCHES
    assert not privates.save_is_due(shipped.ModelCheckpoint(tmp_path, every_n_epochs=1))


class ByHand(Model):
    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        self.optimizers().step()


def test_save_by_time(tmp_path):

    keeper = shipped.ModelCheckpoint(tmp_path, "{step}", train_time_interval=timedelta(0), save_top_k=-1)
    save = Seen(lambda trainer: trainer.global_step == 2 and privates.save_by_time(keeper, trainer))
    fitted(save, keeper, model=ByHand(), enable_checkpointing=True, max_epochs=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step=2.ckpt"]


def test_renews_batch_norm():
    average = shipped.StochasticWeightAveraging(swa_lrs=0.01)
    assert privates.renews_batch_norm(average) is None
    fitted(average)
    assert privates.renews_batch_norm(average)


def test_epochs_before_averaging():
    average = shipped.StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1)
    assert privates.epochs_before_averaging(average) is None
    fitted(average)
    assert privates.epochs_before_averaging(average) == EPOCHS


def test_skips_backward():
    average = shipped.StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1)
    watch = Seen(privates.skips_backward)
    fitted(average, watch)
    assert watch.found["batch end"] == [False] * BATCHES * EPOCHS + [True] * BATCHES


def test_average_options():
    options = {"avg_fn": torch.lerp, "use_buffers": False}
    assert privates.average_options(shipped.WeightAveraging(**options)) == (False, {"avg_fn"})
    assert privates.average_options(shipped.WeightAveraging()) == (True, frozenset())


def test_syncs_batch_norm():
    for asked in (True, False):
        strategy = L.Trainer(**QUIET, devices=2, strategy="ddp", sync_batchnorm=asked).strategy
        assert privates.syncs_batch_norm(strategy) == asked
    assert not privates.syncs_batch_norm(L.Trainer(**QUIET).strategy)


def test_start_method():
    named = {"ddp": "popen", "ddp_fork": "fork", "ddp_spawn": "spawn", "auto": ""}
    for name, method in named.items():
        trainer = L.Trainer(**QUIET, strategy=name, devices=1 if name == "auto" else 2)
        assert privates.start_method(trainer.strategy) == method


def test_ddp_options():
    assert privates.ddp_options(DDPStrategy()) == {}
    given = {"static_graph": True, "ddp_comm_hook": print, "model_averaging_period": 3}
    assert privates.ddp_options(DDPStrategy(**given)) == given


def test_mesh_of_ranks():
    strategy = ModelParallelStrategy()
    strategy.parallel_devices, strategy.num_nodes = [torch.device("cpu")] * 2, 3
    privates.mesh_of_ranks(strategy)
    assert (strategy._data_parallel_size, strategy._tensor_parallel_size) == (6, 1)
    assert "_data_parallel_size" in inspect.getsource(ModelParallelStrategy.setup_environment)


def test_model_registry():
    assert privates.model_registry(L.Trainer(**QUIET)) is None
    assert privates.model_registry(L.Trainer(**QUIET, model_registry="mine")) == "mine"


def test_keep_sampler():
    trainer = L.Trainer(**QUIET, devices=2, strategy="ddp")
    privates.keep_sampler(trainer)
    loader = torch.utils.data.DataLoader(range(4))
    assert trainer._data_connector._prepare_dataloader(loader, shuffle=False, mode=None) is loader


def test_forking_launcher():
    forks = L.Trainer(**QUIET, strategy="ddp_fork", devices=2)
    assert privates.forking_launcher(forks).procs == []
    assert privates.forking_launcher(L.Trainer(**QUIET, strategy="ddp", devices=2)) is None
    assert privates.forking_launcher(L.Trainer(**QUIET)) is None


def test_ranks_by_command_line():
    for name, ranks in {"ddp": 2, "ddp_fork": 1}.items():
        assert privates.ranks_by_command_line(L.Trainer(**QUIET, strategy=name, devices=2)) == ranks
    assert privates.ranks_by_command_line(L.Trainer(**QUIET)) == 1


def test_stop_observing_ranks(monkeypatch):
    """Lightning's thread, which looks every five seconds, ends without killing this process."""
    trainer = L.Trainer(**QUIET, strategy="ddp", devices=2)
    sent: list[int] = []
    rank = SimpleNamespace(pid=1, returncode=None, poll=lambda: None, send_signal=sent.append)
    trainer.strategy.launcher.procs = [rank]
    observer = _ChildProcessObserver(main_pid=os.getpid(), child_processes=trainer.strategy.launcher.procs)
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("rank 0 is killed"))
    assert not observer._run()
    Interruption(str).on_exception(trainer, None, Stopped(signal.SIGTERM))
    trainer.strategy.launcher.kill(signal.SIGKILL)  # as Lightning does after a KeyboardInterrupt
    assert sent == [signal.SIGKILL]
    rank.returncode = -signal.SIGKILL
    assert observer._run()
    privates.stop_observing_ranks(L.Trainer(**QUIET))  # nothing to observe


def test_on_ranks_started(monkeypatch):
    trainer, seen = L.Trainer(**QUIET, strategy="ddp", devices=2), []
    launcher = trainer.strategy.launcher
    monkeypatch.setattr(launcher, "_call_children_scripts", lambda: launcher.procs.append("a rank"))
    privates.on_ranks_started(trainer, seen.extend)
    launcher._call_children_scripts()
    assert seen == ["a rank"]
    privates.on_ranks_started(L.Trainer(**QUIET), seen.extend)  # nothing to start


def test_command_parser():
    class Parsed(Exception):
        pass

    class Stops(LightningCLI):
        def before_instantiate_classes(self):
            raise Parsed(privates.command_parser(self).dump(self.config[self.subcommand]))

    with pytest.raises(Parsed, match=r"max_epochs: 7"):
        Stops(BoringModel, args=["fit", "--trainer.max_epochs=7"])


def test_add_instantiators():
    class Built(Exception):
        pass

    class Stops(LightningCLI):
        def before_instantiate_classes(self):
            self.parser._instantiators = None  # as after the config before
            privates.add_instantiators(self)
            raise Built(*(made.key for made in self.parser._instantiators.values()))

    with pytest.raises(Built) as error:
        Stops(BoringModel, args=[], run=False)
    assert error.value.args == ("model", "data")


def test_wandb_options(tmp_path):
    assert privates.wandb_options(WandbLogger(id="a", group="g", save_dir=tmp_path, offline=True))["group"] == "g"


def test_name_wandb_run(tmp_path):
    logger = WandbLogger(id="a", save_dir=tmp_path, offline=True)
    privates.name_wandb_run(logger, id="b")
    privates.name_wandb_run(logger, name="n")
    assert (logger.version, logger._name) == ("b", "n")


def test_forget_wandb_run(tmp_path):
    logger = WandbLogger(id="a", save_dir=tmp_path, experiment=SimpleNamespace(id="of the run"))
    assert logger.version == "of the run"
    privates.forget_wandb_run(logger)
    assert logger.version == "a"


def test_set_wandb_run(tmp_path):
    logger = WandbLogger(id="a", save_dir=tmp_path, offline=True)
    privates.set_wandb_run(logger, SimpleNamespace(id="another"))
    assert logger.version == "another"


def test_given_version(tmp_path):
    assert privates.given_version(CSVLogger(tmp_path)) is None
    assert privates.given_version(CSVLogger(tmp_path, version=3)) == 3


def test_set_version(tmp_path):
    logger = CSVLogger(tmp_path)
    privates.set_version(logger, 4)
    assert logger.version == 4


def test_csv_options(tmp_path):
    options = {"save_dir": str(tmp_path), "name": "n", "version": 2, "prefix": "p", "flush_logs_every_n_steps": 7}
    assert privates.csv_options(CSVLogger(**options)) == options
    assert options.keys() == inspect.signature(CSVLogger).parameters.keys()


def test_tensorboard_options(tmp_path):
    pytest.importorskip("tensorboard")
    options = {"save_dir": str(tmp_path), "name": "n", "version": 2, "prefix": "p", "default_hp_metric": False}
    options |= {"log_graph": False, "sub_dir": "s", "max_queue": 3}
    assert privates.tensorboard_options(TensorBoardLogger(**options)) == options
    assert options.keys() - {"max_queue"} == inspect.signature(TensorBoardLogger).parameters.keys() - {"kwargs"}


def test_setting():
    trainer = L.Trainer(log_every_n_steps=7, **QUIET)
    assert (privates.setting(trainer, "log_every_n_steps"), privates.setting(trainer, "datamodule")) == (7, None)
