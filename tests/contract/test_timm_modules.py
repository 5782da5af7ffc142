"""One model of every module of timm under feedback alignment: accepted, or refused by the name of what transports."""

import pytest
import timm
import torch
from torch import nn

from lit_fa.errors import UserError
from lit_fa.modules import Learner
from lit_fa.networks.registry import is_ours
from lit_fa.rules import FeedbackAlignment

# the smallest of each module, and more where a module holds several kinds
MODELS = [
    "beit_base_patch16_224", "halonet_h1", "test_byobnet", "cait_xxs24_224", "coat_tiny", "convit_tiny",
    "convmixer_768_32", "test_convnext", "cpubone_nano", "crossvit_tiny_240", "csatv2", "cs3darknet_focus_s",
    "cspnext_tiny", "davit_tiny", "deepseek_vit_412m", "deit_tiny_patch16_224", "densenet121", "dla46x_c", "dpn48b",
    "edgenext_xx_small", "efficientformer_l1", "efficientformerv2_s0", "test_efficientnet", "efficientvim_m1",
    "efficientvit_b0", "efficientvit_m0", "vit_tiny_patch16_dinov3_qkvb", "fasternet_t0", "fastvit_t8",
    "focalnet_tiny_srf", "gcvit_xxtiny", "gemma4_vit_167m", "ghostnet_050", "hardcorenas_b", "hgnetv2_b0",
    "hiera_tiny_224", "sam2_hiera_tiny", "hrnet_w18_small", "iformer_t", "inception_next_atto", "inception_resnet_v2",
    "inception_v3", "inception_v4", "lcnetv2_small", "levit_128s", "lowformer_b0", "test_mambaout", "test_coatnet",
    "poolformerv2_s12", "gmlp_ti16_224", "mobilenetv3_small_050", "mobilenetv5_base", "mobilevit_xxs", "mvitv2_tiny",
    "naflexvit_base_patch16_parfac_gap", "nasnetalarge", "nest_tiny", "nextvit_small", "test_nfnet", "pit_ti_224",
    "pnasnet5large", "pvt_v2_b0", "qwen3_vit_88m", "rdnet_tiny", "regnetx_002", "repghostnet_050", "repvit_m1",
    "res2next50", "resnest14d", "test_resnet", "resnetv2_18", "rexnet_100", "selecsls42", "legacy_seresnet18",
    "sequencer2d_s", "shvit_s1", "skresnet18", "starnet_s050", "swiftformer_xs", "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window16_256", "swinv2_cr_tiny_224", "tiny_vit_5m_224", "tnt_s_legacy_patch16_224", "tresnet_m",
    "twins_svt_small", "vgg11", "visformer_tiny", "test_vit", "vit_tiny_r_s16_p8_224", "test_vit_relpos",
    "samvit_base_patch16_224", "vitamin_small_224", "volo_d1_224", "ese_vovnet19b_slim_dw", "legacy_xception",
    "xception41p", "xcit_nano_12_p8_224", "resmlp_12_224", "mixer_s16_224", "convnextv2_atto",
    "vit_base_patch16_siglip_224", "resnetv2_50d_evos", "resnetv2_50d_frn", "botnet26t_256",
]  # fmt: skip

# model to the end of the name of a weight that carries error: called by F.linear, a position that multiplies, an LSTM
REFUSED = {
    "beit_base_patch16_224": "attn.qkv.weight",
    "vit_tiny_patch16_dinov3_qkvb": "attn.qkv.weight",
    "swinv2_tiny_window16_256": "attn.qkv.weight",
    "halonet_h1": "pos_embed.height_rel",
    "botnet26t_256": "pos_embed.height_rel",
    "mvitv2_tiny": "attn.rel_pos_h",
    "samvit_base_patch16_224": "attn.rel_pos_h",
    "swiftformer_xs": "attn.w_g",
    "sequencer2d_s": "rnn_h.weight_hh_l0",
}
FAST = [
    "test_vit", "test_coatnet", "test_nfnet", "starnet_s050", "edgenext_xx_small", "xcit_nano_12_p8_224",
    "convit_tiny",
]  # fmt: skip

SIDES = ({"img_size": 64}, 64), ({"img_size": 70, "depth": 2}, 70), ({}, 96), ({}, 256), ({}, 224)


def verdict(name: str, **options: object) -> str:
    """What feedback alignment says to the model, "" if nothing; with the first image size that the model takes."""
    for size, side in SIDES:
        try:
            torch.manual_seed(0)
            network = timm.create_model(name, num_classes=5, **size, **options).eval()
            network(example := torch.zeros(2, 3, side, side))
        except (TypeError, RuntimeError, ValueError, AssertionError):
            continue
        return said(network, example)
    raise AssertionError(f"no image size fits {name}")


def said(network: nn.Module, example: torch.Tensor) -> str:
    try:
        Learner(network, FeedbackAlignment(), example)
    except UserError as refusal:
        return str(refusal)
    return ""


def test_every_module_of_timm_is_tried():
    modules = {timm.models.model_entrypoint(name).__module__ for name in timm.list_models() if not is_ours(name)}
    tried = {timm.models.model_entrypoint(name).__module__ for name in MODELS}
    assert tried == modules


@pytest.mark.parametrize("name", FAST)
def test_scalings_temperatures_and_positions_are_accepted(name: str):
    assert verdict(name) == ""


def test_the_lstms_of_a_sequencer_are_refused_by_name():
    refusal = verdict("sequencer2d_s", layers=(1, 1, 1, 1), embed_dims=(12, 24, 24, 24), hidden_sizes=(4, 8, 8, 8))
    assert "blocks.0.rnn_tokens.rnn_h (nn.LSTM)" in refusal
    assert "write them with nn.Linear layers" in refusal


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODELS if name not in FAST])
def test_no_model_is_refused_but_those_with_a_weight_that_carries_error(name: str):
    refusal = verdict(name)
    assert REFUSED.get(name, "") in refusal
    assert bool(refusal) is (name in REFUSED)
