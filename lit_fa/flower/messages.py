"""A round's work and its outcome as Flower's records: what travels, by name, bit for bit.

Floats of the plan travel as 64-bit numbers and tensors in their own dtype, so that a round over the wire is the round.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor, float64, tensor

from lit_fa.federated.gradient_similarity import Directions
from lit_fa.federated.round_task import Learner, Outcome, Round, Work, travelling
from lit_fa.layers.feedback import feedback_layers
from lit_fa.rules.base import Does, Tensors

PLAN, CHOSEN = "plan", "chosen"
STATE = "state."  # before a client's id: what it keeps from round to round


def packed_work(work: Work, learner: Learner) -> RecordDict:
    """What a SuperNode needs besides the experiment: who trains, from which parameters, with which coefficients.

    Feedback that follows from the parameters stays behind; of layers that were chosen their names go along.
    """
    plan = {
        "number": work.round.number,
        "clients": list(work.round.clients),
        "shares": work.shares.tolist(),
        "fractions": work.fractions.tolist(),
        "lr": float(work.lr),
        "rounds": work.rounds or 0,  # 0: not known
    }
    if Does.COMPARES in learner.rule.does:
        plan[CHOSEN] = [*feedback_layers(learner.network)]
    groups = travelling(work, learner) | _by_client(dict(zip(work.round.clients, work.states, strict=True)))
    return RecordDict({PLAN: ConfigRecord(plan), **_arrays(groups)})


def unpacked_work(
    content: RecordDict, learner: Learner, round_of: Callable[[int, tuple[int, ...]], Round], to: Any
) -> Work:
    """The work again, on a node, whose learner then has the server's buffers and chosen layers.

    Args:
        content: of the message.
        learner: built by the node from the same experiment.
        round_of: (number, clients) to the round, from the node's own data.
        to: device of the tensors.
    """
    plan, params = content.config_records[PLAN], _tensors(content, "params", to)
    clients = tuple(plan["clients"])
    if CHOSEN in plan:
        learner.rule.switch(learner.network, plan[CHOSEN])
    held = dict(learner.named_buffers())
    buffers = held | _tensors(content, "buffers", to)
    buffers |= learner.renewed(params, buffers, plan["number"])
    for name, buffer in buffers.items():
        held[name].copy_(buffer)
    return Work(
        round=replace(round_of(plan["number"], clients), dtype=next(iter(params.values())).dtype),
        shares=tensor(plan["shares"], dtype=float64),
        fractions=tensor(plan["fractions"], dtype=float64),
        params=params,
        buffers={name: b.clone() for name, b in buffers.items()},
        states=[_tensors(content, f"{STATE}{client}", to) for client in clients],
        server=_tensors(content, "server", to),
        lr=plan["lr"],
        rounds=plan["rounds"] or None,
    )


def packed_server(params: Tensors, buffers: Tensors, number: int, nodes: int) -> RecordDict:
    """What a SuperNode, one of so many, needs to compare its clients before a round."""
    plan = ConfigRecord({"number": number, "nodes": nodes})
    return RecordDict({PLAN: plan, **_arrays({"params": params, "buffers": buffers})})


def unpacked_server(content: RecordDict, learner: Learner, to: Any) -> tuple[int, int]:
    """The round's number and how many nodes there are; the learner has the server's parameters and buffers."""
    held = dict(learner.named_parameters()) | dict(learner.named_buffers())
    for name, sent in (_tensors(content, "params", to) | _tensors(content, "buffers", to)).items():
        held[name].data.copy_(sent)
    plan = content.config_records[PLAN]
    return plan["number"], plan["nodes"]


def packed_directions(found: Directions) -> RecordDict:
    """A node's sums over its clients."""
    groups = _arrays({"totals": found.totals, "squares": found.squares})
    return RecordDict({PLAN: ConfigRecord({"clients": found.clients}), **groups})


def unpacked_directions(content: RecordDict, to: Any) -> Directions:
    """The same at the server."""
    clients = content.config_records[PLAN]["clients"]
    return Directions(_tensors(content, "totals", to), _tensors(content, "squares", to), clients)


def packed_outcome(outcome: Outcome, executor: str) -> RecordDict:
    """A node's sums, and which executor made them."""
    groups = {"update": outcome.update, "buffers": outcome.buffers, "change": outcome.change}
    groups |= {"totals": {"totals": outcome.totals}} | _by_client(outcome.states)
    return RecordDict({"made": ConfigRecord({"executor": executor}), **_arrays(groups)})


def unpacked_outcome(content: RecordDict, to: Any) -> Outcome:
    """A node's sums again, at the server."""
    ids = [int(name.removeprefix(STATE)) for name in content.array_records if name.startswith(STATE)]
    return Outcome(
        _tensors(content, "update", to),
        _tensors(content, "buffers", to),
        _tensors(content, "change", to),
        {client: _tensors(content, f"{STATE}{client}", to) for client in sorted(ids)},
        _tensors(content, "totals", to)["totals"],
    )


def _by_client(states: dict[int, Tensors]) -> dict[str, Tensors]:
    return {f"{STATE}{client}": state for client, state in states.items()}


def _arrays(groups: dict[str, Tensors]) -> dict[str, ArrayRecord]:
    return {name: ArrayRecord(_on_cpu(tensors)) for name, tensors in groups.items() if tensors}


def _on_cpu(tensors: Tensors) -> dict[str, Tensor]:
    return {name: t.detach().cpu().contiguous() for name, t in tensors.items()}


def _tensors(content: RecordDict, name: str, to: Any) -> Tensors:
    if name not in content.array_records:
        return {}
    return {n: t.to(to) for n, t in content.array_records[name].to_torch_state_dict().items()}
