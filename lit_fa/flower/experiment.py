"""An experiment as text inside the Flower app, from which server and nodes build the same objects."""

import hashlib
from functools import lru_cache
from typing import Any

from lit_fa.config.yaml_reader import load
from lit_fa.errors import UserError
from lit_fa.experiment import Experiment, build
from lit_fa.modules import FederatedClassifier

COMPONENTS = {"serverapp": "lit_fa.flower.server:app", "clientapp": "lit_fa.flower.node:app"}
# what `flwr run -c key=value` may change
DEFAULTS: dict[str, Any] = {"experiment": "", "nodes": 2, "allow-failures": False, "ckpt-path": "", "patience-s": 600.0}


def resolved(argv: list[str]) -> tuple[str, int]:
    """The YAML of an experiment given as words of a command line, including defaults, and its number of clients.

    Raises:
        UserError: it is not a federated experiment, or its trainer uses several devices.
    """
    experiment = build(argv)
    check(experiment)
    experiment.data.prepare_data()  # once, before several nodes would download at the same time
    experiment.data.setup("fit")
    return experiment.cli.parser.dump(experiment.cli.config, skip_unset=False), len(federated_data(experiment).parts)


def at_server(text: str) -> Experiment:
    """Trainer, module and data, as `lit-fa fit` builds them."""
    return build(load(text))


@lru_cache(maxsize=1)
def at_node(text: str) -> Experiment:
    """As `at_server`, without loggers and callbacks; cached, because Flower may keep the process between messages."""
    config = load(text)
    config["trainer"] |= {"logger": False, "callbacks": None, "enable_checkpointing": False}
    return build(config)


def federated_data(experiment: Experiment) -> Any:
    """The experiment's data, a `datamodules.Federated`."""
    return experiment.data


def federated_model(experiment: Experiment) -> FederatedClassifier:
    """The experiment's model."""
    assert isinstance(experiment.model, FederatedClassifier)
    return experiment.model


def fingerprint(experiment: Experiment) -> str:
    """Hash of every client's number of samples in each class; equal on all machines that partition the same data."""
    return hashlib.blake2b(federated_data(experiment).class_counts.tobytes(), digest_size=8).hexdigest()


def check(experiment: Experiment) -> None:
    """Refuse an experiment without clients, and one that would start ranks in addition to Flower's nodes."""
    if not isinstance(experiment.model, FederatedClassifier) or not hasattr(experiment.data, "parts"):
        raise UserError("lit-fa flower runs a federation: model FederatedClassifier with data Federated")
    if experiment.trainer.world_size > 1:
        raise UserError("under Flower the nodes share the clients: set trainer.devices: 1")


def toml(config: dict[str, Any]) -> str:
    """The `pyproject.toml` of a Flower app with the experiment; lit-fa must be installed on every machine."""
    import tomli_w  # comes with flwr

    flwr = {"app": {"publisher": "lit-fa", "components": COMPONENTS, "config": DEFAULTS | config}}
    project = {"name": "lit-fa-app", "version": "1.0.0", "description": "a federated experiment", "dependencies": []}
    return tomli_w.dumps({"project": project, "tool": {"flwr": flwr}})
