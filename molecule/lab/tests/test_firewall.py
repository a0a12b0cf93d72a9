# SPDX-License-Identifier: MIT
"""The only way in: ten containers published in every way, seen by a stranger of the LAN and by a peer of the tailnet.

The doors are what the machine's own list says. Every ``nothing is open`` has its control: the same scan of the same
containers with the locks taken away. What takes long is the night's.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import HUB, ROOT, Lab, Machine, play, recap
from listener import start_planted_listener
from locks import IPTABLES, LOCKS, without
from test_endurance import reboot

sys.path.insert(0, str(ROOT / "plugins/module_utils"))

from doors import scan, udp

#: The product's own scanner as a program: a job by standard input, events and the result as lines.
SCANNER = (ROOT / "plugins/module_utils/doors/scan.py").read_text() + "\nmain()\n"
DOORS_FILE = "/etc/mushishi/doors.json"
EVERY_PORT = "1-65535"
#: What a published container listens on inside.
INSIDE, RANGE = 7100, (61000, 61009)
#: Two UDP ports of the list that a scan asks, published to all.
COMMON_UDP = (1900, 5060)
#: Networks of Docker that the containers need, with what is special about each.
NETWORKS: dict[str, tuple[str, ...]] = {
    "fw-one": (),
    "fw-two": (),
    "fw-open": ("--opt", "com.docker.network.bridge.host_binding_ipv4=0.0.0.0"),
    "fw-internal": ("--internal",),
}
PROJECT = {
    "name": "fw-project",
    "services": {
        "web": {
            "image": "",
            "entrypoint": ["/usr/bin/python3", "-m", "standins.echo"],
            "command": ["--bind", "0.0.0.0", "--tcp", str(INSIDE), "--udp", str(INSIDE)],
            "ports": [f"0.0.0.0:18108:{INSIDE}", f"0.0.0.0:18108:{INSIDE}/udp"],
            "restart": "unless-stopped",
        }
    },
}


def both(where: str) -> tuple[str, ...]:
    """Publish for TCP and UDP."""
    return (f"--publish={where}", f"--publish={where}/udp")


def echo(
    tcp: Sequence[int] = (INSIDE,), udp_ports: Sequence[int] = (INSIDE,), bind: Sequence[str] = ("0.0.0.0",)
) -> list[str]:
    """The command line of an echo service."""
    words = [word for address in bind for word in ("--bind", address)]
    words += ["--tcp", ",".join(map(str, tcp)), "--udp", ",".join(map(str, udp_ports)), "--control", "127.0.0.1:19097"]
    return ["-m", "standins.echo", *words]


@dataclass(frozen=True)
class Way:
    """A way to publish: the options, the command, and what it opens by IPv4 and IPv6 where nothing shuts it."""

    options: tuple[str, ...]
    command: tuple[str, ...]
    v4: tuple[int, ...] = ()
    v6: tuple[int, ...] = ()


V4, V6 = HUB["lan"]["v4"], HUB["lan"]["v6"]
WAYS: dict[str, Way] = {
    "fw-all4": Way(both(f"0.0.0.0:18101:{INSIDE}"), tuple(echo()), (18101,)),
    "fw-all6": Way(both(f"[::]:18102:{INSIDE}"), tuple(echo()), (), (18102,)),
    "fw-address": Way(
        (*both(f"{V4}:18103:{INSIDE}"), *both(f"[{V6}]:18103:{INSIDE}")), tuple(echo()), (18103,), (18103,)
    ),
    "fw-host": Way(("--network=host",), tuple(echo((18104,), (18104,), ("0.0.0.0", "::"))), (18104,), (18104,)),
    "fw-range": Way(
        (f"--publish=0.0.0.0:{RANGE[0]}-{RANGE[1]}:7100-7109",),
        tuple(echo(tuple(range(7100, 7110)))),
        tuple(range(RANGE[0], RANGE[1] + 1)),
    ),
    "fw-udp": Way(tuple(f"--publish=0.0.0.0:{port}:{INSIDE}/udp" for port in COMMON_UDP), tuple(echo())),
    "fw-networks": Way(("--network=fw-one", *both(f"0.0.0.0:18107:{INSIDE}")), tuple(echo()), (18107,)),
    # -P takes any port of Docker's; which one is read afterwards.
    "fw-any": Way(
        ("--network=fw-open", "--publish-all", f"--expose={INSIDE}/tcp", f"--expose={INSIDE}/udp"), tuple(echo())
    ),
    # Docker publishes nothing of an internal network; here so that it stays so.
    "fw-inside": Way(("--network=fw-internal", *both(f"0.0.0.0:18110:{INSIDE}")), tuple(echo())),
}


class Published:
    """The ten containers, and what of them a stranger would see if nothing shut it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.image = lab.hub.run("docker", "inspect", "-f", "{{.Image}}", lab.engine_container("agent")).strip()

    def docker(self, *words: str, check: bool = True) -> str:
        return self.lab.hub.run("docker", *words, check=check)

    def make_networks(self) -> None:
        for name, options in NETWORKS.items():
            self.docker("network", "create", *options, name)

    def start(self, name: str) -> None:
        way = WAYS[name]
        self.docker(
            *("run", "--detach", f"--name={name}", "--restart=unless-stopped", "--entrypoint=/usr/bin/python3"),
            *(*way.options, self.image, *way.command),
        )
        if name == "fw-networks":
            self.docker("network", "connect", "fw-two", name)

    def compose(self, *verb: str) -> None:
        project = json.loads(json.dumps(PROJECT))
        project["services"]["web"]["image"] = self.image
        self.lab.hub.run("docker", "compose", "--file", "-", *verb, stdin=yaml.safe_dump(project))

    def begin(self) -> None:
        """All ten."""
        self.make_networks()
        for name in WAYS:
            self.start(name)
        self.compose("up", "--detach")

    def end(self) -> None:
        """Nothing is left."""
        self.docker("rm", "--force", *WAYS, check=False)
        self.lab.hub.run("docker", "compose", "--project-name", "fw-project", "down", "--timeout", "1", check=False)
        self.docker("network", "rm", *NETWORKS, check=False)

    def any_port(self) -> int:
        """The port that -P took."""
        return int(self.docker("port", "fw-any", f"{INSIDE}/tcp").splitlines()[0].rpartition(":")[2])

    def tcp(self, family: str) -> set[int]:
        """What would be open."""
        found = {port for way in WAYS.values() for port in (way.v4 if family == "v4" else way.v6)}
        return found | ({18108, self.any_port()} if family == "v4" else set())

    def udp(self, family: str) -> set[int]:
        """The same for UDP."""
        return {18101, 18104, 18107, 18108, *COMMON_UDP} if family == "v4" else {18102, 18104}

    def answers(self, seconds: float = 60) -> None:
        """Wait until every container answers on the machine itself: what is shut from outside is there."""
        for port in self.tcp("v4") - {18103}:
            self.lab.until(
                lambda port=port: self.lab.hub.ok(*knock("127.0.0.1", port)), f"port {port} at home", seconds
            )


def knock(address: str, port: int) -> tuple[str, ...]:
    """A command that connects."""
    return ("python3", "-c", f"import socket; socket.create_connection(({address!r}, {port}), 3).close()")


def scanned(
    machine: Machine, addresses: Sequence[str], tcp: str, udp_ports: Sequence[int] = ()
) -> list[dict[str, Any]]:
    """What the product's scanner sees from one of the lab's machines; its own control is asserted here."""
    job = {
        "addresses": list(addresses),
        "tcp": scan.ports_of(tcp),
        "udp": udp.questions(list(udp_ports)) if udp_ports else [],
        "parallel": 3000,
        "patience": 1.3,
        "udp_patience": 0.7,
    }
    out = machine.run("python3", "-I", "-c", SCANNER, stdin=json.dumps(job) + "\n", timeout=900)
    results: list[dict[str, Any]] = json.loads(out.splitlines()[-1])["result"]
    assert [result["address"] for result in results] == list(addresses)
    for result in results:
        assert result["route"] and result["control"] == {"tcp": "open", "udp": "open"}, result
    return results


def opened(result: dict[str, Any], protocol: str = "tcp") -> set[int]:
    """The open ports of a result."""
    return set(scan.ports_of(result[protocol].get("open", "")))


def asked(published: Published) -> list[int]:
    """UDP ports to ask: the 200, and everything that is published."""
    return sorted({*udp.ports(), *published.udp("v4"), *published.udp("v6")})


def ways_of(published: Published) -> str:
    """TCP ports of a short scan: everything that is published, and the well-known ones."""
    return f"1-1100,{scan.spelled(published.tcp('v4') | published.tcp('v6') | {18110})}"


def doors(lab: Lab) -> set[tuple[str, int]]:
    """The machine's own list."""
    listed = json.loads(lab.hub.run("cat", DOORS_FILE))
    assert listed["interface"] == "tailscale0"
    return {(door["protocol"], int(door["port"])) for door in listed["doors"]}


@pytest.fixture(scope="module")
def published(lab: Lab) -> Iterator[Published]:
    """Ten containers, published in every way that Docker knows."""
    made = Published(lab)
    made.end()
    try:
        made.begin()
        made.answers()
        yield made
    finally:
        made.end()


def test_a_port_without_an_address_is_bound_to_loopback(lab: Lab, published: Published) -> None:
    """On a network that compose makes, too. Control: one that says otherwise is bound to every address, and shut."""
    project: dict[str, Any] = {"name": "fw-plain", "services": json.loads(json.dumps(PROJECT["services"]))}
    project["services"]["web"] |= {"image": published.image, "ports": [f"18199:{INSIDE}"], "restart": "no"}
    everywhere = {"default": {"driver_opts": {"com.docker.network.bridge.host_binding_ipv4": "0.0.0.0"}}}
    for networks, bound in (({}, {"127.0.0.1:18199"}), ({"networks": everywhere}, {"0.0.0.0:18199", "[::]:18199"})):
        text = yaml.safe_dump(project | networks)
        try:
            lab.hub.run("docker", "compose", "--file", "-", "up", "--detach", stdin=text)
            seen = set(published.docker("port", "fw-plain-web-1", f"{INSIDE}/tcp").split())
            lab.until(lambda: lab.hub.ok(*knock("127.0.0.1", 18199)), "it answers at home", 30)
            assert opened(scanned(lab.stranger, [V4], "18199")[0]) == set()
        finally:
            lab.hub.run("docker", "compose", "--project-name", "fw-plain", "down", "--timeout", "1", check=False)
        # Whether a network without IPv6 also listens at [::] differs between versions; never where it is loopback.
        assert bound - {"[::]:18199"} <= seen <= bound, seen


# ---- 1: nothing from the LAN, the doors from the tailnet
def nothing_from_the_lan(lab: Lab, published: Published, tcp: str) -> None:
    for result in scanned(lab.stranger, [V4, V6], tcp, asked(published)):
        assert (opened(result), opened(result, "udp")) == (set(), set()), result
        # A dead machine: not even a refusal. And it was there: its network card answered.
        assert set(result["tcp"]) == {"silent"} and set(result["udp"]) == {"silent"}, result
        assert "network card answered" in result["evidence"], result


def exactly_the_doors(lab: Lab, published: Published, tcp: str) -> None:
    wanted = {port for protocol, port in doors(lab) if protocol == "tcp"}
    tcp = f"{tcp},{scan.spelled(wanted)}"
    for result in scanned(lab.client, [HUB["tailnet"]["v4"], HUB["tailnet"]["v6"]], tcp, asked(published)):
        assert opened(result) == wanted, result
        assert opened(result, "udp") == {port for protocol, port in doors(lab) if protocol == "udp"}, result


def test_a_stranger_finds_nothing_that_is_published(lab: Lab, published: Published) -> None:
    nothing_from_the_lan(lab, published, ways_of(published))


@pytest.mark.nightly
def test_a_stranger_finds_nothing_on_any_port(lab: Lab, published: Published) -> None:
    """All 65,535 TCP ports and the 200 UDP ports, IPv4 and IPv6."""
    nothing_from_the_lan(lab, published, EVERY_PORT)


def test_a_peer_of_the_tailnet_finds_the_doors(lab: Lab, published: Published) -> None:
    assert doors(lab) == {("tcp", 22), ("tcp", 4000), ("tcp", 4001)}
    exactly_the_doors(lab, published, ways_of(published))


@pytest.mark.nightly
def test_a_peer_of_the_tailnet_finds_the_doors_on_every_port(lab: Lab, published: Published) -> None:
    exactly_the_doors(lab, published, EVERY_PORT)


def test_without_the_locks_all_of_it_is_open(lab: Lab, published: Published) -> None:
    """Control: the same containers, the same scan, and the published ports are open to everybody."""
    with without(lab, *LOCKS):
        four, six = scanned(lab.stranger, [V4, V6], ways_of(published), asked(published))
    assert published.tcp("v4") <= opened(four), (published.tcp("v4"), four)
    assert published.tcp("v6") <= opened(six), (published.tcp("v6"), six)
    assert published.udp("v4") <= opened(four, "udp") and published.udp("v6") <= opened(six, "udp"), (four, six)
    assert 18110 not in opened(four) | opened(six), "an internal network publishes nothing"
    nothing_from_the_lan(lab, published, ways_of(published))


@pytest.mark.nightly
@pytest.mark.parametrize("gone", [("UFW", "DOCKER-USER"), ("guard",)], ids=["guard alone", "UFW and DOCKER-USER alone"])
def test_each_lock_holds_alone(lab: Lab, published: Published, gone: tuple[str, ...]) -> None:
    with without(lab, *gone):
        for result in scanned(lab.stranger, [V4, V6], ways_of(published), asked(published)):
            assert (opened(result), opened(result, "udp")) == (set(), set()), (gone, result)


# ---- 2: through every restart
def recreate_containers(lab: Lab, published: Published) -> None:
    for name in WAYS:
        published.docker("rm", "--force", name)
        published.start(name)
    published.compose("up", "--detach", "--force-recreate")


def recreate_networks(lab: Lab, published: Published) -> None:
    published.end()
    published.begin()


def run_on_hub(*lines: str) -> Callable[[Lab, Published], None]:
    def step(lab: Lab, _published: Published) -> None:
        for line in lines:
            lab.hub.run("sh", "-c", line)

    return step


STEPS: dict[str, Callable[[Lab, Published], None]] = {
    "ufw reload": run_on_hub("ufw reload"),
    "ufw disable and enable": run_on_hub("ufw --force disable", "ufw --force enable"),
    "Docker restarted": run_on_hub("systemctl reset-failed docker.service", "systemctl restart docker.service"),
    "Docker stopped and started": run_on_hub(
        "systemctl stop docker.service docker.socket",
        "systemctl reset-failed docker.service",
        "systemctl start docker.service",
    ),
    "containers made anew": recreate_containers,
    "networks made anew": recreate_networks,
    "the guard reloaded": run_on_hub("systemctl reload mushishi-guard.service"),
    "the machine rebooted": lambda lab, _published: rebooted(lab),
}


def rebooted(lab: Lab) -> None:
    reboot(lab)
    lab.until(lambda: lab.hub.ok("systemctl", "is-active", "--quiet", "docker.service"), "Docker is back", 120)


#: Source ports of one knocker, and where the first one's begin: below those that the kernel gives out (32768).
#: What a control let through stays in the connection table for two minutes; no later knock may look like its next one.
OWN_PORTS, FIRST_PORT = 1500, 10000
KNOCKERS = itertools.count()
KNOCKER = """
import itertools, json, os, socket, sys, time
job = json.loads(sys.argv[1])
tried, through, sources = {"v4": {}, "v6": {}}, [], itertools.cycle(range(*job["sources"]))
while not os.path.exists(job["stop"]) and time.time() < job["until"]:
    for address, port, kind in job["doors"]:
        family = "v6" if ":" in address else "v4"
        sock = socket.socket(socket.AF_INET6 if family == "v6" else socket.AF_INET, kind)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.settimeout(0.15)
        source = next(sources)
        try:
            sock.bind(("", source))
            sock.connect((address, port))
            if kind == socket.SOCK_DGRAM:
                sock.send(b"knock"); sock.recv(16)
            through.append([address, port, kind, source, time.time()])
            outcome = "let in"
        except OSError as error:
            outcome = type(error).__name__ if error.errno is None else os.strerror(error.errno)
        finally:
            sock.close()
        tried[family][outcome] = tried[family].get(outcome, 0) + 1
print(json.dumps({"tried": tried, "through": through[:50]}))
"""
#: A knock that was really sent and not answered ("timed out" has no number), or refused by whoever is there. Whatever
#: else comes, a missing route or an address in use, would be no knock at all.
KNOCKED = {"TimeoutError", "Connection timed out", "Connection refused"}


def nobody_was_let_in(found: dict[str, Any], what: object) -> None:
    """A knocker's result: it really knocked, by both families, and nothing opened."""
    assert found["through"] == [], (what, found)
    for family, outcomes in found["tried"].items():
        # A machine that boots is not there for its neighbours ("No route to host"): that is no knock, and no fault.
        assert set(outcomes) <= KNOCKED | {"No route to host"}, (what, family, outcomes)
        assert sum(outcomes.get(name, 0) for name in KNOCKED) >= 5, (what, family, outcomes)


@contextmanager
def knocking(lab: Lab, published: Published, seconds: float = 600) -> Iterator[dict[str, Any]]:
    """The stranger knocks without a pause at what is published; what it found is filled in at the end."""
    stop, found = f"/tmp/knocked-{time.monotonic_ns()}", {}
    targets = [[V4, port, 1] for port in (18101, 18103, 18104, RANGE[0], 18107, 18108)]
    targets += [[V6, port, 1] for port in (18102, 18103, 18104)] + [[V4, port, 2] for port in (18101, COMMON_UDP[1])]
    first = FIRST_PORT + OWN_PORTS * (next(KNOCKERS) % ((32768 - FIRST_PORT) // OWN_PORTS))
    sources = [first, first + OWN_PORTS]
    job = json.dumps({"doors": targets, "stop": stop, "until": time.time() + seconds, "sources": sources})
    process = subprocess.Popen(
        ["docker", "exec", lab.stranger.name, "python3", "-c", KNOCKER, job],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield found
    finally:
        lab.stranger.run("touch", stop)
        out, err = process.communicate(timeout=60)
        lab.stranger.run("rm", "-f", stop)
        assert process.returncode == 0, err
        found.update(json.loads(out))


@pytest.mark.nightly
def test_the_knocker_is_let_in_where_nothing_shuts(lab: Lab, published: Published) -> None:
    """Control of the next: the same program finds what is open."""
    with without(lab, *LOCKS), knocking(lab, published) as found:
        time.sleep(8)
    ways = {(address, port, kind) for address, port, kind, _source, _when in found["through"]}
    assert {(V4, 18101, 1), (V4, 18104, 1), (V6, 18102, 1), (V4, 18101, 2)} <= ways, found
    assert all(outcomes.get("let in", 0) > 0 for outcomes in found["tried"].values()), found


@pytest.mark.nightly
@pytest.mark.parametrize("step", STEPS)
def test_it_holds_through(lab: Lab, published: Published, step: str) -> None:
    """Shut in every moment of it, and shut as before afterwards; the doors are open again."""
    with knocking(lab, published) as found:
        STEPS[step](lab, published)
        published.answers(180)
    nobody_was_let_in(found, step)
    lab.everything_up()
    nothing_from_the_lan(lab, published, ways_of(published))
    exactly_the_doors(lab, published, ways_of(published))


#: What is started by hand, one after the other, on a machine that booted without all three.
HOLD = "/etc/mushishi/hold-for-a-test"
HELD = ("docker.service", "docker.socket", "ufw.service")
STARTS = {
    "Docker": "systemctl reset-failed docker.service; systemctl start docker.service",
    "UFW": "systemctl start ufw.service",
    "tailnet": f"ip link set tailscale0 up; ip -6 addr replace {HUB['tailnet']['v6']}/64 dev tailscale0 nodad",
}


@contextmanager
def booted_without(lab: Lab) -> Iterator[None]:
    """Docker, UFW and the tailnet are not there after this boot; a condition holds the first two back."""
    for unit in HELD:
        folder = f"/etc/systemd/system/{unit}.d"
        text = f"[Unit]\nConditionPathExists=!{HOLD}\n"
        lab.hub.run("sh", "-c", f"mkdir -p {folder} && cat > {folder}/99-hold.conf", stdin=text)
    lab.hub.run("touch", HOLD)
    try:
        reboot(lab)
        lab.hub.run("ip", "link", "set", "tailscale0", "down")
        lab.hub.run("rm", HOLD)
        yield
    finally:
        lab.hub.run("rm", "-f", HOLD, *(f"/etc/systemd/system/{unit}.d/99-hold.conf" for unit in HELD))
        lab.hub.run("systemctl", "daemon-reload")
        lab.hub.run("sh", "-c", "; ".join(STARTS.values()), check=False)
        lab.hub.run("systemctl", "start", "multi-user.target", check=False)


@pytest.mark.nightly
@pytest.mark.parametrize("order", list(itertools.permutations(STARTS)), ids=" then ".join)
def test_it_holds_in_every_order_of_a_boot(lab: Lab, published: Published, order: tuple[str, ...]) -> None:
    with booted_without(lab), knocking(lab, published) as found:
        for name in order:
            lab.hub.run("sh", "-c", STARTS[name], check=False)
            time.sleep(2)
        lab.hub.run("systemctl", "start", "multi-user.target", check=False)
        published.answers(180)
    nobody_was_let_in(found, order)
    lab.hub.run("systemctl", "reset-failed", check=False)
    lab.everything_up()
    nothing_from_the_lan(lab, published, ways_of(published))
    exactly_the_doors(lab, published, ways_of(published))


# ---- 3: Tailscale in front of UFW
@contextmanager
def tailscale_before_ufw(lab: Lab) -> Iterator[None]:
    """A chain like Tailscale's ts-input: it accepts whatever comes by the tailnet, in front of everything of UFW."""
    chain = "like-ts-input"
    try:
        for tables in IPTABLES:
            lab.hub.run(tables, "-N", chain)
            lab.hub.run(tables, "-A", chain, "-i", "tailscale0", "-j", "ACCEPT")
            lab.hub.run(tables, "-I", "INPUT", "1", "-j", chain)
        yield
    finally:
        for tables in IPTABLES:
            lab.hub.run(tables, "-D", "INPUT", "-j", chain, check=False)
            lab.hub.run(tables, "-F", chain, check=False)
            lab.hub.run(tables, "-X", chain, check=False)


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_a_peer_asks_for_a_port_that_is_no_door(lab: Lab, family: str) -> None:
    """With Tailscale's accept in front of UFW the guard still refuses.

    Controls: without the guard's doors the hole is there; without Tailscale's accept UFW alone would have shut it.
    """
    address = [HUB["tailnet"][family]]
    listener = start_planted_listener(lab)
    try:
        with tailscale_before_ufw(lab):
            (ours,) = scanned(lab.client, address, "22,9999")
            with without(lab, "guard"):
                (hole,) = scanned(lab.client, address, "22,9999")
        with without(lab, "guard"):
            (ufw,) = scanned(lab.client, address, "22,9999")
    finally:
        lab.hub.run("kill", listener, check=False)
    assert ours["tcp"] == {"open": "22", "refused": "9999"}, "a clear refusal"
    assert opened(hole) == {22, 9999}, "control: the hole is real"
    assert opened(ufw) == {22}, "control: it is Tailscale's accept that makes it"


# ---- what is refused before anything is touched
@contextmanager
def a_network_on_the_lan(lab: Lab, name: str) -> Iterator[None]:
    """A macvlan network. Without a container it is only written down."""
    card = lab.hub.run("sh", "-c", f"ip -o -4 addr show | awk '$4 ~ \"^{V4}/\" {{ print $2 }}'").strip()
    lab.hub.run(
        *("docker", "network", "create", "--driver", "macvlan", "--subnet", "192.0.2.128/28"),
        *("--opt", f"parent={card}", name),
    )
    try:
        yield
    finally:
        lab.hub.run("docker", "network", "rm", name)


@pytest.mark.nightly
def test_a_network_on_the_lan_is_refused(lab: Lab) -> None:
    with a_network_on_the_lan(lab, "fw-lan"):
        done = play("site", "--tags", "docker")
        said = " ".join((done.stdout + done.stderr).split())
        assert done.returncode != 0 and "Docker network fw-lan: its driver is macvlan" in said, said[-3000:]
        accepted = play(
            "site", "--tags", "docker", "--check", "-e", '{"docker_engine_unfiltered_networks": ["fw-lan"]}'
        )
        said = " ".join((accepted.stdout + accepted.stderr).split())
        assert accepted.returncode == 0 and "its containers guard themselves" in said, said[-3000:]


@pytest.mark.nightly
def test_dockers_own_nftables_is_refused(lab: Lab) -> None:
    path = "/etc/docker/daemon.json"
    before = lab.hub.run("cat", path)
    # Written in place, and the daemon is not restarted: only what a user would have written is there.
    lab.hub.run("sh", "-c", f"cat > {path}", stdin=json.dumps({**json.loads(before), "firewall-backend": "nftables"}))
    try:
        done = play("site", "--tags", "docker")
    finally:
        lab.hub.run("sh", "-c", f"cat > {path}", stdin=before)
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode != 0 and "firewall-backend (nftables)" in said and "no chain DOCKER-USER" in said, said[
        -3000:
    ]
    assert lab.hub.run("cat", path) == before


@pytest.mark.nightly
def test_rules_in_legacy_tables_are_refused(lab: Lab) -> None:
    """What is written there, nobody of ours reads. Refused with the rule and the remedy, before anything is changed."""
    listed = lab.hub.run("iptables", "-S"), lab.hub.run("ip6tables", "-S")
    lab.hub.run("iptables-legacy", "-A", "INPUT", "-s", "192.0.2.1", "-j", "ACCEPT")
    try:
        done = play("site", "--tags", "docker")
    finally:
        lab.hub.run("iptables-legacy", "-F", "INPUT")
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode != 0, said[-3000:]
    sentence = "iptables-legacy or ip6tables-legacy has rules here (-A INPUT -s 192.0.2.1/32 -j ACCEPT)"
    assert sentence in said and "Find out what wrote them, then: iptables-legacy -F" in said, said[-3000:]
    assert recap(done.stdout)["changed"] == 0, said[-3000:]
    assert (lab.hub.run("iptables", "-S"), lab.hub.run("ip6tables", "-S")) == listed


# ---- playbooks/doors.yml
def tried(tmp_path: Path, *words: str) -> tuple[int, str, dict[str, dict[str, Any]]]:
    """Exit status, output, and result by side."""
    result = tmp_path / "doors.json"
    result.unlink(missing_ok=True)
    done = play("doors", "-e", f"doors_result_file={result}", *words)
    listed = json.loads(result.read_text()) if result.exists() else []
    return done.returncode, done.stdout + done.stderr, {item["side"]: item for item in listed}


def probes(tmp_path: Path) -> tuple[str, ...]:
    """The stranger and the client as probes of an inventory of their own, beside the lab's."""
    hosts = {
        name: {
            "ansible_connection": "community.docker.docker",
            "ansible_host": Machine(name).name,
            "doors_from": side,
            "ansible_python_interpreter": "/usr/bin/python3",
            "doors_addresses": list(HUB[side].values()),
        }
        for name, side in (("stranger", "lan"), ("client", "tailnet"))
    }
    path = tmp_path / "probes.yml"
    path.write_text(yaml.safe_dump({"probes": {"hosts": hosts}}))
    return ("--inventory", str(path))


@pytest.mark.parametrize("by", ["probes", pytest.param("namespaces", marks=pytest.mark.nightly)])
def test_the_playbook_says_the_same(lab: Lab, published: Published, tmp_path: Path, by: str) -> None:
    words = (*(probes(tmp_path) if by == "probes" else ()), "-e", f"doors_tcp_ports={ways_of(published)},4000,4001")
    status, said, results = tried(tmp_path, *words)
    assert status == 0, said[-3000:]
    assert {side: item["verdict"] for side, item in results.items()} == {"lan": "green", "tailnet": "green"}
    if by == "namespaces":
        assert results["tailnet"]["entered"] == "tailscale0", results["tailnet"]["note"]
        assert "doors-" not in lab.hub.run("ip", "-o", "link"), "nothing of the stage is left"


@pytest.mark.nightly
@pytest.mark.parametrize("by", ["probes", "namespaces"])
def test_the_playbook_tries_every_port(lab: Lab, published: Published, tmp_path: Path, by: str) -> None:
    status, said, results = tried(tmp_path, *(probes(tmp_path) if by == "probes" else ()))
    assert status == 0 and set(results) == {"lan", "tailnet"}, said[-3000:]
    assert " 65535 ports" in said.replace(",", ""), said[-3000:]


@pytest.mark.nightly
@pytest.mark.parametrize("by", ["probes", "namespaces"])
def test_the_playbook_finds_a_hole(lab: Lab, published: Published, tmp_path: Path, by: str) -> None:
    """Control: with the locks away it is red, and names the port."""
    words = (*(probes(tmp_path) if by == "probes" else ()), "-e", "doors_tcp_ports=22,4000,4001,18101,18104")
    with without(lab, *LOCKS):
        status, said, results = tried(tmp_path, *words, "-e", '{"doors_sides": ["lan"]}')
    assert status != 0 and results["lan"]["verdict"] == "red", said[-3000:]
    assert "tcp 18101" in said and "differs" in said, said[-3000:]
