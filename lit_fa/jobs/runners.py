"""Functions named by their import path: what trains one config, or logs a table."""

import importlib
from collections.abc import Callable
from typing import Any

from lit_fa.errors import UserError
from lit_fa.importing import collector_off


def load_runner(path: str) -> Callable[..., Any]:
    """The function at `package.module:function`."""
    module, _, name = path.partition(":")
    try:
        with collector_off():
            return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"the runner {path!r} cannot be loaded ({error}); give package.module:function") from error
