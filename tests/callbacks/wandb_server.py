"""As much of a W&B server as a run needs: it keeps what is sent, and knows the rows that it has been told it has."""

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PROJECT = {"id": "p", "name": "lit-fa", "entity": {"id": "e", "name": "me"}}
KEY = "a" * 40


class Server(ThreadingHTTPServer):
    """`sent`: run id to its history rows as they came; `exit_codes` of runs that ended; `rows`: a run has already."""

    def __init__(self, rows: dict[str, int]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.rows, self.sent, self.exit_codes = rows, {}, {}
        self.url = f"http://127.0.0.1:{self.server_port}"

    def answer(self, query: str, given: dict) -> dict:
        """What the part of the interface that a run uses says."""
        if "RunResumeStatus" in query:
            return {"model": self.known(given["name"])}
        if "upsertBucket" in query:
            bucket = {"id": "x", "name": given.get("name"), "displayName": "", "config": "{}", "project": PROJECT}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.url}/file"} for name in given["files"]]
            return {"createRunFiles": {"runID": "x", "uploadHeaders": [], "files": files}}
        if "createArtifact" in query:
            sequence = {"id": "s", "name": "s", "latestArtifact": None, "project": PROJECT}
            return {"createArtifact": {"artifact": {"id": "a", "state": "COMMITTED", "artifactSequence": sequence}}}
        if "viewer" in query:
            return {"viewer": {"id": "u", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}
        return {"serverInfo": {"features": []}} if "serverInfo" in query else {"project": None}

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is none of ours."""

    def known(self, run: str) -> dict | None:
        if run not in self.rows:
            return None
        tail = json.dumps([json.dumps({"_step": self.rows[run] - 1, "_runtime": 1.0})])
        lines = {"historyLineCount": self.rows[run], "eventsLineCount": 0, "logLineCount": 0}
        text = {"historyTail": tail, "eventsTail": "[]", "summaryMetrics": "{}", "config": "{}"}
        bucket = {"id": "x", "name": run, "project": PROJECT, "tags": [], "wandbConfig": '{"t": {}}'}
        return {"bucket": bucket | lines | text, **PROJECT}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        data = self.body()
        if self.path.endswith("file_stream"):
            run = self.path.split("/")[-2]
            lines = data.get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
            self.server.sent.setdefault(run, []).extend(map(json.loads, lines))
            if data.get("complete"):
                self.server.exit_codes[run] = data["exitcode"]
            self.say({"limits": {}})
        elif self.path == "/graphql":
            self.say({"data": self.server.answer(data.get("query", ""), data.get("variables") or {})})
        else:
            self.say({})

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.say({})

    def do_GET(self) -> None:
        self.say({})

    def body(self) -> dict:
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        raw = gzip.decompress(raw) if self.headers.get("Content-Encoding") == "gzip" else raw
        try:
            return json.loads(raw)
        except ValueError:
            return {}  # the client's own telemetry

    def say(self, data: dict) -> None:
        raw = json.dumps(data).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(**rows: int) -> Iterator[Server]:
    """A server at a free port of this machine; `rows`: how many rows a run has there."""
    server = Server(rows)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
