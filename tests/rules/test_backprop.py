"""Backprop is the control: it leaves a network as it finds it."""

import pytest
import torch
from torch import nn

from lit_fa.errors import UserError
from lit_fa.modules import Learner
from lit_fa.rules import Backprop


def test_backprop_changes_no_module_and_stores_nothing():
    network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    before, keys = repr(network), [*network.state_dict()]
    learner = Learner(network, Backprop(), torch.zeros(2, 4))
    assert repr(network) == before
    assert [*learner.state_dict()] == [f"network.{key}" for key in keys]
    assert learner.coverage.transported == ["2.weight"]


def test_backprop_can_refuse_tensors_that_take_no_part():
    network = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    network.spare = nn.Parameter(torch.zeros(3))
    network.forward = lambda x: network[1](network[0](x))
    with pytest.raises(UserError, match="no gradient reaches: spare"):
        Learner(network, Backprop(uncovered="raise"), torch.zeros(2, 4))
