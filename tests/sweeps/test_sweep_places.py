"""A study lies in its own folder, whatever that is called; trials that computed the same are named."""

import optuna
import pytest
from optuna.trial import create_trial

from lit_fa.sweeps.identical_trials import FIGURES, figures, twins
from lit_fa.sweeps.study import _placed, storage


@pytest.mark.parametrize("name", ["a?b", "a%20b", "a#b", "{x}", "a b", "it's", "ü", "a:b@c", "a&b=c"])
def test_a_study_lies_in_its_folder(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    optuna.create_study(storage=storage(folder), study_name="s")
    assert [path.name for path in folder.iterdir()] == ["study.db"]
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert optuna.load_study(storage=storage(folder), study_name="s").trials == []


@pytest.mark.parametrize("project", ["a{b}", "{folder}", "{}", "{0}", "100%"])
def test_a_project_may_have_any_name(tmp_path, project):
    assert _placed(f"--trainer.logger.project={project}", tmp_path) == f"--trainer.logger.project={project}"
    assert _placed("--trainer.logger.dir={folder}", tmp_path) == f"--trainer.logger.dir={tmp_path}"


def ended(number: int, bias: bool, record: dict):
    choice = optuna.distributions.CategoricalDistribution([True, False])
    trial = create_trial(
        value=1.0, params={"bias": bias}, distributions={"bias": choice}, user_attrs={FIGURES: figures(record)}
    )
    trial.number = number
    return trial


def test_trials_that_agree_to_the_last_digit_are_named():
    one = {"metrics": {"val/accuracy": 90.0, "train/loss": 0.125, "time/total_seconds": 1.0}}
    same = {"metrics": one["metrics"] | {"time/total_seconds": 2.0}}
    other = {"metrics": one["metrics"] | {"train/loss": 0.126}}
    (line,) = twins([ended(0, True, one), ended(1, False, same), ended(2, False, other)])
    assert line.startswith("trials 0 and 1 agree to the last digit")
    assert "bias" in line
    assert not twins([ended(0, True, one), ended(1, False, other)])
    assert not twins([ended(0, True, {}), ended(1, False, {})])
