"""The command of a sweep file: a line of `lit-fa fit`, with W&B's place-holders."""

import os
import re
from typing import Any

from lit_fa.config.yaml_reader import word
from lit_fa.errors import UserError
from lit_fa.spec.validation import sequence

_DEFAULT = ["${env}", "${interpreter}", "${program}", "${args}"]
_MODULE = (["${interpreter}", "-m", "lit_fa"], ["python", "-m", "lit_fa"])


def fit_words(sweep: dict[str, Any], where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The words of `lit-fa fit` before the parameters, and those after them.

    >>> fit_words({"command": ["${env}", "lit-fa", "fit", "--config", "a.yaml", "${args}"]}, "")
    (('--config', 'a.yaml'), ())

    Raises:
        UserError: the command is something else than one run of lit-fa.
    """
    words = [str(word) for word in sequence(sweep.get("command", _DEFAULT), where)]
    words = [re.sub(r"\$\{envvar:(\w+)\}", lambda found: os.environ.get(found[1], found[1]), word) for word in words]
    words = [str(sweep.get("program", word)) if word == "${program}" else word for word in words if word != "${env}"]
    words = ["lit-fa", *words[3:]] if words[:3] in _MODULE else words
    if words[:2] != ["lit-fa", "fit"] or words.count("${args}") != 1 or sum(w.startswith("${") for w in words) > 1:
        line = '["${env}", lit-fa, fit, --config, FILE, "${args}"]'
        raise UserError(f"{where}: a trial is one run of lit-fa; write {line}")
    at = words.index("${args}")
    return tuple(words[2:at]), tuple(words[at + 1 :])


def flags(values: dict[str, Any]) -> list[str]:
    """The parameters as words that `lit-fa fit` reads back as the same values.

    >>> flags({"model.lr": 1e-05, "rule": {"alpha": None}})
    ['--model.lr=1e-05', '--rule={alpha: null}']
    """
    return [f"--{name}={word(value)}" for name, value in values.items()]
