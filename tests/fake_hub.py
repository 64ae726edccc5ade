"""A model hub small enough for a test: one repository in memory, and the few requests that push and load it."""

import json
import threading
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

REPO, TOKEN, COMMIT = "owner/name", "hf_right", "0123456789" * 4


class Hub(ThreadingHTTPServer):
    """files: what was committed; created: what was asked for when the repository was made."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Desk)
        self.files: dict[str, bytes] = {}
        self.created: dict[str, Any] = {}
        self.address = f"http://127.0.0.1:{self.server_address[1]}"


class Desk(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: Any) -> None:
        """Silent."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        lines = [json.loads(line) for line in body.splitlines()]
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.reply({"error": "Invalid credentials"}, 401)
        elif self.path == "/api/repos/create":
            self.server.created = lines[0]
            self.reply({"url": f"{self.server.address}/{REPO}"})
        elif self.path == "/api/validate-yaml":
            self.reply({"errors": [], "warnings": []})
        elif self.path == f"/api/models/{REPO}/preupload/main":
            names = [file["path"] for file in lines[0]["files"]]
            self.reply({"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]})
        elif self.path == f"/api/models/{REPO}/commit/main":
            files = [line["value"] for line in lines if line["key"] == "file"]
            self.server.files |= {file["path"]: b64decode(file["content"]) for file in files}
            self.reply({"commitUrl": f"{self.server.address}/{REPO}/commit/{COMMIT}", "commitOid": COMMIT})
        else:
            self.reply({"error": f"no such page: {self.path}"}, 404)

    def do_GET(self) -> None:
        place = self.path.split("?")[0].removeprefix(f"/{REPO}/resolve/").partition("/")[2]
        if self.path.startswith(f"/api/models/{REPO}/revision/"):
            self.reply({"id": REPO, "modelId": REPO, "sha": COMMIT, "siblings": [], "tags": []})
        elif place in self.server.files:
            self.reply(self.server.files[place])
        else:
            self.reply({"error": "Entry not found"}, 404)

    do_HEAD = do_GET

    def reply(self, content: bytes | dict[str, Any], status: int = 200) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hash(body):x}"')
        self.send_header("X-Repo-Commit", COMMIT)
        if status == 404:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def open_hub() -> Iterator[Hub]:
    """A hub on a port of this machine."""
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
