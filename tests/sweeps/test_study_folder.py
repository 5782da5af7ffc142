"""A study lies in its own folder, whatever that is called; trials that computed the same are named."""

import errno
import os
from urllib.parse import quote

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend
from optuna.trial import create_trial
from sqlalchemy import URL

from lit_fa.errors import UserError
from lit_fa.foreign_errors import known_message
from lit_fa.spec.sweep import load_sweep
from lit_fa.sweeps.identical_trials import DIGEST, digest, identical_trials
from lit_fa.sweeps.journal import open_study, storage
from lit_fa.sweeps.study import Trials, _with_folder

NAMES = ["a?b", "a%20b", "a#b", "{x}", "a b", "it's", "ü", "a:b@c", "a&b=c"]


@pytest.mark.parametrize("name", NAMES)
def test_a_study_lies_in_its_folder(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    optuna.create_study(storage=storage(folder), study_name="s")
    assert [path.name for path in folder.iterdir()] == ["study.journal"]
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert optuna.load_study(storage=storage(folder), study_name="s").trials == []


def test_a_full_disk_is_one_line_that_names_the_journal(tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(JournalFileBackend, "append_logs", full_disk)
    with pytest.raises(OSError, match="No space") as full:
        optuna.create_study(storage=storage(tmp_path), study_name="s")
    assert known_message(full.value).startswith(f"{tmp_path / 'study.journal'}: No space left on device; ")


@pytest.mark.parametrize("name", NAMES)
def test_a_study_of_an_earlier_version_continues_in_its_sqlite_file(tmp_path, name, declared, save):
    sweep, folder = load_sweep(save(declared)), tmp_path / name
    folder.mkdir()
    url = URL.create("sqlite", database=f"file:{quote(str(folder / 'study.db'))}", query={"uri": "true"})
    old = optuna.create_study(storage=url.render_as_string(), study_name=f"{sweep.name}-{sweep.id}")
    old.add_trial(create_trial(value=0.5))
    assert [trial.value for trial in open_study(sweep, folder).trials] == [0.5]
    assert [path.name for path in folder.iterdir()] == ["study.db"]


def test_half_a_line_at_the_end_of_a_journal_is_removed_and_a_damaged_journal_is_named(declared, save, tmp_path):
    sweep = load_sweep(save(declared))
    Trials(sweep, tmp_path, count=1).close()
    journal = tmp_path / "study.journal"
    whole = journal.read_text()
    journal.write_text(whole + '{"op_code": 4, "stud')
    trials = Trials(sweep, tmp_path, count=1)
    assert '"stud\n' not in journal.read_text()
    assert journal.read_text().startswith(whole)
    assert len(trials.study.trials) == 6
    journal.write_text(f"no journal\n{whole}")
    with pytest.raises(UserError, match=r"study\.journal: is no journal of Optuna .*; move it away"):
        Trials(sweep, tmp_path, count=1)


@pytest.mark.parametrize("project", ["a{b}", "{folder}", "{}", "{0}", "100%"])
def test_a_project_may_have_any_name(tmp_path, project):
    assert _with_folder(f"--trainer.logger.project={project}", tmp_path) == f"--trainer.logger.project={project}"
    assert _with_folder("--trainer.logger.dir={folder}", tmp_path) == f"--trainer.logger.dir={tmp_path}"


def ended(number: int, bias: bool, record: dict):
    choice = optuna.distributions.CategoricalDistribution([True, False])
    trial = create_trial(
        value=1.0, params={"bias": bias}, distributions={"bias": choice}, user_attrs={DIGEST: digest(record)}
    )
    trial.number = number
    return trial


def test_trials_that_agree_to_the_last_digit_are_named():
    one = {"metrics": {"val/accuracy": 90.0, "train/loss": 0.125, "time/total_seconds": 1.0}}
    same = {"metrics": one["metrics"] | {"time/total_seconds": 2.0}}
    other = {"metrics": one["metrics"] | {"train/loss": 0.126}}
    (line,) = identical_trials([ended(0, True, one), ended(1, False, same), ended(2, False, other)])
    assert line.startswith("trials 0 and 1 agree to the last digit")
    assert "bias" in line
    assert not identical_trials([ended(0, True, one), ended(1, False, other)])
    assert not identical_trials([ended(0, True, {}), ended(1, False, {})])
