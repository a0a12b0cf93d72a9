# SPDX-License-Identifier: MIT
"""The policy of DOCKER-USER as data: what is read, what differs, and that one script leads from anything to it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest
from ansible_collections.mushishi.sovereign.plugins.module_utils.firewall import docker_user
from ansible_collections.mushishi.sovereign.plugins.module_utils.firewall.docker_user import CHAIN, Filter, Policy
from hypothesis import given
from hypothesis import strategies as some

DOORS = [{"name": "ssh", "port": 22, "protocol": "tcp"}, {"name": "my sync", "port": 22000, "protocol": "udp"}]
WANTED = docker_user.rules("iptables", "tailscale0", DOORS, ["lo", "br-*"])
DOCKER = "-N DOCKER\n-N DOCKER-USER\n-A FORWARD -j DOCKER-USER\n"


def play(now: Filter, script: str) -> Filter:
    """What ``iptables-restore --noflush`` makes of a table, as far as our scripts go."""
    made = Filter(dict(now.policies), {chain: list(rules) for chain, rules in now.chains.items()})
    for line in script.splitlines():
        words = shlex.split(line)
        if line.startswith(":"):
            made.chains[words[0][1:]] = []
        elif words[0] == "-A":
            made.chains[words[1]].append(words[2:])
        elif words[0] == "-D":
            made.chains[words[1]].remove(words[2:])
        elif words[0] == "-I":
            made.chains[words[1]].insert(int(words[2]) - 1, words[3:])
        elif words[0] == "-F":
            made.chains[words[1]] = []
        elif words[0] == "-X":
            assert made.chains[words[1]] == [] and not any(made.jumps(chain, words[1]) for chain in made.chains)
            del made.chains[words[1]]
    return made


RULE = some.sampled_from([["-j", CHAIN], ["-j", "ACCEPT"], ["-s", "192.0.2.1/32", "-j", "DROP"]])
RULES = some.lists(RULE, max_size=4)
TABLES = some.fixed_dictionaries(
    {"FORWARD": RULES, CHAIN: some.sampled_from([[], [["-j", "RETURN"]], WANTED])},
    optional={"DOCKER-USER": RULES, "DOCKER": some.just([])},
)


@given(TABLES)
def test_one_script_leads_there_and_back(chains: dict[str, list[list[str]]]) -> None:
    now = Filter({}, chains)
    there = play(now, docker_user.script(now, WANTED))
    assert docker_user.differences(there, WANTED) == []
    away = play(there, docker_user.script(there, None))
    assert docker_user.differences(away, None) == []
    foreign = {chain: [rule for rule in rules if rule != ["-j", CHAIN]] for chain, rules in chains.items()}
    del foreign[CHAIN]
    assert away.chains == foreign, "what is another hand's stays, in its order"


def test_what_is_let_through() -> None:
    text = [" ".join(rule) for rule in WANTED]
    assert text[0] == "-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN"
    assert text[1:3] == ["-i lo -j RETURN", "-i br-+ -j RETURN"]
    opened = [rule for rule in text if "DNAT" in rule]
    assert [rule.split("--ctorigdstport ")[1].split()[0] for rule in opened] == ["22", "22000"]
    assert all(rule.startswith("-i tailscale0 -p ") and "--ctdir ORIGINAL" in rule for rule in opened)
    assert text[-1] == "-j DROP" and docker_user.rules("ip6tables", "x", [], [])[-2][-1] == "icmp6-adm-prohibited"


@pytest.mark.parametrize(
    ("family", "listing", "words"),
    [
        ("iptables", DOCKER, ""),
        ("iptables", "-N DOCKER\n", "no chain DOCKER-USER although Docker runs"),
        ("iptables", "", "no chain DOCKER-USER although Docker runs"),
        ("iptables", "-N DOCKER-USER\n-A FORWARD -s 192.0.2.1/32 -j DOCKER-USER\n", "does not jump to DOCKER-USER"),
        ("ip6tables", "", ""),
        ("ip6tables", "-N DOCKER\n", "no chain DOCKER-USER"),
    ],
)
def test_whether_docker_asks(family: str, listing: str, words: str) -> None:
    said = docker_user.unguarded(docker_user.filter_from("-P FORWARD DROP\n" + listing), family)
    assert words in said and bool(said) == bool(words)


JUMP = "-A FORWARD -j DOCKER-USER\n"
CHAINS = "-P FORWARD DROP\n-N DOCKER-USER\n-N ts-forward\n-N x\n-N y\n"


@pytest.mark.parametrize(
    ("rules", "fault", "note"),
    [
        ("-A FORWARD -j ACCEPT\n", "lets pass before DOCKER-USER is asked: -A FORWARD -j ACCEPT", ""),
        ("-A FORWARD -i eth0 -p tcp -m tcp --dport 80 -j ACCEPT\n", "--dport 80 -j ACCEPT", ""),
        ("-A FORWARD ! -i docker0 -j ACCEPT\n", "! -i docker0", ""),
        ("-A FORWARD -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT\n", "NEW,ESTABLISHED", ""),
        ("-A FORWARD -m conntrack ! --ctstate ESTABLISHED -j ACCEPT\n", "! --ctstate", ""),
        ("-A FORWARD -o br-+ -j ACCEPT\n", "-o br-+", ""),
        ("-A FORWARD -j x\n-A x -g y\n-A y -s 192.0.2.1/32 -j ACCEPT\n", "-A y -s 192.0.2.1/32 -j ACCEPT", ""),
        ("-A FORWARD -j ts-forward\n-A ts-forward -m mark --mark 0x40000/0xff0000 -j ACCEPT\n", "", "Tailscale's own"),
        # Nothing that a stranger begins reaches a container by these.
        ("-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n", "", ""),
        ("-A FORWARD -i br-0a1b -j ACCEPT\n-A FORWARD -i docker0 ! -o docker0 -j ACCEPT\n", "", ""),
        ("-A FORWARD -o eth0 -j ACCEPT\n-A FORWARD -p icmp -j ACCEPT\n-A FORWARD -j LOG\n", "", ""),
        ("-A FORWARD -j x\n-A x -j y\n-A y -j x\n-A y -j DROP\n-A FORWARD -j ts-forward\n", "", ""),
    ],
)
def test_what_is_let_by_before_docker_user_is_asked(rules: str, fault: str, note: str) -> None:
    now, inside = docker_user.filter_from(CHAINS + rules + JUMP), ["lo", "docker0", "br-*"]
    faults, notes = docker_user.before_the_jump(now, "iptables", inside)
    assert len(faults) == bool(fault) and fault in "".join(faults), (faults, notes)
    assert len(notes) == bool(note) and note in "".join(notes), (faults, notes)
    assert docker_user.unguarded(now, "iptables", inside) == "".join(faults)
    behind = docker_user.filter_from(CHAINS + JUMP + rules)
    assert docker_user.before_the_jump(behind, "iptables", inside) == ([], []), "behind it, it is Docker's business"


def test_a_comment_in_quotes_is_one_word() -> None:
    read = docker_user.filter_from('-N X\n-A X -m comment --comment "door my sync" -j RETURN\n')
    assert read.chains["X"] == [["-m", "comment", "--comment", "door my sync", "-j", "RETURN"]]
    assert '--comment "door my sync"' in docker_user.script(Filter(), WANTED)


class Kernel:
    """Two tables; what is restored is played."""

    def __init__(self, listing: str = DOCKER, *, version: str = "v1.8.10 (nf_tables)", heeds: bool = True) -> None:
        self.tables = dict.fromkeys(docker_user.FAMILIES, docker_user.filter_from("-P FORWARD DROP\n" + listing))
        self.version, self.heeds, self.restored, self.nft = version, heeds, 0, ""

    def run(self, argv: Sequence[str], text: str) -> tuple[int, str, str]:
        family = argv[0].removesuffix("-restore")
        if argv[0] == "nft":
            return 0, self.nft, ""
        if argv[1] == "-V":
            return 0, self.version, ""
        if argv[1] == "-S":
            return 0, listing_of(self.tables[family]), ""
        self.restored += 1
        if self.heeds:
            self.tables[family] = play(self.tables[family], text)
        return 0, "", ""


def listing_of(table: Filter) -> str:
    lines = [f"-P {chain} {policy}" for chain, policy in table.policies.items()]
    lines += [f"-N {chain}" for chain in table.chains if chain not in table.policies]
    lines += [f"-A {chain} {shlex.join(rule)}" for chain, rules in table.chains.items() for rule in rules]
    return "\n".join(lines)


@pytest.fixture
def doors(tmp_path: Path) -> Path:
    path = tmp_path / "doors.json"
    path.write_text(json.dumps({"interface": "tailscale0", "inside": ["lo", "br-*"], "doors": DOORS}))
    return path


def test_written_once_and_read_back(doors: Path) -> None:
    kernel = Kernel()
    policy = Policy(doors, kernel.run)
    assert policy.apply() and not policy.apply() and kernel.restored == 2
    doors.unlink()
    assert policy.apply() and not policy.apply() and CHAIN not in kernel.tables["iptables"].chains


@pytest.mark.parametrize(
    ("kernel", "words"),
    [
        (Kernel(heeds=False), "MUSHISHI-DOORS is missing"),
        (Kernel("-N DOCKER-USER\n"), "does not jump to DOCKER-USER"),
        (Kernel(version="iptables v1.8.10 (legacy)"), "legacy packet filter"),
    ],
)
def test_what_is_not_in_force_is_a_fault(doors: Path, kernel: Kernel, words: str) -> None:
    with pytest.raises(docker_user.Fault, match=words):
        Policy(doors, kernel.run).apply()


def test_a_kernel_without_ipv6_has_one_table(
    doors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program for IPv6 answers there, too."""
    monkeypatch.setattr(docker_user, "IPV6", tmp_path / "none")
    kernel = Kernel()
    policy = Policy(doors, kernel.run)
    assert policy.apply() and list(policy.families()) == ["iptables"] and kernel.restored == 1


def test_docker_s_own_filter_is_named(doors: Path) -> None:
    kernel = Kernel("")
    kernel.nft = "table ip docker-bridges\n"
    with pytest.raises(docker_user.Fault, match="filters with nftables by itself"):
        Policy(doors, kernel.run).apply()


def test_what_is_inside_stands_in_the_list(doors: Path) -> None:
    """The unit has no words of its own: what the brake puts back is all there is. A list of before has the usual."""
    for inside, names in ((["lo", "br-x"], ["lo", "br-x"]), ([], []), (None, list(docker_user.INSIDE))):
        given_ = {"interface": "tailscale0", "doors": DOORS, **({} if inside is None else {"inside": inside})}
        doors.write_text(json.dumps(given_))
        policy = Policy(doors, Kernel().run)
        made = [rule[1] for rule in policy.wanted("iptables") or [] if rule[0] == "-i" and rule[2:] == ["-j", "RETURN"]]
        assert policy.inside() == names and made == [name.replace("*", "+") for name in names]


def test_a_list_that_is_none_is_a_fault(doors: Path) -> None:
    doors.write_text("[")
    with pytest.raises(docker_user.Fault, match="no list of doors"):
        Policy(doors, Kernel().run).apply()
