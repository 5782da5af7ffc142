"""GLUE: every task's own file format, batches of like length, kept tokens, and what a person can do about bad input."""

import sys
import types
from itertools import chain

import pytest
import torch

from lit_fa.datamodules import GLUE, DataError
from lit_fa.datamodules.batches import BatchLoader
from lit_fa.datamodules.glue_files import TASKS
from tests.texts import SENTENCES, WORDS, rows, write_table, write_task, write_tokenizer


@pytest.fixture
def made(tmp_path):
    """A data module on small written files."""

    def make(task: str = "CoLA", *, write: bool = True, **options) -> GLUE:
        if write:
            write_task(tmp_path, task)
        options = {"batch_size": 4, "max_length": 20, "cache": str(tmp_path / "cache")} | options
        tokenizer = options.pop("tokenizer", None) or write_tokenizer(tmp_path / "tokenizer")
        return GLUE(task, tokenizer, root=str(tmp_path), download=False, **options)

    return make


def ready(data: GLUE) -> GLUE:
    data.setup()
    return data


def words(inputs: torch.Tensor) -> list[str]:
    return [" ".join(WORDS[i] for i in ids[mask.bool()].tolist()) for ids, mask, _ in inputs]


def epoch(data: GLUE, number: int = 0, start: dict | None = None) -> list[tuple]:
    loader = data.train_dataloader()
    if start is not None:
        loader.load_state_dict(start)
    loader.set_epoch(number)
    return [(x.tolist(), y.tolist()) for x, y in loader]


@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_read_from_its_own_format(made, task):
    data = ready(made(task, val_size=0))
    x, y = next(iter(data.test_dataloader()))
    assert (data.num_classes, data.image_shape) == (1 if task == "STS-B" else 2, (3, 20))
    assert (x.dtype, x.shape[:2], y.shape) == (torch.int64, (12, 3), (12,))
    assert y.dtype == (torch.float32 if task == "STS-B" else torch.int64)
    assert (len(data.train_set), len(data.test_set)) == (30, 12)
    assert sorted(y.tolist()) == (sorted([0, 1, 2, 3, 4, 5] * 2) if task == "STS-B" else [0] * 8 + [1] * 4)
    pair = len(TASKS[task].texts) == 2
    assert x[:, 2].max() == pair
    first = "[CLS] the cat sat on the mat . [SEP]" + (" a dog ran [SEP]" if pair else "")
    assert first in words(x)


def test_rows_are_ids_mask_and_types_and_padding_is_nothing(made):
    data = ready(made("RTE", val_size=0))
    for x, _ in data.train_dataloader():
        ids, mask, types = x.unbind(1)
        lengths = mask.sum(1)
        assert lengths.max() == x.shape[-1]  # padded to the longest, no further
        assert torch.equal(mask, (torch.arange(x.shape[-1]) < lengths[:, None]).long())
        assert ids[mask == 0].abs().sum() == types[mask == 0].sum() == 0


def test_quotation_marks_and_strange_line_breaks_belong_to_the_sentence(made, tmp_path):
    data = made(val_size=0)
    write_table(tmp_path / "GLUE/CoLA/train.tsv", [["s", "1", "", 'the " cat'], ["s", "0", "", "a \x85 dog\u2028ran"]])
    x, y = next(iter(ready(data).train_dataloader()))
    assert dict(zip(words(x), y.tolist(), strict=True)) == {
        '[CLS] the " cat [SEP]': 1,
        "[CLS] a dog ran [SEP]": 0,
    }


@pytest.mark.parametrize("task", ["CoLA", "STS-B"])
def test_a_tenth_is_held_out_in_proportion_and_the_development_set_is_the_test(made, task):
    data = ready(made(task, val_size=0.2))
    assert (len(data.train_set), len(data.val_set), len(data.test_set)) == (24, 6, 12)
    assert not data.validation_is_test
    starts = [set(part.starts.tolist()) for part in (data.train_set, data.val_set)]
    assert not starts[0] & starts[1]
    if task == "CoLA":
        assert data.val_set.labels.bincount().tolist() == [4, 2]


def test_limits_keep_the_proportion_of_the_classes(made):
    data = ready(made(val_size=0, limit_train=9, limit_test=6))
    assert data.train_set.labels.bincount().tolist() == [6, 3]
    assert data.test_set.labels.bincount().tolist() == [4, 2]
    assert data.validation_is_test


@pytest.mark.parametrize("task", ["MRPC", "STS-B"])
def test_the_labelled_test_file_can_be_the_test(made, task):
    data = ready(made(task, test_split="test", val_size=0))
    assert (len(data.val_set), len(data.test_set)) == (12, 9)  # and the development set is for validation


def test_a_long_pair_is_shortened_to_max_length(made):
    data = ready(made("RTE", val_size=0, max_length=9))
    assert data.train_set.lengths.max() == 9


def test_batches_are_of_like_length_and_a_new_order_shows_every_text_once(made, tmp_path):
    long = " ".join(["cat"] * 12)
    data = made(val_size=0)
    table = [["s", str(k % 2), "", long if k % 2 else "a dog"] for k in range(32)]
    write_table(tmp_path / "GLUE/CoLA/train.tsv", table)
    ready(data)
    assert {len({len(ids) for ids in x[0]}) for x, _ in epoch(data)} == {1}
    widths = [len(x[0][0]) for x, _ in epoch(data)]
    assert sorted(widths) == [4] * 4 + [14] * 4
    loader = data.train_dataloader()
    orders = []
    for number in (0, 1):
        loader.set_epoch(number)
        orders.append(loader.order().tolist())
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == [*range(32)]


def test_order_depends_on_seed_and_epoch_alone(made):
    one, other = ready(made(seed=1)), ready(made(seed=2))
    torch.manual_seed(5)
    first = epoch(one, 3)
    torch.manual_seed(6)
    assert epoch(one, 3) == first != epoch(one, 4)
    assert epoch(other, 3) != first


@pytest.mark.parametrize("done", [1, 3, 6])
def test_a_run_stopped_in_mid_epoch_goes_on_with_the_very_next_batch(made, done):
    data = ready(made())
    loader, whole = data.train_dataloader(), epoch(data, 2)
    loader.set_epoch(2)
    for _ in zip(range(done), loader, strict=False):
        pass
    assert epoch(data, 2, start=loader.state_dict()) == whole[done:]


def test_two_ranks_see_together_what_one_sees_in_as_many_batches(made):
    data = ready(made())

    def labels(rank: int, world_size: int) -> list[list[int]]:
        loader = BatchLoader(data.train_set, 4, shuffle=True, rank=rank, world_size=world_size)
        return [[*words(x)] for x, _ in loader]

    alone, first, second = labels(0, 1), labels(0, 2), labels(1, 2)
    assert [sorted(a + b) for a, b in zip(first, second, strict=True)] == [sorted(b) for b in alone if len(b) > 1]


def test_evaluation_sees_every_text_once(made):
    data = ready(made(eval_batch_size=5))
    seen = list(chain(*(words(x) for x, _ in data.test_dataloader())))
    assert len(seen) == 12
    assert seen == sorted(seen, key=lambda text: len(text.split()))


def test_tokens_are_kept_and_taken_from_the_file(made, tmp_path, monkeypatch):
    first = ready(made())
    assert {path.name.rsplit("-", 1)[0] for path in (tmp_path / "cache").glob("*.npz")} == {
        "CoLA-train-20",
        "CoLA-dev-20",
    }
    monkeypatch.setattr("lit_fa.datamodules.tokenised._encoded", None)  # would be called
    assert epoch(ready(made())) == epoch(first)


@pytest.mark.parametrize("change", ["max_length", "tokenizer", "texts"])
def test_what_the_tokens_depend_on_makes_another_file(made, tmp_path, change):
    ready(made())
    before = set((tmp_path / "cache").glob("*.npz"))
    if change == "texts":
        write_table(tmp_path / "GLUE/CoLA/train.tsv", rows("CoLA", 29))
    words = [*WORDS, "new"] if change == "tokenizer" else WORDS
    tokenizer = write_tokenizer(tmp_path / "other", words)
    data = made(write=False, tokenizer=tokenizer, max_length=19 if change == "max_length" else 20)
    ready(data)
    assert len(set((tmp_path / "cache").glob("*.npz")) - before) == (1 if change == "texts" else 2)


@pytest.mark.parametrize("keep", [0, 50, 900])
def test_a_broken_kept_file_is_made_anew(made, tmp_path, keep):
    expected = epoch(ready(made()))
    for path in (tmp_path / "cache").glob("*.npz"):
        path.write_bytes(path.read_bytes()[:keep])
    assert epoch(ready(made())) == expected
    assert epoch(ready(made())) == expected


def test_without_a_place_to_keep_them_texts_are_tokenised_all_the_same(made, tmp_path):
    (tmp_path / "file").write_text("no folder")
    assert len(ready(made(cache=str(tmp_path / "file"))).train_set) == 27


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"task": "COLA"}, "task='COLA' is not known; nearest: CoLA"),
        ({"max_length": 2}, "max_length=2: at least 3 are needed"),
        ({"task": "RTE", "max_length": 4}, "max_length=4: at least 5 are needed"),
        ({"max_length": 100}, "the tokenizer's model takes 64 tokens at most"),
        ({"val_size": 30}, "val_size=30 leaves no training text: there are 30"),
        ({"val_size": -1}, "val_size=-1"),
        ({"batch_size": 0}, "batch_size=0: must be at least 1"),
        ({"test_split": "test"}, "CoLA's test file has no labels, those of MRPC and STS-B have"),
        ({"tokenizer": "nobody/none"}, "tokenizer 'nobody/none' is not on this machine"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_one_line(made, options, what):
    with pytest.raises(DataError, match=what) as error:
        ready(made(**{"write": options.get("task") != "COLA"} | options))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("task", "file", "table", "what"),
    [
        ("CoLA", "dev.tsv", None, r"dev\.tsv does not exist: put GLUE's own file there"),
        ("CoLA", "dev.tsv", [], "has no sentences"),
        ("RTE", "dev.tsv", [], r"dev\.tsv is empty"),
        ("CoLA", "train.tsv", [["s", "1", "", "a cat"], ["s", "1"]], r"train\.tsv, line 2: 2 columns, not 4"),
        ("CoLA", "train.tsv", [["s", "2", "", "a cat"]], "line 1: label '2' is none of 0, 1"),
        ("RTE", "train.tsv", [["index", "sentence1", "label"]] * 2, r"has no column \['sentence2'\]; it has"),
        ("QNLI", "train.tsv", [["question", "sentence", "label"], ["a", "b", "yes"]], "'yes' is none of entailment"),
        ("STS-B", "train.tsv", [["sentence1", "sentence2", "score"], ["a", "b", "7"]], "score '7' is not a number"),
        ("STS-B", "train.tsv", [["sentence1", "sentence2", "score"], ["a", "b", "x"]], "score 'x' is not a number"),
    ],
)
def test_a_file_that_breaks_the_format_is_named_with_the_line(made, tmp_path, task, file, table, what):
    data, path = made(task), tmp_path / "GLUE" / task / file
    path.unlink() if table is None else write_table(path, table) if table else path.write_text("")
    with pytest.raises(DataError, match=what) as error:
        ready(data)
    assert "\n" not in str(error.value)


def test_bytes_that_are_no_text_are_named(made, tmp_path):
    data = made()
    (tmp_path / "GLUE/CoLA/train.tsv").write_bytes(b"s\t1\t\t\xff\xfe\n")
    with pytest.raises(DataError, match=r"train\.tsv: not a text file in UTF-8"):
        ready(data)


def fake_hub(labels: list) -> types.ModuleType:
    """A `datasets` package whose every part has these labels."""

    def load_dataset(name: str, task: str, split: str) -> dict[str, list]:
        assert (name, split) in {("nyu-mll/glue", part) for part in ("train", "validation", "test")}
        columns = {"cola": ["sentence"], "sst2": ["sentence"], "qnli": ["question", "sentence"]}.get(
            task, ["sentence1", "sentence2"]
        )
        return {column: [SENTENCES[k % 5] for k in range(len(labels))] for column in columns} | {"label": labels}

    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset
    return module


@pytest.mark.parametrize("task", TASKS)
def test_without_files_the_task_is_fetched_from_the_hub(tmp_path, monkeypatch, task):
    monkeypatch.setitem(sys.modules, "datasets", fake_hub([0, 1, 0, 1] if task != "STS-B" else [0.5, 1.0, 2.0, 5.0]))
    data = GLUE(task, write_tokenizer(tmp_path / "t"), 20, str(tmp_path), val_size=1, cache=str(tmp_path))
    ready(data)
    assert (len(data.train_set), len(data.val_set), len(data.test_set)) == (3, 1, 4)
    assert data.test_set.labels.tolist() == ([0.5, 1, 2, 5] if task == "STS-B" else [0, 1, 0, 1])


def test_a_part_of_the_hub_without_labels_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", fake_hub([-1.0]))
    options = {"test_split": "test", "val_size": 0, "cache": str(tmp_path)}
    data = GLUE("STS-B", write_tokenizer(tmp_path / "t"), 20, str(tmp_path), **options)
    with pytest.raises(DataError, match=r"the hub's \w+ part has no labels; put sts-test\.tsv into"):
        ready(data)


@pytest.mark.parametrize("download", [True, False])
def test_without_files_and_network_one_line_says_what_to_do(tmp_path, download):
    data = GLUE("CoLA", write_tokenizer(tmp_path / "t"), root=str(tmp_path), download=download, max_length=20)
    with pytest.raises(DataError, match=r"GLUE/CoLA does not exist.*LIT_FA_DATA or --data\.init_args\.root") as error:
        ready(data)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("task", "train", "test", "share"),
    [("CoLA", 7696, 1043, 0.7044), ("RTE", 2241, 277, 0.4984), ("STS-B", 5174, 1500, 0)],
)
def test_the_real_task_has_its_known_size(real_file, tmp_path, task, train, test, share):
    root = real_file(f"GLUE/{task}/train.tsv").parents[2]
    tokenizer = write_tokenizer(tmp_path / "t")
    data = ready(GLUE(task, tokenizer, root=str(root), cache=str(tmp_path), max_length=64))
    assert (len(data.train_set), len(data.test_set)) == (train, test)
    if share:
        assert data.train_set.labels.float().mean().item() == pytest.approx(share, abs=1e-4)
        assert data.val_set.labels.float().mean().item() == pytest.approx(share, abs=2e-3)
    else:
        assert (data.train_set.labels.min(), data.train_set.labels.max()) == (0, 5)


def test_the_written_sentences_are_known_to_the_written_tokenizer():
    assert all(word in WORDS or word == "cats" for text in SENTENCES for word in text.split())
