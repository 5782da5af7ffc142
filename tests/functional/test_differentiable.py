"""Functions with a backward pass of their own do not compute the signature of `forward` at every call."""

import importlib
import inspect
import pkgutil

import torch

import lit_fa.functional
import lit_fa.layers
from lit_fa.functional.credit import error_link


def functions() -> list[type]:
    """The functions of the package whose calls bind arguments to `forward`."""
    for package in (lit_fa.functional, lit_fa.layers):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    found, waiting = [], [torch.autograd.Function]
    while waiting:
        waiting += (below := waiting.pop().__subclasses__())
        found += [c for c in below if c.__module__.startswith("lit_fa.") and "forward" in vars(c)]
    return sorted((c for c in found if "setup_context" in vars(c)), key=lambda c: c.__qualname__)


def test_the_signature_of_every_function_is_stored():
    assert len(functions()) >= 6
    for function in functions():
        assert inspect.signature(function.forward) is function.forward.__signature__, function


def test_a_call_computes_no_signature(monkeypatch):
    monkeypatch.setattr(inspect, "_signature_from_function", lambda *_, **__: 1 / 0)
    h = torch.zeros(1, 2, requires_grad=True)
    assert torch.autograd.grad(error_link(h, torch.ones(3, 2)).sum(), h)[0].tolist() == [[3.0, 3.0]]
