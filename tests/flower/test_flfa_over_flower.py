"""FLFA over Flower: nothing more travels than without it, and layers are chosen by clients that stay where they are."""

from pathlib import Path

import pytest

from lit_fa.errors import UserError
from lit_fa.flower import grid_executor
from lit_fa.flower.experiment import at_node, at_server, resolved
from tests.flower.experiments import checkpoint, difference, embedded, experiment
from tests.flower.in_process_grid import InProcessGrid
from tests.flower.test_grid_executor import over_flower


@pytest.fixture(autouse=True)
def _without_waiting(monkeypatch):
    monkeypatch.setattr(grid_executor, "POLL_S", 0.0)


def flfa(**options: object) -> dict:
    deeper = {"model__init_args__network_args": {"hidden": [16, 12]}, "data__init_args__local_epochs": 2}
    return deeper | {"model__init_args__rule": {"class_path": "lit_fa.rules.FLFA", "init_args": options}}


@pytest.mark.parametrize("executor", ["sequential", "stacked"])
@pytest.mark.parametrize("layers", [["*"], "lowest:1"])
def test_over_flower_the_weights_are_those_of_the_embedded_run(layers: list | str, executor: str, tmp_path: Path):
    changes = flfa(layers=layers, reselect_every=2 if layers != ["*"] else 0)
    changes |= {"model__init_args__executor": executor}
    ours = embedded(experiment(tmp_path / "embedded", **changes))
    over_flower(experiment(tmp_path / "flower", **changes))
    assert [s["round"] for s in ours.model.selections] == ([0, 2] if layers != ["*"] else [])
    assert difference(*(checkpoint(tmp_path / name) for name in ("embedded", "flower"))) < 1e-12


def test_nodes_are_sent_a_null_that_is_not_the_default(tmp_path: Path):
    """Null means all layers but the first, and the default is `official`."""
    experiment(tmp_path, **flfa(layers=None))
    text, clients = resolved(["--config", str(tmp_path / "experiment.yaml")])
    assert clients == 7
    assert at_server(text).model.rule.layers is None
    assert at_node(text).model.rule.layers is None


def travelled(folder: Path, rule: dict) -> list[tuple[str, int, int]]:
    text = experiment(folder, **(flfa() | rule))
    grid = InProcessGrid(1, text)
    over_flower(text, nodes=1, grid=grid)
    return grid.log.bytes


def test_every_message_of_named_layers_is_as_long_as_without_flfa(tmp_path: Path):
    plain = travelled(tmp_path / "plain", {"model__init_args__rule": {"class_path": "lit_fa.rules.Backprop"}})
    ours = travelled(tmp_path / "flfa", flfa(layers=["*"]))
    assert ours == plain
    assert sum(sent for kind, sent, _ in plain if kind == "train") > 3 * 8 * 64 * 16  # three rounds of float64


def test_a_choice_of_layers_costs_one_question_and_their_names(tmp_path: Path):
    plain = travelled(tmp_path / "named", flfa(layers=["*"]))
    ours = travelled(tmp_path / "chosen", flfa(layers="lowest:1"))
    assert [kind for kind, *_ in ours] == ["query", "query.compare", "train", "train", "train"]
    longer = [a[1] - b[1] for a, b in zip(ours[2:], plain[1:], strict=True)]
    assert max(longer) < 80
    assert [a[2] for a in ours[2:]] == [b[2] for b in plain[1:]]


def test_layers_are_not_chosen_without_a_node(tmp_path: Path):
    text = experiment(tmp_path, **flfa(layers="lowest:1"))
    with pytest.raises(UserError, match="SuperNode 1 did not compare its clients before round 0: Node Unavailable"):
        over_flower(text, allow=True, grid=InProcessGrid(2, text, lost={1007}))
