"""Whether a W&B run can go to the server, or stays in a folder here until somebody uploads it."""

import os
import socket
from urllib.parse import urlsplit

PATIENCE = 2.0  # seconds that the server has to answer


def why_offline() -> str:
    """Why a run has to stay offline: no network, no key; empty where it need not, or where WANDB_MODE decides."""
    import wandb

    if os.environ.get("WANDB_MODE"):
        return ""
    server = urlsplit(wandb.setup().settings.base_url)
    if not _answers(server.hostname, server.port or (443 if server.scheme == "https" else 80)):
        return f"{server.hostname} cannot be reached"
    try:  # only now: without a network it would try for minutes
        return "" if wandb.login(prompt=False) else "there is no key here (wandb login)"
    except wandb.errors.AuthenticationError as error:
        return f"the key is refused ({str(error).splitlines()[0]})"


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=PATIENCE).close()
    except OSError:
        return False
    return True
