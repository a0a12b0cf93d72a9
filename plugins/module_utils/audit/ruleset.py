# SPDX-License-Identifier: MIT
"""What an nftables rule set does with a packet: judged by meaning, so that counters, comments and further rejects do
not matter. Pure.

What is not understood may match or not. So a rule that accepts on an unknown condition counts as an accept, and one
that rejects on an unknown condition does not count as a reject.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

Packet = Mapping[str, Any]
#: Statements that decide nothing.
SILENT = frozenset(
    {
        "counter",
        "log",
        "limit",
        "quota",
        "mangle",
        "notrack",
        "comment",
        "ct helper",
        "meter",
        "set",
        "map",
        "add",
        "update",
    }
)
NATS = frozenset({"snat", "dnat", "masquerade", "redirect", "tproxy"})
PROTOCOLS = {"tcp": 6, "udp": 17, "icmp": 1, "icmpv6": 58, "ipv6-icmp": 58, "sctp": 132, "dccp": 33, "udplite": 136}
FAMILIES = {"ip": 4, "ip6": 6}


class Ruleset:
    """One namespace's ``nft -j list ruleset``. ``users``: name → number, since nft prints either."""

    def __init__(self, listing: Mapping[str, Any], users: Mapping[str, int]) -> None:
        self.users = users
        self._known: dict[tuple[int, Any], bool | None] = {}
        self.tables: list[tuple[str, str]] = []
        self.chains: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.rules: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
        self.sets: dict[tuple[str, str, str], list[Any]] = {}
        for entry in listing.get("nftables", []):
            kind, value = next(iter(entry.items()))
            if kind == "table":
                self.tables.append((value["family"], value["name"]))
            elif kind == "chain":
                self.chains[value["family"], value["table"], value["name"]] = value
            elif kind == "rule":
                self.rules.setdefault((value["family"], value["table"], value["chain"]), []).append(value)
            elif kind in ("set", "map"):
                self.sets[value["family"], value["table"], value["name"]] = value.get("elem", [])

    def base(self, table: tuple[str, str], hook: str, kind: str = "filter") -> list[dict[str, Any]]:
        """A table's base chains on a hook, the first first."""
        found = [
            chain
            for chain in self.chains.values()
            if (chain["family"], chain["table"]) == table and chain.get("hook") == hook and chain.get("type") == kind
        ]
        return sorted(found, key=lambda chain: int(chain.get("prio", 0)))

    def outcomes(self, table: tuple[str, str], hook: str, packet: Packet) -> dict[str, str]:
        """What may become of a packet at a table's hook: ``accept``, ``drop``, ``reject`` or a NAT, each with its rule.

        Several chains on one hook all have a say; the first that surely stops it decides.
        """
        found = {"accept": "no chain on this hook"}
        for chain in self.base(table, hook):
            here = self._walk((chain["family"], chain["table"], chain["name"]), packet, 0)
            here = {("accept" if word == "continue" else word): rule for word, rule in here.items()}
            if "accept" not in here:
                return here
            found = here
        return found

    def _walk(self, chain: tuple[str, str, str], packet: Packet, depth: int) -> dict[str, str]:
        found: dict[str, str] = {}
        if depth > 16:
            return {"accept": "chains that call each other"}
        for rule in self.rules.get(chain, []):
            sure, words = self._rule(rule, packet, depth)
            for word, text in words.items():
                if word != "continue":
                    found.setdefault(word, text)
            if sure and words and "continue" not in words:
                return found if "return" not in found else self._returned(chain, found)
        return self._returned(chain, found, end=True)

    def _returned(self, chain: tuple[str, str, str], found: dict[str, str], end: bool = False) -> dict[str, str]:
        """A ``return``, or the end: the policy of a base chain, or on in the chain before."""
        if found.pop("return", None) is not None or end:
            policy = self.chains.get(chain, {}).get("policy")
            found.setdefault(policy or "continue", f"policy of {chain[2]}")
        return found

    def _rule(self, rule: Mapping[str, Any], packet: Packet, depth: int) -> tuple[bool, dict[str, str]]:
        """Whether the rule surely matches, and what it may say (empty: nothing)."""
        sure = True
        for statement in rule.get("expr", []):
            pair: tuple[str, Any] = (str(statement), None)
            kind, value = next(iter(statement.items())) if isinstance(statement, dict) else pair
            if kind == "match":
                fits = self.matches(value, packet, rule)
                if fits is False:
                    return False, {}
                sure = sure and fits is True
            elif kind in ("accept", "drop", "reject", "return"):
                return sure, {kind: describe(rule)}
            elif kind in ("jump", "goto"):
                words = self._walk((rule["family"], rule["table"], value["target"]), packet, depth + 1)
                if kind == "goto" and "continue" in words:
                    words["return"] = words.pop("continue")
                return sure, words
            elif kind in NATS:
                return sure, {kind: describe(rule)}
            elif kind == "limit":
                sure = False
            elif kind == "vmap":
                return False, self._vmap(value, packet, rule, depth)
            elif kind == "xt" or kind not in SILENT:
                # An extension of iptables, or a word of a later nft: it may accept.
                return False, {"accept": f"not understood: {describe(rule)}"}
        return sure, {}

    def _vmap(self, value: Mapping[str, Any], packet: Packet, rule: Mapping[str, Any], depth: int) -> dict[str, str]:
        data = value.get("data")
        entries = data.get("set", []) if isinstance(data, dict) else self._elements(data, rule)
        words: dict[str, str] = {}
        for entry in entries:
            key, verdict = entry[0], entry[1]
            if self._fits(value.get("key"), key, packet, rule) is False:
                continue
            word, more = next(iter(verdict.items()))
            if word in ("jump", "goto"):
                words.update(self._walk((rule["family"], rule["table"], more["target"]), packet, depth + 1))
            else:
                words[word] = describe(rule)
        words.setdefault("continue", "")
        return words

    def _elements(self, name: Any, rule: Mapping[str, Any]) -> list[Any]:
        return self.sets.get((rule["family"], rule["table"], str(name).lstrip("@")), [])

    def matches(self, match: Mapping[str, Any], packet: Packet, rule: Mapping[str, Any]) -> bool | None:
        """True, False, or None where it cannot be said."""
        left, right, operator = match.get("left"), match.get("right"), match.get("op", "==")
        if isinstance(left, dict) and "concat" in left:
            fits = self._pair(left["concat"], right, packet, rule)
        else:
            value, belongs = self._value(left, packet)
            if not belongs:
                # A packet of another protocol, whatever the operator says.
                return False
            key = (id(match), value)
            if key not in self._known:
                self._known[key] = self._any(value, right, rule)
            fits = self._known[key]
        if operator in ("==", "in") or fits is None:
            return fits
        return not fits if operator == "!=" else None

    def _fits(self, left: Any, right: Any, packet: Packet, rule: Mapping[str, Any]) -> bool | None:
        value, belongs = self._value(left, packet)
        return self._any(value, right, rule) if belongs else False

    def _any(self, value: Any, right: Any, rule: Mapping[str, Any]) -> bool | None:
        """Whether a value is one of those that a rule names."""
        if value is None:
            return None
        if isinstance(right, str) and right.startswith("@"):
            right = {"set": self._elements(right, rule)}
        options = right.get("set", [right]) if isinstance(right, dict) else right
        options = options if isinstance(options, list) else [options]
        return some(self._same(value, plain(option)) for option in options)

    def _pair(self, words: list[Any], right: Any, packet: Packet, rule: Mapping[str, Any]) -> bool | None:
        """The same for several fields at once."""
        options = self._elements(right, rule) if isinstance(right, str) else right.get("set", [right])
        verdicts = []
        for option in map(plain, options):
            parts = option.get("concat", []) if isinstance(option, dict) else []
            each = [self._fits(word, part, packet, rule) for word, part in zip(words, parts)]
            verdicts.append(False if False in each else None if None in each or not each else True)
        return some(verdicts)

    def _value(self, left: Any, packet: Packet) -> tuple[Any, bool]:
        """What the packet has there (None: unknown), and whether it is of that protocol at all."""
        if not isinstance(left, dict):
            return None, True
        kind, word = next(iter(left.items()))
        if kind == "meta":
            key = word.get("key")
            names = {
                "iifname": "iif",
                "iif": "iif",
                "oifname": "oif",
                "oif": "oif",
                "skuid": "uid",
                "nfproto": "family",
            }
            if key == "l4proto":
                return packet.get("proto"), True
            return packet.get(names.get(key, "")), True
        if kind == "ct" and word.get("key") == "state":
            return packet.get("ct", "new"), True
        if kind == "payload" and "protocol" in word:
            protocol, field = word["protocol"], word.get("field")
            if protocol in FAMILIES:
                if packet.get("family") != FAMILIES[protocol]:
                    return None, False
                if field in ("protocol", "nexthdr"):
                    return packet.get("proto"), True
                return packet.get({"saddr": "saddr", "daddr": "daddr"}.get(field, "")), True
            if protocol != "th" and PROTOCOLS.get(protocol) != PROTOCOLS.get(packet.get("proto", "")):
                return None, False
            return packet.get({"dport": "dport", "sport": "sport"}.get(field, "")), True
        return None, True

    def _same(self, value: Any, wanted: Any) -> bool | None:
        """One value against one word of a rule."""
        if isinstance(wanted, dict) and "prefix" in wanted:
            return inside(str(value), f"{wanted['prefix']['addr']}/{wanted['prefix']['len']}")
        if isinstance(wanted, dict) and "range" in wanted:
            return between(value, *wanted["range"])
        if isinstance(wanted, dict):
            return None
        if str(wanted).endswith("*"):
            return str(value).startswith(str(wanted)[:-1])
        if str(value) == str(wanted):
            return True
        numbers = [self._number(word) for word in (value, wanted)]
        if None not in numbers:
            return numbers[0] == numbers[1]
        return False

    def _number(self, word: Any) -> int | None:
        text = str(word)
        if text.isdigit():
            return int(text)
        known = {**PROTOCOLS, "ipv4": 4, "ipv6": 6, **self.users}
        return known.get(text)

    def literals(self, table: tuple[str, str], field: str) -> Iterator[Any]:
        """Every value that a table's rules and sets compare with a field (``dport``, ``daddr``, ``skuid`` …), ends of
        ranges included.
        """
        for key, rules in self.rules.items():
            if key[:2] != table:
                continue
            for rule in rules:
                for match in found(rule.get("expr", []), "match"):
                    if f'"{field}"' in json.dumps(match.get("left")):
                        yield from self._words(match.get("right"), rule)

    def _words(self, right: Any, rule: Mapping[str, Any]) -> Iterator[Any]:
        right = plain(right)
        if isinstance(right, str) and right.startswith("@"):
            right = {"set": self._elements(right, rule)}
        if isinstance(right, list):
            for word in right:
                yield from self._words(word, rule)
        elif isinstance(right, dict):
            if "set" in right or "concat" in right:
                yield from self._words(right.get("set", right.get("concat")), rule)
            elif "range" in right:
                yield from right["range"]
            elif "prefix" in right:
                yield right["prefix"]["addr"]
        else:
            yield right


def found(tree: Any, key: str) -> Iterator[Any]:
    """Every value of a key, however deep."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            if name == key:
                yield value
            yield from found(value, key)
    elif isinstance(tree, list):
        for value in tree:
            yield from found(value, key)


def some(verdicts: Iterable[bool | None]) -> bool | None:
    """True when one is, None when one may be."""
    listed = list(verdicts)
    return True if True in listed else None if None in listed else False


def plain(element: Any) -> Any:
    """A set's element without its counters and time-outs."""
    while isinstance(element, dict) and "elem" in element:
        element = element["elem"].get("val") if isinstance(element["elem"], dict) else element["elem"]
    return element


def inside(address: str, network: str) -> bool:
    """Whether an address lies in a network of its own family."""
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


def between(value: Any, first: Any, last: Any) -> bool | None:
    """Whether a number or an address lies in a range."""
    try:
        if str(value).isdigit():
            return int(first) <= int(value) <= int(last)
        where = ipaddress.ip_address(str(value))
        return int(ipaddress.ip_address(str(first))) <= int(where) <= int(ipaddress.ip_address(str(last)))
    except ValueError:
        return None


def describe(rule: Mapping[str, Any]) -> str:
    """A rule in a few words."""
    text = rule.get("comment") or json.dumps(
        [part for part in rule.get("expr", []) if "counter" not in part], separators=(",", ":")
    )
    return f"{rule.get('chain')}: {str(text)[:160]}"


def stops(outcomes: Iterable[str]) -> bool:
    """Whether none of these lets a packet on."""
    return all(word in ("drop", "reject") for word in outcomes)
