"""Files of a network that do not need lit-fa: ONNX, or the format of torch.export."""

import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lit_fa.deployment.simplify import same
from lit_fa.errors import UserError, one_line
from lit_fa.outputs import written

FORMATS = (".onnx", ".pt2")


def write(network: nn.Module, example: Tensor, path: Path, expected: Tensor | None = None) -> float:
    """Export for batches of any size and texts of any length; the file is written atomically.

    Args:
        network: simplified.
        example: (n, ...) images or (n, 3, T) texts, n and T >= 2.
        path: ends with .onnx or .pt2.
        expected: outputs of the trained network on `example`, compared with those of the file; None: not compared.

    Returns:
        The largest difference from `expected`.

    Raises:
        UserError: another file type, missing packages of ONNX, a network that torch cannot export, a file whose outputs
            differ by more than rounding or that cannot be written.
    """
    _check(path)
    with written(path, "--output", ending=path.suffix) as part:
        _export(network, example, part)
        return 0.0 if expected is None else check(part, example, expected)


def _export(network: nn.Module, example: Tensor, path: Path) -> None:
    try:
        _write(network, example, path)
    except (RuntimeError, ValueError, TypeError, NotImplementedError, AssertionError) as error:
        reason = f"{type(error).__name__}: {one_line(error, most=200)}"
        raise UserError(f"torch cannot export this network to {path.suffix} ({reason})") from error


def check(path: Path, example: Tensor, expected: Tensor) -> float:
    """The largest difference between the outputs of the file and the `expected` ones of the trained network.

    Raises:
        UserError: it is more than rounding; the file is deleted.
    """
    logits = run(path, example)
    if not same(logits, expected):
        path.unlink()
        raise UserError("the outputs of the file differ from those of the trained network; the file is deleted")
    return (logits - expected).abs().max().item()


def _write(network: nn.Module, example: Tensor, path: Path) -> None:
    sizes = _free_sizes(network, example)
    if path.suffix == ".pt2":
        packed = io.BytesIO()  # torch's own writer reports a full disk as an error of its archive
        torch.export.save(torch.export.export(network, (example,), dynamic_shapes=(sizes,)), packed)
        path.write_bytes(packed.getbuffer())
        return
    torch.onnx.export(
        network, (example,), str(path), dynamo=True, dynamic_shapes=(sizes,), input_names=["inputs"],
        output_names=["logits"], external_data=False, verbose=False,
    )  # fmt: skip


def run(path: Path, inputs: Tensor) -> Tensor:
    """The logits of the file, computed by onnxruntime or torch."""
    _check(path)
    if path.suffix == ".pt2":
        return torch.export.load(path).module()(inputs)
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"inputs": inputs.numpy()})[0])


def _free_sizes(network: nn.Module, example: Tensor) -> dict[int, Any]:
    """Axes whose size may differ from the example's: the batch, and for texts the length, up to the longest."""
    sizes = {0: torch.export.Dim("batch", min=1)}
    if not example.is_floating_point():
        sizes[2] = torch.export.Dim("length", min=1, max=getattr(network, "longest", None))
    return sizes


def _check(path: Path) -> None:
    if path.suffix not in FORMATS:
        raise UserError(f"{path.name}: the file ends with {' or '.join(FORMATS)}")
    if path.suffix == ".onnx":
        try:
            import onnxruntime  # noqa: F401
            import onnxscript  # noqa: F401
        except ImportError as error:
            raise UserError("ONNX needs its packages: pip install 'lit-fa[onnx]', or write a .pt2") from error
