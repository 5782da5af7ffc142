"""One file a published rule. A rule is not a paper: one rule serves many papers, which live in `paper_configs`."""

from lit_fa.layers.sources import (
    AdaptiveFeedback,
    FeedbackSource,
    KolenPollackFeedback,
    RandomFeedback,
    SharedRandomFeedback,
    SignFeedback,
    SnapshotFeedback,
    WeightMirrorFeedback,
)
from lit_fa.rules.backprop import Backprop
from lit_fa.rules.base import Does, Halves, LearningRule, Progress, Surrogate, provided
from lit_fa.rules.ccl import CCL
from lit_fa.rules.comparing import ComparesClients, PrivateComparison
from lit_fa.rules.direct_feedback_alignment import DirectFeedbackAlignment
from lit_fa.rules.dll import DLL
from lit_fa.rules.ebd import EBD
from lit_fa.rules.feedback_alignment import FeedbackAlignment
from lit_fa.rules.feedback_weight_matching import FeedbackWeightMatching
from lit_fa.rules.flfa import FLFA
from lit_fa.rules.forward_forward import ForwardForward
from lit_fa.rules.local_losses import AugLocal, PredSim
from lit_fa.rules.mono_forward import MonoForward
from lit_fa.rules.pepita import PEPITA
from lit_fa.rules.rank_schedule import Hoyer, Pruning
from lit_fa.rules.svd_backprop import SVDBackprop
from lit_fa.rules.svd_space_alignment import SVDSpaceAlignment

__all__ = [
    "CCL",
    "DLL",
    "EBD",
    "FLFA",
    "PEPITA",
    "AdaptiveFeedback",
    "AugLocal",
    "Backprop",
    "ComparesClients",
    "DirectFeedbackAlignment",
    "Does",
    "FeedbackAlignment",
    "FeedbackSource",
    "FeedbackWeightMatching",
    "ForwardForward",
    "Halves",
    "Hoyer",
    "KolenPollackFeedback",
    "LearningRule",
    "MonoForward",
    "PredSim",
    "PrivateComparison",
    "Progress",
    "Pruning",
    "RandomFeedback",
    "SVDBackprop",
    "SVDSpaceAlignment",
    "SharedRandomFeedback",
    "SignFeedback",
    "SnapshotFeedback",
    "Surrogate",
    "WeightMirrorFeedback",
    "provided",
]
