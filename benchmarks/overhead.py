"""Cost of Lightning: `Trainer` + `Classifier` compared with a plain loop that does the same work, MLP 784-1024x3-10.

    python -m benchmarks.overhead [--rounds 11] [--steps 40] [--json FILE]

Both read the same loader (synthetic digits, batch 128), run the same rule and take the same optimiser step. A round
times `steps` steps of each, after ten warm-up steps; `ratio` is the median over rounds.
"""

import argparse
import json
import logging
import statistics
import time
import warnings

import lightning as L
import torch
from rich.console import Console
from rich.progress import track

from datamodules import Synthetic
from lit_fa.modules import Classifier
from lit_fa.outputs import writable_file, write_text
from lit_fa.rules import Backprop, DirectFeedbackAlignment, FeedbackAlignment

RULES = {"bp": Backprop, "fa": FeedbackAlignment, "dfa": DirectFeedbackAlignment}
WARM_UP = 10


class Clock(L.Callback):
    """Seconds between the end of the warm-up and the end of training."""

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        """Start the clock after the warm-up, read it after every later step."""
        if trainer.global_step == WARM_UP:
            self.start = time.perf_counter()
        self.seconds = time.perf_counter() - getattr(self, "start", time.perf_counter())


def data() -> Synthetic:
    """Enough images for one long epoch."""
    return Synthetic(n_train=128 * 100, n_test=128, batch_size=128, flatten=True)


def classifier(rule: str) -> Classifier:
    """The MLP of the step benchmark, with momentum as there."""
    torch.manual_seed(0)
    return Classifier(
        "mlp",
        RULES[rule](),
        network_args={"hidden": [1024, 1024, 1024]},
        input_shape=(784,),
        optimizer=lambda params: torch.optim.SGD(params, lr=1e-3, momentum=0.9),
    )


def under_trainer(rule: str, steps: int) -> float:
    """Seconds per step of `Trainer.fit`."""
    clock = Clock()
    trainer = L.Trainer(
        max_steps=WARM_UP + steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[clock],
    )
    trainer.fit(classifier(rule), data())
    return clock.seconds / steps


def bare_loop(rule: str, steps: int) -> float:
    """Seconds per step of a plain loop with the same learner and loader."""
    learner, module = classifier(rule).learner, data()
    module.prepare_data()
    module.setup("fit")
    optimizer = torch.optim.SGD([p for p in learner.parameters() if p.requires_grad], lr=1e-3, momentum=0.9)
    learner.train()
    for step, batch in enumerate(module.train_dataloader()):
        if step == WARM_UP:
            start = time.perf_counter()
        if step == WARM_UP + steps:
            break
        learner(batch).value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return (time.perf_counter() - start) / steps


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    if options.json:
        writable_file(options.json, "--json")
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    rows = []
    for rule in RULES:
        pairs = [
            (under_trainer(rule, options.steps), bare_loop(rule, options.steps))
            for _ in track(range(options.rounds), description=rule, transient=True)
        ]
        ratio = statistics.median(a / b for a, b in pairs)
        ours, bare = (1e3 * statistics.median(column) for column in zip(*pairs, strict=True))
        rows.append({"rule": rule, "trainer_ms": round(ours, 3), "bare_ms": round(bare, 3), "ratio": round(ratio, 4)})
        Console().print(f"{rule}: Trainer {ours:.2f} ms, bare loop {bare:.2f} ms a step, ratio {ratio:.3f}")
    if options.json:
        write_text(
            options.json, json.dumps({"rows": rows, "torch": torch.__version__, "threads": 1}, indent=1), "--json"
        )


if __name__ == "__main__":
    main()
