# SPDX-License-Identifier: MIT
from __future__ import annotations

import base64
import gzip
import http.client
import json
import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ADDRESSES, Net
from standins import dns, internet, make_ca
from standins.providers import PROVIDERS

MARKER = "MARK-personal-5d1e77a0b4"
ALL = sorted(PROVIDERS)


@pytest.mark.parametrize("provider", ALL)
def test_a_plain_answer_with_usage_that_never_repeats_the_prompt(
    net: Net, provider: str
) -> None:
    reply = net.chat(provider, MARKER)
    body = reply.json()
    assert (
        reply.status == 200
        and body["object"] == "chat.completion"
        and body["model"] == "m"
    )
    text = body["choices"][0]["message"]["content"]
    assert (
        text.startswith(f"[stand-in {provider}]") and MARKER.encode() not in reply.body
    )
    usage = body["usage"]
    assert (
        usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
        and usage["prompt_tokens"] > 4
    )
    assert (
        net.chat(provider, MARKER, temperature=2, seed=9).json()["choices"]
        == body["choices"]
    )
    assert net.chat(provider, "else").json()["choices"] != body["choices"]


@pytest.mark.parametrize("provider", ALL)
def test_a_streamed_answer_says_the_same_and_ends_well(net: Net, provider: str) -> None:
    whole = net.chat(provider, "hi").json()
    reply = net.chat(
        provider, "hi", stream=True, stream_options={"include_usage": True}
    )
    assert reply.headers["content-type"].startswith("text/event-stream")
    events = reply.events()
    assert (
        events[-1] == "[DONE]"
        and events[-2]["choices"] == []
        and events[-2]["usage"] == whole["usage"]
    )
    said = "".join(e["choices"][0]["delta"].get("content", "") for e in events[:-2])
    assert said == whole["choices"][0]["message"]["content"]
    assert events[-3]["choices"][0]["finish_reason"] == "stop"
    assert all(
        "usage" not in e for e in net.chat(provider, "hi", stream=True).events()[:-1]
    )


def test_max_tokens_cuts_and_says_so(net: Net) -> None:
    body = net.chat("groq", max_tokens=3).json()
    assert (
        body["choices"][0]["finish_reason"] == "length"
        and body["usage"]["completion_tokens"] == 3
    )


@pytest.mark.parametrize("provider", ALL)
def test_models_keys_and_routes(net: Net, provider: str) -> None:
    base = PROVIDERS[provider].bases[0]
    assert [
        m["id"] for m in net.ask(provider, "GET", f"{base}/models").json()["data"]
    ] == list(PROVIDERS[provider].models)
    assert (
        net.ask(provider, "GET", f"{base}/models", Authorization="Bearer wrong").status
        == 401
    )
    assert net.ask(provider, "GET", "/nowhere/models/x").status == 404
    assert (
        net.ask(provider, "POST", f"{base}/chat/completions", b"no json").status == 400
    )
    assert (
        net.ask(provider, "POST", f"{base}/chat/completions", {"model": "m"}).status
        == 400
    )


def test_one_connection_serves_many_requests_and_the_host_decides(net: Net) -> None:
    sock = net.tls(net.address("groq"), PROVIDERS["groq"].host)
    connection = http.client.HTTPConnection("x")
    connection.sock = sock
    for _ in range(3):
        connection.request(
            "GET",
            "/openai/v1/models",
            headers={"Host": "api.groq.com", "Authorization": "Bearer lab-groq-key"},
        )
        assert connection.getresponse().read().startswith(b'{"object": "list"')
    connection.request(
        "GET",
        "/v1/models",
        headers={
            "Host": "api.deepseek.com",
            "Authorization": "Bearer lab-deepseek-key",
        },
    )
    assert b"deepseek-chat" in connection.getresponse().read()
    connection.close()
    assert [
        r["answered"] for r in net.running.recorder.records() if r["kind"] == "request"
    ] == ["groq"] * 3 + ["deepseek"]


# -- faults -----------------------------------------------------------------------------------------------------------


def test_refuse_is_a_real_refusal_of_one_provider_and_heals(net: Net) -> None:
    with net.tls(net.address("groq"), "api.groq.com") as idle:
        # An answer to a later caller: the provider has finished the handshake of this one, too.
        assert net.chat("groq").status == 200
        net.running.set_mode("groq", "refuse")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(net.address("groq"), 2.0)
        # Below TLS: its layer calls a reset that it meets late an end. What TLS sent before the reset is read over.
        with socket.socket(fileno=os.dup(idle.fileno())) as raw:
            raw.settimeout(3.0)
            with pytest.raises(ConnectionResetError):  # noqa: PT012 - either call may be the one
                raw.sendall(b"x")
                while raw.recv(4096):
                    pass
                pytest.fail("an open connection must be reset, not closed in peace")
    assert net.chat("openrouter").status == 200
    net.running.set_mode("groq", "ok")
    assert net.chat("groq").status == 200


def test_reset_comes_before_tls(net: Net) -> None:
    net.running.set_mode("deepseek", "reset")
    with pytest.raises(OSError):  # noqa: PT011 - reset or broken pipe, whichever side is faster
        net.chat("deepseek")


def test_hang_takes_the_request_and_says_nothing_until_the_mode_changes(
    net: Net,
) -> None:
    net.running.set_mode("nvidia_nim", "hang")
    ended: list[float] = []

    def call() -> None:
        with pytest.raises(OSError):  # noqa: PT011 - a time-out or a reset
            net.chat("nvidia_nim", MARKER)
        ended.append(time.monotonic())

    thread = threading.Thread(target=call)
    thread.start()
    assert net.find(MARKER)["count"] == 1
    time.sleep(0.6)
    assert not ended
    net.running.set_mode("nvidia_nim", "ok")
    thread.join(5.0)
    assert ended


@pytest.mark.parametrize(("mode", "after"), [("429", "30"), ("429=7", "7")])
def test_429_with_retry_after(net: Net, mode: str, after: str) -> None:
    net.running.set_mode("all", mode)
    for provider in ALL:
        reply = net.chat(provider, stream=True)
        assert (reply.status, reply.headers["retry-after"]) == (429, after)
        assert reply.json()


@pytest.mark.parametrize("provider", ALL)
def test_500_in_the_providers_shape(net: Net, provider: str) -> None:
    net.running.set_mode(provider, "500")
    reply = net.chat(provider)
    assert reply.status == 500
    assert ("error" in reply.json()) != (provider == "nvidia_nim")


def test_cut_ends_a_stream_after_n_pieces_and_a_plain_answer_in_the_middle(
    net: Net,
) -> None:
    net.running.set_mode("openrouter", "cut=2")
    with pytest.raises(http.client.IncompleteRead) as stream:
        net.chat("openrouter", stream=True)
    assert (
        stream.value.partial.count(b'"content": "') == 3
    )  # the empty one that opens, and two
    assert (
        b"[DONE]" not in stream.value.partial and b'"stop"' not in stream.value.partial
    )
    with pytest.raises(http.client.IncompleteRead):
        net.chat("openrouter")


def test_slow_keeps_the_first_byte_back(net: Net) -> None:
    net.running.set_mode("groq", "slow=0.4")
    began = time.monotonic()
    assert net.chat("groq").status == 200
    assert time.monotonic() - began >= 0.4


@pytest.mark.parametrize(
    ("provider", "mode", "words"),
    [
        ("groq", "sulk", "unknown fault"),
        ("nobody", "ok", "unknown provider"),
        ("groq", "500=1", "no number"),
        ("groq", "429=x", "not a number"),
    ],
)
def test_a_wrong_mode_is_refused_with_what_is_known(
    net: Net, provider: str, mode: str, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        net.running.set_mode(provider, mode)


# -- the recorder -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", sorted(internet.ENCODINGS))
def test_find_sees_each_encoding_in_a_body(net: Net, encoding: str) -> None:
    net.ask("groq", "POST", "/elsewhere", internet.ENCODINGS[encoding](MARKER))
    found = net.find(MARKER)
    assert found["count"] == 1 and found["hits"][0]["where"] == "body"
    assert (
        found["hits"][0]["service"] == "provider groq"
        and found["hits"][0]["host"] == "api.groq.com"
    )
    assert net.find("MARK-personal-0000000000", wait=False)["count"] == 0


def test_find_sees_headers_targets_chunks_and_codings(net: Net) -> None:
    encoded = base64.b64encode(f"user:{MARKER}".encode()).decode()
    net.ask("groq", "GET", "/x", Authorization=f"Basic {encoded}")
    net.ask("groq", "GET", f"/x?note={''.join(f'%{b:02X}' for b in MARKER.encode())}")
    net.ask(
        "groq", "POST", "/x", gzip.compress(MARKER.encode()), Content_Encoding="gzip"
    )
    sock = net.tls(net.address("groq"), "api.groq.com")
    sock.sendall(
        b"POST /x HTTP/1.1\r\nHost: api.groq.com\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    for byte in MARKER.encode():
        sock.sendall(b"1\r\n%c\r\n" % byte)
    sock.sendall(b"0\r\n\r\n")
    assert b" 401 " in sock.recv(4096)
    sock.close()
    found = net.find(MARKER)
    assert [hit["where"] for hit in found["hits"]] == [
        "header",
        "request-line",
        "body",
        "body",
    ]
    assert found["unreadable"] == 0


def test_a_body_that_never_ends_is_still_in_the_stream(net: Net) -> None:
    sock = net.tls(net.address("groq"), "api.groq.com")
    sock.sendall(f"POST /x HTTP/1.1\r\nContent-Length: 9999\r\n\r\n{MARKER}".encode())
    sock.close()
    assert net.find(MARKER)["hits"][0]["where"] == "stream"


def test_the_catch_all_reads_tcp_tls_http_and_udp(net: Net) -> None:
    where = (net.running.catch_tcp[0].host, net.running.catch_tcp[0].port)
    with socket.create_connection(where) as sock:
        sock.sendall(f"HELO {MARKER}\r\n".encode())
    with net.tls(where, "unknown-host.example.net") as tls:
        tls.sendall(
            f"PUT / HTTP/1.1\r\nHost: unknown-host.example.net\r\nContent-Length: 23\r\n\r\n{MARKER}"[
                :500
            ].encode()
        )
        time.sleep(0.05)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.sendto(MARKER.encode(), (where[0], net.running.catch_udp[0].port))
    deadline = time.monotonic() + 5
    while net.find(MARKER)["count"] < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    found = net.find(MARKER)
    assert sorted(hit["where"] for hit in found["hits"]) == [
        "datagram",
        "stream",
        "stream",
    ]
    assert (
        all(hit["service"] == "catch-all" for hit in found["hits"])
        and found["unreadable"] == 0
    )


def test_a_client_that_does_not_trust_the_lab_is_counted_as_unreadable_and_its_sni_is_found(
    net: Net,
) -> None:
    where = (net.running.catch_tcp[0].host, net.running.catch_tcp[0].port)
    with pytest.raises(ssl.SSLError):
        ssl.create_default_context().wrap_socket(
            socket.create_connection(where), server_hostname=f"{MARKER}.example"
        )
    found = net.find(MARKER)
    assert found["count"] == 1 and found["hits"][0]["where"] == "sni"
    deadline = time.monotonic() + 5
    while not net.find(MARKER)["unreadable"] and time.monotonic() < deadline:
        time.sleep(0.02)
    assert net.find(MARKER)["unreadable"] == 1


def test_a_contact_that_says_nothing_is_recorded(net: Net) -> None:
    socket.create_connection(
        (net.running.catch_tcp[0].host, net.running.catch_tcp[0].port)
    ).close()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and not any(
        r["kind"] == "accept" for r in net.running.recorder.records()
    ):
        time.sleep(0.02)
    assert net.running.verbs()["stats"]({})["services"]["catch-all"]["connections"] == 1


# -- DNS --------------------------------------------------------------------------------------------------------------


def _query(name: str, kind: int) -> bytes:
    return dns.query(4711, name, kind)


def _udp(net: Net, message: bytes) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5.0)
        sock.sendto(message, ("127.0.0.1", net.running.dns_udp[0].port))
        return sock.recv(4096)


def _tcp(net: Net, message: bytes) -> bytes:
    with socket.create_connection(
        ("127.0.0.1", net.running.dns_tcp[0].port), 5.0
    ) as sock:
        sock.sendall(struct.pack("!H", len(message)) + message)
        return sock.recv(4096)[2:]


@pytest.mark.parametrize("ask", [_udp, _tcp])
@pytest.mark.parametrize(
    ("name", "kind", "rcode", "end"),
    [
        ("api.groq.com", 1, 0, socket.inet_aton(ADDRESSES["groq"][0])),
        ("API.Groq.COM", 1, 0, socket.inet_aton(ADDRESSES["groq"][0])),
        ("known.example", 28, 0, socket.inet_pton(socket.AF_INET6, "2001:db8::7")),
        ("four.example", 28, 0, None),
        ("unknown.example", 1, 3, None),
    ],
)
def test_dns_answers_and_writes_down_the_question(
    net: Net,
    ask: Callable[[Net, bytes], bytes],
    name: str,
    kind: int,
    rcode: int,
    end: bytes | None,
) -> None:
    reply = ask(net, _query(name, kind))
    identity, flags, _, answers = struct.unpack_from("!HHHH", reply)
    assert (
        identity == 4711
        and flags & 0x8000
        and flags & 0xF == rcode
        and answers == (end is not None)
    )
    assert end is None or reply.endswith(end)
    asked = net.running.verbs()["dns"]({})
    assert asked["count"] == 1 and asked["questions"][0]["name"] == name


def test_dns_finds_markers_in_labels_and_in_what_follows_the_question(net: Net) -> None:
    _udp(net, _query(f"{MARKER}.example", 16))
    _udp(net, _query("a.example", 1) + b"\0" * 11 + MARKER.encode())
    _tcp(
        net,
        _query(
            base64.b32encode(MARKER.encode()).decode().rstrip("=").lower() + ".example",
            1,
        ),
    )
    assert [hit["where"] for hit in net.find(MARKER)["hits"]] == [
        "dns",
        "datagram",
        "dns",
    ]


def test_dns_malformed_gets_formerr_and_is_kept(net: Net) -> None:
    assert _udp(net, b"\x12\x34" + MARKER.encode())[3] & 0xF == 1
    assert net.find(MARKER)["hits"][0]["where"] == "datagram"


def test_dns_default_can_be_an_address() -> None:
    zone = dns.Zone({}, ["192.0.2.1"])
    _, words, reply = zone.respond(_query("anything.example", 1))
    assert (
        words == "192.0.2.1"
        and reply is not None
        and reply.endswith(socket.inet_aton("192.0.2.1"))
    )


# -- the whole --------------------------------------------------------------------------------------------------------


def test_the_self_test_is_green_and_turns_red_with_a_dead_listener(net: Net) -> None:
    net.running.set_mode("groq", "refuse")
    net.running.set_mode("deepseek", "reset")
    result = net.running.selftest()
    assert result["ok"], [c for c in result["checks"] if not c["ok"]]
    assert len(result["checks"]) > 20
    net.running.catch_udp[0].shut()
    result = net.running.selftest()
    assert not result["ok"] and [
        c["check"] for c in result["checks"] if not c["ok"]
    ] == ["catch-all udp 127.0.0.1"]


def test_the_ca_is_made_once_and_extended_when_asked(tmp_path: Path) -> None:
    folder = tmp_path / "ca"
    assert set(make_ca.ensure(folder, ["a.example"])) == {
        "ca.key",
        "ca.pem",
        "server.key",
        "server.pem",
        "server.names",
    }
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert make_ca.ensure(folder, ["a.example"]) == []
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert all(
        (folder / key).stat().st_mode & 0o777 == 0o600
        for key in ("ca.key", "server.key")
    )
    assert make_ca.ensure(folder, ["a.example", "b.example"]) == [
        "server.pem",
        "server.names",
    ]
    assert (folder / "ca.pem").read_bytes() == before["ca.pem"]
    with pytest.raises(ValueError, match="host name"):
        make_ca.ensure(folder, ["a.example,DNS:evil.example"])


def test_rules_leave_the_providers_port_alone_and_take_everything_else() -> None:
    argv = ["--provider", "groq=198.51.100.12,2001:db8::12", "--print-rules"]
    options, form = internet.parse_options([*argv, "nft"])
    assert form == "nft"
    nft = internet.redirect_rules(options, "nft")
    assert (
        "ip daddr { 198.51.100.12 } tcp dport 443 accept" in nft
        and "ip6 daddr { 2001:db8::12 }" in nft
    )
    assert (
        nft.index("accept;")
        < nft.index("th dport 53 redirect to :53")
        < nft.index("redirect to :9999")
    )
    shell = internet.redirect_rules(options, "iptables")
    assert (
        "iptables -w -t nat -A STANDINS -d 198.51.100.12 -p tcp --dport 443 -j ACCEPT"
        in shell
    )
    assert shell.count("REDIRECT --to-ports 9999") == 4


@pytest.mark.parametrize(
    "argv",
    [
        ["--provider", "nobody=192.0.2.1"],
        ["--provider", "groq=here"],
        ["--provider", "groq=192.0.2.1", "--provider", "deepseek=192.0.2.1"],
        ["--dns", "192.0.2.1"],
    ],
)
def test_bad_options_are_refused(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        internet.parse_options(argv)
    assert stop.value.code == 2


def test_the_records_file_holds_bytes_and_text(net: Net) -> None:
    net.chat("groq", MARKER)
    net.find(MARKER)
    lines = [
        json.loads(line)
        for line in (net.running.options.state / "records.jsonl")
        .read_text()
        .splitlines()
    ]
    data = next(line for line in lines if line["kind"] == "data")
    assert base64.b64decode(data["raw"]).decode() == data[
        "text"
    ] and MARKER in json.dumps(lines)
