"""The published files of GLUE, one folder of tab-separated files for each task; otherwise the Hugging Face hub.

The files are not csv: quotation marks are part of the sentences, and a sentence may contain any line break except
``\\n``. Every task has its own columns; CoLA has no header, the labels of RTE and QNLI are words, MRPC starts with a
byte order mark. The published test files have no labels, but the original test files of MRPC and STS-B do.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lit_fa.datamodules.data_root import ELSEWHERE
from lit_fa.datamodules.errors import DataError, one_line, require

HUB = "nyu-mll/glue"


@dataclass(frozen=True)
class Task:
    """One task of GLUE.

    Attributes:
        hub: name of the task at the hub.
        texts: columns of the sentences, one or two.
        label: column of the label.
        words: the text of the labels 0, 1, ... in the file; empty if the label is a number from 0 to 5.
        header: columns of a file without a header line.
        hub_texts: columns of the sentences at the hub, if they differ.
        test: the test file that has labels.
        test_header: columns of that file if it has no header line.
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
        """Number of classes, or 1 if the target is a score."""
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
    """Sentences, one list for each column, and labels (n,): int64 classes or float32 scores."""

    columns: list[list[str]]
    labels: Tensor


def read_split(name: str, split: str, root: Path, download: bool = True) -> Texts:
    """The "train", "dev" or (if it has labels) "test" part of a task.

    Raises:
        DataError: no files and no network, missing columns, or an invalid label.
    """
    task, folder = TASKS[name], root / "GLUE" / name
    if not folder.is_dir():
        return _from_hub(name, split, root, download)
    path = folder / (task.test or "" if split == "test" else f"{split}.tsv")
    require(path.is_file(), f"{path} does not exist: put GLUE's own file there, or {ELSEWHERE}")
    header, rows = _table(path, task.test_header if split == "test" else task.header)
    missing = [column for column in (*task.texts, task.label) if column not in header]
    require(not missing, f"{path} has no column {missing[:1]}; it has {list(header)}: get GLUE's own file")
    columns = [header.index(column) for column in (*task.texts, task.label)]
    for number, row in rows:
        wrong = f"{path}, line {number}: {len(row)} columns, not {len(header)}"
        require(len(row) > max(columns), f"{wrong}: correct the file")
    labels = [_label(row[columns[-1]], task, f"{path}, line {number}") for number, row in rows]
    return Texts([[row[column] for _, row in rows] for column in columns[:-1]], _tensor(labels, task))


def _table(path: Path, header: tuple[str, ...]) -> tuple[tuple[str, ...], list[tuple[int, list[str]]]]:
    """Column names, and (line number, fields) of every line that is not empty; quotation marks have no meaning."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file in UTF-8 ({one_line(error)}); download it again") from error
    lines = [(number, line.rstrip("\r").split("\t")) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not header:
        require(bool(lines), f"{path} is empty: download it again")
        header, lines = tuple(lines[0][1]), lines[1:]
    require(bool(lines), f"{path} has no sentences: download it again")
    return header, lines


def _label(word: str, task: Task, where: str) -> int | float:
    if task.words:
        require(word in task.words, f"{where}: label {word!r} is none of {', '.join(task.words)}: correct the file")
        return task.words.index(word)
    try:
        score = float(word)
    except ValueError:
        score = -1.0
    require(0 <= score <= 5, f"{where}: score {word!r} is not a number from 0 to 5: correct the file")
    return score


def _tensor(labels: list[float], task: Task) -> Tensor:
    return torch.tensor(labels, dtype=torch.int64 if task.words else torch.float32)


def _from_hub(name: str, split: str, root: Path, download: bool) -> Texts:
    task, folder = TASKS[name], (root / "GLUE" / name).resolve()
    require(download, f"{folder} does not exist: allow download, or {ELSEWHERE}")
    try:
        from datasets import load_dataset

        part = load_dataset(HUB, task.hub, split="validation" if split == "dev" else split)
    except ImportError as error:
        raise DataError(f"{folder} does not exist: {ELSEWHERE}, or pip install 'lit-fa[text]' to fetch it") from error
    except Exception as error:  # the hub, the network and the cache have different exceptions
        reason = one_line(error)
        raise DataError(f"{folder} does not exist ({reason}): run once with a network, or {ELSEWHERE}") from error
    labels = _tensor(part["label"][:], task)
    require(float(labels.min()) >= 0, f"{name}: the hub's {split} part has no labels; put {task.test} into {folder}")
    return Texts([list(part[column]) for column in task.hub_texts or task.texts], labels)
