"""`lit-fa doctor`: what this machine has, what is missing, and the command that mends it.

Exit codes: 0 if lit-fa can run here, 1 if a package that it needs is missing or of another version, or if a folder that
it writes to cannot be written.
"""

import argparse
import json
import os
import platform
import shlex
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from importlib.util import find_spec
from netrc import NetrcParseError, netrc
from pathlib import Path

from packaging.requirements import Requirement
from rich.console import Console

from lit_fa.config.arguments import Arguments
from lit_fa.errors import UserError
from lit_fa.importing import collector_off
from lit_fa.jobs.progress import say
from lit_fa.outputs import check_folder, writable_file, write_text
from lit_fa.provenance import ROOT, our_code

LITTLE = 5.0  # GiB; with less space a download or a checkpoint may not fit
_W_AND_B = "api.wandb.ai"


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        about: what it is about.
        state: `ok`; `note`: something optional is missing; `bad`: lit-fa cannot work so.
        text: what was found.
        remedy: a command or a setting, "" if nothing is needed.
    """

    about: str
    state: str
    text: str
    remedy: str = ""


def main(argv: Sequence[str]) -> int:
    """Runs `lit-fa doctor <argv>` and returns the exit code."""
    arguments = _parser().parse_args(argv)
    if arguments.json not in (None, "-"):
        writable_file(arguments.json, "--json")
    findings = [finding for look in LOOKS for finding in look()]
    bad = any(finding.state == "bad" for finding in findings)
    if arguments.json:
        text = json.dumps({"ok": not bad, "findings": [asdict(finding) for finding in findings]}, indent=1) + "\n"
        sys.stdout.write(text) if arguments.json == "-" else write_text(Path(arguments.json), text, "--json")
    else:
        _print(findings, Console(highlight=False, emoji=False))
    return int(bad)


def _parser() -> argparse.ArgumentParser:
    parser = Arguments(prog="lit-fa doctor", description="What this machine has, and what is missing.")
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="as JSON, printed or into FILE")
    return parser


def _print(findings: Sequence[Finding], output: Console) -> None:
    width = max(len(finding.about) for finding in findings)
    for finding in findings:
        mark = {"ok": "    ", "note": "note", "bad": "BAD "}[finding.state]
        remedy = f"; {finding.remedy}" if finding.remedy else ""
        say(output, f"{mark} {finding.about:{width}}  {finding.text}{remedy}")
    bad = sum(finding.state == "bad" for finding in findings)
    say(output, f"{bad} to be mended" if bad else "lit-fa can run here")


def code() -> Iterator[Finding]:
    """The version of lit-fa, and the state of its code in git."""
    own = _version("lit-fa") or "not installed, imported from a checkout"
    state = our_code()
    git = "no git checkout" if state.commit == "unknown" else f"commit {state.commit[:8]}"
    yield Finding("lit-fa", "ok", f"{own}, in {ROOT}")
    if state.dirty:
        note = "records of table runs go to scratch and do not count"
        yield Finding("git", "note", f"{git}, with uncommitted changes: {note}", "commit, or give --allow-dirty")
    else:
        yield Finding("git", "ok", git)


def packages() -> Iterator[Finding]:
    """Python, and the packages that lit-fa needs."""
    yield Finding("Python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    needed = [requirement for requirement in requirements() if not requirement.marker]
    wrong = [requirement for requirement in needed if not _is_met(requirement)]
    for requirement in wrong:
        found = _version(requirement.name) or "missing"
        yield Finding(requirement.name, "bad", f"{found}, needed {requirement.specifier}", _pip([requirement]))
    shown = ("torch", "lightning", "torchvision", "timm", "numpy")
    yield Finding("packages", "ok", ", ".join(f"{name} {_version(name) or 'missing'}" for name in shown))


def extras() -> Iterator[Finding]:
    """The optional packages of each extra."""
    by_extra: dict[str, list[Requirement]] = {}
    for requirement in requirements():
        for name in _extras_of(requirement):
            by_extra.setdefault(name, []).append(requirement)
    for name, wanted in by_extra.items():
        missing = [requirement for requirement in wanted if not _is_met(requirement)]
        if missing:
            absent = ", ".join(requirement.name for requirement in missing)
            yield Finding(f"extra {name}", "note", f"without {absent}", _pip(missing))
        else:
            yield Finding(f"extra {name}", "ok", "installed")


def devices() -> Iterator[Finding]:
    """Processor, threads and graphics cards."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if not find_spec("torch"):
        yield Finding("device", "bad", "unknown without torch")
        return
    with collector_off():
        import torch
    set_to = os.environ.get("OMP_NUM_THREADS")
    yield Finding("threads", "ok", f"{torch.get_num_threads()} of {cores} cores, OMP_NUM_THREADS {set_to or 'not set'}")
    cards = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    for number, card in enumerate(cards):
        yield Finding(f"device cuda:{number}", "ok", f"{card.name}, {card.total_memory / 2**30:.0f} GiB")
    if not cards:
        mps = torch.backends.mps.is_available()
        built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built for CPUs"
        yield Finding("device", "ok", f"cpu{' and mps' if mps else ''}; no CUDA device ({built})")


def disks() -> Iterator[Finding]:
    """Folders that are written to, and the space on their disks."""
    from lit_fa.datamodules.data_root import cache_root, data_root

    folders = {"current folder": Path.cwd(), "data root": data_root(None), "cache": cache_root()}
    for name, folder in (folders | {"temporary files": Path(tempfile.gettempdir())}).items():
        there = next((place for place in (folder.absolute(), *folder.absolute().parents) if place.exists()), Path("/"))
        free = shutil.disk_usage(there).free / 2**30
        text = f"{folder}, {free:.1f} GiB free" + ("" if folder.exists() else ", will be made")
        try:
            check_folder(folder, "")
        except UserError as error:
            needed = "note" if name in ("data root", "current folder") else "bad"
            yield Finding(name, needed, str(error))
            continue
        remedy = {"data root": "set LIT_FA_DATA", "cache": "set LIT_FA_CACHE", "temporary files": "set TMPDIR"}
        little = free < LITTLE
        yield Finding(name, "note" if little else "ok", text, remedy.get(name, "") if little else "")


def data() -> Iterator[Finding]:
    """Data sets in the data root."""
    from lit_fa.datamodules.data_root import data_root

    root = data_root(None)
    there = [name for name, patterns in DATA_SETS.items() if any(any(root.glob(pattern)) for pattern in patterns)]
    medical = sorted({path.stem.partition("_")[0] for path in root.glob("medmnist/*.npz")})
    tasks = sorted(path.name for path in root.glob("GLUE/*") if path.is_dir())
    there += [f"MedMNIST ({', '.join(medical)})"] if medical else []
    there += [f"GLUE ({', '.join(tasks)})"] if tasks else []
    set_by = "LIT_FA_DATA" if os.environ.get("LIT_FA_DATA") else "set LIT_FA_DATA to a folder that has some"
    text = f"Digits and Synthetic need no files; {root}: {', '.join(there) or 'nothing'}"
    yield Finding("data sets", "ok", text, "" if there or set_by == "LIT_FA_DATA" else set_by)


def keys() -> Iterator[Finding]:
    """Whether W&B has a key; the key itself is neither shown nor sent."""
    if os.environ.get("WANDB_API_KEY"):
        yield Finding("W&B key", "ok", "present, in WANDB_API_KEY")
    elif _in_netrc():
        yield Finding("W&B key", "ok", "present, in the netrc file")
    else:
        yield Finding("W&B key", "ok", "none: runs of --logger wandb are stored offline", "wandb login")


def _in_netrc() -> bool:
    server = os.environ.get("WANDB_BASE_URL", f"https://{_W_AND_B}").partition("://")[2].split("/")[0]
    try:
        return netrc(os.environ.get("NETRC")).authenticators(server) is not None
    except (OSError, NetrcParseError):
        return False


def requirements() -> list[Requirement]:
    """What lit-fa needs, as its checkout says, or else as it was installed; extras have markers."""
    pyproject = ROOT / "pyproject.toml"
    if pyproject.is_file():
        project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
        optional = project.get("optional-dependencies", {})
        lines = [f'{line} ; extra == "{extra}"' for extra, lines in optional.items() for line in lines]
        return [Requirement(line) for line in [*project["dependencies"], *lines]]
    try:
        return [Requirement(line) for line in distribution("lit-fa").requires or []]
    except PackageNotFoundError:
        return []


def _extras_of(requirement: Requirement) -> list[str]:
    """The extras that ask for a package, from its marker `extra == "text"`."""
    words = shlex.split(str(requirement.marker or ""))
    return [words[i + 2] for i, word in enumerate(words) if word == "extra"]


def _is_met(requirement: Requirement) -> bool:
    found = _version(requirement.name)
    return found is not None and requirement.specifier.contains(found, prereleases=True)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _pip(wanted: Sequence[Requirement]) -> str:
    return f"pip install {' '.join(shlex.quote(f'{each.name}{each.specifier}') for each in wanted)}"


# data set to patterns of files in the data root
DATA_SETS = {
    **{name: (f"{name}/raw/*images*",) for name in ("MNIST", "FashionMNIST", "KMNIST")},
    "EMNIST": ("EMNIST/raw/*",),
    "CIFAR10": ("cifar-10-batches-py/data_batch_1",),
    "CIFAR100": ("cifar-100-python/train",),
    "SVHN": ("train_32x32.mat",),
    "STL10": ("stl10_binary/train_X.bin",),
    "Imagenette": ("imagenette2*/train",),
}
LOOKS: tuple[Callable[[], Iterator[Finding]], ...] = (code, packages, devices, disks, data, keys, extras)
