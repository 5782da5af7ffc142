"""Lightning's command line for our modules, data and callbacks: a config, or words, to trainer, model and data."""

import json
import shlex
import threading
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

import lightning as L
import yaml
from jsonargparse._util import resolved_import_paths
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback

import callbacks
import lit_fa.federated
import lit_fa.modules
import lit_fa.networks
import lit_fa.rules
from callbacks.interruption import forward_signals_to_ranks
from callbacks.named_fault import named_faults
from lit_fa import loggers
from lit_fa.checkpoints import resume
from lit_fa.checkpoints.lightning_io import use_whole_files
from lit_fa.config.arguments import take_option
from lit_fa.config.parser import Parser, check_classes
from lit_fa.config.values import check_trains, check_values
from lit_fa.errors import UserError
from lit_fa.lightning_privates import add_instantiators, callbacks_of, command_parser
from lit_fa.memory import bounded
from lit_fa.modules import EvaluatedClassifier, FederatedClassifier, started_ranks
from lit_fa.modules.trainer_options import check_precision, check_trainer
from lit_fa.outputs import check_folder, writable_file
from lit_fa.pretraining import origin_of, pretrained
from lit_fa.spec.overrides import without_machine

# A config names a class of these packages by the package, as in every record. jsonargparse would choose the shortest
# path, which is `lit_fa.NAME` for all of them; records have that for the names below.
_SHORT = {"Backprop", "FeedbackAlignment", "DirectFeedbackAlignment", "ForwardForward", "PredSim", "AugLocal"}
_SHORT |= {"LearningRule", "Surrogate", "Learner", "Classifier", "FederatedClassifier"}
for _package in (lit_fa.rules, lit_fa.modules, lit_fa.federated, lit_fa.networks):
    for _name in sorted({*_package.__all__} - _SHORT):
        if isinstance(_kind := getattr(_package, _name), type):
            resolved_import_paths.add(_kind, f"{_package.__name__}.{_name}")

_built = threading.local()  # the parsers of this thread

# defaults of Lightning's callbacks that are enumerations (Timer's interval) are dumped as their values
yaml.SafeDumper.add_multi_representer(Enum, lambda dumper, member: dumper.represent_data(member.value))


class SaveConfig(SaveConfigCallback):
    """Saves the config in the run's folder. A run without a logger has no folder, so nothing is saved."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Save, if the trainer has a logger."""
        if trainer.loggers:
            super().setup(trainer, pl_module, stage)


class LitFACLI(LightningCLI):
    """Lightning's command line; the data gives the model its number of classes and its image shape.

    Subclasses of LightningModule and LightningDataModule are chosen in the config.

    Args:
        args: words of the command line, or a config as a dictionary.
        run: True: `args` are words that begin with a subcommand, which is run; False: the objects are built, no more.
        words: all words of the user's command line, to say how an interrupted run continues.
        predicting: of `lit-fa predict`: `split` or `images`, and the callback `table` that writes the predictions.
    """

    parser: Parser

    def __init__(
        self,
        args: Sequence[str] | dict[str, Any],
        *,
        run: bool = True,
        words: Sequence[str] = (),
        predicting: Mapping[str, Any] | None = None,
    ):
        """See the class."""
        self.words, self.predicting = words, dict(predicting or {})
        self.pretrained: dict[str, Any] = {}
        if run and not isinstance(args, dict) and args[0] in (known := self.subcommands()):
            # building the parsers of the others takes time
            self.subcommands = lambda: {args[0]: known[args[0]]}  # type: ignore[method-assign]  # of this object only
        parser = {"exit_on_error": False}
        super().__init__(
            L.LightningModule,
            L.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            parser_class=Parser,
            parser_kwargs=parser | ({"prog": "lit-fa"} | {c: dict(parser) for c in self.subcommands()} if run else {}),
            save_config_callback=SaveConfig if run else None,
            save_config_kwargs={"overwrite": True},
            args=args if isinstance(args, dict) else [*args],
            run=run,
        )

    def setup_parser(self, add_subcommands: bool, *kwargs: dict[str, Any]) -> None:
        """Build the parser, or take the one that an earlier config of this thread has built; it keeps no values."""
        key = (type(self), *(self.subcommands() if add_subcommands else ()))
        built: dict[Any, dict[str, Any]] = vars(_built)
        if key not in built:
            before = {*vars(self)}
            super().setup_parser(add_subcommands, *kwargs)
            built[key] = {name: value for name, value in vars(self).items() if name not in before}
        vars(self).update(built[key])

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Check values and the checkpoint before anything is built.

        Lightning's own method warns where `args` are given and `sys.argv` has words, as in every notebook.
        """
        if isinstance(args, dict):
            check_classes(args)
        self.config = parser.parse_object(args) if isinstance(args, dict) else parser.parse_args(args)
        check_values(self.asked)
        asked = self.asked
        if "weights_only" in asked and asked.weights_only is None:
            asked.weights_only = True  # Lightning would unpickle a file at an address
        path, safe = asked.get("ckpt_path"), asked.get("weights_only") is not False
        if path is not None and not str(path).strip():
            raise UserError("--ckpt_path is empty: give the path of a checkpoint, or leave it out")
        named = path and path not in resume.WORDS
        self.checkpoint = resume.checked(path, weights_only=safe) if named else {}

    @property
    def asked(self) -> Any:
        """The config of the command, a jsonargparse Namespace."""
        command = self.config.get("subcommand")
        return self.config[command] if command else self.config

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link classes and shapes of the model to those of the data; add `pretrain`, the config of a run before."""
        parser.add_argument("--pretrain", type=dict | None, default=None, help="config of the run that pretrains")
        links = {"num_classes": "num_classes", "image_shape": "image_shape", "input_shape": "sample_shape"}
        for name, attribute in links.items():
            parser.link_arguments(f"data.{attribute}", f"model.init_args.{name}", apply_on="instantiate")

    def instantiate_classes(self) -> None:
        """Build network, rule and data within the memory that is free."""
        add_instantiators(self)  # a pretraining has used the same parser for its own config
        self.config_dump = self.parser.plain(self.config, skip_link_targets=False, skip_unset=False)
        self.config_dump = self.config_dump[self.subcommand] if self.subcommand else self.config_dump
        try:
            with bounded():
                super().instantiate_classes()
        finally:
            self.parser.forget_instantiators()

    def instantiate_trainer(self, **kwargs: object) -> L.Trainer:
        """A trainer that writes checkpoints atomically, reads them as plain data, and continues the logs of a run."""
        trainer = super().instantiate_trainer(**kwargs)
        use_whole_files(trainer)
        loggers.use_resumable(trainer)
        return trainer

    def before_instantiate_classes(self) -> None:
        """Refuse a precision that is not supported; pretrain, or take the weights of an equal pretraining."""
        config = self.asked
        check_precision(config.trainer.precision)
        if config.pretrain is not None and not config.pretrain.get("skip"):
            weights = pretrained(config.pretrain)
            config.model.init_args.weights, self.pretrained = str(weights), origin_of(weights)

    def before_fit(self) -> None:
        """Refuse what cannot be trained or written; add the callbacks of a fit."""
        check_trains(self.asked)
        if isinstance(self.model, FederatedClassifier):
            self._show_rounds()
        resume.check_complete(self.checkpoint)
        if make := getattr(self.model, "make_optimizer", None):
            resume.check_optimizer(self.checkpoint, make)
        self.check_folders()
        callbacks_of(self.trainer)[:0] = named_faults()
        self._prepare(fits=True)

    def _show_rounds(self) -> None:
        """Replace Lightning's default progress bar, but none that the config names, by one that counts rounds."""
        named, shown = self._named_callbacks(), callbacks_of(self.trainer)
        default = [isinstance(c, ProgressBar) and type(c).__name__ not in named for c in shown]
        shown[:] = [callbacks.RoundProgress() if bar else c for c, bar in zip(shown, default, strict=True)]

    def _named_callbacks(self) -> set[str]:
        """The class names of the callbacks that the config names."""
        named = self.asked.trainer.callbacks or []
        return {c.class_path.rpartition(".")[2] for c in (named if isinstance(named, list) else [named])}

    def leave_out_default_checkpoint(self) -> None:
        """Remove Lightning's default checkpoint callback from a run without a logger.

        It would write to `checkpoints` in the current folder, which all runs of a table would share.
        """
        present, named = callbacks_of(self.trainer), self._named_callbacks()
        if not self.trainer.loggers:
            present[:] = [c for c in present if type(c) is not ModelCheckpoint or "ModelCheckpoint" in named]

    def before_test(self) -> None:
        """Refuse unsupported options before any rank starts; give loggers and records the run's id and config."""
        self._prepare(fits=False)

    def _prepare(self, *, fits: bool) -> None:
        if isinstance(self.model, EvaluatedClassifier):
            check_trainer(self.trainer, self.model)
        if (word := self.asked.get("ckpt_path")) in resume.WORDS:
            resume.check_word(word, self.trainer)
        resumed = self.checkpoint or resume.meant(word, self.trainer) if fits else {}
        callbacks_of(self.trainer).append(callbacks.Interruption(self.resume_command))
        forward_signals_to_ranks(self.trainer)
        started_ranks.observe(self.trainer)
        loggers.attach(self.trainer, self.written(), {}, resumed)
        for callback in callbacks_of(self.trainer):
            if isinstance(callback, callbacks.RunRecord):
                callback.record.setdefault("config", self.recorded())

    before_validate = before_test

    def before_predict(self) -> None:
        """Choose the data to predict; add the callback that writes the predictions."""
        self.before_test()
        self.datamodule.predict_split = self.predicting.get("split", "test")
        self.datamodule.predict_folder = self.predicting.get("images")
        callbacks_of(self.trainer).append(self.predicting["table"])

    def after_predict(self) -> None:
        """Print the path of the predictions."""
        if self.trainer.is_global_zero:
            print(f"predictions: {self.predicting['table'].path}")

    def check_folders(self) -> None:
        """Refuse folders that cannot be written, before the first step."""
        keepers = [callback for callback in callbacks_of(self.trainer) if isinstance(callback, ModelCheckpoint)]
        folders = [("trainer.callbacks.dirpath", keeper.dirpath) for keeper in keepers]
        folders += [("trainer.logger", logger.save_dir) for logger in self.trainer.loggers]
        if keepers or self.trainer.loggers or self.asked.trainer.get("default_root_dir"):
            folders += [("trainer.default_root_dir", self.trainer.default_root_dir)]
        for option, folder in folders if self.trainer.is_global_zero else ():
            if folder and "://" not in str(folder):
                check_folder(folder, option)
        for callback in callbacks_of(self.trainer) if self.trainer.is_global_zero else ():
            if isinstance(callback, callbacks.RunRecord) and callback.path:
                writable_file(callback.path, "the record")

    def written(self) -> dict[str, Any]:
        """The config, defaults included, as plain data."""
        return json.loads(command_parser(self).dump(self.asked, format="json"))

    def recorded(self) -> dict[str, Any]:
        """The config in a record: defaults included, without devices, workers, paths and loggers."""
        config = without_machine(self.written())
        if config.get("pretrain"):
            config["model"]["init_args"].pop("weights", None)  # a file in this machine's cache
        return {key: value for key, value in config.items() if value is not None and key not in loggers.NOT_RESULTS}

    def resume_command(self, checkpoint: str) -> str:
        """How to continue: the same command, from a checkpoint."""
        words = take_option([*self.words], "--ckpt_path", "a file")[0]
        return f"go on with: {shlex.join(['lit-fa', *words, '--ckpt_path', checkpoint])}"
