"""Whether a W&B run can be sent to the server or has to be stored offline."""

import os
import socket
from urllib.parse import urlsplit

PATIENCE = 2.0  # seconds to wait for the server


def why_offline() -> str:
    """The reason why a run must be offline (no network, no key); empty if it can be online or WANDB_MODE is set."""
    import wandb

    if os.environ.get("WANDB_MODE"):
        return ""
    server = urlsplit(wandb.setup().settings.base_url)
    if not _answers(server.hostname or "", server.port or (443 if server.scheme == "https" else 80)):
        return f"{server.hostname} cannot be reached"
    try:  # after the check above, because without a network `login` retries for minutes
        return "" if wandb.login(prompt=False) else "there is no key here (wandb login)"
    except wandb.errors.AuthenticationError as error:
        return f"the key is refused ({str(error).splitlines()[0]})"


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=PATIENCE).close()
    except OSError:
        return False
    return True
