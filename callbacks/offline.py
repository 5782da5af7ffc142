"""Whether a W&B run can go to the server, or stays in a folder here until somebody uploads it."""

import os
import socket
from urllib.parse import urlsplit

PATIENCE = 2.0  # seconds that the server has to answer


def why_offline() -> str:
    """Why a run has to stay offline: no key, no network; empty where it need not, or where WANDB_MODE decides."""
    import wandb

    if os.environ.get("WANDB_MODE"):
        return ""
    try:
        if not wandb.login(prompt=False):
            return "there is no key here (wandb login)"
    except wandb.errors.AuthenticationError as error:
        return f"the key here is no key ({str(error).splitlines()[0]})"
    server = urlsplit(wandb.Settings().base_url)
    return "" if _answers(server.hostname, server.port or 443) else f"{server.hostname} cannot be reached"


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=PATIENCE).close()
    except OSError:
        return False
    return True
