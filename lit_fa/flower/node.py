"""The ClientApp. A SuperNode has the clients whose id equals its partition-id modulo the number of nodes.

It builds the experiment, runs our executor on its clients and returns their sum: one message per round and node for any
number of clients.
"""

import logging
from collections.abc import Callable
from dataclasses import replace

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from lit_fa.config.parser_errors import guarded
from lit_fa.experiment import Experiment
from lit_fa.federated.executors import checked, executor_named, fastest
from lit_fa.federated.gradient_similarity import Directions, directions
from lit_fa.federated.round_task import Round, RoundResult, RoundTask
from lit_fa.flower.experiment import at_node, federated_model, fingerprint
from lit_fa.flower.messages import packed_directions, packed_result, unpacked_server, unpacked_task
from lit_fa.rules.comparing import ComparesClients

log = logging.getLogger(__name__)
FAILED = "failed"
app = ClientApp()


@app.query()
def who(message: Message, context: Context) -> Message:
    """The part of the clients that this node has, and a fingerprint of its data."""

    def answer() -> RecordDict:
        part = int(context.node_config.get("partition-id", 0))
        return RecordDict({"who": ConfigRecord({"partition-id": part, "federation": fingerprint(_ready(context))})})

    return _replied(message, answer)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train this node's clients of a round."""

    def trained() -> RecordDict:
        experiment = _placed(context)
        device, loader = experiment.trainer.strategy.root_device, experiment.data.train_dataloader()

        def round_of(number: int, clients: tuple[int, ...]) -> Round:
            return loader.round_of(number, clients).to(device)

        task = unpacked_task(message.content, federated_model(experiment).learner, round_of, device)
        with experiment.trainer.precision_plugin.train_step_context():
            return packed_result(*_result(experiment, task, context))

    return _replied(message, trained)


@app.query("compare")
def compare(message: Message, context: Context) -> Message:
    """The sum of the gradient directions of this node's clients, for a rule that chooses layers by them."""

    def compared() -> RecordDict:
        experiment = _placed(context)
        model, device = federated_model(experiment), experiment.trainer.strategy.root_device
        learner, rule = model.learner, model.rule
        assert isinstance(rule, ComparesClients)
        number, nodes = unpacked_server(message.content, learner, device)
        whole = experiment.data.train_dataloader().whole(number).to(device)
        whole = replace(whole, dtype=next(learner.parameters()).dtype)
        part = int(context.node_config.get("partition-id", 0))
        indices = [index for index, client in enumerate(whole.clients) if client % nodes == part]
        if not indices:
            return packed_directions(Directions({}, {}, 0))
        names = rule.candidates(learner.network)
        with experiment.trainer.precision_plugin.train_step_context():
            return packed_directions(directions(learner, whole.take(indices), names, model.local.seed, rule.private))

    return _replied(message, compared)


def _placed(context: Context) -> Experiment:
    """The experiment with its data, and its model in the trainer's precision and on its device."""
    experiment = _ready(context)
    experiment.trainer.precision_plugin.convert_module(experiment.model).to(experiment.trainer.strategy.root_device)
    return experiment


def _ready(context: Context) -> Experiment:
    """The experiment with its data read and split among the clients."""
    experiment = at_node(context.run_config["experiment"])
    experiment.data.prepare_data()
    experiment.data.setup("fit")
    return experiment


def _result(experiment: Experiment, task: RoundTask, context: Context) -> tuple[RoundResult, str]:
    """Run the executor of the config; `auto` is chosen by timing in a node's first round and stored by the node."""
    module = federated_model(experiment)
    learner, local = module.learner, module.local
    executor = module.executor
    if executor is None and "executor" in context.state.config_records:
        executor = executor_named(str(context.state.config_records["executor"]["name"]), module.lanes)
    if executor is None:
        executor, _ = fastest(learner, local, task, module.lanes)
        context.state["executor"] = ConfigRecord({"name": executor.name})
    return checked(executor, learner, local).run(learner, local, task), executor.name


def _replied(message: Message, answer: Callable[[], RecordDict]) -> Message:
    """The answer, or a one-line error; Flower's own report of an exception has no text."""
    try:
        content = guarded(answer)
    except Exception as error:
        log.exception("a message was not answered")
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:400]
        content = RecordDict({FAILED: ConfigRecord({"said": reason})})
    return Message(content=content, reply_to=message)
