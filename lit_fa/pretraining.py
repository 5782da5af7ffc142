"""Pretraining on demand: a config inside a config, trained once and cached under its hash.

A fine-tuning experiment names the run that its weights come from under `pretrain`: a whole config with trainer, model
and data. The first process that needs the weights trains them by `lit_fa.experiment.run`; later ones read them from the
cache, `LIT_FA_CACHE` or ~/.cache/lit-fa. With `skip: true` in it nothing is pretrained, so a table's cell can start
from scratch. The file's name consists of the hash of the config, without what differs between machines, and a hash of
the code that trains it. The record of the run is beside it. A file that cannot be read is renamed, and the weights are
trained again.
"""

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

import lightning as L
import torch
from filelock import FileLock
from lightning.pytorch.utilities.seed import isolate_rng

from lit_fa.callbacks.line_progress import LineProgress
from lit_fa.checkpoints.files import save
from lit_fa.checkpoints.resume import give_up
from lit_fa.datamodules.data_root import cache_folder
from lit_fa.errors import UserError
from lit_fa.import_paths import is_ours
from lit_fa.networks.weights import read_weights
from lit_fa.provenance import class_paths, source_of, sources
from lit_fa.spec.overrides import run_id

log = logging.getLogger(__name__)
PARTS = ("trainer", "model", "data")


def pretrained(config: dict[str, Any]) -> Path:
    """The file with the weights of the network that `config` trains.

    Processes that need the same weights at once wait for the one that trains them. The global random state is restored,
    so that the run does not depend on whether its weights were trained just now or read.

    Args:
        config: of one run: trainer, model, data, and maybe seed_everything.

    Raises:
        UserError: a config without one of its parts, or one whose training diverges.
    """
    from lit_fa.experiment import run  # which imports this module

    config = {key: value for key, value in config.items() if key != "skip"}
    if absent := [part for part in PARTS if part not in config]:
        raise UserError(f"pretrain: {', '.join(absent)} missing: it is a whole config, as of lit-fa fit")
    name = run_id(config)
    path = cache_folder("pretrained") / f"{name}-{code_of(config)}.pt"
    with FileLock(path.with_suffix(".lock")):
        if not _readable(path):
            log.info("pretraining %s: its weights are not in %s yet", name, path.parent)
            seed = os.environ.get("PL_GLOBAL_SEED")
            record = {"path": str(path.with_suffix(".json")), "id": name, "config": config}
            shown, progress = _shown(config)
            with isolate_rng():
                network = run(shown, record, progress)
            if seed is not None:
                os.environ["PL_GLOBAL_SEED"] = seed
            _check_converged(path)
            save(network.state_dict(), path)
    return path


def _shown(config: dict[str, Any]) -> tuple[dict[str, Any], list[L.Callback]]:
    """The config without Lightning's default bar and table of layers, and lines of progress instead of them."""
    trainer = config["trainer"] or {}
    if "ProgressBar" in str(trainer.get("callbacks")) or "enable_progress_bar" in trainer:
        return config, []
    off = dict.fromkeys(("enable_progress_bar", "enable_model_summary"), False)
    return config | {"trainer": off | trainer}, [LineProgress(title="pretraining")]


def code_of(config: dict[str, Any]) -> str:
    """12 hex digits for the code that trains a config: ours, and the files of classes in it that are not ours."""
    foreign = (path for path in class_paths(config) if not is_ours(path) and path.partition(".")[0] != "torch")
    others = {path.rpartition(".")[0] for path in foreign}
    parts = [sources(), *(f"{module} {source_of(module)}" for module in sorted(others) if module)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def origin_of(weights: Path) -> dict[str, Any]:
    """Which run made the weights, by which code, and a digest of the weights themselves.

    The keys are id, commit, dirty, sources and digest; what the run's record lacks is None. Empty without a record.
    """
    record = _record(weights)
    if not record:
        return {}
    return {key: record.get(key) for key in ("id", "commit", "dirty", "sources")} | {"digest": digest_of(weights)}


def digest_of(weights: Path) -> str:
    """12 hex digits for names, shapes, types and bits of the tensors in a file of weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(read_weights(weights).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


def _readable(weights: Path) -> bool:
    """Whether the weights are there; what is no file of weights is renamed."""
    if not weights.is_file():
        return False
    try:
        read_weights(weights)
    except UserError as error:
        give_up(weights, str(error).partition(" cannot be read: ")[2] or str(error))
        return False
    return True


def _check_converged(weights: Path) -> None:
    record = _record(weights)
    if record.get("status") == "diverged":
        step, first = (record["diverged"].get(key) for key in ("step", "first"))
        raise UserError(
            f"pretraining diverged at step {step} ({first}); lower the rate of pretrain.model.init_args.optimizer"
        )


def _record(weights: Path) -> dict[str, Any]:
    """The record beside the weights, empty where there is none."""
    try:
        return json.loads(weights.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
