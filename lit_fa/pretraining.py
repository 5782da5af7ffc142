"""Pretraining on the spot: a config inside a config, trained once and kept by what it says.

A fine-tuning experiment names the run that its weights come from, under `pretrain`: a whole config with trainer, model
and data. Whoever meets it first trains it, by the same command line as everything else; whoever comes later reads the
weights from the cache, `LIT_FA_CACHE` or ~/.cache/lit-fa. With `skip: true` in it nothing is pretrained, which is how
a table's cell starts from scratch. The file's name is the hash of the config, without what
differs between machines; beside it lies the record of the run.
"""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import torch
from filelock import FileLock
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn

from datamodules.root import cache_root
from lit_fa.errors import UserError
from lit_fa.tables.expand import run_id

log = logging.getLogger(__name__)
PARTS = ("trainer", "model", "data")
Train = Callable[[dict, dict], nn.Module]


def pretrained(config: dict, train: Train) -> Path:
    """The file with the weights of the network that `config` trains.

    Processes that want the same weights at once wait for the one that trains them. The global random state is left as
    it was, so a run is the same whether its weights were trained just now or long ago.

    Args:
        config: of one run: trainer, model, data, and maybe seed_everything.
        train: (config, record) to the trained network; `record` holds the path of the record to write.

    Raises:
        UserError: a config without one of its parts, or one whose training diverges.
    """
    config = {key: value for key, value in config.items() if key != "skip"}
    if absent := [part for part in PARTS if part not in config]:
        raise UserError(f"pretrain: {', '.join(absent)} missing: it is a whole config, as of lit-fa fit")
    name = run_id(config)
    path = cache_root() / "pretrained" / f"{name}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.is_file():
            log.info("pretraining %s: its weights are not in %s yet", name, path.parent)
            seed = os.environ.get("PL_GLOBAL_SEED")
            with isolate_rng():
                network = train(config, {"path": str(path.with_suffix(".json")), "id": name, "config": config})
            if seed is not None:
                os.environ["PL_GLOBAL_SEED"] = seed
            _check_converged(path)
            part = path.with_suffix(".part")
            torch.save(network.state_dict(), part)
            part.replace(path)
    return path


def origin_of(weights: Path) -> dict:
    """Which run made the weights, and by which code: id, commit, dirty and sources; what its record lacks is None."""
    record = _record(weights)
    return {key: record.get(key) for key in ("id", "commit", "dirty", "sources")} if record else {}


def _check_converged(weights: Path) -> None:
    record = _record(weights)
    if record.get("status") == "diverged":
        step, first = (record["diverged"].get(key) for key in ("step", "first"))
        raise UserError(
            f"pretraining diverged at step {step} ({first}); lower the rate of pretrain.model.init_args.optimizer"
        )


def _record(weights: Path) -> dict:
    """The record beside the weights, empty where there is none."""
    try:
        return json.loads(weights.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
