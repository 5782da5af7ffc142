"""Numbers that the papers print, as the committed tables have them."""

from pathlib import Path

import pytest

from lit_fa.spec.table import load_table

ROOT = Path(__file__).parents[2] / "paper_configs"


def cell(table, name):
    return next(cell for cell in load_table(ROOT / f"{table}.yaml").cells if cell.id == name)


@pytest.mark.parametrize(
    ("table", "name", "difference", "pair"),
    [
        ("ssa/table3", "without CE|sequential", -65.65, "full SSA|sequential"),
        ("ssa/table3", "without align|direct_random", -9.58, "full SSA|direct_random"),
        ("ssa/table3", "without ortho|direct_product", -7.26, "full SSA|direct_product"),
        ("flfa/medical", "FedAvg, FLFA low|BloodMNIST", 6.5, "FedAvg|BloodMNIST"),
        ("flfa/medical", "FedAvg, FLFA high|BloodMNIST", 6.5, "FedAvg|BloodMNIST"),
        ("fwm/fcn", "FWM, als|CIFAR-100 to SVHN, 6 layers", 2.16, "DFA|CIFAR-100 to SVHN, 6 layers"),
        (
            "fwm/ablation",
            "both (FWM)|CIFAR-100 to SVHN, decay 0.001",
            2.16,
            "neither (DFA)|CIFAR-100 to SVHN, decay 0.001",
        ),
    ],
)
def test_differences_that_a_paper_prints(table, name, difference, pair):
    found = cell(table, name)
    assert (found.published_difference.value, found.published_difference.unit, found.paired_with) == (
        difference,
        "%",
        pair,
    )


@pytest.mark.parametrize(
    ("table", "name", "metric", "value"),
    [
        ("ssa/table2_imagenet", "BP|VGG-13", "test/top5", 90.39),
        ("ssa/table2_imagenet", "SVD-BP|ResNet-34", "test/top5", 89.27),
        ("ssa/table2_imagenet", "SSA, sequential|ResNet-34", "test/top5", 87.72),
        ("fwm/glue", "neither (DFA)|MRPC, decay 0.001", "test/accuracy", 70.9),
        ("fwm/glue", "both (FWM)|MRPC, decay 0.001", "test/accuracy", 92.5),
    ],
)
def test_numbers_of_further_metrics_that_a_paper_prints(table, name, metric, value):
    assert [(p.metric, p.value) for p in cell(table, name).published_also] == [(metric, value)]


@pytest.mark.parametrize(("row", "value"), [("neither (DFA)", 0.0), ("both (FWM)", 29.0)])
def test_cola_has_a_column_for_bert_tiny(row, value):
    found = cell("fwm/glue", f"{row}|CoLA, BERT-Tiny, decay 0.001")
    assert found.published.value == value
    assert found.set["model.init_args.network"].endswith("L-2_H-128_A-2")
    assert found.set["data.init_args.tokenizer"].endswith("L-2_H-128_A-2")
