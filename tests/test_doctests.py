"""What the docstrings show is so."""

import doctest
import importlib
import pkgutil

import pytest

import lit_fa.federated
import lit_fa.functional
import lit_fa.layers
import lit_fa.modules
import lit_fa.rules

PACKAGES = (lit_fa.federated, lit_fa.functional, lit_fa.layers, lit_fa.rules, lit_fa.modules)
MODULES = [
    *("lit_fa", "lit_fa.config.arguments", "lit_fa.described", "lit_fa.errors", "lit_fa.experiment"),
    "lit_fa.federated",
    *(m.name for p in PACKAGES for m in pkgutil.iter_modules(p.__path__, p.__name__ + ".")),
]
SHOWN = [name for name in MODULES if doctest.DocTestFinder().find(importlib.import_module(name), globs={})]


@pytest.mark.parametrize("name", SHOWN)
def test_examples_in_docstrings_hold(name: str):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_the_packages_have_examples():
    tests = [t for name in SHOWN for t in doctest.DocTestFinder().find(importlib.import_module(name))]
    assert sum(len(t.examples) > 0 for t in tests) >= 4
