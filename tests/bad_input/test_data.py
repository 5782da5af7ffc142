"""Options of the data and of a federation that are out of range or of another type, and data of another model."""

import json
from pathlib import Path

import numpy
import pytest

from tests.bad_input.conftest import FEDERATED, PLAIN, thinned

NAMED = (str(10**30), "float64", "foo")
DATA = [
    ("batch_size", "0", "batch_size=0: must be at least 1"),
    ("batch_size", str(10**30), "31 digits"),
    ("batch_size", str(10**12), "batch_size=1000000000000: must be at most 1000000000"),
    ("batch_size", "1.5", "batch_size: expected a whole number (given: 1.5)"),
    ("batch_size", "true", "batch_size: expected a whole number"),
    ("label_noise", "2", "label_noise=2.0: a share"),
    ("label_noise", ".nan", "label_noise is not a number"),
    ("val_size", "-1", "val_size=-1"),
    ("val_size", ".inf", "val_size is infinite"),
    ("val_size", "100000", "leaves no training image"),
    ("limit_train", "0", "limit_train=0: must be at least 1"),
    ("resize", str(10**9), "resize=1000000000: must be at most 10000"),
    ("classes", "[99]", "99"),
    ("classes", "[0, 0]", "classes"),
    ("augment", "foo", "augment"),
    ("dtype", "float64", "set trainer.precision: 64-true"),
    ("dtype", "float16", "dtype"),
    ("device", "foo", "device='foo'"),
    ("device", "", "device=''"),
    ("device", "meta", "device='meta' stores no data"),
    ("transforms", "[foo]", "transforms"),
    ("foo", "1", "has no option 'foo'"),
]
SYNTHETIC = [
    ("noise", "-1", "noise=-1.0: a standard deviation is finite and at least 0"),
    ("noise", ".nan", "noise is not a number"),
    ("n_train", "0", "n_train, n_test and num_classes must be at least 1"),
    ("image_shape", "[1, 0, 8]", "image_shape is (channels, height, width), each >= 1"),
]
FEDERATION = [
    ("--data.init_args.clients", "0", "clients=0: must be at least 1"),
    ("--data.init_args.clients", "1000", "1000"),
    ("--data.init_args.clients_per_round", "99", "there are 4 clients"),
    ("--data.init_args.clients_per_round", "1.5", "a share of the clients"),
    ("--data.init_args.partition", "foo", "partition"),
    ("--data.init_args.partition_args", "{foo: 1}", "partition_args of iid"),
    ("--data.init_args.local_steps", "0", "local_steps=0: must be at least 1"),
    ("--model.init_args.executor", "foo", "executor is one of"),
    ("--model.init_args.lanes", "0", "lanes"),
    ("--model.init_args.validate_every", "0", "validate_every"),
    ("--model.init_args.algorithm", "foo", "no algorithm is called 'foo'"),
    ("--model.init_args.algorithm", "{class_path: FedProx, init_args: {mu: -1}}", "mu is at least 0"),
    (
        "--model.init_args.local_optimizer",
        "{class_path: LocalSGD, init_args: {momentum: 1}}",
        "momentum lies in [0, 1)",
    ),
    ("--model.init_args.local_optimizer", "{class_path: LocalSGD, init_args: {lr: .inf}}", "lr is infinite"),
    ("--model.init_args.local_schedule", "{gamma: 2}", "gamma lies in (0, 1]"),
]


@pytest.mark.parametrize(("option", "value", "said"), thinned(DATA, 3, NAMED))
def test_an_option_of_the_data(option, value, said, refused):
    assert said in refused("fit", "--config", "run.yaml", f"--data.init_args.{option}", value)


@pytest.mark.parametrize(("option", "value", "said"), thinned(SYNTHETIC, 4))
def test_an_option_of_images_made_on_the_spot(option, value, said, refused):
    assert said in refused(
        "fit", "--config", "run.yaml", "--data", f"{{class_path: Synthetic, init_args: {{{option}: {value}}}}}"
    )


@pytest.mark.parametrize(("offset", "remedy"), [(-5, "set it to 0"), (1, "set label_offset to it")])
def test_an_offset_that_the_labels_of_a_file_do_not_have(offset, remedy, refused):
    images, labels = numpy.zeros((8, 8, 8), dtype=numpy.uint8), numpy.arange(8) % 4
    numpy.savez("a.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    options = {"path": str(Path("a.npz").absolute()), "label_offset": offset, "validation_is_test": "allow"}
    line = refused("fit", "--config", "run.yaml", "--data", json.dumps({"class_path": "Npz", "init_args": options}))
    assert remedy in line


@pytest.mark.parametrize(("option", "value", "said"), [("in_memory_limit", -1, "a number of bytes, at least 0")])
def test_an_option_of_a_folder_of_images(option, value, said, refused):
    options = {"path": ".", option: value}
    assert said in refused(
        "fit", "--config", "run.yaml", "--data", json.dumps({"class_path": "ImageFolder", "init_args": options})
    )


@pytest.mark.parametrize(("option", "value", "said"), thinned(FEDERATION, 3))
def test_an_option_of_a_federation(option, value, said, refused):
    assert said in refused("fit", "--config", "federation.yaml", option, value)


def test_plain_training_on_a_federation(refused):
    line = refused("fit", "--config", "run.yaml", "--data", json.dumps(FEDERATED["data"]))
    assert "Classifier trains on plain data, not on Federated: take FederatedClassifier" in line


def test_a_federation_on_plain_data(refused):
    line = refused("fit", "--config", "federation.yaml", "--data", json.dumps(PLAIN["data"]))
    assert "FederatedClassifier trains on Federated data, not on Digits: take Classifier" in line
