"""Rows of a Trackio run, without Trackio; `tests/cli/test_resumed_logs.py` has a run with it."""

import sys
from types import SimpleNamespace

import pytest

from lit_fa.callbacks import MeasurementError, ResumableTrackioLogger


class Run:
    def __init__(self, store: "Store", name: str, options: dict):
        self.store, self.name, self.options, self.rows = store, name, options, []

    def log(self, row: dict, step: int | None) -> None:
        if len(self.rows) == self.store.fails_at:
            raise RuntimeError("database is locked\nfor good")
        self.rows.append((step, row))

    def delete(self) -> None:
        del self.store.known[self.name]

    def rename(self, name: str) -> None:
        self.store.known[name] = self.store.known.pop(self.name)
        self.name = name

    def finish(self) -> None:
        print("* many lines")


class Store:
    """As much of the package as the logger calls."""

    def __init__(self) -> None:
        self.known: dict[str, Run] = {}
        self.fails_at = -1
        self.context_vars = SimpleNamespace(current_run=SimpleNamespace(set=lambda _: None))

    def init(self, project: str, name: str, **options: object) -> Run:
        self.known[name] = Run(self, name, options)
        return self.known[name]

    def Api(self) -> SimpleNamespace:
        def runs(project: str) -> list[Run]:
            if not self.known:
                raise ValueError("no such project")
            return [*self.known.values()]

        return SimpleNamespace(runs=runs)


@pytest.fixture
def store(monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", store := Store())
    return store


def logged(count: int = 2, **state: object) -> ResumableTrackioLogger:
    logger = ResumableTrackioLogger()
    logger.identify("abc", {"lr": 0.1, "_own": 1}, group="table", job_type="FA, 8", name="FA, 8, seed 0", tags=["FA"])
    if state:
        logger.continue_run(**state)
    for number in range(len(logger.rows), len(logger.rows) + count):
        logger.log_metrics({"train/loss": float(number)}, step=number)
    return logger


def test_a_run_has_name_group_config_and_its_rows(store, capsys):
    logged().finish()
    run = store.known["FA, 8, seed 0 (abc)"]
    assert run.rows == [(0, {"train/loss": 0.0}), (1, {"train/loss": 1.0})]
    assert (run.options["group"], run.options["config"]["lr"], run.options["config"]["job_type"]) == (
        "table",
        0.1,
        "FA, 8",
    )
    assert "_own" not in run.options["config"]
    assert capsys.readouterr().out == ""


def test_a_resumed_run_replaces_what_it_had_written(store):
    state = logged(2).state([({"train/loss": 2.0}, 2)])
    logged(1, **state)
    (run,) = store.known.values()
    assert [step for step, _ in run.rows] == [0, 1, 2, 3]


def test_an_earlier_run_of_the_config_is_renamed(store):
    for _ in range(3):
        logged(1).finish()
    name = "FA, 8, seed 0 (abc)"
    assert sorted(store.known) == [name, f"{name} replaced 1", f"{name} replaced 2"]


def test_measured_rows_have_their_own_step(store):
    logger = logged(0)
    logger.log_metrics({"align/weight/head": 80.0}, step=7)
    logger.add({"final": 1.0})
    (run,) = store.known.values()
    assert run.rows == [(7, {"align/weight/head": 80.0}), (None, {"final": 1.0})]


def test_an_error_in_mid_run_is_one_line_and_checkpoints_have_the_rows(store):
    store.fails_at = 1
    with pytest.warns(UserWarning, match=r"Trackio has failed \(database is locked\); training goes on"):
        logger = logged(3)
    assert len(logger.state([])["rows"]) == 3
    logger.finish()


def test_without_the_package_it_is_one_line_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(MeasurementError, match=r"^the logger trackio needs a package: pip install trackio$"):
        ResumableTrackioLogger()


def test_a_server_is_refused(store, monkeypatch):
    monkeypatch.setenv("TRACKIO_SPACE_ID", "me/runs")
    with pytest.raises(MeasurementError, match="TRACKIO_SPACE_ID is set"):
        ResumableTrackioLogger()
