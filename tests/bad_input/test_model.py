"""Options of the model, the network and the rule that are out of range or of another type."""

import pytest

from tests.bad_input.conftest import thinned

NAMED = (str(10**9), "hidden: abc", "act_layer", "1000000000000]")
MODEL = [
    ("accumulate", "0", "accumulate is from 1 to 1,000,000"),
    ("accumulate", str(10**9), "accumulate is from 1 to 1,000,000"),
    ("accumulate", "1.5", "accumulate: expected a whole number (given: 1.5)"),
    ("clip", "-1", "clip is a positive bound or null"),
    ("clip", ".nan", "clip is not a number"),
    ("clip_by", "foo", "clip_by is norm or value"),
    ("metrics", "[foo]", "foo"),
    ("metrics", "accuracy", "metrics: expected a list or null"),
    ("criterion", "foo", "unknown criterion 'foo'"),
    ("network", "lenett", "nearest: lenet"),
    ("network", "null", "network"),
    ("network_args", "{hidden: abc}", "mlp: hidden is Sequence[int] | int | None, not 'abc'"),
    ("network_args", "{hidden: [0]}", "at least one hidden layer of at least one unit"),
    ("network_args", "{hidden: [1.5]}", "mlp: hidden is"),
    ("network_args", "{hidden: [1000000000000]}", "more memory is asked for than there is"),
    ("network_args", "{hidden: [10000000000000000000000]}", "digits"),
    ("network_args", "{width: 8, depth: 100000000}", "hidden layers: write at most 10,000"),
    ("network_args", "{bias: abc}", "mlp: bias is bool, not 'abc'"),
    ("network_args", "{dropout: 2}", "dropout is a probability"),
    ("network_args", "{activation: foo}", "activation 'foo' is unknown"),
    ("network_args", "{act_layer: foo}", "mlp has no option 'act_layer'"),
    ("network_args", "[1]", "network_args: expected a mapping or null"),
    ("weights", "none.pt", "weights: there is no file none.pt"),
    ("adapter", "{peft_type: foo}", "adapter"),
    ("stream", "true", "has no cuts to stream"),
    ("probe", "{epochs: 0}", "a probe needs epochs >= 1"),
    ("probe", "{lr: .inf}", "lr is infinite"),
    ("probe", "3", "probe: expected a class"),
]
RULES = [
    ("FeedbackAlignment", "source: foo", "unknown feedback source 'foo'"),
    ("FeedbackAlignment", "source: {class_path: RandomFeedback, init_args: {scale: 0}}", "scale of feedback"),
    ("FeedbackAlignment", "source: {class_path: RandomFeedback, init_args: {scale: .nan}}", "scale is not a number"),
    ("FeedbackAlignment", "source: {class_path: WeightMirrorFeedback, init_args: {patterns: 0}}", "patterns of the"),
    ("FeedbackAlignment", "source: {class_path: WeightMirrorFeedback, init_args: {rate: -1}}", "rate of the feedback"),
    ("FeedbackAlignment", "source: {class_path: AdaptiveFeedback, init_args: {rate: 2}}", "rate of the feedback"),
    ("FeedbackAlignment", "layers: [nothing]", "no module matches 'nothing'"),
    ("DirectFeedbackAlignment", "scale: -1", "scale of feedback is a positive number"),
    ("DirectFeedbackAlignment", "blocks: foo", "blocks"),
    ("DirectFeedbackAlignment", f"seed: {10**30}", "31 digits"),
    ("ForwardForward", "threshold: -1", "threshold is a number of at least 0"),
    ("ForwardForward", "strength: 0", "strength is a number above 0"),
    ("ForwardForward", "peer: -1", "peer is a number of at least 0"),
    ("ForwardForward", "position: -1", "position"),
    ("PredSim", "beta: 2", "beta is a weight from 0 to 1"),
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
    [("resnet10t", "{act_layer: foo}", "act_layer: foo"), ("resnet10t", "{stem_width: abc}", "stem_width: abc")],
)
def test_an_option_of_a_network_of_timm(network, options, said, refused):
    words = ("--model.init_args.network", network, "--model.init_args.network_args", options)
    assert said in refused("fit", "--config", "run.yaml", *words)


@pytest.mark.parametrize(("rule", "options", "said"), thinned(RULES, 3))
def test_an_option_of_a_rule(rule, options, said, refused):
    word = f"{{class_path: {rule}, init_args: {{{options}}}}}"
    assert said in refused("fit", "--config", "run.yaml", "--model.init_args.rule", word)


@pytest.mark.parametrize("words", CLASSES)
def test_what_is_no_class(words, refused):
    assert CLASSES[words] in refused("fit", "--config", "run.yaml", *words)
