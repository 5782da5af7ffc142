"""A view of runs that is updated until all are done."""

import time
from collections.abc import Callable

from rich.console import Console, RenderableType
from rich.live import Live

from lit_fa.stopping import exit_code

Look = Callable[[], tuple[RenderableType, int]]


def watch(look: Look, output: Console, every: float) -> int:
    """Show the view of `look` until no run is left; only once if the output is no terminal.

    Args:
        look: returns the view and how many runs are left.
        output: where to show it.
        every: seconds between two updates.

    Returns:
        0, or 128 + the number of the signal that ended it, 130 for Ctrl-C; the runs continue.
    """
    view, left = look()
    if not output.is_terminal:
        output.print(view)
        return 0
    try:
        with Live(view, console=output, auto_refresh=False) as live:
            while left:
                time.sleep(every)
                view, left = look()
                live.update(view, refresh=True)
    except KeyboardInterrupt as stopped:
        return exit_code(stopped)
    return 0
