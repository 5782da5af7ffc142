"""Options of a few words are `Literal`: parser and constructor refuse other words."""

import inspect
from collections.abc import Callable

import pytest

from lit_fa import rules
from lit_fa.errors import UserError, literals
from lit_fa.federated import LocalSchedule
from lit_fa.layers.sources import SOURCES
from lit_fa.modules import Classifier, FederatedClassifier, HeadProbe
from lit_fa.networks import parts, resnet_cifar, resnet_wide

# text that is no choice of a few words: patterns, names of networks, criteria and sources, paths
FREE = {"network", "criterion", "weights", "source", "layers"}
CLASSES = [
    *SOURCES.values(),
    *(kind for _, kind in inspect.getmembers(rules, inspect.isclass) if issubclass(kind, rules.LearningRule)),
    *(rules.Pruning, HeadProbe, LocalSchedule, Classifier, FederatedClassifier),
]
OPTIONS = [
    (kind, name, *literals(parameter.annotation))
    for kind in CLASSES
    for name, parameter in inspect.signature(kind).parameters.items()
]
CHOICES = [(kind, name) for kind, name, valid, _ in OPTIONS if valid]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_no_option_of_a_few_words_is_annotated_as_any_text(kind: type):
    assert {name for owner, name, _, rest in OPTIONS if owner is kind and str in rest} <= FREE


@pytest.mark.parametrize(("kind", "name"), CHOICES, ids=lambda part: getattr(part, "__name__", part))
def test_a_constructor_refuses_a_word_that_its_option_does_not_have(kind: Callable, name: str):
    more = {"network": "mlp"} if kind in (Classifier, FederatedClassifier) else {}
    with pytest.raises(UserError, match=rf"{name} is (one of )?.*, not 'wrong'"):
        kind(**{name: "wrong"}, **more)


def test_a_word_nearly_right_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="loss is one of threshold, symba, margin, not 'treshold'; nearest: threshold"):
        rules.ForwardForward(loss="treshold")


def test_a_users_subclass_is_checked_by_the_class_that_has_the_option():
    class Mine(rules.ForwardForward):
        def __init__(self):
            super().__init__(goodness="medium")

    with pytest.raises(UserError, match="goodness is one of mean, sum, not 'medium'"):
        Mine()


@pytest.mark.parametrize(
    ("annotation", "table"),
    [
        (parts.Activation, parts.ACTIVATIONS),
        (parts.Init, parts.INITS),
        (resnet_cifar.Shortcut, resnet_cifar.SHORTCUTS),
        (resnet_wide.Norm, resnet_wide.NORMS),
    ],
)
def test_the_words_of_a_network_are_those_of_its_table(annotation: object, table: dict):
    assert literals(annotation)[0] == [*table]
