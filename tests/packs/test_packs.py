"""Runs that train as one program have the records, to the last bit, of the same runs alone."""

import copy
import gc
import json
import logging
import signal
import time
from functools import partial
from pathlib import Path

import lightning as L
import pytest
import torch

from lit_fa import datamodules, experiment
from lit_fa.packs import Lane, Pack
from lit_fa.packs.replay import Replay
from lit_fa.stopping import Stopped

pytestmark = pytest.mark.usefixtures("one_thread")
TIMES = ("wall_time_s", "cpu_time_s", "started", "finished", "packed", "peak_memory_mib", "energy_j")
FA = "lit_fa.rules.FeedbackAlignment"
MEASURES = ("ConservationPotential", "GradientAlignment", "BestValidation")
SGD = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}
ADAM = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01}}
NESTEROV = {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3}
LONG = {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 4, "gamma": 0.5}}


class EndsAt(L.Callback):
    """Sends SIGTERM to its own process after a step, once."""

    needs_every_batch = False

    def __init__(self, step: int):
        self.step = step

    def on_before_optimizer_step(self, trainer: L.Trainer, *_: object) -> None:
        if trainer.global_step + 1 == self.step:
            signal.raise_signal(signal.SIGTERM)


def sourced(name: str, **options: object) -> dict:
    return {"class_path": FA, "init_args": {"source": {"class_path": f"lit_fa.rules.{name}", "init_args": options}}}


def config(seed: int = 0, rule: object = None, *, data: object = None, trainer: object = None, **model: object) -> dict:
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    usual = {"max_epochs": 2, "accelerator": "cpu", "log_every_n_steps": 4, "num_sanity_val_steps": 0, **quiet}
    usual["callbacks"] = [{"class_path": f"callbacks.{name}"} for name in MEASURES]
    network = {"network": "mlp", "image_shape": [1, 6, 6], "network_args": {"hidden": [12], "bias": False}}
    options = {"rule": rule or {"class_path": FA}, "optimizer": SGD, **network, **model}
    images = {"n_train": 200, "n_test": 64, "val_size": 40, "image_shape": [1, 6, 6], "batch_size": 20, "seed": seed}
    return {
        "seed_everything": seed,
        "trainer": usual | (trainer or {}),
        "model": {"class_path": "lit_fa.modules.Classifier", "init_args": options},
        "data": {"class_path": "datamodules.Synthetic", "init_args": images | (data or {})},
    }


def body(path: Path, chosen: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    experiment.run(copy.deepcopy(chosen), {"path": str(path), "id": path.stem})


def alone(folder: Path, runs: dict[str, dict]) -> dict[str, dict]:
    for name, chosen in runs.items():
        body(folder / f"{name}.json", chosen)
    return read(folder)


def packed(folder: Path, runs: dict[str, dict], measured: bool = False) -> tuple[dict[str, dict], list[Lane]]:
    lanes = [Lane(partial(body, folder / f"{name}.json", chosen)) for name, chosen in runs.items()]
    Pack(lanes, measured).run()
    return read(folder), lanes


def read(folder: Path) -> dict[str, dict]:
    return {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}


def results(records: dict[str, dict]) -> dict[str, dict]:
    """The records without what a machine decides."""
    return {n: {key: v for key, v in record.items() if key not in TIMES} for n, record in records.items()}


MIXED = {
    "bp": config(0, {"class_path": "lit_fa.rules.Backprop"}),
    "fa": config(1, sourced("RandomFeedback", init="uniform", seed=1)),
    "sign": config(2, sourced("SignFeedback")),
    "kolen-pollack": config(3, sourced("KolenPollackFeedback", seed=3)),
    "mixture": config(4, sourced("AdaptiveFeedback", reading="mixture")),
    "momentum": config(5, optimizer={"class_path": "torch.optim.SGD", "init_args": NESTEROV}, clip=0.5),
    "adam": config(6, optimizer=ADAM, scheduler=LONG, scheduler_interval="step"),
    "label noise": config(7, data={"label_noise": 0.3, "noise_seed": 1}, layer_lr={"head.*": 0.01}),
}
DIRECT = {
    "dfa": config(0, {"class_path": "lit_fa.rules.DirectFeedbackAlignment", "init_args": {"seed": 0}}),
    "dfa 1": config(1, {"class_path": "lit_fa.rules.DirectFeedbackAlignment", "init_args": {"seed": 1}}),
}
LOCAL = {
    "ff": config(0, {"class_path": "lit_fa.rules.ForwardForward", "init_args": {"seed": 0}}),
    "ff 1": config(1, {"class_path": "lit_fa.rules.ForwardForward", "init_args": {"seed": 1, "loss": "symba"}}),
}


def test_runs_of_a_pack_have_the_records_of_runs_alone(tmp_path):
    runs = MIXED | DIRECT | LOCAL
    expected = alone(tmp_path / "alone", runs)
    together, lanes = packed(tmp_path / "packed", runs)
    assert [lane.error for lane in lanes] == [None] * len(runs)
    assert results(together) == results(expected)
    assert {name: record["packed"]["lanes"] for name, record in together.items()} == {
        name: len(kind) for kind in (MIXED, DIRECT, LOCAL) for name in kind
    }
    assert not any("packed" in record for record in expected.values())
    few, _ = packed(tmp_path / "few", {name: runs[name] for name in ("adam",)})
    assert results(few) == {name: results(expected)[name] for name in few}  # whatever the number of lanes


def test_a_run_that_diverges_changes_no_other(tmp_path):
    bad = config(1, optimizer={"class_path": "torch.optim.SGD", "init_args": {"lr": 1e25}})
    runs = {"fa": MIXED["fa"], "bad": bad, "sign": MIXED["sign"]}
    expected = alone(tmp_path / "alone", runs)
    together, _ = packed(tmp_path / "packed", runs)
    assert expected["bad"]["status"] == "diverged"
    assert results(together) == results(expected)


def with_end(chosen: dict, step: int) -> dict:
    chosen = copy.deepcopy(chosen)
    end = {"class_path": f"{__name__}.EndsAt", "init_args": {"step": step}}
    chosen["trainer"]["callbacks"].insert(0, end)
    return chosen


@pytest.mark.parametrize("step", [6, 8], ids=["in joint steps", "in a step of its own"])
def test_a_stopped_pack_goes_on_bit_for_bit_with_fewer_runs(tmp_path, step: int):
    names = ("fa", "adam", "momentum")  # the last goes on alone
    expected = alone(tmp_path / "alone", {name: MIXED[name] for name in names})
    runs = {name: with_end(MIXED[name], step if name == "adam" else 10**6) for name in names}
    before, lanes = packed(tmp_path / "packed", runs)
    assert all(isinstance(lane.error, Stopped) for lane in lanes)
    assert not before
    assert [(tmp_path / "packed" / f".{name}" / "last.ckpt").is_file() for name in names] == [True] * 3
    packed(tmp_path / "packed", {name: MIXED[name] for name in names[:2]})
    body(tmp_path / "packed" / "momentum.json", MIXED["momentum"])
    resumed = results(read(tmp_path / "packed"))
    assert resumed == results(expected)


class Looks(L.Callback):
    def on_train_batch_end(self, *_: object) -> None:
        pass


class LooksBack(L.Callback):
    def on_after_backward(self, *_: object) -> None:
        pass


def observed_by(name: str) -> dict:
    return {"trainer": {"callbacks": [{"class_path": f"tests.packs.test_packs.{name}"}]}}


IN_THE_LOOP = {
    "a callback": (observed_by("Looks"), "Looks needs every step"),
    "the backward pass": (observed_by("LooksBack"), "LooksBack looks at the backward pass"),
    "accumulate": ({"accumulate": 2}, "accumulate: 2 is a step of its own"),
    "stream": ({"rule": {"class_path": "lit_fa.rules.PredSim"}, "stream": True}, "stream: True is a step of its own"),
    "precision": ({"trainer": {"precision": "bf16-mixed"}}, "precision bf16-mixed is rounded by autocast"),
    "profiler": ({"trainer": {"profiler": "simple"}}, "SimpleProfiler measures every step"),
}


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=() if c == "a callback" else pytest.mark.slow) for c in IN_THE_LOOP]
)
def test_a_run_that_needs_the_loop_trains_alone_and_says_why(tmp_path, case: str, caplog):
    caplog.set_level(logging.INFO, "lit_fa.packs")
    options, reason = IN_THE_LOOP[case]
    runs = {"fa": MIXED["fa"], "apart": config(1, **options), "sign": MIXED["sign"]}
    together, _ = packed(tmp_path / "packed", runs)
    assert results(together) == results(alone(tmp_path / "alone", runs))
    assert "packed" not in together["apart"]
    assert together["fa"]["packed"]["lanes"] == 2
    assert [line for line in caplog.messages if "alone" in line] == [f"trained alone: {reason}"]


DROPOUT = config(1, network_args={"hidden": [12], "dropout": 0.5})
BY_AUTOGRAD = {
    "dropout": (DROPOUT, "draws random numbers"),
    "another rule": (config(2, {"class_path": "lit_fa.rules.PredSim"}, clip=0.5), "PredSim has no explicit gradient"),
}


def test_runs_without_explicit_steps_take_theirs_by_autograd_bit_for_bit(tmp_path, caplog):
    caplog.set_level(logging.INFO, "lit_fa.packs")
    runs = {"fa": MIXED["fa"], "sign": MIXED["sign"], **{name: chosen for name, (chosen, _) in BY_AUTOGRAD.items()}}
    together, _ = packed(tmp_path / "packed", runs)
    assert results(together) == results(alone(tmp_path / "alone", runs))
    said = [line for line in caplog.messages if "trained by autograd" in line]
    assert [reason in line for line, (_, reason) in zip(said, BY_AUTOGRAD.values(), strict=True)] == [True] * 2
    assert {n: (r["packed"]["lanes"], r["packed"]["step"]) for n, r in together.items()} == {
        "fa": (2, "written"),
        "sign": (2, "written"),
        **dict.fromkeys(BY_AUTOGRAD, (1, "autograd")),
    }


@pytest.mark.parametrize("fastest", [0, 1, 2, 3])
def test_auto_measures_how_many_runs_are_one_program_and_says_it_once(tmp_path, fastest: int, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "lit_fa.packs")
    spent = iter(1.0 + (size != fastest) for size in (1, 2, 3))
    monkeypatch.setattr("lit_fa.packs.size.per_step", lambda *_: next(spent))
    monkeypatch.setattr("lit_fa.packs.member.per_step", lambda *_: 0.5 if fastest == 0 else 3.0)
    often = {"trainer": {"log_every_n_steps": 50}, "data": {"n_train": 440}}  # twenty steps an epoch
    runs = {name: config(n, **often) for n, name in enumerate("abc")}
    together, _ = packed(tmp_path / "packed", runs, measured=True)
    assert results(together) == results(alone(tmp_path / "alone", runs))
    said = [line for line in caplog.messages if "least time" in line]
    names = ["each run by autograd", "1 run as one program", "2 runs as one program", "3 runs as one program"]
    assert len(said) == 3  # one line in the log of each run
    assert len({*said}) == 1
    assert said[0].startswith(f"{names[fastest]}, which took the least time a step and run: 1 run ")
    assert {record["packed"]["step"] for record in together.values()} == {"written" if fastest else "autograd"}


def test_a_captured_step_is_the_step(tmp_path, monkeypatch):
    captured = []

    def capture(function):  # as a CUDA graph: the function reads its tensors whenever it is replayed
        captured.append(function)
        return function

    monkeypatch.setattr("lit_fa.packs.program.CAPTURES", {"cpu": capture})
    plain = {"trainer": {"callbacks": []}}
    decayed = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1, "weight_decay": 0.01}}
    runs = {"a": config(0, **plain), "b": config(1, **plain, layer_lr={"head.*": 0.01}, optimizer=decayed)}
    together, _ = packed(tmp_path / "packed", runs)
    assert len(captured) == 1
    monkeypatch.undo()
    assert results(together) == results(alone(tmp_path / "alone", runs))


def test_a_step_that_cannot_be_captured_goes_on_without(caplog):
    caplog.set_level(logging.INFO, "lit_fa.packs")
    seen = []

    def refuse(function):
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    replay = Replay(lambda inputs: seen.append(inputs[0].item()), refuse)
    for value in (1.0, 2.0, 3.0):
        replay([torch.tensor(value)])
    assert seen == [1.0, 2.0, 3.0]
    assert caplog.messages == ["joint steps are not captured: operation not permitted when stream is capturing"]


def test_times_are_shares_and_images_are_in_memory_once(tmp_path, monkeypatch):
    gc.collect()  # the images of other tests
    read = []
    monkeypatch.setattr(
        datamodules.Synthetic,
        "read",
        lambda self, split, own=datamodules.Synthetic.read: (read.append(split), own(self, split))[1],
    )
    began = time.monotonic()
    together, _ = packed(tmp_path, {name: MIXED[name] for name in ("fa", "sign")})
    assert 0 < sum(record["wall_time_s"] for record in together.values()) < time.monotonic() - began
    assert [record["energy_j"] for record in together.values()] == [{"cpu": None, "gpu": None}] * 2
    assert read == ["train", "test"]
    body(tmp_path / "later.json", MIXED["fa"])
    assert read == ["train", "test"] * 2  # a later run reads its own
