"""lit-fa: learning without backpropagation on PyTorch Lightning.

A learning rule builds one scalar whose ordinary autograd gradient is the update that the paper prescribes; everything
else is Lightning. The names below are imported on first use, so that rendering a table does not import torch.
"""

from importlib import import_module

_HOMES = {
    "Backprop": "lit_fa.rules",
    "FeedbackAlignment": "lit_fa.rules",
    "DirectFeedbackAlignment": "lit_fa.rules",
    "ForwardForward": "lit_fa.rules",
    "PredSim": "lit_fa.rules",
    "AugLocal": "lit_fa.rules",
    "LearningRule": "lit_fa.rules",
    "Surrogate": "lit_fa.rules",
    "Learner": "lit_fa.modules",
    "Classifier": "lit_fa.modules",
    "create_network": "lit_fa.networks",
    "true_gradient": "lit_fa.layers",
    "FederatedClassifier": "lit_fa.modules",
    "load": "lit_fa.checkpoints.loading",
    "UserError": "lit_fa.errors",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'lit_fa' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
