"""What every network of ours promises to rules, hooks and transforms; and their sizes as published."""

import copy
import pickle
from itertools import product

import pytest
import timm
import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from lit_fa.errors import UserError
from lit_fa.networks import create_network, network_names
from lit_fa.networks.parts import ACTIVATIONS, activation_named
from tests.grids import slow_unless

NAMES = network_names()
GRAY_32 = ["lenet", "mlp"]
WIDE = ("resnet50_small", "resnet18_small", "vgg13_cifar", "vgg13_bn")


def small(name, **network_args):
    return create_network(name, 7, (1 if name in GRAY_32 else 3, 32, 32), **network_args)


def images(name, n=4, dtype=torch.float32):
    return torch.randn(n, 1 if name in GRAY_32 else 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("name", NAMES)
def test_timm_builds_each_with_its_defaults(name):
    network = timm.create_model(name)
    channels, side = (1, 28) if name in GRAY_32 else (3, 32)
    assert network(torch.zeros(2, channels, side, side)).shape == (2, 10)


@pytest.mark.parametrize("name", NAMES)
def test_chaining_the_blocks_and_the_head_is_the_network(name):
    network, values = small(name).eval(), images(name)
    expected = network(values)
    for block in network.blocks:
        values = block(values)
    assert torch.equal(network.head(values), expected)
    assert [child for child, _ in network.named_children()] == ["blocks", "head"]
    assert isinstance(list(network.modules())[-1], nn.Linear)


@pytest.mark.parametrize("name", NAMES)
def test_no_module_runs_twice(name):
    network, calls = small(name), {}
    for path, module in network.named_modules():
        module.register_forward_hook(lambda *_, path=path: calls.update({path: calls.get(path, 0) + 1}))
    network(images(name))
    assert calls == dict.fromkeys([path for path, _ in network.named_modules()], 1)


# GroupNorm divides by what it measures; ShuffleNet's activations are torchvision's; a softmax stays
NOT_AFFINE = ["activation_first_mlp", "conv2_group_norm", "shufflenetv2_100"]


@pytest.mark.parametrize("name", slow_unless(lambda name: name not in WIDE, zip(sorted({*NAMES} - {*NOT_AFFINE}))))
def test_activations_replaced_by_the_identity_leave_no_other_nonlinearity(name):
    # in evaluation mode, with mean pools for maximum pools, what remains is affine: f(a + b) + f(0) = f(a) + f(b)
    network = small(name, activation="identity").double().eval()
    for module in list(network.modules()):
        for child_name, child in module.named_children():
            if isinstance(child, nn.MaxPool2d):
                setattr(module, child_name, nn.AvgPool2d(2))
    a, b = images(name, dtype=torch.float64), images(name, dtype=torch.float64).flip(0)
    torch.testing.assert_close(network(a + b) + network(0 * a), network(a) + network(b))


@pytest.mark.parametrize(
    ("name", "dtype"),  # a processor without bfloat16 instructions takes seconds for a wide network
    slow_unless(
        lambda name, dtype: dtype is torch.float64 or name in ("mlp", "lenet", "resnet20_cifar"),
        product(NAMES, [torch.float64, torch.bfloat16]),
    ),
)
def test_runs_forward_and_backward_in_other_precisions(name, dtype):
    network = small(name).to(dtype)
    loss = network(images(name, dtype=dtype)).square().mean()
    loss.backward()
    assert loss.dtype == dtype
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_copies_and_pickles_give_the_same_logits(name):
    network, x = small(name).eval(), images(name)
    expected = network(x)
    assert torch.equal(copy.deepcopy(network)(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(network))(x), expected)


@pytest.mark.parametrize("name", slow_unless(lambda name: name not in WIDE, zip(NAMES)))
def test_vmap_over_two_networks_in_training_mode_is_the_two_networks(name):
    networks, x = [small(name).double() for _ in range(2)], images(name, dtype=torch.float64)
    stacked = stack_module_state(networks)
    skeleton = small(name).to("meta")
    logits = vmap(lambda state: functional_call(skeleton, state, (x,)))(stacked)
    torch.testing.assert_close(logits, torch.stack([network(x) for network in networks]))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "shufflenetv2_100"])
def test_gradients_reach_every_parameter(name):
    network = small(name, activation="tanh")
    network(images(name)).square().mean().backward()
    assert [path for path, parameter in network.named_parameters() if parameter.grad.abs().sum() == 0] == []


# weights counted from the papers' tables: products of kernel sizes and widths, biases and normalisation included
@pytest.mark.parametrize(
    ("name", "image_shape", "network_args", "parameters"),
    [
        ("mlp", (1, 28, 28), {"hidden": [500]}, 784 * 500 + 500 + 500 * 10 + 10),
        ("mlp", (1, 28, 28), {"width": 64, "depth": 3, "bias": False}, 784 * 64 + 2 * 64 * 64 + 64 * 10),
        ("lenet", (1, 28, 28), {}, 61_706),
        ("lenet", (1, 32, 32), {}, 61_706),
        ("lenet_wide", (3, 32, 32), {"bias": False}, 27 * 32 + 288 * 64 + 576 * 128 + 128 * 256 + 2560),
        ("conv1_32", (1, 28, 28), {}, 32 * 25 + 4608 * 10),
        ("conv1_32", (3, 32, 32), {}, 32 * 75 + 6272 * 10),
        ("conv_pool", (3, 32, 32), {}, 9 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512) + 960 + 2048 * 10 + 10),
        ("conv_pool", (3, 32, 32), {"widths": [8, 4], "bias": False, "head_bias": True}, 9 * (24 + 32) + 256 * 10 + 10),
        ("conv3_32_64_128", (3, 32, 32), {"batch_norm": False, "bias": False}, 360_288),
        ("conv3_96_192_512", (3, 32, 32), {"batch_norm": False, "bias": False}, 3_160_608),
        ("vgg_small", (3, 32, 32), {"bias": False}, 9 * (3 * 32 + 32**2 * 3 + 64**2 * 3 + 128**2) + 2048 * 256 + 2560),
        ("vgg13_cifar", (3, 32, 32), {}, 9_402_048 + 5_130 + 2 * 2944),
        ("vgg13_cifar", (3, 32, 32), {"batch_norm": False}, 9_402_048 + 5_130 + 2944),
        ("resnet20_cifar", (3, 32, 32), {}, 269_722),
        ("resnet20_cifar", (3, 32, 32), {"shortcut": "B"}, 269_722 + 16 * 32 + 32 * 64 + 2 * (32 + 64)),
        ("resnet32_cifar", (3, 32, 32), {}, 464_154),
        ("resnet56_cifar", (3, 32, 32), {}, 853_018),
    ],
)
def test_number_of_parameters_is_the_published_one(name, image_shape, network_args, parameters):
    network = create_network(name, 10, image_shape, **network_args)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


def test_an_mlp_takes_flat_inputs_as_well():
    network, x = create_network("mlp", 3, (1, 4, 5)), torch.randn(2, 1, 4, 5)
    assert torch.equal(network(x), network(x.flatten(1)))


def test_lenet_on_28_pixels_is_lenet_on_the_image_padded_to_32():
    at_28, at_32 = create_network("lenet", 10, (1, 28, 28)), create_network("lenet", 10, (1, 32, 32))
    at_32.load_state_dict(at_28.state_dict())
    x = torch.randn(2, 1, 28, 28)
    torch.testing.assert_close(at_28(x), at_32(nn.functional.pad(x, (2, 2, 2, 2))))


def test_pad_shortcut_keeps_every_second_pixel_between_zero_channels():
    block = create_network("resnet20_cifar", 10).blocks[4]
    maps = torch.randn(2, 16, 8, 8)
    out = block.shortcut(maps)
    assert torch.equal(out[:, 8:24], maps[:, :, ::2, ::2])
    assert out.shape == (2, 32, 4, 4)
    assert out[:, :8].abs().sum() + out[:, 24:].abs().sum() == 0


def test_without_bias_the_logits_of_a_black_image_are_zero():
    for name in ["mlp", "lenet", "lenet_wide", "conv1_32", "conv_pool", "vgg_small"]:
        network = small(name, bias=False)
        assert network(0 * images(name)).abs().max() == 0


def test_dropout_is_drawn_after_every_hidden_layer_in_training_only():
    network = create_network("mlp", 3, (1, 4, 4), hidden=[8, 8], dropout=0.5)
    assert [type(block[-1]) for block in network.blocks] == [nn.Dropout] * 2
    x = torch.randn(5, 16)
    assert torch.equal(network.eval()(x), network(x))
    assert not torch.equal(network.train()(x), network(x))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_each_activation_is_a_new_module_at_each_call(name):
    assert activation_named(name) is not activation_named(name)


def test_initialisations_have_the_variances_of_their_papers():
    # 784 x 400 draws: the standard deviation is known to 0.2 %
    for init, variance in {"default": 1 / (3 * 784), "xavier": 2 / (784 + 400), "kaiming": 2 / 784}.items():
        torch.manual_seed(0)
        weight = create_network("mlp", 10, (1, 28, 28), hidden=[400], init=init).blocks[0].linear.weight
        assert weight.var().item() == pytest.approx(variance, rel=0.02)


@pytest.mark.parametrize(
    ("name", "network_args", "remedy"),
    [
        ("mlp", {"activation": "rleu"}, "nearest: relu"),
        ("mlp", {"init": "xavie"}, "nearest: xavier"),
        ("mlp", {"hidden": [3], "width": 4}, "either hidden or width and depth"),
        ("mlp", {"hidden": []}, "at least one hidden layer"),
        ("resnet20_cifar", {"shortcut": "C"}, "valid: A, B"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_remedy(name, network_args, remedy):
    with pytest.raises(UserError, match=remedy):
        create_network(name, 10, (3, 32, 32), **network_args)


@pytest.mark.parametrize(
    ("name", "side"),
    [("lenet", 30), ("lenet_wide", 17), ("conv1_32", 5), ("conv_pool", 15), ("vgg_small", 7), ("vgg13_cifar", 28)],
)
def test_an_image_too_small_for_the_network_is_refused_with_the_size_it_needs(name, side):
    with pytest.raises(UserError, match=f"not {side} x {side}"):
        create_network(name, 10, (3, side, side))


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize(("side", "stem"), [(28, 28), (32, 32), (64, 32)])
def test_a_wide_resnet_keeps_small_images_and_halves_those_of_64_pixels(side: int, stem: int, norm: str):
    network = create_network("resnet18_small", 10, (3, side, side), norm=norm)
    seen = []
    for block in (network.blocks[0], network.blocks[-1]):
        block.register_forward_hook(lambda _m, _a, out: seen.append(out.shape[-1]))
    network(torch.zeros(2, 3, side, side))
    assert seen == [stem, 4]
    assert sum(isinstance(m, nn.BatchNorm2d) for m in network.modules()) == (20 if norm == "batch" else 0)


def test_wide_resnets_have_the_layers_and_weights_of_the_paper():
    layers = {"resnet18_small": (18, 11.17e6), "resnet50_small": (50, 23.52e6)}
    for name, (depth, size) in layers.items():
        network = create_network(name, 10, (3, 32, 32))
        inside = [m for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear) and "shortcut" not in n]
        assert len(inside) == depth
        assert sum(p.numel() for p in network.parameters()) == pytest.approx(size, rel=1e-3)


def test_flfas_small_network_has_the_maps_of_its_laboratory():
    network = create_network("conv2_group_norm", 10, (3, 32, 32))
    assert network.blocks[2].linear.weight.shape == (256, 2048)
    with pytest.raises(UserError, match="groups divide 32"):
        create_network("conv2_group_norm", 10, (3, 32, 32), groups=5)


def test_the_cnns_of_dll_and_ebd_have_the_maps_of_their_papers():
    dll = create_network(
        "conv_linear", 10, (1, 28, 28), channels=[32, 64, 16], kernels=[5, 3, 3], paddings=[0, 0, 0],
        pools=["max", "max", "none"], units=200, bias=False,
    )  # fmt: skip
    assert dll.blocks[3].linear.weight.shape == (200, 16 * 3 * 3)
    ebd = create_network(
        "conv_linear", 10, (3, 32, 32), channels=[128, 64, 64], kernels=[5, 5, 2], paddings=[2, 2, 0],
        strides=[1, 1, 2], pools=["avg", "avg", "none"], units=1024,
    )  # fmt: skip
    assert ebd.blocks[3].linear.weight.shape == (1024, 64 * 4 * 4)
    assert sum(isinstance(m, nn.AvgPool2d) for m in ebd.modules()) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [({"kernels": [3, 3]}, "for each convolution"), ({"pools": ["max", "max", "mean"]}, "pool 'mean' is unknown")],
)
def test_a_wrong_list_of_convolutions_is_refused(options: dict, message: str):
    with pytest.raises(UserError, match=message):
        create_network("conv_linear", 10, (3, 32, 32), **options)


def test_the_mlp_of_dlls_code_passes_pixels_and_a_softmax_that_the_backward_pass_does_not_see():
    network = create_network("activation_first_mlp", 10, (1, 4, 4), hidden=[6])
    x = torch.randn(3, 1, 4, 4)
    hidden = x.flatten(1).tanh() @ network.blocks[0].linear.weight.t()
    assert torch.allclose(network(x), hidden.softmax(1) @ network.head.linear.weight.t(), atol=1e-6)
    hidden = hidden.detach().requires_grad_(True)
    network.head(hidden).sum().backward()
    assert torch.allclose(hidden.grad, network.head.linear.weight.sum(0).expand(3, 6))
