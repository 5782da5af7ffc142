"""A runner without training: a trial's value is its learning rate times a hundred, or what its folder asks for."""

import json
import os
import signal
import time
from pathlib import Path


class Mendable(ValueError):
    user_error = True


def run(config: dict, record: dict) -> None:
    folder, words = Path(record["path"]).parent, config["words"]
    with open(folder / "tries", "a", encoding="utf-8") as tries:
        tries.write(f"{os.getpid()} {' '.join(words)}\n")
    wish = json.loads(os.environ.get("FAKE_TRIAL", "{}"))
    time.sleep(wish.get("sleep", 0))
    if wish.get("fail") == "user":
        raise Mendable("a.B has no option 'lr'; nearest: rate")
    if wish.get("fail") in [str(record["parameters"]["lr"])]:
        raise RuntimeError("out of luck")
    if "signal" in wish and record["parameters"]["lr"] == wish["lr"]:
        os.kill(os.getpid(), getattr(signal, wish["signal"]))
    metrics = {"val/accuracy": 100 * record["parameters"]["lr"]}
    fields = {key: value for key, value in record.items() if key != "path"}
    fields |= {"status": "finished", "metrics": metrics, "curves": {}, "validation_is_test": wish.get("on_test", False)}
    if record["parameters"]["lr"] == wish.get("diverge"):
        fields |= {"status": "diverged", "diverged": {"step": 7, "first": "the output of head"}}
    part = folder / "part"
    part.write_text(json.dumps(fields))
    part.replace(record["path"])
