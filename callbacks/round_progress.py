"""One progress bar for the rounds of a federated run, in which an epoch is often a single batch."""

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class RoundProgress(ProgressBar):
    """A bar with the rounds done, elapsed and remaining time (h:mm:ss), and the latest progress-bar metrics."""

    def __init__(self) -> None:
        """See the class."""
        super().__init__()
        columns = (TextColumn("round"), MofNCompleteColumn(), BarColumn(), TimeElapsedColumn(), TextColumn("left"))
        self.bar = Progress(*columns, TimeRemainingColumn(), TextColumn("{task.description}", markup=False))
        self.shown = True

    def disable(self) -> None:
        """Show nothing; called on all ranks but the first."""
        self.shown = False

    def enable(self) -> None:
        """Show the bar."""
        self.shown = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the bar at the current round."""
        rounds = trainer.estimated_stepping_batches
        self.task = self.bar.add_task("", total=rounds, completed=trainer.global_step)
        if self.shown:
            self.bar.start()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        """Advance the bar by one round."""
        metrics = {key: value for key, value in self.get_metrics(trainer, pl_module).items() if key != "v_num"}
        text = "  ".join(f"{key} {value:.4g}" for key, value in metrics.items() if isinstance(value, float))
        self.bar.update(self.task, completed=trainer.global_step, description=text)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the bar; its last state stays visible."""
        self.bar.stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Stop the bar; its last state stays visible."""
        self.bar.stop()

    def print(self, *args: object, **_: object) -> None:
        """Print a line above the bar."""
        self.bar.console.print(*args)
