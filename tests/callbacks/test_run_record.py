"""The one small JSON of a run."""

import json
import multiprocessing
import os
import resource
import sys
import time
from itertools import pairwise

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import Logger

from lit_fa.callbacks import ConservationPotential, Curves, MeasurementError, Recorder, RunRecord, publish
from lit_fa.callbacks.environment import cpu_seconds, hardware, versions
from lit_fa.callbacks.run_record import write_json
from lit_fa.datamodules import Digits, Federated
from lit_fa.errors import UserError
from lit_fa.federated import LocalSGD
from lit_fa.modules import FederatedClassifier, NonFiniteLossError
from lit_fa.provenance import sources
from lit_fa.results.record_schema import SCHEMAS
from lit_fa.rules import Backprop, FeedbackAlignment
from tests.callbacks.training import fit, mlp, task

ASKED = {"id": "abc", "paper": "conservation", "row": "FA", "seed": 3, "config": {"trainer": {"max_epochs": 2}}}


def recorded(path, **options):
    record = RunRecord(str(path), ASKED, **options)
    trainer, _ = fit(mlp(), FeedbackAlignment(), [record, ConservationPotential()], test=True)
    return json.loads(path.read_text()), trainer


def test_a_record_has_what_was_asked_for_and_what_was_measured(tmp_path):
    read, trainer = recorded(tmp_path / "deep" / "r.json")
    assert {key: read[key] for key in ASKED} == ASKED
    assert read["status"] == "finished"
    assert read["metrics"]["test/accuracy"] == trainer.callback_metrics["test/accuracy"].item()
    assert {"val/accuracy", "train/loss_epoch", "conserve/normalised", "test/loss"} <= read["metrics"].keys()
    assert [point[:2] for point in read["curves"]["val/accuracy"]] == [[3, 1.0], [6, 2.0]]
    assert [point[:2] for point in read["curves"]["train/accuracy"]] == [[3, 1.0], [6, 2.0]]
    assert read["curves"]["val/loss"][-1][2] == pytest.approx(read["metrics"]["val/loss"], rel=1e-5)  # six digits
    assert read["versions"] == versions()
    assert read["hardware"] == hardware()
    assert read["hardware"]["processor"].endswith(torch.backends.cpu.get_cpu_capability())
    assert read["schema"] == 2 == max(SCHEMAS)
    assert read["sources"] == sources()
    assert read["wall_time_s"] > 0
    assert 0 < read["cpu_time_s"] < 100
    assert read["peak_memory_mib"] > 10
    assert read["started"] <= read["finished"]
    assert read["broken"] == []
    assert "not_finite" not in read
    assert not [name for name in os.listdir(tmp_path / "deep") if name != "r.json"]


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process can be reset only on Linux")
def test_the_peak_memory_of_a_run_is_not_that_of_an_earlier_run_of_its_process(tmp_path):
    torch.ones(2**28).sum()  # 1 GiB, freed at once
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    assert recorded(tmp_path / "r.json")[0]["peak_memory_mib"] < before - 512


def test_a_run_that_starts_beside_another_does_not_lower_its_peak_memory(tmp_path):
    first, second = RunRecord(str(tmp_path / "a.json")), RunRecord(str(tmp_path / "b.json"))
    trainer = L.Trainer(accelerator="cpu", logger=False)
    first.setup(trainer, mlp(), "fit")
    torch.ones(2**27).sum()  # half a GiB, freed at once
    before = first.peak_memory()
    second.setup(trainer, mlp(), "fit")
    assert first.peak_memory() >= before


def test_the_peak_memory_of_a_resumed_run_is_that_of_all_its_parts(tmp_path):
    record = RunRecord(str(tmp_path / "r.json"), ASKED)
    record.load_state_dict(RunRecord().state_dict() | {"peak": 1e6})
    fit(mlp(), FeedbackAlignment(), [record], test=True)
    assert json.loads((tmp_path / "r.json").read_text())["peak_memory_mib"] == 1e6
    assert record.state_dict()["peak"] == 1e6


def test_metrics_keep_the_digits_that_lightning_rounds(tmp_path):
    read, _ = recorded(tmp_path / "r.json")
    drift = read["metrics"]["conserve/drift"]
    assert float(f"{drift:.6g}") == read["curves"]["conserve/drift"][-1][2]
    assert drift != torch.tensor(drift, dtype=torch.float32).item()


def test_a_run_is_finished_when_it_is_tested(tmp_path):
    path = tmp_path / "r.json"
    trainer, module = fit(mlp(), FeedbackAlignment(), [RunRecord(str(path))])
    assert json.loads(path.read_text())["status"] == "fitted"
    trainer.test(module, torch.utils.data.DataLoader([task()], batch_size=None), verbose=False)
    assert json.loads(path.read_text())["status"] == "finished"
    fit(mlp(), FeedbackAlignment(), [RunRecord(str(path), finish_after="fit")])
    assert json.loads(path.read_text())["status"] == "finished"


def test_a_test_alone_is_no_finished_run(tmp_path):
    path = tmp_path / "r.json"
    _, module = fit(mlp(), FeedbackAlignment(), epochs=1)
    trainer = L.Trainer(accelerator="cpu", logger=False, callbacks=[RunRecord(str(path))], enable_progress_bar=False)
    trainer.test(module, torch.utils.data.DataLoader([task()], batch_size=None), verbose=False)
    assert json.loads(path.read_text())["status"] == "tested"


def test_a_diverged_run_leaves_a_record_of_when_and_where_and_of_its_last_finite_numbers(tmp_path):
    class Spoil(L.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                pl_module.network[3].weight.data.fill_(torch.inf)

    path = tmp_path / "r.json"
    with pytest.raises(NonFiniteLossError):
        fit(mlp(), FeedbackAlignment(), [RunRecord(str(path), ASKED), Spoil()], epochs=3)
    read = json.loads(path.read_text())
    assert read["status"] == "diverged"
    assert (read["diverged"]["step"], read["diverged"]["first"]) == (3, "parameter 3.weight")
    assert read["diverged"]["error"] == "loss is nan at step 3; first not finite: parameter 3.weight"
    assert read["curves"]["val/accuracy"] == [[3, 1.0, pytest.approx(read["metrics"]["val/accuracy"], rel=1e-5)]]
    assert {key: read[key] for key in ASKED} == ASKED


def test_a_diverged_federated_run_names_the_layer_of_the_client(tmp_path):
    module = FederatedClassifier(
        "mlp", Backprop(), image_shape=(1, 8, 8), num_classes=10, local_optimizer=LocalSGD(lr=1e30)
    )
    with pytest.raises(NonFiniteLossError):
        federated(module, RunRecord(str(tmp_path / "r.json"), finish_after="fit"))
    read = json.loads((tmp_path / "r.json").read_text())
    assert (read["status"], read["diverged"]["step"]) == ("diverged", 0)
    assert read["diverged"]["first"].startswith("the output of ")


def test_processor_seconds_of_data_workers_count_while_they_run():
    before = cpu_seconds()
    worker = multiprocessing.get_context("spawn").Process(target=sum, args=(range(30_000_000),))
    worker.start()
    while worker.is_alive() and cpu_seconds() - before < 0.2:
        time.sleep(0.05)
    spent = cpu_seconds() - before
    worker.join()
    assert spent >= 0.2
    assert cpu_seconds() - before >= spent


def test_broken_laws_are_on_record(tmp_path):
    path = tmp_path / "r.json"
    with pytest.warns(UserWarning, match="weight_decay"):
        fit(mlp(), FeedbackAlignment(), [RunRecord(str(path)), ConservationPotential()], sgd={"weight_decay": 0.1})
    assert json.loads(path.read_text())["broken"] == ["SGD has weight_decay 0.1"]


def test_numbers_that_are_none_become_null_and_are_named(tmp_path):
    path = tmp_path / "r.json"
    write_json(path, {"metrics": {"a": float("nan"), "b": 1.5}, "curves": {"c": [[0, 0.0, float("inf")]]}})
    read = json.loads(path.read_text())
    assert read["metrics"] == {"a": None, "b": 1.5}
    assert read["curves"]["c"] == [[0, 0.0, None]]
    assert read["not_finite"] == ["metrics.a", "curves.c"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "r.json"
    write_json(path, {"status": "fitted"})
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "disk full")))
    with pytest.raises(UserError, match=r"r\.json: cannot be written \(disk full\)"):
        write_json(path, {"status": "finished"})
    assert json.loads(path.read_text()) == {"status": "fitted"}
    assert [file.name for file in tmp_path.iterdir()] == ["r.json"]


def test_an_unknown_end_is_refused_in_one_line():
    with pytest.raises(MeasurementError, match="finish_after is fit or test"):
        RunRecord(finish_after="validate")


def test_curves_are_thinned_evenly_but_for_their_last_ten_points():
    curves = Curves({"a": [(k, k / 10, float(k)) for k in range(1001)], "b": [(0, 0.0, 1.0)]})
    thin = curves.thinned(200)
    assert len(thin["a"]) == 200
    assert thin["a"][0][0] == 0
    assert thin["a"][-1][0] == 1000
    steps = [step for step, _, _ in thin["a"]]
    assert max(b - a for a, b in pairwise(steps)) <= 6
    assert steps[-10:] == [*range(991, 1001)]
    assert thin["b"] == [(0, 0.0, 1.0)]


def test_the_later_value_of_a_step_counts():
    curves = Curves()
    curves.add(5, 1.0, {"a": 1.0})
    curves.add(5, 1.0, {"a": 2.0})
    assert curves.points == {"a": [(5, 1.0, 2.0)]}


def test_published_values_are_not_taken_a_second_time_at_the_epochs_end():
    class Once(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.global_step == 2:
                publish(trainer, pl_module, {"mine": 1.0}, monitored=False)

    recorder = Recorder()
    fit(mlp(), FeedbackAlignment(), [Once(), recorder])
    assert recorder.curves.points["mine"] == [(2, pytest.approx(2 / 3, abs=1e-4), 1.0)]


def federated(module, *observers):
    images = Digits(limit_train=200, limit_test=50)
    data = Federated(images, clients=4, clients_per_round=2, partition="shards", batch_size=16)
    L.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[*observers],
    ).fit(module, data)  # fmt: skip
    return data


def test_a_federated_record_says_what_every_client_held(tmp_path):
    module = FederatedClassifier("mlp", Backprop(), image_shape=(1, 8, 8), num_classes=10)
    data = federated(module, RunRecord(str(tmp_path / "r.json"), finish_after="fit"))
    assert json.loads((tmp_path / "r.json").read_text())["partition"] == data.class_counts.tolist()


def test_weights_that_the_last_step_spoilt_are_a_divergence_also_after_the_test(tmp_path):
    class Spoil(L.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                pl_module.network[3].weight.data[0, 0] = torch.inf

    path = tmp_path / "r.json"
    fit(mlp(), FeedbackAlignment(), [RunRecord(str(path)), Spoil()], test=True)
    read = json.loads(path.read_text(encoding="utf-8"))
    assert (read["status"], read["diverged"]["step"]) == ("diverged", 6)
    assert read["diverged"]["first"] == "parameter 3.weight"


def test_an_error_that_weights_without_a_number_cause_is_a_divergence(tmp_path):
    class Spoil(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            pl_module.network[3].weight.data.fill_(torch.inf)
            torch.linalg.eigh(pl_module.network[3].weight @ pl_module.network[3].weight.T)

    path = tmp_path / "r.json"
    with pytest.raises(RuntimeError):
        fit(mlp(), FeedbackAlignment(), [RunRecord(str(path)), Spoil()])
    told = json.loads(path.read_text(encoding="utf-8"))["diverged"]
    assert told["first"] == "parameter 3.weight"
    assert "linalg" in told["error"]


def test_an_error_with_finite_weights_leaves_no_record(tmp_path):
    class Break(L.Callback):
        def on_train_batch_end(self, *_):
            raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        fit(mlp(), FeedbackAlignment(), [RunRecord(str(tmp_path / "r.json")), Break()])
    assert not (tmp_path / "r.json").exists()


def test_a_run_that_went_on_with_other_code_names_the_commits_of_its_parts():
    record = RunRecord()
    state = record.state_dict() | {"spent": 1.0, "started": None}
    record.load_state_dict(state | {"code": {"commit": "abc", "sources": "of then"}})
    assert record.earlier == ["abc"]
    record.load_state_dict(state | {"code": {"commit": "abc", "sources": sources()}, "earlier": []})
    assert record.earlier == []


def test_the_last_finite_value_of_a_curve_is_kept():
    curves = Curves({"a": [(1, 1.0, 0.5), (2, 2.0, float("nan"))], "b": [(1, 1.0, float("inf"))]})
    assert curves.last_finite() == {"a": 0.5}


def test_a_record_is_a_logger_while_training_goes_on(tmp_path):
    class Measures(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            for logger in trainer.loggers:
                logger.log_metrics({"mine": float(trainer.global_step)}, step=trainer.global_step)

    record = RunRecord(str(tmp_path / "r.json"))
    trainer, _ = fit(mlp(), FeedbackAlignment(), [Measures(), record], epochs=1)
    steps = trainer.global_step
    assert isinstance(record, Logger)
    assert [step for step, _, value in record.curves.points["mine"] if step == value] == [*range(1, steps + 1)]
    assert json.loads((tmp_path / "r.json").read_text())["metrics"]["mine"] == steps
    assert trainer.loggers == []
    assert trainer.log_dir == trainer.default_root_dir


def test_a_record_that_is_only_a_logger_is_refused_in_one_line():
    with pytest.raises(MeasurementError, match=r"RunRecord belongs under trainer\.callbacks, not trainer\.logger"):
        fit(mlp(), FeedbackAlignment(), logger=RunRecord(), epochs=1)
