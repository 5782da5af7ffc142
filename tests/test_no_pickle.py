"""No file that a run reads is run: neither checkpoints nor data nor models of others."""

import ast
import pickle
from pathlib import Path

import numpy as np
import pytest

from tests.checkpoint_attacks import RunsOnLoading

ROOT = Path(__file__).parent.parent
OWN_BYTES = ROOT / "lit_fa/testing/contracts.py"  # it reads what it has pickled itself, from memory
ROOMS = ("lit_fa", "callbacks", "datamodules")
FILES = sorted(file for room in ROOMS for file in (ROOT / room).rglob("*.py") if file != OWN_BYTES)
RUNS_CODE = ("trust_remote_code", "allow_pickle")  # options that let a file bring code along
UNPICKLERS = ("pickle.load", "pickle.loads", "joblib.load", "dill.load")


def dangers(source: str) -> list[int]:
    """Lines that let a reader run what a file holds."""
    found = []
    for node in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        options = {word.arg: ast.unparse(word.value) for word in node.keywords}
        called = ast.unparse(node.func)
        unsafe = called in UNPICKLERS or any(options.get(name, "False") != "False" for name in RUNS_CODE)
        unsafe |= options.get("weights_only") in ("False", "None")
        unsafe |= called == "torch.load" and "weights_only" not in options
        unsafe |= called.endswith(".from_pretrained") and "trust_remote_code" not in options
        found += [node.lineno] if unsafe else []
    return found


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(p)",
        "torch.load(p, weights_only=False)",
        "trainer.fit(m, d, ckpt_path=p, weights_only=False)",
        "np.load(p, allow_pickle=True)",
        "pickle.load(f)",
        "AutoConfig.from_pretrained(n)",
    ],
)
def test_a_reader_that_runs_code_is_noticed(line):
    assert dangers(line)


def test_no_reader_of_ours_runs_code():
    wrong = [f"{file.relative_to(ROOT)}:{line}" for file in FILES for line in dangers(file.read_text(encoding="utf-8"))]
    assert not wrong


@pytest.fixture
def proof(tmp_path) -> Path:
    return tmp_path / "proof"


def test_objects_in_an_npz_file_are_refused(tmp_path, proof):
    from lit_fa.datamodules import Npz
    from lit_fa.datamodules.errors import DataError

    objects = np.array([RunsOnLoading(proof)] * 4, dtype=object)
    images = np.zeros((4, 8, 8), np.uint8)
    np.savez(tmp_path / "a.npz", train_images=images, train_labels=objects, test_images=images, test_labels=objects)
    with pytest.raises(DataError):
        Npz(str(tmp_path / "a.npz"))
    assert not proof.exists()


def test_pickled_batches_that_are_not_the_published_ones_are_refused(tmp_path, proof):
    from lit_fa.datamodules import CIFAR10
    from lit_fa.datamodules.errors import DataError

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"):
        (folder / name).write_bytes(pickle.dumps({"data": RunsOnLoading(proof)}))
    with pytest.raises(DataError):
        CIFAR10(root=str(tmp_path), download=False).setup("fit")
    assert not proof.exists()


def test_kept_tokens_that_hold_objects_are_made_anew(tmp_path, proof):
    from lit_fa.datamodules.tokenised import PARTS, _cached

    np.savez(tmp_path / "kept.npz", **dict.fromkeys(PARTS, np.array([RunsOnLoading(proof)], dtype=object)))
    assert _cached(tmp_path / "kept.npz") is None
    assert not proof.exists()


def test_a_model_that_brings_its_own_code_is_refused(tmp_path, proof):
    pytest.importorskip("transformers")
    from lit_fa.errors import UserError
    from lit_fa.networks import create_network

    (tmp_path / "config.json").write_text('{"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}')
    (tmp_path / "own.py").write_text(f"import os\nos.mkdir({str(proof)!r})\nclass Config: pass\n")
    with pytest.raises(UserError):
        create_network(f"transformers/{tmp_path}", 2, (3, 8))
    assert not proof.exists()
