"""`lit-fa flower --config X.yaml`: a federation over Flower, on this machine or as an app for many."""

import argparse
import logging
import shlex
from pathlib import Path
from typing import Any

from lit_fa.config.arguments import Arguments, in_range, nonempty
from lit_fa.errors import UserError
from lit_fa.operating_system import needs_posix
from lit_fa.outputs import writable_file, writable_folder, write_text
from lit_fa.stopping import Stopped, exit_code


def main(argv: list[str]) -> None:
    """The command line; options that are not Flower's are the experiment's, as in `lit-fa fit`."""
    options, experiment = _parser().parse_known_args(argv)
    try:
        import flwr  # noqa: F401
    except ImportError as error:
        raise UserError("lit-fa flower needs Flower: pip install 'lit-fa[flower]'") from error
    from lit_fa.checkpoints.resume import checked
    from lit_fa.config.parser_errors import guarded
    from lit_fa.flower.experiment import resolved

    if options.json and options.app:
        raise UserError("--json beside --app: the app is only written, so there are no metrics; leave one of them out")
    if options.json:
        writable_file(options.json, "--json")
    if not options.app:
        needs_posix("lit-fa flower")
    if options.app:
        writable_folder(options.app, "--app")
    if options.ckpt_path:
        checked(options.ckpt_path)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("lit_fa").setLevel(logging.INFO)
    text, clients = guarded(lambda: resolved(experiment))
    config = {
        "experiment": text,
        "nodes": _nodes(options.nodes, clients),
        "allow-failures": options.allow_failures,
        "ckpt-path": str(Path(options.ckpt_path).resolve()) if options.ckpt_path else "",
        "patience-s": options.patience,
    }
    if options.app:
        print(f"{written(Path(options.app), config)}: flwr run {options.app} SUPERLINK --stream")
        return
    _on_this_machine(config, options.json, argv)


def written(folder: Path, config: dict[str, Any]) -> Path:
    """The app's folder: one file, which `flwr run` packs and sends to every machine."""
    from lit_fa.flower.experiment import toml

    return write_text(folder / "pyproject.toml", toml(config), "--app")


def _on_this_machine(config: dict[str, Any], json_file: str | None, argv: list[str]) -> None:
    from lit_fa.callbacks.run_record import write_json
    from lit_fa.flower.loopback import federation

    with federation(config["nodes"]) as started:
        app = started.folder / "app"
        written(app, config)
        try:
            started.submit(app)
            report = started.wait(config["allow-failures"])
        except KeyboardInterrupt as stopped:
            raise Stopped(exit_code(stopped) - 128, _resume_command(argv, started.checkpoint)) from None
    if "error" in report:
        raise UserError(report["error"]) if report["user_error"] else RuntimeError(report["error"])
    for name, value in sorted(report["metrics"].items()):
        print(f"{name}: {value:.6g}")
    if json_file:
        write_json(Path(json_file), report["metrics"])


def _resume_command(argv: list[str], checkpoint: str) -> str:
    if not checkpoint:
        return "stopped before the first checkpoint"
    argv = [part for word in argv for part in (word.split("=", 1) if word.startswith("--ckpt_path=") else [word])]
    at = argv.index("--ckpt_path") if "--ckpt_path" in argv else len(argv)
    words = ["lit-fa", "flower", *argv[:at], *argv[at + 2 :], "--ckpt_path", checkpoint]
    return f"interrupted; go on with: {shlex.join(words)}"


def _nodes(asked: str, clients: int) -> int:
    if asked == "all":
        return clients
    if not (asked.isascii() and asked.isdigit()) or not 1 <= int(asked) <= clients:
        raise UserError(f"--nodes {asked}: 1 to {clients} (the clients there are), or all: one client a node")
    return int(asked)


def _parser() -> argparse.ArgumentParser:
    parser = Arguments(
        prog="lit-fa flower", description=__doc__, allow_abbrev=False, epilog="Every other option is of `lit-fa fit`."
    )
    parser.add_argument("--nodes", default="2", help="SuperNodes that share the clients; all: one client each")
    parser.add_argument("--allow-failures", action="store_true", help="go on with the clients that answer")
    parser.add_argument(
        "--patience", type=in_range(least=0, whole=False), default=600.0, help="seconds to wait for nodes and replies"
    )
    parser.add_argument("--ckpt_path", type=nonempty, help="go on from this checkpoint")
    parser.add_argument("--json", type=nonempty, help="write the last value of every metric there")
    parser.add_argument(
        "--app", type=nonempty, help="only write the Flower app into this folder, for `flwr run` on many machines"
    )
    return parser
