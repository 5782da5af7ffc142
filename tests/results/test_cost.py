"""The cost of runs: by records where there are some, else as declared."""

import json

import pytest

from lit_fa.commands.table import main
from lit_fa.results.cost import cost_of_rows, estimate
from lit_fa.results.records import collect
from lit_fa.spec.table import load_table

RUNNER = "tests.fake_runner:run"
DECLARED = {"cpu_hours": 8, "memory_gib": 1.5, "download_gib": 0.1}


def collected(path, scale="cpu"):
    table = load_table(path)
    return collect(table, table.scale(scale), path.parent / "results/table1" / scale)


def test_a_run_takes_the_median_of_its_cell_and_a_cell_without_records_that_of_all(declared, save, fill):
    path = save(declared)
    for seconds, file in zip((100.0, 300.0), fill(path, "cpu")[:2], strict=True):  # of BP
        file.write_text(json.dumps(json.loads(file.read_text()) | {"cpu_time_s": seconds}))
    for file in sorted((path.parent / "results/table1/cpu").glob("FA*")):
        file.unlink()
    found = collected(path)
    cost = estimate(found, found.runs)
    assert (cost.cpu_hours, cost.device, cost.source) == (4 * 200 / 3600, "cpu", "2 records")
    assert cost.memory_gib == pytest.approx(100 / 1024)
    assert cost_of_rows(found) == [("BP", 200.0, None)]


def test_older_records_give_wall_time_and_records_of_a_card_hours_on_it(declared, save, fill):
    path = save(declared)
    fill(path, "cpu", hardware={"gpu": "a card"}, wall_time_s=90.0, cpu_time_s=500.0)
    found = collected(path)
    assert estimate(found, found.runs).gpu_hours == pytest.approx(4 * 90 / 3600)
    fill(path, "cpu", wall_time_s=90.0)
    found = collected(path)
    assert estimate(found, found.runs).cpu_hours == pytest.approx(4 * 90 / 3600)


def test_without_records_the_declared_hours_are_shared_out(declared, save):
    declared["scales"]["cpu"]["cost"] = DECLARED
    found = collected(save(declared))
    assert estimate(found, found.runs[:1]).text == (
        "2.0 hours of CPU, 1.5 GiB of memory, 0.1 GiB to download (declared)"
    )
    assert estimate(collected(save(declared), "full"), []).text == "unknown cost"


def test_list_and_dry_run_tell_the_cost(declared, save, capfd):
    declared["scales"]["full"]["cost"] = {"gpu_hours": 3, "device": "gpu"}
    path = save(declared)
    assert main(["list", str(path), "--json", str(path.parent / "list.json")]) == 0
    (entry,) = json.loads((path.parent / "list.json").read_text())["tables"]
    assert (entry["scales"]["full"]["cost"]["gpu_hours"], entry["scales"]["cpu"]["cost"]["source"]) == (3, "")
    assert main(["run", str(path), "--scale", "full", "--dry-run", "--seeds", "0"], runner=RUNNER) == 0
    assert "cost of these runs: 1.0 hours of GPU, needs a GPU (declared)" in capfd.readouterr().out


def test_the_energy_of_rows_is_the_sum_of_what_the_machine_could_tell(declared, save, fill):
    path = save(declared)
    fill(path, "cpu", cpu_time_s=10.0, energy_j={"cpu": 1500.0, "gpu": None})
    assert cost_of_rows(collected(path)) == [("FA", 10.0, 1500.0), ("BP", 10.0, 1500.0)]
