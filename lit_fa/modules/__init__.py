"""The LightningModules that apply the rules."""

from lit_fa.modules.classifier import Classifier
from lit_fa.modules.evaluated import EvaluatedClassifier
from lit_fa.modules.federated_classifier import FederatedClassifier
from lit_fa.modules.finite import NonFiniteLossError
from lit_fa.modules.warm_up import HeadProbe
from lit_fa.rules.learner import Learner

__all__ = ["Classifier", "EvaluatedClassifier", "FederatedClassifier", "HeadProbe", "Learner", "NonFiniteLossError"]
