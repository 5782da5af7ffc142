"""Options of every command that are out of range, and commands that are not there."""

import pytest

WRONG = [
    (("foo",), "unknown command 'foo'"),
    (("table",), "lit-fa table --help"),
    (("table", "foo"), "invalid choice: 'foo'"),
    (("table", "list", "none"), "none"),
    (("table", "run"), "required: PATH"),
    (("table", "run", "table.yaml", "--jobs", "0"), "--jobs: 0 is not a whole number from 1"),
    (("table", "run", "table.yaml", "--jobs", "-3"), "--jobs: -3 is not a whole number from 1"),
    (("table", "run", "table.yaml", "--jobs", "²"), "--jobs: '²' is no whole number"),
    (("table", "run", "table.yaml", "--jobs", "9" * 30), "--jobs"),
    (("table", "run", "table.yaml", "--seeds", "a"), "--seeds 'a': write whole numbers"),
    (("table", "run", "table.yaml", "--seeds", ""), "--seeds"),
    (("table", "run", "table.yaml", "--seeds", "7"), "7"),
    (("table", "run", "table.yaml", "--scale", "foo"), "scale: unknown 'foo'"),
    (("table", "run", "table.yaml", "--scale", ""), "scale"),
    (("table", "run", "table.yaml", "--only", "foo"), "write row=LABEL"),
    (("table", "run", "table.yaml", "--only", "row=foo"), "foo"),
    (("table", "run", "table.yaml", "--id", "foo"), "--id: unknown 'foo'"),
    (("table", "run", "table.yaml", "--logger", "foo"), "invalid choice: 'foo'"),
    (("table", "run", "table.yaml", "--out", "run.yaml/x"), "--out: cannot write in"),
    (("table", "emit", "table.yaml", "--slurm", "--out", "run.yaml"), "--out: cannot write in"),
    (("table", "run", "table.yaml", "--foo"), "unrecognized arguments: --foo"),
    (("table", "run", "none.yaml"), "none.yaml"),
    (("table", "run", "run.yaml"), "run.yaml: unknown key"),
    (("table", "watch", "table.yaml", "--every", "-1"), "--every: -1 is not a number from 0.1"),
    (("table", "watch", "table.yaml", "--every", "nan"), "--every: nan is not a number from 0.1"),
    (("table", "watch", "table.yaml", "--every", "1e400"), "--every: 1e400 is not a number"),
    (("table", "watch", "table.yaml", "--every", "a"), "--every: 'a' is no number"),
    (("table", "report", "table.yaml", "--format", "foo"), "invalid choice: 'foo'"),
    (("table", "report", "table.yaml", "--card", "none/README.md"), "none"),
    (("table", "report", "none"), "none"),
    (("table", "emit", "table.yaml"), "--slurm --wandb --ray"),
    (("table", "emit", "table.yaml", "--slurm", "--sbatch", ""), "--sbatch: is empty"),
    (("table", "emit", "table.yaml", "--slurm", "--sbatch", " "), "--sbatch: is empty"),
    (("table", "emit", "table.yaml", "--slurm", "--wandb"), "not allowed with argument --slurm"),
    (("sweep",), "lit-fa sweep --help"),
    (("sweep", "foo"), "invalid choice: 'foo'"),
    (("sweep", "run", "none.yaml"), "none.yaml"),
    (("sweep", "run", "run.yaml"), "run.yaml: unknown key"),
    (("sweep", "run", "sweep.yaml", "--count", "0"), "--count: 0 is not a whole number from 1"),
    (("sweep", "run", "sweep.yaml", "--count", "-1"), "--count: -1 is not a whole number from 1"),
    (("sweep", "run", "sweep.yaml", "--jobs", "0"), "--jobs: 0 is not a whole number from 1"),
    (("sweep", "run", "sweep.yaml", "--seed", "-1"), "--seed: -1 is not a whole number from 0"),
    (("sweep", "run", "sweep.yaml", "--seed", str(10**20)), "--seed"),
    (("sweep", "run", "sweep.yaml", "--out", "run.yaml/x"), "--out: cannot write in run.yaml/x"),
    (("sweep", "run", "sweep.yaml", "--logger", "foo"), "invalid choice: 'foo'"),
    (("sweep", "report", "sweep.yaml", "--top", "0"), "--top: 0 is not a whole number from 1"),
    (("sweep", "report", "sweep.yaml", "--csv", "run.yaml/x"), "--csv: cannot write"),
    (("sweep", "emit", "sweep.yaml", "--slurm", "--tasks", "0"), "--tasks: 0 is not a whole number from 1"),
    (("sweep", "emit", "sweep.yaml", "--slurm", "--tasks", "-1"), "--tasks: -1 is not a whole number from 1"),
    (("sweep", "emit", "sweep.yaml", "--slurm", "--sbatch", ""), "--sbatch: is empty"),
    (("runs", "none"), "none: no such file"),
    (("runs", "--foo"), "unrecognized arguments: --foo"),
    (("runs",), "no records here"),
    (("predict", "--config", "run.yaml", "--split", "foo"), "--split is train, val or test"),
    (("predict", "--config", "run.yaml", "--images", "none"), "--images none is no folder"),
    (("predict", "--config", "run.yaml", "--images", ".", "--split", "val"), "exclude each other"),
    (("predict", "--config", "run.yaml", "--output", "run.yaml/x.csv"), "run.yaml"),
    (("fit", "--config", "run.yaml", "--json", "."), "--json .: is a folder"),
    (("fit", "--config", "run.yaml", "--json", "run.yaml/x"), "--json: cannot write"),
    (("fit", "--config", "run.yaml", "--logger", "foo"), "foo"),
    (("export", "--config", "run.yaml"), "required: --ckpt_path, --output"),
    (("export", "--ckpt_path", "a.ckpt", "--output", "model.foo"), ".onnx"),
    (("export", "--ckpt_path", "a.ckpt", "--output", "a.onnx", "--batch", "0"), "--batch: 0 is not a whole number"),
    (("export", "--ckpt_path", "a.ckpt", "--output", "a.onnx", "--by", "foo"), "invalid choice: 'foo'"),
]
FLOWER = [
    (("--nodes", "²"), "--nodes ²: 1 to 4"),
    (("--nodes", "0"), "--nodes 0: 1 to 4"),
    (("--nodes", "5"), "--nodes 5: 1 to 4"),
    (("--nodes", ""), "--nodes"),
    (("--patience", "-1"), "--patience: -1 is not a number from 0"),
    (("--patience", "nan"), "--patience: nan is not a number from 0"),
    (("--app", "run.yaml/app"), "--app: cannot write in run.yaml/app"),
]


@pytest.mark.parametrize(("words", "said"), WRONG, ids=[" ".join(words)[:60] for words, _ in WRONG])
def test_an_option_of_a_command(words, said, refused):
    assert said in refused(*words)


@pytest.mark.parametrize(("words", "said"), FLOWER)
def test_an_option_of_a_federation_over_flower(words, said, refused):
    assert said in refused("flower", "--config", "federation.yaml", *words)
