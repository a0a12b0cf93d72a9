# SPDX-License-Identifier: MIT
"""Small networks for tests of packet filters: network namespaces of this process, wired by veths, gone at its end.

Both ends of a wire are made inside their namespaces, so that this machine's own interfaces, routes and rules are never
touched. Nothing in here is a lab: there is no Docker, no UFW and no Tailscale, only what their rules would be.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence

#: Listens on TCP and UDP ports of all addresses, IPv4 and IPv6, and answers. argv: the TCP ports, the UDP ports.
ECHO = """
import select, socket, sys
listeners, datagrams = [], []
for port in map(int, filter(None, sys.argv[1].split(','))):
    listeners.append(socket.create_server(('::', port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64))
for port in map(int, filter(None, sys.argv[2].split(','))):
    one = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    one.bind(('::', port))
    datagrams.append(one)
print('ready', flush=True)
while True:
    for one in select.select(listeners + datagrams, [], [])[0]:
        if one in listeners:
            answer, _ = one.accept()
            answer.sendall(b'echo')
            answer.close()
        else:
            data, sender = one.recvfrom(99)
            one.sendto(data, sender)
"""

#: Knocks at [protocol, address, port] of standard input, all at once; prints what became of each.
KNOCK = """
import concurrent.futures, json, socket, sys
def knock(target):
    protocol, address, port = target
    family = socket.AF_INET6 if ':' in address else socket.AF_INET
    kind = socket.SOCK_STREAM if protocol == 'tcp' else socket.SOCK_DGRAM
    with socket.socket(family, kind) as one:
        one.settimeout(float(sys.argv[1]))
        try:
            one.connect((address, port))
            if protocol == 'udp':
                one.send(b'knock')
            return 'open' if one.recv(99) else 'closed'
        except TimeoutError:
            return 'silent'
        except ConnectionError:
            return 'refused'
        except OSError as error:
            return 'refused' if error.errno in (1, 13, 113) else f'error {error.errno}'
targets = json.load(sys.stdin)
with concurrent.futures.ThreadPoolExecutor(len(targets)) as pool:
    print(json.dumps(list(pool.map(knock, targets))))
"""

#: One echo request, IPv4 or IPv6; ends with 0 when it is answered.
PING = """
import socket, struct, sys, time
six = ':' in sys.argv[1]
body = struct.pack('!BBHHH', 128 if six else 8, 0, 0, 7, 1)
if not six:
    body = body[:2] + struct.pack('!H', 0xffff - sum(struct.unpack('!4H', body)) % 0xffff) + body[4:]
family, protocol = (socket.AF_INET6, 58) if six else (socket.AF_INET, 1)
with socket.socket(family, socket.SOCK_RAW, protocol) as one:
    one.sendto(body, (sys.argv[1], 0))
    end = time.monotonic() + 1
    while (left := end - time.monotonic()) > 0:
        one.settimeout(left)
        try:
            data = one.recv(999)
        except TimeoutError:
            break
        if (data if six else data[20:])[0] == (129 if six else 0):
            sys.exit(0)
sys.exit(1)
"""

Target = tuple[str, str, int]


class Place:
    """One network namespace, which lives as long as the process that holds it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._holder = subprocess.Popen(
            ["unshare", "--net", "--mount", "sh", "-c", "echo ready; exec sleep 900"], stdout=subprocess.PIPE, text=True
        )
        self._started: list[subprocess.Popen[str]] = []
        assert self._holder.stdout and self._holder.stdout.readline() == "ready\n", "needs root and namespaces"
        self.run("ip", "link", "set", "lo", "up")
        # No second of silence in which each new interface asks whether its own address is taken.
        for name in ("all", "default"):
            self.run("sh", "-c", f"echo 0 > /proc/sys/net/ipv6/conf/{name}/accept_dad")

    @property
    def pid(self) -> int:
        """The process that holds it."""
        return self._holder.pid

    @property
    def inside(self) -> list[str]:
        """Command prefix: in this namespace, and in a file system of its own."""
        return ["nsenter", f"--target={self.pid}", "--net", "--mount", "--"]

    def run(self, *argv: str, text: str = "", check: bool = True) -> str:
        """Run a program here; its output."""
        done = subprocess.run([*self.inside, *argv], input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0 or not check, f"{self.name}: {' '.join(argv)}: {done.stderr or done.stdout}"
        return done.stdout

    def address(self, interface: str, *addresses: str) -> None:
        """Give an interface addresses and set it up."""
        for address in addresses:
            self.run("ip", "addr", "add", address, "dev", interface, *(["nodad"] if ":" in address else []))
        self.run("ip", "link", "set", interface, "up")

    def start(self, *argv: str) -> None:
        """Start a program that says when it is ready and runs until the end."""
        process = subprocess.Popen([*self.inside, *argv], stdout=subprocess.PIPE, text=True)
        self._started.append(process)
        assert process.stdout and process.stdout.readline() == "ready\n"

    def echo(self, tcp: Sequence[int] = (), udp: Sequence[int] = ()) -> None:
        """Serve these ports."""
        self.start(sys.executable, "-c", ECHO, ",".join(map(str, tcp)), ",".join(map(str, udp)))

    def knock(self, targets: Sequence[Target], seconds: float = 0.8) -> dict[Target, str]:
        """What becomes of a knock at each: ``open``, ``refused``, ``silent``."""
        out = self.run(sys.executable, "-c", KNOCK, str(seconds), text=json.dumps(targets))
        return dict(zip(targets, json.loads(out), strict=True))

    def ping(self, address: str) -> bool:
        """Whether an address answers a ping."""
        argv = [*self.inside, sys.executable, "-c", PING, address]
        return subprocess.run(argv, capture_output=True, check=False).returncode == 0

    def end(self) -> None:
        """Take it all away."""
        for process in [*self._started, self._holder]:
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()


def wire(one: Place, name: str, other: Place, other_name: str) -> None:
    """A veth with one end in each, made where it belongs."""
    first = ("ip", "link", "add", name, "type", "veth")
    one.run(*first, "peer", "name", other_name, "netns", str(other.pid))


@contextlib.contextmanager
def places(*names: str) -> Iterator[list[Place]]:
    """Namespaces that are gone at the end."""
    made: list[Place] = []
    try:
        for name in names:
            made.append(Place(name))
        yield made
    finally:
        for place in reversed(made):
            place.end()


def until(what: str, ask: Callable[[], bool], seconds: float = 10) -> None:
    """Wait until a question is answered with yes."""
    end = time.monotonic() + seconds
    while not ask():
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.05)


def program(name: str) -> str:
    """A program's path, /usr/sbin included."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert found, f"{name} is missing: run tools/test, which installs it"
    return found
