"""`lit-fa export --config X.yaml --ckpt_path last.ckpt --output model.onnx`: the trained network in a file."""

import argparse
import logging
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from lit_fa.callbacks.run_record import write_json
from lit_fa.checkpoints.resume import checked
from lit_fa.config.arguments import Arguments, in_range, nonempty
from lit_fa.deployment.files import FORMATS, write
from lit_fa.deployment.measure import compared, dense_twin
from lit_fa.deployment.simplify import CHEAPER, outputs, simplified
from lit_fa.errors import UserError
from lit_fa.experiment import build
from lit_fa.outputs import writable_file
from lit_fa.rules import Does


def main(argv: list[str]) -> None:
    """The command line; options that are not ours are the experiment's, as in `lit-fa fit`."""
    options, experiment = _parser().parse_known_args(argv)
    path = Path(options.output)
    if path.suffix not in FORMATS:
        raise UserError(f"--output {path.name}: the file ends with {' or '.join(FORMATS)}")
    writable_file(path, "--output")
    if options.json:
        writable_file(options.json, "--json")
    logging.basicConfig(format="%(message)s")
    trained, shape = load_trained(experiment, options.ckpt_path)
    example = sample(trained, shape, max(options.batch, 2))
    network = simplified(trained, example, options.by)
    difference = write(network, example, path, outputs(trained, example))
    rows = compared({"dense": dense_twin(trained, example), "exported": network}, example)
    show(rows, path, difference, options.batch)
    if options.json:
        write_json(Path(options.json), rows | {"largest_difference": difference})


def load_trained(experiment: list[str], ckpt_path: str) -> tuple[nn.Module, tuple[int, ...]]:
    """The network of a config with the weights of a checkpoint, in evaluation mode, and the shape of one sample.

    Raises:
        UserError: no such file, or a rule that predicts by more than a forward pass.
    """
    if "://" in ckpt_path:
        raise UserError(f"--ckpt_path {ckpt_path}: fetch the file first; an address is not read here")
    checkpoint = checked(ckpt_path)
    quiet = ["--trainer.logger=false", "--trainer.callbacks=null"]
    _, module, data = build([*experiment, *quiet])
    if Does.PREDICTS in module.rule.does:
        raise UserError(f"{type(module.rule).__name__} predicts by more than the network's forward pass: no export")
    module.load_state_dict(checkpoint["state_dict"])
    return module.eval().network, tuple(getattr(data, "sample_shape", data.image_shape))


def sample(network: nn.Module, shape: tuple[int, ...], n: int) -> Tensor:
    """(n, *shape) images, or texts of the largest length, whose values do not matter."""
    example = getattr(network, "example", None)
    if callable(example):
        return example(n, shape[-1])
    return torch.rand(n, *shape)


def show(rows: dict[str, dict[str, float]], path: Path, difference: float, batch: int) -> None:
    """Both networks at the terminal."""
    table = Table(title=f"{path}: largest difference of a logit {difference:.1e}; batch {max(batch, 2)}")
    for column in ("", "parameters", "MACs a sample", "ms a batch", "x dense"):
        table.add_column(column, justify="left" if not column else "right")
    for name, row in rows.items():
        table.add_row(name, f"{row['parameters']:,}", f"{row['macs']:,.0f}", f"{row['ms']:.2f}", f"{row['ratio']:.2f}")
    Console(width=100, emoji=False).print(table)


def _parser() -> argparse.ArgumentParser:
    parser = Arguments(
        prog="lit-fa export", description=__doc__, allow_abbrev=False, epilog="Every other option is of `lit-fa fit`."
    )
    parser.add_argument("--ckpt_path", type=nonempty, required=True, help="the checkpoint of a Classifier")
    parser.add_argument("--output", type=nonempty, required=True, help="file to write: .onnx or .pt2")
    parser.add_argument("--by", choices=[*CHEAPER], default="macs", help="what decides between a layer's two forms")
    parser.add_argument(
        "--batch", type=in_range(least=1, most=10**6), default=2, help="samples a batch, for the timing (default 2)"
    )
    parser.add_argument("--json", type=nonempty, help="write the figures there")
    return parser
