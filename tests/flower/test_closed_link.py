"""A federation on this machine answers to its owner alone, over connections that only its own processes trust."""

import asyncio
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import uvicorn

from lit_fa.commands.flower import _resume_command
from lit_fa.flower import keeper, owner
from lit_fa.flower.certificates import make


async def answer(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The port of a guarded server with certificates, and those."""
    files = make(tmp_path_factory.mktemp("link") / "certificates")
    options = {"ssl_certfile": files.certificate, "ssl_keyfile": files.key, "log_level": "critical", "lifespan": "off"}
    server = uvicorn.Server(uvicorn.Config(owner.OwnerOnly(answer), host="127.0.0.1", port=0, **options))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1], files
    server.should_exit = True
    thread.join()


ASK = """
import encodings.idna, os, socket, ssl, sys
context = ssl._create_unverified_context()
os.setuid(int(sys.argv[2]))
with context.wrap_socket(socket.create_connection(("127.0.0.1", int(sys.argv[1])))) as link:
    link.sendall(b"GET / HTTP/1.1\\r\\nhost: x\\r\\nconnection: close\\r\\n\\r\\n")
    print(link.recv(100).split()[1].decode())
"""


def asked(port: int, user: int) -> str:
    return subprocess.check_output([sys.executable, "-I", "-S", "-c", ASK, str(port), str(user)], text=True).strip()


def test_the_owner_is_answered(served):
    assert asked(served[0], os.getuid()) == "200"


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
def test_another_user_is_refused(served):
    assert asked(served[0], 65534) == "403"


def test_a_client_without_tls_is_refused(served):
    with socket.create_connection(("127.0.0.1", served[0])) as link:
        link.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert b"200" not in link.recv(100)


def test_a_server_with_another_certificate_is_not_trusted(served, tmp_path):
    foreign = make(tmp_path / "other")
    for authority, trusted in ((served[1].authority, True), (foreign.authority, False)):
        context = ssl.create_default_context(cafile=str(authority))
        with socket.create_connection(("127.0.0.1", served[0])) as plain:
            if trusted:
                context.wrap_socket(plain, server_hostname="127.0.0.1").close()
            else:
                with pytest.raises(ssl.SSLCertVerificationError):
                    context.wrap_socket(plain, server_hostname="127.0.0.1")


def test_only_the_owner_reads_the_files(tmp_path):
    files = make(tmp_path / "made")
    assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o700
    assert {stat.S_IMODE(f.stat().st_mode) for f in (files.authority, files.certificate, files.key)} == {0o600}


@pytest.mark.parametrize("whose", [None, 1 + os.getuid()])
def test_a_connection_of_nobody_known_or_of_another_is_refused(whose, monkeypatch):
    monkeypatch.setattr(owner, "owner_of", lambda *_: whose)
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(owner.OwnerOnly(answer)({"type": "http", "client": ("127.0.0.1", 1)}, None, send))
    assert sent[0]["status"] == 403


def test_every_server_of_a_guarded_process_is_guarded(monkeypatch):
    monkeypatch.setattr(uvicorn.Config, "__init__", uvicorn.Config.__init__)
    owner.guard()
    assert isinstance(uvicorn.Config(answer).app, owner.OwnerOnly)


def test_the_kernels_table_tells_two_ends_and_two_addresses_apart(tmp_path, monkeypatch):
    lines = [
        "head",
        "0: 0200007F:1000 0100007F:2000 01 0:0 0:0 0 65534 0 1",
        "1: 0100007F:1000 0100007F:2000 01 0:0 0:0 0 7 0 1",
    ]
    (tmp_path / "tcp").write_text("\n".join(lines), encoding="ascii")
    monkeypatch.setattr(owner, "TABLE", tmp_path / "tcp")
    monkeypatch.setattr(owner.sys, "byteorder", "little")
    assert owner.owner_of(("127.0.0.1", 0x1000), ("127.0.0.1", 0x2000)) == 7
    assert owner.owner_of(("127.0.0.2", 0x1000), ("127.0.0.1", 0x2000)) == 65534
    assert owner.owner_of(("127.0.0.1", 0x2000), ("127.0.0.1", 0x1000)) is None


PARENT = """
import os, subprocess, sys, time
report = sys.argv[1]
keeper = [sys.executable, "-m", "lit_fa.flower.keeper", report]
kept = subprocess.Popen(keeper, stdin=subprocess.PIPE, start_new_session=True)
nap = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
child = subprocess.Popen(nap, env=os.environ | {"LIT_FA_FLOWER_REPORT": report}, start_new_session=True)
print(kept.pid, child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_federation_has_started_ends_with_its_parent_however_that_ends(signum, tmp_path):
    (tmp_path / "run").mkdir()
    command = [sys.executable, "-c", PARENT, str(tmp_path / "run" / "report.json")]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as parent:
        kept, child = (psutil.Process(int(word)) for word in parent.stdout.readline().split())
        os.killpg(parent.pid, signum)
    _, alive = psutil.wait_procs([kept, child], timeout=20)
    assert not alive
    assert not (tmp_path / "run").exists()


def test_an_interrupted_federation_names_the_command_that_goes_on():
    said = _resume_command(["--config", "x.yaml", "--ckpt_path=old.ckpt", "--nodes", "3"], "new.ckpt")
    assert said == "interrupted; go on with: lit-fa flower --config x.yaml --nodes 3 --ckpt_path new.ckpt"
    assert keeper.family("nobody's") == []
