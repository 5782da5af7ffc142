"""Under bfloat16 autocast a rule's update points where it does in float32."""

import pytest
import torch

from tests.cases import Case, cases
from tests.gradients import gradients, taken


def angle(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Between two whole updates, in degrees."""
    assert a.keys() == b.keys()
    flat = [torch.cat([t.flatten().double() for t in grads.values()]) for grads in (a, b)]
    return torch.rad2deg(torch.acos(torch.nn.functional.cosine_similarity(*flat, dim=0).clamp(-1, 1))).item()


@pytest.mark.parametrize("case", cases(distinct=True, thin=True))
def test_gradients_under_bfloat16_autocast_are_close(case: Case):
    learner, batch = case.learner(dtype=torch.float32), case.batch(16, dtype=torch.float32)
    expected = gradients(learner, batch)
    with torch.autocast("cpu", torch.bfloat16):
        surrogate = learner(batch)
    surrogate.value.backward()
    assert surrogate.logits.isfinite().all()
    grads = taken(learner)
    assert {g.dtype for g in grads.values()} == {torch.float32}
    # bfloat16 keeps 8 bits, and a ReLU whose input rounds across zero flips: backprop itself is off by 0.2 (mlp) to
    # 0.8 degrees (small_conv); a feedback larger than the weights gives the early, noisier layers more of the length,
    # and factored layers round twice
    assert angle(grads, expected) < 4.5


@pytest.mark.parametrize("case", cases("mlp", "small_conv", distinct=True, thin=True))
def test_a_learner_cast_to_bfloat16_has_gradients_in_bfloat16(case: Case):
    # installed in float32 and cast afterwards, as Lightning does under precision bf16-true
    learner, batch = case.learner(dtype=torch.float32).to(torch.bfloat16), case.batch(16, dtype=torch.bfloat16)
    grads = gradients(learner, batch)
    assert {g.dtype for g in grads.values()} == {torch.bfloat16}
    assert all(g.isfinite().all() for g in grads.values())
