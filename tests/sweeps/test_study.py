"""What a study hands out: shared, continued after a kill, and the same however often it was interrupted."""

import json
import os
import platform
import time
from pathlib import Path

import pytest
from filelock import Timeout
from optuna.trial import TrialState

from lit_fa.jobs.worker import Done
from lit_fa.spec.sweep import load_sweep
from lit_fa.sweeps import leases
from lit_fa.sweeps.study import Trials

FINE = Done("", False, 0.0)
SPACE = {"lr": {"distribution": "log_uniform_values", "min": 0.01, "max": 1.0}, "width": {"values": [1, 2, 3]}}


def opened(save, declared, tmp_path, **options) -> Trials:
    tmp_path.mkdir(exist_ok=True)
    return Trials(load_sweep(save(declared)), tmp_path / "out", **({"count": 6} | options))


def finish(trials: Trials, trial, **fields) -> None:
    record = {"metrics": {"val/accuracy": trial.values["lr"]}, **fields}
    Path(trial.record["path"]).write_text(json.dumps(record), encoding="utf-8")
    trials.tell(trial, FINE)


def all_of(trials: Trials) -> list[dict]:
    drawn = []
    for trial in trials:
        drawn.append(trial.values)
        finish(trials, trial)
    trials.close()
    return drawn


def test_a_grid_is_handed_out_once_and_in_order(declared, save, tmp_path):
    trials = opened(save, declared, tmp_path)
    assert [tuple(v.values()) for v in all_of(trials)] == [(lr, w) for lr in (0.1, 0.2, 0.3) for w in (1, 2)]
    assert list(opened(save, declared, tmp_path)) == []


@pytest.mark.parametrize(("method", "count"), [("random", 3), ("bayes", 12)])  # bayes draws ten at random first
def test_an_interrupted_sweep_draws_what_an_unbroken_one_does(method, count, declared, save, tmp_path):
    declared |= {"method": method, "parameters": SPACE}
    unbroken = all_of(opened(save, declared, tmp_path / "a", count=count))
    first = all_of(opened(save, declared, tmp_path / "b", count=count - 1))
    assert first + all_of(opened(save, declared, tmp_path / "b", count=count)) == unbroken


def test_another_seed_draws_something_else(declared, save, tmp_path):
    declared |= {"method": "random", "parameters": SPACE}
    one, other = (all_of(opened(save, declared, tmp_path / str(s), count=1, seed=s)) for s in (0, 1))
    assert one != other


def test_a_killed_trial_is_handed_out_again_with_its_folder(declared, save, tmp_path):
    killed = opened(save, declared, tmp_path)
    lost = next(iter(killed))
    killed.close()  # as the system does with the locks of a killed process
    trials = opened(save, declared, tmp_path)
    again = next(iter(trials))
    assert again == lost
    finish(trials, again)
    assert [trial.number for trial in all_numbers(trials)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("method", ["grid", "random", "bayes"])
def test_a_trial_whose_process_was_killed_while_it_drew_gets_the_values_it_would_have_had(
    method, declared, save, tmp_path
):
    declared |= {"method": method} | ({} if method == "grid" else {"parameters": SPACE})
    unbroken = all_of(opened(save, declared, tmp_path / "a", count=3))
    killed = opened(save, declared, tmp_path / "b", count=3)
    killed.study.sampler = killed._sampler(0)
    name, first = next(iter(killed.sweep.searched.items()))
    killed.study.ask({name: first.search})  # the second value was never drawn
    killed.close()
    assert all_of(opened(save, declared, tmp_path / "b", count=3)) == unbroken


def test_a_trial_whose_machine_has_died_is_handed_out_again_once_its_lease_has_expired(
    declared, save, tmp_path, monkeypatch
):
    monkeypatch.setattr(leases, "LEASE_S", 1.0)
    dead = opened(save, declared, tmp_path)
    lost = next(iter(dead))
    (lock,) = (tmp_path / "out/trials").glob("*/trial.lock")
    left = lock.read_text().replace(f"host={platform.node()}", "host=another")
    dead.close()
    lock.write_text(left)  # which nobody renews
    trials = opened(save, declared, tmp_path)
    handed = [trial for trial, _ in zip(trials, range(5), strict=False)]
    assert lost.number not in [trial.number for trial in handed]
    for trial in handed:
        finish(trials, trial)
    again = next(trial for trial in trials if trial)
    assert again == lost


@pytest.mark.parametrize("name", ["study.lock", "study.journal.lock", "trials/{}/trial.lock"])
def test_a_lock_whose_process_was_killed_before_it_wrote_its_name_holds_nobody_up_for_long(
    declared, save, tmp_path, monkeypatch, name
):
    """filelock waits for ever where the file is empty."""
    monkeypatch.setattr(leases, "NAMELESS_S", 0.3)
    killed = opened(save, declared, tmp_path)
    lost = next(iter(killed))
    killed.close()
    (tmp_path / "out" / name.format(Path(lost.record["path"]).parent.name)).write_bytes(b"")
    trials = opened(save, declared, tmp_path)
    numbers = []
    for trial in trials:
        if trial:
            numbers.append(trial.number)
            finish(trials, trial)
        else:
            time.sleep(0.05)
    assert sorted(numbers) == [*range(6)]
    assert lost.number in numbers


def test_an_empty_lock_that_gets_a_name_meanwhile_is_left_to_its_process(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "NAMELESS_S", 0.2)
    path, other = tmp_path / "a.lock", leases.lease_at(tmp_path / "b.lock")
    path.write_bytes(b"")
    waiting = leases.lease_at(path)
    with pytest.raises(Timeout):
        waiting.acquire(blocking=False)
    other.acquire()
    os.replace(tmp_path / "b.lock", path)  # named, by a living process
    time.sleep(0.3)
    with pytest.raises(Timeout):
        waiting.acquire(blocking=False)
    assert path.stat().st_size > 0


def test_a_sweep_ends_without_the_trials_that_others_train(declared, save, tmp_path):
    other, ours = opened(save, declared, tmp_path, count=2), opened(save, declared, tmp_path, count=2)
    next(iter(other))
    assert len(all_of(ours)) == 1


def all_numbers(trials: Trials):
    for trial in trials:
        yield trial
        finish(trials, trial)


def test_two_processes_share_a_study(declared, save, tmp_path):
    one, two = opened(save, declared, tmp_path), opened(save, declared, tmp_path)
    first, second = iter(one), iter(two)
    mine, yours = [next(first), next(first)], [next(second), next(second)]
    assert [trial.number for trial in mine + yours] == [0, 1, 2, 3]
    for trials, held in ((one, mine), (two, yours)):
        for trial in held:
            finish(trials, trial)
    assert len(all_of(one)) == 2
    assert list(two) == []


def test_the_same_config_is_trained_once_at_a_time(declared, save, tmp_path):
    declared |= {"method": "random", "parameters": {"lr": {"values": [0.5]}}}
    trials = opened(save, declared, tmp_path, count=2)
    handed = iter(trials)
    first = next(handed)
    assert next(handed) is None  # the second trial is there, and waits for the first
    finish(trials, first)
    second = next(handed)
    assert (second.number, second.record["path"]) == (1, first.record["path"])


def test_a_target_ends_a_sweep(declared, save, tmp_path):
    declared["metric"]["target"] = 0.2
    assert [v["lr"] for v in all_of(opened(save, declared, tmp_path))] == [0.1, 0.1, 0.2]


def test_ends_are_told_apart(declared, save, tmp_path):
    trials = opened(save, declared, tmp_path, count=3)
    handed = iter(trials)
    finish(trials, next(handed), stopped_early=True, validation_is_test=True)
    trials.tell(next(handed), Done("out of luck", False, 0.0))
    finish(trials, next(handed), metrics={"val/accuracy": None})
    states = [trial.state for trial in trials.study.trials[:3]]
    assert states == [TrialState.PRUNED, TrialState.FAIL, TrialState.FAIL]
    assert trials.failed == {1: "out of luck", 2: "the run ended without val/accuracy, or it was no number"}
    assert trials.judged_by_the_test_set
