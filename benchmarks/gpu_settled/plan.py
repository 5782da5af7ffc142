"""Which cells are run, in this order: SSA's own, then the cells of the other papers that need a GPU."""

from typing import Any

from benchmarks.gpu_settled.configs import Item, table_of

FIRST = ("BP", "DFA", "SSA, direct_random")
REST = ("SSA, direct_product", "SSA, sequential", "SVD-BP", "PredSim", "AugLocal")
_CELLS = [
    ("ssa/small.yaml", "conv 96-192-512"),
    ("ssa/small.yaml", "conv 32-64-128"),
    ("ssa/table2.yaml", "VGG-13"),
    ("ssa/table2.yaml", "ResNet-32"),
]
_RULES: dict[str, dict[str, Any]] = {
    "BP": {"class_path": "lit_fa.rules.Backprop"},
    "FA": {"class_path": "lit_fa.rules.FeedbackAlignment"},
    "DFA": {"class_path": "lit_fa.rules.DirectFeedbackAlignment", "init_args": {"blocks": "layer"}},
}
RACE = [Item("ssa/table2.yaml", name, "VGG-13", rule=rule) for name, rule in _RULES.items()]
CONVOLUTIONAL = ("ccl/conv.yaml", "mono_forward/conv.yaml", "pepita/conv.yaml", "dll/cnn.yaml", "ebd/cnn.yaml")
CONNECTED = ("ccl/mlp.yaml", "mono_forward/mlp.yaml", "pepita/fully_connected.yaml", "dll/mlp.yaml", "ebd/mlp.yaml")
_CIFAR = ("CIFAR-10", "CIFAR-100")


def _cells(table: str, columns: tuple[str, ...] | None) -> list[Item]:
    """All rows of the columns, column by column; None: all columns, CIFAR first."""
    grid = table_of(table)["grid"]
    ordered = [name for name in _CIFAR if name in grid["columns"]]
    if columns is None:
        ordered += [name for name in grid["columns"] if name not in _CIFAR]
    return [Item(table, row, column) for column in ordered for row in grid["rows"]]


PLAN = [Item(table, row, column) for rows in (FIRST, REST) for table, column in _CELLS for row in rows]
PLAN += [item for table in CONVOLUTIONAL for item in _cells(table, None)]
PLAN += [item for table in CONNECTED for item in _cells(table, _CIFAR)]
TINY = [
    Item("ccl/conv.yaml", "CCL", "CIFAR-10"),
    Item("mono_forward/conv.yaml", "Mono-Forward", "MNIST"),
    Item("pepita/conv.yaml", "PEPITA", "MNIST"),
    Item("dll/cnn.yaml", "DLL, paper's sign", "MNIST"),
    Item("ebd/cnn.yaml", "EBD", "MNIST"),
]
