"""The LightningModules that apply the rules."""

from lit_fa.modules.classifier import Classifier
from lit_fa.modules.finite import NonFiniteLossError
from lit_fa.modules.learner import Learner

__all__ = ["Classifier", "Learner", "NonFiniteLossError"]
