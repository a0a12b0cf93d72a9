# SPDX-License-Identifier: MIT
from __future__ import annotations

import errno
import json
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Net
from standins import echo, probe


@pytest.fixture
def host() -> Iterator[echo.Echo]:
    made = echo.Echo(["127.0.0.1"], [0], [0])
    made.open()
    yield made
    made.shut()


def _closed_port(kind: int) -> int:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _one(**target: Any) -> probe.Result:
    (result,) = probe.probe(
        probe.read_targets(
            json.dumps([{"address": "127.0.0.1", "timeout": 0.5, **target}])
        )
    )
    return result


def test_tcp_open_and_refused(host: echo.Echo) -> None:
    assert _one(port=host.tcp[0].port, payload="hello").outcome == "open"
    result = _one(port=_closed_port(socket.SOCK_STREAM))
    assert (result.outcome, result.errno) == (
        "refused",
        "ECONNREFUSED",
    ) and result.ms < 400


def test_tcp_timeout() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(
            0
        )  # one connection may wait; the packets of the next ones are dropped
        fillers = [socket.socket() for _ in range(4)]
        for sock in fillers:
            sock.setblocking(False)
            sock.connect_ex(server.getsockname())
        result = _one(port=server.getsockname()[1])
        for sock in fillers:
            sock.close()
    assert result.outcome == "timeout" and 450 < result.ms < 3000


def test_tcp_unreachable_at_once() -> None:
    """The kernel itself refuses TCP to a broadcast address; no packet leaves."""
    result = _one(address="255.255.255.255", port=80)
    assert (result.outcome, result.errno) == (
        "unreachable",
        "ENETUNREACH",
    ) and result.ms < 400


def test_udp_open_refused_silent_and_prohibited(host: echo.Echo) -> None:
    assert _one(proto="udp", port=host.udp[0].port).outcome == "open"
    assert _one(proto="udp", port=_closed_port(socket.SOCK_DGRAM)).outcome == "refused"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        assert _one(proto="udp", port=silent.getsockname()[1]).outcome == "timeout"
    assert _one(proto="udp", address="255.255.255.255", port=9).outcome == "prohibited"


def test_dns_outcomes(net: Net) -> None:
    port = net.running.dns_udp[0].port
    outcomes = [
        _one(proto="dns", port=port, query="api.groq.com").outcome,
        _one(proto="dns", port=port, query="unknown.example").outcome,
        _one(proto="dns", port=port, query="four.example", qtype="AAAA").outcome,
        _one(proto="dns", port=_closed_port(socket.SOCK_DGRAM)).outcome,
        _one(proto="dns", address="", query="localhost").outcome,
    ]
    assert outcomes == ["resolved", "nxdomain", "nodata", "refused", "resolved"]
    assert (
        probe.dns_outcome(struct.pack("!HHHHHH", 1, 0x8002, 0, 0, 0, 0))[0]
        == "servfail"
    )


def test_icmp_runs_or_says_why_not() -> None:
    assert _one(proto="icmp").outcome in ("open", "prohibited")


@pytest.mark.parametrize(
    ("number", "outcome"),
    [
        (errno.ECONNREFUSED, "refused"),
        (errno.EHOSTUNREACH, "unreachable"),
        (errno.EPERM, "prohibited"),
        (errno.EACCES, "prohibited"),
        (errno.EAFNOSUPPORT, "no-family"),
        (errno.ECONNRESET, "reset"),
        (errno.EIO, "error"),
    ],
)
def test_errno_to_outcome(number: int, outcome: str) -> None:
    assert probe.outcome_of(OSError(number, "x")) == (outcome, errno.errorcode[number])
    assert probe.outcome_of(TimeoutError("timed out")) == ("timeout", None)


def test_a_scan_keeps_the_order_and_reports_only_the_unexpected(
    host: echo.Echo,
) -> None:
    open_port = host.tcp[0].port
    ports = sorted(
        {open_port, *(_closed_port(socket.SOCK_STREAM) for _ in range(20))}
        | set(range(2, 900))
    )
    target = {
        "name": "scan",
        "address": "127.0.0.1",
        "ports": ports,
        "expect": ["refused", "timeout"],
        "report": "unexpected",
    }
    results = probe.probe(probe.read_targets(json.dumps([target])))
    assert [r.target.port for r in results] == ports
    said = probe.report(results)
    assert not said["ok"] and f"scan:{open_port}" in [
        r["name"] for r in said["results"]
    ]
    assert (
        sum(said["summary"].values()) == len(ports) and said["summary"]["refused"] > 800
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "no JSON list"),
        ('[{"proto": "sctp", "address": "127.0.0.1"}]', "none of tcp"),
        ('[{"proto": "tcp", "port": 1}]', "no address"),
        ('[{"address": "127.0.0.1", "port": 0}]', "1…65535"),
        ('[{"address": "127.0.0.1", "port": 1, "adress": 2}]', "unknown adress"),
        ('[{"address": "127.0.0.1", "ports": "1-x"}]', "ports"),
        ('[{"proto": "dns", "qtype": "MX"}]', "qtype"),
    ],
)
def test_bad_targets_are_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        probe.read_targets(text)


def test_ports_forms() -> None:
    (first, *_, last) = probe.read_targets(
        '[{"address": "127.0.0.1", "ports": "20-22, 80"}]'
    )
    assert (first.port, last.port, last.name) == (20, 80, "tcp 127.0.0.1:80")


@pytest.mark.parametrize("way", ["argument", "environment", "stdin", "file"])
def test_the_single_file_runs_anywhere(way: str, tmp_path: Path) -> None:
    source = Path(probe.__file__)
    port = _closed_port(socket.SOCK_STREAM)
    targets = json.dumps(
        [{"name": "door", "address": "127.0.0.1", "port": port, "expect": "refused"}]
    )
    (tmp_path / "targets.json").write_text(targets)
    command, env, given = {
        "argument": (["-", targets], {}, source.read_text()),
        "file": (["-", f"@{tmp_path / 'targets.json'}"], {}, source.read_text()),
        "environment": (["-"], {"PROBE_TARGETS": targets}, source.read_text()),
        "stdin": ([str(source)], {}, targets),
    }[way]
    done = subprocess.run(
        [sys.executable, "-I", *command],
        env=env,
        input=given,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    said = json.loads(done.stdout)
    assert (
        done.returncode == 0
        and said["ok"]
        and said["results"][0]["outcome"] == "refused"
    )


def test_bad_input_exits_with_two(capsys: pytest.CaptureFixture[str]) -> None:
    assert probe.main(["not json"]) == 2
    assert "error" in json.loads(capsys.readouterr().out)
