# SPDX-License-Identifier: MIT
"""What a rule set does with a packet, judged by meaning; and the guard's own rules, each of which must be missed when
it is gone.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.mushishi.sovereign.plugins.module_utils.audit import static
from ansible_collections.mushishi.sovereign.plugins.module_utils.audit.facts import Settings
from ansible_collections.mushishi.sovereign.plugins.module_utils.audit.ruleset import Ruleset, between, describe, stops
from ansible_collections.mushishi.sovereign.plugins.module_utils.policy import compile as compiled
from ansible_collections.mushishi.sovereign.plugins.module_utils.policy.flows import namespace_flows
from ansible_collections.mushishi.sovereign.plugins.module_utils.policy.validate import load_policy

HERE, CHECKOUT = Path(__file__).parent, Path(__file__).resolve().parents[5]
TABLE = ("inet", "guard")
#: As on the machine from which the listings come.
USERS = {
    "root": 0,
    "nobody": 65534,
    "mushishi-sovereign-admission": 986,
    "mushishi-sovereign-gateway": 985,
    "mushishi-sovereign-llama": 984,
    "mushishi-sovereign-door": 983,
    "mushishi-sovereign-prober": 982,
    "mushishi-hybrid-gateway": 981,
    "mushishi-ingress-sovereign": 980,
    "mushishi-ingress-hybrid": 979,
}
Listing = dict[str, Any]


def match(left: Any, right: Any, op: str = "==") -> Listing:
    return {"match": {"op": op, "left": left, "right": right}}


def meta(key: str) -> Listing:
    return {"meta": {"key": key}}


DPORT = {"payload": {"protocol": "tcp", "field": "dport"}}
DADDR = {"payload": {"protocol": "ip", "field": "daddr"}}
ACCEPT, REJECT = {"accept": None}, {"reject": {"type": "tcp reset"}}
UNKNOWN = match({"socket": {"key": "cgroupv2"}}, "sovereign.slice")


def ruleset(*rules: list[Listing], policy: str = "accept", more: list[Listing] | None = None) -> Ruleset:
    """One chain on ``output`` with these rules; ``more``: further objects."""
    chain = {"family": "inet", "table": "guard", "name": "output", "type": "filter", "hook": "output", "prio": -10}
    objects: list[Listing] = [{"table": {"family": "inet", "name": "guard"}}, {"chain": {**chain, "policy": policy}}]
    objects += [{"rule": {"family": "inet", "table": "guard", "chain": "output", "expr": rule}} for rule in rules]
    return Ruleset({"nftables": [*objects, *(more or [])]}, USERS)


def said(rules: Ruleset, **packet: Any) -> set[str]:
    base = {"family": 4, "proto": "tcp", "dport": 443, "daddr": "192.0.2.1", "oif": "eth0", "uid": 981, "ct": "new"}
    return set(rules.outcomes(TABLE, "output", {**base, **packet}))


@pytest.mark.parametrize(
    ("rule", "packet", "fits"),
    [
        ([match(meta("oifname"), "eth0")], {}, True),
        ([match(meta("oifname"), "eth1")], {}, False),
        ([match(meta("oifname"), "eth*")], {}, True),
        ([match(meta("oifname"), {"set": ["lo", "br"]}, "!=")], {}, True),
        ([match(meta("oifname"), {"set": ["lo", "eth0"]}, "!=")], {}, False),
        ([match(meta("skuid"), 981)], {}, True),
        ([match(meta("skuid"), "mushishi-hybrid-gateway")], {}, True),
        ([match(meta("skuid"), "mushishi-ingress-hybrid")], {}, False),
        ([match(meta("l4proto"), "tcp")], {}, True),
        ([match(meta("l4proto"), 17)], {"proto": "udp"}, True),
        ([match(meta("l4proto"), "tcp")], {"proto": "udp"}, False),
        ([match(DPORT, 443)], {}, True),
        ([match(DPORT, 443)], {"proto": "udp"}, False),
        ([match(DPORT, {"range": [400, 500]})], {}, True),
        ([match(DPORT, {"set": [22, {"range": [80, 90]}]})], {}, False),
        ([match(DADDR, {"prefix": {"addr": "192.0.2.0", "len": 24}})], {}, True),
        ([match(DADDR, {"prefix": {"addr": "10.88.0.0", "len": 24}})], {}, False),
        ([match(DADDR, "192.0.2.1")], {"family": 6, "daddr": "2001:db8::1"}, False),
        ([match({"ct": {"key": "state"}}, ["established", "related"], "in")], {}, False),
        ([match({"ct": {"key": "state"}}, ["established", "related"], "in")], {"ct": "established"}, True),
        ([match({"concat": [DADDR, DPORT]}, {"set": [{"concat": ["192.0.2.1", 443]}]})], {}, True),
        ([match({"concat": [DADDR, DPORT]}, {"set": [{"concat": ["192.0.2.1", 80]}]})], {}, False),
        ([{"counter": {"packets": 1, "bytes": 1}}, match(DPORT, 443)], {}, True),
    ],
)
def test_a_rule_that_accepts_lets_on_what_it_fits(rule: list[Listing], packet: dict[str, Any], fits: bool) -> None:
    rules = ruleset([*rule, ACCEPT], [REJECT])
    assert said(rules, **packet) == ({"accept"} if fits else {"reject"})


def test_what_is_not_understood_may_accept_and_does_not_reject() -> None:
    assert said(ruleset([UNKNOWN, ACCEPT], [REJECT])) == {"accept", "reject"}
    assert said(ruleset([UNKNOWN, REJECT])) == {"accept", "reject"}
    assert said(ruleset([{"xt": {"type": "match"}}, ACCEPT], [REJECT])) == {"accept", "reject"}
    assert said(ruleset([{"limit": {"rate": 5}}, REJECT])) == {"accept", "reject"}
    assert not stops(said(ruleset([UNKNOWN, ACCEPT], [REJECT]))) and stops({"reject", "drop"})


def test_named_sets_jumps_and_maps_are_followed() -> None:
    named = {"set": {"family": "inet", "table": "guard", "name": "hosts", "elem": [{"elem": {"val": "192.0.2.1"}}]}}
    assert said(ruleset([match(DADDR, "@hosts"), ACCEPT], [REJECT], more=[named])) == {"accept"}
    assert said(ruleset([match(DADDR, "@hosts"), ACCEPT], [REJECT], more=[named]), daddr="192.0.2.2") == {"reject"}
    inner = {"chain": {"family": "inet", "table": "guard", "name": "inner"}}
    accepts = {"rule": {"family": "inet", "table": "guard", "chain": "inner", "expr": [match(DPORT, 443), ACCEPT]}}
    jump = [{"jump": {"target": "inner"}}]
    assert said(ruleset(jump, [REJECT], more=[inner, accepts])) == {"accept"}
    assert said(ruleset(jump, [REJECT], more=[inner, accepts]), dport=80) == {"reject"}
    goto = [{"goto": {"target": "inner"}}]
    assert said(ruleset(goto, [REJECT], policy="drop", more=[inner, accepts]), dport=80) == {"drop"}
    table = {"vmap": {"key": DPORT, "data": {"set": [[443, ACCEPT], [80, {"drop": None}]]}}}
    assert "accept" in said(ruleset([table], [REJECT])) and "accept" not in said(ruleset([table], [REJECT]), dport=80)
    assert said(ruleset([{"return": None}], [REJECT])) == {"accept"}
    assert said(ruleset([{"jump": {"target": "output"}}])) == {"accept"}, "chains that call each other end"


def test_the_policy_decides_last_and_a_second_chain_may_stop() -> None:
    assert said(ruleset(policy="drop")) == {"drop"} and said(ruleset()) == {"accept"}
    chain = {"family": "inet", "table": "guard", "name": "later", "type": "filter", "hook": "output", "prio": 5}
    later = {"chain": {**chain, "policy": "drop"}}
    assert said(ruleset([ACCEPT], more=[later])) == {"drop"}, "an accept ends its own chain alone"
    assert set(ruleset().outcomes(TABLE, "forward", {})) == {"accept"}, "no chain, no lock"


def test_ranges_and_words() -> None:
    assert between(5, 1, 9) and between("10.0.0.5", "10.0.0.1", "10.0.0.9") and between("x", 1, 2) is None
    assert "said so" in describe({"chain": "output", "comment": "said so"})


# ---- the guard's own rules, as nft printed them on a machine


def listing(name: str) -> Listing:
    loaded: Listing = json.loads((HERE / f"nft-{name}.json").read_text())
    return loaded


def settings() -> Settings:
    raw = yaml.safe_load((CHECKOUT / "inventory/example/group_vars/all/policy.yml").read_text())["sovereign_policy"]
    policy = load_policy(raw)
    return Settings(
        plane_clients=compiled.plane_clients(policy),
        namespace_flows=namespace_flows(policy),
        hybrid_egress=compiled.egress_hosts(policy),
        loopback_services=[{"comment": "hybrid gateway", "port": 4000, "users": ["mushishi-ingress-hybrid"]}],
    )


def leaks(host: Listing, plane: Listing) -> list[str]:
    rows = static.Guard(settings(), USERS, {"host": host, "plane": plane}, ["eth1"]).rows()
    return [f"{row.source} {row.path}" for row in rows if row.outcome == "leaked"]


def without(name: str, gone: Any) -> tuple[Listing, Listing]:
    """Both listings, one of them without the rules that ``gone`` picks."""
    both = {"host": listing("host"), "plane": listing("plane")}
    kept = [entry for entry in both[name]["nftables"] if not ("rule" in entry and gone(entry["rule"]))]
    assert len(kept) < len(both[name]["nftables"])
    both[name]["nftables"] = kept
    return both["host"], both["plane"]


def counters(name: str) -> list[str]:
    words = {
        statement["counter"]
        for entry in listing(name)["nftables"]
        for statement in entry.get("rule", {}).get("expr", [])
        if isinstance(statement.get("counter"), str)
    }
    # A packet of a connection that is over opens nothing.
    return sorted(words - {"stray"})


def test_the_guards_own_rules_hold() -> None:
    assert leaks(listing("host"), listing("plane")) == []


@pytest.mark.parametrize("counter", counters("host"))
def test_each_refusal_of_the_host_is_missed(counter: str) -> None:
    assert leaks(*without("host", lambda rule: {"counter": counter} in rule["expr"]))


@pytest.mark.parametrize("chain", ["input", "output"])
def test_each_chain_of_the_plane_is_missed(chain: str) -> None:
    host, plane = listing("host"), listing("plane")
    for entry in plane["nftables"]:
        if entry.get("chain", {}).get("name") == chain:
            entry["chain"]["policy"] = "accept"
    plane["nftables"] = [
        entry
        for entry in plane["nftables"]
        if "rule" not in entry or not {"reject"} & {key for s in entry["rule"]["expr"] for key in s}
    ]
    assert any("plane" in leak for leak in leaks(host, plane))


@pytest.mark.parametrize("name", ["host", "plane"])
@pytest.mark.parametrize("chain", ["input", "output", "forward"])
def test_an_accept_in_front_is_found(name: str, chain: str) -> None:
    """For each chain and namespace, of one port that no rule names."""
    both = {"host": listing("host"), "plane": listing("plane")}
    rule = {"family": "inet", "table": "mushishi_guard", "chain": chain, "expr": [match(DPORT, 31337), ACCEPT]}
    at = next(number for number, entry in enumerate(both[name]["nftables"]) if "rule" in entry)
    both[name]["nftables"].insert(at, {"rule": rule})
    assert any(f"{name}'s" in leak and "31337" in leak for leak in leaks(both["host"], both["plane"]))


def test_a_table_that_is_gone_late_or_not_alone_is_found() -> None:
    host, plane = listing("host"), listing("plane")
    assert leaks({"nftables": []}, plane)
    late = copy.deepcopy(host)
    for entry in late["nftables"]:
        if entry.get("chain", {}).get("name") == "output":
            entry["chain"]["prio"] = 5
    assert leaks(late, plane) == ["nft in the host's namespace output: our chain is hooked at -10 or earlier"]
    other = {"nftables": [*plane["nftables"], {"table": {"family": "ip", "name": "nat"}}]}
    assert leaks(host, other) == ["nft in the plane's namespace no table but ours"]


def test_counters_sets_and_further_rejects_do_not_matter() -> None:
    host, plane = listing("host"), listing("plane")
    more = {
        "family": "inet",
        "table": "mushishi_guard",
        "chain": "output",
        "expr": [{"counter": "new"}, UNKNOWN, REJECT],
    }
    host["nftables"].append({"rule": more})
    host["nftables"].append({"counter": {"family": "inet", "table": "mushishi_guard", "name": "new", "packets": 3}})
    assert leaks(host, plane) == []


def test_an_address_that_no_policy_names_is_found_in_the_sets() -> None:
    host = listing("host")
    for entry in host["nftables"]:
        if entry.get("set", {}).get("name") == "egress_hybrid_gateway_4":
            entry["set"].setdefault("elem", []).append({"concat": ["192.0.2.77", 25]})
    assert any("policy's hosts" in leak for leak in leaks(host, listing("plane")))
