"""An experiment as text: it travels inside the Flower app, and server and nodes build the same objects from it."""

import hashlib
from functools import lru_cache
from typing import Any

from lit_fa.commands.fit import LitFACLI, built
from lit_fa.config.yaml_reader import load
from lit_fa.errors import UserError
from lit_fa.modules import FederatedClassifier

COMPONENTS = {"serverapp": "lit_fa.flower.server:app", "clientapp": "lit_fa.flower.node:app"}
# what `flwr run -c key=value` may change
DEFAULTS: dict[str, Any] = {"experiment": "", "nodes": 2, "allow-failures": False, "ckpt-path": "", "patience-s": 600.0}


def resolved(argv: list[str]) -> tuple[str, int]:
    """The YAML of an experiment given as the words of a command line, every default written out; and its clients.

    Raises:
        UserError: it is no federation, or its trainer wants several devices.
    """
    cli = built(argv)
    check(cli)
    cli.datamodule.prepare_data()  # once, before several nodes would fetch it at a time
    cli.datamodule.setup("fit")
    return cli.parser.dump(cli.config), len(cli.datamodule.parts)


def at_server(text: str) -> LitFACLI:
    """Trainer, module and data as `lit-fa fit` would build them."""
    return built(load(text))


@lru_cache(maxsize=1)
def at_node(text: str) -> LitFACLI:
    """The same, without loggers and callbacks; kept, where Flower keeps the process between messages."""
    config = load(text)
    config["trainer"] |= {"logger": False, "callbacks": None, "enable_checkpointing": False}
    return built(config)


def fingerprint(cli: LitFACLI) -> str:
    """Of who holds how many of which class: equal for all who deal out the same data."""
    return hashlib.blake2b(cli.datamodule.class_counts.tobytes(), digest_size=8).hexdigest()


def check(cli: LitFACLI) -> None:
    """Refuse what has no clients to send away, or would start ranks beside Flower's nodes."""
    if not isinstance(cli.model, FederatedClassifier) or not hasattr(cli.datamodule, "parts"):
        raise UserError("lit-fa flower runs a federation: model FederatedClassifier with data Federated")
    if cli.trainer.world_size > 1:
        raise UserError("under Flower the nodes share the clients: set trainer.devices: 1")


def toml(config: dict[str, Any]) -> str:
    """The `pyproject.toml` of a Flower app that carries the experiment; lit-fa itself is installed on every machine."""
    import tomli_w  # comes with flwr

    flwr = {"app": {"publisher": "lit-fa", "components": COMPONENTS, "config": DEFAULTS | config}}
    project = {"name": "lit-fa-app", "version": "1.0.0", "description": "a federated experiment", "dependencies": []}
    return tomli_w.dumps({"project": project, "tool": {"flwr": flwr}})
