"""Removing a callback changes no result, bit for bit; and a stopped run goes on as if it had not stopped."""

import json
from itertools import product
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from lit_fa.callbacks import (
    AlignmentAudit,
    AlignmentDominance,
    ConservationPotential,
    DeployedCost,
    FactorSpectrum,
    Figures,
    GradientAlignment,
    MeasurementError,
    RunRecord,
    TrainingCost,
    TrainingScore,
    WeightAlignment,
)
from lit_fa.rules import (
    AugLocal,
    Backprop,
    DirectFeedbackAlignment,
    FeedbackAlignment,
    PredSim,
    Pruning,
    SignFeedback,
    SVDSpaceAlignment,
)
from tests.callbacks.training import fit, norm_net, task
from tests.grids import slow_unless

RULES = {
    "backprop": Backprop,
    "fa": FeedbackAlignment,
    "redrawn": lambda: FeedbackAlignment(SignFeedback(variant="brsf")),
    "kolen_pollack": lambda: FeedbackAlignment("kolen_pollack"),
    "dfa": DirectFeedbackAlignment,
    "predsim": PredSim,
    "auglocal": AugLocal,
    "ssa": lambda: SVDSpaceAlignment(pruning=Pruning(0.8, every=1, after=0.0, floor=2)),
    "ssa_sequential": lambda: SVDSpaceAlignment("sequential"),
}


def callbacks(folder, every):
    return {
        "weight": WeightAlignment(every),
        "gradient": GradientAlignment(every),
        "conservation": ConservationPotential(every_n_steps=every),
        "dominance": AlignmentDominance(every),
        "audit": AlignmentAudit(every),
        "full": AlignmentDominance(full=True),
        "record": RunRecord(str(folder / "record.json")),
        "figures": Figures(str(folder)),
        "spectrum": FactorSpectrum(every),
        "cost": TrainingCost(every),
        "score": TrainingScore(20, every),
        "deployed": DeployedCost(batch=4, rounds=1, every_n_steps=every),
    }


def weights(rule, observers):
    torch.manual_seed(7)
    _, module = fit(norm_net(), rule(), observers, epochs=1)
    return {name: t.clone() for name, t in module.state_dict().items()} | {"random": torch.get_rng_state()}


@pytest.mark.filterwarnings("ignore:conservation")
@pytest.mark.parametrize(
    ("rule", "every"),
    slow_unless(
        lambda rule, every: (every == 1 and rule in ("redrawn", "dfa", "ssa", "predsim")) or rule == "fa",
        product(RULES, [0, 1]),
    ),
)
def test_all_callbacks_together_change_no_bit_under_batch_norm_and_dropout(rule, every, tmp_path):
    together = callbacks(tmp_path, every)
    del together["full"]  # Lightning takes one callback of a class
    alone, observed = weights(RULES[rule], []), weights(RULES[rule], [*together.values()])
    assert [key for key in alone if not torch.equal(alone[key], observed[key])] == []


@pytest.fixture(scope="module")
def unobserved():
    return weights(RULES["redrawn"], [])


@pytest.mark.parametrize("name", callbacks(Path(), 1))
def test_no_callback_changes_a_bit_by_itself(name, unobserved, tmp_path):
    observed = weights(RULES["redrawn"], [callbacks(tmp_path, 1)[name]])
    assert [key for key in unobserved if not torch.equal(unobserved[key], observed[key])] == []


@pytest.mark.parametrize("every", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_a_resumed_run_has_the_curves_of_one_that_never_stopped(tmp_path, every):
    def train(folder, **options):
        observers = [
            c for name, c in callbacks(folder, every).items() if name not in ("full", "deployed")
        ]  # times never recur
        torch.manual_seed(7)
        saved = ModelCheckpoint(folder, filename="{step}", save_top_k=-1)
        x, y = task()
        batches = list(zip(x.split(16), y.split(16), strict=True))
        fit(norm_net(), FeedbackAlignment(), [*observers, saved], epochs=4, batches=batches, **options)
        return next(c for c in observers if isinstance(c, RunRecord))

    whole = train(tmp_path / "whole")
    resumed = train(tmp_path / "resumed", ckpt_path=tmp_path / "whole" / "step=6.ckpt")
    assert json.dumps(resumed.curves.points) == json.dumps(whole.curves.points)  # as text: nan is not nan
    assert {"train/loss_epoch", "val/accuracy", "conserve/drift", "align/delta/1"} <= whole.curves.points.keys()
    assert resumed.wall_time() > 0
    assert resumed.started == whole.started


def test_step_measurements_reach_the_logger_at_their_own_step(tmp_path):
    logger = CSVLogger(tmp_path)
    fit(norm_net(), FeedbackAlignment(), [WeightAlignment(every_n_steps=2)], logger=logger)
    rows = [line.split(",") for line in (tmp_path / "lightning_logs/version_0/metrics.csv").read_text().splitlines()]
    key, step = rows[0].index("align/weight/overall"), rows[0].index("step")
    assert [int(row[step]) for row in rows[1:] if row[key]] == [0, 2, 4, 6]


def test_epoch_measurements_can_be_monitored(tmp_path):
    best = ModelCheckpoint(tmp_path, monitor="align/weight/overall")
    fit(norm_net(), FeedbackAlignment(), [WeightAlignment(), best])
    assert best.best_model_score is not None


@pytest.mark.parametrize("wrong", [lambda: WeightAlignment(-1), lambda: GradientAlignment(batch=1)])
def test_numbers_that_make_no_sense_are_refused_in_one_line(wrong):
    with pytest.raises(MeasurementError, match=r"not -?1"):
        wrong()
