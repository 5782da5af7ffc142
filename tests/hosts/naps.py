"""A callback that makes a run long enough to be stopped."""

import time

import lightning as L


class Nap(L.Callback):
    """Sleeps after every batch, which it counts in a file; without a trace in the results."""

    def __init__(self, seconds: float, counted: str = "counted"):
        self.seconds, self.counted = seconds, counted

    def on_train_batch_end(self, *_: object) -> None:
        with open(self.counted, "ab") as file:
            file.write(b".")
        time.sleep(self.seconds)
