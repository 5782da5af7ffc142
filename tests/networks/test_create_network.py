"""Any timm network by name, fitted to the data; and every mistake answered with one line."""

import pytest
import timm
import torch
from torch import nn

from lit_fa.errors import UserError
from lit_fa.modules import Classifier
from lit_fa.networks import create_network, network_names

TAKES_ANY_SIZE = ["resnet18", "convnext_atto", "mobilenetv3_small_050", "efficientnet_b0", "regnetx_002"]
WEIGHTS_DEPEND_ON_THE_SIZE = [
    "vit_tiny_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "mixer_s16_224",
    "swinv2_cr_tiny_ns_224",
    "levit_128s",
    "pit_ti_224",
]


@pytest.mark.parametrize("name", TAKES_ANY_SIZE + WEIGHTS_DEPEND_ON_THE_SIZE)
def test_timm_networks_fit_gray_images_of_64_pixels_and_seven_classes(name):
    network = create_network(name, 7, (1, 64, 64)).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 1, 64, 64)).shape == (1, 7)


def test_looking_up_the_constructor_does_not_touch_the_random_numbers():
    torch.manual_seed(3)
    ours = create_network("resnet18", 10, (3, 32, 32)).state_dict()
    torch.manual_seed(3)
    timms = timm.create_model("resnet18", num_classes=10).state_dict()
    assert all(torch.equal(ours[key], timms[key]) for key in timms)


def test_the_same_seed_gives_the_same_network():
    weights = []
    for _ in range(2):
        torch.manual_seed(5)
        weights.append(create_network("lenet_wide", 10).head.weight)
    assert torch.equal(*weights)


def test_our_names_overwrite_none_of_timm():
    own_modules = [timm.models.model_entrypoint(name).__module__ for name in network_names()]
    assert all(module.startswith("lit_fa.networks.") for module in own_modules)
    assert len(own_modules) == len(set(network_names())) >= 18
    assert timm.models.model_entrypoint("vgg13").__module__.startswith("timm.")


def test_network_args_reach_the_network():
    assert create_network("vit_tiny_patch16_224", 10, (3, 32, 32), patch_size=4).patch_embed.num_patches == 64
    assert create_network("botnet26t_256", 10, (3, 64, 64), width_factor=0.5).num_features == 1024


@pytest.mark.parametrize(
    ("name", "network_args", "line"),
    [
        ("lenett", {}, "network 'lenett' is unknown to timm and to lit-fa; nearest: lenet"),
        ("resnet_18", {}, "network 'resnet_18' is unknown .* resnet18"),
        ("mlp", {"hiden": [3]}, "mlp has no option 'hiden'; nearest: hidden"),
        ("resnet18", {"drop_rte": 0.1}, "resnet18 has no option 'drop_rte'; nearest: drop_rate"),
        ("deit_tiny_distilled_patch16_224", {"dpth": 3}, "no option 'dpth'; nearest: depth"),
        ("botnet26t_256", {"width_facto": 2}, "no option 'width_facto'; nearest: width_factor"),
        ("mlp", {"in_chans": 3}, "mlp: in_chans follows from the data"),
        ("mlp", {"pretrained": True}, "mlp has no pretrained weights: set pretrained: false"),
        ("resnet18.nobody", {"pretrained": True}, "resnet18.nobody has no pretrained weights: set pretrained: false"),
    ],
)
def test_a_mistake_is_answered_with_one_line(name, network_args, line):
    with pytest.raises(UserError, match=line) as raised:
        create_network(name, 10, (1, 28, 28), **network_args)
    assert "\n" not in str(raised.value)


def test_a_network_without_parameters_is_refused():
    with pytest.raises(UserError, match="network: Identity has no parameters"):
        Classifier(nn.Identity(), num_classes=3, image_shape=(1, 8, 8))


def test_pretrained_weights_that_cannot_be_fetched_are_answered_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"resnet10t .* download them first .* or set pretrained: false") as raised:
        create_network("resnet10t", 10, (3, 64, 64), pretrained=True, cache_dir=tmp_path)
    assert "\n" not in str(raised.value)


def test_pretrained_weights_load_and_fit_the_channels_and_the_classes(tmp_path):
    donor = timm.create_model("resnet10t")
    path = tmp_path / "donor.pth"
    torch.save(donor.state_dict(), path)
    overlay = {"file": str(path)}  # timm's own way of saying where the weights are
    network = create_network("resnet10t", 5, (1, 64, 64), pretrained=True, pretrained_cfg_overlay=overlay)
    assert network.fc.out_features == 5
    assert torch.equal(network.layer1[0].conv1.weight, donor.layer1[0].conv1.weight)
    torch.testing.assert_close(network.conv1[0].weight, donor.conv1[0].weight.sum(1, keepdim=True))
