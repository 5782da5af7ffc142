"""Feedback-weight matching's tables: an arm that matches weights begins with weight alignment 1 in every layer."""

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from lit_fa.callbacks.forward_trace import trace
from lit_fa.callbacks.weight_alignment import block_links, compared_weight, counterparts, transformer_links
from lit_fa.functional.alignment import cosine
from lit_fa.modules import Learner
from lit_fa.networks import example_input
from lit_fa.rules import FeedbackWeightMatching
from lit_fa.spec.expand import expand
from lit_fa.spec.table import load_table
from tests.rules.test_direct_feedback_in_transformers import images, vit
from tests.texts import text_batch, tiny

FOLDER = Path(__file__).parents[2] / "paper_configs" / "fwm"
TABLES = ["ablation", "fcn", "glue", "glue_stsb", "vit"]
SCALED = [(name, scale) for name in TABLES for scale in ("cpu", "full")] + [("glue_float32", "cpu")]


def matched_runs(name: str, scale: str) -> list:
    """Runs of a table whose rule replaces every weight that equations 7 and 8 name."""
    table = load_table(FOLDER / f"{name}.yaml")
    runs = expand(table, table.scale(scale))
    return [run for run in runs if options(run).get("weight_match") == 1.0]


def options(run) -> dict:
    """Of the run's rule; empty for another rule than feedback-weight matching."""
    rule = run.config["model"]["init_args"]["rule"]
    return rule.get("init_args", {}) if rule["class_path"].endswith("FeedbackWeightMatching") else {}


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*[layer for _ in range(3) for layer in (nn.Linear(8, 8), nn.ReLU())], nn.Linear(8, 3)).double()


def networks(made_of: dict) -> list[tuple[nn.Module, tuple]]:
    if made_of.get("blocks") != "micro":
        x = torch.randn(6, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        return [(mlp(), (x, torch.arange(6) % 3))]
    return [(vit(), images()), (tiny(), text_batch((7, 4, 2, 6))), (tiny("roberta"), text_batch((7, 4, 2, 6)))]


def alignments(made: Learner, inputs: torch.Tensor) -> dict[str, float]:
    """What `WeightAlignment` logs, by layer."""
    micro = made.rule.blocks == "micro"
    network, rule = made.network, made.rule
    links = transformer_links(network, rule, inputs) if micro else block_links(network, rule, trace(network, inputs))
    return {n: cosine(compared_weight(network, n), b).item() for n, b in counterparts(network, links).items()}


@pytest.mark.parametrize(("name", "scale"), SCALED)
def test_every_arm_that_matches_weights_begins_aligned_in_every_layer(name: str, scale: str):
    arms = {json.dumps(options(run), sort_keys=True) for run in matched_runs(name, scale) if run.seed == 0}
    assert arms
    for arm in map(json.loads, arms):
        for network, batch in networks(arm):
            rule = FeedbackWeightMatching(**copy.deepcopy(arm))
            made = Learner(network, rule, example_input(network, batch[0].shape[1:]))
            made.prepare([batch])
            found = alignments(made, batch[0])
            assert len(found) == len(rule.chain) > 1
            assert found == pytest.approx(dict.fromkeys(found, 1.0), abs=1e-9), (name, arm)


@pytest.mark.parametrize("name", [*TABLES, "glue_float32"])
def test_records_of_arms_that_match_weights_begin_with_weight_alignment_one(name: str):
    for run in matched_runs(name, "cpu"):
        path = FOLDER / "results" / name / "cpu" / run.file_name
        if not path.exists():
            continue
        curves = json.loads(path.read_text(encoding="utf-8"))["curves"]
        first = {key: curve[0] for key, curve in curves.items() if key.startswith("align/weight_cosine/")}
        assert len(first) > 2
        for key, (step, *_, value) in first.items():
            assert step == 0
            assert value == pytest.approx(1, abs=1e-4), (path.name, key)
