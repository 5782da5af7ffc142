"""Lightning's command line for our modules, data and callbacks: a config, or words, to trainer, model and data."""

import json
import shlex
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from enum import Enum
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from jsonargparse._util import resolved_import_paths
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback

import lit_fa.federated
import lit_fa.modules
import lit_fa.networks
import lit_fa.rules
from lit_fa import callbacks, loggers
from lit_fa.callbacks.interruption import forward_signals_to_ranks
from lit_fa.callbacks.named_fault import named_faults
from lit_fa.checkpoints import resume
from lit_fa.checkpoints.lightning_io import use_whole_files
from lit_fa.config import own_classes
from lit_fa.config.arguments import take_option
from lit_fa.config.console import ConsoleLines, calm, leave_out, lines_about_rules
from lit_fa.config.nulls import without_default_nulls
from lit_fa.config.parser import Parser, check_classes
from lit_fa.config.run_folder import check_unused, give_name
from lit_fa.config.values import check_trains, check_values
from lit_fa.errors import UserError
from lit_fa.lightning_privates import add_instantiators, callbacks_of, command_parser
from lit_fa.memory import bounded
from lit_fa.modules import EvaluatedClassifier, started_ranks
from lit_fa.modules.trainer_options import check_precision, check_trainer
from lit_fa.outputs import check_folder, writable_file
from lit_fa.pretraining import origin_of, pretrained
from lit_fa.shipped import with_shipped_configs
from lit_fa.spec.overrides import run_id, without_machine

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
        name: of the run and of its folder; None: Lightning numbers the folders.
    """

    parser: Parser

    def __init__(
        self,
        args: Sequence[str] | dict[str, Any],
        *,
        run: bool = True,
        words: Sequence[str] = (),
        predicting: Mapping[str, Any] | None = None,
        name: str | None = None,
    ):
        """See the class."""
        self.words, self.predicting = words, dict(predicting or {})
        self.name = name
        self.folder: Path | None = None  # of a run with a name
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
            args=args if isinstance(args, dict) else with_shipped_configs(args),
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
        own_classes.check_network(self.asked)
        asked = self.asked
        if "weights_only" in asked and asked.weights_only is None:
            asked.weights_only = True  # Lightning would unpickle a file at an address
        path, safe = asked.get("ckpt_path"), asked.get("weights_only") is not False
        if path is not None and not str(path).strip():
            raise UserError("--ckpt_path is empty: give the path of a checkpoint, or leave it out")
        named = path and path not in resume.WORDS
        self.checkpoint = resume.checked(path, weights_only=safe) if named else {}
        if self.name is not None and (folder := give_name(asked.trainer, self.name)):
            check_unused(folder, self.name, path)
            self.folder = folder

    @property
    def asked(self) -> Any:
        """The config of the command, a jsonargparse Namespace."""
        command = self.config.get("subcommand")
        return self.config[command] if command else self.config

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link classes and shapes of the model to those of the data; add `pretrain`, the config of a run before."""
        parser.add_argument("--pretrain", type=dict | None, default=None, help="config of the run that pretrains")
        for name, of_data in own_classes.LINKS.items():
            parser.link_arguments("data", f"model.init_args.{name}", compute_fn=of_data, apply_on="instantiate")

    def instantiate_classes(self) -> None:
        """Build network, rule and data within the memory that is free."""
        add_instantiators(self)  # a pretraining has used the same parser for its own config
        self.config_dump = self.parser.plain(self.config, skip_link_targets=False, skip_unset=False)
        self.config_dump = self.config_dump[self.subcommand] if self.subcommand else self.config_dump
        lines: AbstractContextManager[list[str]] = lines_about_rules() if self.subcommand else nullcontext([])
        needed = own_classes.needed.set(own_classes.wanted(self.asked.model.class_path))
        try:
            with bounded(), lines as self.rule_lines:
                super().instantiate_classes()
        finally:
            own_classes.needed.reset(needed)
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
        if "verbose" in config and not any(word.startswith("--verbose") for word in self.words):
            config.verbose = False  # the last line has the metrics that Lightning would print in full
        check_precision(config.trainer.precision)
        if config.pretrain is not None and not config.pretrain.get("skip"):
            weights = pretrained(config.pretrain)
            config.model.init_args.weights, self.pretrained = str(weights), origin_of(weights)

    def before_fit(self) -> None:
        """Refuse what cannot be trained or written; add the callbacks of a fit."""
        check_trains(self.asked)
        resume.check_complete(self.checkpoint)
        if make := getattr(self.model, "make_optimizer", None):
            resume.check_optimizer(self.checkpoint, make)
        self.check_folders()
        callbacks_of(self.trainer)[:0] = named_faults()
        self._keep_record()
        self._prepare(fits=True)

    def _keep_record(self) -> None:
        """Let the run write a record into its folder, if it has one and the config no `RunRecord` of its own."""
        own = any(isinstance(callback, callbacks.RunRecord) for callback in callbacks_of(self.trainer))
        if not own and (self.folder or self.trainer.loggers):
            path = str(self.folder / "record.json") if self.folder else None  # None: the logger's folder
            callbacks_of(self.trainer).append(callbacks.RunRecord(path, finish_after="fit"))

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
        self._quiet()
        if (word := self.asked.get("ckpt_path")) in resume.WORDS:
            resume.check_word(word, self.trainer)
        resumed = self.checkpoint or resume.meant(word, self.trainer) if fits else {}
        callbacks_of(self.trainer).append(callbacks.Interruption(self.resume_command))
        forward_signals_to_ranks(self.trainer)
        started_ranks.observe(self.trainer)
        loggers.attach(self.trainer, written := self.written(), {}, resumed)
        for callback in callbacks_of(self.trainer):
            if isinstance(callback, callbacks.RunRecord):
                callback.record = self.of_no_table(written) | callback.record

    before_validate = before_test

    def _quiet(self) -> None:
        """Our lines in place of those that Lightning prints by default."""
        asked = self.asked
        calm(self.trainer, self.model, self._named_callbacks(), asked.trainer)
        leave_out(self.model, str(self.subcommand), asked)
        seed = asked.get("seed_everything")
        self.console = ConsoleLines(str(self.subcommand), self.rule_lines, seed, asked.get("ckpt_path"))
        callbacks_of(self.trainer).insert(0, self.console)

    def after_fit(self) -> None:
        """Print the line after a run: metrics, time, folder, and the command that shows them again."""
        folder = self.trainer.log_dir if self.trainer.loggers else None  # read by all ranks
        folder = str(self.folder) if self.folder else folder
        recorded = any(isinstance(callback, callbacks.RunRecord) for callback in callbacks_of(self.trainer))
        report = "lit-fa runs" if folder and recorded and self.subcommand == "fit" else ""
        self.console.closing(self.trainer, folder, report)

    after_validate = after_test = after_fit

    def before_predict(self) -> None:
        """Choose the data to predict; add the callback that writes the predictions."""
        self.before_test()
        self.datamodule.predict_split = self.predicting.get("split", "test")
        self.datamodule.predict_folder = self.predicting.get("images")
        callbacks_of(self.trainer).append(self.predicting["table"])

    def after_predict(self) -> None:
        """Print the path of the predictions."""
        self.console.closing(self.trainer, str(self.predicting["table"].path))

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
        """The config, defaults included, as plain data; of nulls only those that another default would replace."""
        return without_default_nulls(json.loads(command_parser(self).dump(self.asked, format="json", skip_unset=False)))

    def recorded(self) -> dict[str, Any]:
        """The config in a record: defaults included, without devices, workers, paths and loggers."""
        config = without_machine(self.written())
        if config.get("pretrain"):
            config["model"]["init_args"].pop("weights", None)  # a file in this machine's cache
        return {key: value for key, value in config.items() if value is not None and key not in loggers.NOT_RESULTS}

    def of_no_table(self, written: dict[str, Any]) -> dict[str, Any]:
        """The fields of the record of a run that no table has asked for; its id is that of its W&B run."""
        config = {key: value for key, value in written.items() if key not in loggers.NOT_RESULTS}
        none = dict.fromkeys(("paper", "table", "row", "column", "scale"))
        fields = {"id": run_id(config), **none, "seed": self.asked.get("seed_everything"), "config": self.recorded()}
        fields |= {"name": self.name} if self.name else {}
        return fields | ({"pretrained": self.pretrained} if self.pretrained else {})

    def resume_command(self, checkpoint: str) -> str:
        """How to continue: the same command, from a checkpoint."""
        words = take_option([*self.words], "--ckpt_path", "a file")[0]
        return f"go on with: {shlex.join(['lit-fa', *words, '--ckpt_path', checkpoint])}"
