# SPDX-License-Identifier: MIT
"""Each program as the lab starts it: command line, ready line, control channel, SIGTERM."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import MOLECULE
from standins import control
from standins.providers import PROVIDERS

MARKER = "MARK-coding-c4c4d0d011"
ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "PYTHONPATH": str(MOLECULE),
    "PYTHONDONTWRITEBYTECODE": "1",
}


@contextmanager
def program(*words: str, **more: str) -> Iterator[dict[str, Any]]:
    """Run a program of the package; yields what its ready line says, then wants it to end well."""
    command = [sys.executable, "-m", *words]
    with subprocess.Popen(
        command, env={**ENVIRONMENT, **more}, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line.startswith("ready "), line
            yield json.loads(line[6:])
        finally:
            process.terminate()
        assert process.wait(5) == 0


def run(*words: str, **more: str) -> tuple[int, Any]:
    """Run a program to its end: exit status and the JSON it printed."""
    done = subprocess.run(
        [sys.executable, "-m", *words],
        env={**ENVIRONMENT, **more},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, json.loads(done.stdout)


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])


def test_internet_and_its_ctl(certs: Path, tmp_path: Path) -> None:
    argv = [
        "--state",
        str(tmp_path),
        "--certs",
        str(certs),
        "--tls-port",
        "0",
        "--catch-all",
        "0",
    ]
    argv += ["--dns", "127.0.0.1:0", "--control", "127.0.0.1:0"]
    argv += [
        word
        for at, name in enumerate(PROVIDERS)
        for word in ("--provider", f"{name}=127.0.0.{21 + at}")
    ]
    with program("standins.internet", *argv) as ready:
        ctl = ("standins.ctl", "--control", ready["control"])
        assert run(*ctl, "wait", "5") == (0, {"ready": True})
        assert run(*ctl, "mode", "groq", "429=5")[1]["modes"]["groq"] == "429=5"
        assert run(*ctl, "mode")[1]["modes"] == {
            "nvidia_nim": "ok",
            "groq": "429=5",
            "openrouter": "ok",
            "deepseek": "ok",
        }
        code, answer = run(*ctl, "mode", "groq", "sulk")
        assert code == 1 and "unknown fault" in answer["error"]
        code, answer = run(*ctl, "selftest")
        assert code == 0 and answer["ok"]
        with socket.create_connection(
            ("127.0.0.1", _port(ready["catch_all"][0]))
        ) as sock:
            sock.sendall(MARKER.encode() + b"\n")
        for _ in range(50):
            code, found = run(*ctl, "find", MARKER)
            if found["count"]:
                break
        assert code == 0 and found["count"] == 1 and found["unreadable"] == 0
        assert run(*ctl, "stats")[1]["services"]["catch-all"]["connections"] >= 3
        assert run(*ctl, "dns")[1]["count"] >= 2
        assert run(*ctl, "reset")[1]["forgotten"] > 0
        assert run(*ctl, "find", MARKER)[1]["count"] == 0
    assert run(*ctl, "wait", "0.2")[0] == 1


def test_engine_and_its_ctl_without_a_place_to_write() -> None:
    names = [
        "--served-model-name",
        "nemotron",
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--max-num-seqs",
        "2",
    ]
    with program(
        "standins.engine",
        "/models/x",
        *names,
        STANDIN_CONTROL="127.0.0.1:0",
        STANDIN_FAULT="500",
    ) as ready:
        own = {"STANDIN_CONTROL": ready["control"]}
        assert ready["names"] == ["nemotron"]
        assert run("standins.engine", "ctl", "fault", **own)[1] == {"fault": "500"}
        assert run("standins.engine", "ctl", "slow-first-token=9", **own)[1] == {
            "fault": "slow-first-token=9"
        }
        assert run("standins.engine", "ctl", "ok", **own) == (0, {"fault": "ok"})
        with socket.create_connection(("127.0.0.1", _port(ready["listen"]))) as sock:
            sock.sendall(f"GET /{MARKER} HTTP/1.1\r\n\r\n".encode())
            assert sock.recv(4096).startswith(b"HTTP/1.1 404 Not Found")
        assert run("standins.engine", "ctl", "find", MARKER, **own)[1]["count"] == 1


def test_echo_and_its_ctl() -> None:
    with program(
        "standins.echo",
        "--tcp",
        "0",
        "--udp",
        "0",
        "--bind",
        "127.0.0.1",
        "--control",
        "127.0.0.1:0",
    ) as ready:
        assert run("standins.ctl", "selftest", STANDIN_CONTROL=ready["control"])[0] == 0


def test_a_program_that_cannot_bind_says_where(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "standins.echo",
            "--tcp",
            "0",
            "--bind",
            "127.0.0.1",
            "--control",
            "192.0.2.1:9",
        ],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1 and "not loopback" in done.stderr


def test_the_control_channel_knows_its_verbs() -> None:
    server = control.ControlServer("127.0.0.1:0", {"ready": lambda _: {"ready": True}})
    status, answer = control.call(server.address, "nonsense", {})
    server.close()
    assert status == 404 and "known: ready" in answer["error"]


@pytest.mark.parametrize("address", ["0.0.0.0:9099", "192.0.2.1:9099"])
def test_the_control_channel_is_loopback_only(address: str) -> None:
    with pytest.raises(ValueError, match="not loopback"):
        control.ControlServer(address, {})
