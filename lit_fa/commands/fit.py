"""The only file that sees all packages: rules, datamodules and callbacks meet in Lightning's command line."""

import gc
import json
import logging
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path

import lightning as L
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from torch import nn

import callbacks
import lit_fa.federated
import lit_fa.modules
import lit_fa.rules
from callbacks.interruption import hand_on_to_ranks
from callbacks.named_fault import named_faults
from callbacks.run_record import write_json
from lit_fa import loggers
from lit_fa.checkpoints import resume
from lit_fa.checkpoints.lightning_io import use_whole_files
from lit_fa.config.parser import Parser
from lit_fa.config.parser_errors import check_names, guarded
from lit_fa.config.values import check_trains, check_values
from lit_fa.errors import UserError
from lit_fa.jobs.lock import checkpoints_of
from lit_fa.modules.trainer_options import check_precision, check_trainer
from lit_fa.outputs import check_folder, writable_file
from lit_fa.pretraining import origin_of, pretrained
from lit_fa.spec.expand import without_machine
from lit_fa.stopping import exit_code, interruptions_as_stopped

# defaults of Lightning's callbacks that are enumerations (Timer's interval) are written as their values
yaml.SafeDumper.add_multi_representer(Enum, lambda dumper, member: dumper.represent_data(member.value))


class SaveConfig(SaveConfigCallback):
    """The config, saved in the run's own folder; a run without a logger has none, and leaves nothing behind."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Save, where there is a folder to save in."""
        if trainer.loggers:
            super().setup(trainer, pl_module, stage)


class LitFACLI(LightningCLI):
    """Lightning's command line, with the dataset telling the network its classes and image shape."""

    def __init__(self, words: Sequence[str] = (), predicting: Mapping[str, object] | None = None, **kwargs):
        """Subclasses of LightningModule and LightningDataModule are chosen in the config.

        Args:
            words: of the command line, to say how an interrupted run goes on.
            predicting: what `lit-fa predict` predicts, `split` or `images`, and the `table` that it writes.
            kwargs: of LightningCLI.
        """
        self.words, self.pretrained, self.predicting = words, {}, dict(predicting or {})
        kwargs.setdefault("save_config_callback", SaveConfig)
        kwargs.setdefault("save_config_kwargs", {"overwrite": True})
        kwargs.setdefault("parser_class", Parser)
        if words and words[0] in (known := self.subcommands()):
            self.subcommands = lambda: {words[0]: known[words[0]]}  # the parsers of the others would be made in vain
        parser = {"exit_on_error": False}
        parsers = parser if not kwargs.get("run", True) else parser | {c: dict(parser) for c in self.subcommands()}
        super().__init__(
            L.LightningModule,
            L.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            parser_kwargs=parsers,
            **kwargs,
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: object) -> None:
        """Look at values and the checkpoint before anything is built."""
        super().parse_arguments(parser, args)
        check_values(self.asked)
        asked = self.asked
        if "weights_only" in asked and asked.weights_only is None:
            asked.weights_only = True  # Lightning would run what a file at an address holds
        path, safe = asked.get("ckpt_path"), asked.get("weights_only") is not False
        named = path and path not in resume.WORDS
        self.checkpoint = resume.checked(path, weights_only=safe) if named else {}

    @property
    def asked(self):
        """The config of the command."""
        command = self.config.get("subcommand")
        return self.config[command] if command else self.config

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link what the network must know to what the data says; `pretrain` is the run whose weights it starts from."""
        parser.add_argument("--pretrain", type=dict | None, default=None, help="config of the run that pretrains")
        told = {"num_classes": "num_classes", "image_shape": "image_shape", "input_shape": "sample_shape"}
        for name, attribute in told.items():
            parser.link_arguments(f"data.{attribute}", f"model.init_args.{name}", apply_on="instantiate")

    def instantiate_trainer(self, **kwargs: object) -> L.Trainer:
        """A trainer whose checkpoints are written whole and read as plain data, whatever module it trains."""
        trainer = super().instantiate_trainer(**kwargs)
        use_whole_files(trainer)
        return trainer

    def before_instantiate_classes(self) -> None:
        """Pretrain, or find the weights of the same pretraining; refuse a precision that is not honoured."""
        config = self.asked
        check_precision(config.trainer.precision)
        if config.pretrain is not None and not config.pretrain.get("skip"):
            weights = pretrained(config.pretrain, fit_and_record)
            config.model.init_args.weights, self.pretrained = str(weights), origin_of(weights)

    def before_fit(self) -> None:
        """What a person at a terminal sees of a run, and what becomes of it when a signal ends it."""
        check_trains(self.asked)
        if isinstance(self.model, lit_fa.modules.FederatedClassifier):
            named = self.asked.trainer.callbacks or []
            named = {c.class_path.rpartition(".")[2] for c in (named if isinstance(named, list) else [named])}
            shown = self.trainer.callbacks
            default = [isinstance(c, ProgressBar) and type(c).__name__ not in named for c in shown]
            shown[:] = [callbacks.RoundProgress() if bar else c for c, bar in zip(shown, default, strict=True)]
        if make := getattr(self.model, "make_optimizer", None):
            resume.check_optimizer(self.checkpoint, make)
        self.check_folders()
        self.trainer.callbacks[:0] = named_faults()
        self.before_test()

    def before_test(self) -> None:
        """Refuse what is not honoured before any process starts; name the run to loggers and records."""
        if isinstance(self.model, lit_fa.modules.EvaluatedClassifier):
            check_trainer(self.trainer, self.model)
        if (word := self.asked.get("ckpt_path")) in resume.WORDS:
            resume.check_word(word, self.trainer, self.subcommand)
        self.trainer.callbacks.append(callbacks.Interruption(self.going_on))
        hand_on_to_ranks(self.trainer)
        loggers.attach(self.trainer, self.written(), {})
        for callback in self.trainer.callbacks:
            if isinstance(callback, callbacks.RunRecord):
                callback.record.setdefault("config", self.recorded())

    before_validate = before_test

    def before_predict(self) -> None:
        """Tell the data what is predicted, and write it."""
        self.before_test()
        self.datamodule.predict_split = self.predicting.get("split", "test")
        self.datamodule.predict_folder = self.predicting.get("images")
        self.trainer.callbacks.append(self.predicting["table"])

    def after_predict(self) -> None:
        """Say where the predictions are."""
        if self.trainer.is_global_zero:
            print(f"predictions: {self.predicting['table'].path}")

    def check_folders(self) -> None:
        """Refuse folders in which nothing can be written, before the first step."""
        keepers = [callback for callback in self.trainer.callbacks if isinstance(callback, ModelCheckpoint)]
        folders = [("trainer.callbacks.dirpath", keeper.dirpath) for keeper in keepers]
        folders += [("trainer.logger", logger.save_dir) for logger in self.trainer.loggers]
        if keepers or self.trainer.loggers:
            folders += [("trainer.default_root_dir", self.trainer.default_root_dir)]
        for option, folder in folders if self.trainer.is_global_zero else ():
            if folder and "://" not in str(folder):
                check_folder(folder, option)
        for callback in self.trainer.callbacks if self.trainer.is_global_zero else ():
            if isinstance(callback, callbacks.RunRecord) and callback.path:
                writable_file(callback.path, "the record")

    def written(self) -> dict:
        """The config, defaults included, as plain data."""
        return json.loads(self._parser(self.subcommand).dump(self.asked, format="json"))

    def recorded(self) -> dict:
        """The config as a record keeps it: defaults included, without what only this machine has."""
        config = without_machine(self.written())
        if config.get("pretrain"):
            config["model"]["init_args"].pop("weights", None)  # the file that pretraining has left in a cache
        return {key: value for key, value in config.items() if value is not None and key not in loggers.NOT_RESULTS}

    def going_on(self, checkpoint: str) -> str:
        """The same command, from a checkpoint."""
        words = _take_option([*self.words], "--ckpt_path", "a file")[0]
        return f"go on with: {shlex.join(['lit-fa', *words, '--ckpt_path', checkpoint])}"


def main(argv: list[str]) -> None:
    """`lit-fa fit|validate|test|predict ... [--json FILE] [--logger wandb|csv|tensorboard]`.

    The file receives the last value of every metric. `predict` also takes `--split train|val|test` or
    `--images FOLDER`, and `--output FILE` (predictions.csv).
    """
    words = argv
    argv, json_file = _take_option(argv, "--json", "a file to write to")
    argv, logger = _take_option(argv, "--logger", "a name: wandb, csv or tensorboard")
    argv, predicting = _predicting(argv)
    if json_file:
        writable_file(json_file, "--json")
    if logger:
        loggers.only_by_name(argv)
        argv = [*argv, "--trainer.logger", json.dumps(loggers.logger_config(logger))]
    logging.basicConfig(format="%(message)s")
    logging.getLogger("lit_fa").setLevel(logging.INFO)  # what a rule did to the network, in one line

    def run() -> None:
        sys.argv = ["lit-fa", *argv]  # Lightning warns about arguments that are handed over instead
        cli = LitFACLI(words, predicting)
        loggers.finish(cli.trainer)
        if json_file:
            write_json(Path(json_file), {key: float(v) for key, v in cli.trainer.callback_metrics.items()})

    try:
        with interruptions_as_stopped():
            guarded(run)
    except KeyboardInterrupt as stopped:
        _end(stopped, argv[0])


def _end(stopped: KeyboardInterrupt, command: str) -> None:
    """Say what becomes of the run, once, and end."""
    rank = int(os.environ.get("LOCAL_RANK", 0))
    if rank == 0:
        here = "where there is a checkpoint, go on with --ckpt_path FILE" if command == "fit" else "start it again"
        print(getattr(stopped, "said", "") or f"{str(stopped) or 'stopped'} at once; {here}", flush=True)
    # Lightning kills rank 0 when a rank that it has started ends with an error: right where rank 0 waits for it
    agreed = rank and getattr(stopped, "said", "") and "TORCHELASTIC_RUN_ID" not in os.environ
    raise SystemExit(0 if agreed else exit_code(stopped)) from None


def built(config: list[str] | dict) -> LitFACLI:
    """The objects of a config, nothing run; the words that this process was started with are none of its business."""
    words, sys.argv = sys.argv, sys.argv[:1]
    try:
        return LitFACLI(args=config, run=False, save_config_callback=None)
    finally:
        sys.argv = words


def fit_and_record(
    config: dict | list[str], record: dict, *, observers: Sequence[L.Callback] = (), test: bool = True
) -> nn.Module:
    """Train and test one cell of a table; `callbacks.RunRecord` leaves its JSON at ``record["path"]``.

    A checkpoint is written beside the record after every epoch, and when a signal ends the run, so that it goes on
    where it stopped; it is removed when the record is there. One that cannot be read, or is of another run, is renamed,
    and the run begins afresh. A run that diverges ends here as well: that is what its record says.

    Args:
        config: a resolved LightningCLI config without subcommand: seed_everything, trainer, model, data; or the words
            of its command line.
        record: fields of the record that the table knows, and its `path`.
        observers: further callbacks.
        test: after training; without, the record is finished when training is.

    Returns:
        The trained network, as it was when the run ended or diverged.

    Raises:
        Stopped: a signal has ended the run; called again, it goes on.
    """
    if isinstance(config, dict):
        check_names(config)
        config = loggers.written_out(config, record.get("id", ""))
    try:
        with interruptions_as_stopped():
            network = guarded(lambda: _recorded(config, record, observers, test))
    finally:
        gc.collect()  # trainer and module hold each other; a worker that runs many cells would keep every dataset
    shutil.rmtree(checkpoints_of(Path(record["path"])), ignore_errors=True)
    return network


def _recorded(config: dict | list[str], record: dict, observers: Sequence[L.Callback], test: bool) -> nn.Module:
    """Go on from the cell's own checkpoint, if there is one that can be used; begin afresh if not."""
    cli = built(config)
    check_trains(cli.asked)
    loggers.attach(cli.trainer, config if isinstance(config, dict) else cli.written(), record)
    checkpoint = checkpoints_of(Path(record["path"])) / "last.ckpt"
    last = resume.own(checkpoint)
    interruption = callbacks.Interruption(lambda _: "the same command goes on", checkpoint)
    keep = ModelCheckpoint(checkpoint.parent, filename=checkpoint.stem, save_top_k=1, enable_version_counter=False)
    cli.trainer.callbacks += [*named_faults(), *observers, _run_record(cli, record, test), keep, interruption]
    hand_on_to_ranks(cli.trainer)
    try:
        cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=last, weights_only=True)
        interruption.request.check()  # a signal that came behind the last epoch
        if test:
            cli.trainer.test(cli.model, cli.datamodule, verbose=False)
    except lit_fa.modules.NonFiniteLossError as error:  # its record says so
        if cli.trainer.world_size > 1:  # the other ranks wait for this one, until it ends with an error
            raise
        logging.getLogger(__name__).warning("diverged: %s", error)
    except Exception as error:
        if not resume.restoring(cli.trainer) or cli.trainer.world_size > 1:
            raise
        resume.give_up(last, " ".join(str(error).split())[:200])
        return _recorded(config, record, observers, test)
    loggers.finish(cli.trainer)
    return cli.model.network


def _run_record(cli: LitFACLI, record: dict, test: bool) -> callbacks.RunRecord:
    """The callback that writes the record: the table's fields, the config, and where pre-trained weights come from."""
    fields = {key: value for key, value in record.items() if key != "path"} | {"config": cli.recorded()}
    fields |= {"pretrained": cli.pretrained} if cli.pretrained else {}
    return callbacks.RunRecord(path=str(record["path"]), record=fields, finish_after="test" if test else "fit")


def _predicting(argv: list[str]) -> tuple[list[str], dict]:
    """The words of `lit-fa predict` without its own options, and those; the file is tried before any work."""
    if argv[0] != "predict":
        return argv, {}
    found = {}
    for name, what in {"split": "train, val or test", "images": "a folder", "output": "a file to write"}.items():
        argv, value = _take_option(argv, f"--{name}", what)
        found |= {} if value is None else {name: value}
    if found.get("split", "test") not in ("train", "val", "test"):
        raise UserError(f"--split is train, val or test, not '{found['split']}'")
    if "split" in found and "images" in found:
        raise UserError("--split and --images exclude each other: predict a split of the data, or a folder of images")
    if not Path(found.get("images", ".")).is_dir():
        raise UserError(f"--images {found['images']} is no folder")
    if not {"-h", "--help"} & {*argv}:
        found["table"] = callbacks.PredictionTable(found.get("output", "predictions.csv"))
    return argv, found


def _take_option(argv: list[str], name: str, what: str) -> tuple[list[str], str | None]:
    """The words without `name VALUE`, and the value."""
    argv = [part for word in argv for part in (word.split("=", 1) if word.startswith(f"{name}=") else [word])]
    if name not in argv:
        return argv, None
    at = argv.index(name)
    if at + 1 == len(argv):
        raise UserError(f"{name} needs {what}")
    return argv[:at] + argv[at + 2 :], argv[at + 1]
