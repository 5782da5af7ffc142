"""Networks that nobody wrote for these rules: reached in full, or refused by the name of what is not."""

from functools import partial

import peft
import pytest
import timm
import torch
from torch import nn

from lit_fa.errors import UserError
from lit_fa.layers import SnapshotFeedback, feedback_layers, true_gradient
from lit_fa.layers.factored import factored_layers
from lit_fa.modules import Learner
from lit_fa.rules import Backprop, DirectFeedbackAlignment, FeedbackAlignment, SVDBackprop, SVDSpaceAlignment
from tests.gradients import gradients, largest_difference, taken

# timm name: (arguments, image side); narrow and shallow, for what is asked is asked of every kind of block
FAMILIES = {
    "resnet10t": ({"channels": (16, 16, 24, 32)}, 32),
    "vit_tiny_patch16_224": ({"img_size": 32, "depth": 2, "embed_dim": 48}, 32),
    "convnext_atto": ({"depths": (1, 1, 2, 1), "dims": (8, 12, 16, 24)}, 32),
    "swinv2_tiny_window8_256": ({"img_size": 64, "window_size": 4, "embed_dim": 24, "depths": (1, 1, 1, 1)}, 64),
    "beit_base_patch16_224": ({"img_size": 32, "depth": 2, "embed_dim": 48, "num_heads": 2}, 32),
    "nf_resnet26": ({"depths": (1, 1, 1, 1), "channels": (32, 48, 64, 96)}, 32),
    "test_efficientnet": ({}, 32),
    "mlp_mixer": ({"img_size": 32, "patch_size": 8, "num_blocks": 2, "embed_dim": 32}, 32),
    "mobilevit_xxs": ({}, 64),
    "regnetx_002": ({"depth": 7}, 32),
    "densenet121": ({"block_config": (2, 2, 2), "growth_rate": 8}, 32),
}
# calls F.linear(x, self.qkv.weight) itself: the name that the error must say
REFUSED = {"swinv2_tiny_window8_256": "blocks.0.attn.qkv.weight", "beit_base_patch16_224": "blocks.0.attn.qkv.weight"}
REACHED = [name for name in FAMILIES if name not in REFUSED]


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    # no registered mixer takes other sizes
    build = {"mlp_mixer": timm.models.mlp_mixer.MlpMixer}.get(name, partial(timm.create_model, name))
    # eval: BatchNorm with the statistics of the batch would amplify rounding on maps of one pixel
    return build(num_classes=5, **FAMILIES[name][0]).eval().double()


def batch(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    side = FAMILIES[name][1]
    return torch.randn(2, 3, side, side, dtype=torch.float64), torch.tensor([1, 3])


def learner(name: str, rule: object) -> Learner:
    return Learner(network(name), rule, torch.zeros(2, 3, *[FAMILIES[name][1]] * 2, dtype=torch.float64))


@pytest.mark.parametrize("name", REACHED)
def test_a_timm_family_is_reached_in_full(name: str):
    xy = batch(name)
    plain = learner(name, Backprop())
    expected = gradients(plain, xy)
    snapshot = learner(name, FeedbackAlignment(SnapshotFeedback("none")))
    assert snapshot.coverage.transported == snapshot.coverage.unreached == []
    assert len(feedback_layers(snapshot.network)) > 5
    assert torch.equal(snapshot(xy).logits, plain(xy).logits)
    scale = max(g.abs().max().item() for g in expected.values())
    assert largest_difference(gradients(snapshot, xy), expected) < 1e-12 * scale


@pytest.mark.parametrize("name", REACHED)
def test_random_feedback_in_a_timm_family_moves_every_layer_but_the_last_off_backprop(name: str):
    fa, xy = learner(name, FeedbackAlignment()), batch(name)
    grads = gradients(fa, xy)
    with true_gradient(fa.network):
        truth = gradients(fa, xy)
    same = [n for n in grads if torch.equal(grads[n], truth[n]) and grads[n].abs().max() > 0]
    last = [name for name, _ in fa.network.named_parameters()][-2:]
    assert set(same) <= {f"network.{name}" for name in last}


@pytest.mark.parametrize("name", REFUSED)
def test_a_family_that_goes_around_its_modules_is_refused_by_name(name: str):
    with pytest.raises(UserError, match=REFUSED[name].replace(".", r"\.")):
        learner(name, FeedbackAlignment())
    allowed = learner(name, FeedbackAlignment(uncovered="allow"))
    assert any(REFUSED[name] in transported for transported in allowed.coverage.transported)


@pytest.mark.parametrize("name", FAMILIES)
def test_direct_feedback_cuts_every_timm_family(name: str):
    dfa, xy = learner(name, DirectFeedbackAlignment(shape="per_channel", uncovered="warn")), batch(name)
    assert len(dfa.rule.feedback) >= 2
    assert torch.equal(dfa(xy).logits, learner(name, Backprop())(xy).logits)
    fused = gradients(dfa, xy)
    dfa.stream(xy, lambda value: value.backward())
    scale = max(g.abs().max().item() for g in fused.values())
    assert largest_difference(taken(dfa), fused) < 1e-12 * scale


# where no shortcut goes around a layer's cut, and every layer's rows are samples
LAYERED = ("resnet10t", "test_efficientnet", "regnetx_002")


@pytest.mark.parametrize("name", REACHED)
def test_ssa_with_the_weights_for_feedback_is_svd_training_on_a_timm_family(name: str):
    xy = batch(name)
    options = {"rank": 0.2, "dense": "unfactorable", "uncovered": "allow"}  # NF-ResNet's gains carry error, being dense
    ssa = learner(name, SVDSpaceAlignment("sequential", feedback="copy", **options))
    plain = learner(name, SVDBackprop(**options))
    assert len(factored_layers(ssa.network)) + len(ssa.rule.dense_layers) > 5
    expected = gradients(plain, xy)
    scale = max(g.abs().max().item() for g in expected.values())
    assert largest_difference(gradients(ssa, xy), expected) < 1e-12 * scale


@pytest.mark.parametrize("name", FAMILIES)
def test_ssa_cuts_every_timm_family_that_it_reaches(name: str):
    options = {"blocks": "layer" if name in LAYERED else "block", "rank": 0.2, "dense": "unfactorable"}
    rule = SVDSpaceAlignment("direct_random", shape="per_channel", uncovered="warn", **options)
    ssa, xy = learner(name, rule), batch(name)
    fused = gradients(ssa, xy)
    ssa.stream(xy, lambda value: value.backward())
    scale = max(g.abs().max().item() for g in fused.values())
    assert largest_difference(taken(ssa), fused) < 1e-12 * scale


@pytest.mark.parametrize("rule", [DirectFeedbackAlignment, SVDSpaceAlignment])
@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in LAYERED])
def test_layers_that_cannot_be_cut_one_by_one_are_refused_with_what_to_do(name: str, rule: type):
    dense = {"dense": "unfactorable", "rank": 0.2} if rule is SVDSpaceAlignment else {}
    with pytest.raises(UserError, match=r"(a shortcut bypasses a block|rows \(windows, patches\)).*blocks: block"):
        learner(name, rule(blocks="layer", uncovered="warn", **dense))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(6, 8), nn.Linear(8, 5)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        return self.head(self.attention(x, x, x)[0].mean(1))


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return nn.Sequential(nn.Linear(6, 8), layer, nn.Flatten(), nn.Linear(24, 5))


@pytest.mark.parametrize(
    ("build", "names"),
    [
        (Attention, ["attention.in_proj_weight", "attention.out_proj.weight"]),
        (encoder, ["1.self_attn.in_proj_weight", "1.self_attn.out_proj.weight"]),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_torchs_own_attention_is_refused_by_name(build: type, names: list[str], training: bool):
    with pytest.raises(UserError) as refusal:
        Learner(build().train(training), FeedbackAlignment(), torch.zeros(2, 3, 6))
    assert all(name in str(refusal.value) for name in names)
    assert "\n" not in str(refusal.value)


def test_only_the_adapters_of_a_lora_network_train():
    def build() -> nn.Module:
        torch.manual_seed(0)
        vit = timm.create_model("vit_tiny_patch16_224", num_classes=5, img_size=32, depth=2)
        config = peft.LoraConfig(r=2, target_modules=["qkv", "proj"], init_lora_weights="gaussian")
        adapted = peft.get_peft_model(vit, config).double()
        for name, p in adapted.named_parameters():
            if "lora_B" in name:  # zero at the start: no error would reach lora_A
                nn.init.normal_(p, std=0.1)
        return adapted

    example = torch.zeros(2, 3, 32, 32, dtype=torch.float64)
    xy = batch("vit_tiny_patch16_224")
    fa = Learner(build(), FeedbackAlignment(), example)
    plain = Learner(build(), Backprop(), example)
    snapshot = Learner(build(), FeedbackAlignment(SnapshotFeedback("none")), example)
    assert fa.coverage.transported == []
    grads, expected = gradients(fa, xy), gradients(plain, xy)
    assert grads.keys() == {name for name, _ in fa.named_parameters() if "lora_" in name}
    assert largest_difference(gradients(snapshot, xy), expected) < 1e-14
    assert largest_difference(grads, expected) > 1e-6
    before = {name: p.detach().clone() for name, p in fa.named_parameters()}
    optimizer = torch.optim.SGD(fa.parameters(), lr=0.1, weight_decay=0.1)
    fa(xy).value.backward()
    optimizer.step()
    moved = {name for name, p in fa.named_parameters() if not torch.equal(p, before[name])}
    assert moved == grads.keys()


def test_a_weight_that_is_shared_by_two_layers_is_still_shared():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.twice, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.twice(self.twice(self.first(x)).tanh()))

    example, xy = torch.zeros(2, 4), (torch.randn(3, 4), torch.tensor([0, 1, 2]))
    torch.manual_seed(2)
    plain = Learner(Shared(), Backprop(), example)
    torch.manual_seed(2)
    snapshot = Learner(Shared(), FeedbackAlignment(SnapshotFeedback("none")), example)
    assert largest_difference(gradients(snapshot, xy), gradients(plain, xy)) < 1e-6
    assert [*feedback_layers(snapshot.network)] == ["twice", "head"]


@pytest.mark.parametrize("rule", [FeedbackAlignment, DirectFeedbackAlignment])
def test_installing_leaves_modes_buffers_and_random_state_alone(rule: type):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 5))
    before, state = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    Learner(net, rule(), torch.zeros(2, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in before.items())
    assert net.training
    assert all(p.grad is None for p in net.parameters())
