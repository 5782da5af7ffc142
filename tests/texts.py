"""Small texts in GLUE's own formats, a tokenizer of a few words, and encoders small enough for exact tests."""

import json
from pathlib import Path

import torch
from torch import nn

from lit_fa.networks import create_network

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*SPECIAL, "the", "a", "cat", "dog", "mat", "sat", "ran", "on", "##s", ".", '"', "it", "is", "not"]
SENTENCES = (
    "the cat sat on the mat .",
    "a dog ran",
    'the " dog',
    "it is not a cat",
    "the cats ran on a mat on a mat .",
)
# kind of model at transformers to what makes it tiny; everybody's vocabulary is the tokenizer's
BERT = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
TINY = {
    "bert": BERT,
    "roberta": BERT | {"type_vocab_size": 1},
    "electra": BERT | {"embedding_size": 8},
    "distilbert": {"dim": 8, "n_layers": 2, "n_heads": 2, "hidden_dim": 12},
}


def write_tokenizer(folder: Path, words: list[str] = WORDS) -> str:
    """The files of a BERT tokenizer; returns the folder's name."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    about = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 64}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    return str(folder)


def sentence(number: int) -> str:
    return SENTENCES[number % len(SENTENCES)]


def rows(task: str, n: int) -> list[list[str]]:
    """Header (where the task's files have one) and n rows, every third of class 1."""
    pairs = [(sentence(k), sentence(k + 1)) for k in range(n)]
    bits = ["1" if k % 3 == 0 else "0" for k in range(n)]
    words = ["not_entailment" if bit == "1" else "entailment" for bit in bits]
    if task == "CoLA":
        return [["gj04", bit, "", one] for bit, (one, _) in zip(bits, pairs, strict=True)]
    if task == "SST-2":
        return [["sentence", "label"], *([one, bit] for bit, (one, _) in zip(bits, pairs, strict=True))]
    if task == "MRPC":
        head = ["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"]
        return [head, *([bit, "7", "8", *pair] for bit, pair in zip(bits, pairs, strict=True))]
    if task == "STS-B":
        head = ["index", "genre", "sentence1", "sentence2", "score"]
        return [head, *([str(k), "news", *pair, f"{k % 6}.000"] for k, pair in enumerate(pairs))]
    names = ["question", "sentence"] if task == "QNLI" else ["sentence1", "sentence2"]
    return [["index", *names, "label"], *([str(k), *pairs[k], words[k]] for k in range(n))]


def write_task(root: Path, task: str, train: int = 30, dev: int = 12) -> Path:
    """GLUE's files of one task; returns its folder."""
    folder = root / "GLUE" / task
    folder.mkdir(parents=True, exist_ok=True)
    for split, n in (("train", train), ("dev", dev)):
        write_table(folder / f"{split}.tsv", rows(task, n), mark=task == "MRPC")
    if task == "MRPC":
        write_table(folder / "msr_paraphrase_test.txt", rows(task, 9), mark=True)
    if task == "STS-B":
        scored = [["c", "f", "2012", str(k), f"{k % 6}.000", sentence(k), sentence(k)] for k in range(9)]
        write_table(folder / "sts-test.tsv", scored)
    return folder


def write_table(path: Path, table: list[list[str]], *, mark: bool = False) -> None:
    text = "\n".join("\t".join(row) for row in table) + "\n"
    path.write_bytes((b"\xef\xbb\xbf" if mark else b"") + text.encode())


def tiny(kind: str = "bert", num_classes: int = 3, dtype: torch.dtype = torch.float64, **changes: object) -> nn.Module:
    """A tiny encoder without dropout, the same at every call."""
    torch.manual_seed(0)
    options = TINY[kind] | {"vocab_size": len(WORDS), "dropout": 0.0, "max_positions": 32} | changes
    return create_network(f"transformers/{kind}", num_classes, (3, 16), **options).to(dtype)


def text_batch(lengths: tuple[int, ...], longest: int | None = None, classes: int = 3) -> tuple:
    """Inputs (n, 3, T) of texts with so many tokens, and labels (n,); a text does not depend on what is beside it."""
    longest = longest or max(lengths)
    inputs = torch.zeros(len(lengths), 3, longest, dtype=torch.int64)
    for k, length in enumerate(lengths):
        g = torch.Generator().manual_seed(k)
        inputs[k, 0, :length] = torch.randint(5, len(WORDS), (length,), generator=g)
        inputs[k, 1, :length] = 1
        inputs[k, 2, length // 2 : length] = 1
    return inputs, torch.arange(len(lengths)) % classes
