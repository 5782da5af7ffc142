"""The points of a Transformer at which direct feedback enters (Launay et al. 2020): one or three for each block.

`macro` is the output of each block; `micro` is the output of attention, the activation of the feed-forward part, and
the block's output. A block is recognised by the names of its modules, as in timm's vision transformers and in the
encoders of transformers (BERT, RoBERTa, ELECTRA; DistilBERT).
"""

from torch import Tensor, nn

from lit_fa.layers.observing import calls

PRESETS = ("macro", "micro")
# paths inside a block to the outputs of its three parts; "" is the block itself, if no module inside computes the sum
ANATOMIES = (
    ("attention.output", "intermediate", "output"),
    ("sa_layer_norm", "ffn.activation", "output_layer_norm"),
    ("attn", "mlp.act", ""),
)


def transformer_points(network: nn.Module, example: Tensor, preset: str) -> list[str]:
    """Names of the modules after which `preset` places stop-gradients.

    If a block adds its input to the output of attention (pre-normalisation), that input needs a stop-gradient as well.
    It has the one of the block before; for the first block it is the embedding, where `micro` therefore adds one.

    Raises:
        ValueError: no block of a known anatomy.
    """
    blocks = {name: parts for name, module in network.named_modules() if (parts := _parts(name, module))}
    if not blocks:
        known = " or ".join(", ".join(part or "block" for part in parts) for parts in ANATOMIES)
        raise ValueError(f"{preset} cuts Transformer blocks with {known}; this network has none: use block or names")
    if preset == "macro":
        return [*blocks]
    pre_normalised = any(parts[-1] == name for name, parts in blocks.items())
    stem = _before(network, example, next(iter(blocks))) if pre_normalised else []
    return stem + [point for parts in blocks.values() for point in parts]


def _parts(name: str, module: nn.Module) -> list[str]:
    """Names of the three parts of a block; empty for a module that is not a block."""
    for paths in ANATOMIES:
        if all(_holds(module, path) for path in paths):
            return [".".join(filter(None, (name, path))) for path in paths]
    return []


def _holds(module: nn.Module, path: str) -> bool:
    return path in dict(module.named_modules(remove_duplicate=False))


def _before(network: nn.Module, example: Tensor, block: str) -> list[str]:
    """The last module that runs before the first block, which ends the embedding."""
    inside = block + "."
    outer = [name for name, _ in network.named_modules() if name and not name.startswith(inside)]
    ran = [call.name for call in calls(network, example, outer)]
    return ran[: ran.index(block)][-1:]
