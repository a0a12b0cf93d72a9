# SPDX-License-Identifier: MIT
"""Runs on the lab machine: a second Caddy with the settings of a plane's ingress, in front of a recorder.

Usage: ingress_probe.py <Caddyfile>. Only the address, the port and the upstream are replaced. Prints, as JSON, what
came back for each question and what the recorder got.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

EVENTS = 5
PAUSE = 0.2
SECRET = "query-or-header-that-must-not-pass"


class Recorder(ThreadingHTTPServer):
    """An upstream that notes every request and answers with more than a client may see."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Upstream)
        self.got: list[dict[str, Any]] = []
        self.cut_after = -1


class Upstream(BaseHTTPRequestHandler):
    """Answers of the recorder."""

    protocol_version = "HTTP/1.1"
    server: Recorder

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        headers = [[name.lower(), value] for name, value in self.headers.items()]
        self.server.got.append({"method": self.command, "path": self.path, "headers": headers, "body": body})
        self.send_response(200)
        for name in ("Access-Control-Allow-Origin", "Set-Cookie", "X-Litellm-Model-Api-Base", "Llm_provider-Server"):
            self.send_header(name, SECRET)
        self.send_header("X-Litellm-Model-Id", "personal/gpu")
        self.send_header("X-Sovereign-Backend", "gpu")
        if "stream" not in body:
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")
            return
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in range(EVENTS):
            try:
                self.wfile.write(b"9\r\ndata: %d\n\n\r\n" % number)
            except OSError:
                self.server.cut_after = number
                return
            time.sleep(PAUSE)
        self.wfile.write(b"0\r\n\r\n")


def ask(port: int, method: str, path: str, body: str | None = None, **headers: str) -> dict[str, Any]:
    """One request; status, headers and body of the answer, and when each line of the body came."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    began = time.monotonic()
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    names = {name.lower(): value for name, value in response.getheaders()}
    lines = [(time.monotonic() - began, line.decode()) for line in response]
    connection.close()
    return {"status": response.status, "headers": names, "body": "".join(line for _when, line in lines), "lines": lines}


def questions(port: int, recorder: Recorder) -> dict[str, Any]:
    """Ask what a client, a careless one and a bad one would ask."""
    chat = "/v1/chat/completions"
    headers = {
        "Authorization": "Bearer a-key",
        "Content_Type": "application/json",
        "Cookie": SECRET,
        "Origin": f"http://{SECRET}",
        "X_Sovereign_Profile": SECRET,
        "x_litellm_tags": SECRET,
        "X_Forwarded_For": SECRET,
        "User_Agent": SECRET,
    }
    out: dict[str, Any] = {"chat": ask(port, "POST", f"{chat}?model={SECRET}", '{"a": 1}', **headers)}
    out["models"] = ask(port, "GET", f"/v1/models?{SECRET}", **headers)
    out["got"] = list(recorder.got)
    out["stream"] = ask(port, "POST", chat, '{"stream": true}', Content_Type="application/json")
    recorder.got.clear()
    refused = {
        "preflight": ("OPTIONS", chat),
        "other method": ("DELETE", chat),
        "get of a post": ("GET", chat),
        "root": ("GET", "/"),
        "metrics": ("GET", "/metrics"),
        "longer path": ("GET", "/v1/models/x"),
        "slash at the end": ("GET", "/v1/models/"),
        "climbing path": ("GET", "/v1/models/../../metrics"),
        "admin of caddy": ("GET", "/config/"),
    }
    out["refused"] = {name: ask(port, *words, Origin="http://elsewhere") for name, words in refused.items()}
    out["passed although refused"] = list(recorder.got)
    return out


def leave_early(port: int, recorder: Recorder) -> int:
    """Leave in the middle of a stream; after how many events the recorder noticed, -1 when it did not."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("POST", "/v1/chat/completions", '{"stream": true}', {"Content-Type": "application/json"})
    response = connection.getresponse()
    response.readline()
    response.close()
    connection.close()
    time.sleep(EVENTS * PAUSE + 0.5)
    return recorder.cut_after


def main() -> None:
    """Start both, ask, stop both."""
    with open(sys.argv[1], encoding="utf-8") as stream:
        text = stream.read()
    recorder = Recorder()
    threading.Thread(target=recorder.serve_forever, daemon=True).start()
    with ThreadingHTTPServer(("127.0.0.1", 0), Upstream) as unused:
        port = unused.server_address[1]
    text, ports = re.subn(r"(?m)^:\d+ \{", f":{port} {{", text)
    text, binds = re.subn(r"(?m)^\tbind .*$", "\tbind 127.0.0.1", text)
    text, upstreams = re.subn(
        r"(?m)^\treverse_proxy \S+ \{", f"\treverse_proxy 127.0.0.1:{recorder.server_address[1]} {{", text
    )
    assert (ports, binds, upstreams) == (1, 1, 1), "the Caddyfile has another shape than this probe knows"
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "Caddyfile")
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(text)
        environment = {**os.environ, "XDG_CONFIG_HOME": folder, "XDG_DATA_HOME": folder}
        command = ["caddy", "run", "--adapter", "caddyfile", "--config", path]
        with open(os.path.join(folder, "log"), "w+", encoding="utf-8") as log:
            caddy = subprocess.Popen(command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
            try:
                wait_for(port)
                out = questions(port, recorder)
                out["noticed after"] = leave_early(port, recorder)
                recorder.shutdown()
                recorder.server_close()
                out["nobody behind"] = ask(port, "POST", f"/v1/chat/completions?{SECRET}", SECRET)
            finally:
                caddy.terminate()
                caddy.wait(20)
            log.seek(0)
            out["log"] = log.read()
    print(json.dumps(out))


def wait_for(port: int) -> None:
    """Until Caddy answers, 20 seconds at most."""
    for _ in range(100):
        try:
            ask(port, "GET", "/")
            return
        except OSError:
            time.sleep(0.2)
    raise SystemExit("Caddy did not answer within 20 seconds")


if __name__ == "__main__":
    main()
