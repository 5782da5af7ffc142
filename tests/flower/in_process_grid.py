"""Flower's grid without processes: messages go through its own records and the ClientApp, node after node."""

import random
from types import SimpleNamespace

from flwr.app import Context, Error, Message, RecordDict
from flwr.common.serde import recorddict_to_proto
from flwr.supercore.task_identity import TaskIdentity

from lit_fa.flower import node


class InProcessGrid:
    """Nodes with partition-ids 0, 1, ...; replies come back in random order, as they would from a network.

    lost: node ids that never answer well, from round `since` on.
    """

    def __init__(self, nodes: int, experiment: str, lost: set[int] = frozenset(), since: int = 0, partition_ids=None):
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1  # a process that Flower starts has them
        self.lost, self.since = lost, since
        self.ids = [1000 + 7 * i for i in range(nodes)]
        ids = range(nodes) if partition_ids is None else partition_ids
        self.contexts = {
            id: Context(1, id, {"partition-id": part}, RecordDict(), {"experiment": experiment})
            for id, part in zip(self.ids, ids, strict=True)
        }
        self.sent: dict[str, Message] = {}
        self.log = SimpleNamespace(messages=0, executors=set(), bytes=[])  # (kind, sent, answered)

    def get_node_ids(self) -> list[int]:
        return random.sample(self.ids, len(self.ids))

    def push_messages(self, messages: list[Message]) -> list[str]:
        for message in messages:
            message.metadata.__dict__["_message_id"] = message.object_id
            self.sent[message.metadata.message_id] = message
        return [message.metadata.message_id for message in messages]

    def pull_messages(self, ids: list[str]) -> list[Message]:
        chosen = random.choice(ids)
        return [self._answer(self.sent.pop(chosen))]

    def _answer(self, message: Message) -> Message:
        self.log.messages += 1
        id, round = message.metadata.dst_node_id, message.metadata.group_id
        if id in self.lost and round and int(round) >= self.since:
            return Message(Error(code=5, reason="Node Unavailable"), reply_to=message)
        answer = node.app(message, self.contexts[id])
        self.log.bytes.append((message.metadata.message_type, size(message), size(answer)))
        return answer


def size(message: Message) -> int:
    """Bytes of a message's content as Flower serialises it."""
    return len(recorddict_to_proto(message.content).SerializeToString())
