"""The only file that sees all packages: rules, datamodules and callbacks meet in Lightning's command line."""

import re
import shutil
from importlib import import_module
from pathlib import Path

import lightning as L
from jsonargparse import ArgumentError
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

import callbacks
import datamodules
import lit_fa.modules
import lit_fa.rules
from lit_fa.errors import UserError, nearest

# where a class named in YAML may live, and what a user calls such a thing
ROOMS = {"rule": lit_fa.rules, "data": datamodules, "model": lit_fa.modules, "callbacks": callbacks}


class LitFACLI(LightningCLI):
    """Lightning's command line, with the dataset telling the network its classes and image shape."""

    def __init__(self, **kwargs):
        """Subclasses of LightningModule and LightningDataModule are chosen in the config."""
        kwargs.setdefault("save_config_kwargs", {"overwrite": True})
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

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link what the network must know to what the data says."""
        for name in ("num_classes", "image_shape"):
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")


def main(argv: list[str]) -> None:
    """`lit-fa fit|validate|test|predict ...`."""
    _guard(lambda: LitFACLI(args=argv))


def fit_and_record(config: dict, record: dict) -> None:
    """Train and test one cell of a table; `callbacks.RunRecord` leaves its JSON at ``record["path"]``.

    A checkpoint is written beside the record after every epoch, so that a killed run goes on where it stopped; it is
    removed when the record is there.

    Args:
        config: a resolved LightningCLI config without subcommand: seed_everything, trainer, model, data.
        record: fields of the record that the table knows, and its `path`.
    """
    path = Path(record["path"])
    resume = path.parent / f".{path.stem}"
    keep = ModelCheckpoint(resume, filename="last", save_top_k=1, enable_version_counter=False)
    check_names(config)

    def run() -> None:
        cli = LitFACLI(args=config, run=False, save_config_callback=None)
        fields = {key: value for key, value in record.items() if key != "path"}
        cli.trainer.callbacks += [callbacks.RunRecord(path=str(path), record=fields), keep]
        cli.trainer.callbacks = cli.trainer._callback_connector._reorder_callbacks(cli.trainer.callbacks)
        last = resume / "last.ckpt"
        cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=last if last.is_file() else None, weights_only=False)
        cli.trainer.test(cli.model, cli.datamodule, verbose=False)

    _guard(run)
    shutil.rmtree(resume, ignore_errors=True)


def check_names(config: dict) -> None:
    """Refuse a dataset, model or rule that does not exist, with the nearest that do."""
    model = config.get("model") or {}
    chosen = {"data": config.get("data"), "model": model, "rule": (model.get("init_args") or {}).get("rule")}
    for kind, value in chosen.items():
        name = value.get("class_path") if isinstance(value, dict) else value
        if isinstance(name, str):
            _check_class(kind, name)


def _check_class(kind: str, name: str) -> None:
    room = ROOMS[kind]
    module, _, short = name.rpartition(".")
    if hasattr(room, short) and module in ("", room.__name__):
        return
    try:
        if module and hasattr(import_module(module), short):
            return
    except ImportError:
        pass
    raise UserError(f"unknown {kind} '{name}'; {nearest(short, [*room.__all__])} (in {room.__name__})")


def _guard(run) -> None:
    """Turn a parser's many lines into one that a user can act on; a user error inside keeps its own sentence."""
    try:
        run()
    except ArgumentError as error:
        raise _readable(error) from error


def _readable(error: ArgumentError) -> Exception:
    cause: BaseException | None = error
    while cause is not None:
        if getattr(cause, "user_error", False):
            return cause
        cause = cause.__cause__ or cause.__context__
    text = str(error)
    if key := re.search(r'"?(?:model\.init_args\.)?(rule|data|model)"?.*?[Ii]mport path ([\w.]+)', text, re.DOTALL):
        try:
            _check_class(key[1], key[2])
        except UserError as better:
            return better
    lines = [line.strip(" -") for line in text.splitlines() if line.strip()]
    return UserError(" ".join(lines)[:500])
