"""Under bfloat16 autocast a rule's update points where it does in float32."""

import pytest
import torch

from tests.cases import Case, cases, gradients, taken


def angle(a: torch.Tensor, b: torch.Tensor) -> float:
    """In degrees."""
    cosine = torch.nn.functional.cosine_similarity(a.flatten().double(), b.flatten().double(), dim=0)
    return torch.rad2deg(torch.acos(cosine.clamp(-1, 1))).item()


@pytest.mark.parametrize("case", cases())
def test_gradients_under_bfloat16_autocast_are_close(case: Case):
    learner, batch = case.learner(dtype=torch.float32), case.batch(16, dtype=torch.float32)
    expected = gradients(learner, batch)
    with torch.autocast("cpu", torch.bfloat16):
        surrogate = learner(batch)
    surrogate.value.backward()
    assert surrogate.logits.isfinite().all()
    grads = taken(learner)
    assert grads.keys() == expected.keys()
    for name, g in grads.items():
        assert g.dtype == torch.float32
        # bfloat16 keeps 8 bits: each product is off by some 2^-9, 0.2 degrees, a path of ten by a few degrees
        assert angle(g, expected[name]) < 4, name


@pytest.mark.parametrize("case", cases("mlp", "small_conv", where=lambda case: not case.name.startswith("sign_brsf")))
def test_a_learner_cast_to_bfloat16_has_gradients_in_bfloat16(case: Case):
    learner, batch = case.learner(dtype=torch.bfloat16), case.batch(16, dtype=torch.bfloat16)
    grads = gradients(learner, batch)
    assert {g.dtype for g in grads.values()} == {torch.bfloat16}
    assert all(g.isfinite().all() for g in grads.values())
