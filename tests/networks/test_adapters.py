"""Adapters in networks: what trains, what merging leaves, what a resumed run knows."""

import copy

import lightning as L
import pytest
import timm
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from lit_fa.deployment.simplify import simplified
from lit_fa.errors import UserError
from lit_fa.modules import Classifier, Learner
from lit_fa.networks import Adapters, create_network, merge_adapters
from lit_fa.networks.adapters import adapted_layers
from lit_fa.rules import Backprop, DirectFeedbackAlignment, FeedbackAlignment

IMAGE, CLASSES = (3, 16, 16), 5
LORA = {"peft_type": "LORA", "r": 3, "target_modules": ["qkv", "fc1"]}
KINDS = {
    "lora": LORA,
    "dora": LORA | {"use_dora": True},
    "pissa": LORA | {"init_lora_weights": "pissa"},
    "adalora": {"peft_type": "ADALORA", "init_r": 4, "target_r": 1, "tinit": 1, "tfinal": 2, "deltaT": 1,
                "total_step": 8, "target_modules": ["qkv", "fc1"]},
    "ia3": {"peft_type": "IA3", "target_modules": ["qkv", "fc2"], "feedforward_modules": ["fc2"]},
}  # fmt: skip
RULES = {"backprop": Backprop, "fa": FeedbackAlignment, "dfa": lambda: DirectFeedbackAlignment(shape="per_channel")}


def vit() -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=8, depth=2, embed_dim=24, num_classes=CLASSES
    )


def task(n: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, *IMAGE, generator=generator), torch.randint(CLASSES, (n,), generator=generator)


def fit(module, steps: int, ckpt_path=None, **options) -> None:
    x, y = task()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = L.Trainer(max_steps=steps, log_every_n_steps=1, **quiet, **({"enable_checkpointing": False} | options))
    batches = DataLoader([*zip(x.split(6), y.split(6), strict=True)], batch_size=None)
    trainer.fit(module, batches, ckpt_path=ckpt_path, weights_only=False)


def classifier(adapter: dict, rule=Backprop) -> Classifier:
    return Classifier(vit(), rule(), CLASSES, IMAGE, adapter=adapter, optimizer=lambda p: torch.optim.Adam(p, lr=0.01))


@pytest.mark.parametrize(("rule", "kind"), [(r, k) for r in RULES for k in KINDS if (r, k) != ("fa", "adalora")])
def test_adapters_and_read_out_train_and_nothing_else_moves(rule: str, kind: str):
    module = classifier(KINDS[kind], RULES[rule])
    before = {name: p.detach().clone() for name, p in module.network.named_parameters()}
    trained = {name for name, p in module.network.named_parameters() if p.requires_grad}
    fit(module, 3)
    moved = {name for name, p in module.network.named_parameters() if not torch.equal(p, before[name])}
    assert moved <= trained
    assert {"head.weight", "head.bias"} < moved
    assert len(moved) >= 6


@pytest.mark.parametrize("rule", RULES)
def test_a_read_out_that_peft_copies_trains_as_its_copy_alone(rule: str):
    module = classifier(LORA | {"modules_to_save": ["head"]}, RULES[rule])
    before = {name: p.detach().clone() for name, p in module.network.named_parameters()}
    fit(module, 3)
    moved = {name for name, p in module.network.named_parameters() if not torch.equal(p, before[name])}
    assert {"head.modules_to_save.default.weight", "head.modules_to_save.default.bias"} < moved
    assert not [name for name in moved if "original_module" in name]
    network, x = module.network.eval(), task()[0]
    merged = merge_adapters(copy.deepcopy(network)) if rule == "backprop" else simplified(network, x)
    assert (merged(x) - network(x)).abs().max() < 1e-5
    assert [name for name, _ in merged.named_parameters()] == [name for name, _ in vit().named_parameters()]


@pytest.mark.parametrize("kind", KINDS)
def test_merging_changes_no_output_and_leaves_the_layers_that_were(kind: str):
    module = classifier(KINDS[kind])
    fit(module, 4)
    network, x = module.network.eval(), task()[0]
    expected = network(x)
    assert (expected - vit().eval()(x)).abs().max() > 1e-3
    merged = merge_adapters(copy.deepcopy(network))
    assert (merged(x) - expected).abs().max() < 1e-5
    assert [name for name, _ in merged.named_parameters()] == [name for name, _ in vit().named_parameters()]
    exported = simplified(network, x)
    assert (exported(x) - expected).abs().max() < 1e-5
    assert not adapted_layers(exported)


def test_the_gradient_of_a_lora_factor_is_that_of_the_weight_it_adds_to():
    network = vit().double()
    Adapters(network, LORA | {"lora_alpha": 6})
    for name, p in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.1)
    merged = merge_adapters(copy.deepcopy(network)).requires_grad_(True)
    example, (x, y) = torch.zeros(2, *IMAGE, dtype=torch.float64), task()
    learners = [Learner(n, DirectFeedbackAlignment(shape="per_channel"), example) for n in (network, merged)]
    for learner in learners:
        learner((x.double(), y)).value.backward()
    for name, layer in adapted_layers(network).items():
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        dense = merged.get_submodule(name).weight.grad
        assert torch.allclose(a.grad, 2 * b.t() @ dense, atol=1e-12)
        assert torch.allclose(b.grad, 2 * dense @ a.t(), atol=1e-12)


def test_adalora_gives_ranks_away_and_a_resumed_run_knows_which(tmp_path):
    saved = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=1)
    whole, resumed = classifier(KINDS["adalora"]), classifier(KINDS["adalora"])
    fit(whole, 8, enable_checkpointing=True, callbacks=[saved])
    fit(resumed, 8, ckpt_path=tmp_path / "step=4.ckpt")
    for (name, p), q in zip(whole.network.state_dict().items(), resumed.network.state_dict().values(), strict=True):
        assert torch.equal(p, q), name
    values = [layer.lora_E["default"] for layer in adapted_layers(whole.network).values()]
    assert sum(int((e != 0).sum()) for e in values) == 4  # of 16; target_r is 1 in four layers


@pytest.mark.parametrize(
    ("adapter", "said"),
    [
        ({"peft_type": "LORAX"}, "peft_type is 'LORAX'; nearest: LORA"),
        ({}, "peft_type is ''; valid: "),
        (LORA | {"rank": 3}, "LORA has no option 'rank'; nearest: rank_pattern"),
        (LORA | {"target_modules": ["qvk"]}, "not found in the base model"),
        ({"peft_type": "LORA", "r": 3}, "target_modules"),
        ({"peft_type": "PREFIX_TUNING"}, "PREFIX_TUNING does not fit this network"),
    ],
)
def test_what_peft_refuses_is_one_line(adapter: dict, said: str):
    with pytest.raises(UserError, match=said) as refusal:
        Classifier(vit(), None, CLASSES, IMAGE, adapter=adapter)
    assert "\n" not in str(refusal.value)


def test_feedback_alignment_names_the_adapters_that_are_no_layers():
    with pytest.raises(UserError, match=r"weights: .*lora_A\.default"):
        classifier(KINDS["adalora"], FeedbackAlignment)


def test_a_read_out_with_an_adapter_of_its_own_stays_frozen():
    network = create_network("mlp", 4, (1, 4, 4), hidden=[8])
    Adapters(network, {"peft_type": "LORA", "r": 2, "target_modules": "all-linear"})
    assert all("lora_" in name for name, p in network.named_parameters() if p.requires_grad)
