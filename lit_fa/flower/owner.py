"""A process of Flower's whose port answers only to its owner: `python -m lit_fa.flower.owner flower-superlink ...`.

Loopback is open to every user of a machine, and whoever reaches a SuperLink runs code as its owner. The kernel knows
whose a connection is; a request from another user's is answered with 403 and goes no further.
"""

import os
import socket
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

Address = tuple[str, int]
TABLE = Path("/proc/net/tcp")  # of connections over IPv4, which is what our processes listen on


class OwnerOnly:
    """An ASGI application that hears its own user alone.

    Args:
        app: the application.
    """

    def __init__(self, app: Any):
        """See the class."""
        self.app = app

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] == "lifespan" or owner_of(scope.get("client"), scope.get("server")) == os.getuid():
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body"})


def owner_of(client: Address | None, server: Address | None) -> int | None:
    """The user whose socket `client` is, connected to `server`; None where nobody knows."""
    if not client or not server:
        return None
    if TABLE.exists():
        return _by_kernel(client, server)
    return _by_processes(client, server)


def _by_kernel(client: Address, server: Address) -> int | None:
    """By Linux's table of connections: both ends of each, as hexadecimal numbers, and the user."""
    wanted = [_hexadecimal(*client), _hexadecimal(*server)]
    for line in TABLE.read_text(encoding="ascii").splitlines()[1:]:
        _, here, there, _, _, _, _, user, *_ = line.split()
        if [here, there] == wanted:
            return int(user)
    return None


def _hexadecimal(host: str, port: int) -> str:
    return f"{int.from_bytes(socket.inet_aton(host), sys.byteorder):08X}:{port:04X}"


def _by_processes(client: Address, server: Address) -> int | None:
    """Elsewhere: ours, where one of our processes has the socket."""
    import psutil

    for process in psutil.process_iter():
        try:
            if process.uids().real != os.getuid():
                continue
            for c in process.net_connections("tcp4"):
                if c.raddr and (tuple(c.laddr), tuple(c.raddr)) == (tuple(client), tuple(server)):
                    return os.getuid()
        except (psutil.Error, OSError):
            continue
    return None


def guard() -> None:
    """From here on, every server that uvicorn starts in this process answers to its owner alone."""
    import uvicorn

    begin = uvicorn.Config.__init__

    def guarded(self: uvicorn.Config, app: Any, *args: Any, **kwargs: Any) -> None:
        begin(self, OwnerOnly(app), *args, **kwargs)

    uvicorn.Config.__init__ = guarded


def main(argv: list[str]) -> None:
    """Become the tool that the first word names."""
    (tool,) = entry_points(group="console_scripts", name=argv[0])
    guard()
    sys.argv = argv
    sys.exit(tool.load()())


if __name__ == "__main__":
    main(sys.argv[1:])
