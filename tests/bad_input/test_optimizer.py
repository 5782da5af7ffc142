"""What optimisers and schedules cannot be set to is refused with class, option and range."""

import json

import pytest

from tests.bad_input.conftest import thinned

OPTIMIZER, SCHEDULER = "model.init_args.optimizer", "model.init_args.scheduler"
PLATEAU = "lightning.pytorch.cli.ReduceLROnPlateau"
OPTIMIZERS = [
    ("SGD", {"lr": -1}, "SGD: Invalid learning rate: -1.0"),
    ("SGD", {"lr": 0.1, "momentum": 2}, "SGD: momentum is from 0 on and below 1, not 2"),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": -1}, "dampening is from 0 to 1"),
    ("SGD", {"lr": 0.1, "nesterov": True}, "Nesterov momentum requires a momentum"),
    ("SGD", {"lr": 0.1, "fused": True, "foreach": True}, "`fused` and `foreach`"),
    ("SGD", {"lr": 0.1, "differentiable": True}, "differentiable: true takes no step"),
    ("SGD", {"lr": 0.1, "foo": 1}, "torch.optim.SGD has no option 'foo'"),
    ("Adam", {"lr": 0.1, "betas": [1.5, 0.9]}, "Adam: Invalid beta parameter at index 0: 1.5"),
    ("Adam", {"lr": 0.1, "betas": [0.9]}, "betas: Expected a tuple with 2 elements (given: [0.9])"),
    ("Adam", {"lr": 0.1, "betas": "(0.9, 0.9)"}, "betas: expected a list, as [0.9, 0.99] (given: (0.9, 0.9))"),
    ("Adam", {"lr": 0.1, "capturable": True}, "capturable: true needs a GPU"),
    ("RMSprop", {"lr": 0.1, "alpha": 2}, "RMSprop: alpha is from 0 to 1, not 2"),
    ("RMSprop", {"lr": 0.1, "momentum": 2}, "RMSprop: momentum"),
    ("Rprop", {"lr": 0.1, "step_sizes": [1, 0]}, "Rprop: step_sizes is above 0, not 0"),
    ("LBFGS", {"lr": 1}, "LBFGS evaluates the loss several times"),
    ("SparseAdam", {"lr": 0.1}, "SparseAdam takes sparse gradients, and ours are dense: take Adam"),
    ("Muon", {"lr": 0.1}, "Muon only supports 2D parameters"),
]
WORDS = [
    ("lr", "nan", "lr: expected a number (given: nan)"),
    ("lr", ".nan", f"{OPTIMIZER}.init_args.lr is not a number (nan)"),
    ("lr", "1e400", f"{OPTIMIZER}.init_args.lr is infinite"),
    ("lr", "true", "lr: expected a number"),
    ("lr", "null", "lr: null is no value of this option"),
    ("weight_decay", "abc", "weight_decay: expected a number (given: abc)"),
]
CLASSES = {
    "null": "optimizer: null is no value of this option",
    "foo": "no optimizer is called 'foo'; valid: ASGD, Adadelta",
    "torch.optim.Adm": "nearest: Adam",
    "torch.nn.Linear": "optimizer: expected a class of torch.optim",
    "3": "no optimizer is called '3'",
}
SCHEDULES = [
    ("StepLR", {"step_size": 0}, "StepLR: step_size is at least 1, not 0"),
    ("StepLR", {"step_size": -1}, "StepLR: step_size is at least 1, not -1"),
    ("StepLR", {"step_size": 1, "gamma": -0.5}, "StepLR: gamma is at least 0, not -0.5"),
    ("StepLR", {"step_size": "a"}, "step_size: expected a whole number"),
    ("StepLR", {}, "step_size"),
    ("StepLR", {"step_size": 1, "last_epoch": 5}, "initial_lr"),
    ("MultiStepLR", {"milestones": [-1]}, "milestones is at least 0, not -1"),
    ("CosineAnnealingLR", {"T_max": 0}, "T_max is at least 1, not 0"),
    ("CosineAnnealingLR", {"T_max": 5, "eta_min": -1}, "eta_min is at least 0"),
    ("ExponentialLR", {"gamma": -1}, "gamma is at least 0"),
    ("OneCycleLR", {"max_lr": -1, "total_steps": 10}, "max_lr is at least 0, not -1"),
    ("OneCycleLR", {"max_lr": 0.1, "total_steps": 10, "div_factor": 0}, "OneCycleLR: ZeroDivisionError"),
    ("CyclicLR", {"base_lr": 0.1, "max_lr": 0.2, "step_size_up": 0, "cycle_momentum": False}, "CyclicLR: ZeroDivision"),
    ("PolynomialLR", {"total_iters": 0}, "total_iters is at least 1"),
    ("PolynomialLR", {"power": -1}, "power is at least 0"),
    ("LambdaLR", {"lr_lambda": "abc"}, "lr_lambda: no function 'abc' can be imported"),
    ("LRScheduler", {}, "LRScheduler"),
    (PLATEAU, {"monitor": "train/loss_epoch", "patience": -1}, "patience is at least 0, not -1"),
    (PLATEAU, {"monitor": "train/loss_epoch", "factor": 2}, "Factor should be < 1.0"),
    (PLATEAU, {"monitor": "nothing"}, "nothing logs 'nothing'"),
]
RATES = {
    "{head.*: -0.1}": "layer_lr: the rate of head.* is -0.1; write 0",
    "{head.*: .nan}": "layer_lr.head.* is not a number",
    "{3: 0.1}": "layer_lr: the name 3 is no text",
    "{head.*: abc}": "layer_lr: expected a number",
    "3": "layer_lr: expected a mapping",
}


def given(path: str, init_args: dict) -> str:
    return json.dumps({"class_path": path, "init_args": init_args})


@pytest.mark.parametrize(
    ("name", "init_args", "said"), thinned(OPTIMIZERS, 6, ("'lr': -1", "Sparse", "Muon", "LBFGS", "betas"))
)
def test_an_option_of_an_optimizer(name, init_args, said, refused):
    assert said in refused("fit", "--config", "run.yaml", f"--{OPTIMIZER}", given(f"torch.optim.{name}", init_args))


@pytest.mark.parametrize(("option", "word", "said"), WORDS)
def test_a_word_for_an_optimizer(option, word, said, refused):
    assert said in refused("fit", "--config", "run.yaml", f"--{OPTIMIZER}.{option}", word)


@pytest.mark.parametrize(("word", "said"), CLASSES.items())
def test_what_is_no_optimizer(word, said, refused):
    assert said in refused("fit", "--config", "run.yaml", f"--{OPTIMIZER}", word)


@pytest.mark.parametrize(("name", "init_args", "said"), thinned(SCHEDULES, 5, ("size': 0",)))
def test_an_option_of_a_schedule(name, init_args, said, refused):
    path = name if "." in name else f"torch.optim.lr_scheduler.{name}"
    assert said in refused("fit", "--config", "run.yaml", f"--{SCHEDULER}", given(path, init_args))


@pytest.mark.parametrize("word", ["foo", "{}"])
def test_what_is_no_schedule(word, refused):
    assert "scheduler" in refused("fit", "--config", "run.yaml", f"--{SCHEDULER}", word)


@pytest.mark.parametrize(("rates", "said"), RATES.items())
def test_rates_of_layers(rates, said, refused):
    assert said in refused("fit", "--config", "run.yaml", "--model.init_args.layer_lr", rates)
