"""How a rule is installed in a network: feedback layers, stop-gradients at block boundaries, and the coverage check."""

from lit_fa.layers.coverage import Coverage, coverage, error_carrying_layers, whose
from lit_fa.layers.exact import exact_layers
from lit_fa.layers.factor_network import apply_svd
from lit_fa.layers.feedback import (
    WEIGHT_LAYERS,
    Feedback,
    FeedbackConv2d,
    FeedbackLayer,
    FeedbackLinear,
    apply_feedback_alignment,
    extend,
    feedback_layers,
    feedback_parameters,
    switch_off,
    switch_on,
    true_gradient,
)
from lit_fa.layers.graph import consumers_of
from lit_fa.layers.observing import observing
from lit_fa.layers.sources import (
    SOURCES,
    AdaptiveFeedback,
    FeedbackSource,
    KolenPollackFeedback,
    RandomFeedback,
    SharedRandomFeedback,
    SignFeedback,
    SnapshotFeedback,
    WeightMirrorFeedback,
)
from lit_fa.layers.stages import last_of_stages
from lit_fa.layers.taps import Block, Taps, find_blocks, match

__all__ = [
    "SOURCES",
    "WEIGHT_LAYERS",
    "AdaptiveFeedback",
    "Block",
    "Coverage",
    "Feedback",
    "FeedbackConv2d",
    "FeedbackLayer",
    "FeedbackLinear",
    "FeedbackSource",
    "KolenPollackFeedback",
    "RandomFeedback",
    "SharedRandomFeedback",
    "SignFeedback",
    "SnapshotFeedback",
    "Taps",
    "WeightMirrorFeedback",
    "apply_feedback_alignment",
    "apply_svd",
    "consumers_of",
    "coverage",
    "error_carrying_layers",
    "exact_layers",
    "extend",
    "feedback_layers",
    "feedback_parameters",
    "find_blocks",
    "last_of_stages",
    "match",
    "observing",
    "switch_off",
    "switch_on",
    "true_gradient",
    "whose",
]
