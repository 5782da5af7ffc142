"""As much of a model hub as an upload needs: it keeps the files of each repository."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_" + "t" * 34


class Hub(ThreadingHTTPServer):
    """`files`: repository to its files by name; `refuses`: a status for every request that writes."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url, self.files, self.private = f"http://127.0.0.1:{self.server_port}", {}, {}
        self.refuses, self.requests = 0, []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append(self.path)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.say(401, {"error": "Invalid username or password."})
        if self.server.refuses and "/api/" in self.path:
            return self.say(self.server.refuses, {"error": "no"})
        if self.path == "/api/repos/create":
            return self.create(json.loads(body))
        repo = "/".join(self.path.split("/")[3:5])
        if "/preupload/" in self.path:
            files = [{"path": f["path"], "uploadMode": "regular"} for f in json.loads(body)["files"]]
            return self.say(200, {"files": [file | {"shouldIgnore": False} for file in files]})
        if "/commit/" in self.path:
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.server.files[repo][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            url = f"{self.server.url}/{repo}/commit/{'0' * 40}"
            return self.say(200, {"commitUrl": url, "commitOid": "0" * 40, "success": True})
        return self.say(200, {"errors": [], "warnings": []})  # the card's front matter is checked

    def create(self, asked: dict) -> None:
        repo = f"{asked.get('organization') or 'me'}/{asked['name']}"
        known = repo in self.server.files
        self.server.files.setdefault(repo, {})
        self.server.private.setdefault(repo, asked.get("private") or asked.get("visibility") == "private")
        self.say(409 if known else 200, {"url": f"{self.server.url}/{repo}", "name": repo})

    def do_GET(self) -> None:
        repo = "/".join(self.path.split("/")[3:5])
        known = repo in self.server.files
        info = {"id": repo, "modelId": repo, "sha": "0" * 40, "private": False, "siblings": []}
        self.say(200 if known else 404, info if known else {"error": "not found"})

    def do_HEAD(self) -> None:
        _, owner, name, _, _, file = self.path.split("/", 5)
        content = self.server.files.get(f"{owner}/{name}", {}).get(file)
        self.send_response(404 if content is None else 200)
        self.send_header("X-Repo-Commit", "0" * 40)
        if content is None:
            self.send_header("X-Error-Code", "EntryNotFound")
        else:
            self.send_header("ETag", '"e"')
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()

    def say(self, status: int, data: dict) -> None:
        raw = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub at a free port of this machine."""
    hub = Hub()
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
