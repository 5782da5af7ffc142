"""Direct feedback behind the parts of Transformers: exact, blind to padding, and refused where a cut would leak."""

import pytest
import timm
import torch
from torch import nn

from lit_fa.errors import UserError
from lit_fa.layers import find_blocks
from lit_fa.layers.observing import observing
from lit_fa.modules import Learner
from lit_fa.networks import Adapters, example_input
from lit_fa.rules import Backprop, DirectFeedbackAlignment, FeedbackAlignment, SnapshotFeedback
from tests.contract.costs import peak_bytes
from tests.gradients import gradients, largest_difference, taken
from tests.reference import transformer_direct_feedback as reference
from tests.texts import TINY, text_batch, tiny

SHARES, PRESETS = ("all", "mean", "first"), ("macro", "micro")
LENGTHS = (7, 4, 2, 6)


def vit(name: str = "vit_tiny_patch16_224", **changes: object) -> nn.Module:
    torch.manual_seed(0)
    size = {"img_size": 8, "patch_size": 4, "embed_dim": 12, "num_heads": 2, "depth": 2} | changes
    return timm.create_model(name, num_classes=3, **size).eval().double()


def learner(network: nn.Module, criterion: str = "cross_entropy", **options: object) -> Learner:
    return Learner(network, DirectFeedbackAlignment(**options), example_input(network, (3, 8, 8)), criterion)


def images(n: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(n, 3, 8, 8, dtype=torch.float64), torch.arange(n) % 3


def weights(network: nn.Module, prefix: str = "") -> dict[str, torch.Tensor]:
    return {n.removeprefix(prefix): p.detach().clone().requires_grad_() for n, p in network.named_parameters()}


def feedback(made: Learner, prefix: str = "") -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): F[:, 0].double() for name, F in made.rule.links.items()}


def as_ours(grads: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {f"network.{prefix}{name}": g for name, g in grads.items()}


@pytest.mark.parametrize("kind", SHARES)
@pytest.mark.parametrize("preset", PRESETS)
def test_the_gradients_of_a_bert_are_those_written_out_by_hand(preset: str, kind: str):
    made, (x, y) = learner(tiny(), blocks=preset, tokens=kind, seed=3), text_batch(LENGTHS)
    W = weights(made.network, "model.")
    points = reference.bert_points(W, x, heads=2, layers=2, preset=preset)
    assert [name for name, _ in points] == [*feedback(made, "model.")]
    expected = reference.grads(W, points, reference.bert_head, y, feedback(made, "model."), x[:, 1], kind)
    assert largest_difference(gradients(made, (x, y)), as_ours(expected, "model.")) < 1e-10


@pytest.mark.parametrize("kind", SHARES)
@pytest.mark.parametrize("preset", PRESETS)
def test_the_gradients_of_a_vision_transformer_are_those_written_out_by_hand(preset: str, kind: str):
    made, (x, y) = learner(vit(), blocks=preset, tokens=kind, seed=3), images()
    W = weights(made.network)
    points = reference.vit_points(W, x, patch=4, heads=2, layers=2, preset=preset)
    expected = reference.grads(W, points, reference.vit_head, y, feedback(made), torch.ones(len(x), 5), kind)
    assert largest_difference(gradients(made, (x, y)), as_ours(expected, "")) < 1e-10


def test_a_number_is_learned_by_its_own_error():
    made, (x, _) = learner(tiny(num_classes=1), "mse", blocks="micro", tokens="all"), text_batch(LENGTHS)
    y = torch.tensor([0.5, 4.0, 2.5, 3.0], dtype=torch.float64)
    W = weights(made.network, "model.")
    points = reference.bert_points(W, x, heads=2, layers=2, preset="micro")
    given = (feedback(made, "model."), x[:, 1], "all", "mse")
    expected = reference.grads(W, points, reference.bert_head, y, *given)
    assert largest_difference(gradients(made, (x, y)), as_ours(expected, "model.")) < 1e-10


@pytest.mark.parametrize("teacher", ["error", "target"])
@pytest.mark.parametrize("kind", SHARES)
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("model", [*TINY, "vit"])
def test_streaming_gives_the_same_gradients_for_texts_of_any_length(model: str, preset: str, kind: str, teacher: str):
    network = vit() if model == "vit" else tiny(model)
    made = learner(network, blocks=preset, tokens=kind, teacher=teacher)
    for batch in [images()] if model == "vit" else [text_batch((7, 4, 2)), text_batch((11, 12))]:
        fused = gradients(made, batch)
        assert len(fused) == len([*network.parameters()])
        made.stream(batch, lambda value: value.backward())
        assert largest_difference(taken(made), fused) < 1e-14


@pytest.mark.parametrize("kind", SHARES)
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("model", TINY)
def test_padding_gets_no_error_and_changes_nothing(model: str, preset: str, kind: str):
    made = learner(tiny(model), blocks=preset, tokens=kind)
    short, long = text_batch(LENGTHS), text_batch(LENGTHS, longest=13)
    assert largest_difference(gradients(made, short), gradients(made, long)) < 1e-14
    outputs = []
    with observing(made.network), made.rule.taps.visited_by(lambda name, h: outputs.append((name, h))):
        made.network(long[0])
    mask = long[0][:, 1]
    for name, h in outputs:
        link = made.rule._link(name, h, mask)
        (error,) = torch.autograd.grad(link.sum(), h)
        reached = error.abs().sum(-1) > 0
        assert not reached[mask == 0].any()
        assert torch.equal(reached, (mask == 1) & ((torch.arange(13) == 0) | (kind != "first")))


@pytest.mark.parametrize("model", TINY)
def test_an_encoder_has_three_points_a_block_or_one(model: str):
    network = tiny(model)
    macro, micro = ([block.name for block in find_blocks(network, network.example(), preset)] for preset in PRESETS)
    assert (len(micro), len(macro)) == (6, 2)
    layer = "model.distilbert.transformer.layer.0" if model == "distilbert" else f"model.{model}.encoder.layer.0"
    assert macro[0] == layer
    parts = ("sa_layer_norm", "ffn.activation", "output_layer_norm")
    parts = parts if model == "distilbert" else ("attention.output", "intermediate", "output")
    assert micro[:3] == [f"{layer}.{part}" for part in parts]


def test_a_vision_transformer_is_cut_behind_its_embedding_too():
    network = vit()
    names = [block.name for block in find_blocks(network, torch.zeros(2, 3, 8, 8, dtype=torch.float64), "micro")]
    assert names[:4] == ["norm_pre", "blocks.0.attn", "blocks.0.mlp.act", "blocks.0"]
    assert len(names) == 7


def test_feedback_is_one_matrix_for_all_tokens_and_scaled_like_any_other():
    made = learner(tiny(), blocks="micro", tokens="all", seed=2)
    assert {tuple(F.shape) for F in made.rule.links.values()} == {(3, 1, 8), (3, 1, 12)}
    shared = learner(tiny(), blocks="micro", tokens="all", shape="shared").rule.links
    first, wide = (F[:, 0] for F in [*shared.values()][:2])
    assert torch.allclose(first * 8**0.5, wide[:, :8] * 12**0.5, atol=1e-6)


def test_what_stands_inside_a_segment_learns_locally_and_is_reported():
    made = learner(tiny(), blocks="micro", tokens="all")
    assert made.coverage.unreached == []
    inside = {name.split("layer.")[-1] for name in made.coverage.transported}
    assert {
        "1.attention.output.dense.weight",
        "0.attention.self.value.weight",
    } <= inside  # the latter to the embeddings
    assert not any("intermediate" in name or "embeddings" in name for name in inside)


def test_without_tokens_feedback_in_a_vision_transformer_is_what_it_was():
    made = learner(vit(), blocks=["blocks.0", "blocks.1"])
    assert {tuple(F.shape) for F in made.rule.links.values()} == {(3, 5, 12)}


@pytest.mark.parametrize(
    ("network", "options", "line"),
    [
        (tiny, {"blocks": "macro"}, "texts differ in length: set the rule's tokens to one of all, first, mean"),
        (tiny, {"blocks": "block", "tokens": "all"}, "set blocks: macro, or name the ends"),
        (tiny, {"blocks": ["model.bert.pooler"], "tokens": "all"}, "tokens is for blocks whose output is"),
        (
            tiny,
            {"blocks": ["*.layer.0", "*.pooler"], "tokens": "all"},
            "padding is unknown after model.bert.pooler",
        ),
        (tiny, {"blocks": ["*.layer.?.intermediate"], "tokens": "all"}, "a shortcut bypasses a block boundary"),
        (tiny, {"blocks": "macro", "tokens": "some"}, "tokens is one of all, first, mean, null, not 'some'"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 3)).double(), {"blocks": "micro"}, "this network has none"),
        (vit, {"blocks": ["*.attn"], "tokens": "all"}, "a shortcut bypasses a block boundary"),
        (
            lambda: vit(class_token=False, global_pool="avg"),
            {"blocks": "macro", "tokens": "first"},
            "needs a class token, and this network has none: use all or mean",
        ),
    ],
)
def test_what_cannot_be_cut_or_shared_is_refused_in_one_line(network, options: dict, line: str):
    with pytest.raises(UserError) as error:
        learner(network(), **options)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_gates_inside_a_block_are_refused_under_micro_and_cut_under_macro():
    def gated() -> nn.Module:
        return timm.create_model("eva02_tiny_patch14_224", num_classes=3, img_size=28, depth=2)

    example = torch.zeros(2, 3, 28, 28)
    with pytest.raises(UserError, match=r"a shortcut bypasses a block boundary.*fc1.*blocks: block"):
        Learner(gated(), DirectFeedbackAlignment(blocks="micro", tokens="all"), example)
    macro = Learner(gated(), DirectFeedbackAlignment(blocks="macro", tokens="all"), example)
    assert [*macro.rule.links] == ["blocks.0", "blocks.1"]


def test_attention_in_windows_is_refused_under_micro():
    size = {"img_size": 64, "window_size": 4, "embed_dim": 24, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 4)}
    windows = timm.create_model("swinv2_tiny_window8_256", num_classes=3, **size)
    with pytest.raises(UserError, match=r"windows, patches"):
        Learner(windows, DirectFeedbackAlignment(blocks="micro", tokens="all"), torch.zeros(2, 3, 64, 64))


@pytest.mark.parametrize("model", TINY)
def test_feedback_alignment_reaches_an_encoder_in_full(model: str):
    batch = text_batch(LENGTHS)

    def with_rule(rule) -> Learner:
        network = tiny(model)
        return Learner(network, rule, network.example())

    expected = gradients(with_rule(Backprop()), batch)
    snapshot = with_rule(FeedbackAlignment(SnapshotFeedback("none")))
    assert snapshot.coverage.transported == snapshot.coverage.unreached == []
    assert largest_difference(gradients(snapshot, batch), expected) < 1e-12
    assert largest_difference(gradients(with_rule(FeedbackAlignment()), batch), expected) > 1e-6


@pytest.mark.parametrize("adapters", [False, True])
def test_peak_bytes_of_streaming_do_not_grow_with_depth(adapters: bool):
    def peak(depth: int) -> int:
        network = vit(depth=depth)
        if adapters:
            Adapters(network, {"peft_type": "LORA", "r": 2, "target_modules": ["qkv", "fc1", "fc2"]})
        made, batch = learner(network, blocks="micro", tokens="all"), images(64)

        def free(value: torch.Tensor) -> None:
            value.backward()
            made.zero_grad(set_to_none=True)

        return peak_bytes(lambda: made.stream(batch, free))

    assert peak(12) <= 1.1 * peak(3)
