"""The papers' tables that an installed package carries, under the names that they have in the repository."""

from collections.abc import Sequence
from pathlib import Path

from lit_fa.errors import UserError

TABLES = Path(__file__).parent / "paper_configs"


def shipped(path: Path) -> Path:
    """`path`, or the package's file of that name if there is none here: `paper_configs/ssa/base.yaml`.

    >>> shipped(Path("paper_configs/none.yaml")).as_posix()
    'paper_configs/none.yaml'
    """
    ours = TABLES.parent / path
    return ours if path.parts[:1] == (TABLES.name,) and not path.exists() and ours.exists() else path


def with_shipped_configs(words: Sequence[str]) -> list[str]:
    """Words of a command line, in which the config files that are not here are those of the package."""
    return [_with_shipped(before, word) for before, word in zip(["", *words], words, strict=False)]


def _with_shipped(before: str, word: str) -> str:
    if before == "--config":
        return str(shipped(Path(word)))
    return f"--config={shipped(Path(word[9:]))}" if word.startswith("--config=") else word


def is_installed(path: Path) -> bool:
    """Whether a file is one that a package has installed; in the repository, its folder of tables is only a link."""
    return not TABLES.is_symlink() and path.resolve().is_relative_to(TABLES.resolve())


def check_not_installed(path: Path) -> None:
    """Refuse to write into the installed package.

    Raises:
        UserError: `path` is in it.
    """
    if is_installed(path):
        raise UserError(f"{path} is in the installed package, which is not written to; give another folder with --out")
