"""Published baselines outside our tables: who printed them, for which network, selected how."""

from pathlib import Path

import pytest
import yaml

from lit_fa.errors import UserError
from lit_fa.spec.claims import load_claims

BLOCK = {
    "source": "CCL",
    "where": "table 1",
    "read": "paper",
    "network": "MLP",
    "layers": {"MNIST": "784-256x5-10"},
    "epochs": "100",
    "runs": 5,
    "selection": "best on validation",
    "values": {"FA": {"MNIST": [96.96, 0.05]}},
}


def load(tmp_path, *blocks):
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump({"claims": list(blocks)}))
    return load_claims(path)


def test_a_claim_has_its_number_and_its_protocol(tmp_path):
    (claim,) = load(tmp_path, BLOCK)
    assert (claim.id, claim.value, claim.std, claim.layers) == ("CCL|MLP|FA|MNIST", 96.96, 0.05, "784-256x5-10")
    assert claim.block.selection == "best on validation"


def test_no_file_has_no_claims(tmp_path):
    assert load_claims(tmp_path / "claims.yaml") == []


def without(key):
    return {name: value for name, value in BLOCK.items() if name != key}


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        ([without("network")], "'network' is missing"),
        ([without("selection")], "'selection' is missing"),
        ([BLOCK | {"selection": "best on tset"}], "nearest: best on test"),
        ([BLOCK | {"network": " "}], "network: is empty"),
        ([BLOCK, BLOCK], "'CCL|MLP|FA|MNIST' is there twice"),
        ([BLOCK | {"values": {"FA": {"MNIST": "96.96"}}}], "expected a number or [mean, standard deviation]"),
        ([BLOCK | {"values": {"FA": {"MNIST": [96.9, -1]}}}], "is too small"),
        ([BLOCK | {"values": {"FA": {"CIFAR-10": 50.0}}}], "layers has no entry for CIFAR-10"),
        ([BLOCK | {"seeds": 3}], "unknown key 'seeds'"),
    ],
)
def test_what_is_missing_or_doubled_is_one_line(tmp_path, blocks, words):
    with pytest.raises(UserError) as caught:
        load(tmp_path, *blocks)
    assert words in str(caught.value)
    assert str(caught.value).count("\n") == 0


def test_the_committed_claims_can_be_read_and_say_how_they_are_known():
    claims = load_claims(Path(__file__).parents[2] / "paper_configs" / "claims.yaml")
    fa = {claim.block.source: claim.value for claim in claims if claim.id.endswith("MLP|FA|MNIST")}
    assert {"CCL": 96.96, "DLL": 91.87}.items() <= fa.items()
    assert all(claim.block.read in ("third party", "memory") for claim in claims if "recalled" in claim.block.source)
