"""Every public name says what it takes, returns and raises, with shapes and units, and where it comes from."""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
from torch import nn

from docs.site.options import accepted, describer, inherited, names, own_text, plain
from docs.site.reference import full_names, named, packages, reference_pages
from lit_fa.federated import FederatedAlgorithm
from lit_fa.rules import FeedbackSource, LearningRule

PUBLIC = {name: named(name) for _, _, listed in packages() for name in listed}
CLASSES = {name: value for name, value in PUBLIC.items() if inspect.isclass(value)}
FUNCTIONS = {name: value for name, value in PUBLIC.items() if name not in CLASSES}
FORMULAS = {name: value for name, value in FUNCTIONS.items() if name.startswith("lit_fa.functional.")}
PARAMETER = re.compile(r"^ {4}((?:\**\w+, )*\**\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)
SIZE = r"(?:\.\.\.|\*|\*?[a-z0-9]{1,7}'?(?: (?:of )?[*+/-]? ?[a-z0-9]{1,6})*)"
WORDS = r"scalar|(?:\w+ ){0,3}shape|as (?:in |of )?`|as many entries"
SHAPE = re.compile(rf"\({SIZE}(?:, {SIZE})*,?\)|{WORDS}", re.IGNORECASE)
SOURCE = re.compile(r"\d{4}\.\d{4,5}|doi:|[A-Z]\w+(?: et al\.| (?:&|and) \w+)?,?\s+\(?(?:19|20)\d\d")
TEXTBOOK = {"criteria": "the usual losses"}
BASES = (LearningRule, FeedbackSource, FederatedAlgorithm)
HELPERS = {"require": "DataError", "one_of": "DataError", "check_literals": "UserError"}  # they raise for their caller
UNITS = {
    r"\bangles?\b": "degrees",
    r"^ {4}.*\baccurac": "percent",
    r"(?:wall|elapsed|remaining|processor) time|\bduration|\btimeout": "seconds|h:mm:ss",
    r"^ {4}\w*every\w*:": "steps|epochs|rounds|see `",
    r"^ {4}(?:re)?size:": r"pixels|\(h, w\)",
    r"^ {4}\w*memory\w*:": "bytes|MiB",
}


def parameters(function: Any) -> list[inspect.Parameter]:
    return [*inspect.signature(function).parameters.values()]


def text(value: Any) -> str:
    return own_text(value) if inspect.isclass(value) else inspect.getdoc(value) or ""


def own_functions() -> Iterator[tuple[str, Any, str]]:
    """The functions, constructors and public methods, each with the docstrings that speak for it."""
    yield from ((name, value, text(value)) for name, value in FUNCTIONS.items())
    for name, kind in CLASSES.items():
        bases = [base for base in kind.__mro__ if id(base) in full_names()]
        for method, found in vars(kind).items():
            function = inspect.unwrap(getattr(found, "fget", None) or getattr(found, "__func__", found))
            if inspect.isfunction(function) and method in ("__init__", "__post_init__"):
                yield f"{name}.{method}", function, "\n".join(map(own_text, bases))
            elif inspect.isfunction(function) and not method.startswith("_"):
                yield f"{name}.{method}", function, f"{inspect.getdoc(function)}\n{own_text(kind)}"


def raised(function: Any) -> set[str]:
    """The error classes in a function's own `raise` statements; an abstract method's is none of them."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except OSError:  # the constructor that a dataclass writes
        return set()
    errors = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc is not None]
    called = [e.func.id for e in ast.walk(tree) if isinstance(e, ast.Call) and isinstance(e.func, ast.Name)]
    found = [ast.unparse(e.func if isinstance(e, ast.Call) else e).removesuffix(".of") for e in errors]
    kinds = {kind for kind in found if kind.endswith("Error")} | {HELPERS[name] for name in called if name in HELPERS}
    return kinds - {"NotImplementedError"}


def lists(doc: str, error: str) -> bool:
    sections = re.findall(r"^Raises:\n((?: {4}.*\n?|\n)+)", doc, re.MULTILINE)
    return any(re.search(rf"^ {{4}}{error}:", section, re.MULTILINE) for section in sections)


def is_tensor(parameter: inspect.Parameter) -> bool:
    annotation = str(parameter.annotation)
    return re.search("Tensor|Factors", annotation) is not None and "Callable" not in annotation


def test_every_name_has_a_docstring():
    assert [name for name, value in PUBLIC.items() if not text(value)] == []


def test_every_parameter_of_a_function_is_named():
    missing = {n: [p for p in plain(parameters(f)) if not names(text(f), p)] for n, f in FUNCTIONS.items()}
    assert {name: lacking for name, lacking in missing.items() if lacking} == {}


def test_the_names_of_an_entry_are_on_one_line():
    """Sphinx reads a list of names that wraps as no entry, and `make docs` fails."""
    wrapped = {}
    for name, value in PUBLIC.items():
        args = re.search(r"^Args:\n((?: {4}.*\n?|\n)+)", text(value), re.MULTILINE)
        lines = re.findall(r"^ {4}\S.*", args[1], re.MULTILINE) if args else []
        wrapped |= {name: lacking} if (lacking := [line for line in lines if not PARAMETER.match(line)]) else {}
    assert wrapped == {}


def test_every_option_of_a_class_is_described_by_a_class_of_the_reference():
    missing = {
        name: [option for option in accepted(kind) if id(describer(kind, option)) not in full_names()]
        for name, kind in CLASSES.items()
    }
    assert {name: lacking for name, lacking in missing.items() if lacking} == {}


def test_no_parameter_is_described_that_does_not_exist():
    wrong = {}
    for name, value in PUBLIC.items():
        args = re.search(r"^Args:\n((?: {4}.*\n?|\n)+)", text(value), re.MULTILINE)
        entries = PARAMETER.findall(args[1]) if args else []
        described = {word.strip("*") for entry, _ in entries for word in entry.split(", ")}
        own = accepted(value) if inspect.isclass(value) else []
        known = {*own, *(p.name for p in parameters(value.__init__ if inspect.isclass(value) else value))}
        wrong |= {name: described - known} if described - known else {}
    assert wrong == {}


def test_every_error_is_listed():
    missing = [f"{n}: {error}" for n, f, doc in own_functions() for error in raised(f) if not lists(doc, error)]
    assert sorted(missing) == []


@pytest.mark.parametrize("name", FORMULAS)
def test_every_tensor_of_a_formula_has_a_shape(name: str):
    doc = text(FORMULAS[name])
    entries = {word: entry for listed, entry in PARAMETER.findall(doc) for word in listed.split(", ")}
    tensors = [p.name for p in parameters(FORMULAS[name]) if is_tensor(p)]
    shaped = {p: SHAPE.search(entries.get(p, "")) or re.search(rf"\b{p}`?,? (?:{SHAPE.pattern})", doc) for p in tensors}
    assert [p for p in tensors if not shaped[p]] == []
    returned = str(inspect.signature(FORMULAS[name]).return_annotation)
    assert "Tensor" not in returned or SHAPE.search(PARAMETER.sub("", doc))


def test_every_quantity_has_a_unit():
    missing = []
    for name, value in PUBLIC.items():
        for quantity, unit in UNITS.items():
            if re.search(quantity, text(value), re.MULTILINE) and not re.search(unit, text(value)):
                missing.append(f"{name}: {unit} of {quantity}")
    assert missing == []


def test_every_module_of_formulas_names_its_source():
    homes = sorted({name.rpartition(".")[0] for name in FORMULAS})
    silent = [home for home in homes if not SOURCE.search(import_module(home).__doc__ or "")]
    assert {home.rpartition(".")[2] for home in silent} == {*TEXTBOOK}


def test_every_rule_source_and_algorithm_names_its_paper():
    kinds = {name: kind for name, kind in CLASSES.items() if issubclass(kind, BASES) and kind not in BASES}
    assert [name for name, k in kinds.items() if not SOURCE.search(f"{text(k)} {getattr(k, 'paper', '')}")] == []


def test_a_page_shows_the_options_that_a_base_class_describes():
    blocks = "\n".join(reference_pages().values()).split(".. autoclass:: ")
    shown = {block.split("\n")[0]: block for block in blocks}
    assert "``batch_size``" in shown["lit_fa.datamodules.MNIST"]
    for name, kind in CLASSES.items():
        for base, options in inherited(kind).items():
            link = f"Options of :py:class:`{base.__name__} <{full_names()[id(base)]}>`: "
            assert link + ", ".join(f"``{option}``" for option in options) in shown[name]


def test_a_page_of_formulas_shows_the_letters_of_each_module():
    page = reference_pages()["reference/lit_fa.functional.md"]
    assert "## lit_fa.functional.similarity\n\nThe similarity matrix" in page
    assert "Letters: n batch, f features" in page
    assert r"$-\Vert g_i[j]\Vert ^2$" in page  # a bar would end the cell of the table


class Base:
    """A class.

    Args:
        size: of it.
    """

    def __init__(self, size: int = 0, place: str = "", **options: int):
        self.size, self.place, self.options = size, place, options


class Derived(Base):
    """Another class. A place is not described by a word of prose."""

    def __init__(self, colour: str = "", **options: Any):
        super().__init__(**options)
        self.colour = colour


def test_an_option_is_described_by_an_entry_and_not_by_a_word(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("docs.site.options.OURS", (__name__.partition(".")[0],))
    assert accepted(Derived) == ["colour", "size", "place"]
    assert [describer(Derived, option) for option in accepted(Derived)] == [None, Base, None]
    assert inherited(Derived) == {Base: ["size"]}
    assert (names("Args:\n    a, b: (n, c).", "b"), names("The cosine of a vector", "a")) == (True, False)


def test_options_of_a_class_of_torch_are_torchs():
    assert accepted(nn.Linear) == []
