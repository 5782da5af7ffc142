"""Options of the model, the network and the rule that are out of range or of another type."""

import resource
import sys
from pathlib import Path

import pytest
import torch

from lit_fa import memory
from lit_fa.foreign_errors import TOO_LARGE
from tests import cases
from tests.bad_input.conftest import thinned

NAMED = (str(10**9), "hidden: abc", "act_layer", "1000000000000]")
MODEL = [
    ("accumulate", "0", "accumulate is from 1 to 1,000,000"),
    ("accumulate", str(10**9), "accumulate is from 1 to 1,000,000"),
    ("accumulate", "1.5", "accumulate: expected a whole number (given: 1.5)"),
    ("clip", "-1", "clip is a positive bound or null"),
    ("clip", ".nan", "clip is not a number"),
    ("clip_by", "foo", "clip_by is one of norm, value"),
    ("metrics", "[foo]", "foo"),
    ("metrics", "accuracy", "metrics: expected a list or null"),
    ("criterion", "foo", "criterion is one of"),
    ("network", "lenett", "nearest: lenet"),
    ("network", "null", "network"),
    ("network_args", "{hidden: abc}", "mlp: hidden is a list of whole numbers, a whole number or null, not 'abc'"),
    ("network_args", "{hidden: [0]}", "at least one hidden layer of at least one unit"),
    ("network_args", "{hidden: [1.5]}", "mlp: hidden is"),
    ("network_args", "{hidden: [1000000000000]}", "more memory is asked for than there is"),
    ("network_args", "{hidden: [10000000000000000000000]}", "digits"),
    ("network_args", "{width: 8, depth: 100000000}", "hidden layers: write at most 10,000"),
    ("network_args", "{bias: abc}", "mlp: bias is true or false, not 'abc'"),
    ("network_args", "{dropout: 2}", "dropout is a probability"),
    ("network_args", "{activation: foo}", "activation 'foo' is unknown"),
    (
        "network_args",
        "{act_layer: foo}",
        "mlp has no option 'act_layer'; valid: activation, bias, depth, dropout, gain, head_bias, hidden, init, width",
    ),
    ("network_args", "[1]", "network_args: expected a mapping or null"),
    ("weights", "none.pt", "weights: there is no file none.pt"),
    ("adapter", "{peft_type: foo}", "adapter"),
    ("stream", "true", "has no block boundaries to stream"),
    ("probe", "{epochs: 0}", "a probe needs epochs >= 1"),
    ("probe", "{lr: .inf}", "lr is infinite"),
    ("probe", "3", "probe: expected a class"),
]
RULES_OF_ALL_KINDS = sorted({type(make()).__name__ for make, _ in cases.RULES.values()})
RULES = [
    ("FeedbackAlignment", "source: foo", "source is one of random, sign"),
    ("FeedbackAlignment", "source: {class_path: RandomFeedback, init_args: {scale: 0}}", "scale of feedback"),
    ("FeedbackAlignment", "source: {class_path: RandomFeedback, init_args: {scale: .nan}}", "scale is not a number"),
    ("FeedbackAlignment", "source: {class_path: WeightMirrorFeedback, init_args: {patterns: 0}}", "patterns of the"),
    ("FeedbackAlignment", "source: {class_path: WeightMirrorFeedback, init_args: {rate: -1}}", "rate of the feedback"),
    ("FeedbackAlignment", "source: {class_path: AdaptiveFeedback, init_args: {rate: 2}}", "rate of the feedback"),
    ("FeedbackAlignment", "layers: [nothing]", "no module matches 'nothing'"),
    ("FeedbackAlignment", "layers: []", "layers: an empty list names no module: leave the option out"),
    ("FLFA", "layers: []", "layers: an empty list names no module: leave the option out"),
    ("DirectFeedbackAlignment", "blocks: []", "blocks: an empty list names no module: leave the option out"),
    ("DirectFeedbackAlignment", "init: ''", "init is one of xavier_uniform"),
    *[(rule, "uncovered: foo", "uncovered is one of raise, warn, allow, not 'foo'") for rule in RULES_OF_ALL_KINDS],
    ("DirectFeedbackAlignment", "scale: -1", "scale of feedback is a positive number"),
    ("DirectFeedbackAlignment", "blocks: foo", "blocks is one of block, layer, macro, micro, a list, not 'foo'"),
    ("ForwardForward", "loss: treshold", "loss is one of threshold, symba, margin, not 'treshold'; nearest: threshold"),
    ("SVDBackprop", "pruning: {of: last}", "of is one of first, current, not 'last'"),
    ("DirectFeedbackAlignment", f"seed: {10**30}", "31 digits"),
    ("ForwardForward", "threshold: -1", "threshold is a number of at least 0"),
    ("ForwardForward", "strength: 0", "strength is a number above 0"),
    ("ForwardForward", "peer: -1", "peer is a number of at least 0"),
    ("ForwardForward", "position: -1", "position"),
    ("PredSim", "beta: 2", "beta is a number from 0 to 1"),
    ("AugLocal", "depth: 0", "depth is a positive number"),
    ("SVDBackprop", "rank: 0", "rank is a number of at least 1"),
    ("SVDBackprop", "orthogonality: .inf", "orthogonality is infinite"),
    ("SVDSpaceAlignment", "alpha: -1", "alpha and beta are factors"),
    ("FeedbackWeightMatching", "weight_match: 2", "weight_match is between 0 and 1"),
]
CLASSES = {
    ("--model.init_args.rule", "foo"): "no rule is called 'foo'",
    ("--model.init_args.rule", "torch.nn.Linear"): "rule",
    ("--model.init_args.rule", "[]"): "rule: expected a class",
    ("--model", "foo"): "no model is called 'foo'",
    ("--model", "null"): "model",
    ("--data", "foo"): "no data is called 'foo'",
    ("--data", "null"): "data",
}


@pytest.mark.parametrize(("option", "value", "said"), thinned(MODEL, 3, NAMED))
def test_an_option_of_the_model(option, value, said, refused):
    assert said in refused("fit", "--config", "run.yaml", f"--model.init_args.{option}", value)


@pytest.mark.parametrize(
    ("network", "options", "said"),
    [
        ("resnet10t", "{act_layer: foo}", "resnet10t: act_layer 'foo' is unknown to timm; valid: "),
        ("resnet10t", "{act_layer: rellu}", "resnet10t: act_layer 'rellu' is unknown to timm; nearest: relu"),
        ("resnet10t", "{stem_width: abc}", "resnet10t: stem_width is a whole number, not 'abc'"),
    ],
)
def test_an_option_of_a_network_of_timm(network, options, said, refused):
    words = ("--model.init_args.network", network, "--model.init_args.network_args", options)
    assert said in refused("fit", "--config", "run.yaml", *words)


@pytest.mark.parametrize(("rule", "options", "said"), thinned(RULES, 3, ("[]", "uncovered")))
def test_an_option_of_a_rule(rule, options, said, refused):
    word = f"{{class_path: {rule}, init_args: {{{options}}}}}"
    assert said in refused("fit", "--config", "run.yaml", "--model.init_args.rule", word)


@pytest.mark.parametrize("words", CLASSES)
def test_what_is_no_class(words, refused):
    assert CLASSES[words] in refused("fit", "--config", "run.yaml", *words)


@pytest.mark.skipif(sys.platform != "linux", reason="the memory that is free is read on Linux")
@pytest.mark.parametrize("sizes", ["{hidden: [2000000]}", "{width: 5000, depth: 4}"])  # 0.6 and 0.3 GB
def test_a_size_between_the_memory_that_is_free_and_the_machines(sizes, refused, monkeypatch):
    monkeypatch.setattr(memory, "bytes_free", lambda: 200_000_000)
    assert TOO_LARGE in refused("fit", "--config", "run.yaml", "--model.init_args.network_args", sizes)


def test_the_bound_on_memory_ends_with_the_building(monkeypatch):
    before = resource.getrlimit(resource.RLIMIT_DATA)
    monkeypatch.setattr(memory, "bytes_free", lambda: 100_000_000)
    with memory.bounded(), pytest.raises(RuntimeError, match="can't allocate memory"):
        torch.zeros(200_000_000)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    assert len(torch.zeros(200_000_000)) == 200_000_000


@pytest.mark.parametrize(
    ("group", "free"), [({}, 3 << 20), ({"memory.max": "max"}, 3 << 20), ({"memory.max": "1048576"}, 1 << 19)]
)
def test_the_memory_that_is_free_is_that_of_the_machine_or_of_the_control_group(group, free, monkeypatch, tmp_path):
    for name, text in {"meminfo": "MemAvailable: 2048 kB\nSwapFree: 1024 kB\n", **group}.items():
        Path(name).write_text(text)
    Path("memory.current").write_text(str(1 << 19))
    monkeypatch.setattr(memory, "_MEMORY", Path("meminfo"))
    monkeypatch.setattr(memory, "_GROUP", tmp_path)
    assert memory.bytes_free() == free
