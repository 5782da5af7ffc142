"""A federation over Flower's messages has the weights of the embedded one; what fails is said or left out."""

from pathlib import Path

import pytest
import torch

from lit_fa.errors import UserError
from lit_fa.federated import FedNova, LocalSGD
from lit_fa.flower import grid_executor, server
from tests.checkpoint_attacks import malicious
from tests.flower.experiments import checkpoint, difference, embedded, experiment
from tests.flower.in_process_grid import InProcessGrid


@pytest.fixture(autouse=True)
def _without_waiting(monkeypatch):
    monkeypatch.setattr(grid_executor, "POLL_S", 0.0)


def over_flower(text: str, nodes: int = 2, allow: bool = False, ckpt: str = "", grid: InProcessGrid | None = None):
    config = {"experiment": text, "nodes": nodes, "allow-failures": allow, "ckpt-path": ckpt, "patience-s": 60.0}
    return server.run(grid or InProcessGrid(nodes, text), **config)


def algorithm(name: str) -> dict:
    return {"model__init_args__algorithm": {"class_path": f"lit_fa.federated.{name}"}}


RUNS = [
    ("FedAvg", "64-true", 1e-12), ("FedNova", "64-true", 1e-12), ("FedAvg", "32-true", 1e-5),
    ("FedNova", "32-true", 1e-5), ("Scaffold", "64-true", 1e-12), ("Moon", "64-true", 1e-12),
]  # fmt: skip


@pytest.mark.parametrize(("name", "precision", "bar"), RUNS)
def test_over_flower_the_weights_are_those_of_the_embedded_run(name: str, precision: str, bar: float, tmp_path: Path):
    changes = algorithm(name) | {"trainer__precision": precision}
    ours = embedded(experiment(tmp_path / "embedded", **changes))
    over_flower(experiment(tmp_path / "flower", **changes))
    a, b = (checkpoint(tmp_path / folder) for folder in ("embedded", "flower"))
    assert difference(a, b) < bar
    assert next(iter(a.values())).dtype == (torch.float64 if precision == "64-true" else torch.float32)
    sizes = [len(part) for part in ours.data.parts]
    assert max(sizes) > 2 * min(sizes)  # with equal clients FedNova would be FedAvg


def test_fed_nova_over_flower_is_not_fed_avg(tmp_path: Path):
    for name in ("FedAvg", "FedNova"):
        over_flower(experiment(tmp_path / name, **algorithm(name)))
    assert difference(*(checkpoint(tmp_path / name) for name in ("FedAvg", "FedNova"))) > 1e-4


@pytest.mark.parametrize("rule", ["Backprop", pytest.param("ForwardForward", marks=pytest.mark.slow)])
def test_one_client_a_node_gives_the_weights_of_shards(rule: str, tmp_path: Path):
    changes = {"model__init_args__rule": {"class_path": f"lit_fa.rules.{rule}"}, "model__init_args__executor": "auto"}
    over_flower(experiment(tmp_path / "shards", **changes), nodes=2)
    over_flower(experiment(tmp_path / "all", **changes), nodes=7)
    assert difference(*(checkpoint(tmp_path / name) for name in ("shards", "all"))) < 1e-12


def test_a_node_times_its_executors_once_and_remembers_the_choice(tmp_path: Path):
    text = experiment(tmp_path, model__init_args__executor="auto")
    grid = InProcessGrid(1, text)
    over_flower(text, nodes=1, grid=grid)
    assert grid.contexts[1000].state["executor"]["name"] in ("stacked", "vmap", "sequential")


def test_a_lost_node_ends_the_run_with_one_line_and_a_checkpoint_that_goes_on(tmp_path: Path):
    text = experiment(tmp_path / "lost")
    with pytest.raises(UserError, match=r"SuperNode 1 failed in round 2 \(clients .*Node Unavailable.*--ckpt_path"):
        over_flower(text, grid=InProcessGrid(2, text, lost={1007}, since=2))
    (kept,) = (tmp_path / "lost").rglob("*.ckpt")
    assert "step=2" in kept.name
    text = experiment(tmp_path / "whole")
    over_flower(text)
    over_flower(experiment(tmp_path / "again"), ckpt=str(kept))
    a, b = (checkpoint(tmp_path / name) for name in ("whole", "again"))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_server_runs_nothing_that_a_checkpoint_holds(tmp_path: Path):
    malicious(tmp_path / "evil.ckpt", tmp_path / "proof")
    with pytest.raises(UserError, match="more than plain data"):
        over_flower(experiment(tmp_path), ckpt=str(tmp_path / "evil.ckpt"))
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize("name", ["FedAvg", "FedNova"])
def test_with_failures_allowed_a_round_is_that_of_the_clients_that_answered(name: str, tmp_path: Path):
    changes = algorithm(name) | {"trainer__max_epochs": 1}
    text = experiment(tmp_path / "allowed", **changes)
    over_flower(text, allow=True, grid=InProcessGrid(2, text, lost={1007}))
    alone = embedded_round_of_even_clients(experiment(tmp_path / "alone", **changes))
    assert difference(checkpoint(tmp_path / "allowed"), alone) < 1e-12


def embedded_round_of_even_clients(text: str) -> dict[str, torch.Tensor]:
    import yaml

    from lit_fa.datamodules.rounds import RoundLoader
    from lit_fa.experiment import build

    class EvenOnly(RoundLoader):
        def cohort(self, number):
            return [client for client in super().cohort(number) if client % 2 == 0]

    trainer, model, data = build(yaml.safe_load(text))
    loader = data.train_dataloader

    def even() -> RoundLoader:
        made = loader()
        made.__class__ = EvenOnly
        return made

    data.train_dataloader = even
    trainer.fit(model, data)
    return model.state_dict()


def test_nobody_left_is_an_error_even_where_failures_are_allowed(tmp_path: Path):
    text = experiment(tmp_path)
    with pytest.raises(UserError, match="no client answered in round 0"):
        over_flower(text, allow=True, grid=InProcessGrid(2, text, lost={1000, 1007}))


def test_a_node_that_cannot_build_the_experiment_says_why(tmp_path: Path):
    text = experiment(tmp_path)
    grid = InProcessGrid(2, text.replace("clients: 7", "clients: 7000"))
    with pytest.raises(UserError, match=r"SuperNode 10\d\d cannot build the experiment: .*7000"):
        over_flower(text, grid=grid)


def test_a_node_with_other_data_is_refused(tmp_path: Path):
    text = experiment(tmp_path)
    grid = InProcessGrid(2, text.replace("limit_train: 300", "limit_train: 290"))
    with pytest.raises(UserError, match="deals out other data than the server"):
        over_flower(text, grid=grid)


@pytest.mark.parametrize("ids", [(0, 0), (1, 2)])
def test_a_part_of_the_clients_that_nobody_holds_is_refused(ids: tuple[int, int], tmp_path: Path):
    text = experiment(tmp_path)
    with pytest.raises(UserError, match="partition-id"):
        over_flower(text, grid=InProcessGrid(2, text, partition_ids=ids))


def test_too_few_nodes_are_an_error_after_the_patience(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(grid_executor.time, "monotonic", iter(range(0, 1000, 10)).__next__)
    with pytest.raises(UserError, match="1 of 2 SuperNodes are connected"):
        over_flower(text := experiment(tmp_path), nodes=2, grid=InProcessGrid(1, text))


def test_lost_shares_keep_the_ratios_of_the_algorithm():
    shares = FedNova().client_weights([3, 9, 6], [1, 3, 2], LocalSGD())
    left = FedNova().client_weights([3, 6], [1, 2], LocalSGD())
    assert torch.allclose(shares[[0, 2]] * (left[0] / shares[0]), left)
