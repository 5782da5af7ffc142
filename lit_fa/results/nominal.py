"""What a run is about, in the words that papers share: rule, family of networks, data set, central or federated.

Papers compare under these names although their networks and protocols differ; the atlas keeps the details beside them.
"""

from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

RULES = {
    "Backprop": "BP",
    "BP": "BP",
    "DirectFeedbackAlignment": "DFA",
    "FeedbackAlignment": "FA",
    "FeedbackWeightMatching": "FWM",
    "ForwardForward": "FF",
    "MonoForward": "Mono-Forward",
    "SVDBackprop": "BP on SVD factors",
    "SVDSpaceAlignment": "SSA",
}
SOURCES = {
    "adaptive": "adaptive feedback",
    "kolen_pollack": "Kolen-Pollack",
    "sign": "sign symmetry",
    "weight_mirror": "weight mirror",
}
_FAMILIES = {  # by how the network's name begins
    "mlp": "MLP",
    "lenet": "CNN",
    "conv": "CNN",
    "vgg": "CNN",
    "shufflenet": "CNN",
    "resnet": "ResNet",
    "vit": "ViT",
    "transformers/": "Transformer encoder",
}
_DATA = {
    "CIFAR10": "CIFAR-10",
    "CIFAR100": "CIFAR-100",
    "Digits": "digits",
    "FashionMNIST": "Fashion-MNIST",
    "STL10": "STL-10",
}
_NAMED_BY = ("task", "flag", "path")  # options of a datamodule that name the data set


@dataclass(frozen=True, order=True)
class Nominal:
    """The cell of the atlas: numbers with equal entries are shown side by side."""

    rule: str
    network: str
    data: str
    federated: bool = False


@dataclass(frozen=True)
class Setup:
    """A nominal cell with the details in which two protocols may differ, as texts."""

    nominal: Nominal
    layers: str
    training: str
    epochs: str


def setup(config: dict[str, Any]) -> Setup:
    """What a complete config trains.

    >>> model = {"class_path": "lit_fa.modules.Classifier", "init_args": {"network": "lenet", "rule": "Backprop"}}
    >>> setup({"model": model, "data": "datamodules.MNIST", "trainer": {"max_epochs": 3}}).nominal
    Nominal(rule='BP', network='CNN', data='MNIST', federated=False)
    """
    model, data = _options(config.get("model")), config.get("data")
    federated = _kind(data) == "Federated"
    inner = next((_options(data)[key] for key in ("data", "dataset") if key in _options(data)), data)
    rule = _rule(model.get("rule"), model.get("algorithm") if federated else None)
    network = str(model.get("network", ""))
    nominal = Nominal(rule, _family(network), _data_set(inner if federated else data), federated)
    trainer = config.get("trainer") or {}
    epochs = str(trainer.get("max_epochs", ""))
    return Setup(nominal, _layers(network, model), _training(model, data), f"{epochs} rounds" if federated else epochs)


def _rule(rule: Any, algorithm: Any) -> str:
    options, name = _options(rule), _kind(rule)
    short = RULES.get(name, name)
    if name == "FeedbackAlignment":
        source = _kind(options.get("source", "random")).removesuffix("Feedback")
        short = SOURCES.get(_snake(source), short)
    if name == "DirectFeedbackAlignment" and options.get("teacher") == "target":
        short = "DRTP"
    aggregation = _kind(algorithm) if algorithm else "FedAvg"
    return short if aggregation == "FedAvg" else f"{short} with {aggregation}"


def _family(network: str) -> str:
    return next((family for start, family in _FAMILIES.items() if network.startswith(start)), network)


def _data_set(data: Any) -> str:
    options, kind = _options(data), _kind(data)
    for name in _NAMED_BY:
        if name in options and kind not in _DATA:
            return PurePath(str(options[name])).stem
    return _DATA.get(kind, kind)


def _layers(network: str, model: dict[str, Any]) -> str:
    arguments = model.get("network_args") or {}
    return ", ".join([network, *(f"{key} {_short(value)}" for key, value in arguments.items())])


def _training(model: dict[str, Any], data: Any) -> str:
    optimizer = model.get("optimizer")
    options = _options(optimizer)
    parts = [_kind(optimizer), *(f"{key} {_short(options[key])}" for key in ("lr", "momentum") if key in options)]
    batch = _options(data).get("batch_size")
    return ", ".join([part for part in parts if part] + ([f"batch {batch}"] if batch else []))


def _short(value: Any) -> str:
    return "-".join(map(str, value)) if isinstance(value, list) else str(value)


def _options(node: Any) -> dict[str, Any]:
    return (node.get("init_args") or {}) if isinstance(node, dict) else {}


def _kind(node: Any) -> str:
    path = node.get("class_path", "") if isinstance(node, dict) else node or ""
    return str(path).rsplit(".", 1)[-1]


def _snake(name: str) -> str:
    """`KolenPollack` as `kolen_pollack`."""
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).removeprefix("_")
