"""The executor of a federated run over Flower: nodes train their clients, and sums are added in a fixed order."""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from lit_fa.errors import UserError
from lit_fa.federated.gradient_similarity import Directions
from lit_fa.federated.round_task import LocalTraining, RoundResult, RoundTask
from lit_fa.flower.messages import packed_server, packed_task, unpacked_directions, unpacked_result
from lit_fa.flower.node import FAILED
from lit_fa.layers.feedback import feedback_layers
from lit_fa.rules.learner import Learner

log = logging.getLogger(__name__)
POLL_S = 0.2  # seconds between two requests for replies; Flower's own send_and_receive waits 3 s


class NodeError(UserError):
    """A SuperNode failed or did not answer."""


class GridExecutor:
    """Sends every node its clients of a round and adds the results in the order of the nodes.

    Args:
        grid: Flower's.
        nodes: number of SuperNodes; client c belongs to the one with partition-id c modulo nodes.
        allow_failures: continue with the clients that answered, with the weights of a round in which only they were
            sampled.
        patience_s: seconds to wait for the nodes to connect, and for the replies of a round.
    """

    name = "flower"

    def __init__(self, grid: Grid, nodes: int, allow_failures: bool = False, patience_s: float = 600.0):
        """See the class."""
        self.grid, self.nodes, self.allow_failures, self.patience_s = grid, nodes, allow_failures, patience_s
        self.node_of: dict[int, int] = {}  # partition-id to node id
        self.made_by: dict[int, str] = {}  # partition-id to its executor

    def refusal(self, learner: Learner, local: LocalTraining) -> str | None:
        """None: the nodes check the experiment themselves."""
        return None

    def connect(self, federation: str) -> None:
        """Wait until every part of the clients has a node, and check that all have the same data.

        Raises:
            NodeError: too few nodes, a part without a node or with two, or other data.
        """
        deadline = time.monotonic() + self.patience_s
        while len(ids := sorted(self.grid.get_node_ids())) < self.nodes:
            if time.monotonic() > deadline:
                raise NodeError(f"{len(ids)} of {self.nodes} SuperNodes are connected after {self.patience_s:g} s")
            time.sleep(POLL_S)
        answers = self._answers({id: RecordDict() for id in ids}, "query")
        for id, content in answers.items():
            if isinstance(content, str):
                raise NodeError(f"SuperNode {id} cannot build the experiment: {content}")
            known: dict[str, Any] = dict(content.config_records["who"])
            self._place(int(known["partition-id"]), id, known["federation"] == federation)
        missing = sorted(set(range(self.nodes)) - {*self.node_of})
        if missing:
            raise NodeError(f"no SuperNode has partition-id {missing[0]} (of {self.nodes}): set it in --node-config")

    def run(self, learner: Learner, local: LocalTraining, task: RoundTask) -> RoundResult:
        """One round; the sum over nodes by ascending partition-id."""
        began, device = time.perf_counter(), next(iter(task.params.values())).device
        indices = {part: _indices(task, part, self.nodes) for part in range(self.nodes)}
        indices = {part: chosen for part, chosen in indices.items() if chosen}
        sent = {self.node_of[part]: packed_task(task.take(chosen), learner) for part, chosen in indices.items()}
        replies = self._answers(sent, "train", str(task.round.number))
        result, answered = RoundResult(), []
        for part, chosen in indices.items():
            content = replies[self.node_of[part]]
            if isinstance(content, str):
                self._failed(part, chosen, task, content)
                continue
            self.made_by[part] = str(content.config_records["made"]["executor"])
            result.add(unpacked_result(content, device))
            answered += chosen
        took = time.perf_counter() - began
        log.info("round %d: %d clients on %d nodes, %.1f s", task.round.number, len(answered), len(indices), took)
        return result if len(answered) == len(task.states) else _reweighted(result, local, task, sorted(answered))

    def directions(self, learner: Learner, number: int, names: Sequence[str]) -> Directions:
        """The sum over all clients of all nodes, by ascending partition-id; the nodes determine the layers themselves.

        Raises:
            NodeError: a node does not answer; choosing layers needs all clients, even with `allow_failures`.
        """
        own = {id(layer.feedback.weight) for layer in feedback_layers(learner, off=True).values()}  # nodes draw theirs
        buffers = {name: buffer for name, buffer in learner.named_buffers() if id(buffer) not in own}
        server = packed_server(dict(learner.named_parameters()), buffers, number, self.nodes)
        answers = self._answers({id: server for id in self.node_of.values()}, "query.compare", str(number))
        total = Directions({}, {}, 0)
        for part in range(self.nodes):
            content = answers[self.node_of[part]]
            if isinstance(content, str):
                raise NodeError(f"SuperNode {part} did not compare its clients before round {number}: {content}")
            total.add(unpacked_directions(content, next(learner.parameters()).device))
        return total

    def _place(self, part: int, id: int, same: bool) -> None:
        if part in self.node_of or not 0 <= part < self.nodes:
            raise NodeError(f"a SuperNode has partition-id {part}: each of 0 to {self.nodes - 1} must be there once")
        if not same:
            raise NodeError(f"the SuperNode with partition-id {part} deals out other data than the server: same files?")
        self.node_of[part] = id

    def _failed(self, part: int, indices: list[int], task: RoundTask, reason: str) -> None:
        clients = ", ".join(str(task.round.clients[index]) for index in indices)
        what = f"SuperNode {part} failed in round {task.round.number} (clients {clients}): {reason}"
        if not self.allow_failures:
            raise NodeError(f"{what}; the last checkpoint stays usable: start again with --ckpt_path")
        log.warning("%s; going on without", what)

    def _answers(self, contents: dict[int, RecordDict], kind: str, group: str = "") -> dict[int, RecordDict | str]:
        """Send the messages; returns node id to its answer, or to a description of its failure."""
        sent = {id: Message(content, id, kind, group_id=group) for id, content in contents.items()}
        of = dict(zip(self.grid.push_messages([*sent.values()]), sent, strict=True))  # message id to node id
        answers: dict[int, RecordDict | str] = {}
        deadline = time.monotonic() + self.patience_s
        while waiting := [key for key, id in of.items() if id not in answers]:
            for reply in self.grid.pull_messages(waiting):
                answers[of[reply.metadata.reply_to_message_id]] = _content(reply)
            if time.monotonic() > deadline:
                answers |= {of[key]: f"no answer in {self.patience_s:g} s" for key in waiting if of[key] not in answers}
            if any(of[key] not in answers for key in waiting):
                time.sleep(POLL_S)
        return answers


def _content(reply: Message) -> RecordDict | str:
    if reply.has_error():
        return " ".join(str(reply.error.reason or f"error code {reply.error.code}").split())[:400]
    if FAILED in reply.content.config_records:
        return str(reply.content.config_records[FAILED]["said"])
    return reply.content


def _indices(task: RoundTask, part: int, nodes: int) -> list[int]:
    return [index for index, client in enumerate(task.round.clients) if client % nodes == part]


def _reweighted(result: RoundResult, local: LocalTraining, task: RoundTask, answered: list[int]) -> RoundResult:
    """The result with the client weights of a round in which only `answered` were sampled; their ratios are equal."""
    if not answered:
        raise NodeError(f"no client answered in round {task.round.number}; the last checkpoint stays usable")
    left = task.round.take(answered)
    weights = local.algorithm.client_weights(left.sizes, left.steps, local.optimizer)
    scale = float(weights[0] / task.client_weights[answered[0]])
    whole = float(task.sample_shares[answered].sum())
    update = {name: t * scale for name, t in result.update.items()}
    buffers = {name: b / whole if b.is_floating_point() else b for name, b in result.buffers.items()}
    return replace(result, update=update, buffers=buffers)
