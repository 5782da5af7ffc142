"""A checkpoint alone gives the trained module back: same rule, same network, same predictions to the last bit."""

import copy
from functools import partial

import lightning as L
import pytest
import torch
from torch import nn

import lit_fa
from lit_fa.datamodules import Digits, Federated
from lit_fa.errors import UserError
from lit_fa.federated import LocalSGD, Scaffold
from lit_fa.modules import Classifier, FederatedClassifier, HeadProbe
from lit_fa.rules import (
    FLFA,
    AugLocal,
    DirectFeedbackAlignment,
    FeedbackAlignment,
    FeedbackWeightMatching,
    ForwardForward,
    KolenPollackFeedback,
    PredSim,
    SignFeedback,
    SVDBackprop,
    SVDSpaceAlignment,
)
from lit_fa.rules.rank_schedule import Hoyer, Pruning

RULES = {
    "backprop": lambda: None,
    "fa": lambda: FeedbackAlignment(SignFeedback("brsf", seed=3)),
    "kolen_pollack": lambda: FeedbackAlignment(KolenPollackFeedback(seed=4), backend="detour"),
    "dfa": lambda: DirectFeedbackAlignment(seed=5),
    "fwm": FeedbackWeightMatching,
    "ff": lambda: ForwardForward("symba", head="none"),
    "predsim": lambda: PredSim("predsim"),
    "auglocal": AugLocal,
    "svd_backprop": lambda: SVDBackprop(
        pruning=Pruning(every=1, after=0.0, energy=0.5, floor=2, keep=[]), hoyer=Hoyer()
    ),
    "ssa": lambda: SVDSpaceAlignment("direct_random", 0.5),
}
IMAGES = Digits(flatten=True, limit_train=256, limit_test=64)
SHAPES = {"image_shape": (1, 8, 8), "input_shape": (64,)}


def fitted(module: L.LightningModule, folder, **options):
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    options = {"max_epochs": 2, "accelerator": "cpu", "default_root_dir": folder, "limit_val_batches": 0} | options
    federated = isinstance(module, FederatedClassifier)
    data = Federated(IMAGES, 4, 2, local_epochs=1, rounds_per_epoch=2) if federated else IMAGES
    trainer = L.Trainer(**quiet, **options)
    trainer.fit(module, data)
    return module.eval()


def classifier(rule=None, **options) -> Classifier:
    options = {"network_args": {"hidden": [16, 16]}, "optimizer": partial(torch.optim.SGD, lr=0.05)} | options
    return Classifier("mlp", rule, **SHAPES, **options)


def same(module: L.LightningModule, loaded: L.LightningModule) -> bool:
    inputs = IMAGES.test_set.images.to(next(module.parameters()).dtype)
    with torch.no_grad():
        return torch.equal(module(inputs), loaded(inputs))


@pytest.mark.parametrize("rule", RULES)
def test_a_module_is_loaded_without_its_arguments(rule, tmp_path):
    module = fitted(classifier(RULES[rule](), metrics=["accuracy", "f1"]), tmp_path)
    loaded = lit_fa.load(tmp_path)
    assert same(module, loaded)
    assert repr(loaded.rule) == repr(module.rule)
    assert loaded.constructor == {**module.constructor, "init_args": loaded.constructor["init_args"]}
    assert str(loaded.make_optimizer) == str(module.make_optimizer)


def test_pruned_ranks_adapters_and_precision_are_restored(tmp_path):
    module = fitted(classifier(RULES["svd_backprop"]()), tmp_path / "pruned", max_epochs=3)
    ranks = [layer.rank for layer in module.rule.factored.values()]
    assert min(ranks) < 10
    assert [layer.rank for layer in lit_fa.load(tmp_path / "pruned").rule.factored.values()] == ranks
    adapter = {"peft_type": "LORA", "r": 2, "target_modules": ["linear"]}
    adapted = fitted(classifier(DirectFeedbackAlignment(), adapter=adapter, probe=HeadProbe()), tmp_path / "adapted")
    assert same(adapted, lit_fa.load(tmp_path / "adapted"))
    double = fitted(classifier(FeedbackAlignment()), tmp_path / "double", precision="64-true")
    assert same(double, lit_fa.load(tmp_path / "double"))


def test_weights_that_a_run_began_with_are_not_asked_for_again(tmp_path):
    torch.save(classifier().network.state_dict(), tmp_path / "first.pt")
    module = fitted(classifier(weights=str(tmp_path / "first.pt")), tmp_path)
    (tmp_path / "first.pt").unlink()
    assert same(module, Classifier.load_from_checkpoint(lit_fa.checkpoints.loading.newest_checkpoint(tmp_path)).eval())


def test_a_federation_is_loaded_with_its_states_and_its_choice_of_layers(tmp_path):
    common = {"network_args": {"hidden": [16, 16]}, "executor": "sequential", **SHAPES}
    module = FederatedClassifier("mlp", FLFA("lowest:1"), Scaffold(), LocalSGD(0.1), **common)
    loaded = lit_fa.load(tmp_path) if fitted(module, tmp_path) else None
    assert same(module, loaded)
    assert loaded.selections == module.selections
    assert loaded.states.keys() == module.states.keys()
    assert isinstance(loaded.local.algorithm, Scaffold)


def test_what_a_checkpoint_cannot_hold_is_asked_for_by_name(tmp_path):
    network = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    module = Classifier(network, optimizer=lambda params: torch.optim.SGD(params, lr=0.1), **SHAPES)
    fitted(module, tmp_path)
    with pytest.raises(UserError, match=r"not hold network .a Sequential is no plain data.: pass network= to load"):
        lit_fa.load(tmp_path)
    fresh = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    loaded = lit_fa.load(tmp_path, network=fresh)
    assert same(module, loaded)
    with pytest.raises(UserError, match="does not hold the optimiser or its schedule: pass optimizer="):
        fitted(loaded, tmp_path / "again")


def test_a_checkpoint_of_another_kind_is_one_line(tmp_path):
    fitted(classifier(FeedbackAlignment()), tmp_path, max_epochs=1)
    file = lit_fa.checkpoints.loading.newest_checkpoint(tmp_path)
    with pytest.raises(UserError, match=r"is of a Classifier: load it with Classifier or lit_fa.load"):
        FederatedClassifier.load_from_checkpoint(file)
    with pytest.raises(UserError, match=r"is of another network or another rule; only one of them has .*rule"):
        Classifier.load_from_checkpoint(file, rule=DirectFeedbackAlignment())
    (tmp_path / "torn.ckpt").write_bytes(file.read_bytes()[:2000])
    (tmp_path / "empty.ckpt").touch()
    for name in ("torn.ckpt", "empty.ckpt"):
        with pytest.raises(UserError, match="torn or no checkpoint"):
            lit_fa.load(tmp_path / name)
    with pytest.raises(UserError, match="there is no checkpoint"):
        lit_fa.load(tmp_path / "none.ckpt")
    (tmp_path / "bare").mkdir()
    with pytest.raises(UserError, match="holds no checkpoint"):
        lit_fa.load(tmp_path / "bare")


def test_a_checkpoint_makes_no_object_that_is_not_of_this_package(tmp_path):
    fitted(classifier(), tmp_path, max_epochs=1)
    file = lit_fa.checkpoints.loading.newest_checkpoint(tmp_path)
    kept = torch.load(file, weights_only=True)
    kept["constructor"]["init_args"]["rule"] = {"class_path": "subprocess.Popen", "init_args": {"args": "ls"}}
    torch.save(kept, file)
    with pytest.raises(UserError, match=r"subprocess.Popen is no class of lit_fa"):
        lit_fa.load(file)


@pytest.mark.parametrize(
    ("option", "plain", "line"),
    [
        ("optimizer", {"import_path": "os.system"}, "os.system is no optimiser"),
        ("scheduler", {"partial_path": "subprocess.Popen", "init_args": {"shell": True}}, "Popen is no optimiser"),
        (
            "rule",
            {"class_path": "brought_along.Rule", "init_args": {}},
            "brought_along.Rule is in no installed package",
        ),
    ],
)
def test_a_checkpoint_names_nothing_that_would_run(option, plain, line, tmp_path, monkeypatch):
    fitted(classifier(), tmp_path, max_epochs=1)
    file = lit_fa.checkpoints.loading.newest_checkpoint(tmp_path)
    kept = torch.load(file, weights_only=True)
    kept["constructor"]["init_args"][option] = plain
    torch.save(kept, file)
    (tmp_path / "brought_along.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'proof')!r})\nclass Rule: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    if option == "rule":
        with pytest.raises(UserError, match=line):
            lit_fa.load(file)
    else:
        with pytest.raises(UserError, match="does not hold the optimiser or its schedule"):
            fitted(lit_fa.load(file), tmp_path / "again", max_epochs=1)
        with pytest.raises(UserError, match=line):
            lit_fa.described.construct(plain)
    assert not (tmp_path / "proof").exists()


def test_the_optimiser_of_the_command_line_is_in_the_checkpoint():
    from lit_fa.experiment import build
    from tests.cli.test_command_line import RUN

    module = build(copy.deepcopy(RUN)).model
    kept = module.constructor["init_args"]["optimizer"]
    assert kept["partial_path"] == "torch.optim.sgd.SGD"
    assert kept["init_args"]["lr"] == 0.1
