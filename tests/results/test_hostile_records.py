"""One bad record never ends a command: it is named in one line and left out, and the rest stands."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lit_fa.bounded_reading import LARGEST, bounded, read_json
from lit_fa.commands.runs import main as runs
from lit_fa.commands.table import main
from lit_fa.results.records import collect
from lit_fa.spec.table import load_table

Spoil = Callable[[Path], None]


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def as_link(target: str) -> Spoil:
    def spoil(path: Path) -> None:
        path.unlink()
        path.symlink_to(target)

    return spoil


def as_bytes(data: bytes) -> Spoil:
    return lambda path: path.write_bytes(data)


def as_huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(LARGEST + 1)


def with_fields(**fields: object) -> Spoil:
    return lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def with_text(before: str, after: str) -> Spoil:
    def spoil(path: Path) -> None:
        text = path.read_text()
        assert before in text
        path.write_text(text.replace(before, after))

    return spoil


def nested(depth: int) -> list:
    inner: list = []
    for _ in range(depth):
        inner = [inner]
    return inner


# what is at the place of a record, and what is said of it
LEFT_OUT: dict[str, tuple[Spoil, str]] = {
    "folder": (as_folder, "it is a folder"),
    "pipe": (as_pipe, "it is no regular file"),
    "link to /dev/zero": (as_link("/dev/zero"), "it is no regular file"),
    "link to nothing": (as_link("nowhere"), "no such file"),
    "link to itself": (as_link("loop"), ""),
    "65 MiB": (as_huge, "more than 64 MiB"),
    "nested 200,000 deep": (as_bytes(b"[" * 200_000 + b"]" * 200_000), "too deep"),
    "nested 900 deep": (with_fields(config={"a": nested(900)}), "too deep"),
    "UTF-16": (as_bytes('{"status": "finished"}'.encode("utf-16")), "not UTF-8"),
    "NUL bytes": (as_bytes(b"\0" * 100), "not JSON"),
    "5000 digits": (with_fields(metrics={"test/accuracy": 1}, wall_time_s=2), ""),
    "surrogate": (with_text("a cpu", "\\ud800"), "surrogate"),
    "surrogate in a key": (with_text("test/loss", "test/\\udfff"), "surrogate"),
    "10^400": (with_fields(metrics={"test/accuracy": 10**400}), "not numbers"),
    "10^400 in a curve": (with_fields(curves={"a": [[0, 0, 10**400]]}), "not numbers"),
    "step of 10^400": (with_fields(curves={"a": [[10**400, 0, 1.0]]}), "not numbers"),
    "step of nan": (with_fields(curves={"a": [[float("nan"), 0, 1.0]]}), "not numbers"),
    "metrics a list": (with_fields(metrics=[1]), "not numbers"),
    "curve a mapping": (with_fields(curves={"a": {"b": 1}}), "not numbers"),
    "memory text": (with_fields(hardware={"memory_gib": "x"}), "hardware.memory_gib cannot be read"),
    "threads a list": (with_fields(hardware={"threads": [1]}), "hardware.threads cannot be read"),
    "cpu a number": (with_fields(hardware={"cpu": 5}), "hardware.cpu cannot be read"),
    "hardware a list": (with_fields(hardware=[1]), "hardware cannot be read"),
    "broken a number": (with_fields(broken=5), "broken cannot be read"),
    "broken of numbers": (with_fields(broken=[5]), "broken cannot be read"),
    "versions a list": (with_fields(versions=["torch"]), "versions cannot be read"),
    "version a number": (with_fields(versions={"torch": 2}), "versions cannot be read"),
    "outside of numbers": (with_fields(outside={"a": 1}), "outside cannot be read"),
    "resumed from a number": (with_fields(resumed_from=5), "resumed_from cannot be read"),
    "pretrained a list": (with_fields(pretrained=[1]), "pretrained cannot be read"),
    "pretrained commit a number": (with_fields(pretrained={"commit": 5}), "pretrained.commit cannot be read"),
    "commit a number": (with_fields(commit=5), "commit cannot be read"),
    "dirty text": (with_fields(dirty="yes"), "dirty cannot be read"),
    "time infinite": (with_fields(wall_time_s=float("inf")), "wall_time_s cannot be read"),
    "time of 10^400": (with_fields(cpu_time_s=10**400), "cpu_time_s cannot be read"),
    "memory below zero": (with_fields(peak_memory_mib=-1), "peak_memory_mib cannot be read"),
    "diverged a list": (with_fields(status="diverged", diverged=[1]), "diverged cannot be read"),
    "diverged at a word": (with_fields(status="diverged", diverged={"step": "x"}), "diverged.step cannot be read"),
    "seed a mapping": (with_fields(seed={"a": 1}), "another run"),
    "id a list": (with_fields(id=["a"]), "another run"),
    "status a mapping": (with_fields(status={"a": ["finished"]}), "status is"),
    "no record": (as_bytes(b"[1, 2]"), "not a run record"),
    "text": (as_bytes(b'"finished"'), "not a run record"),
}
LEFT_OUT["5000 digits"] = (with_text('"wall_time_s": 2.0', f'"wall_time_s": {"9" * 5000}'), "4300")
LEFT_OUT["link to itself"] = (lambda path: (path.unlink(), path.symlink_to(path.name)), "symbolic links")
COUNTED: dict[str, Spoil] = {
    "1e308": with_fields(metrics={"test/accuracy": 1e308}, curves={"conserve/normalised": [[0, 0, -1.7e308]]}),
    "outside of odd names": with_fields(outside={"a": " 1.0, x 2", "b": f"{'n' * 300} sha256 0", "c": "\0 sha256 1"}),
    "commit an option": with_fields(commit="--output=made", resumed_from=["\0", "-"], pretrained={"commit": "../x"}),
    "partition of odd things": with_fields(partition=[[10**400, "x"], []]),
    "text of another line": with_fields(
        hardware={"cpu": "a\n<!-- table:table1:end -->\n\x1b[2J"}, executed_by={"a": []}
    ),
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_a_bad_record_is_named_in_one_line_and_left_out(declared, save, fill, name):
    path = save(declared)
    bad, *_ = fill(path, "full")
    spoil, said = LEFT_OUT[name]
    spoil(bad)
    table = load_table(path)
    found = collect(table, table.scale("full"), bad.parent)
    (line,) = found.problems
    assert line.startswith(f"{bad.name}: ")
    assert said in line
    assert len(line.splitlines()) == 1
    assert (len(found.all), len(found.missing)) == (5, 1)


@pytest.fixture
def all_bad(declared, save, fill, tmp_path, monkeypatch) -> tuple[Path, list[Path]]:
    """A table of one cell with a bad record for every seed but the last ones, which are whole; and the bad records."""
    monkeypatch.chdir(tmp_path)
    many = {**LEFT_OUT, **{name: (spoil, "") for name, spoil in COUNTED.items()}}
    declared["cells"] = declared["cells"][:1]
    declared["seeds"] = list(range(len(many) + 2))
    declared["figures"] = [
        {"file": "law.png", "y": "conserve/normalised"},
        {"file": "b.svg", "kind": "bars", "y": "test/accuracy", "x": "row", "lines": "column"},
    ]
    path = save(declared)
    files = {int(file.name.split("seed")[1].split("__")[0]): file for file in fill(path, "full")}
    for seed, (spoil, _) in enumerate(many.values()):
        spoil(files[seed])
    return path, [files[seed] for seed in range(len(LEFT_OUT))]


def test_every_command_goes_on_past_every_bad_record(all_bad, capsys, tmp_path):
    path, bad = all_bad
    begin, end = "<!-- table:table1:begin -->", "<!-- table:table1:end -->"
    (tmp_path / "README.md").write_text(f"# By hand\n\n{begin}\n{end}\nAfter.\n")
    counted = len(COUNTED) + 2
    assert main(["report", str(path), "--scale", "full", "--write", "pages", "--json", "report.json"]) == 0
    printed = capsys.readouterr().out
    assert all(f"skipped {file.name}: " in printed for file in bad)
    assert f"{counted} of {counted + len(bad)} runs finished" in printed
    first = (tmp_path / "README.md").read_text()
    assert first.endswith(f"\n{end}\nAfter.\n")
    assert main(["report", str(path), "--scale", "full"]) == 0
    assert (tmp_path / "README.md").read_text() == first
    page = (tmp_path / "pages" / "conservation.html").read_text()
    assert all(file.name in page for file in bad)
    for words in (["list", "."], ["watch", str(path)], ["run", str(path), "--scale", "full", "--dry-run"]):
        assert main(words) == 0
    assert capsys.readouterr().out.count("would run") == len(bad)


def test_runs_lists_what_is_whole_and_names_the_rest(all_bad, capsys):
    path, _ = all_bad
    assert runs([str(path.parent / "results"), "--sort", "wall_time_s", "--json", "runs.json"]) == 0
    printed = capsys.readouterr().out
    assert "nested too deep" in printed
    assert "no regular file" in printed
    assert len(json.loads(Path("runs.json").read_text())) >= len(COUNTED) + 2
    for words in (["--where", "seed>=0"], ["--where", f"seed={len(LEFT_OUT)}"]):
        assert runs([str(path.parent / "results"), *words]) == 0


def test_a_number_too_large_to_be_summed_is_named_and_not_finite(declared, save, fill):
    path = save(declared)
    huge, *_ = fill(path, "full")
    COUNTED["1e308"](huge)
    table = load_table(path)
    found = collect(table, table.scale("full"), huge.parent)
    assert len(found.all) == 6
    assert found.problems == (f"{huge.name}: test/accuracy, conserve/normalised: too large a number, not finite here",)


def test_a_folder_or_a_link_at_the_place_of_a_record_is_never_trained_for(declared, save, fill, tmp_path, capfd):
    path = save(declared)
    first, second, third, *_ = fill(path, "full")
    kept = tmp_path / "kept.txt"
    kept.write_text("kept")
    as_folder(first)
    second.unlink()
    second.symlink_to(kept)
    third.unlink()
    third.with_name(f".{third.stem}.claim").symlink_to(kept)
    assert main(["run", str(path), "--scale", "full"], runner="no.such:runner") == 2
    assert capfd.readouterr().out.count("left out: ") == 3
    assert kept.read_text() == "kept"
    assert first.is_dir()


def test_one_table_that_cannot_be_read_is_named_and_the_others_are_reported(declared, save, fill, tmp_path, capsys):
    fill(save(declared), "full")
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    (tmp_path / "cut.yaml").write_text("paper: {key: a\n")
    declared["cells"][0]["row"] = "two\nlines"
    save(declared, "lines.yaml")
    for words in (["report", "--scale", "full"], ["run", "--scale", "full", "--dry-run"], ["watch"], ["list"]):
        assert main([words[0], str(tmp_path), *words[1:]]) == 2
        printed = capsys.readouterr().out
        assert "cut.yaml:" in printed
        assert "lines.yaml: cells[0].row: 'two\\nlines' is not one line" in printed
        assert "table1.yaml" in printed or "6 done" in printed


def test_reading_is_bounded(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    assert bounded(tmp_path / "a", 5) == b"12345"
    with pytest.raises(ValueError, match="more than"):
        bounded(tmp_path / "a", 4)
    with pytest.raises(ValueError, match="it is a folder"):
        read_json(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        '{"a": [1, -0, -0.0, 1e400, -1e400, NaN, Infinity, -Infinity, 1E5, 12345678901234567890]}',
        '{"a": 1, "a": 2, "b": "\\ud83d\\ude00 \\u0000 \\/ \u007f"}',
        " [0.1, 0.30000000000000004, 2.2250738585072014e-308, 5e-324, 123456789.123456789] ",
        "9" * 400,
    ],
)
def test_json_is_read_as_the_standard_library_reads_it(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    assert repr(read_json(tmp_path / "a.json")) == repr(json.loads(text))


@pytest.mark.parametrize(
    "text", ["[1,]", "01", "1.", ".5", '"\x01"', "[1] x", "{'a': 1}", "[nan]", "\ufeff1", "+1", ""]
)
def test_what_the_standard_library_refuses_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(json.JSONDecodeError):
        read_json(tmp_path / "a.json")


@pytest.mark.skipif(not Path("/proc/version").is_file(), reason="no file whose size the system gives as 0")
def test_a_file_of_no_known_size_is_read_to_its_end():
    assert bounded(Path("/proc/cpuinfo")).endswith(b"\n")
