"""Published numbers that no table of ours declares: one file, `claims.yaml`, with a block for each paper and protocol.

A block says how the numbers were obtained: network, epochs, runs, and by which rule the reported epoch was selected.
Its `values` are by rule and data set: a number, or [mean, standard deviation].
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator
from pydantic.dataclasses import dataclass

from lit_fa.errors import UserError
from lit_fa.spec.validation import Count, Entry, Filled, Line, Number, OneOf, Positive, printable, read_yaml, validated

NAME = "claims.yaml"
Selection = Literal["final epoch", "best on validation", "best on test", "mean of last ten", "not stated"]
Read = Literal["paper", "README", "code", "logs", "third party", "memory"]


def _value(data: Any) -> Any:
    """`98.2` and `[98.2, 0.1]` as a mapping."""
    if isinstance(data, list) and len(data) == 2:
        return {"mean": data[0], "std": data[1]}
    if isinstance(data, int | float) and not isinstance(data, bool):
        return {"mean": data}
    raise UserError(f"expected a number or [mean, standard deviation], got {data!r}")


def _not_blank(text: str) -> str:
    if not text.strip():
        raise UserError("is empty; write it, or `not stated`")
    return text


Said = Annotated[Line, AfterValidator(_not_blank)]


@dataclass(frozen=True)
class Printed(Entry):
    """A printed mean, and the standard deviation over runs if it is printed."""

    mean: Number
    std: Positive | None = None


Values = dict[Line, dict[Line, Annotated[Printed, BeforeValidator(_value)]]]


@dataclass(frozen=True)
class Block(Entry):
    """Numbers of one paper under one protocol, as written in the file.

    Attributes:
        source: the paper's short name.
        where: table or file in which the numbers are printed.
        read: how we know them; `memory` and `third party` were not read in the source itself.
        network: family of networks, MLP or CNN.
        layers: the network itself, for all data sets or by data set.
        training: activation, optimiser, augmentation.
        epochs: of training, as text (`<= 200`).
        runs: number of runs; None where it is not stated.
        selection: which epoch is reported.
        values: in percent of test images, by rule and data set.
        arxiv, note: further facts.
    """

    source: Said
    where: Said
    read: Annotated[Read, OneOf()]
    network: Said
    layers: Line | dict[Line, Line]
    epochs: Said
    selection: Annotated[Selection, OneOf()]
    values: Annotated[Values, Filled]
    training: Line = ""
    runs: Count | None = None
    arxiv: Line = ""
    note: Line = ""


@dataclass(frozen=True)
class Claim:
    """One published number of a block; `value` and `std` in percent."""

    rule: str
    data: str
    layers: str
    value: float
    std: float | None
    block: Block

    @property
    def id(self) -> str:
        """`source|network|rule|data`, unique in the file."""
        return "|".join((self.block.source, self.block.network, self.rule, self.data))


@dataclass(frozen=True)
class ClaimsFile(Entry):
    """The keys of the file."""

    claims: Annotated[tuple[Block, ...], Filled] = field(default_factory=tuple)


def load_claims(path: Path) -> list[Claim]:
    """The claims of a file; none where there is no file.

    Raises:
        UserError: one line that names the file, the key and what to write instead; or an id that is there twice.
    """
    if not path.exists():
        return []
    data = printable(validated(dict[str, Any], read_yaml(path), str(path)), str(path))
    claims = [claim for block in validated(ClaimsFile, data, str(path)).claims for claim in _claims(block, str(path))]
    twice = [name for name, count in Counter(claim.id for claim in claims).items() if count > 1]
    if twice:
        raise UserError(f"{path}: the claim {twice[0]!r} is there twice; give one of the blocks another source")
    return claims


def _claims(block: Block, where: str) -> Iterator[Claim]:
    for rule, by_data in block.values.items():
        for data, printed in by_data.items():
            layers = block.layers if isinstance(block.layers, str) else block.layers.get(data)
            if layers is None:
                raise UserError(f"{where}: {block.source}, {block.network}: layers has no entry for {data}; add it")
            yield Claim(rule=rule, data=data, layers=layers, value=printed.mean, std=printed.std, block=block)
