"""Two ranks that train the stages of one network learn, bit for bit, what one process learns."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from lit_fa.modules.strategy_options import starts_several
from lit_fa.parallel.strategy import WORD
from tests.contract.training import IMAGE, mlp, record
from tests.gradients import largest_difference

SHORT = {"double": False, "epochs": 2, "n_train": 29, "save_every": 100}  # batches of 8, 8, 8 and 5
STAGES = {"devices": 2}
EXACT = {
    "dfa_dense": {"schedule": "sync", "accumulate": 2, "clip": 0.3},  # one norm over both stages
    "drtp_dense": {"schedule": "full", "network": "norm", "interval": "epoch"},
    "ff_threshold": {"schedule": "full", "clip": 0.3},
    "auglocal": {"schedule": "full"},
}
MORE = {
    "predsim": {"schedule": "full", "accumulate": 2},
    "ssa_random": {"schedule": "sync", "clip": 0.3},
    "ssa_product": {"schedule": "sync"},
    "fwm": {"schedule": "sync", "network": "mlp"},
    "ff_greedy": {"schedule": "full"},
    "ff_no_head": {"schedule": "full"},
    "mono_forward_greedy": {"schedule": "full"},
}


def both(tmp_path: Path, rule: str, schedule: str, **options: Any) -> tuple[dict, dict]:
    options = {"rule": rule, **SHORT, **options}
    return record(tmp_path / "one", **options), record(tmp_path / "two", schedule=schedule, **STAGES, **options)


@pytest.mark.parametrize("rule", [*EXACT, *(pytest.param(rule, marks=pytest.mark.slow) for rule in MORE)])
def test_two_stages_learn_what_one_process_learns(rule: str, tmp_path: Path):
    one, two = both(tmp_path, rule, **(EXACT | MORE)[rule])
    assert largest_difference(two["state"], one["state"]) == 0
    assert largest_difference(two["ranks"][1]["state"], two["state"]) == 0
    # the sum of the stages' losses, in another order
    assert largest_difference(two["metrics"], one["metrics"]) < 1e-5
    assert two["steps"] == one["steps"]
    assert two["schedule"] == one["schedule"]


def test_every_stage_has_the_optimiser_state_of_its_own_parameters(tmp_path: Path):
    two = record(tmp_path, rule="drtp_dense", schedule="full", **STAGES, **SHORT)
    held = [{*rank["optimizer"]["state"]} for rank in two["ranks"]]
    assert held[0] | held[1] == {*range(8)}
    assert not held[0] & held[1]


@pytest.mark.parametrize("first", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_checkpoint_of_one_process_and_of_two_stages_is_the_same_file(first: int, tmp_path: Path):
    """Within an accumulation window, so that also its gradients have to be merged, and with momentum."""
    options = {"rule": "dfa_dense", "accumulate": 2, **SHORT}
    kinds = {1: {}, 2: {"schedule": "sync", **STAGES}}
    whole = record(tmp_path / "whole", **options)
    record(tmp_path / "part", **options, **kinds[first], keep_after=5, stop=True)
    rest = record(tmp_path / "rest", **options, **kinds[3 - first], resume=str(tmp_path / "part" / "kept.ckpt"))
    assert largest_difference(rest["state"], whole["state"]) == 0
    assert largest_difference(rest["metrics"], whole["metrics"]) < 1e-5
    assert rest["steps"] == whole["steps"]


def test_ranks_that_a_launcher_has_counted_are_accepted(monkeypatch: pytest.MonkeyPatch):
    """A stage sees one share of a batch, and torchrun or Lightning's launcher say how many processes there are."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
    trainers = [L.Trainer(accelerator="cpu", devices=n, strategy=s, **quiet) for n, s in ((2, WORD), (1, "auto"))]
    assert [starts_several(trainer) for trainer in trainers] == [False, True]


@pytest.mark.slow  # three runs of two ranks
def test_dropout_is_drawn_by_stage_and_resumes(tmp_path: Path):
    options = {"rule": "dfa_dense", "schedule": "sync", "dropout": 0.5, **STAGES, **SHORT}
    whole = record(tmp_path / "whole", **options)
    record(tmp_path / "part", **options, keep_after=5, stop=True)
    rest = record(tmp_path / "rest", **options, resume=str(tmp_path / "part" / "kept.ckpt"))
    assert largest_difference(rest["state"], whole["state"]) == 0
    assert whole["ranks"][0]["losses"] != record(tmp_path / "none", **options | {"dropout": 0.0})["ranks"][0]["losses"]


def test_a_full_pipeline_applies_the_error_one_batch_late(tmp_path: Path):
    options = {"rule": "dfa_dense", "network": "mlp", "epochs": 1, "splits": ["3"], "interval": "epoch", **STAGES}
    two = record(tmp_path, **{**SHORT, **options}, schedule="full")
    assert largest_difference(two["ranks"][1]["state"], two["state"]) == 0
    assert two["steps"] == 4  # every batch is a step, also the one whose update comes at the end
    expected = late_by_one(two["state"])
    for name, weight in expected.items():
        assert (two["state"][f"network.{name}"] - weight).abs().max() < 1e-6, name


def late_by_one(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights after an epoch in which layer 1 learns from the error of the batch before; by hand."""
    from lit_fa.datamodules import Synthetic
    from tests.small_networks import CLASSES

    data = Synthetic(
        n_train=29, n_test=11, image_shape=IMAGE, num_classes=CLASSES, batch_size=8, seed=1, device="cpu",
        validation_is_test="allow",
    )  # fmt: skip
    data.prepare_data()
    data.setup("fit")
    network = mlp(0.0)
    first, rest = network[:4], network[4:]
    lower, upper = (torch.optim.SGD(part.parameters(), 0.05, 0.9, weight_decay=1e-2) for part in (first, rest))
    feedback = {name: state[f"rule.feedback.{name}.weight"] for name in ("3", "5", "8")}
    waiting: tuple[torch.Tensor, ...] | None = None

    def update_lower(inputs: torch.Tensor, active: torch.Tensor, error: torch.Tensor) -> None:
        delta = (error @ feedback["3"]) * active
        first[1].weight.grad, first[1].bias.grad = delta.t() @ inputs, delta.sum(0)
        lower.step()

    for images, labels in data.train_dataloader():
        inputs = images.flatten(1)
        hidden = first(images).detach()
        late = waiting
        middle = torch.tanh(rest[0](hidden))
        top = torch.relu(rest[2](middle.detach()))
        logits = rest[5](top.detach())
        loss = torch.nn.functional.cross_entropy(logits, labels)
        (error,) = torch.autograd.grad(loss, logits, retain_graph=True)
        upper.zero_grad()
        (loss + (middle * (error @ feedback["5"])).sum() + (top * (error @ feedback["8"])).sum()).backward()
        upper.step()
        if late is not None:
            update_lower(*late)
        waiting = inputs, (hidden > 0).float(), error
    assert waiting is not None
    update_lower(*waiting)
    return dict(network.state_dict())
