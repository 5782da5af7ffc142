"""A network in a file that runs without us: ONNX, or torch.export's own."""

from pathlib import Path

import torch
from torch import Tensor, nn

from lit_fa.errors import UserError

FORMATS = (".onnx", ".pt2")


def write(network: nn.Module, example: Tensor, path: Path) -> None:
    """Export for batches of any size.

    Args:
        network: simplified.
        example: (n, ...) inputs, n >= 2.
        path: ends with .onnx or .pt2.

    Raises:
        UserError: another ending, or ONNX without its packages.
    """
    _check(path)
    batch = torch.export.Dim("batch", min=1)
    if path.suffix == ".pt2":
        torch.export.save(torch.export.export(network, (example,), dynamic_shapes=({0: batch},)), path)
        return
    torch.onnx.export(
        network, (example,), str(path), dynamo=True, dynamic_shapes=({0: batch},), input_names=["images"],
        output_names=["logits"], external_data=False, verbose=False,
    )  # fmt: skip


def run(path: Path, inputs: Tensor) -> Tensor:
    """The logits that the file computes, by onnxruntime or torch."""
    _check(path)
    if path.suffix == ".pt2":
        return torch.export.load(path).module()(inputs)
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"images": inputs.numpy()})[0])


def _check(path: Path) -> None:
    if path.suffix not in FORMATS:
        raise UserError(f"{path.name}: the file ends with {' or '.join(FORMATS)}")
    if path.suffix == ".onnx":
        try:
            import onnxruntime  # noqa: F401
            import onnxscript  # noqa: F401
        except ImportError as error:
            raise UserError("ONNX needs its packages: pip install 'lit-fa[onnx]', or write a .pt2") from error
