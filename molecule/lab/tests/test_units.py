# SPDX-License-Identifier: MIT
"""What is in force on the machine: units, users, namespaces, secrets; with testinfra where it has the words."""

from __future__ import annotations

import json
import re

import pytest
import testinfra
import yaml
from conftest import ROOT, Lab, Machine

UNITS = (
    "mushishi-sovereign-admission",
    "mushishi-sovereign-gateway",
    "mushishi-sovereign-llama-nemotron",
    "mushishi-sovereign-llama-coder",
    "mushishi-sovereign-door",
    "mushishi-sovereign-prober",
    "mushishi-hybrid-gateway",
    "mushishi-ingress-sovereign",
    "mushishi-ingress-hybrid",
)
EXPOSURE_MAX = 2.5
LAB_KEYS: tuple[str, ...] = tuple(
    yaml.safe_load((ROOT / "inventory/lab/group_vars/all/lab.yml").read_text())["gateway_cloud_keys"].values()
)
#: What makes the plane, the guard and the doors themselves: no service that stays, with a user of its own.
FOUNDATIONS = {
    *("mushishi-guard", "mushishi-plane", "mushishi-egress", "mushishi-evidence", "mushishi-tailnet"),
    *("mushishi-docker-user", "mushishi-firewall-boot", "mushishi-firewall-rollback"),
}


@pytest.fixture(scope="module")
def host(lab: Lab) -> testinfra.host.Host:
    return testinfra.get_host(f"docker://{lab.hub.name}")


def test_the_machine_is_the_only_host(host: testinfra.host.Host) -> None:
    """"No hosts matched" is no success."""
    assert host.system_info.distribution in ("debian", "ubuntu")


def test_no_unit_is_forgotten(lab: Lab) -> None:
    """What is looked at below is every unit of ours that the machine has."""
    out = lab.hub.run("systemctl", "list-unit-files", "--plain", "--no-legend", "--type=service", "mushishi-*")
    names = {line.split()[0].removesuffix(".service") for line in out.splitlines() if line.strip()}
    assert {name for name in names if not name.endswith("@")} - FOUNDATIONS == set(UNITS)


@pytest.mark.parametrize("unit", UNITS)
def test_unit(lab: Lab, host: testinfra.host.Host, unit: str) -> None:
    service = host.service(f"{unit}.service")
    assert service.is_running and service.is_enabled
    done = host.run("systemd-analyze verify --man=no %s", f"/etc/systemd/system/{unit}.service")
    assert (done.rc, done.stdout, done.stderr) == (0, "", "")
    out = host.check_output("systemd-analyze security --no-pager %s", f"{unit}.service")
    found = re.search(r"exposure level for \S+: ([0-9.]+)", out)
    assert found and float(found.group(1)) <= EXPOSURE_MAX, out
    user = host.check_output("systemctl show -P User %s", f"{unit}.service")
    assert user.startswith("mushishi-") and user != "root"
    assert host.user(user).shell.endswith("nologin")
    assert host.check_output("systemctl show -P NRestarts %s", f"{unit}.service") == "0", "it came up at the first try"


def test_a_careless_unit_is_found(lab: Lab, host: testinfra.host.Host) -> None:
    """Control: a misspelt directive makes verify speak (it still returns 0), and nothing shared means exposed."""
    lab.hub.run(
        "tee",
        "/etc/systemd/system/planted.service",
        stdin="[Service]\nNoNewwPrivileges=yes\nExecStart=/bin/true\n",
    )
    try:
        done = host.run("systemd-analyze verify --man=no /etc/systemd/system/planted.service")
        assert "NoNewwPrivileges" in done.stdout + done.stderr
        security = "systemd-analyze security --no-pager --offline=true"
        out = host.check_output(f"{security} /etc/systemd/system/planted.service")
        found = re.search(r"exposure level for \S+: ([0-9.]+)", out)
        assert found and float(found.group(1)) > EXPOSURE_MAX, out
    finally:
        lab.hub.run("rm", "/etc/systemd/system/planted.service")


@pytest.mark.parametrize("unit", [unit for unit in UNITS if "-sovereign-" in unit and "ingress" not in unit])
def test_sovereign_unit(lab: Lab, host: testinfra.host.Host, unit: str) -> None:
    pid = host.check_output("systemctl show -P MainPID %s", f"{unit}.service")
    plane = host.check_output("stat -Lc %i /run/netns/sovereign")
    assert host.check_output("stat -Lc %%i /proc/%s/ns/net", pid) == plane
    assert "mushishi-plane.service" in host.check_output("systemctl show -P BindsTo %s", f"{unit}.service").split()
    assert host.check_output("systemctl show -P RestrictAddressFamilies %s", f"{unit}.service") == "AF_INET"
    assert host.check_output("systemctl show -P Slice %s", f"{unit}.service") == "sovereign.slice"
    assert host.check_output("systemctl show -P LogNamespace %s", f"{unit}.service") == "sovereign"
    assert "0.0.0.0/0" in host.check_output("systemctl show -P IPAddressDeny %s", f"{unit}.service").split()
    environment = lab.hub.run("sh", "-c", f"tr '\\0' '\\n' < /proc/{pid}/environ; tr '\\0' ' ' < /proc/{pid}/cmdline")
    assert not any(key in environment for key in LAB_KEYS), "a cloud key on the sovereign plane"
    for path in ("/etc/mushishi/secrets/cloud", "/run/docker.sock", "/run/dbus/system_bus_socket"):
        assert not lab.hub.ok("nsenter", f"--target={pid}", "--mount", "--", "ls", "-A", f"{path}/."), path


def test_secrets_are_roots_alone(host: testinfra.host.Host) -> None:
    listing = host.check_output("find /etc/mushishi/secrets -printf '%m %u %y %p\\n'")
    for line in listing.splitlines():
        mode, user, kind, path = line.split(" ", 3)
        assert (mode, user) == ("700" if kind == "d" else "600", "root"), path


def test_no_key_outside_its_place(lab: Lab) -> None:
    """Not in a unit, not in a config, not on a command line, not in a journal."""
    keys = [lab.key(name) for name in lab.policy["profiles"]] + list(LAB_KEYS)
    pattern = "\n".join(keys)
    for name in ("gateway-sovereign.key", "llama-sovereign.key", "llama-door.key"):
        pattern += "\n" + lab.hub.run("cat", f"/etc/mushishi/secrets/{name}").strip()
    lab.hub.run("tee", "/root/patterns", stdin=pattern + "\n")
    try:
        found = lab.hub.run(
            "sh",
            "-c",
            "grep -rlFf /root/patterns --exclude-dir=secrets "
            "/etc /opt/mushishi /var/log /var/lib/mushishi-* 2>/dev/null; "
            "journalctl --namespace=* --no-pager -o cat | grep -cFf /root/patterns; "
            "for f in /proc/[0-9]*/cmdline; do tr '\\0' ' ' < $f 2>/dev/null | grep -Ff /root/patterns; done",
            check=False,
        )
        assert found.split() == ["0"], found
        control = lab.hub.run("sh", "-c", "grep -rlFf /root/patterns /etc/mushishi/secrets | wc -l")
        assert int(control) >= len(keys), "control: the same search finds them where they belong"
    finally:
        lab.hub.run("rm", "-f", "/root/patterns")


def test_the_plane_is_made_before_docker(host: testinfra.host.Host) -> None:
    """Asserted as unit order, so that it holds for every boot and not only for this one."""
    for unit in ("mushishi-guard.service", "mushishi-plane.service"):
        assert unit in host.check_output("systemctl show -P After docker.service").split()
        assert unit in host.check_output("systemctl show -P Requires docker.service").split()
    assert "mushishi-guard.service" in host.check_output("systemctl show -P BindsTo mushishi-plane.service").split()
    assert "docker.service" in host.check_output("systemctl show -P Before mushishi-guard.service").split()


def test_the_bridge_carries_registered_members_alone(lab: Lab) -> None:
    """The namespace's end and the engines' containers; no address but the host's; no IPv6."""
    links = json.loads(lab.hub.run("ip", "-json", "link", "show", "master", "br-sovereign"))
    names = {link["ifname"] for link in links}
    assert "sov0-host" in names
    containers = lab.hub.run("docker", "network", "inspect", "sovereign", "-f", "{{len .Containers}}").strip()
    assert len(names) == 1 + int(containers)
    addresses = json.loads(lab.hub.run("ip", "-json", "addr", "show", "dev", "br-sovereign"))[0]["addr_info"]
    assert [address["local"] for address in addresses] == ["10.88.0.1"]
    assert lab.hub.run("sysctl", "-n", "net.ipv6.conf.br-sovereign.disable_ipv6").strip() == "1"


def test_engine_containers_have_nothing_to_spare(lab: Lab) -> None:
    machine: Machine = lab.hub
    shown = json.loads(machine.run("docker", "inspect", lab.engine_container("agent")))[0]
    host_config = shown["HostConfig"]
    assert host_config["CapDrop"] == ["ALL"] and not host_config["CapAdd"]
    assert not host_config["Privileged"] and host_config["ReadonlyRootfs"]
    assert host_config["IpcMode"] != "host" and host_config["NetworkMode"] != "host" and not host_config["PidMode"]
    assert host_config["CgroupParent"] == "sovereign-engines.slice"
    assert list(shown["NetworkSettings"]["Networks"]) == ["sovereign"]
    assert not any("docker.sock" in mount["Source"] for mount in shown["Mounts"])
    assert "no-new-privileges" in " ".join(host_config["SecurityOpt"])
    assert not host_config["PortBindings"]
