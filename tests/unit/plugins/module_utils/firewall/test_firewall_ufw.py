# SPDX-License-Identifier: MIT
"""UFW as data: its files and the kernel's listing are read, compared once, and turned into few commands."""

from __future__ import annotations

import pytest
from ansible_collections.mushishi.sovereign.plugins.module_utils.firewall import ufw
from ansible_collections.mushishi.sovereign.plugins.module_utils.firewall.docker_user import filter_from
from ansible_collections.mushishi.sovereign.plugins.module_utils.firewall.doors import Door
from hypothesis import given
from hypothesis import strategies as some

SSH, WEB = Door("tcp", 22, "ssh", "ssh"), Door("tcp", 4001, "admission", "ingress")
SETTINGS = 'IPV6=yes\nDEFAULT_INPUT_POLICY="DROP"\nDEFAULT_OUTPUT_POLICY="ACCEPT"\nDEFAULT_FORWARD_POLICY="DROP"\n'
ON, OFF = "ENABLED=yes\nLOGLEVEL=low\n", "ENABLED=no\nLOGLEVEL=low\n"
#: Written by ufw 0.36.2.
MINE = "### tuple ### allow tcp 8080,9090 0.0.0.0/0 any 192.168.1.0/24 in comment=6d696e65"
LIMIT = "### tuple ### limit tcp 2222 0.0.0.0/0 any 0.0.0.0/0 in"
ROUTE = "### tuple ### route:allow tcp 80 10.0.0.1 any 0.0.0.0/0 in_eth0!out_eth1"
APP = "### tuple ### allow any any 0.0.0.0/0 any 0.0.0.0/0 WWW - in"


def tuple_of(door: Door, family: int = 4, comment: str = "", way: str = "in_tailscale0") -> str:
    anywhere = "0.0.0.0/0" if family == 4 else "::/0"
    mark = f" comment={comment.encode().hex()}" if comment else ""
    return f"### tuple ### allow {door.protocol} {door.port} {anywhere} any {anywhere} {way}{mark}"


def rules(*tuples: str) -> str:
    lines = [f"{line}\n-A ufw-user-input -x\n" for line in tuples]
    end = "\n### END RULES ###\n\n### LOGGING ###\nx\n### END LOGGING ###\n"
    return "*filter\n### RULES ###\n\n" + "\n".join(lines) + end


def found(*doors: Door, settings: str = SETTINGS, switch: str = ON, more: tuple[str, ...] = ()) -> ufw.Found:
    """A machine on which these doors are ours."""
    four = [tuple_of(door, 4, ufw.label(door)) for door in doors]
    six = [tuple_of(door, 6, ufw.label(door)) for door in doors]
    return ufw.Found(settings, switch, rules(*more, *four), rules(*six))


def test_as_it_shall_be() -> None:
    verdict = ufw.judge(found(SSH, WEB), "tailscale0", [SSH, WEB])
    assert not verdict.changed and verdict == ufw.Judgement([], False, [], [], False, [])


@pytest.mark.parametrize(
    ("settings", "policies", "ipv6"),
    [
        ("", ["DEFAULT_INPUT_POLICY", "DEFAULT_OUTPUT_POLICY", "DEFAULT_FORWARD_POLICY"], True),
        (SETTINGS.replace("IPV6=yes", "IPV6=no"), [], True),
        (SETTINGS.replace('FORWARD_POLICY="DROP"', 'FORWARD_POLICY="ACCEPT"'), ["DEFAULT_FORWARD_POLICY"], False),
        (SETTINGS + "DEFAULT_INPUT_POLICY=ACCEPT\n", ["DEFAULT_INPUT_POLICY"], False),
        ("#IPV6=no\n" + SETTINGS, [], False),
        # Stricter than ours for what goes out; that is not loosened. For what comes in there is one policy.
        (SETTINGS.replace('OUTPUT_POLICY="ACCEPT"', 'OUTPUT_POLICY="DROP"'), [], False),
        (SETTINGS.replace('OUTPUT_POLICY="ACCEPT"', 'OUTPUT_POLICY="REJECT"'), [], False),
        (SETTINGS.replace('INPUT_POLICY="DROP"', 'INPUT_POLICY="REJECT"'), ["DEFAULT_INPUT_POLICY"], False),
    ],
)
def test_settings_that_differ(settings: str, policies: list[str], ipv6: bool) -> None:
    verdict = ufw.judge(found(SSH, settings=settings), "tailscale0", [SSH])
    assert (verdict.policies, verdict.ipv6) == (policies, ipv6) and not verdict.add


def to_words(text: str) -> list[str]:
    return text.split()


def test_doors_that_differ() -> None:
    verdict = ufw.judge(found(SSH, switch=OFF), "tailscale0", [WEB])
    assert verdict.enable and [rule.port for rule in verdict.delete] == ["22", "22"]
    assert [ufw.add_command(*what) for what in verdict.add] == [
        [*to_words("ufw allow in on tailscale0 to any port 4001 proto tcp comment"), "mushishi admission"]
    ]
    assert ufw.delete_commands(verdict.delete) == [
        to_words("ufw --force delete allow in on tailscale0 to any port 22 proto tcp")
    ], "both families at once"


def test_another_interface_or_name_is_another_rule() -> None:
    assert {rule.port for rule in ufw.judge(found(SSH), "wg0", [SSH]).delete} == {"22"}
    renamed = Door("tcp", 22, "login", "ssh")
    verdict = ufw.judge(found(SSH), "tailscale0", [renamed])
    assert len(verdict.delete) == 2 and verdict.add[0][1] == "mushishi login"


@pytest.mark.parametrize("families", [(4,), (6,), (4, 6)])
def test_a_rule_of_the_user_that_opens_the_same_is_enough(families: tuple[int, ...]) -> None:
    four = [tuple_of(SSH, 4, "mine")] if 4 in families else []
    six = [tuple_of(SSH, 6)] if 6 in families else []
    verdict = ufw.judge(ufw.Found(SETTINGS, ON, rules(*four), rules(*six)), "tailscale0", [SSH])
    assert verdict.delete == []
    assert verdict.add == ([] if families == (4, 6) else [(("allow", "tcp", "22", "in_tailscale0"), "")])


@pytest.mark.parametrize("line", [MINE, LIMIT, ROUTE, APP, "### tuple ### what nobody knows", tuple_of(SSH, way="in")])
def test_rules_of_another_hand_are_never_touched(line: str) -> None:
    verdict = ufw.judge(found(SSH, more=(line,)), "tailscale0", [SSH])
    assert not verdict.changed
    assert line in [rule.text for rule in ufw.rules_from(rules(line), 4) if not rule.ours]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (MINE, "allow 8080,9090/tcp from 192.168.1.0/24 by any interface"),
        (LIMIT, "limit 2222/tcp from anywhere by any interface"),
        (ROUTE, "route:allow 80/tcp from anywhere by eth0"),
        (APP, "allow any/any from anywhere by any interface"),
        (tuple_of(SSH, way="in"), "allow 22/tcp from anywhere by any interface"),
        ("### tuple ### allow any any 0.0.0.0/0 any 0.0.0.0/0 in_tailscale0", "allow any/any from anywhere by t"),
        ("### tuple ### allow any 22 0.0.0.0/0 any 0.0.0.0/0 in_tailscale0", "allow 22/any"),
        ("### tuple ### allow tcp 22:23 0.0.0.0/0 any 0.0.0.0/0 in_tailscale0", "allow 22:23/tcp"),
        ("### tuple ### allow esp any 0.0.0.0/0 any 0.0.0.0/0 in_tailscale0", "allow any/esp"),
        ("### tuple ### allow what nobody knows", "### tuple ### allow what nobody knows"),
        # No wider than the doors, or nothing that is let in from outside.
        (tuple_of(SSH), ""),
        (tuple_of(SSH, comment=ufw.label(SSH), way="in_eth0"), ""),
        ("### tuple ### limit tcp 22,4001 0.0.0.0/0 any 100.64.0.9 in_tailscale0", ""),
        ("### tuple ### deny tcp 80 0.0.0.0/0 any 0.0.0.0/0 in", ""),
        ("### tuple ### allow tcp 80 0.0.0.0/0 any 0.0.0.0/0 out", ""),
        ("### tuple ### allow any any 0.0.0.0/0 any 0.0.0.0/0 in_br-0a1b", ""),
        ("### tuple ### route:allow any any 0.0.0.0/0 any 0.0.0.0/0 in_br-0a1b!out_eth0", ""),
    ],
)
def test_rules_that_let_in_more_than_the_doors_are_named(line: str, words: str) -> None:
    said = ufw.wider(ufw.rules_from(rules(line), 4), "tailscale0", [SSH, WEB], ["lo", "br-*"])
    assert len(said) == bool(words) and words in "".join(said)


def test_a_rule_of_both_families_is_named_once() -> None:
    both = [*ufw.rules_from(tuple_of(SSH, way="in"), 4), *ufw.rules_from(tuple_of(SSH, 6, way="in"), 6)]
    assert len(ufw.wider(both, "tailscale0", [SSH], [])) == 1


def test_who_empties_docker_s_chain() -> None:
    texts = {"a": "*filter\n:DOCKER-USER - [0:0]\n", "b": "*filter\n:ufw-x - [0:0]\n-A DOCKER-USER -j x\n", "c": ""}
    assert ufw.emptied_chains(texts, "DOCKER-USER") == ["a"]


SOME = some.lists(some.sampled_from([SSH, WEB, Door("udp", 53, "dns", "x"), Door("tcp", 80, "web", "x")]), unique=True)


@given(SOME, SOME)
def test_what_is_added_and_deleted_leads_there(before: list[Door], after: list[Door]) -> None:
    verdict = ufw.judge(found(*before), "tailscale0", after)
    left = {door.port for door in before} - {int(rule.port) for rule in verdict.delete}
    assert left | {int(what[2]) for what, _comment in verdict.add} == {door.port for door in after}
    assert len(ufw.delete_commands(verdict.delete)) == len(set(before) - set(after))


# ---- the kernel
def kernel(*doors: Door, prefix: str = "ufw") -> str:
    """`iptables -S` when all is in force."""
    lines = ["-P INPUT DROP", "-P FORWARD DROP", "-P OUTPUT ACCEPT"]
    for chain in ("INPUT", "FORWARD", "OUTPUT"):
        way = chain.lower()
        for name in ("before-logging", "before", "after", "after-logging", "reject", "track"):
            lines.append(f"-A {chain} -j {prefix}-{name}-{way}")
        lines.append(f"-A {prefix}-before-{way} -j {prefix}-user-{way}")
    lines += [
        f"-A {prefix}-user-input -i tailscale0 -p {door.protocol} -m {door.protocol} --dport {door.port} -j ACCEPT"
        for door in doors
    ]
    return "\n".join(lines)


def file_of(*doors: Door, prefix: str = "ufw") -> str:
    lines = [f"-A {prefix}-user-input -i tailscale0 -p {door.protocol} --dport {door.port} -j ACCEPT" for door in doors]
    return "### RULES ###\n" + "\n".join(lines) + "\n### END RULES ###\n-A ufw-user-limit -j REJECT\n"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("", "", ""),
        ("-P INPUT DROP", "-P INPUT ACCEPT", "the policy of INPUT is ACCEPT"),
        ("-A INPUT -j ufw-before-input\n", "", "INPUT does not go through ufw-before-input"),
        ("-A INPUT -j ufw-before-input\n", "-A INPUT -i lo -j ufw-before-input\n", "INPUT does not go through"),
        ("-A ufw-before-input -j ufw-user-input\n", "", "does not go through ufw-user-input"),
        ("--dport 22 -j ACCEPT", "--dport 23 -j ACCEPT", "other rules than its file"),
        ("-A ufw-user-input -i tailscale0 -p tcp -m tcp --dport 22 -j ACCEPT", "", "has 1 rules, its file 2"),
    ],
)
def test_what_the_kernel_lacks(old: str, new: str, words: str) -> None:
    text = kernel(SSH, WEB)
    assert old in text
    there = ufw.Found(SETTINGS, ON, file_of(SSH, WEB), "", {"iptables": filter_from(text.replace(old, new))})
    faults = ufw.kernel_faults(there, {"iptables": ufw.KERNEL_POLICIES})
    assert (any(words in fault for fault in faults)) if words else faults == []


@pytest.mark.parametrize("policy", ["DROP", "REJECT", "ACCEPT"])
def test_the_kernel_s_policy_for_what_goes_out_is_the_user_s(policy: str) -> None:
    settings = SETTINGS.replace('OUTPUT_POLICY="ACCEPT"', f'OUTPUT_POLICY="{policy}"')
    shut = filter_from(kernel().replace("-P OUTPUT ACCEPT", "-P OUTPUT DROP"))
    for now, fits in ((shut, policy != "ACCEPT"), (filter_from(kernel()), policy == "ACCEPT")):
        verdict = ufw.judge(ufw.Found(settings, ON, rules(), "", {"iptables": now}), "tailscale0", [])
        assert any("policy of OUTPUT" in fault for fault in verdict.kernel) is not fits


def test_without_ipv6_in_the_kernel_its_rules_are_not_asked_for() -> None:
    """ufw writes IPv4 alone then, and leaves what is in user6.rules as it is."""
    here = {"iptables": filter_from(kernel(SSH))}
    four, six = rules(tuple_of(SSH, 4, ufw.label(SSH))), rules(tuple_of(WEB, 6, ufw.label(WEB)))
    there = ufw.Found(SETTINGS, ON, four, six, here)
    verdict = ufw.judge(there, "tailscale0", [SSH])
    assert (verdict.add, verdict.delete) == ([], [])
    both = ufw.Found(SETTINGS, ON, four, six, {**here, "ip6tables": filter_from(kernel(prefix="ufw6"))})
    verdict = ufw.judge(both, "tailscale0", [SSH])
    assert [what[2] for what, _c in verdict.add] == ["22"] and [rule.port for rule in verdict.delete] == ["4001"]


def test_no_ipv6_in_the_kernel_is_no_fault() -> None:
    there = ufw.Found(SETTINGS, ON, file_of(SSH), file_of(SSH, prefix="ufw6"), {"iptables": filter_from(kernel(SSH))})
    assert ufw.kernel_faults(there, {"iptables": ufw.KERNEL_POLICIES}) == []


# ---- files of settings
NAMES = some.sampled_from(["IPV6", "ENABLED", "DEFAULT_INPUT_POLICY"])
VALUES = some.from_regex(r"[A-Za-z]{1,8}", fullmatch=True)
LINES = some.lists(
    some.one_of(
        some.from_regex(r"# [a-z =]{0,20}", fullmatch=True),
        some.builds(lambda n, v, q: f"{n}={q}{v}{q}", NAMES, VALUES, some.sampled_from(['"', ""])),
        some.just(""),
    ),
    max_size=12,
)


@given(LINES, NAMES, VALUES)
def test_one_setting_is_changed_and_nothing_else(lines: list[str], name: str, value: str) -> None:
    text = "".join(f"{line}\n" for line in lines)
    made = ufw.with_setting(text, name, value)
    assert ufw.settings_from(made)[name] == value
    assert ufw.with_setting(made, name, value) == made
    others = {key: kept for key, kept in ufw.settings_from(text).items() if key != name}
    assert {key: kept for key, kept in ufw.settings_from(made).items() if key != name} == others
    before, after = text.splitlines(), made.splitlines()
    assert [line for line in before if not line.startswith(f"{name}=")] == [
        line for line in after if not line.startswith(f"{name}=")
    ]


@pytest.mark.parametrize(
    ("now", "ours"),
    [
        (SETTINGS, True),
        (SETTINGS.replace("IPV6=yes", "IPV6=no"), True),
        (SETTINGS + "# mine\n", False),
        (SETTINGS.replace('INPUT_POLICY="DROP"', 'INPUT_POLICY="REJECT"'), False),
        (SETTINGS.replace('"', ""), True),
    ],
)
def test_whose_hand_changed_the_settings(now: str, ours: bool) -> None:
    before = SETTINGS.replace("IPV6=yes", "IPV6=no")
    assert ufw.own_settings(before, now, {"IPV6": "yes", "DEFAULT_INPUT_POLICY": "DROP"}) is ours


@pytest.mark.parametrize(
    ("now", "ours"),
    [
        (rules(MINE, tuple_of(SSH, comment=ufw.label(SSH))), True),
        (rules(MINE).replace("### LOGGING ###\nx", "### LOGGING ###\nother"), True),
        (rules(MINE, LIMIT), False),
        (rules(), False),
        (rules(MINE) + "# mine\n", False),
    ],
)
def test_whose_hand_changed_the_rules(now: str, ours: bool) -> None:
    assert ufw.own_rules(rules(MINE), now, 4) is ours


def test_whose_hand_changed_the_last_rules() -> None:
    assert ufw.own_words('-A x -j LOG "[UFW BLOCK]"', '-A x -j LOG "[UFW ALLOW]"')
    assert not ufw.own_words('-A x -j LOG "[UFW BLOCK]"', '-A x -j ACCEPT "[UFW ALLOW]"')
