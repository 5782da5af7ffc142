"""Matching of the dense layers of Transformers, with adapters and without, for classes and for a number."""

import pytest
import torch

from lit_fa.callbacks.weight_alignment import counterparts, transformer_links
from lit_fa.errors import UserError
from lit_fa.functional.alignment import cosine
from lit_fa.layers.linear_chain import dense_weight
from lit_fa.layers.observing import observing, recording
from lit_fa.modules import Learner
from lit_fa.networks import Adapters, example_input
from lit_fa.rules import FeedbackWeightMatching
from tests.rules.test_direct_feedback_in_transformers import images, vit
from tests.texts import text_batch, tiny

LENGTHS = (7, 4, 2, 6)
LAYER = "model.bert.encoder.layer.{}."
BERT_CHAIN = [
    (LAYER.format(0) + "intermediate.dense",), (LAYER.format(0) + "output.dense",),
    (LAYER.format(1) + "attention.output.dense",), (LAYER.format(1) + "intermediate.dense",),
    (LAYER.format(1) + "output.dense",), ("model.bert.pooler.dense", "model.classifier"),
]  # fmt: skip
VIT_CHAIN = [
    ("blocks.0.attn.proj",), ("blocks.0.mlp.fc1",), ("blocks.0.mlp.fc2",),
    ("blocks.1.attn.proj",), ("blocks.1.mlp.fc1",), ("blocks.1.mlp.fc2",), ("head",),
]  # fmt: skip
LORA = {"peft_type": "LORA", "r": 2, "target_modules": ["dense"]}


def bert_batch(classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = text_batch(LENGTHS)
    return (x, y) if classes > 1 else (x, y.double())


def prepared(network, batch, criterion: str = "cross_entropy", **options) -> tuple[Learner, dict[str, float]]:
    rule = FeedbackWeightMatching(blocks="micro", **({"tokens": "all"} | options))
    made = Learner(network, rule, example_input(network, (3, 8, 8)), criterion)
    return made, made.prepare([batch])


CASES = {
    "bert": (tiny, bert_batch, BERT_CHAIN),
    "vit": (vit, images, VIT_CHAIN),
    "distilbert": (lambda: tiny("distilbert"), bert_batch, None),
    "electra": (lambda: tiny("electra"), bert_batch, None),
}


@pytest.mark.parametrize("case", ["bert", "vit"])
def test_the_links_are_the_dense_layers_behind_the_cuts(case: str):
    network, batch, chain = CASES[case]
    assert prepared(network(), batch())[0].rule.chain == chain


@pytest.mark.parametrize("solver", ["seq_ls", "als", "bp_product", "random"])
@pytest.mark.parametrize("case", CASES)
def test_weights_align_with_feedback_once_they_are_matched(case: str, solver: str):
    network, batch, _ = CASES[case]
    made, figures = prepared(network(), x_y := batch(), solver=solver)
    products = counterparts(made.network, transformer_links(made.network, made.rule, x_y[0]))
    hidden = [link[0] for link in made.rule.chain[:-1]]
    assert len(hidden) >= 5
    for name in hidden:
        assert cosine(made.network.get_submodule(name).weight, products[name]).item() == pytest.approx(1, abs=1e-10)
        assert 0 < figures[f"match/rank/{name}"] <= 3
        assert figures[f"match/residual/{name}"] > 0


def test_a_read_out_of_two_layers_is_matched_by_their_product():
    made, figures = prepared(tiny(), bert_batch(), solver="seq_ls")
    pooler, classifier = (made.network.get_submodule(name).weight for name in BERT_CHAIN[-1])
    *_, last = made.rule.links.values()
    assert torch.allclose(last[:, 0], classifier @ pooler, atol=1e-12)
    assert figures["match/residual/model.classifier * model.bert.pooler.dense"] < 1e-12


def test_equation_8_of_a_read_out_of_two_layers_sets_their_product_by_the_least_change_of_the_lower():
    before = [tiny().get_submodule(name).weight.detach() for name in BERT_CHAIN[-1]]
    made, _ = prepared(tiny(), bert_batch(), solver="random", head="transposed")
    pooler, classifier = (made.network.get_submodule(name).weight.detach() for name in BERT_CHAIN[-1])
    *_, last = made.rule.links.values()
    assert torch.equal(classifier, before[1])
    assert torch.allclose(classifier @ pooler, last[:, 0], atol=1e-12)
    change = pooler - before[0]
    free = torch.eye(len(change)).double() - torch.linalg.pinv(classifier) @ classifier  # what the classifier ignores
    assert torch.allclose(free @ change, torch.zeros_like(change), atol=1e-12)


def test_equation_8_is_refused_where_the_upper_layer_of_the_read_out_is_zero():
    network = tiny()
    network.get_submodule(BERT_CHAIN[-1][1]).weight.data.zero_()
    with pytest.raises(UserError, match=r"the rank of model\.classifier is less than the number of classes"):
        prepared(network, bert_batch(), solver="random", head="transposed")


def test_matching_sees_the_sum_of_a_weight_and_its_adapter_and_moves_the_frozen_part():
    network = tiny()
    Adapters(network, LORA)
    for name, p in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.1)
    sums = {link[0]: dense_weight(network.get_submodule(link[0])) for link in BERT_CHAIN[:-1]}
    adapters = {n: p.detach().clone() for n, p in network.named_parameters() if "lora_" in n}
    made, _ = prepared(network, x_y := bert_batch(), solver="seq_ls", weight_match=0.5)
    products = counterparts(made.network, transformer_links(made.network, made.rule, x_y[0]))
    for name, before in sums.items():
        expected = 0.5 * before + 0.5 * products[name]
        assert torch.allclose(dense_weight(made.network.get_submodule(name)), expected, atol=1e-12)
    assert all(torch.equal(p, adapters[n]) for n, p in made.network.named_parameters() if n in adapters)
    trained = {n for n, p in made.network.named_parameters() if p.requires_grad}
    assert trained == {*adapters, "model.classifier.weight", "model.classifier.bias"}


def test_a_number_to_predict_has_feedback_of_rank_one():
    made, figures = prepared(tiny(num_classes=1), bert_batch(1), "mse", solver="seq_ls")
    assert {value for key, value in figures.items() if key.startswith("match/rank/")} == {1.0}
    assert not [key for key in figures if "accuracy" in key]
    assert made(bert_batch(1)).value.isfinite()


@pytest.mark.parametrize("tokens", ["all", "first"])
@pytest.mark.parametrize("case", ["bert", "vit"])
def test_scaled_feedback_sends_errors_of_the_size_of_backprops(case: str, tokens: str):
    network, batch, _ = CASES[case]
    made, _ = prepared(network(), x_y := batch(), solver="seq_ls", feedback_scale="bp", tokens=tokens, weight_match=0.0)
    x, y = x_y
    ends = made.rule.taps.names
    with observing(made.network), recording(made.network, ends) as seen:
        logits = made.network.eval()(x)
        outputs = [next(call.output for call in seen if call.name == end) for end in ends]
        error, *true = torch.autograd.grad(made.criterion(logits, y), [logits, *outputs])
    for delta, F in zip(true, made.rule.links.values(), strict=True):
        sent = (error @ F[:, 0]).norm()  # the squares of a text's shares add up to one
        assert sent.item() == pytest.approx(delta.norm().item(), rel=1e-9)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"blocks": "macro"}, "a whole block has several layers"),
    ],
)
def test_what_cannot_be_matched_in_a_transformer_is_refused(options: dict, said: str):
    network = tiny()
    with pytest.raises(UserError, match=said):
        Learner(network, FeedbackWeightMatching(tokens="all", **options), example_input(network, (3, 16)))
