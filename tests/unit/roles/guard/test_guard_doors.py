# SPDX-License-Identifier: MIT
"""The doors, knocked at for real: a stranger on the LAN, a client of the tailnet, a container with published ports.

The machine is a network namespace in which the rendered rules are loaded. What Docker, UFW and Tailscale would do there
is done by hand, so that the rules are seen to hold with, without and against them.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from ansible_collections.mushishi.sovereign.plugins.module_utils.audit.counters import HOST, counters_of, is_egress
from ansible_collections.mushishi.sovereign.plugins.module_utils.audit.ruleset import Ruleset, stops
from rendering import Rendered
from wires import Place, Target, places, wire

SETTING = "doors"
#: Addresses of the machine, and of a container behind it.
LAN = {"v4": "198.51.100.1", "v6": "2001:db8:1::1"}
TAILNET = {"v4": "100.64.0.1", "v6": "fd7a:115c:a1e0::1"}
CONTAINER = {"v4": "10.90.0.2", "v6": "fd90::2"}
#: Ports that something answers at: on the machine itself, and published by the container (outside → inside).
HOST_TCP, HOST_UDP = (22, 4001, 8188, 41000), (22000, 5353)
PUBLISHED = {("tcp", 4002): 80, ("tcp", 8443): 80, ("udp", 22001): 53, ("udp", 1900): 53}
#: Doors of the setting, by where they lead.
DOORS = {("tcp", 22), ("tcp", 4001), ("udp", 22000), ("tcp", 4002), ("udp", 22001)}
FAMILIES = ("v4", "v6")


@dataclass(frozen=True)
class World:
    """The machine, and who knocks."""

    machine: Place
    stranger: Place
    client: Place
    container: Place
    rules: str

    def load(self) -> None:
        self.machine.run("nft", "--file", "-", text=self.rules)

    def unload(self) -> None:
        self.machine.run("nft", "delete", "table", "inet", "mushishi_guard", check=False)

    def counters(self) -> dict[str, int]:
        return counters_of(self.machine.run("nft", "--json", "list", "table", "inet", "mushishi_guard"))


def loadable(text: str) -> str:
    """The rules without the users, whom this machine may not have; they are about output alone."""
    return re.sub(r'skuid "[^"]*"', "skuid 65432", re.sub(r"skuid != \{[^}]*\}", "skuid != 0", text))


@pytest.fixture(scope="module")
def world(rendered: Rendered) -> Iterator[World]:
    made = rendered["guard", "host.nft.j2", SETTING]
    assert not isinstance(made, str), made
    with places("machine", "stranger", "client", "container") as (machine, stranger, client, container):
        wire(machine, "lan0", stranger, "out0")
        wire(machine, "tailscale0", client, "out0")
        wire(machine, "vethcafe", container, "in0")
        machine.run("ip", "link", "add", "br-0123456789ab", "type", "bridge")
        machine.run("ip", "link", "set", "vethcafe", "master", "br-0123456789ab", "up")
        machine.address("br-0123456789ab", "10.90.0.1/24", "fd90::1/64")
        machine.address("lan0", "198.51.100.1/24", "2001:db8:1::1/64")
        machine.address("tailscale0", "100.64.0.1/24", "fd7a:115c:a1e0::1/64")
        stranger.address("out0", "198.51.100.9/24", "2001:db8:1::9/64")
        client.address("out0", "100.64.0.9/24", "fd7a:115c:a1e0::9/64")
        container.address("in0", "10.90.0.2/24", "fd90::2/64")
        for place, via4, via6 in (
            (stranger, LAN["v4"], LAN["v6"]),
            (client, TAILNET["v4"], TAILNET["v6"]),
            (container, "10.90.0.1", "fd90::1"),
        ):
            place.run("ip", "route", "add", "default", "via", via4)
            place.run("ip", "-6", "route", "add", "default", "via", via6)
        for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            machine.run("sh", "-c", f"echo 1 > /proc/sys/net/{name}")
        for (protocol, outside), inside in PUBLISHED.items():
            for command, address in (("iptables", CONTAINER["v4"]), ("ip6tables", f"[{CONTAINER['v6']}]")):
                dnat = ("-j", "DNAT", "--to-destination", f"{address}:{inside}")
                match = ("!", "-i", "br-0123456789ab", "-p", protocol, "--dport", str(outside))
                machine.run(command, "-t", "nat", "-A", "PREROUTING", *match, *dnat)
        machine.echo(HOST_TCP, HOST_UDP)
        container.echo((80,), (53,))
        stranger.echo((7777,), (7777,))
        yield World(machine, stranger, client, container, loadable(made[0][1]))


def everything(address: str) -> list[Target]:
    """Each port behind which something answers."""
    ports = {("tcp", port) for port in HOST_TCP} | {("udp", port) for port in HOST_UDP} | set(PUBLISHED)
    return [(protocol, address, port) for protocol, port in sorted(ports)]


def opened(found: dict[Target, str]) -> set[tuple[str, int]]:
    return {(protocol, port) for (protocol, _address, port), outcome in found.items() if outcome == "open"}


def nothing(world: World) -> None:
    del world


def tailscale(world: World) -> None:
    """``ts-input`` and ``ts-forward`` accept whatever comes in by the tailnet, in front of everything of iptables."""
    for command in ("iptables", "ip6tables"):
        for chain in ("INPUT", "FORWARD"):
            world.machine.run(command, "-I", chain, "-i", "tailscale0", "-j", "ACCEPT")


def open_wide(world: World) -> None:
    """UFW is off, DOCKER-USER is missing, iptables is flushed: policies accept."""
    for command in ("iptables", "ip6tables"):
        world.machine.run(command, "-F")
        for chain in ("INPUT", "FORWARD", "OUTPUT"):
            world.machine.run(command, "-P", chain, "ACCEPT")


def accept_all(world: World) -> None:
    """Another table of nftables that accepts everything, before ours and after it."""
    for number, priority in enumerate((-200, 0, 100)):
        chains = "".join(
            f"chain {hook} {{ type filter hook {hook} priority {priority}; policy accept; accept; }}\n"
            for hook in ("input", "forward")
        )
        world.machine.run("nft", "--file", "-", text=f"table inet other{number} {{\n{chains}}}\n")


@contextmanager
def state(world: World, make: Callable[[World], None]) -> Iterator[None]:
    make(world)
    try:
        yield
    finally:
        open_wide(world)
        for number in range(3):
            world.machine.run("nft", "delete", "table", "inet", f"other{number}", check=False)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("make", [nothing, tailscale, open_wide, accept_all])
def test_the_doors_and_nothing_else(world: World, make: Callable[[World], None], family: str) -> None:
    world.load()
    with state(world, make):
        stranger = world.stranger.knock(everything(LAN[family]))
        client = world.client.knock(everything(TAILNET[family]))
    assert set(stranger.values()) == {"silent"}, stranger
    assert opened(client) == DOORS, client
    shut = {outcome for target, outcome in client.items() if target[0::2] not in DOORS}
    assert shut == {"refused"}, client


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("make", [nothing, tailscale])
def test_without_the_rules_everything_is_open(world: World, make: Callable[[World], None], family: str) -> None:
    """Control: each port has something behind it, which answers everybody."""
    world.unload()
    with state(world, make):
        for place, address in ((world.stranger, LAN[family]), (world.client, TAILNET[family])):
            assert set(place.knock(everything(address)).values()) == {"open"}
    world.load()


@pytest.mark.parametrize("family", FAMILIES)
def test_not_enforced_changes_nothing(world: World, rendered: Rendered, family: str) -> None:
    made = rendered["guard", "host.nft.j2", "the doors are UFW's alone"]
    assert not isinstance(made, str)
    world.machine.run("nft", "--file", "-", text=loadable(made[0][1]))
    found = world.stranger.knock(everything(LAN[family]))
    world.load()
    # The ingress is found on one interface alone, as before.
    assert found.pop(("tcp", LAN[family], 4001)) == "refused" and set(found.values()) == {"open"}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tailnet_s_address_is_no_way_around(world: World, family: str) -> None:
    """A stranger who routes to the machine's other addresses, or straight to the container, finds nothing."""
    world.load()
    for address in (TAILNET[family], LAN[family], CONTAINER[family]):
        targets = [*everything(address), ("tcp", address, 80), ("udp", address, 53)]
        assert set(world.stranger.knock(targets).values()) == {"silent"}
    straight = world.client.knock([("tcp", CONTAINER[family], 80), ("udp", CONTAINER[family], 53)])
    assert set(straight.values()) == {"refused"}, "what is not published is no door, to the tailnet either"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_ping_is_answered_to_the_tailnet_alone(world: World, family: str) -> None:
    world.load()
    assert world.client.ping(TAILNET[family]) and not world.stranger.ping(LAN[family])
    world.unload()
    assert world.stranger.ping(LAN[family]), "control"
    world.load()


@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_machine_and_its_containers_begin_goes_on(world: World, family: str) -> None:
    world.load()
    outside = {"v4": "198.51.100.9", "v6": "2001:db8:1::9"}[family]
    gateway = {"v4": "10.90.0.1", "v6": "fd90::1"}[family]
    targets: list[Target] = [("tcp", outside, 7777), ("udp", outside, 7777)]
    assert set(world.machine.knock(targets).values()) == {"open"}
    assert set(world.container.knock(targets).values()) == {"open"}, "a container reaches the world"
    own = world.machine.knock([*everything(TAILNET[family])[:2], ("tcp", LAN[family], 8188)])
    assert own["tcp", LAN[family], 8188] == "open", "the machine's own address, by the loopback"
    assert world.container.knock([("tcp", gateway, 8188)])["tcp", gateway, 8188] == "open", "as before"


def test_neighbours_are_found_again(world: World) -> None:
    """IPv6 without neighbour discovery is deaf: nothing that was learnt before may be needed."""
    world.load()
    for place in (world.machine, world.client):
        place.run("ip", "neigh", "flush", "all", check=False)
    assert world.client.knock([("tcp", TAILNET["v6"], 4001)], 3)["tcp", TAILNET["v6"], 4001] == "open"


#: Answers to one datagram on UDP port 68; the answer of a DHCP server comes from port 67.
DHCP = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
    one.bind(('198.51.100.9', int(sys.argv[1])))
    one.settimeout(0.8)
    one.sendto(b'offer', ('198.51.100.1', 68))
    try:
        print(one.recv(99).decode())
    except (TimeoutError, ConnectionError):
        print('silent')
"""


@pytest.mark.parametrize(("port", "heard"), [(67, "offer"), (6767, "silent")])
def test_a_lease_can_be_had(world: World, port: int, heard: str) -> None:
    world.load()
    if port == 67:
        world.machine.echo((), (68,))
    assert world.stranger.run("python3", "-c", DHCP, str(port)).strip() == heard


def test_a_connection_that_stands_survives_a_reload(world: World) -> None:
    world.unload()
    program = (
        "import socket, sys\n"
        "one = socket.create_server(('198.51.100.1', 6500)); print('ready', flush=True)\n"
        "peer = one.accept()[0]\n"
        "while data := peer.recv(99): peer.sendall(data)\n"
    )
    world.machine.start("python3", "-c", program)
    talk = (
        "import socket, sys\n"
        "one = socket.create_connection(('198.51.100.1', 6500), 3)\n"
        "one.sendall(b'a'); one.recv(9); print('ready', flush=True); sys.stdin.readline()\n"
        "one.settimeout(3); one.sendall(b'b'); print(one.recv(9).decode(), flush=True)\n"
    )
    with subprocess.Popen(
        [*world.stranger.inside, "python3", "-c", talk], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin and process.stdout and process.stdout.readline() == "ready\n"
        world.load()
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "b\n"
    assert world.stranger.knock([("tcp", LAN["v4"], 6500)])["tcp", LAN["v4"], 6500] == "silent", "a new one does not"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_audit_reads_the_rules_as_they_are(world: World, family: str) -> None:
    """What it says of a listing is what becomes of a knock."""
    world.load()
    rules = Ruleset(json.loads(world.machine.run("nft", "--json", "list", "ruleset")), {})
    table = ("inet", "mushishi_guard")
    for protocol, port in [("tcp", 22), ("tcp", 4001), ("tcp", 8188), ("udp", 22000), ("udp", 5353)]:
        packet = {"family": 4 if family == "v4" else 6, "proto": protocol, "dport": port, "ct": "new"}
        outcomes = rules.outcomes(table, "input", {**packet, "iif": "lan0", "daddr": LAN[family]})
        assert stops(outcomes) and "drop" in outcomes, outcomes
        outcomes = rules.outcomes(table, "input", {**packet, "iif": "tailscale0", "daddr": TAILNET[family]})
        assert stops(outcomes) is ((protocol, port) not in DOORS), outcomes


def test_knocks_are_counted_and_are_no_alarm(world: World) -> None:
    world.load()
    before = world.counters()
    world.stranger.knock([("tcp", LAN["v4"], 22), ("tcp", LAN["v6"], 8443)])
    world.client.knock([("tcp", TAILNET["v4"], 8188), ("udp", TAILNET["v6"], 1900)])
    after = world.counters()
    risen = {name for name in after if after[name] > before.get(name, 0)}
    assert risen == {"lan_to_host", "lan_to_containers", "tailnet_to_host", "tailnet_to_containers"}
    assert not any(is_egress(HOST, name) for name in risen), "ordinary: nothing sovereign tried to get out"
    assert is_egress(HOST, "sovereign_to_host"), "control"
    world.load()
    assert world.counters() == after, "a reload forgets nothing"
