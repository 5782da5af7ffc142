"""`lit-fa forecast`: table, file and picture."""

import json
from pathlib import Path

import pytest

from lit_fa.__main__ import main


def test_the_table_says_that_it_is_a_forecast_and_has_every_doubling(capsys: pytest.CaptureFixture[str]):
    assert main(["forecast"]) == 0
    said = capsys.readouterr().out
    assert "Forecast by a model, not measured" in said
    assert [f" {2**i} " in said for i in range(1, 11)] == [True] * 10


def test_the_file_has_the_rows_and_the_setting(tmp_path: Path):
    assert main(["forecast", "--stages", "4", "16", "--latency", "0.5", "--json", str(tmp_path / "f.json")]) == 0
    stored = json.loads((tmp_path / "f.json").read_text())
    assert stored["forecast"] is True
    assert stored["setting"]["latency"] == 0.5
    assert [row["stages"] for row in stored["rows"]] == [4, 16]
    assert stored["rows"][0]["drtp"] > stored["rows"][0]["dfa_sync"] > stored["rows"][0]["zero_bubble"]


def test_the_picture_is_written(tmp_path: Path):
    assert main(["forecast", "--stages", "2", "8", "--figure", str(tmp_path / "f.svg")]) == 0
    assert "not measured" in (tmp_path / "f.svg").read_text() or (tmp_path / "f.svg").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--stages", "0"], "from 1 to"),
        (["--latency", "-1"], "from 0 on"),
        (["--figure", "a.gif"], "ends in none of .png"),
        (["--forward", "0", "--weights", "0"], "has no forecast"),
    ],
)
def test_bad_options_are_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    assert main(["forecast", *words]) == 2
    assert said in capsys.readouterr().err
