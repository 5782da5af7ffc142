"""A run says one line before it, its progress, and one line after it; what concerns a choice of the user is said."""

import json
import logging
import re
import warnings
from pathlib import Path

import lightning as L
import pytest
import yaml
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

import lit_fa
from lit_fa.__main__ import main
from lit_fa.callbacks.line_progress import PERCENT, LineProgress, metrics_in_words
from lit_fa.modules.metrics import OF_CLASSES, OF_NUMBERS
from lit_fa.quiet import FOLDER_IN_USE, LOG_INTERVAL, LOGGED, OF_TRAINING, SYNC, WARNED, quiet

RUN = {
    "seed_everything": 0,
    "trainer": {"max_epochs": 2, "accelerator": "cpu", "enable_checkpointing": False, "limit_train_batches": 3},
    "model": {
        "class_path": "Classifier",
        "init_args": {
            "network": "mlp",
            "network_args": {"hidden": [8]},
            "rule": {"class_path": "FeedbackAlignment", "init_args": {"source": {"class_path": "SignFeedback"}}},
        },
    },
    "data": {"class_path": "Digits", "init_args": {"batch_size": 128, "val_size": 0.2}},
}
ANSI = "\x1b["


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(RUN))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(capsys, *words: str) -> list[str]:
    """What a command prints, on both streams."""
    capsys.readouterr()
    assert main([*words]) == 0
    out = capsys.readouterr()
    return [line for line in (out.out + out.err).splitlines() if line.strip()]


def test_a_fit_is_a_header_a_line_an_epoch_and_one_line_at_its_end(folder, capsys):
    first, *progress, last = said(capsys, "fit", "--config", "run.yaml")
    assert re.fullmatch(r"fit: FeedbackAlignment \(.*\), mlp with 610 parameters; Digits; cpu; seed 0", first)
    assert [line.partition(":")[0] for line in progress] == ["epoch 1/2", "epoch 2/2"]
    told = r"done: val/accuracy [\d.]+ %, val/loss [\d.]+, train/loss [\d.]+; 2 epochs in [\d.]+ s; (\S+); (.*)"
    folder, report = re.fullmatch(told, last).groups()
    assert (folder, report) == ("lightning_logs/version_0", "lit-fa runs lightning_logs/version_0")
    assert "1 runs" in said(capsys, *report.split()[1:])[-1]


def test_no_number_has_more_than_four_digits_and_nothing_is_coloured_in_a_pipe(folder, capsys):
    for command in ("fit", "validate", "test"):
        text = "\n".join(said(capsys, command, "--config", "run.yaml"))
        assert ANSI not in text
        assert "{" not in text
        assert re.findall(r"\d\.\d{5,}", text) == []


@pytest.mark.parametrize("command", ["validate", "test"])
def test_an_evaluation_is_two_lines(folder, capsys, command):
    first, last = said(capsys, command, "--config", "run.yaml")
    assert first.startswith(f"{command}: FeedbackAlignment")
    split = {"validate": "val", "test": "test"}[command]
    assert re.match(rf"done: {split}/accuracy [\d.]+ %, {split}/loss [\d.]+; ", last)


def test_lightnings_table_of_metrics_is_there_where_asked_for(folder, capsys):
    assert any("Test metric" in line for line in said(capsys, "test", "--config", "run.yaml", "--verbose", "true"))


def test_without_a_progress_bar_there_is_no_progress(folder, capsys):
    lines = said(capsys, "fit", "--config", "run.yaml", "--trainer.enable_progress_bar", "false")
    assert [line.partition(":")[0] for line in lines] == ["fit", "done"]


def test_a_choice_of_the_user_is_warned_of_by_us_and_by_lightning(folder, capsys, caplog):
    words = ["--data.init_args.val_size", "0", "--trainer.log_every_n_steps", "7"]
    with pytest.warns(match=r"number of training batches \(3\) is smaller than the logging interval"):
        said(capsys, "fit", "--config", "run.yaml", *words)
    assert "validation is on the test set" in caplog.text


def test_a_warning_is_one_line_without_its_place_in_the_code():
    with quiet():
        assert warnings.formatwarning("a\n choice", UserWarning, "file.py", 3) == "warning: a choice\n"


def test_the_logging_interval_is_no_matter_where_nobody_has_chosen_it(folder, capsys):
    assert "logging interval" not in "\n".join(said(capsys, "fit", "--config", "run.yaml"))


def test_debug_shows_every_message(folder, capsys):
    with pytest.warns(match="smaller than the logging interval"):
        said(capsys, "fit", "--config", "run.yaml", "--debug")


def test_what_concerns_training_alone_is_not_said_of_an_evaluation(folder, capsys, recwarn):
    trainer = RUN["trainer"] | {"enable_checkpointing": True}
    (folder / "run.yaml").write_text(yaml.safe_dump(RUN | {"trainer": trainer}))
    said(capsys, "fit", "--config", "run.yaml", "--name", "a")
    kept = next((folder / "lightning_logs/a").rglob("*.ckpt"))
    for command, words in {"test": [], "fit": ["--name", "a", "--trainer.max_epochs", "3"]}.items():
        first = said(capsys, command, "--config", "run.yaml", "--ckpt_path", str(kept), *words)[0]
        assert first.endswith(f"seed 0; from {kept}")
    assert [str(warning.message) for warning in recwarn if issubclass(warning.category, UserWarning)] == []


def test_layers_are_shown_where_asked_for_without_flops_that_nobody_counted(folder, capsys):
    text = "\n".join(said(capsys, "fit", "--config", "run.yaml", "--trainer.enable_model_summary", "true"))
    assert "learner" in text
    assert "610 parameters, 610 of them trained" in text
    assert "FLOP" not in text


def test_a_federation_counts_rounds(folder, capsys):
    config = RUN | {"trainer": {"max_epochs": 3, "accelerator": "cpu", "enable_checkpointing": False}}
    model = {"class_path": "FederatedClassifier", "init_args": {"network": "mlp", "network_args": {"hidden": [8]}}}
    inner = {"class_path": "Digits", "init_args": {"normalize": "unit"}}
    data = {"class_path": "Federated", "init_args": {"data": inner, "clients": 4, "clients_per_round": 2}}
    (folder / "run.yaml").write_text(yaml.safe_dump(config | {"model": model, "data": data}))
    lines = said(capsys, "fit", "--config", "run.yaml")
    assert "Backprop under FedAvg, mlp with 610 parameters; Digits among 4 clients; cpu; seed 0" in lines[0]
    assert [line.partition(":")[0] for line in lines if line.startswith("round")] == [f"round {k}/3" for k in (1, 2, 3)]
    assert "3 rounds in" in lines[-1]


def test_what_is_said_changes_no_number(folder, capsys):
    said(capsys, "fit", "--config", "run.yaml", "--json", "quiet.json")
    trainer, model, data = lit_fa.build({**RUN, "trainer": {**RUN["trainer"], "logger": False}})
    trainer.fit(model, data)
    loud = {key: float(value) for key, value in trainer.callback_metrics.items()}
    assert json.loads(Path("quiet.json").read_text()) == loud


def test_ranks_after_the_first_say_nothing_but_errors(capsys, monkeypatch):
    handler = logging.StreamHandler()
    logging.getLogger().addHandler(handler)
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    with quiet():
        logging.getLogger("lit_fa").warning("a warning")
        logging.getLogger("lit_fa").error("an error")
        warnings.warn("a choice", stacklevel=1)
    logging.getLogger().removeHandler(handler)
    assert [line for line in capsys.readouterr().err.splitlines() if line] == ["an error"]


def test_afterwards_everything_is_as_it_was(capsys):
    before, filters = warnings.formatwarning, [*warnings.filters]
    with quiet():
        rank_zero_info("GPU available: False")
    assert (warnings.formatwarning, [*warnings.filters]) == (before, filters)


def test_only_what_is_listed_is_left_out(capsys, recwarn):
    with quiet():
        rank_zero_info("Seed set to 3")
        warnings.warn("The 'train_dataloader' does not have many workers which may be", stacklevel=1)
        rank_zero_warn("something about your choice")
    assert [str(warning.message) for warning in recwarn] == ["something about your choice"]


def test_every_message_that_is_left_out_is_one_that_lightning_or_torch_has():
    """Another wording in a new version is found here, by name."""
    import torch.utils._pytree as pytree

    files = [file for file in sorted(Path(L.__file__).parent.rglob("*.py")) if "tests" not in file.parts]
    text = "".join(file.read_text(encoding="utf-8") for file in [*files, Path(pytree.__file__)])
    text = re.sub(r'"\s*\n\s*f?"', "", text)  # a message over several lines
    text = re.sub(r"\{\w+!?r?\}", "", text)  # what is filled in
    listed = (*WARNED, LOG_INTERVAL, SYNC, FOLDER_IN_USE, *OF_TRAINING)
    parts = [part for message in listed for part in re.split(r"'\\w\+'|\\d\+|\.\*", message)]
    words = [part.replace("\\", "") for part in parts]
    assert [word for word in words if word not in text] == []
    gone = [message for message in LOGGED if message not in text and set(message) != {"-"}]
    assert gone == [], gone


def test_the_metrics_in_percent_are_those_of_the_modules():
    assert {*PERCENT} == {*OF_CLASSES, *OF_NUMBERS}


def test_a_run_of_many_epochs_has_about_ten_lines(capsys):
    bar, trainer = LineProgress(), type("Trainer", (), {"callback_metrics": {}, "max_epochs": 1000})()
    trainer.current_epoch = 0
    bar.on_train_start(trainer, None)
    for trainer.current_epoch in range(1000):
        bar.on_train_epoch_start(trainer, None)
    trainer.current_epoch = 1000
    bar.on_train_end(trainer, None)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [f"epoch {k}/1000" for k in range(100, 1001, 100)]


def test_a_value_of_a_step_does_not_hide_that_of_the_epoch():
    values = {"train/loss": 9.0, "train/loss_step": 9.0, "train/loss_epoch": 1.5}
    assert metrics_in_words(values, ("train/loss",)) == "train/loss 1.5"
