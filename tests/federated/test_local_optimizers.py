"""The clients' optimisers are torch's, to the last bit, one client or many side by side."""

import pytest
import torch
from torch import Tensor

from lit_fa.errors import UserError
from lit_fa.federated import LocalAdam, LocalOptimizer, LocalSchedule, LocalSGD

SHAPES = {"weight": (4, 3), "bias": (4,), "scale": ()}
LR, STEPS = 0.07, 6
# ours, torch's
OPTIMIZERS = {
    "sgd": (LocalSGD(LR), lambda p: torch.optim.SGD(p, LR)),
    "decay": (LocalSGD(LR, weight_decay=0.3), lambda p: torch.optim.SGD(p, LR, weight_decay=0.3)),
    "momentum": (LocalSGD(LR, momentum=0.8), lambda p: torch.optim.SGD(p, LR, momentum=0.8)),
    "momentum_decay": (LocalSGD(LR, 0.8, 0.3), lambda p: torch.optim.SGD(p, LR, momentum=0.8, weight_decay=0.3)),
    "nesterov": (
        LocalSGD(LR, 0.8, 0.3, nesterov=True),
        lambda p: torch.optim.SGD(p, LR, momentum=0.8, weight_decay=0.3, nesterov=True),
    ),
    "adam": (LocalAdam(LR), lambda p: torch.optim.Adam(p, LR)),
    "adam_decay": (
        LocalAdam(LR, betas=(0.7, 0.95), eps=1e-3, weight_decay=0.3),
        lambda p: torch.optim.Adam(p, LR, betas=(0.7, 0.95), eps=1e-3, weight_decay=0.3),
    ),
    "adam_without_memory": (LocalAdam(LR, betas=(0.0, 0.0)), lambda p: torch.optim.Adam(p, LR, betas=(0.0, 0.0))),
}
every = pytest.mark.parametrize("name", OPTIMIZERS)


def draw(seed: int, lanes: int | None = None) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    ahead = () if lanes is None else (lanes,)
    return {n: torch.randn((*ahead, *shape), generator=g, dtype=torch.float64) for n, shape in SHAPES.items()}


def alone(optimizer: LocalOptimizer, params: dict[str, Tensor], gradients: list[dict[str, Tensor]]) -> dict:
    params = {n: p.clone() for n, p in params.items()}
    state = optimizer.init(params)
    for step, grads in enumerate(gradients):
        optimizer.step(params, {n: g.clone() for n, g in grads.items()}, state, step, LR)
    return params


def by_torch(make, params: dict[str, Tensor], gradients: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    params = {n: torch.nn.Parameter(p.clone()) for n, p in params.items()}
    optimizer = make(list(params.values()))
    for grads in gradients:
        for n, p in params.items():
            p.grad = grads[n].clone() if n in grads else None
        optimizer.step()
    return {n: p.detach() for n, p in params.items()}


def identical(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


@every
def test_steps_are_torchs_to_the_last_bit(name: str):
    ours, make = OPTIMIZERS[name]
    start, gradients = draw(0), [draw(1 + s) for s in range(STEPS)]
    assert identical(alone(ours, start, gradients), by_torch(make, start, gradients))


@every
def test_parameters_without_a_gradient_stay_as_they_are(name: str):
    ours, make = OPTIMIZERS[name]
    start, gradients = draw(0), [{n: g for n, g in draw(1 + s).items() if n != "bias"} for s in range(STEPS)]
    after = alone(ours, start, gradients)
    assert torch.equal(after["bias"], start["bias"])
    assert identical(after, by_torch(make, start, gradients))


@every
def test_a_lane_moves_as_if_it_were_alone_and_stays_where_its_steps_end(name: str):
    ours, steps = OPTIMIZERS[name][0], (6, 4, 1)
    start, gradients = draw(0, lanes=3), [draw(1 + s, lanes=3) for s in range(max(steps))]
    stack = {n: p.clone() for n, p in start.items()}
    state = ours.init(stack)
    for step, grads in enumerate(gradients):
        active = sum(s > step for s in steps)
        views = [{n: t[:active] for n, t in whole.items()} for whole in (stack, grads)]
        ours.step(*views, {kind: {n: t[:active] for n, t in of.items()} for kind, of in state.items()}, step, LR)
    fresh = [draw(1 + s, lanes=3) for s in range(max(steps))]
    for lane, count in enumerate(steps):
        own = alone(
            ours, {n: p[lane] for n, p in start.items()}, [{n: g[lane] for n, g in of.items()} for of in fresh][:count]
        )
        assert identical({n: p[lane] for n, p in stack.items()}, own)


@every
def test_the_rate_of_the_round_replaces_the_rate_of_the_start(name: str):
    ours, start, grads = OPTIMIZERS[name][0], draw(0), draw(1)
    moves = []
    for lr in (LR, LR / 4):
        params = {n: p.clone() for n, p in start.items()}
        ours.step(params, {n: g.clone() for n, g in grads.items()}, ours.init(params), 0, lr)
        moves.append({n: params[n] - start[n] for n in start})
    for n in start:
        torch.testing.assert_close(moves[0][n], 4 * moves[1][n], rtol=1e-12, atol=1e-14)  # of a difference


def test_plain_is_a_step_along_the_gradient():
    assert [name for name, (ours, _) in OPTIMIZERS.items() if ours.plain] == ["sgd", "decay"]
    assert LocalSGD(LR).init(draw(0)) == {}


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: LocalSGD(0.0), "rate"),
        (lambda: LocalSGD(float("nan")), "rate"),
        (lambda: LocalSGD(weight_decay=-1.0), "decay"),
        (lambda: LocalSGD(momentum=1.0), "momentum"),
        (lambda: LocalSGD(momentum=-0.1), "momentum"),
        (lambda: LocalSGD(nesterov=True), "nesterov"),
        (lambda: LocalAdam(-1.0), "rate"),
        (lambda: LocalAdam(betas=(0.9, 1.0)), "betas"),
        (lambda: LocalAdam(eps=0.0), "eps"),
        (lambda: LocalSchedule("linear"), "linear"),
        (lambda: LocalSchedule("exponential", gamma=0.0), "gamma"),
        (lambda: LocalSchedule("cosine", floor=1.5), "floor"),
    ],
)
def test_options_that_cannot_train_are_refused_by_name(make, name: str):
    with pytest.raises(UserError, match=name) as refused:
        make()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (LocalSchedule(), [1, 1, 1, 1]),
        (LocalSchedule("exponential", 0.5), [1, 0.5, 0.25, 0.125]),
        (LocalSchedule("milestones", 0.1, [1, 3]), [1, 0.1, 0.1, 0.01]),
    ],
)
def test_factors_over_rounds(schedule: LocalSchedule, expected: list[float]):
    assert [schedule.factor(number, 4) for number in range(4)] == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("floor", [0.0, 0.2])
def test_cosine_is_torchs_and_leaves_no_round_without_a_rate(floor: float):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=7, eta_min=floor)
    for number in range(7):
        factor = LocalSchedule("cosine", floor=floor).factor(number, 7)
        assert factor == pytest.approx(scheduler.get_last_lr()[0], rel=1e-12)  # torch's is a recursion
        assert factor > 0
        optimizer.step()
        scheduler.step()
