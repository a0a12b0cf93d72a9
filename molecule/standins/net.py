# SPDX-License-Identifier: MIT
"""Listeners and connections that record what they read; one thread per connection, blocking sockets."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import Protocol

from .records import Recorder

# Linux ABI numbers that the socket module does not name in every supported Python.
SO_ORIGINAL_DST = (
    80  # linux/netfilter_ipv4.h; the same number in linux/netfilter_ipv6/ip6_tables.h
)
IP_PKTINFO = 8  # linux/in.h
IP_FREEBIND = 15  # linux/in.h
IPV6_RECVPKTINFO = 49  # linux/in6.h
IPV6_PKTINFO = 50  # linux/in6.h
IPV6_FREEBIND = 78  # linux/in6.h

IDLE_TIMEOUT = 900.0
"""Seconds after which a silent connection is closed."""
HELLO_TIMEOUT = 5.0
"""Seconds that a ClientHello may take to arrive whole."""


def log(message: str) -> None:
    """One line on stderr, with the time."""
    print(f"{time.strftime('%H:%M:%S')} {message}", file=sys.stderr, flush=True)


def run_until_signal() -> None:
    """Wait for SIGTERM or SIGINT."""
    # A pipe and no Event: a handler that comes while its thread is inside Event.wait() waits for its lock for ever.
    read, write = os.pipe()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os.write(write, b"x"))
    os.read(read, 1)


def loopback_of(host: str) -> str:
    """Where to knock on a listener of this machine: the loopback address for a wildcard."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def join_address(host: str, port: int) -> str:
    """``192.0.2.1:80`` or ``[2001:db8::1]:80``."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_address(text: str) -> tuple[str, int]:
    """The other way round; raises ValueError when there is no port or the host is no IP address."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} is not ADDRESS:PORT")
    ipaddress.ip_address(host)
    return host, int(port)


def family_of(host: str) -> socket.AddressFamily:
    """AF_INET or AF_INET6 of an address literal."""
    return (
        socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
    )


def original_destination(sock: socket.socket) -> str | None:
    """Where the client wanted to go before a netfilter redirect; None when the kernel cannot tell."""
    try:
        if sock.family == socket.AF_INET:
            raw = sock.getsockopt(socket.IPPROTO_IP, SO_ORIGINAL_DST, 16)
            port, packed = struct.unpack("!2xH4s8x", raw)
        else:
            raw = sock.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, 28)
            port, packed = struct.unpack("!2xH4x16s4x", raw)
    except OSError:
        return None
    return join_address(str(ipaddress.ip_address(packed)), port)


def _prepare(sock: socket.socket, host: str, port: int) -> None:
    """Bind; the address need not exist yet."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
    sock.bind((host, port))


class Connection:
    """An accepted TCP connection; what is read from it is recorded."""

    def __init__(
        self,
        sock: socket.socket,
        recorder: Recorder,
        service: str,
        peer: tuple[str, int],
    ) -> None:
        self.sock = sock
        self.service = service
        self.recorder = recorder
        self.number = recorder.connection()
        self.sni: str | None = None
        self._dead = False
        self._swap = threading.Lock()
        sock.settimeout(IDLE_TIMEOUT)
        local = sock.getsockname()
        self.local = join_address(local[0], local[1])
        self.src = join_address(*peer)
        recorder.add(
            "accept",
            conn=self.number,
            service=service,
            src=self.src,
            dst=original_destination(sock) or self.local,
            local=self.local,
        )

    def recv(self, size: int = 65536) -> bytes:
        """Read and record; empty at the end, whatever the end was."""
        try:
            data = self.sock.recv(size)
        except (
            OSError,
            ValueError,
        ) as error:  # ssl.SSLError is an OSError; ValueError: the socket was closed under us
            self.recorder.add(
                "close", conn=self.number, why=f"{type(error).__name__}: {error}"
            )
            return b""
        if data:
            self.recorder.add("data", conn=self.number, raw=data)
        return data

    def send(self, data: bytes) -> bool:
        """Send all; False when the client is gone."""
        try:
            self.sock.sendall(data)
        except (OSError, ValueError):
            return False
        return True

    def client_hello(self) -> bytes:
        """The ClientHello without taking it from the socket; empty when the client does not begin with one.

        Blocks until the client has said anything. A hello may come in pieces: waits up to HELLO_TIMEOUT for the rest.
        """
        deadline = None
        while True:
            try:
                seen = self.sock.recv(16384 + 5, socket.MSG_PEEK)
            except (OSError, ValueError):
                return b""
            if not seen.startswith(b"\x16"):
                return b""
            if len(seen) >= 5 and len(seen) >= 5 + int.from_bytes(seen[3:5], "big"):
                return seen
            deadline = deadline or time.monotonic() + HELLO_TIMEOUT
            if time.monotonic() > deadline:
                return seen
            time.sleep(0.005)

    def start_tls(self, hello: bytes, context: ssl.SSLContext) -> bool:
        """Take TLS off from here on; records the outcome. False when the handshake failed."""
        self.sni = sni_of(hello)
        try:
            with self._swap:
                wrapped = context.wrap_socket(
                    self.sock, server_side=True, do_handshake_on_connect=False
                )
                self.sock = wrapped
            wrapped.settimeout(HELLO_TIMEOUT * 2)
            wrapped.do_handshake()
            wrapped.settimeout(IDLE_TIMEOUT)
        except (OSError, ValueError) as error:
            if (
                not self._dead
            ):  # a connection that we reset ourselves is no unreadable one
                why = f"{type(error).__name__}: {error}"
                self.recorder.add(
                    "tls",
                    conn=self.number,
                    sni=self.sni,
                    ok=False,
                    error=why,
                    hello=hello,
                )
            return False
        self.recorder.add(
            "tls", conn=self.number, sni=self.sni, ok=True, error=None, hello=hello
        )
        return True

    def client_gone(self, wait: float) -> bool:
        """Wait up to `wait` seconds for the client to hang up; what it says meanwhile is recorded."""
        try:
            self.sock.settimeout(wait)
            data = self.sock.recv(65536)
        except TimeoutError:
            return False
        except (OSError, ValueError):
            return True
        finally:
            with contextlib.suppress(OSError):
                self.sock.settimeout(IDLE_TIMEOUT)
        if data:
            self.recorder.add("data", conn=self.number, raw=data)
        return not data

    def close(self) -> None:
        """Close without a TLS goodbye; after reset() nothing more is sent."""
        if not self._dead:
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()

    def reset(self) -> None:
        """Close with a TCP reset."""
        self._dead = True
        with self._swap:
            with contextlib.suppress(OSError):
                self.sock.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
            # A thread that waits in recv() keeps the socket alive: wake it. SHUT_RD sends nothing, so the reset is what
            # the client sees. Called on the base class: SSLSocket.shutdown() would let a writer go on in clear text.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self.sock, socket.SHUT_RD)
            self.sock.close()


class Listener(Protocol):
    """What both kinds of listener can do."""

    host: str
    port: int

    def open(self) -> None:
        """Start to listen. Raises OSError."""

    def shut(self) -> None:
        """Stop to listen."""


class TcpListener:
    """Accepts on one address and gives each connection to `handle` in a thread of its own; can be closed and opened."""

    def __init__(
        self,
        host: str,
        port: int,
        recorder: Recorder,
        service: str,
        handle: Callable[[Connection], None],
    ) -> None:
        self.host, self.port, self.service = host, port, service
        self._recorder, self._handle = recorder, handle
        self._socket: socket.socket | None = None
        self._live: set[Connection] = set()
        self._lock = threading.Lock()

    def open(self) -> None:
        """Start to listen; nothing when it does already. A port 0 becomes the port that was given. Raises OSError."""
        with self._lock:
            if self._socket is not None:
                return
            sock = socket.socket(family_of(self.host), socket.SOCK_STREAM)
            try:
                _prepare(sock, self.host, self.port)
                sock.listen(256)
            except OSError:
                sock.close()
                raise
            self.port = sock.getsockname()[1]
            self._socket = sock
        threading.Thread(target=self._accept, args=(sock,), daemon=True).start()

    def shut(self) -> None:
        """Stop to listen and reset what is open: from now on the kernel refuses."""
        with self._lock:
            sock, self._socket = self._socket, None
            live = list(self._live)
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for connection in live:
            connection.reset()

    def _accept(self, sock: socket.socket) -> None:
        while True:
            try:
                client, peer = sock.accept()
            except OSError as error:
                if sock.fileno() < 0 or self._socket is not sock:
                    return
                log(f"accept on {join_address(self.host, self.port)}: {error}")
                time.sleep(0.1)
                continue
            threading.Thread(
                target=self._serve, args=(client, (peer[0], peer[1])), daemon=True
            ).start()

    def _serve(self, sock: socket.socket, peer: tuple[str, int]) -> None:
        try:
            connection = Connection(sock, self._recorder, self.service, peer)
        except OSError:
            sock.close()
            return
        with self._lock:
            self._live.add(connection)
        try:
            self._handle(connection)
        finally:
            with self._lock:
                self._live.discard(connection)
            connection.close()


Datagram = Callable[[bytes, str, str], bytes | None]
"""(data, source, destination) → answer or None; addresses as ``host:port``."""


class UdpListener:
    """Receives on one address and answers from the address that was asked."""

    def __init__(self, host: str, port: int, handle: Datagram) -> None:
        self.host, self.port, self._handle = host, port, handle
        self._socket: socket.socket | None = None

    def open(self) -> None:
        """Start to receive. Raises OSError."""
        sock = socket.socket(family_of(self.host), socket.SOCK_DGRAM)
        try:
            if sock.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
            else:
                sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
            _prepare(sock, self.host, self.port)
        except OSError:
            sock.close()
            raise
        self.port = sock.getsockname()[1]
        self._socket = sock
        threading.Thread(target=self._receive, args=(sock,), daemon=True).start()

    def shut(self) -> None:
        """Stop to receive."""
        if self._socket is not None:
            sock, self._socket = self._socket, None
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _receive(self, sock: socket.socket) -> None:
        while self._socket is sock:
            try:
                data, ancillary, _flags, peer = sock.recvmsg(65536, 256)
            except OSError:
                if self._socket is sock:
                    time.sleep(0.05)
                continue
            if self._socket is not sock:
                return
            asked, reply_from = self._destination(sock, ancillary)
            answer = self._handle(
                data, join_address(peer[0], peer[1]), join_address(asked, self.port)
            )
            if answer is not None:
                with contextlib.suppress(OSError):
                    sock.sendmsg([answer], reply_from, 0, peer)

    def _destination(
        self, sock: socket.socket, ancillary: list[tuple[int, int, bytes]]
    ) -> tuple[str, list[tuple[int, int, bytes]]]:
        """The address that was asked, and the control message that answers from there."""
        for level, kind, data in ancillary:
            if level == socket.IPPROTO_IP and kind == IP_PKTINFO:
                asked = data[8:12]
                return str(ipaddress.ip_address(asked)), [
                    (level, kind, struct.pack("=i4s4s", 0, asked, b"\0" * 4))
                ]
            if level == socket.IPPROTO_IPV6 and kind == IPV6_PKTINFO:
                return str(ipaddress.ip_address(data[:16])), [
                    (level, kind, data[:16] + struct.pack("=i", 0))
                ]
        return self.host, []


def sni_of(hello: bytes) -> str | None:
    """The server name in a ClientHello (RFC 8446 §4.1.2, RFC 6066 §3); None when there is none or it cannot be read."""
    try:
        at = 5 + 4 + 2 + 32  # record header, handshake header, version, random
        at += 1 + hello[at]  # session id
        at += 2 + int.from_bytes(hello[at : at + 2], "big")  # cipher suites
        at += 1 + hello[at]  # compression methods
        end = at + 2 + int.from_bytes(hello[at : at + 2], "big")
        at += 2
        while at + 4 <= end:
            kind, size = struct.unpack_from("!HH", hello, at)
            if kind == 0:
                length = int.from_bytes(hello[at + 7 : at + 9], "big")
                return hello[at + 9 : at + 9 + length].decode("ascii")
            at += 4 + size
    except (IndexError, struct.error, UnicodeDecodeError):
        return None
    return None
