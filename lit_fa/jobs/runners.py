"""What trains one config, named by its import path."""

import importlib
from collections.abc import Callable
from typing import Any

from lit_fa.errors import UserError

Runner = Callable[[dict[str, Any], dict[str, Any]], None]


def load_runner(path: str) -> Runner:
    """The function at `package.module:function`."""
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"the runner {path!r} cannot be loaded ({error}); give package.module:function") from error
