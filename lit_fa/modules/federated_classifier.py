r"""Federated training: one batch is one round, and the weighted client updates are the gradient of the server.

McMahan et al. 2017 (arXiv:1602.05629): the server sends w to the sampled clients, each trains on its own data, and the
server averages their parameters. With the gradient $\Delta = \sum_i p_i (w - w_i)$, SGD with learning rate one gives
that average; other optimisers give other servers (Reddi et al. 2021, arXiv:2003.00295). So `max_steps` counts rounds,
and checkpoints, resuming, callbacks and loggers need no code for federations.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from lit_fa.checkpoints.client_store import ClientStore
from lit_fa.checkpoints.state_rows import Layout
from lit_fa.errors import UserError, check_literals
from lit_fa.federated.algorithms import FedAvg, FederatedAlgorithm
from lit_fa.federated.executors import EXECUTORS, Executor, checked, executor_named
from lit_fa.federated.features import Features
from lit_fa.federated.local_optimizers import LocalOptimizer, LocalSchedule, LocalSGD
from lit_fa.federated.round_task import (
    LocalTraining,
    Round,
    RoundResult,
    RoundTask,
    StatesOf,
    changing_buffers,
    sent_to_clients,
    trainable,
)
from lit_fa.federated.sequential import SequentialExecutor
from lit_fa.functional.criteria import CriterionName
from lit_fa.lightning_privates import trainer_of
from lit_fa.modules.averages import check_averages, check_no_renewal
from lit_fa.modules.client_states import NamedStates, States, keep, opened, saved_states
from lit_fa.modules.distributed import share_of, summed
from lit_fa.modules.groups import freeze_followers
from lit_fa.modules.length import check_length, run_length
from lit_fa.modules.rates import constructed
from lit_fa.modules.round_execution import agreed_executor, check_clients
from lit_fa.modules.schedules import ScheduledClassifier
from lit_fa.modules.selection import logged, select
from lit_fa.networks import configured
from lit_fa.rules.backprop import Backprop
from lit_fa.rules.base import Does, LearningRule, Tensors
from lit_fa.rules.comparing import ComparesClients
from lit_fa.rules.learner import Learner

LAST = 10  # final rounds that are always validated: papers report their mean


def averaging_server(params: Iterable[Any]) -> torch.optim.Optimizer:
    """SGD with rate one: the new server is the clients' average."""
    return torch.optim.SGD(params, lr=1.0)


class FederatedClassifier(ScheduledClassifier):
    """Trains a network on clients that keep their data, by any learning rule and any federated algorithm.

    Args:
        network: a timm name (ours are registered there too) or a module.
        rule: how a client computes its updates; None is backprop.
        algorithm: FedAvg (None), FedProx, FedNova, Scaffold, FedDyn, Moon or FedDecorr.
        local_optimizer: of the clients, new in every round; None: LocalSGD(lr=0.1).
        local_schedule: factor on the clients' learning rate over rounds; None: one.
        optimizer: of the server: SGD with rate one averages, with momentum it is FedAvgM; FedAdam, FedYogi.
        scheduler: of the server's learning rate, one step a round; for a plateau see `ScheduledClassifier`.
        executor: `stacked`, `vmap`, `sequential`, or `auto`: the fastest that supports the run, timed in the first
            round. Because `auto` depends on timing, name an executor if two runs must be equal bit for bit.
        lanes: clients that are trained in one batch; None: as many as the cache holds.
        validate_every: rounds between validations; if the number of rounds is known (`trainer.max_epochs` or
            `max_steps`), the last ten rounds are always validated.
        seed: of the clients' random draws (dropout), together with round and client id.
        num_classes: c.
        image_shape: (channels, height, width) of the inputs.
        criterion: `cross_entropy`, `mse` or `bce`.
        network_args: further arguments of the network.
        pretrained: load timm's weights for the network.
        stream: free each block's activations before the next block runs (rules with cuts, executor sequential).
        input_shape: of one sample as it is in a batch, if it differs from `image_shape` ((c*h*w,) for flat images).

    Attributes:
        executed_by: after the first round, the executor, the seconds of each in the trial, and why others cannot run.
        selections: of a rule that compares clients: for each comparison the round, the chosen layers and all scores.

    Raises:
        UserError: an unknown name, an algorithm that does not fit the local optimiser, or an executor that does not
            support the rule.

    >>> module = FederatedClassifier("mlp", network_args={"hidden": [8]})
    >>> module.local.algorithm, module.local.optimizer.lr
    (FedAvg(), 0.1)
    """

    def __init__(
        self,
        network: str | nn.Module,
        rule: LearningRule | None = None,
        algorithm: FederatedAlgorithm | None = None,
        local_optimizer: LocalOptimizer | None = None,
        local_schedule: LocalSchedule | None = None,
        optimizer: OptimizerCallable = averaging_server,
        scheduler: LRSchedulerCallable | None = None,
        executor: Literal["sequential", "vmap", "stacked", "auto"] = "auto",
        lanes: int | None = None,
        validate_every: int = 1,
        seed: int = 0,
        num_classes: int = 10,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        criterion: CriterionName = "cross_entropy",
        network_args: dict[str, Any] | None = None,
        pretrained: bool = False,
        stream: bool = False,
        input_shape: tuple[int, ...] | None = None,
    ):
        """Build the network and install the rule."""
        super().__init__()
        check_literals(FederatedClassifier, locals())
        _check(lanes, validate_every)
        self.automatic_optimization = False
        if isinstance(network, str):
            network = configured(network, num_classes, tuple(image_shape), pretrained, network_args or {})
        example = self.example(network, input_shape or image_shape)
        rule = Backprop() if rule is None else rule
        if getattr(rule, "pruning", None) is not None:
            raise UserError("pruning comes at the end of epochs, which clients do not have: remove the rule's pruning")
        if stream and Does.STREAMS not in rule.does:
            raise UserError(f"{type(rule).__name__} has no block boundaries to stream; use stream: false")
        if Does.PREPARES in rule.does:
            raise UserError(f"{type(rule).__name__} prepares itself on training batches, which a server does not have")
        self.learner = Learner(network, rule, example, criterion)
        algorithm = FedAvg() if algorithm is None else algorithm
        local_optimizer = LocalSGD() if local_optimizer is None else local_optimizer
        algorithm.check(local_optimizer)
        taps = getattr(getattr(rule, "taps", None), "names", [])
        features = Features(network, example, taps) if algorithm.wants_features else None
        self.local = LocalTraining(algorithm, local_optimizer, seed, stream, features)
        self.local_schedule = LocalSchedule() if local_schedule is None else local_schedule
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.lanes, self.validate_every = lanes, validate_every
        self.executor: Executor | None = None
        self.executed_by: dict[str, Any] = {}
        if executor != "auto":
            self.executor = checked(executor_named(executor, lanes), self.learner, self.local)
            self.executed_by = {"executor": executor}
        self.states: States = {}  # client id to its state of the algorithm; a `ClientStore` from the start of a fit
        self.states_shared = False  # whether the ranks have one file of states
        self.server: Tensors = {}  # the algorithm's state at the server
        self.selections: list[dict[str, Any]] = []
        self.measure(num_classes)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The server's optimiser; its schedule counts rounds."""
        measured = self.learner.measured()
        params = [p for name, p in trainable(self.learner).items() if name not in measured]
        return self.scheduled(constructed(self.make_optimizer, params, "optimizer"))

    def training_step(self, batch: Round, batch_idx: int) -> Tensor:
        """One round: training of the clients, sum over ranks, optimiser step of the server."""
        self.choose_layers(batch.number)
        task = self.round_task(batch)
        indices = share_of(batch.steps, self.global_rank, self.trainer.world_size)
        own = task.take(indices) if indices else None
        executor = agreed_executor(self, own)  # a collective call, also for a rank without clients
        result = executor.run(self.learner, self.local, own) if own else RoundResult()
        changing = {name: task.buffers[name] for name in changing_buffers(self.learner)}
        algorithm = self.local.algorithm
        state_changes, gather = algorithm.has_server_state, algorithm.stateful and not self.states_shared
        sums = {"state_changes": state_changes, "gather_states": gather}
        result = summed(result, task.params, changing, self.trainer.strategy, **sums)
        loss, correct, samples = result.totals.tolist()
        check_clients(loss, task, self.learner, self.local)
        self._server_step(result, batch.population)
        metrics = {"train/loss": loss / samples, "train/accuracy": 100 * correct / samples}
        self.log_dict(metrics | {"train/local_lr": task.lr})
        return torch.tensor(loss / samples)

    def choose_layers(self, number: int) -> None:
        """Before round `number`, let a rule that compares clients choose its layers; a second call does nothing."""
        done = bool(self.selections) and self.selections[-1]["round"] == number
        if isinstance(self.rule, ComparesClients) and self.rule.compares_before(number) and not done:
            self.selections.append(select(self, number, self.selections))
            self.log_dict(logged(self.selections[-1]))

    def movements(self, batch: Round) -> Iterator[tuple[int, Tensors]]:
        """Train one client of a round after another and yield (id, name to W_i - W^r), the change of its parameters.

        For observers, before the round. Parameters and buffers of the learner are unchanged between two clients.
        """
        self.choose_layers(batch.number)
        task = self.round_task(batch)
        for index, client in enumerate(batch.clients):
            alone = replace(task.take([index]), client_weights=torch.ones(1, dtype=torch.float64))
            result = SequentialExecutor().run(self.learner, self.local, alone)
            yield client, {name: -update for name, update in result.update.items()}

    def client_bytes(self, batch: Round) -> int:
        """Bytes of the tensors that one client of a round receives (without its state) and returns."""
        task = self.round_task(batch)
        sent = [t for tensors in sent_to_clients(task, self.learner).values() for t in tensors.values()]
        returned = [*task.params.values(), *(task.buffers[name] for name in changing_buffers(self.learner))]
        returned += [*task.server.values()]  # the change of a client's state
        return sum(t.nbytes for t in (*sent, *returned))

    @torch.no_grad()
    def round_task(self, batch: Round) -> RoundTask:
        """What the clients of a round receive; feedback that the rule renews every round is renewed first."""
        params, buffers = trainable(self.learner), dict(self.learner.named_buffers())
        for name, tensor in self.learner.renewed(params, buffers, batch.number).items():
            buffers[name].copy_(tensor)
        sent = {name: p.detach().clone() for name, p in params.items()}
        algorithm, sizes = self.local.algorithm, torch.tensor(batch.sizes, dtype=torch.float64)
        if algorithm.has_server_state and not self.server:
            self.server = {name: torch.zeros_like(p) for name, p in sent.items()}
        rounds = self.rounds()
        return RoundTask(
            round=replace(batch, dtype=next(iter(sent.values())).dtype),
            client_weights=algorithm.client_weights(batch.sizes, batch.steps, self.local.optimizer),
            sample_shares=sizes / sizes.sum(),
            params=sent,
            buffers={name: b.clone() for name, b in buffers.items()},
            states=StatesOf(batch.clients, lambda c: self.states.get(c) or algorithm.initial_state(sent)),
            server=self.server,
            lr=self.local.optimizer.lr * self.local_schedule.factor(batch.number, rounds or 1),
            rounds=rounds,
        )

    def rounds(self) -> int | None:
        """Rounds of the whole run; None if that is not known."""
        return run_length(self.trainer)[0]

    @property
    def validates(self) -> bool:
        """Whether the round that has just ended is validated."""
        done = self.global_step
        if self.trainer.state.fn != "fit" or done % self.validate_every == 0:
            return True
        rounds = self.rounds()
        return rounds is not None and done > rounds - LAST

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Loss and accuracy on held-out data, if the round is validated."""
        if self.validates:
            super().validation_step(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Accuracy in percent, if the round is validated."""
        if self.validates:
            super().on_validation_epoch_end()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store where the states of clients are, the algorithm's state, and the executor, on which rounding depends.

        What has no loops, such as the best weights so far in memory, needs none of it.
        """
        super().on_save_checkpoint(checkpoint)
        if "loops" not in checkpoint:
            return
        checkpoint["federated"] = {
            **saved_states(self.states, self.trainer), "server": self.server, "executed_by": self.executed_by,
            "selections": self.selections,
        }  # fmt: skip

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the clients' states and the executor."""
        super().on_load_checkpoint(checkpoint)
        saved = checkpoint.get("federated")
        if saved is None:
            return
        self.states = {c: {n: t.to(self.device) for n, t in s.items()} for c, s in saved["states"].items()}
        if "store" in saved:
            trainer = trainer_of(self)
            path = self.loaded_from if trainer is None else trainer.ckpt_path
            self.states = NamedStates(saved["store"], path, self.device)
        self.server = {n: t.to(self.device) for n, t in saved["server"].items()}
        self.selections = saved.get("selections", [])
        if self.executor is None and saved["executed_by"].get("executor") in EXECUTORS:
            self.executed_by = saved["executed_by"]
            self.executor = executor_named(self.executed_by["executor"], self.lanes)

    def setup(self, stage: str) -> None:
        """Freeze the feedback of frozen weights."""
        super().setup(stage)
        freeze_followers(self.learner)

    def on_train_start(self) -> None:
        """Refuse schedules over an unknown number of rounds; log the last selection of a resumed run."""
        super().on_train_start()
        if self.selections:
            self.log_dict(logged(self.selections[-1]))
        cosine = ["local_schedule.kind: cosine"] if self.local_schedule.kind == "cosine" else []
        check_length([*self.rule.follows_length, *cosine], *run_length(self.trainer))

    def on_train_epoch_end(self) -> None:
        """Step the schedules that count epochs."""
        self.schedule("epoch")

    def on_fit_start(self) -> None:
        """Check averaging, open the store of the clients' states, and move the algorithm's state to the device."""
        check_averages(self.trainer, self.learner)
        check_no_renewal(self.trainer)
        super().on_fit_start()
        if self.local.algorithm.stateful:
            sent = {name: p.detach() for name, p in trainable(self.learner).items()}
            layout = Layout.of(self.local.algorithm.initial_state(sent))
            self.states, self.states_shared = opened(self.states, layout, self.trainer)
        self.server = {n: t.to(self.device) for n, t in self.server.items()}

    def on_fit_end(self) -> None:
        """Let other runs write to the store of the clients' states."""
        if isinstance(self.states, ClientStore):
            self.states.release()

    def _server_step(self, result: RoundResult, population: int) -> None:
        """The optimiser step of the server; buffers that clients change are set to their average."""
        optimizer, buffers = self.optimizer, dict(self.learner.named_buffers())
        if isinstance(self.states, ClientStore):
            keep(self.states, result.states, self.trainer, shared=self.states_shared)
        self.server = {
            n: self.server[n] + change / population for n, change in result.state_change.items()
        } or self.server
        gradient = self.local.algorithm.server_gradient(result.update, self.server)
        measured = self.learner.measured()
        for name, p in trainable(self.learner).items():
            if name in measured:  # the mean over clients, without the server's optimiser
                p.data.sub_(result.update[name].to(p))
            else:
                p.grad = gradient[name]
        for name, value in result.buffers.items():
            buffers[name].copy_(value)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self.schedule("step")


def _check(lanes: int | None, validate_every: int) -> None:
    if lanes is not None and lanes < 1:
        raise UserError(f"lanes is at least 1 or null, not {lanes}")
    if validate_every < 1:
        raise UserError(f"validate_every is at least 1, not {validate_every}")
