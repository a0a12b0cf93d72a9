# SPDX-License-Identifier: MIT
"""Programs in a network namespace of their own, where interfaces, addresses and filters are ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import pytest

InNamespace = Callable[..., Any]

#: Before every program: loopback is up, the collection can be imported, and ``sh`` runs one line.
HEAD = """
import asyncio, json, os, socket, subprocess, sys, threading, time
sys.path.insert(0, os.environ["COLLECTIONS"])
def sh(line): return subprocess.run(line, shell=True, check=True, capture_output=True, text=True).stdout
sh("ip link set lo up")
def state():
    return sh("ip -o link | cut -d: -f2; ip -4 -o addr; ip -6 -o addr show scope global; ip -4 route show table all")
def listen(address, port, kind=socket.SOCK_STREAM):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6: sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind((address, port))
    def echo():
        while True: sock.sendto(*sock.recvfrom(4096))
    if kind == socket.SOCK_STREAM: sock.listen(256)
    else: threading.Thread(target=echo, daemon=True).start()
    return sock
from ansible_collections.mushishi.sovereign.plugins.module_utils.doors import scan, stage, table, udp
"""


@pytest.fixture
def in_namespace(collections_root: Any) -> InNamespace:
    """Runs a program in a new network namespace; what it prints as its last line, from JSON."""

    def run(program: str, timeout: float = 90, **given: Any) -> Any:
        text = HEAD + f"given = json.loads({json.dumps(json.dumps(given))})\n" + textwrap.dedent(program)
        done = subprocess.run(
            ["unshare", "--map-root-user", "--net", sys.executable, "-c", text],
            env={**os.environ, "COLLECTIONS": str(collections_root)},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run
