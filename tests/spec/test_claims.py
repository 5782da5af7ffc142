"""Published baselines outside our tables: who printed them, for which network, selected how."""

from pathlib import Path

import pytest
import yaml

from lit_fa.errors import UserError
from lit_fa.reports.listing import find_tables
from lit_fa.results.atlas import claimed, published_of
from lit_fa.results.records import Collected
from lit_fa.spec.claims import load_claims
from lit_fa.spec.expand import expand
from lit_fa.spec.table import load_table

CONFIGS = Path(__file__).parents[2] / "paper_configs"

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
    claims = load_claims(CONFIGS / "claims.yaml")
    assert len(claims) > 20
    assert all(claim.block.read in ("third party", "memory") for claim in claims if "recalled" in claim.block.source)


def test_no_claim_repeats_a_number_that_a_table_declares():
    claims = {(entry.paper, entry.nominal, entry.value) for entry in claimed(load_claims(CONFIGS / "claims.yaml"))}
    for file in find_tables(CONFIGS):
        table = load_table(file)
        if "full" in table.scales:
            runs = expand(table, table.scale("full"))
            printed = published_of(Collected(table, table.scale("full"), tuple(runs), {}))
            assert not claims & {(entry.paper, entry.nominal, entry.value) for entry in printed}, file
