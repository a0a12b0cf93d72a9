# SPDX-License-Identifier: MIT
"""The firewall's core on a machine with the real UFW: what it makes, keeps, refuses, and gives back to the byte."""

from __future__ import annotations

import json
import sys

import pytest
from firewall_machine import ADMISSION, DRIVER, INSIDE, PARTS, SSH, SYNC, Machine
from wires import places, until, wire

LAN = {"v4": "198.51.100.1", "v6": "2001:db8:1::1"}
TAILNET = {"v4": "100.64.0.1", "v6": "fd7a:115c:a1e0::1"}


def test_first_run_then_nothing(machine: Machine) -> None:
    foretold = machine.bring(SSH, ADMISSION, SYNC, check=True)
    assert foretold["changed"] and machine.run("ufw", "status").strip() == "Status: inactive", "only foretold"
    assert machine.run("ls", "/var/lib/mushishi-firewall", check=False) == ""
    done = machine.bring(SSH, ADMISSION, SYNC)
    assert done["changed"] and done["diff"] == foretold["diff"], "the dry run predicts exactly"
    machine.confirm(done)
    for check in (False, True):
        again = machine.bring(SSH, ADMISSION, SYNC, check=check)
        assert again == {"changed": False, "token": "", "diff": again["diff"], "notes": [], "kept": []}
        assert again["diff"]["before"] == again["diff"]["after"] == {}
    status = machine.run("ufw", "status", "verbose")
    assert "Status: active" in status and "deny (incoming), allow (outgoing), deny (routed)" in status
    for family, prefix in (("iptables", "ufw"), ("ip6tables", "ufw6")):
        rules = machine.rules(family)
        assert [rule for rule in rules if rule.startswith(f"-A {prefix}-user-input")] == [
            f"-A {prefix}-user-input -i tailscale0 -p tcp -m tcp --dport 22 -j ACCEPT",
            f"-A {prefix}-user-input -i tailscale0 -p tcp -m tcp --dport 4001 -j ACCEPT",
            f"-A {prefix}-user-input -i tailscale0 -p udp -m udp --dport 22000 -j ACCEPT",
        ]
        assert "-P INPUT DROP" in rules and "-P FORWARD DROP" in rules and "-P OUTPUT ACCEPT" in rules
    listed = json.loads(machine.run("cat", "/etc/mushishi/doors.json"))
    assert listed["interface"] == "tailscale0" and listed["doors"] == [SSH, ADMISSION, SYNC]


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_who_gets_in(machine: Machine, family: str) -> None:
    machine.place.echo((22, 4001, 8188), (22000, 5353))
    for place, address in ((machine.stranger, LAN[family]), (machine.client, TAILNET[family])):
        knocks = [("tcp", address, 22), ("tcp", address, 4001), ("tcp", address, 8188), ("udp", address, 22000)]
        assert set(place.knock(knocks).values()) == {"open"}, "control: without the firewall all is open"
    machine.confirm(machine.bring(SSH, SYNC))
    stranger = [("tcp", LAN[family], 22), ("tcp", LAN[family], 8188), ("udp", LAN[family], 22000)]
    assert set(machine.stranger.knock(stranger).values()) == {"silent"}
    client = [("tcp", TAILNET[family], 22), ("udp", TAILNET[family], 22000), ("tcp", TAILNET[family], 4001)]
    assert list(machine.client.knock(client).values()) == ["open", "open", "silent"]


def test_rules_of_the_user_stay(machine: Machine) -> None:
    machine.run("ufw", "allow", "from", "192.168.1.0/24", "to", "any", "port", "8080", "comment", "mine")
    machine.run("ufw", "limit", "2222/tcp")
    # The user has opened the same as a door: that rule is enough and stays the user's.
    machine.run("ufw", "allow", "in", "on", "tailscale0", "to", "any", "port", "22", "proto", "tcp")
    mine = [line for line in machine.files()["ufw/user.rules"].splitlines() if "### tuple" in line]
    machine.confirm(machine.bring(SSH, ADMISSION))
    machine.run("ufw", "deny", "from", "203.0.113.9")
    machine.confirm(machine.bring(SSH, SYNC))
    now = [line for line in machine.files()["ufw/user.rules"].splitlines() if "### tuple" in line]
    assert [line for line in now if line in mine] == mine and any("203.0.113.9" in line for line in now)
    assert sum(b"mushishi".hex() in line for line in now) == 1, "the door that is gone is gone, one is new"
    assert not machine.bring(SSH, SYNC)["changed"]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (["iptables", "-F"], "does not go through"),
        (["ip6tables", "-F", "INPUT"], "ip6tables: INPUT does not go through ufw6-before-logging-input"),
        (["iptables", "-F", "ufw-user-input"], "ufw-user-input has 0 rules, its file 2"),
        (["iptables", "-P", "INPUT", "ACCEPT"], "the policy of INPUT is ACCEPT"),
        (["ip6tables", "-D", "ufw6-before-input", "-j", "ufw6-user-input"], "ufw6-before-input does not go through"),
        (["iptables", "-R", "ufw-user-input", "2", "-i", "lan0", "-j", "ACCEPT"], "other rules than its file"),
        (["/lib/ufw/ufw-init", "force-stop"], "the policy of INPUT is ACCEPT"),
    ],
)
def test_what_the_kernel_has_lost_is_a_difference(machine: Machine, fault: list[str], words: str) -> None:
    machine.confirm(machine.bring(SSH, ADMISSION))
    before = machine.rules(), machine.rules("ip6tables")
    machine.run(*fault)
    foretold = machine.bring(SSH, ADMISSION, check=True)
    assert any(words in fault for fault in foretold["diff"]["before"]["in force"]), foretold
    machine.confirm(machine.bring(SSH, ADMISSION))
    assert (machine.rules(), machine.rules("ip6tables")) == before
    assert not machine.bring(SSH, ADMISSION)["changed"]


def test_reload_of_ufw_alone_does_not_mend_it(machine: Machine) -> None:
    """Control, and the reason why the chains are made anew: UFW says "reloaded" and filters nothing."""
    machine.confirm(machine.bring(SSH))
    machine.run("iptables", "-F")
    assert "reloaded" in machine.run("ufw", "reload")
    assert not any(rule.startswith("-A INPUT") for rule in machine.rules())


@pytest.mark.parametrize("command", [["ufw", "reload"], ["sh", "-c", "ufw --force disable; ufw --force enable"]])
def test_holds_through(machine: Machine, command: list[str]) -> None:
    machine.docker()
    machine.confirm(machine.bring(SSH, ADMISSION))
    machine.run(*command)
    assert not machine.bring(SSH, ADMISSION)["changed"]


def test_policies_and_ipv6_are_set(machine: Machine) -> None:
    machine.run("sed", "-i", "s/^IPV6=.*/IPV6=no/", "/etc/default/ufw")
    machine.run("ufw", "--force", "enable")
    machine.run("ufw", "default", "allow", "incoming")
    done = machine.bring(SSH)
    assert {"IPV6", "DEFAULT_INPUT_POLICY"} <= set(done["diff"]["before"])
    machine.confirm(done)
    assert "-P INPUT DROP" in machine.rules() and "-P INPUT DROP" in machine.rules("ip6tables")
    assert not machine.bring(SSH)["changed"]


# ---- the brake
def test_what_nobody_confirms_is_undone(machine: Machine) -> None:
    machine.run("iptables", "-P", "FORWARD", "DROP")
    machine.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/all/accept_redirects")
    files, rules = machine.files(), (machine.rules(), machine.rules("ip6tables"))
    switches = machine.switches()
    machine.docker()
    machine.place.echo((8188,))
    # Long enough for the looks below on a busy machine: what they see is over when the timer is.
    done = machine.bring(SSH, seconds=10)
    assert done["changed"]
    assert machine.switches() != switches, "UFW sets switches of the kernel, too"
    assert machine.stranger.knock([("tcp", LAN["v4"], 8188)])["tcp", LAN["v4"], 8188] == "silent"
    until("the timer undoes it", lambda: "undone.json" in machine.run("ls", "/var/lib/mushishi-firewall"), 40)
    assert machine.stranger.knock([("tcp", LAN["v4"], 8188)])["tcp", LAN["v4"], 8188] == "open"
    assert machine.files() == files and machine.switches() == switches
    plain = [[rule for rule in machine.rules(family) if "DOCKER" not in rule] for family in ("iptables", "ip6tables")]
    assert plain == [sorted(some, key=some.index) for some in rules], "the kernel's rules, too"
    assert "MUSHISHI" not in machine.run("iptables-save"), "and DOCKER-USER"
    assert machine.run("ls", "/etc/mushishi").strip() == "", "and the list of doors"
    # The controller learns it, in words, and so does the next run.
    late = machine.run("sh", "-c", f"python3 -IB {PARTS}/brake.py confirm {done['token']} 2>&1; echo $?", check=False)
    assert "was undone at" in late and "within 10 seconds" in late and late.endswith("3\n")
    again = machine.bring(SSH)
    assert again["notes"] and "Last time the change of UFW" in again["notes"][0]
    machine.confirm(again)
    assert machine.bring(SSH)["notes"] == [], "said until a change is confirmed"


def test_a_confirmed_change_stays(machine: Machine) -> None:
    machine.confirm(machine.bring(SSH, seconds=2))
    machine.run("sleep", "4")
    assert not machine.bring(SSH)["changed"] and "no change waits" in machine.brake("roll-back")


def test_a_reboot_in_between_undoes_it_before_anything_is_loaded(machine: Machine) -> None:
    files = machine.files()
    machine.bring(SSH)
    # The machine goes down: no rule and no timer is left.
    machine.run("sh", "-c", "rm -f /run/timer; iptables -F; iptables -X; ip6tables -F; ip6tables -X", check=False)
    machine.brake("boot")
    assert machine.files() == files
    record = json.loads(machine.brake("status"))["undone"]
    assert record["cause"] == "reboot" and record["problems"] == []
    assert machine.bring(SSH, check=True)["notes"][0].endswith("the machine was restarted before it was confirmed.")


def test_an_earlier_change_that_is_undone_goes_back_to_the_one_before(machine: Machine) -> None:
    machine.confirm(machine.bring(SSH))
    files = machine.files()
    machine.bring(SSH, ADMISSION, SYNC)
    machine.brake("roll-back")
    assert machine.files() == files
    assert not machine.bring(SSH)["changed"], "kernel and list of doors, too"


def test_a_change_that_waits_is_not_changed_again(machine: Machine) -> None:
    machine.bring(SSH)
    assert "waits for its confirmation or its end" in machine.bring(SSH, ADMISSION)["failed"]


def test_without_a_timer_nothing_is_changed(machine: Machine) -> None:
    machine.run("touch", "/run/no-timers")
    files = machine.files()
    assert "no timers today" in machine.bring(SSH)["failed"]
    assert machine.files() == files and machine.run("ls", "/var/lib/mushishi-firewall").strip() == ""


def test_a_killed_run_is_undone(machine: Machine) -> None:
    """The controller, or the module, dies between two commands of UFW."""
    files = machine.files()
    token = machine.bring(SSH, arm="UFW", seconds=2)["token"]
    assert token
    machine.run("ufw", "default", "deny", "routed")
    machine.run("ufw", "--force", "enable")
    until("it is undone", lambda: "undone.json" in machine.run("ls", "/var/lib/mushishi-firewall"), 20)
    assert machine.files() == files and "-P INPUT ACCEPT" in machine.rules()


GUARD = """table inet mushishi_guard
flush table inet mushishi_guard
table inet mushishi_guard {{
    # doors: begin
    chain doors_input {{
{rules}    }}
    chain doors_forward {{
    }}
    # doors: end
    chain input {{
        type filter hook input priority -10; policy accept;
        {sovereign}
        jump doors_input
    }}
}}
"""
SHUT = '        iifname "lan0" drop\n'


@pytest.mark.parametrize("before", ["", GUARD.format(rules="", sovereign="")])
def test_the_guard_s_doors_are_put_back_and_nothing_else_of_it(machine: Machine, before: str) -> None:
    machine.confirm(machine.bring(SSH))
    ufw = machine.rules()
    machine.run("mkdir", "-p", "/etc/mushishi/guard")
    if before:
        machine.run("sh", "-c", "cat > /etc/mushishi/guard/host.nft", text=before)
        machine.run("nft", "--file", "/etc/mushishi/guard/host.nft")
    machine.bring(SSH, arm="the guard's doors")
    newer = 'iifname "br-sovereign" reject'
    machine.run("sh", "-c", "cat > /etc/mushishi/guard/host.nft", text=GUARD.format(rules=SHUT, sovereign=newer))
    machine.run("nft", "--file", "/etc/mushishi/guard/host.nft")
    machine.run("sh", "-c", ": > /run/said")
    machine.brake("roll-back")
    text = machine.run("cat", "/etc/mushishi/guard/host.nft")
    assert text == GUARD.format(rules="", sovereign=newer), "what guards the sovereign plane stays the newest"
    loaded = machine.run("nft", "list", "table", "inet", "mushishi_guard")
    assert "lan0" not in loaded and "br-sovereign" in loaded
    assert machine.rules() == ufw, "UFW was not touched, and was not loaded anew"


# ---- who would be locked out
def test_a_tailnet_without_an_address_is_refused(machine: Machine) -> None:
    machine.run("ip", "addr", "flush", "dev", "tailscale0")
    files = machine.files()
    assert "tailscale0 has no address" in machine.bring(SSH)["failed"] and machine.files() == files
    accepted = machine.bring(SSH, accepted=True)
    assert accepted["changed"] and accepted["token"], "accepted, and armed all the same"


@pytest.mark.parametrize(
    ("client", "port", "words"),
    [
        ("100.64.0.9", 22, ""),
        ("fd7a:115c:a1e0::9", 22, ""),
        ("::ffff:100.64.0.9", 22, ""),
        ("198.51.100.9", 22, "comes from 198.51.100.9 by lan0"),
        ("2001:db8:1::9", 22, "by lan0"),
        ("100.64.0.9", 2222, "port 2222, which is no door"),
        ("203.0.113.77", 22, "no route leads back"),
    ],
)
def test_where_ssh_comes_from(machine: Machine, client: str, port: int, words: str) -> None:
    """As sshd leaves it in the environment of a login; sudo has taken it from the module's own."""
    asked = {"state": "present", "doors": [SSH], "inside": INSIDE, "seconds": 60, "over_ssh": True, "accepted": False}
    login = f"env -u SSH_CONNECTION {sys.executable} -c \"$0\" \"$@\"; true"
    out = machine.place.run(
        *("env", f"SSH_CONNECTION={client} 50000 100.64.0.1 {port}", "sh", "-c", login),
        *(DRIVER, str(machine.collections)),
        text=json.dumps({**asked, "check": False, "arm": ""}),
    )
    answer = json.loads(out)
    assert (words in answer["failed"]) if words else answer["changed"], answer


def test_a_login_of_nobody_knows_where_is_refused(machine: Machine) -> None:
    assert "cannot be found out" in machine.bring(SSH, over_ssh=True)["failed"]


# ---- packet filters in which nobody would read it
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"firewall-backend": "nftables"}, "backend is 'nftables'"),
        ({"iptables": False}, "DOCKER-USER"),
        ({"ip6tables": False}, "ip6tables"),
    ],
)
def test_docker_that_filters_elsewhere_is_refused(machine: Machine, settings: dict[str, object], words: str) -> None:
    files = machine.files()
    machine.run("sh", "-c", "mkdir -p /etc/docker; cat > /etc/docker/daemon.json", text=json.dumps(settings))
    assert words in machine.bring(SSH)["failed"] and machine.files() == files
    machine.run("sh", "-c", "cat > /etc/docker/daemon.json", text=json.dumps({"firewall-backend": "iptables"}))
    assert machine.bring(SSH)["changed"], "control"


def test_docker_s_own_tables_are_refused(machine: Machine) -> None:
    machine.run("nft", "add", "table", "ip", "docker-bridges")
    assert "docker-bridges" in machine.bring(SSH)["failed"]


def test_legacy_iptables_is_refused(machine: Machine) -> None:
    machine.run("ln", "-s", "/usr/sbin/xtables-legacy-multi", "/usr/local/sbin/iptables")
    assert "update-alternatives --set iptables" in machine.bring(SSH)["failed"]


def test_managed_builtins_are_refused(machine: Machine) -> None:
    machine.run("sed", "-i", "s/^MANAGE_BUILTINS=.*/MANAGE_BUILTINS=yes/", "/etc/default/ufw")
    assert "MANAGE_BUILTINS" in machine.bring(SSH)["failed"]


# ---- DOCKER-USER
@pytest.mark.parametrize("v6", [True, False])
def test_docker_user(machine: Machine, v6: bool) -> None:
    machine.docker(v6=v6)
    machine.run("iptables", "-A", "DOCKER-USER", "-s", "192.0.2.1", "-j", "DROP", "-m", "comment", "--comment", "mine")
    machine.confirm(machine.bring(SSH, ADMISSION))
    for family in ("iptables", "ip6tables"):
        rules = machine.rules(family)
        hook = "DOCKER-USER" if v6 or family == "iptables" else "FORWARD"
        assert next(rule for rule in rules if rule.startswith(f"-A {hook} ")) == f"-A {hook} -j MUSHISHI-DOORS"
        opened = [rule for rule in rules if "ctorigdstport" in rule]
        assert len(opened) == 2 and all("-i tailscale0" in rule and "--ctdir ORIGINAL" in rule for rule in opened)
        assert [rule for rule in rules if rule.startswith("-A MUSHISHI-DOORS")][-1] == "-A MUSHISHI-DOORS -j DROP"
    assert any("mine" in rule for rule in machine.rules()), "a rule of another hand stays"
    assert not machine.bring(SSH, ADMISSION)["changed"] and machine.docker_user("check").endswith("0\n")
    # Docker restarts: its chains are new, and the unit's program writes ours again.
    machine.docker(v6=v6)
    assert "DOCKER-USER does not begin with the jump" in machine.docker_user("check")
    assert machine.docker_user("apply").endswith("written and read back\n0\n")
    assert machine.docker_user("apply").endswith("as it shall be\n0\n")
    assert not machine.bring(SSH, ADMISSION)["changed"]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("iptables -F MUSHISHI-DOORS", "MUSHISHI-DOORS has other rules"),
        ("iptables -D DOCKER-USER -j MUSHISHI-DOORS", "does not begin with the jump"),
        ("ip6tables -I DOCKER-USER -j ACCEPT", "ip6tables: DOCKER-USER does not begin with the jump"),
        ("iptables -I MUSHISHI-DOORS -j RETURN", "other rules"),
    ],
)
def test_a_policy_that_was_lost_is_seen_and_mended(machine: Machine, fault: str, words: str) -> None:
    machine.docker()
    machine.confirm(machine.bring(SSH))
    machine.run("sh", "-c", fault)
    assert words in machine.docker_user("check") and not machine.docker_user("check").endswith("0\n")
    assert any(words in line for line in machine.bring(SSH, check=True)["diff"]["before"]["DOCKER-USER"])
    assert machine.docker_user("apply").endswith("0\n") and machine.docker_user("check").endswith("0\n")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("iptables -D FORWARD -j DOCKER-USER", "FORWARD does not jump to DOCKER-USER"),
        ("iptables -F; iptables -X", "no chain DOCKER-USER although Docker runs"),
    ],
)
def test_a_chain_that_docker_does_not_ask_is_an_error(machine: Machine, fault: str, words: str) -> None:
    machine.docker()
    machine.confirm(machine.bring(SSH))
    machine.run("sh", "-c", fault)
    said = machine.docker_user("apply")
    assert words in said and said.endswith("1\n")


def test_published_ports(machine: Machine) -> None:
    """Knocked at for real, UFW and the guard aside: what Docker has translated is judged by what was asked for."""
    machine.docker()
    with places("container") as (container,):
        wire(machine.place, "docker0", container, "in0")
        machine.place.address("docker0", "10.90.0.1/24", "fd90::1/64")
        container.address("in0", "10.90.0.2/24", "fd90::2/64")
        container.run("ip", "route", "add", "default", "via", "10.90.0.1")
        container.run("ip", "-6", "route", "add", "default", "via", "fd90::1")
        container.echo((80,), (53,))
        machine.stranger.run("ip", "route", "add", "default", "via", LAN["v4"])
        machine.client.run("ip", "route", "add", "default", "via", TAILNET["v4"])
        for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            machine.run("sh", "-c", f"echo 1 > /proc/sys/net/{name}")
        for family, inside in (("iptables", "10.90.0.2"), ("ip6tables", "[fd90::2]")):
            for protocol, port, to in (("tcp", 4001, 80), ("tcp", 8188, 80), ("udp", 22000, 53), ("udp", 9, 53)):
                match = ("!", "-i", "docker0", "-p", protocol, "--dport", str(port))
                machine.run(family, "-t", "nat", "-A", "PREROUTING", *match, "-j", "DNAT", "--to", f"{inside}:{to}")
            # Docker's own word about what it has published; it is asked after DOCKER-USER.
            machine.run(family, "-A", "FORWARD", "-o", "docker0", "-j", "ACCEPT")
            machine.run(family, "-A", "FORWARD", "-i", "docker0", "-j", "ACCEPT")
        for family in ("v4", "v6"):
            ports = [("tcp", 4001), ("tcp", 8188), ("udp", 22000), ("udp", 9)]
            lan = [(protocol, LAN[family], port) for protocol, port in ports]
            tail = [(protocol, TAILNET[family], port) for protocol, port in ports]
            assert set(machine.stranger.knock(lan).values()) == {"open"}, "control"
        machine.confirm(machine.bring(SSH, ADMISSION, SYNC))
        for family in ("v4", "v6"):
            lan = [(protocol, LAN[family], port) for protocol, port in ports]
            tail = [(protocol, TAILNET[family], port) for protocol, port in ports]
            assert set(machine.stranger.knock(lan).values()) == {"silent"}, family
            assert list(machine.client.knock(tail).values()) == ["open", "refused", "open", "refused"], family
        out = machine.stranger
        out.echo((7777,))
        assert container.knock([("tcp", "198.51.100.9", 7777)])["tcp", "198.51.100.9", 7777] == "open"


# ---- taken away
@pytest.mark.parametrize(
    ("policy", "enabled"),
    [
        ("deny", False),
        ("allow", True),
        *(
            pytest.param(policy, enabled, marks=pytest.mark.nightly)
            for policy, enabled in (("deny", True), ("allow", False), ("reject", False), ("reject", True))
        ),
    ],
)
def test_absent_gives_back_every_byte(machine: Machine, enabled: bool, policy: str) -> None:
    machine.run("ufw", "default", policy, "incoming")
    machine.run("ufw", "allow", "8080/tcp", "comment", "mine")
    if enabled:
        machine.run("ufw", "--force", "enable")
    machine.docker()
    files, rules = machine.files(), (machine.rules(), machine.rules("ip6tables"))
    machine.confirm(machine.bring(SSH, ADMISSION))
    machine.confirm(machine.bring(SSH, SYNC))
    assert machine.files() != files
    foretold = machine.bring(state="absent", check=True)
    done = machine.bring(state="absent")
    assert done["changed"] and foretold["diff"] == done["diff"] and done["kept"] == [] and done["notes"] == []
    machine.confirm(done)
    assert machine.files() == files
    now = machine.rules(), machine.rules("ip6tables")
    assert [sorted(some) for some in now] == [sorted(some) for some in rules]
    assert machine.run("ls", "/etc/mushishi").strip() == ""
    again = machine.bring(state="absent")
    assert not again["changed"], again
    assert machine.bring(SSH)["changed"], "and it can come again"


def test_absent_keeps_what_another_hand_has_done_since(machine: Machine) -> None:
    machine.run("ufw", "allow", "8080/tcp", "comment", "before")
    machine.confirm(machine.bring(SSH))
    machine.run("ufw", "allow", "9090/tcp", "comment", "later")
    machine.run("sh", "-c", "echo '# mine' >> /etc/default/ufw")
    # A later change of ours must not make the user's rule look like ours.
    machine.confirm(machine.bring(SSH, ADMISSION))
    done = machine.bring(state="absent")
    assert set(done["kept"]) == {"/etc/ufw/user.rules", "/etc/ufw/user6.rules", "/etc/default/ufw"}
    assert "Another hand has changed these files since" in done["notes"][0]
    machine.confirm(done)
    left = machine.files()
    assert b"mushishi".hex() not in left["ufw/user.rules"] + left["ufw/user6.rules"]
    for word in ("before", "later"):
        assert word.encode().hex() in left["ufw/user.rules"]
    assert left["default/ufw"].endswith("# mine\n") and "ENABLED=no" in left["ufw/ufw.conf"]
    assert "-P INPUT ACCEPT" in machine.rules()


def test_absent_that_is_undone_is_as_before(machine: Machine) -> None:
    machine.confirm(machine.bring(SSH))
    files = machine.files()
    machine.bring(state="absent")
    machine.brake("roll-back")
    assert machine.files() == files and not machine.bring(SSH)["changed"]
    machine.confirm(machine.bring(state="absent"))
    assert "ENABLED=no" in machine.files()["ufw/ufw.conf"], "and can still be taken away"


def test_absent_where_nothing_of_ours_ever_was(machine: Machine) -> None:
    files = machine.files()
    assert not machine.bring(state="absent")["changed"] and machine.files() == files
