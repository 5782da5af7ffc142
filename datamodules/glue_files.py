"""GLUE as it was published, one folder of tab-separated files for each task; else from the hub.

The files are not csv: quotation marks are part of the sentences, and a sentence may hold any line break but ``\\n``.
Every task has its own columns; CoLA has no header, RTE and QNLI have words for labels, MRPC begins with a byte order
mark. The published test files have no labels; MRPC's and STS-B's original test files do.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from datamodules.data_root import ELSEWHERE
from datamodules.errors import DataError, one_line, require

HUB = "nyu-mll/glue"


@dataclass(frozen=True)
class Task:
    """One task of GLUE.

    Attributes:
        hub: its name there.
        texts: columns of the sentences, one or two.
        label: column of the label.
        words: the labels 0, 1, ... as the file spells them; empty where the label is a number from 0 to 5.
        header: columns of a file that does not name them.
        hub_texts: the sentences' columns at the hub, where they differ.
        test: the file of the test sentences that has labels.
        test_header: its columns, where it does not name them.
    """

    hub: str
    texts: tuple[str, ...]
    label: str = "label"
    words: tuple[str, ...] = ("0", "1")
    header: tuple[str, ...] = ()
    hub_texts: tuple[str, ...] = ()
    test: str | None = None
    test_header: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """Classes, or 1 where the target is a number."""
        return len(self.words) or 1


PAIR = ("sentence1", "sentence2")
ENTAILMENT = ("entailment", "not_entailment")
SCORED = ("genre", "file", "year", "index", "score", *PAIR)
TASKS = {
    "CoLA": Task("cola", ("sentence",), header=("source", "label", "star", "sentence")),
    "SST-2": Task("sst2", ("sentence",)),
    "MRPC": Task("mrpc", ("#1 String", "#2 String"), "Quality", hub_texts=PAIR, test="msr_paraphrase_test.txt"),
    "STS-B": Task("stsb", PAIR, "score", (), test="sts-test.tsv", test_header=SCORED),
    "RTE": Task("rte", PAIR, words=ENTAILMENT),
    "QNLI": Task("qnli", ("question", "sentence"), words=ENTAILMENT),
}


class Texts(NamedTuple):
    """Sentences, as a list for each column, and labels (n,): int64 classes, or float32 numbers."""

    columns: list[list[str]]
    labels: Tensor


def read_split(name: str, split: str, root: Path, download: bool = True) -> Texts:
    """The "train", "dev" or (where it has labels) "test" part of a task.

    Raises:
        DataError: no files and no network, columns that are missing, or a label that is none.
    """
    task, folder = TASKS[name], root / "GLUE" / name
    if not folder.is_dir():
        return _from_hub(name, split, root, download)
    path = folder / (task.test if split == "test" else f"{split}.tsv")
    require(path.is_file(), f"{path} does not exist: put GLUE's own file there, or {ELSEWHERE}")
    header, rows = _table(path, task.test_header if split == "test" else task.header)
    missing = [column for column in (*task.texts, task.label) if column not in header]
    require(not missing, f"{path} has no column {missing[:1]}; it has {list(header)}: get GLUE's own file")
    places = [header.index(column) for column in (*task.texts, task.label)]
    for number, row in rows:
        require(len(row) > max(places), f"{path}, line {number}: {len(row)} columns, not {len(header)}: mend the file")
    labels = [_label(row[places[-1]], task, f"{path}, line {number}") for number, row in rows]
    return Texts([[row[place] for _, row in rows] for place in places[:-1]], _tensor(labels, task))


def _table(path: Path, header: tuple[str, ...]) -> tuple[tuple[str, ...], list[tuple[int, list[str]]]]:
    """Column names, and (line number, fields) of every line that is not empty; nothing is quoted."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file in UTF-8 ({one_line(error)}); get it again") from error
    lines = [(number, line.rstrip("\r").split("\t")) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not header:
        require(bool(lines), f"{path} is empty: get it again")
        header, lines = tuple(lines[0][1]), lines[1:]
    require(bool(lines), f"{path} has no sentences: get it again")
    return header, lines


def _label(word: str, task: Task, where: str) -> int | float:
    if task.words:
        require(word in task.words, f"{where}: label {word!r} is none of {', '.join(task.words)}: mend the file")
        return task.words.index(word)
    try:
        score = float(word)
    except ValueError:
        score = -1.0
    require(0 <= score <= 5, f"{where}: score {word!r} is no number from 0 to 5: mend the file")
    return score


def _tensor(labels: list, task: Task) -> Tensor:
    return torch.tensor(labels, dtype=torch.int64 if task.words else torch.float32)


def _from_hub(name: str, split: str, root: Path, download: bool) -> Texts:
    task, folder = TASKS[name], (root / "GLUE" / name).resolve()
    require(download, f"{folder} does not exist: allow download, or {ELSEWHERE}")
    try:
        from datasets import load_dataset

        part = load_dataset(HUB, task.hub, split="validation" if split == "dev" else split)
    except ImportError as error:
        raise DataError(f"{folder} does not exist: {ELSEWHERE}, or pip install 'lit-fa[text]' to fetch it") from error
    except Exception as error:  # the hub, the network and the cache each have their own kinds
        reason = one_line(error)
        raise DataError(f"{folder} does not exist ({reason}): run once with a network, or {ELSEWHERE}") from error
    labels = _tensor(part["label"][:], task)
    require(float(labels.min()) >= 0, f"{name}: the hub's {split} part has no labels; put {task.test} into {folder}")
    return Texts([list(part[column]) for column in task.hub_texts or task.texts], labels)
