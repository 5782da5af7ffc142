"""Ranks that one process has started end with one line if one of them is lost, also if nobody waits for it."""

import os
import signal
from types import SimpleNamespace

import pytest

from lit_fa.modules import started_ranks


class Left(Exception):
    """The process would have ended."""


class Rank:
    """A started rank with an exit code; None: it runs."""

    def __init__(self, code: int | None):
        self.code, self.killed = code, False

    def poll(self) -> int | None:
        return self.code

    def kill(self) -> None:
        self.killed = True


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch):
    def leave(code: int) -> None:
        raise Left(code)

    monkeypatch.setattr(started_ranks, "CHECK_S", 0.0)
    monkeypatch.setattr(started_ranks, "GRACE_S", 0.0)
    monkeypatch.setattr(os, "_exit", leave)


@pytest.mark.parametrize(("code", "ours"), [(-signal.SIGKILL, 2), (1, 2), (143, 143), (130, 130)])
def test_a_failed_rank_ends_all_with_one_line(code: int, ours: int, capsys: pytest.CaptureFixture):
    ranks, over = [Rank(None), Rank(code)], []
    with pytest.raises(Left, match=f"^{ours}$"):
        started_ranks.leave_after(ranks, lambda: over.append(True))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"lit-fa: another rank of this run is gone: rank 2 has ended with exit code {code};")
    assert over
    assert ranks[0].killed


@pytest.mark.parametrize("ranks", [[], [Rank(0), Rank(0)]], ids=["not observed any more", "ended well"])
def test_ranks_that_end_well_end_nothing(ranks: list[Rank]):
    started_ranks.leave_after(ranks, lambda: pytest.fail("no rank was lost"))


def test_a_rank_ends_with_the_process_that_started_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    parents = iter([7, 7, 1])
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    with pytest.raises(Left, match="2"):
        started_ranks.leave_with(7)
    assert "another rank of this run is gone: rank 0 has ended;" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("started_by", "local_rank", "watches"), [("7", "1", True), ("8", "1", False), ("7", "0", False)]
)
def test_only_a_rank_that_was_started_by_its_parent_watches_it(
    started_by: str, local_rank: str, watches: bool, monkeypatch: pytest.MonkeyPatch
):
    started = []
    monkeypatch.setattr(os, "getppid", lambda: 7)
    monkeypatch.setattr(started_ranks, "_start", lambda function, *_: started.append(function))
    monkeypatch.setenv(started_ranks.STARTED_BY, started_by)
    monkeypatch.setenv("LOCAL_RANK", local_rank)
    started_ranks.observe(SimpleNamespace(strategy=SimpleNamespace(launcher=None)))
    assert (started == [started_ranks.leave_with]) == watches
