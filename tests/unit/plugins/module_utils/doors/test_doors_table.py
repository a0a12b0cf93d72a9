# SPDX-License-Identifier: MIT
"""What was expected of each port, what was seen, and when a silence proves nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.mushishi.sovereign.plugins.filter.door_addresses import FilterModule, door_addresses
from ansible_collections.mushishi.sovereign.plugins.module_utils.doors import table

DOORS = [
    {"name": "ssh", "port": 22, "protocol": "tcp", "role": "ssh"},
    {"name": "hybrid gateway", "port": 4000, "protocol": "tcp", "role": "ingress"},
]
FOUND = {"tcp": "open", "udp": "open"}


def result(tcp: dict[str, str], udp: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    """What the scanner says of one address."""
    said = {"address": "192.0.2.10", "route": True, "control": FOUND, "evidence": "it answered"}
    return {**said, "tcp": tcp, "udp": udp if udp is not None else {"silent": "53,123"}, **more}


DEAD = result({"silent": "1-65535"}, evidence="its network card answered (02:00:00:00:00:01)")
EXACT = result({"open": "22,4000", "refused": "1-21,23-3999,4001-65535"}, {"refused": "53,123"})


@pytest.mark.parametrize(
    ("side", "seen", "verdict", "word"),
    [
        ("lan", DEAD, "green", ""),
        ("tailnet", EXACT, "green", ""),
        # Slower than a refusal, and not open.
        ("tailnet", result({"open": "22,4000", "silent": "1-21,23-3999,4001-65535"}), "green", ""),
        ("lan", EXACT, "red", "tcp 22 open, expected silent, and 3 more"),
        ("lan", result({"silent": "1-8079,8081-65535", "open": "8080"}), "red", "tcp 8080 open, expected silent"),
        # A refusal says that somebody is there.
        ("lan", result({"silent": "2-65535", "refused": "1"}), "red", "tcp, 1 ports refused, expected silent"),
        ("lan", result({"silent": "1-65535"}, {"open": "5353", "silent": "53"}), "red", "udp 5353 open"),
        ("tailnet", result({"open": "22", "refused": "1-21,23-65535"}), "red", "tcp 4000 refused, expected open"),
        ("tailnet", result({"open": "22,4000,8188", "refused": "1"}), "red", "tcp 8188 open, expected refused"),
        ("lan", result({"silent": "1-65535"}, evidence=""), "invalid", "nothing shows that the machine was there"),
        ("lan", {**DEAD, "control": {"tcp": "open", "udp": "silent"}}, "invalid", "udp control: silent"),
        ("lan", {**DEAD, "control": {}}, "invalid", "none was planted"),
        ("lan", {**DEAD, "route": False}, "invalid", "Nothing was tested from the lan"),
        ("tailnet", result({"silent": "1-65535"}, evidence=""), "red", "tcp 22 silent, expected open"),
    ],
)
def test_verdict(side: str, seen: dict[str, Any], verdict: str, word: str) -> None:
    rows = table.rows_of("mac", side, seen, DOORS)
    assert table.verdict(rows) == verdict, rows
    assert word in table.why(rows) and bool(table.why(rows)) is (verdict != "green")


#: As ``tailscale status --json`` has them; the port differs by family.
PEER_API = ["http://192.0.2.10:40123", "http://[fd7a:115c:a1e0:0::1]:50123"]


@pytest.mark.parametrize("outcome", ["open", "refused"])
def test_what_the_client_answers_by_itself_has_a_row_and_is_no_difference(outcome: str) -> None:
    """A real peer finds it open, a played one does not. Control: unsaid it is a port that nobody declared."""
    closed = {"refused": "1-21,23-3999,4001-40122,40124-65535"}
    seen = result({"open": "22,4000" + (",40123" if outcome == "open" else ""), **closed})
    if outcome == "refused":
        seen["tcp"]["refused"] += ",40123"
    rows = table.rows_of("mac", "tailnet", seen, DOORS, PEER_API)
    (row,) = [row for row in rows if row.port == "tcp 40123"]
    assert (row.expected, row.seen, row.verdict) == (table.PEER_API, outcome, "holds")
    assert table.verdict(rows) == "green"
    unsaid = table.verdict(table.rows_of("mac", "tailnet", seen, DOORS))
    assert unsaid == ("red" if outcome == "open" else "green")


def test_that_port_is_the_clients_at_its_own_address_on_the_tailnet_alone() -> None:
    seen = result({"open": "22,4000,40123", "refused": "1"})
    assert table.verdict(table.rows_of("pi", "lan", result({"open": "40123", "silent": "1"}), DOORS, PEER_API)) == "red"
    six = {**seen, "address": "fd7a:115c:a1e0::1"}
    assert table.verdict(table.rows_of("mac", "tailnet", six, DOORS, PEER_API)) == "red"
    assert table.peer_ports(PEER_API, "fd7a:115c:a1e0::1") == {50123} and table.peer_ports([], "192.0.2.10") == set()
    # One that was not tried has no row; a door of the machine's stays a door.
    short = table.rows_of("mac", "tailnet", result({"open": "22,4000"}), DOORS, [*PEER_API, "http://192.0.2.10:22"])
    assert [row.port for row in short if row.expected == table.PEER_API] == []


def test_one_side_without_proof_is_enough() -> None:
    lan = table.rows_of("pi", "lan", DEAD, DOORS)
    away = table.rows_of("mac", "tailnet", {**EXACT, "route": False}, DOORS)
    assert table.verdict(lan) == "green" and table.verdict([*lan, *away]) == "invalid"
    assert table.verdict([]) == "invalid" and table.why([]) == "Nothing was tested."
    other = table.rows_of("pi", "lan", {**DEAD, "address": "2001:db8::10", "route": False}, DOORS)
    assert table.verdict([*lan, *other]) == "green", "an address without a way from here, beside one that was tried"


def test_a_door_for_datagrams_may_keep_silent() -> None:
    doors = [*DOORS, {"name": "wireguard", "port": 51820, "protocol": "udp"}]
    seen = {**EXACT, "udp": {"refused": "53", "silent": "51820"}}
    rows = {row.port: row for row in table.rows_of("mac", "tailnet", seen, doors)}
    assert rows["udp 51820"].verdict == "not tested" and "does not answer" in rows["udp 51820"].seen
    assert rows["tcp 22"].verdict == "holds"


def test_a_door_outside_what_was_tried_is_not_tested() -> None:
    rows = {row.port: row for row in table.rows_of("mac", "tailnet", result({"open": "22"}), DOORS)}
    assert (rows["tcp 4000"].seen, rows["tcp 4000"].verdict) == ("not tried", "not tested")


def test_the_table_shows_what_differs_first_and_can_be_filtered() -> None:
    rows = table.rows_of("pi", "lan", result({"silent": "1-8079,8081-65535", "open": "8080"}), DOORS)
    lines = table.lines(rows, rows)
    assert lines[0].startswith("Verdict: red. pi (lan) saw 192.0.2.10 tcp 8080 open")
    assert lines[1].split(" · ")[:3] == ["from    ", "address   ", "port            "]
    assert lines[2].startswith("pi (lan) · 192.0.2.10 · tcp 8080") and lines[2].endswith("differs")
    assert "tcp, 65534 ports" in lines[3] and lines[3].rstrip().endswith("silent")
    few = table.chosen(rows, ["tcp 8080"])
    assert [row.port for row in few] == ["tcp 8080"] and table.chosen(rows, []) == rows
    assert table.lines(table.chosen(rows, ["nothing"]), rows)[0].startswith("Verdict: red."), "the verdict is of all"


def test_a_verdict_that_there_is_not_is_an_error() -> None:
    with pytest.raises(ValueError, match="no such verdict"):
        table.Row("a", "lan", "b", "c", "d", "e", "fine")


# ---- addresses
def entry(name: str, *addresses: str, **more: Any) -> dict[str, Any]:
    return {"ifname": name, "addr_info": [{"local": text, "scope": "global", **more} for text in addresses]}


SHOWN = [
    entry("lo", "127.0.0.1"),
    entry("enp5s0", "192.168.1.10", "2001:db8::10"),
    {"ifname": "enp5s0", "addr_info": [{"local": "fe80::1", "scope": "link"}]},
    {"ifname": "tailscale0", "addr_info": [{"local": "fe80::7", "scope": "link"}]},
    entry("wlan0", "192.168.1.11"),
    entry("wlan1", "2001:db8::9", deprecated=True),
    entry("tailscale0", "100.64.0.2", "fd7a:115c:a1e0::2"),
    entry("docker0", "10.90.0.1"),
    entry("br-sovereign", "10.88.0.1"),
    entry("veth12ab", "169.254.1.1"),
]


def test_addresses_are_sorted_by_who_can_knock() -> None:
    found = door_addresses(json.dumps(SHOWN), json.dumps([{"dst": "default", "dev": "wlan0"}]), "tailscale0")
    assert found == {
        "lan": ["192.168.1.10", "2001:db8::10", "192.168.1.11"],
        "link": ["fe80::1"],
        "tailnet": ["100.64.0.2", "fd7a:115c:a1e0::2"],
        "card": "wlan0",
    }
    # A machine whose LAN has IPv6 alone: the routes of both families are one list.
    six = [{"dst": "default", "dev": "tailscale0"}, {"dst": "default", "dev": "enp5s0"}]
    assert door_addresses(json.dumps(SHOWN), json.dumps(six), "tailscale0")["card"] == "enp5s0"
    other = door_addresses(json.dumps(SHOWN), "[]", "wg-home")
    assert other["card"] == "enp5s0" and other["tailnet"] == [] and "100.64.0.2" in other["lan"]
    assert door_addresses("", "", "tailscale0") == {"lan": [], "link": [], "tailnet": [], "card": ""}


def test_an_answer_that_is_no_json_is_an_error() -> None:
    with pytest.raises(AnsibleFilterError, match="ip -json"):
        door_addresses("Object not found", "[]", "tailscale0")
    assert FilterModule().filters() == {"door_addresses": door_addresses}
