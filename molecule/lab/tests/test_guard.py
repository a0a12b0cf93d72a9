# SPDX-License-Identifier: MIT
"""The guard by itself: each lock alone, hybrid egress by name (P10), counters as evidence, and whoever flushes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from conftest import EVIDENCE, SETTINGS, Lab, play
from test_plane import OUTCOMES_NO_ROUTE, SOVEREIGN_USERS, as_user, outside, restore_guard, shut

GATEWAY, HYBRID = "mushishi-sovereign-gateway", "mushishi-hybrid-gateway"
INSIDE = ("ip", "netns", "exec", "sovereign")
TABLE = ("inet", "mushishi_guard")
EVERYBODY = {"address": SETTINGS["lab_stranger"]["v4"], "port": 22, "proto": "tcp", "timeout": 3, "name": "outside"}
#: What the guard's evidence ends with.
EGRESS, RULES = 1, 2


def totals(lab: Lab) -> dict[str, Any]:
    """What the guard has counted so far."""
    return dict(json.loads(lab.hub.run(*EVIDENCE, "totals")))


def count(lab: Lab, plane: str, name: str) -> int:
    """Packets at one counter, whoever caused them."""
    return sum(totals(lab)["planes"][plane][name].values())


def check(lab: Lab) -> int:
    """One look of the evidence's unit: what it ended with."""
    lab.hub.run("systemctl", "start", "mushishi-evidence.service", check=False)
    return int(lab.hub.run("systemctl", "show", "-P", "ExecMainStatus", "mushishi-evidence.service"))


@contextmanager
def an_ordinary_day(lab: Lab) -> Iterator[None]:
    """No test runs, as far as the guard knows: what is tried is an alarm, and what is planted is mended."""
    lab.audit("end")
    lab.hub.run(*EVIDENCE, "acknowledge")
    try:
        yield
    finally:
        restore_guard(lab)
        lab.hub.run("systemctl", "start", "mushishi-egress.service")
        lab.audit("begin")
        lab.hub.run(*EVIDENCE, "acknowledge")
        assert check(lab) == 0


# ---- P10
def named(family: str) -> list[dict[str, Any]]:
    """The providers that the policy names."""
    return [
        {"name": f"{name} {family}", "proto": "tcp", "address": address[family], "port": 443, "timeout": 3}
        for name, address in SETTINGS["lab_providers"].items()
    ]


def beyond() -> list[dict[str, Any]]:
    """What nobody hybrid may open: all outside but the providers' one port, the resolver and loopback included."""
    found = [target for target in outside() if target["name"] not in ("a provider v4 443", "a provider v6 443")]
    resolver = SETTINGS["lab_internet"]["v4"]
    found += [
        {"name": f"loopback {port}", "proto": "tcp", "address": "127.0.0.1", "port": port, "timeout": 3}
        for port in (22, 53)
    ]
    found += [
        {"name": "resolver tcp", "proto": "tcp", "address": resolver, "port": 53, "timeout": 3},
        {"name": "quic", "proto": "udp", "address": SETTINGS["lab_providers"]["groq"]["v4"], "port": 443, "timeout": 3},
    ]
    return [target for target in found if "hybrid gateway on loopback" not in target["name"]]


def test_the_hybrid_gateway_opens_the_hosts_of_the_policy_alone(lab: Lab) -> None:
    hosts = [*named("v4"), *named("v6")]
    results = lab.probe(hosts, as_user(HYBRID, plane=False))
    assert {name for name, result in results.items() if result["outcome"] != "open"} == set()
    assert len(results) == 8
    shut(lab.probe(beyond(), as_user(HYBRID, plane=False)), len(beyond()))
    others = lab.probe(beyond(), as_user("nobody", plane=False))
    assert others["lan host v4 22"]["outcome"] == "open", "control: others do"
    assert others["resolver tcp"]["outcome"] == "open" and others["loopback 22"]["outcome"] == "open", "control"


@pytest.mark.parametrize("user", ["mushishi-ingress-sovereign", "mushishi-ingress-hybrid"])
def test_a_hybrid_user_that_is_not_named_opens_nothing_outside(lab: Lab, user: str) -> None:
    targets = [*named("v4"), *named("v6"), *beyond()]
    shut(lab.probe(targets, as_user(user, plane=False)), len(targets))
    own = [{"name": "upstream", "proto": "tcp", "address": "127.0.0.1", "port": 4000, "timeout": 3}]
    wanted = ("open",) if user.endswith("hybrid") else ("refused", "prohibited")
    assert lab.probe(own, as_user(user, plane=False))["upstream"]["outcome"] in wanted


def resolved(lab: Lab, name: str) -> bool:
    """Whether the hybrid gateway's own process finds a name."""
    pid = lab.hub.run("systemctl", "show", "-P", "MainPID", f"{HYBRID}.service").strip()
    program = f"import socket; socket.getaddrinfo({name!r}, 443)"
    become = ("setpriv", f"--reuid={HYBRID}", "--regid=65534", "--clear-groups")
    return lab.hub.ok("nsenter", f"--target={pid}", "--mount", "--", *become, "python3", "-c", program)


def test_the_hybrid_gateway_asks_no_resolver(lab: Lab) -> None:
    assert resolved(lab, "api.groq.com") and resolved(lab, "localhost")
    assert not resolved(lab, "api.openai.com") and not resolved(lab, "groq.com")
    assert lab.hub.ok("getent", "hosts", "api.groq.com"), "control: the machine has a resolver"
    families = lab.hub.run("systemctl", "show", "-P", "RestrictAddressFamilies", f"{HYBRID}.service")
    assert set(families.split()) == {"AF_INET", "AF_INET6"}


def test_addresses_are_filled_in_and_kept_when_nobody_resolves(lab: Lab) -> None:
    probe = named("v4")[1:2]
    (name,) = (target["name"] for target in probe)
    lab.hub.run("nft", "flush", "set", *TABLE, "egress_hybrid_gateway_4")
    try:
        shut(lab.probe(probe, as_user(HYBRID, plane=False)), 1)
        resolver = lab.hub.run("cat", "/etc/resolv.conf")
        lab.hub.run("sh", "-c", "echo nameserver 127.0.0.1 > /etc/resolv.conf")
        try:
            lab.hub.run("systemctl", "start", "mushishi-egress.service")
            said = lab.hub.run("journalctl", "--no-pager", "--lines=20", "--output=cat", "--unit=mushishi-egress")
            assert "api.groq.com cannot be resolved; its addresses of" in said
            assert lab.probe(probe, as_user(HYBRID, plane=False))[name]["outcome"] == "open", "kept"
        finally:
            lab.hub.run("sh", "-c", "cat > /etc/resolv.conf", stdin=resolver)
    finally:
        lab.hub.run("systemctl", "start", "mushishi-egress.service")
    assert lab.probe(probe, as_user(HYBRID, plane=False))[name]["outcome"] == "open"


# ---- counters and evidence
def test_a_reload_forgets_nothing(lab: Lab) -> None:
    user = "sovereign_user_gateway"
    lab.probe([EVERYBODY], as_user(GATEWAY, plane=False))
    before, elements = count(lab, "host", user), lab.hub.run("nft", "list", "set", *TABLE, "egress_hybrid_gateway_4")
    assert before > 0 and "443" in elements
    restore_guard(lab)
    assert count(lab, "host", user) == before
    kernel = lab.hub.run("nft", "list", "counter", *TABLE, user)
    assert "packets 0 " not in kernel, "the kernel's own count goes on"
    assert lab.hub.run("nft", "list", "set", *TABLE, "egress_hybrid_gateway_4") == elements


@pytest.mark.nightly
def test_a_healthy_machine_counts_nothing(lab: Lab) -> None:
    """Traffic of every kind, the next link and the way back included, and not one packet of alarm."""
    with an_ordinary_day(lab):
        for turn in range(4):
            for profile in ("private", "personal", "coding"):
                assert lab.ask(profile, stream=bool(turn % 2)).status == 200
        lab.engine("agent", "stop")
        assert lab.ask("private").status == 200
        lab.engine("agent", "start")
        lab.until(lambda: lab.ask("private").backend == "gpu", "the GPU is back")
        time.sleep(20)
        seen = totals(lab)
        assert (seen["egress"], seen["problems"]) == (0, []), seen
        assert check(lab) == 0


@pytest.mark.parametrize(
    ("plane", "counter", "address"),
    [(True, "plane/out_of_namespace", "10.88.0.1"), (False, "host/sovereign_user_gateway", EVERYBODY["address"])],
)
def test_one_attempt_is_an_alarm_until_it_is_acknowledged(lab: Lab, plane: bool, counter: str, address: str) -> None:
    with an_ordinary_day(lab):
        assert check(lab) == 0
        lab.probe([{**EVERYBODY, "address": address}], as_user(GATEWAY, plane=plane))
        assert (check(lab), check(lab)) == (EGRESS, EGRESS)
        assert "mushishi-evidence.service" in lab.hub.run("systemctl", "--failed", "--plain", "--no-legend")
        assert f"refused at {counter} since" in "".join(totals(lab)["problems"])
        metrics = lab.hub.run("cat", "/var/lib/mushishi-guard/metrics/mushishi_guard.prom")
        assert "\nmushishi_guard_alarm 1\n" in metrics
        if plane:
            done = play("verify")
            assert done.returncode != 0 and "refused at plane/out_of_namespace" in done.stdout + done.stderr
        assert counter in lab.hub.run(*EVIDENCE, "acknowledge")
        assert check(lab) == 0


def test_what_is_no_egress_is_no_alarm(lab: Lab) -> None:
    with an_ordinary_day(lab):
        before = count(lab, "host", "host_to_sovereign")
        lab.probe([{**EVERYBODY, "address": "10.88.0.10", "port": 8000}], [])
        assert count(lab, "host", "host_to_sovereign") > before, "root was refused, and counted"
        assert check(lab) == 0


def test_what_an_audit_tries_is_booked_apart(lab: Lab) -> None:
    before = totals(lab)["planes"]["host"]["sovereign_user_gateway"]
    lab.probe([EVERYBODY], as_user(GATEWAY, plane=False))
    assert check(lab) == 0
    after = totals(lab)["planes"]["host"]["sovereign_user_gateway"]
    assert after["audit"] > before["audit"] and after["traffic"] == before["traffic"]


# ---- whoever flushes
FLUSHES = {
    "the table": ("nft", "delete", "table", *TABLE),
    "its rules": ("nft", "flush", "table", *TABLE),
    "a chain": ("nft", "flush", "chain", *TABLE, "output"),
    "a rule before all": ("nft", "insert", "rule", *TABLE, "forward", "accept"),
    "a policy": ("nft", "add", "chain", *TABLE, "zero", "{ type filter hook output priority -20; policy drop; }"),
    "the plane's table": (*INSIDE, "nft", "delete", "table", *TABLE),
    "a rule of the plane": (*INSIDE, "nft", "insert", "rule", *TABLE, "output", "accept"),
}


@pytest.mark.parametrize("what", FLUSHES)
def test_rules_that_another_hand_took_are_mended(lab: Lab, what: str) -> None:
    targets = outside()
    with an_ordinary_day(lab):
        assert check(lab) == 0
        lab.hub.run(*FLUSHES[what])
        beyond_lan = lab.probe([EVERYBODY], as_user(GATEWAY, plane=True))
        assert beyond_lan["outside"]["outcome"] in OUTCOMES_NO_ROUTE, "meanwhile there is no route"
        assert check(lab) == RULES
        plane = "plane" if "plane" in what else "host"
        assert f"guard rules of the {plane} were not in force" in "".join(totals(lab)["problems"])
        own = [target for target in targets if "on the bridge" not in target["name"]]
        lab.audit("begin")
        shut(lab.probe(own, as_user(GATEWAY, plane=False)), len(own))
        shut(lab.probe(targets, as_user(GATEWAY, plane=True)), len(targets))
        lab.audit("end")
    lab.until(lambda: lab.ask("private").status == 200, "the plane answers")


@pytest.mark.nightly
def test_the_evidence_comes_by_itself(lab: Lab) -> None:
    """Nobody calls it: within its period the guard is back."""
    with an_ordinary_day(lab):
        lab.hub.run("nft", "delete", "table", *TABLE)
        lab.until(lambda: lab.hub.ok("nft", "list", "chain", *TABLE, "output"), "the guard is back", 60)
        lab.hub.run("systemctl", "start", "mushishi-egress.service")
    lab.everything_up()


#: With policies that let all in: UFW's own would drop the refusals of the guard, and nobody would hear them.
OTHERS = {
    "iptables -F": ["iptables -P INPUT ACCEPT", "iptables -P FORWARD ACCEPT", "iptables -F"],
    "ip6tables": ["ip6tables -P INPUT ACCEPT", "ip6tables -P FORWARD ACCEPT", "ip6tables -F"],
    "nat": ["iptables -P INPUT ACCEPT", "iptables -t nat -F", "nft flush table ip filter"],
    "ufw": ["ufw default allow incoming", "ufw --force enable", "ufw reload", "ufw --force reset"],
    "daemon-reload": ["systemctl daemon-reload", "systemctl daemon-reexec"],
    "docker": ["systemctl reset-failed docker.service", "systemctl restart docker.service"],
}


@pytest.mark.parametrize("who", OTHERS)
def test_it_survives_other_tools(lab: Lab, who: str) -> None:
    restore_guard(lab)
    rules = [lab.hub.run(*where, "nft", "-s", "list", "table", *TABLE) for where in ((), INSIDE)]
    lab.hub.run("tar", "-C", "/etc", "-cf", "/run/ufw.tar", "ufw", "default/ufw")
    try:
        for command in OTHERS[who]:
            lab.hub.run(*command.split())
        assert [lab.hub.run(*where, "nft", "-s", "list", "table", *TABLE) for where in ((), INSIDE)] == rules
        targets = outside()
        own = [target for target in targets if "on the bridge" not in target["name"]]
        shut(lab.probe(own, as_user(GATEWAY, plane=False)), len(own))
        shut(lab.probe(targets, as_user(GATEWAY, plane=True)), len(targets))
    finally:
        # UFW without its rules lets nothing in at all. It gets its files back; and since it calls no chain again that
        # is there already, all chains go first.
        lab.hub.run("ufw", "--force", "disable")
        lab.hub.run("/lib/ufw/ufw-init", "flush-all")
        lab.hub.run("sh", "-c", "rm -f /etc/ufw/*.rules.20*; tar -C /etc -xf /run/ufw.tar && rm /run/ufw.tar")
        lab.hub.run("ufw", "--force", "enable")
        # Docker writes its own rules anew. Started often in a row by intent, so systemd shall not count.
        lab.hub.run("systemctl", "reset-failed", "docker.service", check=False)
        lab.hub.run("systemctl", "restart", "docker.service")
        lab.everything_up()


def test_the_order_of_units(lab: Lab) -> None:
    """Asserted as order, so that it holds for every boot: guard, network and plane, Docker and sovereign units."""

    def has(unit: str, what: str, other: str) -> bool:
        return other in lab.hub.run("systemctl", "show", "-P", what, unit).split()

    assert has("mushishi-guard.service", "Before", "network-pre.target")
    # What ordinary units come after: none of their processes is there before the rules are.
    assert has("mushishi-guard.service", "Before", "sysinit.target")
    assert has("sysinit.target", "Wants", "mushishi-guard.service")
    assert has("mushishi-guard.service", "Before", "docker.service")
    assert has("mushishi-plane.service", "After", "mushishi-guard.service")
    assert has("mushishi-plane.service", "BindsTo", "mushishi-guard.service")
    assert has("docker.service", "After", "mushishi-plane.service")
    assert has(f"{HYBRID}.service", "After", "mushishi-egress.service")
    assert has(f"{HYBRID}.service", "Requires", "mushishi-guard.service")
    assert has("mushishi-egress.service", "After", "mushishi-guard.service")
    for user in SOVEREIGN_USERS:
        unit = f"{user}-nemotron.service" if user.endswith("llama") else f"{user}.service"
        assert has(unit, "BindsTo", "mushishi-plane.service") and has(unit, "After", "mushishi-plane.service")
    assert not has("docker.service", "Before", "mushishi-plane.service"), "control: the question can be answered no"


# ---- each lock alone
@contextmanager
def a_way_out(lab: Lab, *where: str) -> Iterator[None]:
    """A default route through the host, which forwards and masks whatever comes."""
    lab.hub.run(*where, "ip", "route", "add", "default", "via", "10.88.0.1")
    try:
        with the_host_forwards(lab):
            yield
    finally:
        lab.hub.run(*where, "ip", "route", "del", "default")


@contextmanager
def the_host_forwards(lab: Lab) -> Iterator[None]:
    """As far as other tools are concerned."""
    rules = (("FORWARD", "-j", "ACCEPT"), ("POSTROUTING", "-t", "nat", "-s", "10.88.0.0/24", "-j", "MASQUERADE"))
    for chain, *rule in rules:
        lab.hub.run("iptables", "-I", chain, *rule)
    try:
        yield
    finally:
        for chain, *rule in rules:
            lab.hub.run("iptables", "-D", chain, *rule)


@contextmanager
def no_guard(lab: Lab) -> Iterator[None]:
    """Neither on the host nor in the plane."""
    for where in ((), INSIDE):
        lab.hub.run(*where, "nft", "delete", "table", *TABLE)
    try:
        yield
    finally:
        restore_guard(lab)
        lab.hub.run("systemctl", "start", "mushishi-egress.service")


#: Locks of a process in a unit of the plane that stand in each case; the others are taken away.
UNIT_LOCKS: dict[str, set[str]] = {
    "no route": {"route"},
    "guard": {"guard"},
    "filter of the unit": {"unit"},
    "filter of the slice": {"slice"},
    "none": set(),
}


def in_a_unit(locks: set[str]) -> list[str]:
    """Command prefix: a unit in the namespace, as a sovereign user, with the locks that a unit can have."""
    given = ["NetworkNamespacePath=/run/netns/sovereign", f"User={GATEWAY}"]
    given += ["IPAddressDeny=any", "IPAddressAllow=127.0.0.0/8"] if "unit" in locks else []
    given += ["Slice=sovereign.slice"] if "slice" in locks else []
    return ["systemd-run", "--quiet", "--pipe", "--wait", *(f"--property={line}" for line in given)]


@pytest.mark.parametrize("case", UNIT_LOCKS)
def test_each_lock_of_a_unit_holds_alone(lab: Lab, case: str) -> None:
    locks = UNIT_LOCKS[case]
    with ExitStack() as gone:
        if "guard" not in locks:
            gone.enter_context(no_guard(lab))
        if "route" not in locks:
            gone.enter_context(a_way_out(lab, *INSIDE))
        else:
            gone.enter_context(the_host_forwards(lab))
        result = lab.probe([EVERYBODY], in_a_unit(locks))["outside"]
    if case == "none":
        assert result["outcome"] == "open", "control: without a lock it is open"
    else:
        # The kernel's filter drops without a word; who knocks waits. The guard before it refuses at once.
        at_once = {"no route": OUTCOMES_NO_ROUTE, "guard": ("refused", "prohibited")}
        assert result["outcome"] in at_once.get(case, ("timeout", "prohibited")), result
    shut(lab.probe([EVERYBODY], in_a_unit(set())), 1)


#: Into a process's cgroup and network. Not by ``docker exec``: runc takes the mounted tree's root for systemd's,
#: which it is not in the lab, so that what it starts lies in a cgroup of the same name elsewhere.
BESIDE = (
    'echo $$ > "/sys/fs/cgroup$(sed -n s/^0:://p /proc/$0/cgroup)/cgroup.procs" && exec nsenter --target=$0 --net "$@"'
)


@pytest.mark.parametrize("case", ["no route", "guard", "filter of the slice", "none"])
def test_each_lock_of_a_container_holds_alone(lab: Lab, case: str) -> None:
    container = lab.engine_container("agent")
    shown = json.loads(lab.hub.run("docker", "inspect", container))[0]
    scope, pid = f"docker-{shown['Id']}.scope", str(shown["State"]["Pid"])
    assert scope in lab.hub.run("cat", f"/proc/{pid}/cgroup")
    try:
        with ExitStack() as gone:
            if case != "guard":
                gone.enter_context(no_guard(lab))
            if case != "no route":
                gone.enter_context(a_way_out(lab, "nsenter", f"--target={pid}", "--net", "--"))
            if case != "filter of the slice":
                lab.hub.run("systemctl", "set-property", "--runtime", scope, "IPAddressAllow=any")
            result = lab.probe([EVERYBODY], ["sh", "-c", BESIDE, pid, "--"])["outside"]
    finally:
        lab.hub.run("systemctl", "set-property", "--runtime", scope, "IPAddressAllow=")
    wanted = {
        "no route": OUTCOMES_NO_ROUTE,
        "guard": ("refused", "prohibited"),
        "filter of the slice": ("timeout", "prohibited"),
        "none": ("open",),
    }
    assert result["outcome"] in wanted[case], result
    lab.until(lambda: lab.ask("private").backend == "gpu", "the engine answers")


@pytest.mark.parametrize("user", SOVEREIGN_USERS)
def test_the_rule_of_the_user_holds_alone(lab: Lab, user: str) -> None:
    """P4: a sovereign process in the host's own namespace, where there are routes and no filter of a unit."""
    shut(lab.probe([EVERYBODY], as_user(user, plane=False)), 1)
    with no_guard(lab):
        opened = lab.probe([EVERYBODY], as_user(user, plane=False))
    assert opened["outside"]["outcome"] == "open", "control: it is the one lock here"


FAMILIES = """
import json, socket
found = {}
for name, family, kind in (("inet", 2, 1), ("inet6", 10, 1), ("unix", 1, 1), ("netlink", 16, 3), ("packet", 17, 3),
                           ("vsock", 40, 1), ("bluetooth", 31, 3), ("alg", 38, 5)):
    try:
        socket.socket(family, kind).close()
        found[name] = "open"
    except OSError as error:
        found[name] = error.errno
print(json.dumps(found))
"""


def test_the_address_families_hold_alone(lab: Lab) -> None:
    """As root, so that nothing but the unit's own line can refuse."""
    unit = ["systemd-run", "--quiet", "--pipe", "--wait"]
    free = json.loads(lab.hub.run(*unit, "python3", "-", stdin=FAMILIES))
    assert {free[name] for name in ("inet", "inet6", "unix", "netlink")} == {"open"}, "control"
    bound = json.loads(lab.hub.run(*unit, "--property=RestrictAddressFamilies=AF_INET", "python3", "-", stdin=FAMILIES))
    assert bound.pop("inet") == "open" and set(bound.values()) == {97}, bound


def test_the_journal_of_the_plane_is_its_own(lab: Lab) -> None:
    """P8: what a sovereign unit says is in no other journal, and goes nowhere."""
    run = lab.hub.run("systemctl", "show", "-P", "InvocationID", "mushishi-sovereign-prober.service").strip()
    read = ("journalctl", "--no-pager", "--output=cat", "--quiet", f"_SYSTEMD_INVOCATION_ID={run}")
    assert "watching " in lab.hub.run(*read, "--namespace=sovereign"), "control: the prober has spoken"
    assert lab.hub.run(*read).strip() == ""
    settings = lab.hub.run("systemd-analyze", "cat-config", "systemd/journald@sovereign.conf")
    for name in ("Syslog", "KMsg", "Console", "Wall"):
        assert f"\nForwardTo{name}=no\n" in settings
    pid = lab.hub.run("systemctl", "show", "-P", "MainPID", f"{HYBRID}.service").strip()
    own = lab.hub.run("cat", "/etc/machine-id").strip()
    become = ("nsenter", f"--target={pid}", "--mount", "--", "setpriv", f"--reuid={HYBRID}", "--regid=65534")
    look = ("sh", "-c", f"cat /var/log/journal/{own}.sovereign/* /run/log/journal/{own}.sovereign/* | wc -c")
    assert lab.hub.run(*become, "--clear-groups", *look).strip() == "0", "a hybrid user reads none of it"
