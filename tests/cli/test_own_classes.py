"""Classes of the user's own are found by import path; the page that says so is carried out as it stands."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lit_fa import experiment
from lit_fa.__main__ import main
from lit_fa.errors import UserError

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/guides/own_code.md").read_text(encoding="utf-8")
FILES = re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", PAGE, re.DOTALL)
STARTS = {"-m": ["-m", "lit_fa"], "script": [str(Path(sys.executable).with_name("lit-fa"))]}
SLOW = pytest.mark.slow
TRAINER = ["--trainer.fast_dev_run", "true", "--trainer.accelerator", "cpu"]
OPTIONS = ["--model", "Classifier", "--model.init_args.network", "mlp", *TRAINER]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The files of the page, in the working directory, which is searched for modules."""
    for name, text in FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "mylab/__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] in ("mylab", "broken")]:
        del sys.modules[name]


@pytest.mark.parametrize("config", ["run", pytest.param("source", marks=SLOW), pytest.param("federation", marks=SLOW)])
@pytest.mark.parametrize("start", [pytest.param("-m", marks=SLOW), "script"])
def test_the_page_runs_from_the_working_directory(folder, start, config):
    command = [sys.executable, *STARTS[start], "fit", "--config", f"{config}.yaml"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert ("norm of 0.weight: " in done.stdout) == (config == "run")


@pytest.mark.parametrize("config", ["run", "source", "federation"])
def test_each_config_of_the_page_builds_the_classes_that_it_names(folder, config):
    trainer, model, data = experiment.build(f"{config}.yaml")
    kinds = [type(value) for value in (model.rule, getattr(model.rule, "source", None), data, *trainer.callbacks)]
    own = {kind.__name__ for kind in [*kinds, type(model.network)] if kind.__module__.startswith("mylab")}
    own |= {"Pulled"} if "mylab.algorithms.Pulled" in str(model.constructor) else set()
    assert (
        own
        == {
            "run": {"ScaledBackprop", "Clouds", "Norms", "TwoLayers"},
            "source": {"ShareOfWeight"},
            "federation": {"Pulled"},
        }[config]
    )


def refusal(capsys, *words: str) -> str:
    assert main(["fit", *OPTIONS, *words]) == 2
    return capsys.readouterr().err.strip().splitlines()[-1].removeprefix("lit-fa: ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model.init_args.rule", "mylab.rules.ScaledBackprob"], "mylab.rules has no ScaledBackprob; nearest: Scal"),
        (["--model.init_args.rule", "mylab.ruels.ScaledBackprop"], "there is no module ruels in mylab; nearest: rules"),
        (["--model.init_args.rule", "mylb.rules.A"], "there is no module mylb in "),
        (["--data", "mylab.data.Cloud"], "mylab.data has no Cloud; nearest: Clouds"),
        (["--trainer.callbacks", "mylab.callbacks.Norm"], "mylab.callbacks has no Norm; nearest: Norms"),
        (["--model.init_args.network.class_path", "mylab.networks.Two"], "mylab.networks has no Two; nearest: TwoLay"),
        (
            ["--model.init_args.rule", "FeedbackAlignment", "--model.init_args.rule.source", "mylab.feedback.Share"],
            "mylab.feedback has no Share; nearest: ShareOfWeight",
        ),
        (["--model.init_args.rule", "mylab.data.Clouds"], "mylab.data.Clouds is no LearningRule: derive it from"),
        (["--model.init_args.network", "mylab.networks.TwoLayers"], "written network: {class_path: mylab.networks.Two"),
        (["--model.init_args.rule", "broken.Rule"], "rule: ZeroDivisionError: division by zero (given: broken.Rule)"),
    ],
)
def test_a_wrong_name_is_looked_for_in_the_module_that_it_names(folder, capsys, words, said):
    Path("broken.py").write_text("1 / 0", encoding="utf-8")
    assert said in refusal(capsys, "--data", "Digits", *words)


def test_an_algorithm_is_looked_for_in_its_module_too(folder, capsys):
    words = ["--config", "federation.yaml", "--model.init_args.algorithm", "mylab.algorithms.Pull"]
    assert main(["fit", *words]) == 2
    assert "mylab.algorithms has no Pull; nearest: Pulled" in capsys.readouterr().err


def test_a_dictionary_has_the_same_message(folder):
    model = {"class_path": "Classifier", "init_args": {"network": "mlp"}}
    with pytest.raises(UserError, match=r"^mylab.data has no Cloud; nearest: Clouds$"):
        experiment.build({"model": model, "data": "mylab.data.Cloud"})


DATA = """
import lightning as L
from lit_fa.datamodules import VisionDataModule
class Nothing(L.LightningDataModule): pass
class NoShape(L.LightningDataModule): num_classes = 3
class NoClasses(L.LightningDataModule): sample_shape = (8,)
class Text(NoShape): sample_shape = "wide"
class Share(NoClasses): num_classes = 0.5
class Images(VisionDataModule): num_classes = 3
class Uncounted(VisionDataModule): image_shape = (1, 8, 8)
"""
NETWORK = ["--model.init_args.network", "{class_path: torch.nn.Linear, init_args: {in_features: 8, out_features: 3}}"]


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("NoShape", "mylab.wrong.NoShape has no sample_shape: set it to the shape of one sample as it is in a batch"),
        ("NoClasses", "mylab.wrong.NoClasses has no num_classes: set it to the number of classes"),
        ("Text", "mylab.wrong.Text has sample_shape 'wide': set it to the shape of one sample"),
        ("Share", "mylab.wrong.Share has num_classes 0.5: set it to the number of classes"),
        ("Uncounted", "Uncounted has no num_classes: set it in the class"),
        ("Images", "Images has no image_shape: set it to the shape of one sample"),
    ],
)
def test_what_a_datamodule_lacks_is_one_line_with_the_remedy(folder, capsys, kind, said):
    (folder / "mylab/wrong.py").write_text(DATA, encoding="utf-8")
    assert said in refusal(capsys, *NETWORK, "--data", f"mylab.wrong.{kind}")


def test_a_federation_says_what_its_data_derive_from(folder, capsys):
    words = ["--config", "federation.yaml", "--data.init_args.data", "mylab.data.Clouds"]
    assert main(["fit", *words]) == 2
    assert "mylab.data.Clouds is no VisionDataModule: derive it from datamodules.VisionDataModule" in (
        capsys.readouterr().err
    )


def test_a_datamodule_with_one_of_the_two_shapes_suffices(folder):
    trainer, model, data = experiment.build("run.yaml")
    trainer.fit(model, data)
    assert trainer.callback_metrics["val/accuracy"] > 50


def test_a_module_of_the_users_own_needs_no_attributes(folder):
    (folder / "mylab/wrong.py").write_text(DATA, encoding="utf-8")
    boring = "lightning.pytorch.demos.boring_classes.BoringModel"
    assert type(experiment.build({"model": boring, "data": "mylab.wrong.Nothing"}).data).__name__ == "Nothing"
