"""`lit-fa fit --help`: what a user can choose, a line each; the parser's own help has every internal class."""

from collections.abc import Iterator

import lightning as L

from lit_fa.config.catalogue import Option, first_sentence, options_of_class
from lit_fa.modules import Classifier
from lit_fa.named_loggers import NAMES

# options of Lightning's Trainer that are refused or have no effect here (docs/lightning.md), or that no run needs
HIDDEN = {
    *("accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm", "model_registry"),
    *("use_distributed_sampler", "enable_autolog_hparams", "barebones", "plugins", "inference_mode"),
}
_LINKED = {"num_classes", "image_shape", "input_shape"}  # from the data
_WIDTH = 120
_OWN = {
    "fit": {
        "--config FILE": "YAML with trainer, model and data; may be given several times, later ones win",
        "--name NAME": "of the run and of its folder, lightning_logs/NAME; default: version_0, version_1, ...",
        "--logger NAME": f"one of {', '.join(NAMES)}",
        "--ckpt_path FILE": "go on from this checkpoint; also last",
        "--json FILE": "write the final metrics",
        "--seed_everything N": "seed of weights and of everything without a seed of its own (true: drawn)",
        "--pretrain.KEY VALUE": "a whole config of a run that trains the weights first",
    },
    "validate": {"--ckpt_path FILE": "the checkpoint to validate", "--json FILE": "write the metrics"},
    "test": {"--ckpt_path FILE": "the checkpoint to test", "--json FILE": "write the metrics"},
    "predict": {
        "--ckpt_path FILE": "the checkpoint to predict with",
        "--split NAME": "train, val or test; default: test",
        "--images FOLDER": "images without labels, in place of a split",
        "--output FILE": "default: predictions.csv",
    },
}
_MORE = {
    "--model NAME": "Classifier, FederatedClassifier or mylab.MyModule; --model.help NAME: its options",
    "--data NAME": "lit-fa list data; --data.help NAME: its options",
    "--print_config": "print the whole config and exit",
}


def help_of(command: str) -> str:
    """The text for fit, validate, test or predict."""
    own = {"--config FILE": _OWN["fit"]["--config FILE"]} | _OWN[command] | _MORE
    parts = [
        f"usage: lit-fa {command} --config FILE [--KEY VALUE ...]",
        "Any key of the config can be given as --trainer.KEY, --model.init_args.KEY or --data.init_args.KEY.",
        "\n".join(_line(name, text) for name, text in own.items()),
    ]
    model = [option for option in options_of_class(Classifier) if option.name not in _LINKED]
    trainer = [option for option in options_of_class(L.Trainer) if option.name not in HIDDEN]
    parts += ["--model.init_args.KEY of Classifier:\n" + "\n".join(_lines(model))]
    parts += ["--trainer.KEY (docs/lightning.md):\n" + "\n".join(_lines(trainer))]
    parts += ["lit-fa list rules | networks | data | callbacks | algorithms says what can be named."]
    return "\n\n".join(parts)


def _lines(options: list[Option]) -> Iterator[str]:
    for option in options:
        default = f" [{option.default}]" if option.default not in ("", "null") and len(option.default) < 40 else ""
        yield _line(option.name, f"{first_sentence(option.text)}{default}")


def _line(name: str, text: str) -> str:
    line = f"  {name:<34} {text}"
    return line if len(line) <= _WIDTH else f"{line[: _WIDTH - 3].rpartition(' ')[0]} ..."
