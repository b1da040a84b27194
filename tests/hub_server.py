"""A Hugging Face Hub of one's own on loopback, as much of it as its client needs to download repositories."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c0ffee" * 6 + "beef"
Repositories = dict[str, dict[str, bytes]]  # "models/OWNER/NAME" → path → content


@contextmanager
def serve(repositories: Repositories, requests: list[str]) -> Iterator[str]:
    """Serves revision `main` of the repositories; gives the endpoint. requests: what was asked, as it comes."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            requests.append(f"{self.command} {self.path}")
            path = self.path.split("?")[0]
            if api := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path):
                kind, name, _, revision = api.groups()
                self.say(kind, name, revision or "main", None, body)
            elif file := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                self.say("datasets" if file[1] else "models", file[2], file[3], file[4], body)
            else:
                self.send_error(404)

        def say(self, kind: str, name: str, revision: str, file: str | None, body: bool) -> None:
            files = repositories.get(f"{kind}/{name}")
            if files is None or revision not in ("main", COMMIT) or (file is not None and file not in files):
                reason = "RepoNotFound" if files is None else "EntryNotFound" if revision in ("main", COMMIT) else None
                self.send_response(404)
                self.send_header("X-Error-Code", reason or "RevisionNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            content = files[file] if file else self.listing(name, files)
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def listing(self, name: str, files: dict[str, bytes]) -> bytes:
            if "/tree/" in self.path:
                entries = [{"type": "file", "path": p, "size": len(c), "oid": "0" * 40} for p, c in files.items()]
                return json.dumps(entries).encode()
            siblings = [{"rfilename": path} for path in files]
            return json.dumps({"id": name, "sha": COMMIT, "siblings": siblings, "tags": []}).encode()

        def log_message(self, format: str, *arguments: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
