"""Cost of `Trainer` + `Classifier` compared with the same step in less: CPU time of one thread, in turns.

    python -m benchmarks.overhead [--steps 600] [--json FILE]

Two nets: MLP 64-32-10 with batch 32, where a step is short and everything around it counts, and MLP 784-1024x3-10 with
batch 128. Three ways to train them by the same learner, on the same loader and with the same optimiser: `Classifier`;
`minimal`, a LightningModule with manual optimisation and nothing but the step, under the same Trainer; `bare`, a loop
without Lightning. The three take turns of some steps each within one process, so that they meet the same neighbours,
and `ratio` is the median over turns.
"""

import argparse
import json
import logging
import statistics
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from rich.console import Console
from torch import Tensor

from lit_fa.datamodules import Synthetic
from lit_fa.modules import Classifier
from lit_fa.outputs import writable_file, write_text
from lit_fa.rules import Backprop, DirectFeedbackAlignment, FeedbackAlignment
from lit_fa.rules.base import Batch
from lit_fa.rules.learner import Learner

RULES = {"bp": Backprop, "fa": FeedbackAlignment, "dfa": DirectFeedbackAlignment}
NETS: dict[str, dict[str, Any]] = {  # side of an image, hidden layers, batch, steps of a turn
    "64-32-10": {"side": 8, "hidden": [32], "batch": 32, "turn": 20},
    "784-1024x3-10": {"side": 28, "hidden": [1024, 1024, 1024], "batch": 128, "turn": 3},
}
WARM_UP = 10


class Turns:
    """Lets threads run one at a time, so many steps each, and notes the CPU seconds of every turn."""

    def __init__(self, names: list[str], steps: int) -> None:
        """`steps` of a turn."""
        self.names, self.steps = names, steps
        self.gates = {name: threading.Semaphore(0) for name in names}
        self.seconds: dict[str, list[float]] = {name: [] for name in names}
        self.done: dict[str, int] = dict.fromkeys(names, 0)
        self.start: dict[str, float] = {}

    def wait(self, name: str) -> None:
        """Wait for the next turn."""
        self.gates[name].acquire()
        self.start[name] = time.thread_time()

    def step(self, name: str) -> None:
        """Count a step; after the last one of a turn, let the next thread run."""
        self.done[name] += 1
        if self.done[name] % self.steps == 0:
            self.seconds[name].append((time.thread_time() - self.start[name]) / self.steps)
            self.pass_on(name)
            self.wait(name)

    def pass_on(self, name: str, *, leave: bool = False) -> None:
        """Let the thread after this one run; `leave`: this one takes no further turn."""
        at = self.names.index(name)
        following = self.names[(at + 1) % len(self.names)]
        if leave:
            self.names.remove(name)
        self.gates[following].release()


class Turn(L.Callback):
    """Counts the steps of a Trainer."""

    def __init__(self, turns: Turns, name: str) -> None:
        """`name` of the thread."""
        self.turns, self.name = turns, name

    def on_train_batch_end(self, *_: object) -> None:
        """A step has ended."""
        self.turns.step(self.name)


class Minimal(L.LightningModule):
    """The step of a learner, and nothing else."""

    def __init__(self, learner: Learner):
        """Manual optimisation, as `Classifier` has."""
        super().__init__()
        self.learner, self.automatic_optimization = learner, False

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Backward, step, and no more gradients."""
        surrogate, optimizer = self.learner(batch), self.optimizers()
        self.manual_backward(surrogate.value)
        optimizer.step()  # type: ignore[union-attr]  # it is one
        optimizer.zero_grad(set_to_none=True)  # type: ignore[union-attr]
        return surrogate.loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """As that of the classifier."""
        return torch.optim.SGD((p for p in self.learner.parameters() if p.requires_grad), lr=1e-3, momentum=0.9)


def data(side: int = 28, batch: int = 128, steps: int = 100) -> Synthetic:
    """Enough images for one long epoch."""
    shape = (1, side, side)
    return Synthetic(n_train=batch * steps, n_test=batch, image_shape=shape, batch_size=batch, flatten=True)


def classifier(rule: str, side: int = 28, hidden: tuple[int, ...] = (1024, 1024, 1024)) -> Classifier:
    """The MLP, with momentum as in the step benchmark."""
    torch.manual_seed(0)
    return Classifier(
        "mlp",
        RULES[rule](),
        network_args={"hidden": list(hidden)},
        image_shape=(1, side, side),
        input_shape=(side * side,),
        optimizer=lambda params: torch.optim.SGD(params, lr=1e-3, momentum=0.9),
    )


def measure(rule: str, net: dict[str, Any], steps: int) -> dict[str, float]:
    """Milliseconds a step of the three ways, and the ratios of `Classifier` to the two others."""
    own = {"side": net["side"], "hidden": tuple(net["hidden"])}
    total = WARM_UP * net["turn"] + steps
    loader: Callable[[], Synthetic] = lambda: data(net["side"], net["batch"], total + 1)  # noqa: E731
    turns = Turns(["classifier", "minimal", "bare"], net["turn"])
    modules = {"classifier": classifier(rule, **own), "minimal": Minimal(classifier(rule, **own).learner)}
    learner = classifier(rule, **own).learner
    work: dict[str, Callable[[], None]] = {n: _trained(m, loader(), turns, n, total) for n, m in modules.items()}
    work["bare"] = lambda: _loop(learner, loader(), turns, total)
    threads = [threading.Thread(target=_in_turn, args=(turns, name, work[name])) for name in (*turns.names,)]
    for thread in threads:
        thread.start()
    turns.gates["classifier"].release()
    for thread in threads:
        thread.join()
    kept = {name: seconds[WARM_UP:] for name, seconds in turns.seconds.items()}
    row = {f"{name}_ms": 1e3 * statistics.median(seconds) for name, seconds in kept.items()}
    for other in ("minimal", "bare"):
        pairs = zip(kept["classifier"], kept[other], strict=False)
        row[f"to_{other}"] = statistics.median(ours / theirs for ours, theirs in pairs)
    return {name: round(value, 4) for name, value in row.items()}


def _in_turn(turns: Turns, name: str, work: Callable[[], None]) -> None:
    turns.wait(name)
    try:
        work()
    finally:
        turns.pass_on(name, leave=True)


def _trained(module: L.LightningModule, loader: Synthetic, turns: Turns, name: str, steps: int) -> Callable[[], None]:
    trainer = L.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[Turn(turns, name)],
    )
    return lambda: trainer.fit(module, loader)


def _loop(learner: Learner, module: Synthetic, turns: Turns, steps: int) -> None:
    """Train without Lightning."""
    module.prepare_data()
    module.setup("fit")
    optimizer = torch.optim.SGD([p for p in learner.parameters() if p.requires_grad], lr=1e-3, momentum=0.9)
    learner.train()
    for step, batch in enumerate(module.train_dataloader()):
        if step == steps:
            return
        learner(batch).value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        turns.step("bare")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=600, help="of each way, after the warm-up")
    parser.add_argument("--rules", nargs="+", choices=tuple(RULES), default=list(RULES))
    parser.add_argument("--nets", nargs="+", choices=tuple(NETS), default=list(NETS))
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    if options.json:
        writable_file(options.json, "--json")
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    rows = []
    for net in options.nets:
        for rule in options.rules:
            steps = max(NETS[net]["turn"] * 10, options.steps * NETS[net]["turn"] // 20)
            row = measure(rule, NETS[net], steps)
            rows.append({"net": net, "rule": rule, **row})
            times = ", ".join(f"{name} {row[f'{name}_ms']:.3f} ms" for name in ("classifier", "minimal", "bare"))
            ratios = f"{row['to_minimal']:.2f} of minimal, {row['to_bare']:.2f} of bare"
            Console(width=120).print(f"{net} {rule}: {times} a step; {ratios}", highlight=False)
    if options.json:
        facts = {"rows": rows, "torch": torch.__version__, "threads": 1}
        write_text(options.json, json.dumps(facts, indent=1), "--json")


if __name__ == "__main__":
    main()
