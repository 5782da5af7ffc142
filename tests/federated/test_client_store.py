"""The states of clients are on disk: what a checkpoint names, what survives a kill, and what is refused."""

import copy
import shutil
from collections.abc import Sequence
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

import lit_fa
from lit_fa.checkpoints import store_files
from lit_fa.checkpoints.client_store import ClientStore
from lit_fa.checkpoints.files import read, save
from lit_fa.checkpoints.state_rows import Layout
from lit_fa.checkpoints.store_files import ClientStoreError
from lit_fa.datamodules.image_set import InMemory
from lit_fa.datamodules.rounds import LocalWork, RoundLoader
from lit_fa.errors import UserError
from lit_fa.federated import FedDyn, FederatedAlgorithm, LocalSGD, Moon, Scaffold
from lit_fa.modules import FederatedClassifier, federated_classifier

ALGORITHMS = [Scaffold(), FedDyn(0.2), Moon()]
LAYOUT = Layout.of({"w": torch.zeros(3), "b": torch.zeros((), dtype=torch.float64)})


def module(algorithm: FederatedAlgorithm, width: int = 7) -> FederatedClassifier:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, width), nn.Tanh(), nn.Linear(width, 4))
    return FederatedClassifier(
        network, None, algorithm, LocalSGD(0.2), executor="sequential", num_classes=4, image_shape=(5,)
    )


def loader(clients: int, sampled: int, rounds: int) -> RoundLoader:
    g = torch.Generator().manual_seed(7)
    x, y = torch.randn(4 * clients, 5, generator=g), torch.randint(4, (4 * clients,), generator=g)
    parts = list(torch.arange(4 * clients).split(4))
    return RoundLoader(InMemory(x, y), parts, sampled, LocalWork(4, 1), rounds_per_epoch=rounds)


def fit(
    algorithm: FederatedAlgorithm, folder: Path | None, *, rounds: int = 3, clients: int = 12, sampled: int = 4,
    resume: Path | None = None, keep: int = -1, width: int = 7, also: Sequence[L.Callback] = (),
) -> FederatedClassifier:  # fmt: skip
    """The module after so many rounds; every round leaves a checkpoint in the folder."""
    trained = module(algorithm, width)
    options = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    callbacks = [ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=keep, monitor=None)]
    if folder is None:
        options["enable_checkpointing"], callbacks = False, []
    trainer = L.Trainer(accelerator="cpu", max_steps=rounds, callbacks=[*callbacks, *also], **options)
    trainer.fit(trained, loader(clients, sampled, 100), ckpt_path=resume)
    return trained


def loaded(path: Path) -> FederatedClassifier:
    return lit_fa.load(path, network=module(Scaffold()).network)


def same(a: FederatedClassifier, b: FederatedClassifier) -> bool:
    """Whether weights, the server's and all clients' states are equal bit for bit."""
    pairs = [(a.learner.state_dict(), b.learner.state_dict()), (a.server, b.server)]
    pairs += [(a.states[c], b.states[c]) for c in a.states] if sorted(a.states) == sorted(b.states) else [({0: 0}, {})]
    return all(x.keys() == y.keys() and all(torch.equal(x[n], y[n]) for n in x) for x, y in pairs)


def store_of(folder: Path) -> Path:
    (store,) = folder.glob("clients-*")
    return store


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: type(a).__name__)
def test_states_on_disk_give_the_bits_of_states_in_memory(algorithm, tmp_path, monkeypatch):
    on_disk, unnamed = fit(algorithm, tmp_path), fit(algorithm, None)
    assert isinstance(on_disk.states, ClientStore)
    assert on_disk.states.folder == store_of(tmp_path)
    monkeypatch.setattr(federated_classifier, "opened", lambda states, *_: (dict(states), True))
    monkeypatch.setattr(federated_classifier, "ClientStore", dict)
    monkeypatch.setattr(FederatedClassifier, "on_fit_end", lambda _: None)
    monkeypatch.setattr(federated_classifier, "keep", lambda states, new, *_, **__: states.update(new))
    in_memory = fit(algorithm, None)
    assert same(on_disk, in_memory)
    assert same(unnamed, in_memory)


def test_a_run_goes_on_from_any_of_its_checkpoints_bit_for_bit(tmp_path):
    whole = fit(Scaffold(), tmp_path / "whole", rounds=5)
    fit(Scaffold(), tmp_path / "part", rounds=4)
    for step in (2, 4, 1):  # in the same folder, later generations exist
        resumed = fit(Scaffold(), tmp_path / "part", rounds=5, resume=tmp_path / "part" / f"step={step}.ckpt")
        assert same(resumed, whole)


def test_a_checkpoint_has_the_same_size_after_ten_times_the_clients(tmp_path):
    sizes, checkpoints = {}, {}
    for clients in (30, 300):
        trained = fit(Scaffold(), tmp_path / str(clients), rounds=2, clients=clients, sampled=clients // 2)
        checkpoints[clients] = read(tmp_path / str(clients) / "step=2.ckpt")["federated"]
        sizes[clients] = (tmp_path / str(clients) / "step=2.ckpt").stat().st_size
        assert len(trained.states) > clients / 2
    assert checkpoints[300]["states"] == {}
    assert abs(sizes[300] - sizes[30]) <= 256  # the path and the numbers that the checkpoint contains


def test_a_moved_run_finds_its_states(tmp_path):
    fit(Scaffold(), tmp_path / "old", rounds=2)
    whole = fit(Scaffold(), tmp_path / "whole", rounds=3)
    shutil.move(tmp_path / "old", tmp_path / "new")
    of_old = loaded(tmp_path / "new" / "step=2.ckpt")
    assert len(of_old.states) > 4
    assert same(fit(Scaffold(), tmp_path / "new", resume=tmp_path / "new" / "step=2.ckpt"), whole)
    assert same(fit(Scaffold(), tmp_path / "other", resume=tmp_path / "new" / "step=2.ckpt"), whole)
    assert store_of(tmp_path / "other") != store_of(tmp_path / "new")


def test_a_checkpoint_that_contains_the_states_is_read_on(tmp_path):
    fit(Moon(), tmp_path / "a", rounds=2)
    old = read(tmp_path / "a" / "step=2.ckpt")
    old["federated"]["states"] = dict(loaded(tmp_path / "a" / "step=2.ckpt").states)
    del old["federated"]["store"]
    save(old, tmp_path / "old.ckpt")
    shutil.rmtree(tmp_path / "a")
    assert same(fit(Moon(), tmp_path / "b", resume=tmp_path / "old.ckpt"), fit(Moon(), None))


def test_without_a_folder_of_checkpoints_a_checkpoint_contains_the_states(tmp_path):
    class Saved(L.Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 2:
                trainer.save_checkpoint(tmp_path / "by hand.ckpt")

    fit(Scaffold(), None, rounds=2, also=[Saved()])
    assert len(read(tmp_path / "by hand.ckpt")["federated"]["states"]) > 4
    assert same(fit(Scaffold(), None, resume=tmp_path / "by hand.ckpt"), fit(Scaffold(), None))


def missing(folder: Path) -> None:
    shutil.rmtree(store_of(folder))


def truncated(folder: Path) -> None:
    rows = store_of(folder) / "rows"
    rows.write_bytes(rows.read_bytes()[:200])


def damaged(folder: Path) -> None:
    rows = store_of(folder) / "rows"
    rows.write_bytes(bytes(len(rows.read_bytes())))


def without_rows(folder: Path) -> None:
    (store_of(folder) / "rows").unlink()


def without_generation(folder: Path) -> None:
    for path in store_of(folder).glob("generation-*"):
        path.unlink()


def of_another_run(folder: Path) -> None:
    store, other = store_of(folder), folder / "other"
    fit(Scaffold(), other, rounds=2)
    shutil.rmtree(store)
    shutil.move(store_of(other), store)


def described_wrongly(folder: Path) -> None:
    (store_of(folder) / "store.json").write_text("{}")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (missing, "missing"), (truncated, "truncated"), (damaged, "damaged .the state of client"),
        (without_rows, "incomplete"), (without_generation, "has no generation 1"), (of_another_run, "of another run"),
        (described_wrongly, "damaged .store.json"),
    ],
)  # fmt: skip
def test_a_store_that_cannot_be_used_is_one_line(spoil, message, tmp_path):
    fit(Scaffold(), tmp_path, rounds=2)
    spoil(tmp_path)
    with pytest.raises(ClientStoreError, match=message) as error:
        fit(Scaffold(), tmp_path, resume=tmp_path / "step=2.ckpt", rounds=12)
    assert "\n" not in str(error.value)
    assert "give another checkpoint" in str(error.value)
    assert loaded(tmp_path / "step=2.ckpt").network is not None  # evaluation needs no states


def test_the_states_of_another_network_are_refused(tmp_path):
    store = ClientStore.create(LAYOUT, tmp_path)
    store.update({0: {"w": torch.ones(3), "b": torch.zeros((), dtype=torch.float64)}})
    entry = store.commit()
    with pytest.raises(ClientStoreError, match="of another network"):
        ClientStore.open(store.folder, entry, Layout.of({"w": torch.zeros(4)}))


def state(value: float) -> dict[str, torch.Tensor]:
    return {"w": torch.full((3,), float(value)), "b": torch.tensor(value, dtype=torch.float64)}


def values(store: ClientStore) -> dict[int, float]:
    return {client: float(own["w"][0]) for client, own in store.items()}


def test_no_generation_changes_until_its_checkpoints_are_gone(tmp_path):
    store = ClientStore.create(LAYOUT, tmp_path)
    expected, rng = {}, np.random.default_rng(0)
    present: dict[int, float] = {}
    for step in range(12):
        new = {int(client): float(rng.integers(1000)) for client in rng.choice(9, 4, replace=False)}
        store.update({client: state(value) for client, value in new.items()})
        present |= new
        if step % 2:
            continue
        entry = store.commit()
        store_files.pin(entry, tmp_path / f"{step}.ckpt")
        expected[step] = (entry, dict(present))
        if step >= 6:
            store_files.unpin(tmp_path / f"{step - 6}.ckpt")
    assert values(store) == present
    for step, (entry, then) in expected.items():
        if step <= 4 - 2:  # deleted, and a later commit has freed the rows
            with pytest.raises(ClientStoreError, match="has no generation"):
                ClientStore.open(store.folder, entry)
        else:
            assert values(ClientStore.open(store.folder, entry)) == then


def test_the_file_of_rows_does_not_grow_while_one_checkpoint_is_kept(tmp_path):
    store, sizes = ClientStore.create(LAYOUT, tmp_path), []
    for value in range(20):
        store.update({client: state(value) for client in range(8)})
        store_files.pin(store.commit(), tmp_path / "last.ckpt")
        sizes.append((store.folder / "rows").stat().st_size)
    assert sizes[-1] == sizes[2] <= 3 * 8 * LAYOUT.nbytes
    assert len(store_files.generations(store.folder)) == 2


def test_a_trainer_that_keeps_one_checkpoint_keeps_two_generations(tmp_path):
    whole = fit(Scaffold(), None, rounds=9)
    fit(Scaffold(), tmp_path, rounds=8, keep=1)
    assert len(store_files.generations(store_of(tmp_path))) == 2
    assert same(fit(Scaffold(), tmp_path, rounds=9, resume=tmp_path / "step=8.ckpt"), whole)


def test_rows_written_after_a_generation_and_never_committed_leave_it_as_it_was(tmp_path):
    store = ClientStore.create(LAYOUT, tmp_path)
    store.update({client: state(1) for client in range(4)})
    entry = store.commit()
    store.update({client: state(2) for client in range(6)})
    store.close()  # as a kill: nothing of the second round is recorded
    again = ClientStore.open(store.folder, entry)
    assert values(again) == dict.fromkeys(range(4), 1.0)
    assert again.lock()
    again.update({client: state(3) for client in range(8)})
    assert values(again) == dict.fromkeys(range(8), 3.0)
    assert values(ClientStore.open(store.folder, entry)) == dict.fromkeys(range(4), 1.0)


def test_one_process_allots_rows(tmp_path):
    store = ClientStore.create(LAYOUT, tmp_path)
    store.update({0: state(1)})
    other = ClientStore.open(store.folder, store.commit())
    assert not other.lock()
    store.close()
    assert other.lock()


def test_a_store_without_generations_is_removed_by_the_next_run(tmp_path):
    ClientStore.create(LAYOUT, tmp_path).close()
    running = ClientStore.create(LAYOUT, tmp_path)
    later = ClientStore.create(LAYOUT, tmp_path)
    assert {*tmp_path.glob("clients-*")} == {running.folder, later.folder}


def test_a_copy_of_a_store_is_a_dictionary():
    store = ClientStore(LAYOUT)
    store.update({3: state(1), 1: state(2)})
    copied = copy.deepcopy(store)
    assert type(copied) is dict
    assert [*copied] == [1, 3]
    assert torch.equal(copied[3]["w"], torch.ones(3))


def test_a_full_disk_is_one_line(monkeypatch, tmp_path):
    store = ClientStore.create(LAYOUT, tmp_path)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    with pytest.raises(UserError, match=r"rows: cannot be written .No space left on device"):
        store.update({0: state(1)})


def test_a_run_that_has_ended_lets_another_one_write_to_its_store(tmp_path):
    ended = fit(Scaffold(), tmp_path, rounds=2)
    resumed = fit(Scaffold(), tmp_path, rounds=3, resume=tmp_path / "step=2.ckpt")
    assert store_of(tmp_path).is_dir()
    assert sorted(ended.states) != []
    assert len(resumed.states) >= len(ended.states)
