"""openwandb does not say what has arrived of a run; W&B does, and its client then sends the rest alone. This
proxy before openwandb gives that one answer from openwandb's own files, and passes on everything else."""

from __future__ import annotations

import http.server
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from wandb_runs import Server


@contextmanager
def resuming(server: Server) -> Iterator[str]:
    """The address of the proxy."""

    class Proxy(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if b"query RunResumeStatus" in body:
                status, content = (
                    200,
                    json.dumps({"data": {"model": _resume_status(server, json.loads(body))}}).encode(),
                )
            else:
                status, content = self.pass_on(body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = answer

        def pass_on(self, body: bytes) -> tuple[int, bytes]:
            own = ("host", "content-length", "accept-encoding", "connection")
            headers = {key: value for key, value in self.headers.items() if key.lower() not in own}
            url = server.env["WANDB_BASE_URL"] + self.path
            request = urllib.request.Request(url, body or None, headers, method=self.command)
            try:
                with urllib.request.urlopen(request, timeout=20) as reply:
                    return reply.status, reply.read()
            except urllib.error.HTTPError as error:
                return error.code, error.read()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{proxy.server_port}"
        proxy.shutdown()


def _resume_status(server: Server, query: dict[str, Any]) -> dict[str, Any]:
    name = query["variables"]["name"]
    bucket = None
    if server.ask("select 1 from runs where run_id = ?", name):
        run, history = server.run(name), server.history(name)
        bucket = {
            "id": "run",
            "name": name,
            "displayName": run["display_name"],
            "summaryMetrics": run["summary_json"],
            "config": run["config_json"],
            "wandbConfig": '{"t": 1}',
            "historyLineCount": len(history),
            "historyTail": json.dumps([json.dumps(history[-1])]),
            "eventsLineCount": 0,
            "eventsTail": "[]",
            "logLineCount": 0,
            "tags": [],
            "notes": "",
        }
    project = query["variables"]["project"]
    return {"id": "project", "name": project, "entity": {"id": "entity", "name": "default"}, "bucket": bucket}
