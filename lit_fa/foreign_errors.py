"""The table of errors of other packages that a user can correct, each as one line that names the remedy.

An entry is recognised by the class of the exception, by the file that raised it (a part of its path) and by the
message. An error that matches no entry is a fault of a program and keeps its traceback.
"""

import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lit_fa.outputs import FULL, space_left


@dataclass(frozen=True)
class Known:
    """One entry of the table.

    Attributes:
        kinds: names of exception classes; subclasses match as well.
        line: the message: a text in which `\\1` is the first group of `pattern`, or a function of the error.
        where: pattern in the path of the file that raised it.
        pattern: regular expression that the original message must match; "" matches every message.
    """

    kinds: tuple[str, ...]
    line: str | Callable[[BaseException], str]
    where: str = ""
    pattern: str = ""


def known_message(error: BaseException) -> str | None:
    """The message for an error of another package; None if it is not in the table."""
    names = {kind.__name__ for kind in type(error).__mro__}
    frames = traceback.extract_tb(error.__traceback__)
    where = Path(frames[-1].filename).as_posix() if frames else ""
    for known in KNOWN:
        match = re.search(known.pattern, str(error), re.DOTALL)
        if match and names & {*known.kinds} and re.search(known.where, where):
            line = match.expand(known.line) if isinstance(known.line, str) else known.line(error)
            return " ".join(line.split())
    return None


def _as_it_is(error: BaseException) -> str:
    return str(error)


def _of_another_network(error: BaseException) -> str:
    """The first differences of a state dict; their names show whether network or rule differs."""
    text = str(error)
    shapes = re.findall(r"size mismatch for ([\w./]+): copying a param with shape torch\.Size\((.*?)\)"
                        r".*?torch\.Size\((.*?)\)", text)  # fmt: skip
    if shapes:
        name, there, here = shapes[0]
        return f"the weights are of another network: {name} has shape {there} there and {here} here; {_SAME}"
    absent = re.findall(r'"([^"]+)"', text.partition("Missing key(s)")[2].partition("Unexpected key(s)")[0])
    more = re.findall(r'"([^"]+)"', text.partition("Unexpected key(s)")[2])
    rules = all("feedback" in name or ".rule." in name or name.startswith("rule.") for name in absent + more)
    differences = [f"without {absent[0]}"] if absent else []
    differences += [f"with {more[0]}, which this run has not"] if more else []
    whose = "another rule or other options of it" if rules else "another network"
    return f"the weights are of {whose}: {' and '.join(differences) or 'they do not fit'}; {_SAME}"


def _file(error: BaseException) -> str:
    if not isinstance(error, OSError):  # its entries name kinds of OSError
        return str(error)
    name = error.filename or "a file"
    if error.errno in FULL:
        return f"{name}: {error.strerror}; {space_left(error)}"
    return f"{name}: {error.strerror}; name one that can be read or written"


_SAME = "give the config that the checkpoint was trained with"
_LIGHTNING = r"/lightning/(?:pytorch|fabric)/(?:trainer|accelerators|strategies|plugins|connector|utilities|loops|call)"
TOO_LARGE = "more memory is asked for than there is: lower the sizes of the network, the batch or the data"
NO_MEMORY = (
    r"can't allocate memory|not enough memory|Unable to allocate|[Ss]torage size calculation overflow|"
    r"numel: integer multiplication overflow|cannot fit 'int' into an index-sized|Overflow when unpacking long|"
    r"Python int too large to convert to C|array is too big|Maximum allowed dimension exceeded"
)
_MIGRATION = r"/lightning/pytorch/utilities/migration/"
_TORCH_OPTIM = r"/torch/optim/"
KNOWN = (
    Known(("RuntimeError",), _of_another_network, pattern=r"Error\(s\) in loading state_dict"),
    Known(
        ("ValueError",),
        r"the scheduler has \2 steps and the run takes more (step \1): "
        "set its total_steps, or epochs and steps_per_epoch, to the run's",
        _TORCH_OPTIM,
        r"Tried to step (\d+) times. The (?:specified )?(?:total )?number of (?:total )?steps is (\d+)",
    ),
    Known(("ValueError", "RuntimeError"), r"optimizer or scheduler: \1", _TORCH_OPTIM, r"(.*)"),
    Known(("MisconfigurationException",), _as_it_is),
    Known(("ValueError", "TypeError", "FileNotFoundError"), _as_it_is, _LIGHTNING, "."),
    Known(
        ("KeyError", "TypeError", "AttributeError", "IndexError"),
        r"the checkpoint is of another version of Lightning and cannot be migrated: it has no \1; give another one",
        _MIGRATION,
        r"(.*)",
    ),
    Known(("UsageError", "CommError"), r"W&B: \1; correct it, or take --logger csv", r"/wandb/", r"(.*)"),
    Known(
        ("OperationalError", "DatabaseError"),
        r"the study's database: \1; is the folder writable, and the file study.db whole?",
        r"/sqlalchemy/",
        r"(?:\(sqlite3\.\w+\) )?([^\n]*)",
    ),
    Known(("OutOfMemoryError",), "the device's memory is full: lower the batch size, or raise `accumulate`"),
    Known(
        ("RuntimeError", "MemoryError", "OverflowError", "ValueError", "TypeError"),
        TOO_LARGE,
        pattern=NO_MEMORY,
    ),
    Known(("MemoryError",), TOO_LARGE),
    Known(("RecursionError",), "something is nested too deeply: write it flatter"),
    Known(("PermissionError", "NotADirectoryError", "IsADirectoryError", "FileExistsError"), _file),
    Known(("OSError",), _file, pattern=r"No space left|Read-only|quota exceeded|name too long|File too large"),
    Known(
        ("FileNotFoundError",),
        "no folder for temporary files can be written: set TMPDIR to a folder with space",
        pattern="No usable temporary directory",
    ),
    Known(("UnicodeEncodeError",), "the locale has not all characters of a text: set PYTHONUTF8=1", pattern="'ascii'"),
)  # fmt: skip
