"""The model card of a run: what was trained, on what, how well and by how many seeds, and how it is loaded."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from lit_fa.bounded_reading import read_json
from lit_fa.checkpoints.pushed import WEIGHTS
from lit_fa.described import as_call
from lit_fa.escaping import literal, plain

METRICS = ("test/accuracy", "test/pearson", "val/accuracy", "val/pearson", "test/loss", "val/loss")
PERCENT = ("accuracy", "top5", "f1")


def card(record: dict[str, Any], siblings: Sequence[dict[str, Any]], repo: str, digest: str, licence: str = "") -> str:
    """The text of README.md.

    Args:
        record: of the run.
        siblings: records of the same cell with other seeds, see `siblings_of`.
        repo: `owner/name` at the hub.
        digest: SHA-256 of the weights' file.
        licence: of the weights, an identifier of the hub; "": not stated.
    """
    rule, network, data = parts(record)
    facts = {
        "rule": rule,
        "network": network,
        "data": f"{data}; {_data(record)}",
        "result": result(record, siblings),
        "table": _table(record),
        "scale": str(record.get("scale") or "none: a single run"),
        "seed": str(record.get("seed", "not recorded")),
        "code": f"commit {str(record.get('commit', 'unknown'))[:12]}" + (", changed" if record.get("dirty") else ""),
        "versions": ", ".join(f"{name} {value}" for name, value in (record.get("versions") or {}).items()),
        "hardware": _hardware(record.get("hardware") or {}),
        "training time": f"{float(record.get('wall_time_s') or 0):.0f} s",
        "licence of the weights": licence or "not stated by who has published them",
        "sha256 of the weights": digest,
    }
    rows = "\n".join(f"| {name} | {literal(plain(value))} |" for name, value in facts.items() if value)
    table = f"| | |\n|---|---|\n{rows}"
    return "\n\n".join([_front(record, licence), f"# {literal(plain(repo))}", _ABOUT, table, _load(repo), ""])


def parts(record: dict[str, Any]) -> tuple[str, str, str]:
    """Rule, network and data of a record's config, as calls."""
    config = record.get("config") or {}
    model = (config.get("model") or {}).get("init_args") or {}
    network = model.get("network") or "a network of its own"
    rule = model.get("rule") or {"class_path": "Backprop", "init_args": {}}
    chosen = [rule, network, config.get("data") or {}]
    return tuple(_called(value) for value in chosen)  # type: ignore[return-value]  # three of them


def siblings_of(path: Path, record: dict[str, Any]) -> list[dict[str, Any]]:
    """Finished records in the same folder that differ from this one in their seed alone."""
    same = ("paper", "table", "row", "column", "scale", "protocol")
    found = []
    for file in sorted(path.parent.glob("*.json")) if record.get("table") else ():
        try:
            other = read_json(file, flat="curves")
        except (OSError, ValueError):
            continue
        if not isinstance(other, dict) or other.get("status") != "finished" or other.get("id") == record.get("id"):
            continue
        if all(other.get(key) == record.get(key) for key in same) and isinstance(other.get("metrics"), dict):
            found.append(other)
    return found


def result(record: dict[str, Any], siblings: Sequence[dict[str, Any]]) -> str:
    """The metric of the run, and its mean over the seeds of its cell."""
    metrics = record.get("metrics") or {}
    name = next((name for name in METRICS if _number(metrics.get(name)) is not None), "")
    if not name:
        return "no metric was recorded"
    unit = " %" if name.endswith(PERCENT) else ""
    on_test = (
        " (validation was on the test set)" if name.startswith("val/") and record.get("validation_is_test") else ""
    )
    mine = f"{name} {metrics[name]:.4g}{unit}{on_test}"
    values = [metrics[name], *(v for other in siblings if (v := _number(other["metrics"].get(name))) is not None)]
    if len(values) == 1:
        return f"{mine}; one seed (n = 1), so nothing is known of its spread"
    mean = math.fsum(values) / len(values)
    return f"{mine}; over n = {len(values)} seeds mean {mean:.4g}{unit}, from {min(values):.4g} to {max(values):.4g}"


def _called(value: Any) -> str:
    return plain(value if isinstance(value, str) else as_call({"init_args": {}} | value) if value else "not recorded")


def _number(value: Any) -> float | None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else None


def _data(record: dict[str, Any]) -> str:
    data = record.get("dataset") or {}
    if not data:
        return "licence not recorded"
    return f"licence of the data: {data.get('licence')}; sha256 of its samples {data.get('sha256')}"


def _table(record: dict[str, Any]) -> str:
    if not record.get("table"):
        return ""
    return f"{record.get('paper')}/{record.get('table')}, {record.get('row')}, {record.get('column')}"


def _hardware(hardware: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in hardware.items() if value is not None)


def _front(record: dict[str, Any], licence: str) -> str:
    rule = _short((((record.get("config") or {}).get("model") or {}).get("init_args") or {}).get("rule"))
    tags = ["lit-fa", *([] if rule == "Backprop" else ["learning-without-backpropagation"]), rule]
    head: dict[str, Any] = {"library_name": "lit-fa", "tags": tags} | ({"license": licence} if licence else {})
    return f"---\n{yaml.safe_dump(head, sort_keys=False)}---"


def _short(rule: Any) -> str:
    path = rule.get("class_path") if isinstance(rule, dict) else rule
    return plain(str(path or "Backprop").rpartition(".")[2])


def _load(repo: str) -> str:
    return f"""## Loading

```python
import lit_fa
from huggingface_hub import snapshot_download

module = lit_fa.load(snapshot_download("{plain(repo)}"))  # in evaluation mode, on the CPU
```

The folder has `{WEIGHTS}`, the arguments of the module (`config.json`) and the record of the run (`record.json`); none
of them can execute code. A rule or network that is not of lit-fa has to be importable."""


_ABOUT = "A network trained by lit-fa, by the rule that is named here. This card is made from the record of the run."
