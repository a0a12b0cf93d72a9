# SPDX-License-Identifier: MIT
"""The audit is green on the machine as built, with every path tried; and red, naming the thing, after each sabotage of
one line.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab, play

#: The least that is tried by network from each place, both versions of IP together (issue 4, acceptance 2).
PATHS_MIN = 60
SECONDS_MAX = 300
UNITS = ("admission", "gateway", "door", "prober", "llama-nemotron", "llama-coder")
INSIDE = "ip netns exec sovereign"
TABLE = "inet mushishi_guard"
PROBER, DOOR = "mushishi-sovereign-prober", "mushishi-sovereign-door"
COMPOSE = "/etc/mushishi/vllm/agent/compose.yml"


def audit(tmp_path: Path, *parts: str) -> dict[str, Any]:
    """playbooks/audit.yml, all of it or some parts; what the module returned, and ``rc`` and ``seconds`` of the
    playbook.
    """
    file = tmp_path / "result.json"
    file.unlink(missing_ok=True)
    extra: dict[str, Any] = {"audit_result_file": str(file)}
    if parts:
        extra["audit_parts"] = list(parts)
    began = time.monotonic()
    done = play("audit", "--extra-vars", json.dumps(extra))
    seconds = time.monotonic() - began
    assert file.exists(), f"the audit did not run:\n{done.stdout[-3000:]}\n{done.stderr[-1000:]}"
    said = done.stdout + done.stderr  # where a failed task is said depends on Ansible's settings
    return {**json.loads(file.read_text()), "rc": done.returncode, "seconds": seconds, "output": said}


def leaks(result: dict[str, Any]) -> list[str]:
    """What leaked, one line each."""
    rows = [row for row in result["rows"] if row["outcome"] == "leaked" and row["kind"] != "control"]
    return [f"{row['rule']} {row['source']} · {row['path']} ({row['detail']})" for row in rows]


@pytest.fixture(scope="module")
def green(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One whole run on the machine as it is."""
    return audit(tmp_path_factory.mktemp("audit"))


def test_green_on_the_machine_as_it_is(green: dict[str, Any]) -> None:
    assert leaks(green) == []
    assert (green["verdict"], green["why"], green["rc"]) == ("green", "", 0)
    assert green["seconds"] < SECONDS_MAX
    assert {row["outcome"] for row in green["rows"] if row["kind"] == "control"} == {"leaked"}


def test_every_place_tried_enough_by_both_versions(green: dict[str, Any]) -> None:
    """Counted from the rows, so that a probe that silently did not run is missed here."""
    tried: dict[str, list[str]] = {}
    for row in green["rows"]:
        if row["kind"] == "attack" and row["outcome"] == "refused" and re.search(r" (tcp|udp|dns|ping)\b", row["path"]):
            tried.setdefault(row["source"], []).append(row["path"])
    places = [f"unit mushishi-sovereign-{name} ({how})" for name in UNITS for how in ("bare", "in its group")]
    places += [
        f"user mushishi-sovereign-{name} on the host" for name in ("admission", "gateway", "door", "prober", "llama")
    ]
    places.append("container mushishi-vllm-agent")
    for place in places:
        paths = tried.get(place, [])
        six = [path for path in paths if path.count(":") > 1]
        assert len(paths) >= PATHS_MIN, f"{place}: {len(paths)}"
        assert len(six) >= PATHS_MIN // 3 and len(paths) - len(six) >= PATHS_MIN // 3, f"{place}: {len(six)} of IPv6"
        for name in ("home LAN", "tailnet peer", "internet", "provider groq"):
            assert any(f"→ {name} v4" in path for path in paths) and any(f"→ {name} v6" in path for path in paths), name
    kinds = {row["kind"] for row in green["rows"]}
    assert kinds >= {"static", "attack", "pull", "files", "logs", "control"}


def test_refusals_are_immediate(green: dict[str, Any]) -> None:
    slow = [row for row in green["rows"] if row["kind"] == "attack" and (row["ms"] or 0) > 1000]
    # Only what a unit's own filter of addresses drops without a word, on the LAN itself.
    assert [row for row in slow if "filter of addresses" not in row["detail"]] == []


def test_each_kind_of_attack_has_its_hole(green: dict[str, Any]) -> None:
    holes = [f"{row['source']} {row['path']}" for row in green["rows"] if row["kind"] == "control"]
    for words in (
        "namespace attack",
        "socket file",
        "container attack",
        "user on the host",
        "no policy names",
        "pull",
        "files",
    ):
        assert any(words in hole for hole in holes), words
    for name in UNITS:
        assert any(f"mushishi-sovereign-{name} (bare) namespace attack" in hole for hole in holes), name


def test_nothing_is_left_of_the_holes(lab: Lab, green: dict[str, Any]) -> None:
    for enter in ("", f"{INSIDE} "):
        assert "mushishi-audit" not in lab.hub.run("sh", "-c", f"{enter}nft list ruleset")
    assert "audit" not in lab.hub.run("systemctl", "list-timers", "--all", "--no-legend", "mushishi-audit*")
    assert not lab.hub.ok("test", "-e", "/run/mushishi-audit-control")
    assert lab.hub.run("systemctl", "list-units", "--all", "--no-legend", "mushishi-sovereign-audit*").strip() == ""


def test_a_hole_closes_by_itself_when_the_audit_is_killed(lab: Lab) -> None:
    """Two of the three hands: the rule's own date, and systemd's timer."""
    program = (
        "import sys, os; sys.path.insert(0, '/run/audit-test'); from audit import control, facts\n"
        "control.LIFE = 4\n"
        "holes = control.Holes(facts.Machine(), facts.Settings())\n"
        "context = holes.open(); context.__enter__()\n"
        "holes.rule('plane', 'output', 'ip daddr 192.0.2.254 tcp dport 9')\n"
        "print(holes.left(), flush=True); os.kill(os.getpid(), 9)\n"
    )
    package = Path(__file__).resolve().parents[3] / "plugins/module_utils/audit"
    lab.hub.run("mkdir", "-p", "/run/audit-test/audit")
    try:
        for file in package.glob("*.py"):
            lab.hub.run("tee", f"/run/audit-test/audit/{file.name}", stdin=file.read_text())
        assert lab.hub.run("python3", "-c", program, check=False).strip() == "True"
        lab.until(
            lambda: "mushishi-audit" not in lab.hub.run("sh", "-c", f"{INSIDE} nft list ruleset"),
            "the timer closed it",
            20,
        )
    finally:
        lab.hub.run("rm", "-rf", "/run/audit-test", "/run/mushishi-audit-control")


def test_facts_say_what_it_was(green: dict[str, Any]) -> None:
    facts = green["facts"]
    assert facts["images"]["mushishi-vllm-agent"].startswith("sha256:")
    assert {"nft", "systemd", "kernel", "docker"} <= set(facts["versions"])
    assert re.fullmatch("[0-9a-f]{64}", facts["configuration"]["/etc/mushishi/guard/host.nft"])
    assert set(facts["rules"]) == {"host", "plane"}
    assert any(path.endswith(".gguf") for path in facts["models"]) and set(facts["audit"]) >= {
        "probe",
        "static",
        "attack",
    }


def test_no_secret_is_in_the_result(lab: Lab, green: dict[str, Any]) -> None:
    text = json.dumps(green["rows"]) + json.dumps(green["facts"])
    for key in ("lab-groq-key", lab.key("private"), lab.hub.run("cat", "/etc/mushishi/secrets/llama-door.key").strip()):
        assert key not in text


@dataclass(frozen=True)
class Sabotage:
    """One line that a careless hand could write: ``do`` and ``undo`` for a shell on the machine, and what the audit
    must say.
    """

    name: str
    do: str
    undo: str
    said: str
    parts: tuple[str, ...] = ("static",)


HOST_RULES = "systemctl reload mushishi-guard.service"
PLANE_RULES = f"{INSIDE} nft --file /etc/mushishi/guard/plane.nft"


def host_rule(name: str, rule: str, said: str, *parts: str) -> Sabotage:
    """An accept in front of the host's rules."""
    return Sabotage(name, f"nft 'insert rule {TABLE} {rule}'", HOST_RULES, said, parts or ("static",))


def plane_rule(name: str, rule: str, said: str, *parts: str) -> Sabotage:
    """A rule in front of the plane's."""
    return Sabotage(name, f"{INSIDE} nft 'insert rule {TABLE} {rule}'", PLANE_RULES, said, parts or ("static",))


def lost_rule(name: str, chain: str, pattern: str, said: str) -> Sabotage:
    """Every rule of a host's chain that fits is gone."""
    pick = f"nft -a list chain {TABLE} {chain} | awk '/{pattern}/{{print $NF}}'"
    return Sabotage(name, f"for h in $({pick}); do nft delete rule {TABLE} {chain} handle $h; done", HOST_RULES, said)


def drop_in(name: str, unit: str, lines: str, said: str, *, restart: bool = False) -> Sabotage:
    """A drop-in of one line, loaded; with ``restart`` the process has it, too."""
    folder = f"/etc/systemd/system/{unit}.service.d"
    again = f" && systemctl restart {unit}" if restart else ""
    do = f"mkdir -p {folder} && printf '{lines}\\n' > {folder}/90-sabotage.conf && systemctl daemon-reload{again}"
    undo = f"rm -f {folder}/90-sabotage.conf; rmdir {folder} 2>/dev/null; systemctl daemon-reload{again}"
    return Sabotage(name, do, undo, said)


def file(name: str, path: str, change: str, said: str, after: str = "true", *parts: str) -> Sabotage:
    """A file changed in place (units that bind it see it at once); ``after`` loads it."""
    do = f"cp -p {path} /root/sabotage.keep && ({change}) && ({after})"
    return Sabotage(
        name,
        do,
        f"cat /root/sabotage.keep > {path}; touch -r /root/sabotage.keep {path}; {after}",
        said,
        parts or ("static",),
    )


def of_service(line: str) -> str:
    """A section and a line, as printf wants them."""
    return f"[Service]\\n{line}"


SABOTAGES = (
    # The guard on the host.
    host_rule(
        "a sovereign user may talk",
        "output meta skuid mushishi-sovereign-llama accept",
        r"P4 .*llama on the host → anywhere",
    ),
    host_rule(
        "the same, attacked",
        "output meta skuid mushishi-sovereign-llama accept",
        r"P4 user mushishi-sovereign-llama on the host · → home LAN v4",
        "users",
    ),
    host_rule(
        "anybody may open the plane",
        'output oifname "br-sovereign" tcp dport 8000 accept',
        r"P2 .*host → sovereign LAN: .*10\.88\.0\.",
    ),
    host_rule(
        "the same, attacked",
        'output oifname "br-sovereign" tcp dport 8000 accept',
        r"P2 user nobody on the host · → plane 10\.88\.0\.10 tcp 8000",
        "pull",
    ),
    host_rule("by UDP alone", "output meta l4proto udp accept", r"P2 .*host → sovereign LAN: .* udp"),
    host_rule(
        "the LAN may open ssh on the host",
        'input iifname "br-sovereign" tcp dport 22 accept',
        r"P3 .*sovereign LAN → host: .*tcp 22",
    ),
    host_rule(
        "the same, attacked",
        'input iifname "br-sovereign" tcp dport 22 accept',
        r"P1 container mushishi-vllm-agent.* · → host on br-sovereign v4 10\.88\.0\.1 tcp 22",
        "containers",
    ),
    host_rule(
        "the LAN is routed to one interface",
        'forward iifname "br-sovereign" oifname "tailscale0" accept',
        r"P1 .*sovereign LAN → beyond",
    ),
    host_rule(
        "the LAN is entered by routing",
        'forward oifname "br-sovereign" ip daddr 10.88.0.2 accept',
        r"P2 .*beyond → sovereign LAN",
    ),
    host_rule(
        "a hybrid user may talk to anybody",
        "output meta skuid mushishi-hybrid-gateway accept",
        r"P10 .*mushishi-hybrid-gateway → beyond",
    ),
    host_rule(
        "the same, attacked",
        "output meta skuid mushishi-hybrid-gateway accept",
        r"P10 user mushishi-hybrid-gateway on the host · → home LAN v4",
        "egress",
    ),
    lost_rule(
        "the reject of one user is lost", "output", "sovereign_user_gateway", r"P4 .*gateway on the host → anywhere"
    ),
    lost_rule(
        "the LAN's address may be elsewhere",
        "output",
        "lan_address_elsewhere",
        r"P1 .*an address of the LAN by another interface",
    ),
    lost_rule("loopback services are anybody's", "output", "loopback_service", r"P10 .*hybrid gateway on loopback"),
    lost_rule(
        "the ingress answers everywhere", "input", "ingress_from_elsewhere", r"P9 .*elsewhere → ports of the ingress"
    ),
    Sabotage("a chain is flushed", f"nft flush chain {TABLE} forward", HOST_RULES, r"P1 .*sovereign LAN → beyond"),
    Sabotage(
        "the guard's table is gone", f"nft delete table {TABLE}", HOST_RULES, r"P1 nft in the host's namespace · table"
    ),
    Sabotage(
        "the guard comes after others",
        f"(echo 'delete table {TABLE}'; sed 's/priority -10/priority 10/' /etc/mushishi/guard/host.nft) | nft --file -",
        f"nft delete table {TABLE}; {HOST_RULES}",
        r"P1 nft in the host's namespace · output: our chain is hooked",
    ),
    # The guard in the plane.
    plane_rule(
        "a flow that nobody named",
        "output ip daddr 10.88.0.10 tcp dport 8000 accept",
        r"P3 .*inside the plane → what the policy does not name",
    ),
    plane_rule("an engine may ask", "input ip saddr 10.88.0.10 accept", r"P2 .*sovereign LAN → namespace"),
    plane_rule(
        "the same, attacked",
        "input ip saddr 10.88.0.10 accept",
        r"P3 container mushishi-vllm-agent.* · → plane 10\.88\.0\.2 tcp 4001",
        "containers",
    ),
    plane_rule("everything may leave", "output accept", r"P3 .*inside the plane → what the policy does not name"),
    Sabotage(
        "a second table translates",
        f"{INSIDE} nft 'add table ip nat'",
        f"{INSIDE} nft delete table ip nat",
        r"P1 .*no table but ours \(ip nat",
    ),
    Sabotage(
        "the LAN is translated",
        "iptables -t nat -I POSTROUTING -s 10.88.0.0/24 -j MASQUERADE",
        "iptables -t nat -D POSTROUTING -s 10.88.0.0/24 -j MASQUERADE",
        r"P1 iptables-nft-save · no address translation",
    ),
    # The plane.
    Sabotage(
        "a default route",
        f"{INSIDE} ip route add default via 10.88.0.1",
        f"{INSIDE} ip route del default",
        r"P1 namespace sovereign · IPv4: no route",
    ),
    Sabotage(
        "the same, attacked",
        f"{INSIDE} ip route add default via 10.88.0.1",
        f"{INSIDE} ip route del default",
        r"P1 unit mushishi-sovereign-admission \(bare\) · → internet v4 198\.51\.100\.53 tcp 443 \(there is a route",
        ("units",),
    ),
    Sabotage(
        "IPv6 in the plane",
        f"{INSIDE} sysctl -qw net.ipv6.conf.all.disable_ipv6=0",
        f"{INSIDE} sysctl -qw net.ipv6.conf.all.disable_ipv6=1",
        r"P5 namespace sovereign · net\.ipv6\.conf\.all",
    ),
    Sabotage(
        "the plane routes",
        f"{INSIDE} sysctl -qw net.ipv4.ip_forward=1",
        # Whoever changes ip_forward gets the redirects back with it.
        f"{INSIDE} sysctl -qw net.ipv4.ip_forward=0 net.ipv4.conf.all.accept_redirects=0",
        r"P5 namespace sovereign · net\.ipv4\.ip_forward",
    ),
    Sabotage(
        "loopback from the LAN",
        "sysctl -qw net.ipv4.conf.br-sovereign.route_localnet=1",
        "sysctl -qw net.ipv4.conf.br-sovereign.route_localnet=0",
        r"P5 host · .*route_localnet",
    ),
    Sabotage(
        "a stranger on the bridge",
        "ip link add stranger0 type veth peer name stranger1 && ip link set stranger0 master br-sovereign",
        "ip link del stranger0",
        r"P5 br-sovereign · registered members alone.*stranger0",
    ),
    Sabotage(
        "a second address on the bridge",
        "ip addr add 10.99.0.1/24 dev br-sovereign",
        "ip addr del 10.99.0.1/24 dev br-sovereign",
        r"P5 br-sovereign · addresses",
    ),
    # Units.
    drop_in(
        "a unit on the host's network",
        PROBER,
        of_service("NetworkNamespacePath="),
        r"P1 unit \S+prober, process \S+ · it is in the sovereign namespace",
        restart=True,
    ),
    drop_in(
        "socket files allowed",
        PROBER,
        of_service("RestrictAddressFamilies=AF_UNIX"),
        r"P3 unit \S+prober · RestrictAddressFamilies",
    ),
    drop_in(
        "a wide filter of addresses", DOOR, of_service("IPAddressAllow=0.0.0.0/0"), r"P1 unit \S+door · IPAddressAllow"
    ),
    drop_in("core dumps", DOOR, of_service("LimitCORE=infinity"), r"P8 unit \S+door · LimitCORE"),
    drop_in(
        "a key in the environment",
        PROBER,
        of_service("Environment=GROQ_API_KEY=lab-groq-key"),
        r"P3 unit \S+prober, process .*its environment.*GROQ_API_KEY",
        restart=True,
    ),
    drop_in(
        "a proxy in the environment",
        PROBER,
        of_service("Environment=https_proxy=http://10.88.0.1:3128"),
        r"P3 unit \S+prober · its Environment=.*https_proxy",
    ),
    drop_in(
        "a key of the cloud as a credential",
        PROBER,
        of_service("LoadCredential=extra:/etc/mushishi/secrets/cloud/groq.key"),
        r"P3 unit \S+prober, process .*its credentials \(extra is groq\.key",
        restart=True,
    ),
    drop_in(
        "every socket in sight",
        PROBER,
        of_service("InaccessiblePaths="),
        r"P3 unit \S+prober, process .*no socket file.*dbus/system_bus_socket",
        restart=True,
    ),
    drop_in(
        "the host's resolver",
        PROBER,
        of_service("BindReadOnlyPaths="),
        r"P3 unit \S+prober, process .*resolv\.conf names no server \(198",
        restart=True,
    ),
    drop_in(
        "a capability",
        DOOR,
        of_service("CapabilityBoundingSet=CAP_NET_ADMIN"),
        r"P3 unit \S+door · CapabilityBoundingSet",
    ),
    drop_in("another user", DOOR, of_service("User=root"), r"P4 unit \S+door · User of its own"),
    file(
        "not bound to the plane",
        f"/etc/systemd/system/{DOOR}.service",
        f"sed -i /BindsTo=/d /etc/systemd/system/{DOOR}.service",
        r"P1 unit \S+door · BindsTo",
        "systemctl daemon-reload",
    ),
    drop_in("the common journal", DOOR, of_service("LogNamespace="), r"P8 unit \S+door · LogNamespace"),
    drop_in("a writable system", DOOR, of_service("ProtectSystem=no"), r"P3 unit \S+door · ProtectSystem"),
    Sabotage(
        "Docker without the guard",
        "mv /etc/systemd/system/docker.service.d /root/sabotage.d && systemctl daemon-reload",
        "mv /root/sabotage.d /etc/systemd/system/docker.service.d && systemctl daemon-reload",
        r"P1 unit docker · no guard, no containers",
    ),
    file(
        "the slice's filter is off",
        "/etc/systemd/system/sovereign.slice",
        "sed -i /IPAddressDeny/d /etc/systemd/system/sovereign.slice",
        r"P1 sovereign\.slice · IPAddressDeny",
        "systemctl daemon-reload",
    ),
    file(
        "a unit that was changed and not loaded",
        f"/etc/systemd/system/{DOOR}.service",
        f"echo '# later' >> /etc/systemd/system/{DOOR}.service",
        r"P3 unit \S+door · NeedDaemonReload",
    ),
    # Names.
    file(
        "a name server for the plane",
        "/etc/mushishi/plane/resolv.conf",
        "echo nameserver 198.51.100.53 >> /etc/mushishi/plane/resolv.conf",
        r"P3 unit \S+, process .*resolv\.conf names no server \(198",
    ),
    file(
        "names from DNS",
        "/etc/mushishi/plane/nsswitch.conf",
        "echo 'hosts: files dns' > /etc/mushishi/plane/nsswitch.conf",
        r"P3 unit \S+, process .*nsswitch",
    ),
    file(
        "a provider in the hosts file",
        "/etc/mushishi/plane/hosts",
        "echo 198.51.100.12 api.groq.com >> /etc/mushishi/plane/hosts",
        r"P3 unit \S+, process .*/etc/hosts knows",
    ),
    # Secrets, files, users.
    Sabotage(
        "a key for everybody",
        "chmod 0644 /etc/mushishi/secrets/llama-door.key",
        "chmod 0600 /etc/mushishi/secrets/llama-door.key",
        r"P7 /etc/mushishi/secrets · root's alone.*llama-door",
    ),
    Sabotage(
        "the same, and its folder, attacked",
        "chmod 0755 /etc/mushishi/secrets && chmod 0644 /etc/mushishi/secrets/llama-door.key",
        "chmod 0700 /etc/mushishi/secrets && chmod 0600 /etc/mushishi/secrets/llama-door.key",
        r"P7 user mushishi-hybrid-gateway on the host · → /etc/mushishi/secrets .*llama-door",
        ("files",),
    ),
    Sabotage(
        "the journal for everybody",
        "chmod -R o+rX /var/log/journal",
        "chmod -R o-rwx /var/log/journal/*",
        r"P8 user \S+ on the host · → journals",
        ("files",),
    ),
    Sabotage(
        "rules that anybody writes",
        "chmod 0666 /etc/mushishi/guard/host.nft",
        "chmod 0644 /etc/mushishi/guard/host.nft",
        r"P7 /etc/mushishi · written by root alone.*host\.nft",
    ),
    Sabotage(
        "a job of a sovereign user",
        "mkdir -p /etc/cron.d && echo '* * * * * mushishi-sovereign-llama /bin/true' > /etc/cron.d/sabotage",
        "rm /etc/cron.d/sabotage",
        r"P4 user mushishi-sovereign-llama · no linger, no cron",
    ),
    Sabotage(
        "a process of a sovereign user on the host",
        "setpriv --reuid=mushishi-sovereign-llama --regid=65534 --clear-groups sleep 60 >/dev/null 2>&1 &"
        " echo $! > /root/sabotage.pid",
        "kill $(cat /root/sabotage.pid)",
        r"P4 user mushishi-sovereign-llama · no process outside",
    ),
    Sabotage(
        "a unit of a sovereign user on the host",
        "printf '[Service]\\nUser=mushishi-sovereign-llama\\nExecStart=/bin/true\\n'"
        " > /etc/systemd/system/sabotage.service && systemctl daemon-reload",
        "rm /etc/systemd/system/sabotage.service && systemctl daemon-reload",
        r"P4 systemd · no unit runs .*sabotage\.service",
    ),
    # The container.
    Sabotage(
        "a second network",
        "docker network connect bridge mushishi-vllm-agent",
        "docker network disconnect bridge mushishi-vllm-agent",
        r"P5 container mushishi-vllm-agent · one network",
    ),
    Sabotage(
        "the same, attacked",
        "docker network connect bridge mushishi-vllm-agent",
        "docker network disconnect bridge mushishi-vllm-agent",
        r"P1 container mushishi-vllm-agent.* · → .*(there is a route|it got through|nothing refused)",
        ("containers",),
    ),
    file(
        "a capability in the compose file",
        COMPOSE,
        f"sed -i 's/^    cap_drop: .*/&\\n    cap_add: [NET_RAW]/' {COMPOSE}",
        r"P5 container mushishi-vllm-agent · every capability dropped.*NET_RAW",
        f"docker compose --file {COMPOSE} up --detach --quiet-pull",
    ),
    file(
        "a published port in the compose file, not yet started",
        COMPOSE,
        f"sed -i 's/^    cap_drop: .*/&\\n    ports: [\"8000:8000\"]/' {COMPOSE}",
        r"P5 container mushishi-vllm-agent · made from .* as it is",
    ),
    # The gateways.
    file(
        "a fallback to the cloud",
        "/etc/mushishi/gateway/sovereign.yaml",
        "sed -i '0,/api_base: .*/s||api_base: https://api.groq.com/openai/v1|' /etc/mushishi/gateway/sovereign.yaml",
        r"P1 configuration of the sovereign gateway · .*api\.groq\.com",
    ),
    file(
        "a setting that opens a way",
        "/etc/mushishi/gateway/sovereign.yaml",
        "sed -i 's/^litellm_settings:/&\\n  default_fallbacks: [groq]/' /etc/mushishi/gateway/sovereign.yaml",
        r"P1 configuration of the sovereign gateway · every value",
    ),
    file(
        "a gateway's file that is not what runs",
        "/etc/mushishi/gateway/hybrid.yaml",
        "touch /etc/mushishi/gateway/hybrid.yaml",
        r"P1 unit mushishi-hybrid-gateway · .* is what runs",
    ),
    file(
        "the door shows figures",
        "/etc/mushishi/gateway/haproxy.cfg",
        "sed -i 's/^    default_backend no-route/    default_backend engine-gpu/' /etc/mushishi/gateway/haproxy.cfg",
        r"P2 engine door · everything else is refused",
    ),
    file(
        "the door opens a T1 engine for the hybrid side, attacked",
        "/etc/mushishi/gateway/haproxy.cfg",
        "sed -i '/^frontend hybrid/,/default_backend/s|^    default_backend.*|    use_backend engine-cpu-coder"
        " if { method GET } { path -m str /cpu-coder/v1/models }\\n&|' /etc/mushishi/gateway/haproxy.cfg",
        r"P2 user mushishi-hybrid-gateway on the host · → engine door GET /cpu-coder/v1/models",
        f"systemctl restart {DOOR}",
        "pull",
    ),
    file(
        "an ingress to the gateway itself",
        "/etc/mushishi/ingress-sovereign/Caddyfile",
        "sed -i 's/10.88.0.2:4001/10.88.0.2:4011/' /etc/mushishi/ingress-sovereign/Caddyfile",
        r"P9 ingress sovereign · it leads to its plane alone",
    ),
)
NAMES = [f"{number} {sabotage.name}" for number, sabotage in enumerate(SABOTAGES, 1)]
#: One of seven is the gate's, the others are the night's: each kind of place stands several times in the list.
CASES = [
    pytest.param(sabotage, id=name, marks=[] if number % 7 == 0 else [pytest.mark.nightly])
    for number, (name, sabotage) in enumerate(zip(NAMES, SABOTAGES, strict=True))
]


def test_there_are_enough_sabotages() -> None:
    assert len(CASES) >= 25
    assert len({(one.do, one.parts) for one in SABOTAGES}) == len(SABOTAGES)


@contextmanager
def sabotaged(lab: Lab, sabotage: Sabotage) -> Iterator[None]:
    """The line is in force in the block, and gone after it. The guard's own watch is told to wait, since it would mend
    it.
    """
    lab.hub.run("systemctl", "stop", "mushishi-evidence.timer", "mushishi-evidence.service")
    try:
        lab.hub.run("sh", "-c", sabotage.do)
        yield
    finally:
        lab.hub.run("sh", "-c", sabotage.undo, check=False)
        lab.hub.run("systemctl", "start", "mushishi-evidence.timer")
        # What went out through the hole is no finding of the tests that come after.
        lab.ctl("reset")
        lab.ctl("reset", machine=lab.stranger, control="127.0.0.1:9097")


@pytest.mark.parametrize("sabotage", CASES)
def test_a_sabotage_of_one_line_is_caught_and_named(lab: Lab, tmp_path: Path, sabotage: Sabotage) -> None:
    with sabotaged(lab, sabotage):
        result = audit(tmp_path, *sabotage.parts)
    found = leaks(result)
    assert result["verdict"] == "red" and result["rc"] != 0, f"not caught: {result['table'][:3]}"
    assert any(re.search(sabotage.said, line) for line in found), "\n".join(found[:20])
    assert "The audit is red" in result["output"]


@pytest.mark.nightly
def test_green_again_after_all_of_it(lab: Lab, tmp_path: Path) -> None:
    lab.everything_up()
    result = audit(tmp_path)
    assert leaks(result) == [] and result["verdict"] == "green", result["why"]
