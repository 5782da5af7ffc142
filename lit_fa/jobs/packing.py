"""Which runs one worker takes together, because their training steps may be one program (`lit_fa.packs`)."""

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from lit_fa.config.arguments import in_range

J = TypeVar("J")
MOST = 16  # runs of a pack under `auto`; more take memory and little time less
LARGEST = 1024
Together = Literal["off", "all", "measured"]
_LAYER_WISE = ("Backprop", "FeedbackAlignment")


def alone(_: Any) -> str:
    """The group of a run that is never packed."""
    return ""


@dataclass(frozen=True)
class Packing:
    """Neighbouring jobs of one group are taken together.

    Attributes:
        most: runs of a pack.
        group: name of the group of a job; "": it is never packed. Runs that turn out to differ in more than tensors
            take turns in one worker, so a group only has to be a good guess.
        together: `off`: each run is trained as without packs; `all`: runs of a pack are one program where they can be;
            `measured`: as many as takes the least time.
    """

    most: int = 1
    group: Callable[[Any], str] = alone
    together: Together = "off"


class Queue(Generic[J]):
    """The jobs in order, some at a time.

    Args:
        jobs: None means that there is no job at the moment; they are asked again until they end.
        packing: how many are taken at a time.

    Attributes:
        ended: there are no more jobs.
    """

    def __init__(self, jobs: Iterable[J | None], packing: Packing):
        """See the class."""
        self.jobs, self.packing, self.ended = iter(jobs), packing, False
        self.back: J | None = None

    def take(self) -> list[J]:
        """The next jobs, of one group; empty if there is none at the moment."""
        taken: list[J] = []
        while len(taken) < (self.packing.most if taken and self.packing.group(taken[0]) else 1):
            job = self._next()
            if job is not None and taken and self.packing.group(job) != self.packing.group(taken[0]):
                self.back = job
                break
            if job is None:
                break
            taken.append(job)
        return taken

    def _next(self) -> J | None:
        job, self.back = self.back, None
        if job is not None:
            return job
        try:
            return next(self.jobs)
        except StopIteration:
            self.ended = True
            return None


def add_pack_option(command: argparse.ArgumentParser) -> None:
    """Add `--pack auto|K|off`; its value is the largest pack: 0 for auto, 1 for off."""
    about = (
        "train up to K runs in each worker as one program, with the same numbers; auto: as many as pay; default: off"
    )
    command.add_argument("--pack", type=_size, default=1, metavar="auto|K|off", help=about)


def _size(text: str) -> int:
    words = {"auto": 0, "off": 1}
    if text in words:
        return words[text]
    try:
        return int(in_range(least=1, most=LARGEST)(text))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not auto, off or a whole number from 1 to {LARGEST}") from None


def packed(jobs: Sequence[J], most: int, workers: int, config: Callable[[J], Any]) -> tuple[list[J], Packing]:
    """The jobs with those of one group beside each other, and the packing.

    Args:
        jobs: to run.
        most: value of `--pack`; 0 (auto) leaves as many packs as there are workers.
        workers: that share the jobs.
        config: of a job.
    """
    if most == 1:
        return [*jobs], Packing()
    limit = most or fair_share(len(jobs), workers)
    together: Together = "all" if most else "measured"
    groups = {id(job): group_of(config(job)) for job in jobs}
    first = {group: number for number, group in reversed([*enumerate(groups.values())])}
    ordered = sorted(jobs, key=lambda job: first[groups[id(job)]])
    return ordered, Packing(limit, lambda job: groups.get(id(job)) or group_of(config(job)), together)


def never_packed(configs: Iterable[Any]) -> Iterator[str]:
    """A line for each reason why some of these configs are never trained in a pack."""
    reasons = Counter(filter(None, map(why_never, configs)))
    for reason, number in sorted(reasons.items()):
        yield f"--pack: {number} {'run is' if number == 1 else 'runs are'} trained alone: {reason}"


def fair_share(jobs: int, workers: int) -> int:
    """The largest pack under `auto`: there is one for each worker, and it has at most 16 runs.

    >>> fair_share(5, 2), fair_share(100, 2), fair_share(0, 2)
    (3, 16, 1)
    """
    return max(1, min(MOST, -(-jobs // workers)))


def why_never(config: Any) -> str:
    """Why a config is never trained in a pack, in one sentence; "" if it may be.

    >>> why_never({"model": {"class_path": "FederatedClassifier"}})
    'the clients of a FederatedClassifier are one program already'
    """
    model = config.get("model") if isinstance(config, dict) else None
    if not isinstance(model, dict):
        return "the config has no model"
    name = str(model.get("class_path", "")).rpartition(".")[2]
    if name == "FederatedClassifier":
        return "the clients of a FederatedClassifier are one program already"
    return "" if name == "Classifier" else f"{name or 'its model'} is no Classifier"


def group_of(config: Any) -> str:
    """What configs have in common that may be trained by one program; "" for a config that never is."""
    if why_never(config):
        return ""
    model, data, trainer = (config.get(part) or {} for part in ("model", "data", "trainer"))
    options, source = model.get("init_args") or {}, data if isinstance(data, dict) else {"class_path": data}
    sizes = {key: value for key, value in (options.get("network_args") or {}).items() if key not in ("init", "gain")}
    rule = options.get("rule") or "Backprop"
    name = str(rule.get("class_path") if isinstance(rule, dict) else rule).rpartition(".")[2]
    inner = (rule.get("init_args") or {}) if isinstance(rule, dict) else {}
    kind = "layer by layer" if name in _LAYER_WISE else [name, inner.get("teacher")]
    shared = [options.get("network"), sizes, options.get("criterion"), kind, source.get("class_path")]
    batch = (source.get("init_args") or {}).get("batch_size")
    return json.dumps(
        [*shared, batch, trainer.get("max_epochs"), trainer.get("max_steps")], sort_keys=True, default=str
    )
