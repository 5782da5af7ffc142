"""Measurements during training. Callbacks only observe: results are the same, bit for bit, without them."""

from callbacks.alignment_audit import AlignmentAudit
from callbacks.best_validation import BestValidation
from callbacks.client_drift import ClientDrift
from callbacks.conservation import ConservationPotential
from callbacks.continued_logs import ContinuedLogs
from callbacks.curves import Curves, Recorder, publish
from callbacks.deployed_cost import DeployedCost
from callbacks.dominance import AlignmentDominance
from callbacks.drift_bound import ClientDriftBound
from callbacks.error_bound import ErrorBound
from callbacks.errors import MeasurementError
from callbacks.factor_spectrum import FactorSpectrum
from callbacks.feedback_images import FeedbackImages
from callbacks.figures import Figures
from callbacks.file_loggers import ResumableCSVLogger, ResumableTensorBoardLogger
from callbacks.goodness_histogram import GoodnessHistogram
from callbacks.gradient_alignment import GradientAlignment
from callbacks.interruption import Interruption
from callbacks.line_progress import LineProgress
from callbacks.minimum_norm import MinimumNorm
from callbacks.prediction_table import PredictionTable
from callbacks.probe import Periodic, Probe
from callbacks.round_cost import RoundCost
from callbacks.round_progress import RoundProgress
from callbacks.run_record import RunRecord
from callbacks.samples import samples_of
from callbacks.trackio_logger import ResumableTrackioLogger
from callbacks.training_cost import TrainingCost
from callbacks.training_score import TrainingScore
from callbacks.wandb_logger import ResumableWandbLogger
from callbacks.wandb_run import WandbRun
from callbacks.weight_alignment import WeightAlignment

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
