"""The harness that kills runs: its attacks come from a seed, and it notices what is lost, doubled or changed."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from benchmarks.chaos import attack
from benchmarks.chaos.__main__ import _done, _kinds
from benchmarks.chaos.disk import DISKS
from benchmarks.chaos.process import Command
from benchmarks.chaos.summary import markdown, origin
from benchmarks.chaos.work import KINDS, REPORT, VOLATILE, VOLATILE_FACTS, _record, _reports
from lit_fa.spec.expand import expand
from lit_fa.spec.sweep import load_sweep
from lit_fa.spec.table import load_table

ATTACK = attack.Attack(0, "fit", "SIGKILL", "parent", 0.5)


def test_attacks_come_from_the_seed_and_more_of_them_begin_with_the_same():
    kinds = [*KINDS]
    assert attack.drawn(3, 40, kinds)[:20] == attack.drawn(3, 20, kinds)
    assert attack.drawn(3, 20, kinds) != attack.drawn(4, 20, kinds)
    drawn = attack.drawn(0, 300, kinds)
    assert {a.means for a in drawn} == {*attack.WEIGHTS}
    assert {a.target for a in drawn if a.kind in ("fit", "federated")} == {"group", "parent", "disk"}
    assert {a.target for a in drawn if a.kind == "table"} == {"group", "parent", "worker", "disk"}


def test_a_kind_that_is_not_there_yet_is_said_and_left_out(capsys):
    assert _kinds("table,other,fit") == ["table", "fit"]
    assert "unknown kind 'other' is left out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("left", "found"),
    [
        ({"a": {"x": 1}, "b": {"x": 2}}, ([], [], [])),
        ({"a": {"x": 1}}, (["b"], [], [])),
        ({"a": {"x": 1}, "b": {"unreadable": "JSONDecodeError"}}, (["b"], [], [])),
        ({"a": {"x": 1}, "b": {"x": 2}, "c": {"x": 2}}, ([], ["c"], [])),
        ({"a": {"x": 1}, "b": {"x": 2.0000001}}, ([], [], ["b"])),
    ],
)
def test_what_is_lost_doubled_or_changed_is_noticed(left, found):
    outcome = attack.Outcome(ATTACK)
    attack._compare(outcome, left, {"a": {"x": 1}, "b": {"x": 2}})
    assert (outcome.lost, outcome.doubled, outcome.differing) == found


def test_only_the_named_fields_of_a_record_may_differ(tmp_path):
    record = {"metrics": {"a": 1}, "curves": {}, "config": {}, "status": "finished", **dict.fromkeys(VOLATILE, 1)}
    (tmp_path / "r.json").write_text(json.dumps(record), encoding="utf-8")
    assert {*_record(tmp_path / "r.json")} == {"metrics", "curves", "config", "status"}


@pytest.mark.parametrize("form", ["* {}, all runs: 3 s", "<div><dt>{}</dt><dd>3 s</dd></div>", "{}: 3 s"])
def test_only_the_named_facts_of_a_report_may_differ(tmp_path, form):
    facts = [form.format(name) for name in VOLATILE_FACTS]
    (tmp_path / REPORT).mkdir()
    (tmp_path / REPORT / "a.md").write_text("\n".join(["| FA | 84.17 |", *facts, "* scale: smoke"]), encoding="utf-8")
    (tmp_path / REPORT / "b.html").write_text(
        '<a href="data:,FA%0A%2A%20wall%20time%3A%203%20s%0Aend">', encoding="utf-8"
    )
    (tmp_path / REPORT / "c.png").write_bytes(b"\x89PNG")
    found = _reports(tmp_path)
    assert found["report/a.md"] == ["| FA | 84.17 |", "* scale: smoke"]
    assert found["report/b.html"] == ['<a href="data:,FA', 'end">']
    assert len(found["report/c.png"]) == 32


def test_outcomes_are_counted_by_kind_and_those_that_came_too_late_are_not():
    made = {"date": "2026-11-28T12:00:00+00:00", "commit": "0123456789", "start": "fork"}
    fine, lost = attack.Outcome(ATTACK, survived=True), attack.Outcome(ATTACK, survived=True, lost=["a"])
    outcomes = [found.plain() | made for found in (fine, lost, attack.Outcome(ATTACK, late=True))]
    rows = {
        line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ")[1:] for line in markdown(outcomes).splitlines()
    }
    assert rows["fit"] == ["2", "0", "0", "0", "0", "0", "2", "2", "1", "0", "0", "0"]
    assert rows["all"] == rows["fit"]
    assert rows["table"] == ["0"] * 12
    assert origin(outcomes) == "2026-11-28; commits 0123456; 3 with --start fork"


@pytest.mark.parametrize(("means", "fault"), [("disk full", "disk@save"), ("disk read-only", "readonly@save")])
def test_a_disk_that_cannot_be_mounted_fails_by_the_named_fault(tmp_path, monkeypatch, means, fault):
    started = []

    class Quiet:
        rc = 0

        def __init__(self, words, *_, environment=None, **__):
            started.append((words[0], environment))

        wait = output = family = end = lambda self, *_: ""

    monkeypatch.setattr(attack, "Command", Quiet)
    monkeypatch.setattr(attack, "can_mount", lambda folder: False)
    found = attack.attacked(attack.Attack(0, "fit", means, "disk", 0.5), tmp_path / "a", {}, 1.0, fork=False)
    assert not found.late
    assert started[0] == ("fit", {"LIT_FA_FAULT": fault})
    assert started[1] == ("fit", None)
    assert {*DISKS} == {"disk full", "disk read-only"}


def test_what_was_done_is_not_done_again_and_a_half_written_line_is(tmp_path):
    lines = [json.dumps(attack.Outcome(ATTACK).plain()), '{"attack": {"number": 1']
    (tmp_path / "done.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert [*_done(tmp_path)] == [0]


def test_a_forked_command_is_a_session_of_its_own_whose_end_and_words_are_known(tmp_path, monkeypatch):
    monkeypatch.setattr("lit_fa.__main__.main", lambda words: print(words, os.getsid(0)) or signal.pause())
    sys.stdout.flush()
    command = Command(["a", "b"], tmp_path, tmp_path / "log", "x", fork=True)
    while "]" not in command.output():
        assert not command.wait(0.05)
    assert command.output().split() == ["['a',", "'b']", str(command.pid)]
    os.killpg(command.pid, signal.SIGTERM)
    assert command.wait(10)
    assert command.rc == -signal.SIGTERM


def test_the_files_of_a_table_and_of_a_sweep_are_what_the_commands_read(tmp_path: Path, monkeypatch):
    for kind in ("table", "sweep"):
        (tmp_path / kind).mkdir()
        KINDS[kind].write(tmp_path / kind)
    table = load_table(tmp_path / "table" / "table1.yaml")
    assert len(expand(table, table.scale("smoke"))) == 3
    monkeypatch.chdir(tmp_path / "sweep")
    assert load_sweep("sweep.yaml").metric.name


def test_every_kind_says_how_it_goes_on(tmp_path: Path):
    KINDS["fit"].write(tmp_path)
    assert KINDS["fit"].words(tmp_path) == ["fit", "--config", "run.yaml", "--json", "out/metrics.json"]
    (tmp_path / "out" / "kept").mkdir(parents=True)
    (tmp_path / "out" / "kept" / "last.ckpt").touch()
    assert KINDS["fit"].words(tmp_path)[5:] == ["--ckpt_path", "out/kept/last.ckpt"]
    for name, kind in KINDS.items():
        assert kind.words(tmp_path)[0] in ("fit", "table", "sweep"), name
