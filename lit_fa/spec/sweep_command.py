"""The command of a sweep file: a line of `lit-fa fit`, with W&B's place-holders."""

import os
import re
from typing import Any

from lit_fa.config.yaml_reader import word
from lit_fa.errors import UserError

DEFAULT_COMMAND = ["${env}", "${interpreter}", "${program}", "${args}"]
_MODULE = (["${interpreter}", "-m", "lit_fa"], ["python", "-m", "lit_fa"])


def fit_words(command: list[Any], program: Any, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The words of `lit-fa fit` before the parameters, and those after them.

    >>> fit_words(["${env}", "lit-fa", "fit", "--config", "a.yaml", "${args}"], None, "")
    (('--config', 'a.yaml'), ())

    Args:
        command: of the sweep file.
        program: what `${program}` in it stands for.
        where: what to call the command in an error.

    Raises:
        UserError: the command is something else than one run of lit-fa.
    """
    words = [str(word) for word in command]
    words = [re.sub(r"\$\{envvar:(\w+)\}", lambda name: os.environ.get(name[1], name[1]), word) for word in words]
    words = [str(program) if word == "${program}" and program else word for word in words if word != "${env}"]
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
