"""Measurements during training. Callbacks only observe: results are the same, bit for bit, without them."""

from lit_fa.callbacks.alignment_audit import AlignmentAudit
from lit_fa.callbacks.best_validation import BestValidation
from lit_fa.callbacks.client_drift import ClientDrift
from lit_fa.callbacks.conservation import ConservationPotential
from lit_fa.callbacks.continued_logs import ContinuedLogs
from lit_fa.callbacks.curves import Curves, Recorder, publish
from lit_fa.callbacks.deployed_cost import DeployedCost
from lit_fa.callbacks.dominance import AlignmentDominance
from lit_fa.callbacks.drift_bound import ClientDriftBound
from lit_fa.callbacks.error_bound import ErrorBound
from lit_fa.callbacks.errors import MeasurementError
from lit_fa.callbacks.factor_spectrum import FactorSpectrum
from lit_fa.callbacks.feedback_images import FeedbackImages
from lit_fa.callbacks.figures import Figures
from lit_fa.callbacks.file_loggers import ResumableCSVLogger, ResumableTensorBoardLogger
from lit_fa.callbacks.goodness_histogram import GoodnessHistogram
from lit_fa.callbacks.gradient_alignment import GradientAlignment
from lit_fa.callbacks.interruption import Interruption
from lit_fa.callbacks.line_progress import LineProgress
from lit_fa.callbacks.minimum_norm import MinimumNorm
from lit_fa.callbacks.prediction_table import PredictionTable
from lit_fa.callbacks.probe import Periodic, Probe
from lit_fa.callbacks.round_cost import RoundCost
from lit_fa.callbacks.round_progress import RoundProgress
from lit_fa.callbacks.run_record import RunRecord
from lit_fa.callbacks.samples import samples_of
from lit_fa.callbacks.trackio_logger import ResumableTrackioLogger
from lit_fa.callbacks.training_cost import TrainingCost
from lit_fa.callbacks.training_score import TrainingScore
from lit_fa.callbacks.wandb_logger import ResumableWandbLogger
from lit_fa.callbacks.wandb_run import WandbRun
from lit_fa.callbacks.weight_alignment import WeightAlignment

__all__ = [
    "AlignmentAudit",
    "AlignmentDominance",
    "BestValidation",
    "ClientDrift",
    "ClientDriftBound",
    "ConservationPotential",
    "ContinuedLogs",
    "Curves",
    "DeployedCost",
    "ErrorBound",
    "FactorSpectrum",
    "FeedbackImages",
    "Figures",
    "GoodnessHistogram",
    "GradientAlignment",
    "Interruption",
    "LineProgress",
    "MeasurementError",
    "MinimumNorm",
    "Periodic",
    "PredictionTable",
    "Probe",
    "Recorder",
    "ResumableCSVLogger",
    "ResumableTensorBoardLogger",
    "ResumableTrackioLogger",
    "ResumableWandbLogger",
    "RoundCost",
    "RoundProgress",
    "RunRecord",
    "TrainingCost",
    "TrainingScore",
    "WandbRun",
    "WeightAlignment",
    "publish",
    "samples_of",
]
