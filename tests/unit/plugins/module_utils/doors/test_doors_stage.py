# SPDX-License-Identifier: MIT
"""The stage: packets really come in by the interface that is named, and nothing is left, however it ends."""

from __future__ import annotations

import json
from typing import Any

import pytest

InNamespace = Any
JOB = {"tcp": list(range(1, 501)), "udp": [[53, ""], [5000, ""]], "parallel": 300, "patience": 0.5, "udp_patience": 0.3}

#: A machine with a LAN card and a tailnet, whose filter judges by the name of the interface alone.
MACHINE = """
sh("ip link add dev card0 type veth peer name plug0; ip link set plug0 up; ip link set card0 up")
sh("ip addr add 10.77.0.10/24 dev card0; ip -6 addr add fd77:77::10/64 dev card0 nodad")
sh("ip link add dev tailscale0 type veth peer name plug1; ip link set plug1 up; ip link set tailscale0 up")
sh("ip addr add 100.64.77.10/24 dev tailscale0; ip -6 addr add fd7a:115c:a1e0:77::10/64 dev tailscale0 nodad")
kept = [listen(address, port) for address in ("0.0.0.0", "::") for port in (22, 400)]
kept += [listen(address, 5000, socket.SOCK_DGRAM) for address in ("0.0.0.0", "::")]
for tables in ("iptables", "ip6tables"):
    sh(f"{tables} -A INPUT -i lo -j ACCEPT; {tables} -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT")
    sh(f"{tables} -A INPUT -i tailscale0 -p tcp --dport 22 -j ACCEPT")
    sh(f"{tables} -A INPUT -i tailscale0 -p tcp -j REJECT --reject-with tcp-reset")
    sh(f"{tables} -A INPUT -i tailscale0 -p udp -j REJECT; {tables} -A INPUT -i card0 -p tcp --dport 400 -j ACCEPT")
    sh(f"{tables} -A INPUT -p tcp -j DROP; {tables} -A INPUT -p udp -j DROP")
before = state()
"""
AFTER = """
time.sleep(0.5)
assert state() == before, state()
"""


def on(machine: str, program: str) -> str:
    return machine + program + AFTER


def test_the_tailnet_is_played_by_its_own_interface(in_namespace: InNamespace) -> None:
    addresses = ["100.64.77.10", "fd7a:115c:a1e0:77::10"]
    results, entered, note, result = in_namespace(
        on(
            MACHINE,
            """
played = stage.played("tailnet", {**given["job"], "addresses": given["addresses"]}, "tailscale0", lambda event: None)
""",
        )
        + "print(json.dumps([*played, 0]))\n",
        job=JOB,
        addresses=addresses,
    )
    assert (entered, note, result) == ("tailscale0", "", 0)
    for seen in results:
        assert seen["tcp"]["open"] == "22", seen
        assert set(seen["tcp"]) == {"open", "refused"} and seen["udp"] == {"refused": "53,5000"}
        assert seen["control"] == {"tcp": "open", "udp": "open"} and seen["evidence"] == "it answered"


#: What a client of a tailnet does to routes: a table of its own, asked first, with the whole IPv6 range.
CLIENT = """
for family in ("-4", "-6"): sh(f"ip {family} rule add pref 5270 lookup 52")
sh("ip -6 route add fd7a:115c:a1e0::/48 dev tailscale0 table 52; ip route add 100.64.77.9/32 dev tailscale0 table 52")
def table_52(): return sh("ip -6 route show table 52; ip route show table 52")
there = table_52()
"""


def test_answers_come_back_where_a_client_has_the_whole_range(in_namespace: InNamespace) -> None:
    results, entered, note = in_namespace(
        on(
            MACHINE + CLIENT + "before = state()\n",
            """
job = {**given["job"], "addresses": ["100.64.77.10", "fd7a:115c:a1e0:77::10"]}
played = stage.played("tailnet", job, "tailscale0", lambda event: None)
""",
        )
        + "assert table_52() == there, table_52()\nprint(json.dumps(played))\n",
        job=JOB,
    )
    assert (entered, note) == ("tailscale0", "")
    for seen in results:
        assert seen["tcp"]["open"] == "22" and set(seen["tcp"]) == {"open", "refused"}, seen


@pytest.mark.parametrize(
    ("side", "lost"),
    [("tailnet", "fd7a:115c:a1e0:d00f::2/128"), ("tailnet", "100.115.92.2/32"), ("lan", "192.0.2.66/32")],
)
def test_without_a_way_back_nothing_is_tested(in_namespace: InNamespace, side: str, lost: str) -> None:
    """Every port would be silent, whatever is open."""
    results, entered, note = in_namespace(
        on(
            MACHINE + CLIENT,
            """
sh(f"ip route add {given['lost']} dev tailscale0 table 52"); before = state(); there = table_52()
job = {**given["job"], "addresses": ["100.64.77.10"]}
played = stage.played(given["side"], job, "tailscale0" if given["side"] == "tailnet" else "card0", lambda event: None)
""",
        )
        + "assert table_52() == there, table_52()\nprint(json.dumps(played))\n",
        job=JOB,
        side=side,
        lost=lost,
    )
    assert (results, entered, note) == ([], "", f"answers to {lost.partition('/')[0]} would leave by tailscale0")


def test_the_lan_is_played_by_its_card(in_namespace: InNamespace) -> None:
    """A rule that names the card meets the stranger of the stage. Control: by the wire's own name it does not."""
    by_card, by_wire = in_namespace(
        on(
            MACHINE,
            """
job = {**given["job"], "addresses": ["10.77.0.10", "fd77:77::10", "100.64.77.10"]}
played = [stage.played("lan", job, name, lambda event: None) for name in ("card0", "")]
""",
        )
        + "print(json.dumps(played))\n",
        job=JOB,
    )
    assert by_card[1:] == ["card0", ""] and by_wire[1] == "doors-lan0"
    assert [seen["tcp"].get("open") for seen in by_card[0]] == ["400", "400", "400"]
    assert [seen["tcp"] for seen in by_wire[0]] == [{"silent": "1-500"}] * 3
    assert all("packets came in by doors-lan0" in seen["evidence"] for seen in by_wire[0])


@pytest.mark.parametrize(
    ("change", "enter", "word"),
    [
        ("ip link set tailscale0 down", "tailscale0", "is down"),
        ("sysctl -q -w net.ipv4.conf.all.rp_filter=1", "tailscale0", "rp_filter of tailscale0 is strict"),
        ("true", "none0", "there is no interface none0"),
        ("true", "", "no interface was named"),
    ],
)
def test_a_tailnet_that_cannot_be_played_is_not_tested(
    in_namespace: InNamespace, change: str, enter: str, word: str
) -> None:
    results, entered, note = in_namespace(
        on(
            MACHINE,
            """
sh(given["change"]); before = state()
played = stage.played("tailnet", {**given["job"], "addresses": ["100.64.77.10"]}, given["enter"], lambda event: None)
""",
        )
        + "print(json.dumps(played))\n",
        job=JOB,
        change=change,
        enter=enter,
    )
    assert (results, entered) == ([], "") and word in note


def test_an_address_that_is_taken_is_not_taken_again(in_namespace: InNamespace) -> None:
    said = in_namespace(
        on(
            MACHINE + 'sh("ip addr add 192.0.2.70/24 dev card0; ip addr add 192.0.2.66/24 dev card0")\n'
            "before = state()\n",
            """
try:
    stage.played("lan", {**given["job"], "addresses": ["10.77.0.10"]}, "card0", lambda event: None)
    said = "nothing"
except Exception as error:
    said = str(error)
""",
        )
        + "print(json.dumps(said))\n",
        job=JOB,
    )
    assert "192.0.2.66 on card0 is in the way" in said


@pytest.mark.parametrize("how", ["TERM", "KILL", "INT"])
def test_nothing_is_left_however_it_ends(in_namespace: InNamespace, how: str) -> None:
    """The process is ended in the middle of a scan; namespace, wire and scanner go with it."""
    there, left = in_namespace(
        MACHINE
        + """
player = HEAD + '''
stage.played("lan", json.loads(sys.argv[1]), "card0", lambda event: None)
'''
job = json.dumps({**given["job"], "addresses": ["10.77.0.10"], "patience": 20})
process = subprocess.Popen([sys.executable, "-c", player, job])
for _turn in range(100):
    time.sleep(0.1)
    there = "doors-lan0" in sh("ip -br link")
    if there: break
time.sleep(1)
children = sh(f"ps -o pid= --ppid {process.pid}").split()
sh(f"kill -{given['how']} {process.pid}"); process.wait(timeout=20)
time.sleep(1)
# One that is dead and waits to be taken note of is no process.
alive = [pid for pid in children if os.path.exists(f"/proc/{pid}") and " Z " not in open(f"/proc/{pid}/stat").read()]
print(json.dumps([there and bool(children), [state() == before, alive]]))
""".replace("HEAD", "given['head']"),
        job=JOB,
        how=how,
        head="import json, os, sys\nsys.path.insert(0, os.environ['COLLECTIONS'])\n"
        "from ansible_collections.mushishi.sovereign.plugins.module_utils.doors import stage\n",
    )
    assert there, "control: the stage was there"
    assert left == [True, []], json.dumps(left)
