"""The harness that seeds bugs: the same by its seed, of every kind, caught by the test that sees them."""

from pathlib import Path

import pytest

from benchmarks.seeded_bugs import running
from benchmarks.seeded_bugs.__main__ import STAGES, TREE, Trials, drawn, shown
from benchmarks.seeded_bugs.mutations import KINDS, apply, bugs, valid
from benchmarks.seeded_bugs.tests_of import Imports, stages

SOURCE = "def difference(a, b):\n    return a - b\n\n\ndef unseen(a, b):\n    return a - b\n"
TEST = (
    "from lit_fa.functional.sums import difference\n\n\n"
    "def test_other():\n    assert True\n\n\ndef test_difference():\n    assert difference(3, 1) == 2\n"
)


@pytest.fixture
def tree(tmp_path) -> Path:
    texts = {"lit_fa/functional/sums.py": SOURCE, "tests/functional/test_sums.py": TEST}
    for name, text in {**texts, "lit_fa/__init__.py": "", "lit_fa/functional/__init__.py": ""}.items():
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_text(text)
    return tmp_path / "tree"


def test_a_seed_draws_the_same_bugs_of_every_kind_one_a_line():
    found = drawn(TREE, 14, seed=5)
    assert found == drawn(TREE, 14, seed=5) != drawn(TREE, 14, seed=6)
    assert {bug.kind for bug in found} == {*KINDS}
    assert len({(bug.file, bug.line) for bug in found}) == 14
    assert all(valid(apply(bug, (TREE / bug.file).read_bytes())) for bug in found)


@pytest.mark.parametrize(
    ("line", "kind", "becomes"),
    [
        ("y = (a) + b", "sign", "y = (a) - b"),
        ("y -= b", "sign", "y += b"),
        ("y = -a", "sign", "y = (a)"),
        ("y = w.t() @ x", "transposition", "y = w @ x"),
        ("y = w @ x", "transposition", "y = w @ (x).mT"),
        ('y = einsum("ni,oi->no", x, w)', "transposition", None),
        ('y = torch.einsum("ni,oi->no", x, w)', "transposition", 'y = torch.einsum("ni,oi->on", x, w)'),
        ("y = (a + b) / n", "factor", "y = ((a + b))"),
        ("y = x.mean(0)", "factor", "y = x.sum(0)"),
        ("y = x.detach()", "detach", "y = x"),
        ("y = a <= b", "comparison", "y = a >= b"),
        ("y = x[1:]", "index", "y = x[0:]"),
        ("y = x.sum(dim=-1)", "index", "y = x.sum(dim=0)"),
        ("y = a + b", "term", "y = (a)"),
        ("y += b", "term", "pass"),
        ('raise ValueError(f"{a + b}" + "c")', "sign", None),
    ],
)
def test_a_kind_of_bug_replaces_one_expression(tmp_path, line, kind, becomes):
    (tmp_path / "module.py").write_text(line + "\n")
    found = [bug.becomes for bug in bugs(tmp_path, "module.py") if bug.kind == kind]
    assert becomes in found if becomes else not found


def test_a_bug_is_caught_by_the_first_test_that_fails_or_survives_and_leaves_the_copy_sound(tree, tmp_path, capsys):
    trials = Trials(running.copied(tree, tmp_path / "copy"), Imports(tree), STAGES)
    seen, unseen = [bug for bug in bugs(tree, "lit_fa/functional/sums.py") if bug.kind == "sign"]
    assert (seen.line, seen.was, seen.becomes) == (2, "return a - b", "return a + b")
    caught = trials.tried(seen)
    assert (caught["fate"], caught["stage"]) == ("caught", "own")
    assert caught["test"] == "tests/functional/test_sums.py::test_difference"
    survived = trials.tried(unseen)
    assert (survived["fate"], "left out" in survived) == ("survived", False)
    shown([(seen, caught), (unseen, survived)])
    assert "1 of 2 caught" in (said := capsys.readouterr().out)
    assert "survived: lit_fa/functional/sums.py:6: return a - b  ->  return a + b" in said
    for folder in (tree, trials.copy):
        assert (folder / "lit_fa/functional/sums.py").read_text() == SOURCE


@pytest.mark.slow
def test_a_test_that_fails_without_the_bug_or_passes_alone_with_it_does_not_catch_it(tree, tmp_path):
    test = tree / "tests/functional/test_sums.py"
    broken = "\n\ndef test_broken():\n    assert difference(2, 2) == 1\n"
    by_order = "\n\ndef test_order():\n    seen.append(1)\n    assert len(seen) < 2\n\n\n"
    test.write_text(f"seen = []\n{TEST}{broken}{by_order}test_twice = test_order\n".replace("test_difference", "other"))
    trials = Trials(running.copied(tree, tmp_path / "copy"), Imports(tree), ["own"])
    bug = next(bug for bug in bugs(tree, "lit_fa/functional/sums.py") if bug.kind == "sign")
    name = "tests/functional/test_sums.py::test_"
    result = trials.tried(bug)
    assert (result["fate"], result["left out"]) == ("survived", [f"{name}broken", f"{name}twice"])
    assert trials.passes == {f"{name}broken": False, f"{name}twice": True}


@pytest.mark.slow
def test_a_test_that_ends_its_process_and_a_file_that_cannot_be_imported_are_named(tree, tmp_path):
    (tree / "tests/functional/test_sums.py").write_text(
        "import os\nfrom lit_fa.functional.sums import difference, unseen\n\nassert unseen(1, 1) == 0\n\n\n"
        "def test_ends():\n    difference(1, 1) and os._exit(3)\n"
    )
    trials = Trials(running.copied(tree, tmp_path / "copy"), Imports(tree), ["own"])
    first, second = [bug for bug in bugs(tree, "lit_fa/functional/sums.py") if bug.kind == "sign"]
    assert trials.tried(first) | {"seconds": 0} == {
        "fate": "caught",
        "stage": "own",
        "test": "tests/functional/test_sums.py::test_ends",
        "said": "ends with 3",
        "seconds": 0,
    }
    assert trials.tried(second)["test"] == "tests/functional/test_sums.py"


@pytest.mark.slow  # reads every test
def test_tests_are_tried_from_the_nearest_on():
    plan = stages(Imports(TREE), "lit_fa/functional/matching.py")
    assert plan["own"] == ["tests/functional/test_matching.py"]
    assert "tests/rules/test_feedback_weight_matching.py" in plan["near"]
    assert plan["contract"][0] == "tests/contract/test_equals_reference.py"
    assert sum(map(len, plan.values())) == len({name for names in plan.values() for name in names})
