"""The ServerApp: Lightning's trainer with an executor that sends the clients' work to the SuperNodes.

Checkpoints, callbacks and loggers of the config work at the server as in `lit-fa fit`. Relative paths are relative to
the folder in which the SuperLink was started.
"""

import json
import logging
import os
from pathlib import Path
from typing import Any

import lightning as L
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_fa.config.parser_errors import guarded
from lit_fa.flower.experiment import at_server, check, federated_model, fingerprint
from lit_fa.flower.grid_executor import GridExecutor
from lit_fa.flower.keeper import REPORT
from lit_fa.lightning_privates import callbacks_of

PROGRESS = "progress.log"  # log next to the report; Flower shows a server's output only with `--stream`
CHECKPOINT = "checkpoint"  # file next to the report with the path of the newest checkpoint
app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the experiment and write the report."""
    _log()
    try:
        _report({"metrics": guarded(lambda: run(grid, **context.run_config))})
    except Exception as error:
        user = getattr(error, "user_error", False)
        _report({"error": f"{error}" if user else f"{type(error).__name__}: {error}", "user_error": bool(user)})
        raise


def run(grid: Grid, **config: Any) -> dict[str, float]:
    """Build the experiment, wait for its nodes, train; returns the last value of every metric."""
    experiment = at_server(str(config["experiment"]))
    check(experiment)
    experiment.data.prepare_data()
    experiment.data.setup("fit")
    executor = GridExecutor(grid, int(config["nodes"]), bool(config["allow-failures"]), float(config["patience-s"]))
    executor.connect(fingerprint(experiment))
    model: Any = federated_model(experiment)  # its executors do not include Flower's
    model.executor, model.executed_by = executor, {"executor": executor.name, "nodes": executor.nodes}
    callbacks_of(experiment.trainer).append(_WriteCheckpointPath())
    experiment.trainer.fit(experiment.model, experiment.data, ckpt_path=config["ckpt-path"] or None, weights_only=True)
    return {name: float(value) for name, value in experiment.trainer.callback_metrics.items()}


class _WriteCheckpointPath(L.Callback):
    """Writes the path of the newest checkpoint to a file next to the report, after every round."""

    def on_train_batch_start(self, trainer: L.Trainer, *_: object) -> None:
        self._write(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._write(trainer)

    def _write(self, trainer: L.Trainer) -> None:
        keepers = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
        paths = [keeper.last_model_path or keeper.best_model_path for keeper in keepers]
        if (report := os.environ.get(REPORT)) and any(paths):
            Path(report).with_name(CHECKPOINT).write_text(next(filter(None, paths)), encoding="utf-8")


def _log() -> None:
    logging.basicConfig(format="%(message)s")
    logger = logging.getLogger("lit_fa")
    logger.setLevel(logging.INFO)
    if path := os.environ.get(REPORT):
        logger.addHandler(logging.FileHandler(Path(path).with_name(PROGRESS)))


def _report(content: dict[str, Any]) -> None:
    if path := os.environ.get(REPORT):
        Path(path).write_text(json.dumps(content), encoding="utf-8")
