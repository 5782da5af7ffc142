"""One file a published rule. A rule is not a paper: one rule serves many papers, which live in `paper_configs`."""

from lit_fa.layers.sources import AdaptiveFeedback as AdaptiveFeedback
from lit_fa.layers.sources import FeedbackSource as FeedbackSource
from lit_fa.layers.sources import KolenPollackFeedback as KolenPollackFeedback
from lit_fa.layers.sources import RandomFeedback as RandomFeedback
from lit_fa.layers.sources import SharedRandomFeedback as SharedRandomFeedback
from lit_fa.layers.sources import SignFeedback as SignFeedback
from lit_fa.layers.sources import SnapshotFeedback as SnapshotFeedback
from lit_fa.layers.sources import WeightMirrorFeedback as WeightMirrorFeedback
from lit_fa.rules.backprop import Backprop as Backprop
from lit_fa.rules.base import Does as Does
from lit_fa.rules.base import Halves as Halves
from lit_fa.rules.base import LearningRule as LearningRule
from lit_fa.rules.base import Progress as Progress
from lit_fa.rules.base import Surrogate as Surrogate
from lit_fa.rules.base import provided as provided
from lit_fa.rules.ccl import CCL as CCL
from lit_fa.rules.comparing import ComparesClients as ComparesClients
from lit_fa.rules.comparing import PrivateComparison as PrivateComparison
from lit_fa.rules.direct_feedback_alignment import DirectFeedbackAlignment as DirectFeedbackAlignment
from lit_fa.rules.dll import DLL as DLL
from lit_fa.rules.ebd import EBD as EBD
from lit_fa.rules.feedback_alignment import FeedbackAlignment as FeedbackAlignment
from lit_fa.rules.feedback_weight_matching import FeedbackWeightMatching as FeedbackWeightMatching
from lit_fa.rules.flfa import FLFA as FLFA
from lit_fa.rules.forward_forward import ForwardForward as ForwardForward
from lit_fa.rules.local_losses import AugLocal as AugLocal
from lit_fa.rules.local_losses import PredSim as PredSim
from lit_fa.rules.mono_forward import MonoForward as MonoForward
from lit_fa.rules.pepita import PEPITA as PEPITA
from lit_fa.rules.rank_schedule import Hoyer as Hoyer
from lit_fa.rules.rank_schedule import Pruning as Pruning
from lit_fa.rules.svd_backprop import SVDBackprop as SVDBackprop
from lit_fa.rules.svd_space_alignment import SVDSpaceAlignment as SVDSpaceAlignment

__all__ = [name for name, value in vars().items() if getattr(value, "__module__", "").startswith("lit_fa.")]
