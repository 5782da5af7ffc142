"""Runs a Flower process whose port accepts only its owner: `python -m lit_fa.flower.owner flower-superlink ...`.

Loopback is open to every user of a machine, and whoever can connect to a SuperLink can run code as its owner. The
kernel reports the owner of a connection; a request of another user is answered with 403.
"""

import os
import socket
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

Address = tuple[str, int]
TABLE = Path("/proc/net/tcp")  # of connections over IPv4; our processes listen on IPv4 only


class OwnerOnly:
    """An ASGI application that accepts only requests of its own user.

    Args:
        app: the application.
    """

    def __init__(self, app: Any):
        """See the class."""
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] == "lifespan" or owner_of(scope.get("client"), scope.get("server")) == os.getuid():
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body"})


def owner_of(client: Address | None, server: Address | None) -> int | None:
    """The id of the user who has the socket `client`, connected to `server`; None if it is not known."""
    if not client or not server:
        return None
    if TABLE.exists():
        return _by_kernel(client, server)
    return _by_processes(client, server)


def _by_kernel(client: Address, server: Address) -> int | None:
    """From Linux's table of connections, with both ends of each as hexadecimal numbers, and the user."""
    wanted = [_hexadecimal(*client), _hexadecimal(*server)]
    for line in TABLE.read_text(encoding="ascii").splitlines()[1:]:
        _, here, there, _, _, _, _, user, *_ = line.split()
        if [here, there] == wanted:
            return int(user)
    return None


def _hexadecimal(host: str, port: int) -> str:
    return f"{int.from_bytes(socket.inet_aton(host), sys.byteorder):08X}:{port:04X}"


def _by_processes(client: Address, server: Address) -> int | None:
    """On other systems: our user id, if one of our processes has the socket."""
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
    """Make every server that uvicorn starts in this process accept only its owner."""
    import uvicorn

    begin = uvicorn.Config.__init__

    def guarded(self: uvicorn.Config, app: Any, *args: Any, **kwargs: Any) -> None:
        begin(self, OwnerOnly(app), *args, **kwargs)

    uvicorn.Config.__init__ = guarded  # type: ignore[method-assign]  # of this process only


def main(argv: list[str]) -> None:
    """Run the tool that the first word names."""
    (tool,) = entry_points(group="console_scripts", name=argv[0])
    guard()
    sys.argv = argv
    sys.exit(tool.load()())


if __name__ == "__main__":
    main(sys.argv[1:])
