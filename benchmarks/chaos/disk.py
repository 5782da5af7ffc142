"""The disk of an attacked command's outputs, a small tmpfs that can be filled or made read-only, if permitted."""

import subprocess
import time
from contextlib import suppress
from pathlib import Path

FAULTS = {"disk full": "disk@save", "disk read-only": "readonly@save"}  # injected if a tmpfs cannot be mounted
DISKS = (*FAULTS,)
_MIB = 24


class Disk:
    """A small tmpfs in an attack's folder.

    Args:
        place: the folder of its outputs; it is created.
        means: the attack, one of `DISKS`; None: nothing is mounted.
    """

    def __init__(self, place: Path, means: str | None):
        """See the class."""
        self.place, self.means = place, means

    def __enter__(self) -> "Disk | None":
        """Mount it; None if there is nothing to mount."""
        if self.means is None:
            return None
        self.place.mkdir()
        _mount("-t", "tmpfs", "-o", f"size={_MIB}m", "tmpfs", str(self.place))
        return self

    def strike(self) -> bool:
        """Fill it, or make it read-only once no file is open for writing; returns whether this succeeded."""
        if self.means == "disk full":
            with suppress(OSError), (self.place / ".filler").open("wb") as file:
                while True:
                    file.write(b"\0" * 65536)
                    file.flush()
            return True
        for _ in range(200):
            with suppress(subprocess.CalledProcessError):
                _mount("-o", "remount,ro", str(self.place))
                return True
            time.sleep(0.02)
        return False

    def mend(self) -> None:
        """Undo the attack."""
        if self.means == "disk full":
            (self.place / ".filler").unlink(missing_ok=True)
        else:
            _mount("-o", "remount,rw", str(self.place))

    def __exit__(self, *_: object) -> None:
        """Unmount it."""
        if self.means is not None:
            subprocess.run(["umount", "-l", str(self.place)], check=False, capture_output=True)


def can_mount(folder: Path) -> bool:
    """Whether this user may mount a tmpfs."""
    place = folder / "mounted"
    place.mkdir(parents=True, exist_ok=True)
    try:
        _mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place))
    except (OSError, subprocess.CalledProcessError):
        return False
    subprocess.run(["umount", str(place)], check=False, capture_output=True)
    return True


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True, capture_output=True)
