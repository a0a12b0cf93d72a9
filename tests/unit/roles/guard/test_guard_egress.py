# SPDX-License-Identifier: MIT
"""What the names of the policy open (P10): their addresses now, nothing private, the last ones for a day."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import mushishi_egress as egress
import pytest
from rendering import Rendered

NOW = 1_000_000.0
#: Counters of who knocked where no door is.
DOORS = {"lan_to_host", "lan_to_containers", "tailnet_to_host", "tailnet_to_containers"}
USER = egress.User("mushishi-hybrid-gateway", "egress_hybrid_gateway", {"a.example": [443], "b.example": [443, 8443]})
ANSWERS = {"a.example": ["203.0.113.1", "2001:db8::1"], "b.example": ["203.0.113.2"]}


def ask(host: str) -> list[str]:
    return ANSWERS.get(host, [])


def test_a_name_opens_its_addresses_and_ports() -> None:
    known, current, said = egress.learn({}, USER.hosts, ask, NOW)
    assert said == [] and current == ANSWERS
    sets = egress.elements(USER, known)
    assert sets == {
        "egress_hybrid_gateway_4": ["203.0.113.1 . 443", "203.0.113.2 . 443", "203.0.113.2 . 8443"],
        "egress_hybrid_gateway_6": ["2001:db8::1 . 443"],
    }
    text = egress.transaction(sets)
    assert text.count("flush set inet mushishi_guard") == 2
    assert "add element inet mushishi_guard egress_hybrid_gateway_6 { 2001:db8::1 . 443 }\n" in text
    assert egress.hosts_file(USER, current).splitlines()[2:] == [
        "2001:db8::1 a.example",
        "203.0.113.1 a.example",
        "203.0.113.2 b.example",
    ]


@pytest.mark.parametrize(
    "address",
    [
        *("10.88.0.2", "192.168.1.1", "172.16.9.9", "127.0.0.1", "100.64.0.7", "169.254.169.254", "224.0.0.1"),
        *("::1", "::ffff:10.0.0.1", "fd00::1", "fe80::1", "ff02::1", "0.0.0.0", "255.255.255.255"),
    ],
)
def test_a_resolver_that_lies_opens_nothing_private(address: str) -> None:
    known, current, said = egress.learn({}, ["x"], lambda host: [address, "203.0.113.9"], NOW)
    assert known == {"x": {"203.0.113.9": NOW}} and current == {"x": ["203.0.113.9"]}
    assert said == [f"x names {address}, which no name may open"]


def test_an_address_that_moved_stays_open_for_a_while() -> None:
    before = {"a.example": {"203.0.113.77": NOW - 60, "203.0.113.78": NOW - egress.KEPT_SECONDS - 1}}
    known, current, _said = egress.learn(before, ["a.example"], ask, NOW)
    assert sorted(known["a.example"]) == ["2001:db8::1", "203.0.113.1", "203.0.113.77"]
    assert "203.0.113.77" not in current["a.example"], "but nobody is sent there"


@pytest.mark.parametrize(("age", "open_"), [(3600, True), (egress.HELD_SECONDS + 1, False)])
def test_a_name_that_nobody_knows_keeps_its_addresses_for_a_day(age: float, open_: bool) -> None:
    before = {"gone.example": {"203.0.113.5": NOW - age, "203.0.113.6": NOW - age - 50}}
    known, current, said = egress.learn(before, ["gone.example"], ask, NOW)
    assert (current.get("gone.example"), bool(known)) == ((["203.0.113.5"], True) if open_ else (None, False))
    assert ("are kept" if open_ else "it is closed") in said[0]


def test_a_name_that_the_policy_no_longer_has_is_closed() -> None:
    known, _current, _said = egress.learn({"old.example": {"203.0.113.5": NOW}}, ["a.example"], ask, NOW)
    assert list(known) == ["a.example"]
    assert egress.transaction({"s": []}) == "flush set inet mushishi_guard s\n"


def config(folder: Path) -> Path:
    hosts = [{"host": host, "port": port} for host, ports in USER.hosts.items() for port in ports]
    path = folder / "egress.json"
    path.write_text(json.dumps({"users": {USER.name: {"set": USER.group, "hosts": hosts}}}))
    return path


def test_all_of_it(tmp_path: Path) -> None:
    loaded: list[str] = []
    hosts, state = tmp_path / f"hosts-{USER.name}", tmp_path / "addresses.json"
    assert egress.refresh(config(tmp_path), state, tmp_path, ask, loaded.append) == []
    inode, text = hosts.stat().st_ino, hosts.read_text()
    assert "203.0.113.2 b.example\n" in text and "203.0.113.1 . 443" in loaded[-1]
    assert oct(hosts.stat().st_mode)[-3:] == "644"
    loaded.clear()
    said = egress.refresh(config(tmp_path), state, tmp_path, lambda host: [], loaded.append)
    assert len(said) == 2 and "203.0.113.1 . 443" in loaded[-1], "what was known stays open"
    assert (hosts.read_text(), hosts.stat().st_ino) == (text, inode)


def test_after_a_boot_what_was_known_opens_before_anybody_is_asked(tmp_path: Path) -> None:
    (tmp_path / "addresses.json").write_text(json.dumps({"a.example": {"203.0.113.1": time.time() - 9}}))
    order: list[str] = []

    def slow(host: str) -> list[str]:
        order.append("asked")
        assert "203.0.113.1 a.example" in (tmp_path / f"hosts-{USER.name}").read_text()
        return []

    egress.refresh(config(tmp_path), tmp_path / "addresses.json", tmp_path, slow, lambda text: order.append("loaded"))
    assert order[0] == "loaded" and "asked" in order


def test_a_file_that_is_mounted_stays_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    for text in ("long line\nanother\n", "short\n", "longer again\n"):
        egress.write_in_place(path, text)
        assert path.read_text() == text
    assert len(list(tmp_path.iterdir())) == 1


def test_a_name_that_does_not_exist_has_no_address() -> None:
    assert egress.resolve("no-such-host.invalid") == [] and egress.resolve("x" * 300) == []


def rules(rendered: Rendered, setting: str = "example", template: str = "host.nft.j2") -> list[str]:
    made = rendered["guard", template, setting]
    assert not isinstance(made, str), made
    return [line.strip() for line in made[0][1].splitlines()]


def test_each_hybrid_user_ends_with_a_refusal(rendered: Rendered) -> None:
    lines = rules(rendered)
    for user in ("mushishi-hybrid-gateway", "mushishi-ingress-sovereign", "mushishi-ingress-hybrid"):
        own = [line.removeprefix(f'meta skuid "{user}" ') for line in lines if line.startswith(f'meta skuid "{user}"')]
        name = user.removeprefix("mushishi-").replace("-", "_")
        assert own[0] == "ct state established,related accept"
        assert own[-2:] == [
            f'meta l4proto tcp counter name "{name}_to_elsewhere" reject with tcp reset',
            f'counter name "{name}_to_elsewhere" reject with icmpx type admin-prohibited',
        ]
        opened = own[1:-2]
        assert all(line.endswith("accept") or "accept comment" in line for line in opened)
        wanted = {
            "mushishi-hybrid-gateway": ["@egress_hybrid_gateway_4 accept", "@egress_hybrid_gateway_6 accept"],
            "mushishi-ingress-sovereign": [],
            "mushishi-ingress-hybrid": ['dport 4000 accept comment "hybrid gateway"'],
        }[user]
        assert len(opened) == len(wanted)
        assert all(line.endswith(end) for line, end in zip(opened, wanted, strict=True)), opened


def test_no_rule_of_a_reload_counts_from_zero(rendered: Rendered) -> None:
    for template in ("host.nft.j2", "plane.nft.j2"):
        for setting in ("example", "lab", "no host, a user of another name", "doors", "the doors are UFW's alone"):
            lines = rules(rendered, setting, template)
            begin = lines.index("flush table inet mushishi_guard")
            assert lines[begin - 1] == "table inet mushishi_guard"
            declared = {line.split()[1] for line in lines if re.match(r"counter \w+ \{ \}$", line)}
            used = set(re.findall(r'counter name "(\w+)"', "\n".join(lines)))
            # Those of the doors are always there: the brake may put rules back that use them.
            unused = DOORS if template == "host.nft.j2" and setting == "the doors are UFW's alone" else set()
            assert used | unused == declared and len(declared) >= 3 and not used & unused
            refusals = [line for line in lines if "reject" in line and not line.startswith("#")]
            assert refusals and all("counter name" in line for line in refusals)
            assert not [line for line in lines if "delete table" in line]


def test_the_program_gets_what_the_rules_have(rendered: Rendered) -> None:
    for setting, wanted in (("example", 4), ("no host, a user of another name", 0)):
        made = rendered["guard", "egress.json.j2", setting]
        assert not isinstance(made, str), made
        users = egress.read_users(json.loads(made[0][1]))
        assert [len(user.hosts) for user in users] == ([wanted] if wanted else [])
        sets = {f"set {user.group}_{version}" for user in users for version in (4, 6)}
        found = {line.partition(" {")[0] for line in rules(rendered, setting) if line.startswith("set ")}
        assert found == sets
