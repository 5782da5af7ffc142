"""Weights of a file: all of them but a read-out of other classes, or none and one line."""

import pytest
import torch

from lit_fa.errors import UserError
from lit_fa.modules import Classifier
from lit_fa.networks import create_network, load_weights
from lit_fa.rules import DirectFeedbackAlignment


def mlp(classes=10, hidden=(12, 8), image=(1, 6, 6)):
    return create_network("mlp", classes, image, hidden=list(hidden))


@pytest.fixture
def saved(tmp_path):
    network = mlp()
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    return network, tmp_path / "weights.pt"


def test_every_tensor_is_that_of_the_file(saved):
    network, path = saved
    other = mlp()
    assert load_weights(other, path) == []
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in network.state_dict().items())


def test_a_read_out_of_other_classes_keeps_its_draw(saved):
    network, path = saved
    other = mlp(classes=3)
    drawn = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    left = load_weights(other, path)
    assert left == [name for name in drawn if drawn[name].shape[0] == 3]
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, drawn[name] if name in left else network.state_dict()[name])


def test_a_checkpoint_of_a_classifier_under_any_rule_is_read(tmp_path):
    module = Classifier(mlp(), DirectFeedbackAlignment(), 10, (1, 6, 6))
    torch.save({"state_dict": module.state_dict(), "epoch": 3}, tmp_path / "last.ckpt")
    other = mlp()
    load_weights(other, tmp_path / "last.ckpt")
    assert all(torch.equal(t, module.network.state_dict()[name]) for name, t in other.state_dict().items())


def test_a_classifier_starts_from_them(saved):
    network, path = saved
    module = Classifier(mlp(), None, 10, (1, 6, 6), weights=str(path))
    assert all(torch.equal(t, module.network.state_dict()[name]) for name, t in network.state_dict().items())


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"hidden": (12, 9)}, r"do not fit: .* is \(8, 12\), not \(9, 12\)"),
        ({"hidden": (12, 8, 8)}, "no tensor for .* of the network"),
        ({"image": (3, 6, 6)}, "do not fit"),
        ({"hidden": (12, 9), "classes": 3}, "do not fit"),
    ],
)
def test_weights_of_another_network_are_refused_by_name(saved, wanted, said):
    with pytest.raises(UserError, match=said):
        load_weights(mlp(**wanted), saved[1])


def test_what_holds_no_weights_is_refused(tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        load_weights(mlp(), tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(UserError, match="cannot be read"):
        load_weights(mlp(), tmp_path / "text.pt")
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    with pytest.raises(UserError, match="contain no tensors"):
        load_weights(mlp(), tmp_path / "empty.pt")
