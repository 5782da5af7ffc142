"""What `trainer` and `seed_everything` cannot be is refused in one line that names the option."""

import pytest

from tests.bad_input.conftest import thinned

FLAGS = {
    "accelerator": {"gpu": "set cpu or auto", "foo": "valid: auto, cpu", "tpu": "set cpu or auto", "": "valid: auto"},
    "strategy": {
        "foo": "write auto, ddp, fsdp2 or single_device",
        "fsdp2": "set trainer.devices, or leave it out",
        "fsdp": "set ddp",
        "fsdp_cpu_offload": "set ddp",
        "deepspeed_stage_2": "set ddp",
        "ModelParallelStrategy": "set ddp",
        '{"class_path": "lightning.pytorch.strategies.ModelParallelStrategy"}': "set ddp",
        "xla": "rules run on CPUs and GPUs",
        "hpu_parallel": "rules run on CPUs and GPUs",
        "": "write auto, ddp",
    },
    "devices": {
        "0": "from 1 on",
        "-2": "from 1 on",
        str(10**20): "from 1 on",
        "foo": "an int > 0",
        "1000000": "from 1 on",
    },
    "num_nodes": {"0": "from 1 on", "-1": "from 1 on"},
    "precision": {"foo": "bf16-mixed", "8": "bf16-mixed", "16-true": "set bf16-mixed"},
    "profiler": {"foo": "write simple, advanced or pytorch", "xla": "write simple"},
    "logger": {"foo": "CSVLogger"},
    "fast_dev_run": {"-1": "a number of batches"},
    "max_epochs": {
        "-2": "-1 for no limit",
        "1.5": "a whole number",
        ".nan": "a whole number",
        str(10**30): "31 digits",
    },
    "min_epochs": {"-1": "write 0 or a number above it"},
    "max_steps": {"-2": "-1 for no limit"},
    "max_time": {"foo": "DD:HH:MM:SS", "00:00:00:00": "above zero", "{days: -1}": "above zero", "{foo: 1}": "DD:HH"},
    "limit_train_batches": {"-1": "a share of the batches", "1.5": "a share", ".nan": "not a number", "0": "validate"},
    "limit_val_batches": {"-0.5": "a share of the batches"},
    "overfit_batches": {"-1": "a share of the batches"},
    "val_check_interval": {"-1": "a share of an epoch", "00:00:00:00": "above zero", "0": "limit_val_batches: 0"},
    "check_val_every_n_epoch": {"0": "at least 1"},
    "num_sanity_val_steps": {"-2": "-1 for no limit"},
    "log_every_n_steps": {"-1": "write 0 or a number above it"},
    "reload_dataloaders_every_n_epochs": {"-1": "write 0 or a number above it"},
    "gradient_clip_algorithm": {"foo": "set model.init_args.clip"},
    "accumulate_grad_batches": {"0": "set model.init_args.accumulate"},
    "callbacks": {"foo": "trainer.callbacks", "EarlyStopping": "required: monitor", "[3]": "trainer.callbacks"},
    "plugins": {"foo": "trainer.plugins"},
    "default_root_dir": {"run.yaml": "cannot write in run.yaml", "run.yaml/x": "cannot write in run.yaml/x"},
    "deterministic": {"foo": "true or false"},
}
CALLBACKS = {
    '{"class_path": "DeployedCost", "init_args": {"by": "foo"}}': "by is one of macs, time",
    '{"class_path": "RunRecord", "init_args": {"path": "."}}': "is a folder",
    '{"class_path": "WeightAlignment", "init_args": {"every_n_steps": -1}}': "every_n_steps is a number of steps",
    '{"class_path": "ModelCheckpoint", "init_args": {"save_top_k": -2}}': "save_top_k=-2",
}


NAMED = ("strategy", "devices', '0'", "profiler', 'foo'", "gpu", "limit_train_batches", "default_root_dir")
TRIED = [(option, value, said) for option, tried in FLAGS.items() for value, said in tried.items()]


@pytest.mark.parametrize(("option", "value", "said"), thinned(TRIED, 3, NAMED))
def test_an_option_of_the_trainer(option, value, said, refused):
    line = refused("fit", "--config", "run.yaml", f"--trainer.{option}", value)
    assert said in line
    assert option in line


@pytest.mark.parametrize(("callback", "said"), thinned(CALLBACKS.items(), 4))
def test_an_option_of_a_callback(callback, said, refused):
    assert said in refused("fit", "--config", "run.yaml", "--trainer.callbacks", callback)


@pytest.mark.parametrize("seed", ["-1", str(10**20), str(2**32), "1.5", "foo"])
def test_a_seed(seed, refused):
    assert "seed_everything" in refused("fit", "--config", "run.yaml", "--seed_everything", seed)
