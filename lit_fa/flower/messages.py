"""The task and the result of a round as Flower's records.

Numbers are sent in 64 bits and tensors in their own dtype, so that a round over Flower gives the same bits.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor, float64, tensor

from lit_fa.federated.gradient_similarity import Directions
from lit_fa.federated.round_task import Round, RoundResult, RoundTask, sent_to_clients
from lit_fa.layers.feedback import feedback_layers
from lit_fa.rules.base import Does, Tensors
from lit_fa.rules.comparing import ComparesClients
from lit_fa.rules.learner import Learner

PLAN, CHOSEN = "plan", "chosen"
STATE = "state."  # prefix of a client's id: its state between rounds


def packed_task(task: RoundTask, learner: Learner) -> RecordDict:
    """The message to a SuperNode for one round: clients, parameters and coefficients.

    Feedback that can be computed from the parameters is not sent; of chosen layers only the names are sent.
    """
    plan: dict[str, Any] = {
        "number": task.round.number,
        "clients": list(task.round.clients),
        "client_weights": task.client_weights.tolist(),
        "sample_shares": task.sample_shares.tolist(),
        "lr": float(task.lr),
        "rounds": task.rounds or 0,  # 0: not known
    }
    if Does.COMPARES in learner.rule.does:
        plan[CHOSEN] = [*feedback_layers(learner.network)]
    groups = sent_to_clients(task, learner) | _by_client(dict(zip(task.round.clients, task.states, strict=True)))
    return RecordDict({PLAN: ConfigRecord(plan), **_arrays(groups)})


def unpacked_task(
    content: RecordDict, learner: Learner, round_of: Callable[[int, tuple[int, ...]], Round], to: Any
) -> RoundTask:
    """The task of a message, on a node; its learner receives the server's buffers and chosen layers.

    Args:
        content: of the message.
        learner: built by the node from the same experiment.
        round_of: (number, clients) to the round, from the node's data.
        to: device of the tensors.
    """
    plan, params = _plan(content), _tensors(content, "params", to)
    clients = tuple(plan["clients"])
    if CHOSEN in plan:
        assert isinstance(learner.rule, ComparesClients)
        learner.rule.switch(learner.network, plan[CHOSEN])
    own = dict(learner.named_buffers())
    buffers = own | _tensors(content, "buffers", to)
    buffers |= learner.renewed(params, buffers, plan["number"])
    for name, buffer in buffers.items():
        own[name].copy_(buffer)
    return RoundTask(
        round=replace(round_of(plan["number"], clients), dtype=next(iter(params.values())).dtype),
        client_weights=tensor(plan["client_weights"], dtype=float64),
        sample_shares=tensor(plan["sample_shares"], dtype=float64),
        params=params,
        buffers={name: b.clone() for name, b in buffers.items()},
        states=[_tensors(content, f"{STATE}{client}", to) for client in clients],
        server=_tensors(content, "server", to),
        lr=plan["lr"],
        rounds=plan["rounds"] or None,
    )


def packed_server(params: Tensors, buffers: Tensors, number: int, nodes: int) -> RecordDict:
    """The message to a SuperNode that compares the gradients of its clients before a round."""
    plan = ConfigRecord({"number": number, "nodes": nodes})
    return RecordDict({PLAN: plan, **_arrays({"params": params, "buffers": buffers})})


def unpacked_server(content: RecordDict, learner: Learner, to: Any) -> tuple[int, int]:
    """The number of the round and of the nodes; the learner receives the server's parameters and buffers."""
    own = dict(learner.named_parameters()) | dict(learner.named_buffers())
    for name, sent in (_tensors(content, "params", to) | _tensors(content, "buffers", to)).items():
        own[name].data.copy_(sent)
    plan = _plan(content)
    return plan["number"], plan["nodes"]


def packed_directions(total: Directions) -> RecordDict:
    """The reply of a node with the sums over its clients."""
    groups = _arrays({"totals": total.totals, "squares": total.squares})
    return RecordDict({PLAN: ConfigRecord({"clients": total.clients}), **groups})


def unpacked_directions(content: RecordDict, to: Any) -> Directions:
    """The sums of a node's reply, at the server."""
    clients = _plan(content)["clients"]
    return Directions(_tensors(content, "totals", to), _tensors(content, "squares", to), clients)


def packed_result(result: RoundResult, executor: str) -> RecordDict:
    """The reply of a node: its sums, and the executor that computed them."""
    groups = {"update": result.update, "buffers": result.buffers, "state_change": result.state_change}
    groups |= {"totals": {"totals": result.totals}} | _by_client(result.states)
    return RecordDict({"made": ConfigRecord({"executor": executor}), **_arrays(groups)})


def unpacked_result(content: RecordDict, to: Any) -> RoundResult:
    """The sums of a node's reply, at the server."""
    ids = [int(name.removeprefix(STATE)) for name in content.array_records if name.startswith(STATE)]
    return RoundResult(
        _tensors(content, "update", to),
        _tensors(content, "buffers", to),
        _tensors(content, "state_change", to),
        {client: _tensors(content, f"{STATE}{client}", to) for client in sorted(ids)},
        _tensors(content, "totals", to)["totals"],
    )


def _plan(content: RecordDict) -> dict[str, Any]:
    return dict(content.config_records[PLAN])


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
