"""What every rule keeps, each as a function of a `Subject`; an `AssertionError` says what does not hold.

`tests/contract` checks the same of the rules of this project, on more networks and with more detail.
"""

import copy
import io
import pickle
from collections.abc import Callable

import torch
from torch.func import functional_call, grad, stack_module_state, vmap

from lit_fa.rules.base import Does, Progress
from lit_fa.rules.learner import Learner
from lit_fa.testing.gradients import array, gradients, largest_difference, taken
from lit_fa.testing.subject import Subject

Batch = tuple[torch.Tensor, torch.Tensor]
CONTRACTS: dict[str, Callable[[Subject], None]] = {}


class NotForThisRuleError(Exception):
    """The contract says nothing about this rule."""


def contract(check: Callable[[Subject], None]) -> Callable[[Subject], None]:
    """Add a contract to the list, by its name."""
    CONTRACTS[check.__name__] = check
    return check


def require(holds: bool, what: str) -> None:
    """Raise an error with this text if something does not hold, also under `python -O`."""
    if not holds:
        raise AssertionError(what)


def close(difference: float, bound: float, what: str) -> None:
    """Require a difference to be at most a bound."""
    require(difference <= bound, f"{what}: largest difference {difference:.2g}, allowed {bound:.2g}")


def one_step(learner: Learner, batch: Batch) -> None:
    """A step of SGD with weight decay, with the rule's edits and what it does afterwards."""
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.1, weight_decay=0.01)
    learner(batch).value.backward()
    learner.edit_gradients(Progress(0))
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    learner.after_step(Progress(1))


def moved(subject: Subject) -> Learner:
    """A learner with other weights, so that they differ from what was copied or learned from them."""
    learner = subject.learner()
    with torch.no_grad():
        for name, p in (*learner.network.named_parameters(), *learner.rule.named_parameters()):
            if not name.endswith("feedback.weight"):
                g = torch.Generator().manual_seed(len(name))
                p.add_(torch.randn(p.shape, dtype=p.dtype, generator=g), alpha=0.1)
    return learner


@contract
def gradients_equal_the_reference(subject: Subject) -> None:
    """Every gradient equals the literal reference in float64."""
    if subject.reference is None:
        raise NotForThisRuleError("no reference was given")
    learner, (x, y) = moved(subject), subject.batch()
    expected = {name: torch.as_tensor(g) for name, g in subject.reference(learner, array(x), array(y)).items()}
    got = gradients(learner, (x, y))
    require(got.keys() == expected.keys(), f"gradients of {sorted(got.keys() ^ expected.keys())} are only on one side")
    close(largest_difference(got, expected), subject.tolerance, "gradients and reference")


@contract
def every_trained_parameter_has_a_gradient(subject: Subject) -> None:
    """No parameter that the optimiser holds is left without a gradient."""
    learner = subject.learner()
    got = gradients(learner, subject.batch())
    lost = [name for name, p in learner.named_parameters() if p.requires_grad and name not in got]
    require(not lost, f"no gradient for {', '.join(lost)}")


@contract
def loss_and_logits_carry_no_graph(subject: Subject) -> None:
    """`loss` and `logits` are detached and finite; a metric that keeps them keeps no graph."""
    surrogate = subject.learner()(subject.batch())
    require(surrogate.value.requires_grad and surrogate.value.ndim == 0, "value is no scalar with a gradient")
    require(not surrogate.loss.requires_grad, "loss carries a graph")
    require(not surrogate.logits.requires_grad, "logits carry a graph")
    require(bool(torch.isfinite(surrogate.loss)), "loss is not finite")


@contract
def the_same_batch_gives_the_same_gradients(subject: Subject) -> None:
    """A second call gives equal gradients: the rule keeps nothing that is not stored."""
    learner, batch = subject.learner(), subject.batch()
    first = gradients(learner, batch)
    gradients(learner, subject.batch(n=3, seed=9))
    close(largest_difference(gradients(learner, batch), first), 0, "gradients after another batch")


@contract
def the_global_seed_does_not_decide_the_rule(subject: Subject) -> None:
    """Feedback and parameters of the rule are drawn from its own seed."""
    one, two = subject.learner(seed=0).rule.state_dict(), subject.learner(seed=7).rule.state_dict()
    close(largest_difference(one, two) if one else 0.0, 0, "the rule's tensors under another global seed")


@contract
def loading_restores_everything(subject: Subject) -> None:
    """A learner made from another seed and then loaded learns the same, bit for bit, also in the next step."""
    learner, batch, file = subject.learner(), subject.batch(), io.BytesIO()
    one_step(learner, batch)
    torch.save(learner.state_dict(), file)
    file.seek(0)
    other = subject.learner(seed=7)
    other.load_state_dict(torch.load(file, weights_only=True))
    close(largest_difference(gradients(other, batch), gradients(learner, batch)), 0, "gradients after loading")
    one_step(learner, batch)
    one_step(other, batch)
    close(largest_difference(other.state_dict(), learner.state_dict()), 0, "state one step after loading")


@contract
def a_copy_learns_on_its_own(subject: Subject) -> None:
    """A deep copy shares no tensor with the original."""
    learner, batch = subject.learner(), subject.batch()
    before, other = gradients(learner, batch), copy.deepcopy(learner)
    one_step(other, batch)
    close(largest_difference(gradients(learner, batch), before), 0, "gradients after a step of the copy")


@contract
def a_learner_pickles(subject: Subject) -> None:
    """Network and rule can be sent to another process."""
    learner, batch = subject.learner(), subject.batch()
    other = pickle.loads(pickle.dumps(learner))
    close(largest_difference(gradients(other, batch), gradients(learner, batch)), 0, "gradients of the pickled learner")


@contract
def the_functional_gradient_is_that_of_backward(subject: Subject) -> None:
    """`torch.func.grad` gives the gradients that `backward` gives."""
    learner, batch = subject.learner(), subject.batch()
    params, buffers = learner.tensors()
    got = _functional(learner, params, buffers, batch)
    close(largest_difference(got, gradients(learner, batch)), 1e-13, "torch.func.grad and backward")


@contract
def learners_map(subject: Subject) -> None:
    """`torch.func.vmap` over stacked learners equals a loop over them, so that clients can be batched."""
    learners, batches = [subject.learner(seed=k) for k in range(2)], [subject.batch(seed=k) for k in range(2)]
    params, buffers = stack_module_state(learners)
    batch = (torch.stack([x for x, _ in batches]), torch.stack([y for _, y in batches]))
    stacked = vmap(lambda p, b, x, y: _functional(learners[0], p, b, (x, y)))(params, buffers, *batch)
    for k, (learner, own) in enumerate(zip(learners, batches, strict=True)):
        one = {name: g[k] for name, g in stacked.items()}
        close(largest_difference(one, gradients(learner, own)), 1e-12, "vmap and a loop")


@contract
def two_half_batches_are_one_batch(subject: Subject) -> None:
    """The mean of the gradients of two halves is that of the batch: accumulation and ranks average."""
    learner, (x, y) = subject.learner(), subject.batch(8)
    if Does.SUMS in learner.rule.does:
        raise NotForThisRuleError("the scalar is a sum over samples")
    halves = [gradients(learner, (x[part], y[part])) for part in (slice(0, 4), slice(4, 8))]
    mean = {name: (g + halves[1][name]) / 2 for name, g in halves[0].items()}
    close(largest_difference(mean, gradients(learner, (x, y))), 1e-12, "mean over half batches and the whole batch")


@contract
def streaming_gives_the_same_gradients(subject: Subject) -> None:
    """`stream` gives the gradients of one backward pass."""
    learner, batch = subject.learner(), subject.batch()
    if Does.STREAMS not in learner.rule.does:
        raise NotForThisRuleError("it does not stream")
    fused = gradients(learner, batch)
    learner.stream(batch, lambda value: value.backward())
    close(largest_difference(taken(learner), fused), 1e-13, "streamed and fused gradients")


@contract
def bfloat16_autocast_keeps_the_direction(subject: Subject) -> None:
    """Under autocast the update stays within ten degrees of float32, in float32."""
    learner, batch = subject.learner(dtype=torch.float32), subject.batch(16, dtype=torch.float32)
    plain = gradients(learner, batch)
    with torch.autocast("cpu", torch.bfloat16):
        surrogate = learner(batch)
    surrogate.value.backward()
    mixed = taken(learner)
    require({g.dtype for g in mixed.values()} == {torch.float32}, "gradients are not in the precision of the weights")
    a, b = (torch.cat([grads[name].flatten().double() for name in plain]) for grads in (plain, mixed))
    angle = torch.rad2deg(torch.acos(torch.nn.functional.cosine_similarity(a, b, dim=0).clamp(-1, 1))).item()
    close(angle, 10, "degrees between float32 and bfloat16")


@contract
def training_lowers_the_loss(subject: Subject) -> None:
    """Thirty steps on one batch lower the loss."""
    learner, batch = subject.learner(), subject.batch()
    before = float(learner(batch).loss)
    for _ in range(30):
        one_step(learner, batch)
    after = float(learner(batch).loss)
    require(after < before, f"the loss was {before:.4g} and is {after:.4g} after 30 steps with rate 0.1")


@contract
def it_compiles_without_a_graph_break(subject: Subject) -> None:
    """`torch.compile` traces the whole step."""
    learner, batch = subject.learner(), subject.batch()
    expected = gradients(learner, batch)
    torch._dynamo.reset()
    torch.compile(learner, fullgraph=True, backend="eager")(batch).value.backward()
    close(largest_difference(taken(learner), expected), 1e-13, "compiled and eager gradients")


def _functional(
    learner: Learner, params: dict[str, torch.Tensor], buffers: dict[str, torch.Tensor], batch: Batch
) -> dict[str, torch.Tensor]:
    trained = {name: params[name] for name, p in learner.named_parameters() if p.requires_grad}

    def scalar(own: dict[str, torch.Tensor]) -> torch.Tensor:
        value: torch.Tensor = functional_call(learner, ({**params, **own}, buffers), (batch,)).value
        return value

    return grad(scalar)(trained)
