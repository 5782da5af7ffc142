"""Before a round, the server compares the clients' gradients and chooses the layers that get feedback."""

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.strategies import Strategy

from lit_fa.errors import UserError
from lit_fa.federated.gradient_similarity import Directions, check_comparable, directions
from lit_fa.layers.feedback import weight_of
from lit_fa.lightning_privates import setting
from lit_fa.modules.distributed import share_of
from lit_fa.rules.comparing import ComparesClients, PrivateComparison

if TYPE_CHECKING:
    from lit_fa.modules.federated_classifier import FederatedClassifier

log = logging.getLogger(__name__)


def select(module: "FederatedClassifier", number: int, before: list[dict[str, Any]]) -> dict[str, Any]:
    """Choose layers for the rounds from `number` on, the same on all ranks.

    Args:
        module: a `FederatedClassifier` whose rule compares clients.
        number: of the next round.
        before: earlier selections of the run; their privacy costs add up.

    Returns:
        `round`, `chosen`, `similarity` (layer to S_l), and for a private comparison `epsilon` and `delta`.
    """
    rule, network = comparing_rule(module), module.network
    if rule.private is not None:
        accountant()
    alike = module.trainer.strategy.broadcast(compared(module, number).alike())
    chosen = rule.chosen(alike)
    rule.switch(network, chosen)
    selection = {"round": number, "chosen": chosen, "similarity": alike}
    if rule.private is not None:
        selection |= {"epsilon": epsilon(rule.private, len(before) + 1), "delta": rule.private.delta}
    log.info("round %d: feedback on %s, of %d layers compared", number, ", ".join(chosen), len(alike))
    return selection


def comparing_rule(module: "FederatedClassifier") -> ComparesClients:
    """The module's rule, which compares clients."""
    assert isinstance(module.rule, ComparesClients)
    return module.rule


def logged(selection: dict[str, Any]) -> dict[str, float]:
    """The metrics of a selection."""
    values = {f"select/similarity/{name}": value for name, value in selection["similarity"].items()}
    return values | ({"select/epsilon": selection["epsilon"]} if "epsilon" in selection else {})


def compared(module: "FederatedClassifier", number: int) -> Directions:
    """The sum of the directions of all clients, over all ranks or nodes."""
    rule, strategy = comparing_rule(module), module.trainer.strategy
    names = rule.candidates(module.network)
    elsewhere = getattr(module.executor, "directions", None)
    if elsewhere is not None:
        return elsewhere(module.learner, number, names)
    whole = setting(module.trainer, "train_dataloader").whole(number)
    first = next(module.learner.parameters())
    whole = replace(whole.to(first.device), dtype=first.dtype)
    check_comparable(module.learner, rule.private)  # on every rank, also on one without a client
    indices = share_of(whole.steps, module.global_rank, module.trainer.world_size)
    own = directions(module.learner, whole.take(indices), names, module.local.seed, rule.private) if indices else None
    return _summed(own, {n: weight_of(module.network.get_submodule(n)) for n in names}, strategy)


def epsilon(private: PrivateComparison, times: int) -> float:
    """The epsilon of an image after `times` comparisons, by Opacus' accountant of Renyi differential privacy."""
    spent = accountant()()
    for _ in range(times):
        spent.step(noise_multiplier=private.noise, sample_rate=1.0)
    return float(spent.get_epsilon(private.delta))


def accountant() -> type:
    """Opacus' `RDPAccountant`."""
    try:
        from opacus.accountants import RDPAccountant
    except ImportError as error:
        raise UserError("a private comparison needs Opacus for its epsilon: pip install 'lit-fa[privacy]'") from error
    return RDPAccountant


def _summed(own: Directions | None, weights: dict[str, torch.Tensor], strategy: Strategy) -> Directions:
    own = own or Directions({}, {}, 0)
    sizes = [w.numel() for w in weights.values()]
    device = next(iter(weights.values())).device
    nothing = {n: torch.zeros(w.numel(), dtype=torch.float64, device=device) for n, w in weights.items()}
    totals = torch.cat([own.totals.get(n, zero) for n, zero in nothing.items()])
    squares = [float(own.squares.get(n, 0.0)) for n in weights]
    flat = torch.cat([totals, torch.tensor([*squares, own.clients], dtype=torch.float64, device=device)])
    flat = strategy.reduce(flat, reduce_op="sum")
    *parts, lengths, clients = flat.split([*sizes, len(weights), 1])
    return Directions(dict(zip(weights, parts, strict=True)), dict(zip(weights, lengths, strict=True)), int(clients))
