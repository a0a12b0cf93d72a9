# SPDX-License-Identifier: MIT
# Private to this collection: may change in any release.
"""UFW as its files and the kernel show it, compared once with what is wanted, and the commands for it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ansible_collections.mushishi.sovereign.plugins.module_utils.firewall.docker_user import Filter
from ansible_collections.mushishi.sovereign.plugins.module_utils.firewall.doors import Door, is_inside

#: Rules of ours are known by how their comment begins.
MARK = "mushishi "
#: Setting of /etc/default/ufw, what it shall be, and the words of `ufw default` for it.
POLICIES = {
    "DEFAULT_INPUT_POLICY": ("DROP", ("deny", "incoming")),
    "DEFAULT_OUTPUT_POLICY": ("ACCEPT", ("allow", "outgoing")),
    "DEFAULT_FORWARD_POLICY": ("DROP", ("deny", "routed")),
}
#: Who shuts what goes out is stricter than we are, and stays so.
STRICTER = {"DEFAULT_OUTPUT_POLICY": ("DROP", "REJECT")}
#: Built-in chain → the policy that the kernel then has.
KERNEL_POLICIES = {"INPUT": "DROP", "OUTPUT": "ACCEPT", "FORWARD": "DROP"}
_HOOKS = {
    "INPUT": (
        *("before-logging-input", "before-input", "after-input"),
        *("after-logging-input", "reject-input", "track-input"),
    ),
    "OUTPUT": (
        *("before-logging-output", "before-output", "after-output"),
        *("after-logging-output", "reject-output", "track-output"),
    ),
    "FORWARD": (
        *("before-logging-forward", "before-forward", "after-forward"),
        *("after-logging-forward", "reject-forward", "track-forward"),
    ),
}
_TUPLE = re.compile(
    r"^### tuple ### (?P<action>\S+) (?P<protocol>\S+) (?P<port>\S+) (?P<to>\S+) (?P<from_port>\S+) (?P<source>\S+)"
    r"(?: (?P<to_app>\S+) (?P<from_app>\S+))? (?P<way>(?:in|out|in_\S+|out_\S+)(?:!out_\S+)?)"
    r"(?: comment=(?P<comment>[0-9a-f]+))?\s*$"
)
_EVERYWHERE = {4: "0.0.0.0/0", 6: "::/0"}


@dataclass(frozen=True)
class Rule:
    """One rule of UFW's own files."""

    family: int
    action: str
    protocol: str
    port: str
    way: str
    plain: bool
    comment: str
    text: str
    source: str = ""

    @property
    def ours(self) -> bool:
        """Whether we have written it."""
        return self.comment.startswith(MARK)

    @property
    def opens(self) -> tuple[str, str, str, str] | None:
        """What it opens from everywhere, in the words in which a door is compared; None for any other rule."""
        return (self.action, self.protocol, self.port, self.way) if self.plain else None


def rules_from(text: str, family: int) -> list[Rule]:
    """The rules of user.rules (4) or user6.rules (6), in their order. One that is not understood is another hand's."""
    found = []
    for line in text.splitlines():
        if not line.startswith("### tuple ###"):
            continue
        match = _TUPLE.match(line)
        if match is None:
            found.append(Rule(family, "", "", "", "", False, "", line))
            continue
        anywhere = _EVERYWHERE[family]
        plain = (match["to"], match["from_port"], match["source"], match["to_app"]) == (anywhere, "any", anywhere, None)
        comment = bytes.fromhex(match["comment"] or "").decode("utf-8", "replace")
        found.append(
            Rule(
                *(family, match["action"], match["protocol"], match["port"], match["way"], plain, comment, line),
                "" if match["source"] == anywhere else match["source"],
            )
        )
    return found


def wider(rules: Iterable[Rule], interface: str, doors: Iterable[Door], inside: Sequence[str]) -> list[str]:
    """Rules of the user that let in more than the doors, in words: by another interface, or by another port."""
    opened = {(door.protocol, door.port) for door in doors}
    found = []
    for rule in rules:
        route, _colon, action = rule.action.rpartition(":")
        if not rule.action and re.search(r"\b(allow|limit)\b", rule.text):
            found.append(rule.text)
        if rule.ours or action not in ("allow", "limit") or (rule.way.startswith("out") and not route):
            continue
        by = rule.way[3:].partition("!")[0] if rule.way.startswith("in_") else ""
        if is_inside(by, inside) or (by == interface and not route and _ports(rule) <= opened):
            continue
        words = f"{rule.action} {rule.port}/{rule.protocol} from {rule.source or 'anywhere'} by {by or 'any interface'}"
        if words not in found:
            found.append(words)
    return found


def _ports(rule: Rule) -> set[tuple[str, int]]:
    """Protocol and port of everything that a rule opens."""
    spans = ["0:65535"] if rule.port == "any" else rule.port.split(",")
    ends = [(first, last or first) for first, _colon, last in (one.partition(":") for one in spans)]
    ports = {port for first, last in ends for port in range(int(first), int(last) + 1)}
    protocols = ("tcp", "udp") if rule.protocol == "any" else (rule.protocol,)
    return {(protocol, port) for protocol in protocols for port in ports}


def emptied_chains(texts: Mapping[str, str], chain: str) -> list[str]:
    """Files of UFW's own that declare a chain of Docker's (ufw-docker writes so): each reload of UFW empties it."""
    return [name for name, text in texts.items() if re.search(rf"(?m)^\s*:{re.escape(chain)}\s", text)]


def loaded_lines(text: str) -> dict[str, list[str]]:
    """Chain → the rules that a file of rules appends to it, without what the kernel prints in addition."""
    found: dict[str, list[str]] = {}
    for line in text.split("### RULES ###", 1)[-1].split("### END RULES ###", 1)[0].splitlines():
        if line.startswith("-A "):
            chain, _unused, rule = line[3:].partition(" ")
            found.setdefault(chain, []).append(rule)
    return found


def settings_from(text: str) -> dict[str, str]:
    """The settings of a file that a shell reads."""
    found = {}
    for line in text.splitlines():
        name, separator, value = line.strip().partition("=")
        if separator and re.fullmatch(r"[A-Z0-9_]+", name):
            found[name] = value.strip().strip("\"'")
    return found


def with_setting(text: str, name: str, value: str) -> str:
    """The same file with another value of one setting; what else stands in it stays to the byte."""
    lines = text.splitlines(keepends=True)
    for number in range(len(lines) - 1, -1, -1):
        if re.match(rf"\s*{name}=", lines[number]):
            quote = '"' if '="' in lines[number] else ""
            end = "\n" if lines[number].endswith("\n") else ""
            lines[number] = f"{name}={quote}{value}{quote}{end}"
            return "".join(lines)
    return text + ("" if text.endswith("\n") or not text else "\n") + f"{name}={value}\n"


@dataclass(frozen=True)
class Found:
    """UFW on a machine: the texts of its files, and the filter tables of the kernel (no IPv6: one)."""

    settings: str
    switch: str
    rules4: str
    rules6: str
    kernel: Mapping[str, Filter] = field(default_factory=dict)

    @property
    def enabled(self) -> bool:
        """Whether it starts with the machine."""
        return settings_from(self.switch).get("ENABLED", "no").lower() == "yes"

    @property
    def families(self) -> set[int]:
        """Those that the kernel has (ipv6.disable=1: IPv4 alone). UFW writes and takes away rules of no other."""
        programs = {"iptables": 4, "ip6tables": 6}
        return {programs[program] for program in self.kernel} or {4, 6}

    @property
    def rules(self) -> list[Rule]:
        """Those of the families that the kernel has."""
        texts = {4: self.rules4, 6: self.rules6}
        return [rule for family in sorted(self.families) for rule in rules_from(texts[family], family)]


def label(door: Door) -> str:
    """The comment of a door's rule."""
    return f"{MARK}{door.name}"


def wanted_rules(interface: str, doors: Iterable[Door]) -> dict[tuple[str, str, str, str], str]:
    """What shall be open in each family, with its comment."""
    return {("allow", door.protocol, str(door.port), f"in_{interface}"): label(door) for door in doors}


@dataclass(frozen=True)
class Judgement:
    """What differs from what is wanted."""

    policies: list[str]
    ipv6: bool
    delete: list[Rule]
    add: list[tuple[tuple[str, str, str, str], str]]
    enable: bool
    kernel: list[str]

    @property
    def changed(self) -> bool:
        """Whether anything does."""
        return bool(self.policies or self.ipv6 or self.delete or self.add or self.enable or self.kernel)


def judge(found: Found, interface: str, doors: Sequence[Door]) -> Judgement:
    """Compare once."""
    settings = settings_from(found.settings)
    wanted = wanted_rules(interface, doors)
    delete = [rule for rule in found.rules if rule.ours and wanted.get(rule.opens or ("", "", "", "")) != rule.comment]
    kept = [rule for rule in found.rules if rule not in delete]
    add = []
    for what, comment in wanted.items():
        same = [rule for rule in kept if rule.opens == what]
        # A rule of the user that opens the same is enough, and stays the user's: a comment would make it ours.
        if {rule.family for rule in same} != found.families:
            add.append((what, comment if all(rule.ours for rule in same) else ""))
    policies = [
        name
        for name, (value, _words) in POLICIES.items()
        if settings.get(name) not in (value, *STRICTER.get(name, ()))
    ]
    return Judgement(
        policies=policies,
        ipv6=settings.get("IPV6", "no").lower() != "yes",
        delete=delete,
        add=add,
        enable=not found.enabled,
        kernel=kernel_faults(found, dict.fromkeys(found.kernel, kernel_policies(settings))) if found.enabled else [],
    )


def kernel_policies(settings: Mapping[str, str]) -> dict[str, str]:
    """Built-in chain → the policy that the kernel shall have. A REJECT of UFW is a DROP behind a chain that rejects."""
    stricter = settings.get("DEFAULT_OUTPUT_POLICY") in STRICTER["DEFAULT_OUTPUT_POLICY"]
    return {**KERNEL_POLICIES, **({"OUTPUT": "DROP"} if stricter else {})}


def kernel_faults(found: Found, policies: Mapping[str, Mapping[str, str]]) -> list[str]:
    """What the kernel does not filter although the files say so: a flushed chain is a difference."""
    faults = []
    for program, prefix, text in (("iptables", "ufw", found.rules4), ("ip6tables", "ufw6", found.rules6)):
        now = found.kernel.get(program)
        if now is None:
            continue
        for chain, policy in policies.get(program, {}).items():
            if now.policies.get(chain) != policy:
                faults.append(f"{program}: the policy of {chain} is {now.policies.get(chain)}, not {policy}")
        for chain, names in _HOOKS.items():
            missing = [name for name in names if not now.jumps(chain, f"{prefix}-{name}")]
            if missing:
                faults.append(f"{program}: {chain} does not go through {prefix}-{missing[0]}")
        for way in ("input", "output", "forward"):
            if not now.jumps(f"{prefix}-before-{way}", f"{prefix}-user-{way}"):
                faults.append(f"{program}: {prefix}-before-{way} does not go through {prefix}-user-{way}")
        for way in ("input", "output", "forward"):
            chain = f"{prefix}-user-{way}"
            lines, here = loaded_lines(text).get(chain, []), now.chains.get(chain, [])
            if len(here) != len(lines):
                faults.append(f"{program}: {chain} has {len(here)} rules, its file {len(lines)}")
            elif not _doors_in(lines) <= _doors_in([" ".join(rule) for rule in here]):
                faults.append(f"{program}: {chain} has other rules than its file")
    return faults


def _doors_in(lines: Iterable[str]) -> set[str]:
    """The rules that open a port of an interface, as text that is the same in the file and in the kernel."""
    plain = {re.sub(r" -m (tcp|udp)\b", "", line) for line in lines}
    return {line for line in plain if re.fullmatch(r"-i \S+ -p (tcp|udp) --dport \d+ -j ACCEPT", line)}


# ---- commands
def default_command(name: str) -> list[str]:
    """Set one policy."""
    return ["ufw", "--force", "default", *POLICIES[name][1]]


def add_command(what: tuple[str, str, str, str], comment: str) -> list[str]:
    """Open a door."""
    action, protocol, port, way = what
    words = ["ufw", action, "in", "on", way[3:], "to", "any", "port", port, "proto", protocol]
    return [*words, "comment", comment] if comment else words


def delete_commands(rules: Iterable[Rule]) -> list[list[str]]:
    """Take rules of ours away, each in both families at once. One that was changed by hand beyond that shape stays."""
    made: list[list[str]] = []
    for rule in rules:
        if rule.opens is None or not rule.way.startswith("in_"):
            continue
        command = [
            *("ufw", "--force", "delete", rule.action, "in", "on", rule.way[3:]),
            *("to", "any", "port", rule.port, "proto", rule.protocol),
        ]
        if command not in made:
            made.append(command)
    return made


# ---- back to what was there before
def foreign(text: str, family: int) -> list[str]:
    """The rules that are not ours, as they stand in a file."""
    return [rule.text for rule in rules_from(text, family) if not rule.ours]


def own_settings(before: str, now: str, names: Mapping[str, str]) -> bool:
    """Whether a file of settings differs from what it was in nothing but what we have set (name → value)."""
    text = before
    for name, value in names.items():
        if settings_from(now).get(name) == value and settings_from(text).get(name) != value:
            text = with_setting(text, name, value)
    return _unquoted(text) == _unquoted(now)


def _unquoted(text: str) -> list[str]:
    """A file of settings without quotes, so that it is the same whoever wrote a value."""
    return [re.sub(r"^([A-Z0-9_]+)=[\"']?([^\"']*)[\"']?$", r"\1=\2", line) for line in text.splitlines()]


def own_words(before: str, now: str) -> bool:
    """Whether after.rules differs in nothing but the word that UFW itself puts there with each policy."""
    return re.sub(r"UFW (BLOCK|ALLOW)", "UFW", before) == re.sub(r"UFW (BLOCK|ALLOW)", "UFW", now)


def own_rules(before: str, now: str, family: int) -> bool:
    """Whether a file of rules differs in nothing but rules of ours, and in what UFW logs with another policy."""
    return foreign(before, family) == foreign(now, family) and _rest(before) == _rest(now)


def _rest(text: str) -> str:
    """What stands around the rules. What is logged is left out: UFW makes it of its level and the policies."""
    around = text.split("### RULES ###", 1)[0] + text.split("### END RULES ###", 1)[-1]
    return around.split("### LOGGING ###", 1)[0] + around.split("### END LOGGING ###", 1)[-1]
