"""Rows compared over all columns: against the definitions, written out."""

import json
from itertools import product

import numpy as np
import pytest

from lit_fa.commands.table import main
from lit_fa.errors import UserError
from lit_fa.results.aggregates import aggregate
from lit_fa.results.records import collect
from lit_fa.spec.table import load_table


@pytest.fixture
def collected(declared, save, fill):
    """Two rows, two columns and three seeds; FA is better in one column and worse in the other."""
    del declared["cells"], declared["accept"]
    rows = {"BP": {"set": {"model.init_args.width": 1}}, "FA": {"set": {"model.init_args.width": 2}}}
    columns = {"a": {"set": {"data.init_args.batch_size": 1}}, "b": {"set": {"data.init_args.batch_size": 2}}}
    declared["grid"] = {"rows": rows, "columns": columns}
    values = {
        ("BP", "a"): [70, 71, 72],
        ("FA", "a"): [73, 71, 75],
        ("BP", "b"): [90, 91, 92],
        ("FA", "b"): [80, 90, 89],
    }
    path = save(declared)
    fill(path, "full", accuracy=lambda run: float(values[run.cell.row, run.cell.column][run.seed]))
    table = load_table(path)
    return collect(table, table.scale("full"), path.parent / "results/table1/full")


def test_the_interquartile_mean_leaves_out_a_quarter_at_each_end(collected):
    bp, fa = aggregate(collected, "BP")
    assert bp.iqm.value == np.mean([71, 72, 90, 91])  # 1.5 of six runs are rounded down to one at each end
    assert fa.iqm.value == np.mean([73, 75, 80, 89])
    assert bp.iqm.low <= bp.iqm.value <= bp.iqm.high


def test_the_probability_of_improvement_is_the_mean_share_of_pairs(collected):
    _, fa = aggregate(collected, "BP")
    pairs = {"a": product([73, 71, 75], [70, 71, 72]), "b": product([80, 90, 89], [90, 91, 92])}
    shares = [np.mean([(x > y) + 0.5 * (x == y) for x, y in pair]) for pair in pairs.values()]
    assert fa.better.value == pytest.approx(np.mean(shares), rel=1e-12)
    assert 0 <= fa.better.low < fa.better.value < fa.better.high <= 1


def test_a_profile_falls_from_all_runs_to_the_best(collected):
    for one in aggregate(collected, "BP"):
        shares = [share for _, share in one.profile]
        assert shares == sorted(shares, reverse=True)
        assert (shares[0], one.profile[0][0], one.profile[-1][0]) == (1.0, 70.0, 92.0)


def test_for_an_error_lower_is_better(collected):
    higher = aggregate(collected, "BP")[1].better.value
    object.__setattr__(collected.table.metric, "better", "lower")
    assert aggregate(collected, "BP")[1].better.value == pytest.approx(1 - higher, rel=1e-12)


def test_the_interval_covers_the_true_value_in_nineteen_of_twenty(collected):
    """Two rules that are equal: the interval of P(X > Y) contains one half."""
    draw, covered = np.random.default_rng(0), 0
    for _ in range(20):
        for records in collected.records.values():
            for record in records:
                record.data["metrics"]["test/accuracy"] = float(draw.normal())
        better = aggregate(collected, "BP")[1].better
        covered += better.low <= 0.5 <= better.high
    assert covered >= 15  # the percentile bootstrap of three runs is somewhat too narrow


def test_a_row_without_runs_or_a_name_that_is_not_there_is_refused(collected):
    with pytest.raises(UserError, match="unknown row 'BPP'; nearest: BP"):
        aggregate(collected, "BPP")
    collected.records["FA|a"] = collected.records["FA|b"] = ()
    with pytest.raises(UserError, match="no column in which 'BP' and every other row have two finished runs"):
        aggregate(collected, "BP", ["FA"])


def test_the_command_prints_the_rows_and_writes_the_profiles(collected, tmp_path, capsys):
    out = tmp_path / "out.json"
    words = ["aggregate", str(collected.table.path), "--scale", "full", "--against", "BP", "--json", str(out)]
    assert main(words) == 0
    assert "P(better than BP)" in " ".join(capsys.readouterr().out.split())
    bp, fa = json.loads(out.read_text())
    assert (bp["row"], fa["row"], bp["better"], len(fa["profile"])) == ("BP", "FA", None, 101)
