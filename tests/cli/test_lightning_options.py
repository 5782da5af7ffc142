"""Every row of docs/lightning.md, tried: what is honoured by its effect, what is refused by its line."""

import csv
import inspect
import logging

import lightning as L
import pytest
import torch
from lightning.pytorch import callbacks as shipped
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import HalfPrecision, MixedPrecision
from lightning.pytorch.tuner import Tuner
from torch import nn

from lit_fa import callbacks
from lit_fa.errors import UserError
from lit_fa.modules.trainer_options import REFUSALS, check_precision, check_trainer
from lit_fa.rules import DirectFeedbackAlignment, FeedbackAlignment, Pruning, SVDBackprop
from tests.cli.lightning_rows import BATCHES, QUIET, Run, Seen, classifier, data, federation, rows, weight

OPTIONS, CALLBACKS = rows("Trainer"), rows("Callbacks")
KINDS = ("plain", "federated")


def test_every_option_and_callback_has_a_row():
    assert [*OPTIONS] == [name for name in inspect.signature(L.Trainer).parameters]
    assert {*CALLBACKS} == {*shipped.__all__}


def test_every_row_is_tried_as_its_status_says():
    statuses = {name: set(status.split(", ")) for name, (status, _) in (OPTIONS | CALLBACKS).items()}
    assert {name for name, found in statuses.items() if "honoured" in found} == {*HONOURED}
    assert {name for name, found in statuses.items() if "refused" in found} == {name for name, *_ in REFUSED}
    assert all(said for status, said in (OPTIONS | CALLBACKS).values() if status != "honoured")


def test_every_line_of_a_refusal_stands_in_its_row():
    for refusal in REFUSALS:
        assert f'"{refusal.message}"' in (OPTIONS | CALLBACKS)[refusal.option][1]


# --- honoured -------------------------------------------------------------------------------------------------------


def steps(kind: str, **options) -> int:
    return Run(kind, **options).trainer.global_step


def test_devices(kind: str):
    trainer = L.Trainer(**QUIET, devices=2, strategy="ddp")  # what ranks do: tests/contract/test_two_ranks.py
    assert (trainer.world_size, trainer.num_devices) == (2, 2)
    check_trainer(trainer, classifier() if kind == "plain" else federation())


def test_nodes(kind: str):
    assert L.Trainer(**QUIET, devices=1, num_nodes=2, strategy="ddp").world_size == 2


def test_precision(kind: str):
    run = Run(kind, precision="64-true", max_steps=1, limit_val_batches=0)
    assert weight(run.module).dtype == torch.float64
    for precision in ("bf16-true", "bf16-mixed") if kind == "plain" else ():
        assert output_dtype(precision=precision) == torch.bfloat16


def output_dtype(**options) -> torch.dtype:
    module, found = classifier(rule=FeedbackAlignment()), []
    module.network.head.register_forward_hook(lambda _m, _a, output: found.append(output.dtype))
    Run(module=module, max_steps=1, limit_val_batches=0, **options)
    return found[-1]


def test_plugins(kind: str):
    assert output_dtype(plugins=MixedPrecision("bf16-mixed", "cpu")) == torch.bfloat16


def test_logger(kind: str, tmp_path):
    Run(kind, max_epochs=1, logger=CSVLogger(tmp_path), log_every_n_steps=5)
    assert [int(row["step"]) for row in logged(tmp_path) if row.get("train/loss")][:2] in ([4, 9], [5, 10], [5])


def logged(folder) -> list[dict]:
    with next(folder.rglob("metrics.csv")).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_callbacks(kind: str):
    assert len(Run(kind, max_epochs=1).seen.weights) == BATCHES


def test_runs_of_given_length(kind: str):
    assert steps(kind, fast_dev_run=3) == 3
    assert steps(kind, max_epochs=1) == BATCHES
    assert steps(kind, max_steps=7) == 7
    assert steps(kind, max_time="00:00:00:00") == 0
    assert steps(kind, seen=Seen(stop_at=1), min_steps=15) == 15
    assert steps(kind, seen=Seen(stop_at=1), min_epochs=2) == 2 * BATCHES


def test_limits_of_training(kind: str):
    assert steps(kind, max_epochs=1, limit_train_batches=3) == 3
    assert steps(kind, max_epochs=1, limit_train_batches=0.5) == BATCHES // 2
    assert steps(kind, limit_train_batches=0) == 0


def test_limits_of_evaluation(kind: str):
    for limit, batches in ((0, 0), (2, 2), (0.5, 2)):
        names = ("limit_val_batches", "limit_test_batches", "limit_predict_batches")
        run = Run(kind, fit=False, **dict.fromkeys(names, limit))
        for evaluate in (run.trainer.validate, run.trainer.test, run.trainer.predict):
            run.seen.evaluated.clear()
            evaluate(run.module, run.data)
            assert len(run.seen.evaluated) == batches


def test_overfitting(kind: str):
    for share, batches in ((2, 2), (0.1, 1), (1.0, BATCHES)) if kind == "plain" else ():
        inputs = Run(overfit_batches=share).seen.inputs
        assert len(inputs) == 2 * batches
        assert all(torch.equal(a, b) for a, b in zip(inputs[:batches], inputs[batches:], strict=True))


def test_validation(kind: str):
    def counted(**options) -> tuple[int, int]:
        seen = Run(kind, **options).seen
        return seen.validations, seen.sanity

    assert counted(val_check_interval=0.5) == (4, 1)
    assert counted(val_check_interval=4, num_sanity_val_steps=0) == (6, 0)
    assert counted(check_val_every_n_epoch=2) == (1, 1)


def test_log_every_n_steps(kind: str, tmp_path):
    Run(kind, max_epochs=1, log_every_n_steps=0, logger=CSVLogger(tmp_path))
    assert not any(row.get("train/loss") for row in logged(tmp_path))


def test_checkpoints(kind: str, tmp_path):
    Run(kind, max_steps=1, enable_checkpointing=True, default_root_dir=tmp_path)
    assert [path.parent.parent for path in tmp_path.rglob("*.ckpt")] == [tmp_path]


def test_shown(kind: str, capsys, caplog):
    with caplog.at_level(logging.INFO, "lightning.pytorch"):
        run = Run(kind, max_steps=1, enable_progress_bar=True, enable_model_summary=True)
    assert any(isinstance(c, shipped.ProgressBar) for c in run.trainer.callbacks)
    assert "learner" in caplog.text + capsys.readouterr().out


def test_flags(kind: str):
    on = Run(kind, max_steps=1, deterministic=True, detect_anomaly=True, inference_mode=False).seen.flags
    assert on == {"deterministic": True, "benchmark": False, "anomaly": True, "inference": False}
    assert Run(kind, max_steps=1, benchmark=True, inference_mode=True).seen.flags["benchmark"]
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = False


def test_profiler(kind: str):
    run = Run(kind, max_steps=2, profiler="simple")
    assert len(run.trainer.profiler.recorded_durations["run_training_batch"]) == 2


def test_barebones(kind: str):
    nothing = {name: None for name in QUIET if name != "accelerator"}
    run = Run(kind, barebones=True, **nothing)
    assert torch.equal(weight(run.module), weight(Run(kind).module))
    assert run.trainer.callback_metrics == {}


def test_the_same_weights(kind: str):
    """Nothing to do on one CPU, or the same order of batches."""
    plain = weight(Run(kind).module)
    assert torch.equal(plain, weight(Run(kind, sync_batchnorm=True, use_distributed_sampler=False).module))
    assert torch.equal(
        plain, weight(Run(kind, reload_dataloaders_every_n_epochs=1, enable_autolog_hparams=False).module)
    )


class Unfreeze(shipped.BaseFinetuning):
    def freeze_before_training(self, module):
        self.freeze(module.network.blocks)

    def finetune_function(self, module, epoch, optimizer):
        if epoch == 1:
            self.unfreeze_and_add_param_group(module.network.blocks, optimizer, lr=0.1)


def test_finetuning(kind: str):
    module = classifier(rule=FeedbackAlignment())
    first = module.network.blocks[0].linear.weight
    begun = first.detach().clone()
    Run(module=module, callbacks=[Unfreeze()], max_epochs=1)
    assert torch.equal(first, begun)
    first.requires_grad_(True)
    Run(module=module, callbacks=[Unfreeze()])
    assert not torch.equal(first, begun)


class Keeps(shipped.BasePredictionWriter):
    def write_on_epoch_end(self, trainer, module, predictions, batch_indices):
        self.shapes = [tuple(logits.shape) for logits in predictions]


def test_prediction_writer(kind: str):
    keeps = Keeps("epoch")
    run = Run(kind, fit=False, callbacks=[keeps])
    run.trainer.predict(run.module, run.data)
    assert keeps.shapes == [(100, 10)] * 3 + [(60, 10)]


def test_monitors(kind: str, tmp_path):
    pytest.importorskip("psutil")
    watching = [
        shipped.DeviceStatsMonitor(cpu_stats=True),
        shipped.LearningRateMonitor(),
        shipped.ThroughputMonitor(callbacks.samples_of, window_size=5),
    ]
    Run(kind, max_epochs=1, callbacks=watching, logger=CSVLogger(tmp_path), log_every_n_steps=1)
    keys = {key for row in logged(tmp_path) for key, value in row.items() if value}
    assert "lr-SGD" in keys
    assert any("cpu_percent" in key for key in keys)
    counted = [float(row["train/samples"]) for row in logged(tmp_path) if row.get("train/samples")]
    assert counted[0] == (128 if kind == "plain" else counted[0])
    assert counted[0] > 100


def test_stopping(kind: str):
    early = shipped.EarlyStopping("val/loss", min_delta=100.0, patience=1)
    assert steps(kind, max_epochs=4, callbacks=[early]) == 2 * BATCHES
    assert steps(kind, callbacks=[shipped.Timer("00:00:00:00")]) == 0


def test_lambda(kind: str):
    called = []
    Run(kind, max_epochs=1, callbacks=[shipped.LambdaCallback(on_train_batch_end=lambda *_: called.append(1))])
    assert len(called) == BATCHES


def test_model_checkpoint(kind: str, tmp_path):
    keep = shipped.ModelCheckpoint(tmp_path, monitor="val/accuracy", mode="max", filename="best")
    run = Run(kind, callbacks=[keep], enable_checkpointing=True)
    assert keep.best_model_score == run.trainer.callback_metrics["val/accuracy"]
    saved = torch.load(keep.best_model_path, weights_only=True)["state_dict"]
    assert torch.equal(saved["learner.network.head.weight"], weight(run.module))


def test_checkpoint_of_an_exception(kind: str, tmp_path):
    keep = shipped.OnExceptionCheckpoint(tmp_path, "failed")
    with pytest.raises(RuntimeError, match="as asked"):
        Run(kind, seen=Seen(fail_at=3), callbacks=[keep], enable_checkpointing=True)
    assert torch.load(tmp_path / "failed.ckpt", weights_only=True)["global_step"] == 3


def test_pruning(kind: str):
    run = Run(max_epochs=1, callbacks=[shipped.ModelPruning("l1_unstructured", amount=0.5)])
    weights = torch.cat([m.weight.flatten() for m in run.module.network.modules() if isinstance(m, nn.Linear)])
    assert (weights == 0).float().mean() == pytest.approx(0.5, abs=0.01)


def test_bars_and_summaries(kind: str, capsys):
    bar, summary = shipped.TQDMProgressBar(), shipped.RichModelSummary()
    Run(kind, max_epochs=1, callbacks=[bar, summary], enable_progress_bar=True, enable_model_summary=True)
    assert bar.train_progress_bar.n == BATCHES
    rich = shipped.RichProgressBar()
    Run(kind, max_steps=1, callbacks=[rich], enable_progress_bar=True)
    assert rich.is_enabled
    assert "learner" in capsys.readouterr().out


def test_spikes(kind: str, tmp_path):
    spike = shipped.SpikeDetection(
        mode="max", window=1, warmup=1, rtol=None, atol=1e-6, exclude_batches_path=tmp_path / "excluded.json"
    )
    with pytest.raises(Exception, match="spike detected"):
        Run(kind, callbacks=[spike])


def test_averages(kind: str):
    run = Run(kind, max_epochs=1, callbacks=[shipped.WeightAveraging()])
    assert torch.allclose(weight(run.module), torch.stack(run.seen.weights).mean(0), atol=1e-6)
    begun = weight(Run(kind, max_epochs=0).module)
    run = Run(kind, max_epochs=1, callbacks=[shipped.EMAWeightAveraging(decay=0.5)])
    for moved in run.seen.weights:
        begun = torch.lerp(moved, begun, 0.5)
    assert (weight(run.module) - begun).norm() < 0.05 * (weight(run.module) - run.seen.weights[-1]).norm()
    run = Run(kind, max_epochs=3, callbacks=[shipped.StochasticWeightAveraging(0.01, swa_epoch_start=2)])
    ends = run.seen.weights[BATCHES - 1 :: BATCHES]
    assert torch.allclose(weight(run.module), torch.stack(ends[:2]).mean(0), atol=1e-6)  # as each epoch begins


HONOURED = {
    **dict.fromkeys(("accelerator", "strategy", "devices"), test_devices),
    "num_nodes": test_nodes, "precision": test_precision, "plugins": test_plugins, "logger": test_logger,
    "callbacks": test_callbacks, "Callback": test_callbacks,
    **dict.fromkeys(("fast_dev_run", "max_epochs", "min_epochs"), test_runs_of_given_length),
    **dict.fromkeys(("max_steps", "min_steps", "max_time"), test_runs_of_given_length),
    "limit_train_batches": test_limits_of_training,
    **dict.fromkeys(("limit_val_batches", "limit_test_batches", "limit_predict_batches"), test_limits_of_evaluation),
    "overfit_batches": test_overfitting,
    **dict.fromkeys(("val_check_interval", "check_val_every_n_epoch", "num_sanity_val_steps"), test_validation),
    "log_every_n_steps": test_log_every_n_steps, "enable_checkpointing": test_checkpoints,
    "default_root_dir": test_checkpoints, "enable_progress_bar": test_shown, "enable_model_summary": test_shown,
    "ModelSummary": test_shown,
    **dict.fromkeys(("deterministic", "benchmark", "inference_mode", "detect_anomaly"), test_flags),
    "profiler": test_profiler, "barebones": test_barebones, "sync_batchnorm": test_the_same_weights,
    "reload_dataloaders_every_n_epochs": test_the_same_weights, "BaseFinetuning": test_finetuning,
    "BasePredictionWriter": test_prediction_writer,
    **dict.fromkeys(("DeviceStatsMonitor", "LearningRateMonitor", "ThroughputMonitor"), test_monitors),
    "EarlyStopping": test_stopping, "Timer": test_stopping, "LambdaCallback": test_lambda,
    "ModelCheckpoint": test_model_checkpoint, "OnExceptionCheckpoint": test_checkpoint_of_an_exception,
    "ModelPruning": test_pruning,
    **dict.fromkeys(("RichModelSummary", "RichProgressBar", "TQDMProgressBar"), test_bars_and_summaries),
    "SpikeDetection": test_spikes,
    **dict.fromkeys(("StochasticWeightAveraging", "WeightAveraging", "EMAWeightAveraging"), test_averages),
}  # fmt: skip
PLAIN_ONLY = (test_overfitting, test_plugins, test_pruning, test_finetuning)


def pytest_generate_tests(metafunc):
    """What a row's test does, under both modules."""
    if "kind" in metafunc.fixturenames:
        metafunc.parametrize("kind", KINDS[:1] if metafunc.function in PLAIN_ONLY else KINDS)


# --- refused --------------------------------------------------------------------------------------------------------


def shrinking() -> L.LightningModule:
    return classifier(rule=SVDBackprop(pruning=Pruning()))


ACCUMULATES = shipped.GradientAccumulationScheduler({1: 2})
SUMMING = classifier(rule=DirectFeedbackAlignment("target", target_reduction="sum"))
UNKNOWN = shipped.ModelCheckpoint("x", monitor="nosuch")
# row, module, options, the line (None: Lightning's own, which the command line prints)
REFUSED = [
    ("precision", "plain", {"plugins": HalfPrecision("16-true")}, "set bf16-mixed"),
    ("plugins", "plain", {"plugins": HalfPrecision("16-true")}, "set bf16-mixed"),
    ("overfit_batches", "federated", {"overfit_batches": 1}, "limit_train"),
    ("limit_train_batches", "federated", {"limit_train_batches": 3}, "rounds_per_epoch"),
    ("val_check_interval", "plain", {"val_check_interval": 0}, "limit_val_batches: 0"),
    ("val_check_interval", "federated", {"val_check_interval": 0.0}, "limit_val_batches: 0"),
    ("check_val_every_n_epoch", "plain", {"check_val_every_n_epoch": 0}, "limit_val_batches: 0"),
    ("check_val_every_n_epoch", "federated", {"check_val_every_n_epoch": -2}, "limit_val_batches: 0"),
    ("strategy", "plain", {"strategy": "ddp_spawn", "devices": 2}, "set ddp"),
    ("strategy", "plain", {"strategy": "fsdp2", "devices": 1}, "and this is one"),
    ("strategy", "federated", {"strategy": "fsdp2", "devices": 2}, "is for a Classifier"),
    ("devices", "plain", {"devices": 2, "strategy": "ddp", "module": SUMMING}, "set it to mean"),
    ("sync_batchnorm", "plain", {"sync_batchnorm": True, "strategy": "ddp", "devices": 2}, "for GPUs alone"),
    ("accumulate_grad_batches", "plain", {"accumulate_grad_batches": 2}, "model.init_args.accumulate"),
    ("accumulate_grad_batches", "federated", {"accumulate_grad_batches": 2}, "clients_per_round"),
    ("gradient_clip_val", "plain", {"gradient_clip_val": 1.0}, "model.init_args.clip"),
    ("gradient_clip_val", "federated", {"gradient_clip_val": 1.0}, "local_optimizer"),
    ("gradient_clip_algorithm", "plain", {"gradient_clip_algorithm": "norm"}, "clip_by"),
    ("model_registry", "plain", {"model_registry": "mine"}, "litmodels"),
    ("BackboneFinetuning", "plain", {"callbacks": [shipped.BackboneFinetuning()]}, "model.init_args.probe"),
    ("BaseFinetuning", "plain", {"callbacks": [shipped.BaseFinetuning()]}, "subclass it"),
    ("BaseFinetuning", "federated", {"callbacks": [Unfreeze()]}, "before the module is made"),
    ("BatchSizeFinder", "plain", {"callbacks": [shipped.BatchSizeFinder()]}, "data.init_args.batch_size"),
    ("DeviceStatsMonitor", "plain", {"callbacks": [shipped.DeviceStatsMonitor()]}, None),
    ("EarlyStopping", "plain", {"callbacks": [shipped.EarlyStopping("nosuch")]}, None),
    ("GradientAccumulationScheduler", "plain", {"callbacks": [ACCUMULATES]}, "accumulate"),
    ("LearningRateFinder", "plain", {"callbacks": [shipped.LearningRateFinder()]}, "lit-fa sweep"),
    ("LearningRateMonitor", "plain", {"callbacks": [shipped.LearningRateMonitor()]}, None),
    ("ModelCheckpoint", "plain", {"callbacks": [UNKNOWN], "enable_checkpointing": True}, None),
    ("ModelPruning", "federated", {"callbacks": [shipped.ModelPruning("l1_unstructured", amount=0.5)]}, "SVDBackprop"),
    ("ThroughputMonitor", "plain", {"callbacks": [shipped.ThroughputMonitor(len)]}, "callbacks.samples_of"),
    *((type(made).__name__, "plain", {"callbacks": [made], "module": shrinking()}, "set physical: false") for made in
      (shipped.StochasticWeightAveraging(0.01), shipped.EMAWeightAveraging(), shipped.WeightAveraging())),
]  # fmt: skip


@pytest.mark.parametrize(("name", "which", "options", "line"), REFUSED, ids=[f"{n}-{k}" for n, k, *_ in REFUSED])
def test_refused(name, which, options, line, tmp_path, monkeypatch):
    from lit_fa.config.parser_errors import guarded

    monkeypatch.chdir(tmp_path)
    run = Run(which, fit=False, **options)
    alone = options.get("devices", 1) == 1  # else as the command line does, before it starts a process
    asked = (lambda: run.trainer.fit(run.module, run.data)) if alone else lambda: check_trainer(run.trainer, run.module)
    with pytest.raises(UserError) as refused:
        guarded(asked)
    assert "\n" not in str(refused.value)
    known = "val/loss" if "nosuch" in str(refused.value) else name
    assert (line or known) in str(refused.value)


@pytest.mark.parametrize("name", [16, "16", "16-true", "16-mixed", "transformer-engine", "transformer-engine-float16"])
def test_a_precision_is_refused_by_its_name(name):
    with pytest.raises(UserError, match="set bf16-mixed"):
        check_precision(name)


def test_finders_of_the_tuner_are_refused():
    trainer = L.Trainer(**QUIET)
    with pytest.raises(UserError, match="lit-fa sweep"):
        Tuner(trainer).lr_find(classifier(), datamodule=data("plain"))
    with pytest.raises(UserError, match="batch_size"):
        Tuner(L.Trainer(**QUIET)).scale_batch_size(classifier(), datamodule=data("plain"))


def test_what_depends_on_the_rule_is_refused_with_it():
    pruned = classifier(rule=SVDBackprop())
    with pytest.raises(UserError, match="ModelPruning renames"):
        Run(module=pruned, callbacks=[shipped.ModelPruning("l1_unstructured", amount=0.5)])
    with pytest.raises(UserError, match="unfreezes weights without"):
        Run(module=classifier(rule=FeedbackAlignment("kolen_pollack")), callbacks=[Unfreeze()])
    with pytest.raises(UserError, match="validate_every: 1"):
        Run("federated", module=federation(validate_every=2), callbacks=[shipped.EarlyStopping("val/loss")])


def test_an_optimiser_that_needs_a_closure_is_refused(kind):
    made = classifier if kind == "plain" else federation
    with pytest.raises(UserError, match="LBFGS evaluates the loss several times"):
        Run(kind, module=made(optimizer=torch.optim.LBFGS))
