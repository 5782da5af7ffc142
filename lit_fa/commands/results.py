"""`lit-fa results import | export`: records of other people, one file for each submission."""

from collections.abc import Sequence
from pathlib import Path

from lit_fa.config.arguments import Arguments, nonempty
from lit_fa.errors import UserError
from lit_fa.outputs import check_folder, writable_file
from lit_fa.results.frames import read
from lit_fa.results.imported import FOLDER, export_submission, import_submission, load_submission


def main(argv: Sequence[str]) -> int:
    """Runs `lit-fa results <argv>` and returns the exit code."""
    arguments = _parser().parse_args(argv)
    if arguments.command == "import":
        check_folder(arguments.into, "--into")
        for file in arguments.files:
            load_submission(file)  # all are checked before one is copied
        for file in arguments.files:
            print(import_submission(file, arguments.into))
        return 0
    writable_file(arguments.to, "--to")
    records, problems = read(arguments.paths)
    if problems or not records:
        raise UserError(problems[0] if problems else "no record is there; give records or folders of them")
    export_submission(records, arguments.submission, arguments.author, arguments.to)
    print(f"{len(records)} records in {arguments.to}")
    return 0


def _parser() -> Arguments:
    parser = Arguments(prog="lit-fa results", description="Records of other people, kept apart from ours.")
    commands = parser.add_subparsers(dest="command", required=True)
    taken = commands.add_parser("import", help="check submissions and keep them for the atlas")
    taken.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a JSON file that `results export` wrote")
    taken.add_argument("--into", type=Path, default=Path("paper_configs") / FOLDER, help="the folder of submissions")
    given = commands.add_parser("export", help="write own records as one submission")
    given.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="records or folders of them")
    given.add_argument("--submission", required=True, type=nonempty, metavar="NAME", help="its name")
    given.add_argument("--from", dest="author", required=True, type=nonempty, metavar="WHO", help="group or person")
    given.add_argument("--to", required=True, type=Path, metavar="FILE", help="the file to write")
    return parser
