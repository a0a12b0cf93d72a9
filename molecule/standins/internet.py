# SPDX-License-Identifier: MIT
"""The stand-in for the internet: cloud providers, a recording DNS, and a recorder for everything else."""

from __future__ import annotations

import argparse
import base64
import contextlib
import gzip
import ipaddress
import json
import secrets
import socket
import ssl
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from . import dns, http1, make_ca, records
from .chat import send_answer
from .control import Arguments, ControlServer, record_verbs
from .net import (
    Connection,
    Listener,
    TcpListener,
    UdpListener,
    family_of,
    join_address,
    log,
    loopback_of,
    run_until_signal,
    sni_of,
    split_address,
)
from .openai_wire import Answer, Fault, wants_usage
from .providers import FAULTS, PROVIDERS, Provider
from .records import Recorder

DEFAULT_DNS = (("0.0.0.0", 53), ("::", 53))
HANG_STEP = 0.2
"""Seconds between two looks at the mode while a request hangs."""


@dataclass(frozen=True)
class Options:
    """What the program is told on its command line."""

    state: Path
    certs: Path
    addresses: dict[str, list[str]]
    """Provider name → its addresses."""
    keys: dict[str, str]
    tls_port: int = 443
    dns_listen: tuple[tuple[str, int], ...] = DEFAULT_DNS
    dns_default: list[str] | None = None
    dns_names: dict[str, list[str]] = field(default_factory=dict)
    catch_all: int = 9999
    catch_all_bind: tuple[str, ...] = ("0.0.0.0", "::")
    control: str = "127.0.0.1:9099"


class TlsStore:
    """TLS contexts by server name; an unknown name gets a certificate of its own when the CA key is here."""

    def __init__(self, certs: Path, minted: Path) -> None:
        self._certs, self._minted = certs, minted
        self._lock = threading.Lock()
        self._covered = set((certs / "server.names").read_text().split())
        self._default = self._context(certs / "server.pem")
        self._made: dict[str, ssl.SSLContext] = {}

    def _context(self, chain: Path) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(chain, self._certs / "server.key")
        return context

    def context_for(self, name: str | None) -> ssl.SSLContext:
        """The context for a server name; the default one where nothing better can be made."""
        if name is None or name in self._covered:
            return self._default
        with self._lock:
            if name not in self._made:
                self._made[name] = self._make(name)
            return self._made[name]

    def _make(self, name: str) -> ssl.SSLContext:
        out = self._minted / f"{len(self._made)}.pem"
        try:
            self._minted.mkdir(parents=True, exist_ok=True)
            make_ca.mint(self._certs, [name], out)
            return self._context(out)
        except (make_ca.OpensslError, OSError, ValueError) as error:
            log(f"no certificate for {name!r}: {error}")
            return self._default


class Internet:
    """All listeners and the modes of the providers."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.recorder = Recorder(options.state / "records.jsonl")
        self.modes = {name: Fault() for name in options.addresses}
        self._tls = TlsStore(options.certs, options.state / "minted")
        names = {
            PROVIDERS[name].host: found for name, found in options.addresses.items()
        }
        self._zone = dns.Zone({**names, **options.dns_names}, options.dns_default)
        self.providers = {
            name: [
                TcpListener(
                    host,
                    options.tls_port,
                    self.recorder,
                    f"provider {name}",
                    self._provider_handler(name),
                )
                for host in hosts
            ]
            for name, hosts in options.addresses.items()
        }
        self.dns_tcp = [
            TcpListener(h, p, self.recorder, "dns", self._dns_tcp)
            for h, p in options.dns_listen
        ]
        self.dns_udp: list[UdpListener] = []
        self.catch_tcp = [
            TcpListener(
                host, options.catch_all, self.recorder, "catch-all", self._catch_all
            )
            for host in options.catch_all_bind
        ]
        self.catch_udp: list[UdpListener] = []

    # -- life ---------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Bind everything. Raises OSError naming the address."""
        for listener in self._all_tcp():
            with _named(listener.host, listener.port):
                listener.open()
        self.dns_udp = [
            UdpListener(tcp.host, tcp.port, self._dns_udp) for tcp in self.dns_tcp
        ]
        self.catch_udp = [
            UdpListener(tcp.host, tcp.port, self._datagram) for tcp in self.catch_tcp
        ]
        for udp in (*self.dns_udp, *self.catch_udp):
            with _named(udp.host, udp.port):
                udp.open()

    def shut(self) -> None:
        """Close everything."""
        everything: list[Listener] = [*self._all_tcp(), *self.dns_udp, *self.catch_udp]
        for listener in everything:
            listener.shut()

    def _all_tcp(self) -> list[TcpListener]:
        providers = [one for listeners in self.providers.values() for one in listeners]
        return [*providers, *self.dns_tcp, *self.catch_tcp]

    def describe(self) -> dict[str, Any]:
        """Where it listens."""
        return {
            "providers": {
                n: [join_address(x.host, x.port) for x in found]
                for n, found in self.providers.items()
            },
            "dns": [join_address(x.host, x.port) for x in self.dns_tcp],
            "catch_all": [join_address(x.host, x.port) for x in self.catch_tcp],
            "ca": str(self.options.certs / "ca.pem"),
        }

    # -- providers ----------------------------------------------------------------------------------------------------

    def set_mode(self, name: str, fault: str) -> dict[str, Any]:
        """Tell one provider, or ``all``, how to behave. Raises ValueError."""
        parsed = Fault.parse(fault, FAULTS)
        if name != "all" and name not in self.modes:
            raise ValueError(
                f"unknown provider {name!r}; known: {', '.join(self.modes)}, all"
            )
        for one in self.modes if name == "all" else [name]:
            self.modes[one] = parsed
            for listener in self.providers[one]:
                if parsed.kind == "refuse":
                    listener.shut()
                else:
                    listener.open()
        return self.show_modes()

    def show_modes(self) -> dict[str, Any]:
        """The modes of all providers."""
        return {"modes": {name: str(fault) for name, fault in self.modes.items()}}

    def _provider_handler(self, name: str) -> Callable[[Connection], None]:
        def handle(connection: Connection) -> None:
            if self.modes[name].kind == "reset":
                connection.reset()
                return
            hello = connection.client_hello()
            if not hello:
                self._plain(connection, name)
            elif connection.start_tls(hello, self._tls.context_for(sni_of(hello))):
                self._http(connection, name)

        return handle

    def _plain(self, connection: Connection, called: str | None) -> None:
        """Clear text: record it, and answer when it is HTTP."""
        self._http(connection, called)

    def _http(self, connection: Connection, called: str | None) -> None:
        """Serve requests until the client has enough; what is no HTTP is read to its end."""
        reader = http1.RequestReader(connection.recv, connection.send)
        while True:
            try:
                request = reader.next()
            except http1.NotHttp:
                while connection.recv():
                    pass
                return
            if request is None:
                return
            provider = self._who(request, connection, called)
            http1.record_request(
                connection, request, provider.name if provider else "nobody"
            )
            if provider is None:
                answered = connection.send(
                    http1.response(
                        404,
                        b'{"error": "stand-in: recorded"}',
                        with_body=request.method != "HEAD",
                    )
                )
            else:
                answered = self._serve(connection, provider, request)
            if not answered or request.header("connection").lower() == "close":
                return

    def _who(
        self, request: http1.Request, connection: Connection, called: str | None
    ) -> Provider | None:
        host = request.header("host").rsplit(":", 1)[0].lower()
        for wanted in (host, (connection.sni or "").lower()):
            for name in self.modes:
                if PROVIDERS[name].host == wanted:
                    return PROVIDERS[name]
        return PROVIDERS[called] if called is not None else None

    def _serve(
        self, connection: Connection, provider: Provider, request: http1.Request
    ) -> bool:
        """Answer one request as the provider would, or as its mode says; False to hang up."""
        fault = self.modes[provider.name]

        def fail(status: int, message: str, extra: http1.Headers = ()) -> bool:
            return connection.send(
                http1.json_response(status, provider.error(status, message), extra)
            )

        if fault.kind == "hang":
            while self.modes[provider.name] is fault and not connection.client_gone(
                HANG_STEP
            ):
                pass
            connection.reset()
            return False
        if fault.kind == "429":
            return fail(
                429,
                "Rate limit reached. Try again later.",
                (("retry-after", f"{fault.value:g}"),),
            )
        if fault.kind == "500":
            return fail(500, "Internal Server Error")
        if (
            request.header("authorization")
            != f"Bearer {self.options.keys[provider.name]}"
        ):
            return fail(401, "Invalid API key")
        route = provider.route(request.path)
        if route == "models" and request.method == "GET":
            fixed = {"object": "model", "created": 0, "owned_by": provider.name}
            cards = [{"id": model, **fixed} for model in provider.models]
            return connection.send(
                http1.json_response(200, {"object": "list", "data": cards})
            )
        if route != "chat/completions" or request.method != "POST":
            return fail(404, f"No route {request.method} {request.path}")
        try:
            body = request.json()
            model = str(body.get("model") or provider.models[0])
            answer = Answer.to(body, provider.name, model, extra=provider.extra)
        except ValueError as error:
            return fail(400, f"Bad request: {error}")
        return send_answer(
            connection,
            answer,
            bool(body.get("stream")),
            wants_usage(body),
            first=fault.value if fault.kind == "slow" else 0.0,
            cut_after=int(fault.value) if fault.kind == "cut" else None,
            greeting=provider.greeting,
        )

    # -- everything else ----------------------------------------------------------------------------------------------

    def _catch_all(self, connection: Connection) -> None:
        hello = connection.client_hello()
        if not hello:
            self._plain(connection, None)
        elif connection.start_tls(hello, self._tls.context_for(sni_of(hello))):
            self._http(connection, None)

    def _datagram(self, data: bytes, src: str, dst: str) -> bytes | None:
        self.recorder.add("datagram", service="catch-all", src=src, dst=dst, raw=data)
        return None

    def _dns_udp(self, data: bytes, src: str, dst: str) -> bytes | None:
        return self._ask(data, src, dst)

    def _ask(
        self, data: bytes, src: str, dst: str, conn: int | None = None
    ) -> bytes | None:
        question, words, reply = self._zone.respond(data)
        if question is None:
            self.recorder.add("datagram", service="dns", src=src, dst=dst, raw=data)
            return reply
        self.recorder.add(
            "question",
            **({} if conn is None else {"conn": conn}),
            service="dns",
            src=src,
            dst=dst,
            transport="udp" if conn is None else "tcp",
            name=question.name,
            type=question.type_name,
            answer=words,
        )
        # What stands behind the question (EDNS options, padding) could carry bytes out as well.
        rest = data[12 + len(question.wire) :]
        if len(rest) > 11:  # more than an empty OPT record (RFC 6891 §6.1.2)
            self.recorder.add("datagram", service="dns", src=src, dst=dst, raw=rest)
        return reply

    def _dns_tcp(self, connection: Connection) -> None:
        buffer = b""
        while True:
            data = connection.recv()
            if not data:
                return
            buffer += data
            while len(buffer) >= 2 and len(buffer) >= 2 + int.from_bytes(
                buffer[:2], "big"
            ):
                size = 2 + int.from_bytes(buffer[:2], "big")
                reply = self._ask(
                    buffer[2:size], connection.src, connection.local, connection.number
                )
                buffer = buffer[size:]
                if reply is not None and not connection.send(
                    len(reply).to_bytes(2, "big") + reply
                ):
                    return

    # -- control ------------------------------------------------------------------------------------------------------

    def verbs(self) -> dict[str, Callable[[Arguments], dict[str, Any]]]:
        """What the control channel offers."""

        def mode(arguments: Arguments) -> dict[str, Any]:
            if "provider" not in arguments:
                return self.show_modes()
            return self.set_mode(str(arguments["provider"]), str(arguments["fault"]))

        def questions(_: Arguments) -> dict[str, Any]:
            asked = [
                {key: record[key] for key in ("ts", "name", "type", "src", "answer")}
                for record in self.recorder.records()
                if record["kind"] == "question"
            ]
            return {"count": len(asked), "questions": asked}

        return {
            **record_verbs(self.recorder),
            "mode": mode,
            "dns": questions,
            "describe": lambda _: self.describe(),
            "selftest": lambda _: self.selftest(),
        }

    # -- self-test ----------------------------------------------------------------------------------------------------

    def selftest(self) -> dict[str, Any]:
        """Send fresh markers to every listener and look for them in the records."""
        checks: list[dict[str, Any]] = []
        sent: list[tuple[str, str]] = []

        def knock(name: str, send: Callable[[str], None]) -> None:
            marker = f"SELFTEST-{secrets.token_hex(10)}"
            try:
                send(marker)
            except (OSError, ValueError) as error:
                checks.append(
                    {
                        "check": name,
                        "ok": False,
                        "detail": f"{type(error).__name__}: {error}",
                    }
                )
            else:
                sent.append((name, marker))

        for provider, listeners in self.providers.items():
            for listener in listeners:
                target = f"{provider} {join_address(listener.host, listener.port)}"
                if self.modes[provider].kind in ("refuse", "reset"):
                    checks.append(
                        _turned_away(target, self.modes[provider].kind, listener)
                    )
                    continue
                for encoding, wrap in ENCODINGS.items():
                    knock(
                        f"{target}: {encoding} in a body",
                        self._body_knock(listener, PROVIDERS[provider].host, wrap),
                    )
                knock(
                    f"{target}: header",
                    self._head_knock(listener, PROVIDERS[provider].host),
                )
        for listener in self.catch_tcp:
            host, port = loopback_of(listener.host), listener.port
            knock(f"catch-all tcp {host}", partial(_tcp_knock, host, port))
            knock(f"catch-all udp {host}", partial(_udp_knock, host, port))
            knock(f"catch-all tls {host}", partial(self._tls_knock, host, port))
        for listener in self.dns_tcp:
            host, port = loopback_of(listener.host), listener.port
            knock(f"dns udp {host}", partial(_dns_udp_knock, host, port))
            knock(f"dns tcp {host}", partial(_dns_tcp_knock, host, port))
        for name, marker in sent:
            checks.append(self._seen(name, marker))
        return {
            "ok": bool(checks) and all(check["ok"] for check in checks),
            "checks": checks,
        }

    def _seen(self, name: str, marker: str) -> dict[str, Any]:
        deadline = time.monotonic() + 5.0
        while True:
            found = records.find(self.recorder.records()[-400:], marker)
            if found["count"] or time.monotonic() > deadline:
                where = [f"{hit['where']} ({hit['encoding']})" for hit in found["hits"]]
                return {
                    "check": name,
                    "ok": bool(found["count"]),
                    "detail": ", ".join(where) or "not recorded",
                }
            time.sleep(0.05)

    def _connect_tls(self, host: str, port: int, name: str) -> ssl.SSLSocket:
        context = ssl.create_default_context(cafile=str(self.options.certs / "ca.pem"))
        return context.wrap_socket(
            socket.create_connection((host, port), 5.0), server_hostname=name
        )

    def _body_knock(
        self, listener: TcpListener, name: str, wrap: Callable[[str], bytes]
    ) -> Callable[[str], None]:
        def send(marker: str) -> None:
            body = wrap(marker)
            head = f"POST /selftest HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n"
            head += f"Content-Length: {len(body)}\r\n\r\n"
            with self._connect_tls(listener.host, listener.port, name) as sock:
                sock.sendall(head.encode() + body)

        return send

    def _head_knock(self, listener: TcpListener, name: str) -> Callable[[str], None]:
        def send(marker: str) -> None:
            head = f"GET /selftest HTTP/1.1\r\nHost: {name}\r\nX-Note: {marker}\r\nConnection: close\r\n\r\n"
            with self._connect_tls(listener.host, listener.port, name) as sock:
                sock.sendall(head.encode())

        return send

    def _tls_knock(self, host: str, port: int, marker: str) -> None:
        with self._connect_tls(host, port, next(iter(PROVIDERS.values())).host) as sock:
            sock.sendall(f"{marker}\n".encode())


ENCODINGS: dict[str, Callable[[str], bytes]] = {
    "plain": lambda m: m.encode(),
    "base64": lambda m: b"x" + base64.b64encode(f"..{m}..".encode()),
    "base32": lambda m: base64.b32encode(m.encode()),
    "hex": lambda m: m.encode().hex().encode(),
    "percent": lambda m: "".join(f"%{b:02x}" for b in m.encode()).encode(),
    "json": lambda m: ('"' + "".join(f"\\u{ord(c):04x}" for c in m) + '"').encode(),
    "html": lambda m: "".join(f"&#{ord(c)};" for c in m).encode(),
    "utf-16": lambda m: m.encode("utf-16-le"),
    "gzip": lambda m: gzip.compress(m.encode()),
    "base64 in percent": lambda m: urllib.parse.quote(
        base64.b64encode(m.encode()), safe=""
    ).encode(),
}
"""Ways in which the self-test wraps a marker."""


def _turned_away(target: str, kind: str, listener: TcpListener) -> dict[str, Any]:
    """A provider that is told to refuse must refuse, one that is told to reset must reset."""
    try:
        with socket.create_connection((listener.host, listener.port), 5.0) as sock:
            sock.sendall(b"x")
            sock.recv(1)
        detail = "the connection was taken"
    except ConnectionRefusedError:
        return {
            "check": f"{target}: refuses as told",
            "ok": kind == "refuse",
            "detail": "refused",
        }
    except ConnectionError as error:
        return {
            "check": f"{target}: resets as told",
            "ok": kind == "reset",
            "detail": str(error),
        }
    except OSError as error:
        detail = str(error)
    return {"check": f"{target}: {kind} as told", "ok": False, "detail": detail}


def _tcp_knock(host: str, port: int, marker: str) -> None:
    with socket.create_connection((host, port), 5.0) as sock:
        sock.sendall(f"raw {marker}\n".encode())


def _udp_knock(host: str, port: int, marker: str) -> None:
    with socket.socket(family_of(host), socket.SOCK_DGRAM) as sock:
        sock.sendto(marker.encode(), (host, port))


def _dns_udp_knock(host: str, port: int, marker: str) -> None:
    with socket.socket(family_of(host), socket.SOCK_DGRAM) as sock:
        sock.sendto(dns.query(7, f"{marker}.invalid", 1), (host, port))


def _dns_tcp_knock(host: str, port: int, marker: str) -> None:
    message = dns.query(8, f"{marker}.invalid", 1)
    with socket.create_connection((host, port), 5.0) as sock:
        sock.sendall(len(message).to_bytes(2, "big") + message)


class _named(contextlib.AbstractContextManager[None]):  # noqa: N801 - used like a function
    """Adds the address to an OSError of bind()."""

    def __init__(self, host: str, port: int) -> None:
        self._where = join_address(host, port)

    def __exit__(
        self, _kind: object, error: BaseException | None, _trace: object
    ) -> None:
        if isinstance(error, OSError):
            raise OSError(error.errno, f"{error.strerror}: {self._where}") from error


# -- command line -----------------------------------------------------------------------------------------------------


def redirect_rules(options: Options, form: str) -> str:
    """The netfilter rules that bring everything to the listeners, for ``nft -f -`` or (``iptables``) for ``sh``.

    Left alone: a provider's TLS port, so that a closed one refuses. Only packets that come in are redirected.
    """
    hosts = [host for found in options.addresses.values() for host in found]
    dns_port = options.dns_listen[0][1] if options.dns_listen else None
    lines: list[str] = []
    if form == "nft":
        lines += [
            "table inet standins",
            "delete table inet standins",
            "table inet standins {",
        ]
        lines += [
            "  chain in {",
            "    type nat hook prerouting priority dstnat; policy accept;",
        ]
        for family, version in (("ip", 4), ("ip6", 6)):
            mine = sorted(
                h for h in hosts if ipaddress.ip_address(h).version == version
            )
            if mine:
                lines.append(
                    f"    {family} daddr {{ {', '.join(mine)} }} tcp dport {options.tls_port} accept"
                )
        if dns_port is not None:
            lines.append(
                f"    meta l4proto {{ tcp, udp }} th dport 53 redirect to :{dns_port}"
            )
        lines.append(
            f"    meta l4proto {{ tcp, udp }} redirect to :{options.catch_all}"
        )
        lines += ["  }", "}"]
        return "\n".join(lines) + "\n"
    for program, version in (("iptables", 4), ("ip6tables", 6)):
        add = f"{program} -w -t nat -A STANDINS"
        lines.append(
            f"{program} -w -t nat -N STANDINS || {program} -w -t nat -F STANDINS"
        )
        jump = "PREROUTING -j STANDINS"
        lines.append(
            f"{program} -w -t nat -C {jump} 2>/dev/null || {program} -w -t nat -A {jump}"
        )
        for host in sorted(
            h for h in hosts if ipaddress.ip_address(h).version == version
        ):
            lines.append(f"{add} -d {host} -p tcp --dport {options.tls_port} -j ACCEPT")
        for protocol in ("tcp", "udp"):
            if dns_port is not None:
                lines.append(
                    f"{add} -p {protocol} --dport 53 -j REDIRECT --to-ports {dns_port}"
                )
            lines.append(
                f"{add} -p {protocol} -j REDIRECT --to-ports {options.catch_all}"
            )
    return "\n".join(lines) + "\n"


def parse_options(argv: Sequence[str] | None) -> tuple[Options, str | None]:
    """Read the command line: (options, form of the rules to print). Exits with 2 on bad input."""
    parser = argparse.ArgumentParser(prog="standins.internet", description=__doc__)
    parser.add_argument("--state", type=Path, default=Path("/var/lib/standins"))
    parser.add_argument("--certs", type=Path, default=Path("/etc/standins/certs"))
    parser.add_argument(
        "--provider", action="append", default=[], metavar="NAME=ADDR[,ADDR]"
    )
    parser.add_argument("--key", action="append", default=[], metavar="NAME=KEY")
    parser.add_argument("--tls-port", type=int, default=443)
    parser.add_argument("--dns", action="append", default=[], metavar="ADDR:PORT")
    parser.add_argument("--dns-default", default="nxdomain")
    parser.add_argument(
        "--dns-name", action="append", default=[], metavar="NAME=ADDR[,ADDR]"
    )
    parser.add_argument("--catch-all", type=int, default=9999)
    parser.add_argument("--control", default="127.0.0.1:9099")
    parser.add_argument("--print-rules", choices=("nft", "iptables"))
    given = parser.parse_args(argv)
    try:
        addresses = {n: _addresses(v) for n, v in map(_pair, given.provider)}
        for name in addresses:
            if name not in PROVIDERS:
                raise ValueError(
                    f"unknown provider {name!r}; known: {', '.join(PROVIDERS)}"
                )
        every = [host for found in addresses.values() for host in found]
        if len(every) != len(set(every)):
            raise ValueError(
                "two providers share an address: each needs its own, or none can refuse alone"
            )
        keys = {
            **{n: p.key for n, p in PROVIDERS.items()},
            **dict(map(_pair, given.key)),
        }
        wanted = (
            ()
            if given.dns == ["none"]
            else tuple(map(split_address, given.dns)) or DEFAULT_DNS
        )
        default = (
            None if given.dns_default == "nxdomain" else _addresses(given.dns_default)
        )
        names = {n: _addresses(v) for n, v in map(_pair, given.dns_name)}
    except ValueError as error:
        parser.error(str(error))
    options = Options(
        state=given.state,
        certs=given.certs,
        addresses=addresses,
        keys=keys,
        tls_port=given.tls_port,
        dns_listen=wanted,
        dns_default=default,
        dns_names=names,
        catch_all=given.catch_all,
        control=given.control,
    )
    return options, given.print_rules


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise ValueError(f"{text!r} is not NAME=VALUE")
    return name, value


def _addresses(text: str) -> list[str]:
    return [str(ipaddress.ip_address(part.strip())) for part in text.split(",")]


def main(argv: Sequence[str] | None = None) -> int:
    """Run until told to stop. Exit 1 when something cannot be bound or read."""
    options, rules = parse_options(argv)
    if rules is not None:
        sys.stdout.write(redirect_rules(options, rules))
        return 0
    try:
        internet = Internet(options)
        internet.open()
        control = ControlServer(options.control, internet.verbs())
    except (OSError, ValueError, make_ca.OpensslError) as error:
        log(f"cannot start: {error}")
        return 1
    print(
        "ready " + json.dumps({**internet.describe(), "control": control.address}),
        flush=True,
    )
    run_until_signal()
    internet.shut()
    control.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
