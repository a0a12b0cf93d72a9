# SPDX-License-Identifier: MIT
"""The scanner against real sockets, a real filter and real silence, in namespaces of its own."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from ansible_collections.mushishi.sovereign.plugins.module_utils.doors import scan, udp

InNamespace = Any
JOB = {
    "tcp": list(range(1, 3001)),
    "udp": [[53, ""], [5000, ""], [6000, ""]],
    "parallel": 500,
    "patience": 0.6,
    "udp_patience": 0.3,
}


@pytest.mark.parametrize(
    ("text", "ports"),
    [("", []), ("22", [22]), ("3-5, 1", [1, 3, 4, 5]), ("1-65535", list(range(1, 65536))), ("5,5", [5])],
)
def test_ports_are_read_and_spelled(text: str, ports: list[int]) -> None:
    assert scan.ports_of(text) == ports
    assert scan.ports_of(scan.spelled(ports)) == ports


@pytest.mark.parametrize("text", ["0", "65536", "1-70000", "x", "-1"])
def test_what_is_no_port_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"ports|invalid"):
        scan.ports_of(text)


@pytest.mark.parametrize(
    ("number", "outcome"),
    [
        (errno.ECONNREFUSED, "refused"),
        (errno.ETIMEDOUT, "silent"),
        (errno.EHOSTUNREACH, "unreachable"),
        (errno.EACCES, "unreachable"),
        (0, "unreachable"),
    ],
)
def test_an_error_means_something(number: int, outcome: str) -> None:
    assert scan.means(number) == outcome


def test_progress_says_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(scan.time, "monotonic", lambda: now[0])
    told: list[Any] = []
    progress = scan.Progress(told.append, 1000)
    progress.what = "192.0.2.1 TCP"
    for _port in range(250):
        now[0] += 0.1
        progress.step()
    assert 10 <= len(told) <= 13, "every two seconds, not at every port"
    assert told[-1]["progress"].startswith("192.0.2.1 TCP: 2") and told[-1]["progress"].endswith(" left")
    assert "about 1:" in told[-1]["progress"]


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_open_closed_and_filtered_are_told_apart(in_namespace: InNamespace, address: str) -> None:
    """A listener, nobody, and a filter that drops without a word; for TCP and UDP."""
    (result,) = in_namespace(
        """
        kept = [listen(given["address"], 2222), listen(given["address"], 5000, socket.SOCK_DGRAM)]
        six = ":" in given["address"]
        tables = "ip6tables" if six else "iptables"
        sh(f"{tables} -A INPUT -p tcp --dport 1000:1999 -j DROP")
        sh(f"{tables} -A INPUT -p tcp --dport 2000 -j REJECT --reject-with tcp-reset")
        sh(f"{tables} -A INPUT -p udp --dport 53 -j DROP")
        print(json.dumps(scan.scan({**given["job"], "addresses": [given["address"]]}, lambda event: None)))
        """,
        address=address,
        job=JOB,
    )
    assert result["tcp"] == {"open": "2222", "refused": "1-999,2000-2221,2223-3000", "silent": "1000-1999"}
    assert result["udp"] == {"open": "5000", "refused": "6000", "silent": "53"}
    assert result["control"] == {"tcp": "open", "udp": "open"} and result["evidence"] == "it answered"


def test_a_control_that_is_not_found_says_so(in_namespace: InNamespace) -> None:
    (result,) = in_namespace(
        """
        sh("iptables -A INPUT -j DROP")
        print(json.dumps(scan.scan({**given["job"], "addresses": ["127.0.0.1"]}, lambda event: None)))
        """,
        job={**JOB, "tcp": [1, 2], "patience": 0.2},
    )
    assert result["control"] == {"tcp": "silent", "udp": "silent"}
    assert result["tcp"] == {"silent": "1-2"} and result["evidence"] == ""


def test_an_address_without_a_way_is_not_tested(in_namespace: InNamespace) -> None:
    results = in_namespace(
        """
        print(json.dumps(scan.scan({**given["job"], "addresses": ["192.0.2.1", "2001:db8::1"]}, lambda event: None)))
        """,
        job=JOB,
    )
    assert [result["route"] for result in results] == [False, False]


#: A machine that drops everything, and a stranger on its network.
NEIGHBOURS = """
stranger = subprocess.Popen(["unshare", "--net", "sleep", "60"])
time.sleep(0.3)
inside = f"nsenter --target={stranger.pid} --net"
sh(f"ip link add dev doors-a type veth peer name doors-b netns {stranger.pid}")
sh("ip addr add 192.0.2.1/24 dev doors-a; ip -6 addr add 2001:db8::1/64 dev doors-a nodad; ip link set doors-a up")
for line in ("ip link set lo up", "ip addr add 192.0.2.2/24 dev doors-b",
             "ip -6 addr add 2001:db8::2/64 dev doors-b nodad", "ip link set doors-b up"):
    sh(f"{inside} {line}")
"""


def test_a_dead_machine_is_told_from_no_machine(in_namespace: InNamespace) -> None:
    """The network card of the first answers; at the other addresses there is nobody."""
    results = in_namespace(
        NEIGHBOURS
        + """
        sh("iptables -A INPUT -j DROP; ip6tables -A INPUT -p tcp -j DROP; ip6tables -A INPUT -p udp -j DROP")
        import inspect
        program = inspect.getsource(scan) + "\\nmain()\\n"
        job = {**given["job"], "addresses": ["192.0.2.1", "2001:db8::1", "192.0.2.9", "2001:db8::9"]}
        done = subprocess.run([*inside.split(), sys.executable, "-I", "-c", program], input=json.dumps(job) + "\\n",
                              capture_output=True, text=True)
        stranger.kill()
        assert done.returncode == 0, done.stderr
        print(json.dumps(json.loads(done.stdout.splitlines()[-1])["result"]))
        """.replace("\n        ", "\n"),
        job={**JOB, "tcp": list(range(1, 101)), "udp": [[53, ""]], "patience": 1},
    )
    alive4, alive6, nobody4, nobody6 = results
    for result in (alive4, alive6):
        assert result["tcp"] == {"silent": "1-100"} and "network card answered" in result["evidence"], result
    for result in (nobody4, nobody6):
        # Silent or unreachable, as long as one waits: by that alone it looks like the dead machine.
        assert set(result["tcp"]) <= {"silent", "unreachable"} and result["evidence"] == "", result
    assert all(result["control"] == {"tcp": "open", "udp": "open"} for result in results)


@pytest.mark.nightly
def test_all_ports_in_bounded_time(in_namespace: InNamespace) -> None:
    """65,535 ports that drop: as long as the patience, for so many at a time, and not much longer."""
    seconds, result, alone = in_namespace(
        """
        kept = listen("127.0.0.1", 61234)
        # A socket that meets itself: it gets the port that it asks for.
        sh("sysctl -q -w net.ipv4.ip_local_port_range='20000 20001'")
        alone = [asyncio.run(scan.knock("127.0.0.1", port, 1)) for port in (20000, 20001) * 4]
        sh("sysctl -q -w net.ipv4.ip_local_port_range='32768 60999'")
        sh("iptables -A INPUT -p tcp --syn ! --dport 61234 -j DROP")
        began = time.monotonic()
        job = {**given["job"], "tcp": scan.ports_of("1-65535"), "addresses": ["127.0.0.1"]}
        (result,) = scan.scan(job, lambda event: None)
        print(json.dumps([time.monotonic() - began, result, alone]))
        """,
        timeout=300,
        job={**JOB, "udp": [], "parallel": 6000, "patience": 1.0},
    )
    assert result["tcp"]["open"] == "61234" and result["tcp"]["silent"] == "1-61233,61235-65535"
    assert "open" not in alone, "a socket that met itself is no open port"
    assert seconds < 150, "11 rounds of one second, and what the processor needs"


# ---- the list
def test_there_are_two_hundred() -> None:
    assert len(udp.ports()) == 200 == sum(len(entries.split(", ")) for entries in udp.GROUPS.values())
    assert all(1 <= port <= 65535 and name and name == name.lower() for port, name in udp.ports().items())
    assert {22, 53, 123, 137, 161, 443, 1900, 3478, 5353, 41641, 51820} <= set(udp.ports())


def test_every_question_is_for_a_port_of_the_list() -> None:
    assert set(udp.QUESTIONS) <= set(udp.ports())
    asked = {int(str(port)): bytes.fromhex(str(text)) for port, text in udp.questions()}
    assert set(asked) == set(udp.ports()) and asked[7] == scan.WORD and asked[123][0] == 0x23
    assert len(asked[443]) == 1200 and len(asked[161]) == 2 + asked[161][1], "lengths that the protocols demand"
    assert udp.questions([53, 40000])[1] == [40000, scan.WORD.hex()]


#: A machine with a card, and its neighbour, who scans: link-local addresses on both ends of one wire.
WIRE = """
other = subprocess.Popen(["unshare", "--net", "sleep", "120"])
mine = os.readlink("/proc/self/ns/net")
while os.readlink(f"/proc/{other.pid}/ns/net") == mine: time.sleep(0.05)
inside = f"nsenter --target={other.pid} --net -- "
sh(f"ip link add card0 type veth peer name eth7 netns {other.pid}; {inside} ip link set lo up")
for where, card, four, six in (("", "card0", "10.77.0.10", "fe80::a"), (inside, "eth7", "10.77.0.20", "fe80::14")):
    sh(f"{where} ip link set {card} up; {where} ip addr add {four}/24 dev {card}")
    sh(f"{where} ip -6 addr add {six}/64 dev {card} nodad")
kept = [listen("::", 2222)]
sh("ip6tables -A INPUT -p tcp --dport 1000:1999 -j DROP")
program = open(scan.__file__).read() + "\\nmain()\\n"
argv = [*inside.split(), sys.executable, "-I", "-c", program]
"""


def test_a_neighbour_tries_link_local_addresses_too(in_namespace: InNamespace) -> None:
    """By the interface of those who are neighbours anyhow. One that nobody there has is not tested, and not silent."""
    results = in_namespace(
        WIRE
        + """
job = json.dumps({**given["job"], "addresses": ["fe80::a", "10.77.0.10", "fe80::dead"]}) + "\\n"
done = subprocess.run(argv, input=job, capture_output=True, text=True, timeout=80)
other.kill()
print(json.dumps(json.loads(done.stdout.splitlines()[-1])["result"]))
""",
        job={**JOB, "tcp": [22, 1000, 2222], "udp": []},
    )
    near, four, nobody = results
    assert near["address"] == "fe80::a%eth7" and near["control"] == {"tcp": "open", "udp": "open"}
    assert near["tcp"] == {"open": "2222", "refused": "22", "silent": "1000"} and near["evidence"] == "it answered"
    assert four["tcp"] == {"refused": "22,1000,2222"} and four["address"] == "10.77.0.10"
    assert (nobody["route"], nobody["tcp"]) == (False, {})


def test_only_link_local_addresses_get_an_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    routes = {
        "10.0.0.1": [{"dst": "10.0.0.1", "gateway": "10.77.0.1", "dev": "eth1"}],
        "10.77.0.10": [{"dst": "10.77.0.10", "dev": "eth0"}],
        "127.0.0.1": [{"type": "local", "dst": "127.0.0.1", "dev": "lo"}],
    }
    monkeypatch.setattr(scan, "told", lambda *words: routes.get(words[-1], []))
    given = ["127.0.0.1", "10.0.0.1", "10.77.0.10", "fe80::1", "fe80::2%eth9", "fd00::1"]
    assert scan.with_zones(given) == ["127.0.0.1", "10.0.0.1", "10.77.0.10", "fe80::1%eth0", "fe80::2%eth9", "fd00::1"]
    assert scan.with_zones(["10.0.0.1", "fe80::1"]) == ["10.0.0.1", "fe80::1"], "nobody is a neighbour"
