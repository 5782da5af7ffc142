"""lit-fa: learning without backpropagation on PyTorch Lightning.

A learning rule builds one scalar whose ordinary autograd gradient is the update that the paper prescribes; everything
else is Lightning.

>>> import lit_fa
>>> lit_fa.FeedbackAlignment(layers=["0", "2"]).layers
['0', '2']

`__init__.pyi` lists the public names and their modules, for editors and for this file. A name is imported when it is
first used, so that `import lit_fa` and the tables need no torch.
"""

import ast
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from lit_fa.import_paths import install as _find_our_packages

_find_our_packages()
_STUB = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
_IMPORTS = [node for node in _STUB.body if isinstance(node, ast.ImportFrom)]
_HOMES = {alias.name: str(node.module) for node in _IMPORTS for alias in node.names}
__all__ = [*sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return metadata.version("lit-fa")
    if name not in _HOMES:
        raise AttributeError(f"module 'lit_fa' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
