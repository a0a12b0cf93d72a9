# SPDX-License-Identifier: MIT
"""The parts of the static reading that need no machine: what of a listing, a property or a file is a finding, and what
is none.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mushishi.sovereign.plugins.module_utils.audit import facts, static
from ansible_collections.mushishi.sovereign.plugins.module_utils.audit.facts import Machine, Settings

SETTINGS = Settings()
GOOD_UNIT = {
    "NetworkNamespacePath": "/run/netns/sovereign",
    "NoNewPrivileges": "yes",
    "LimitCORE": "0",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "ProtectProc": "invisible",
    "PrivateUsers": "yes",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "PrivateIPC": "yes",
    "NeedDaemonReload": "no",
    "SystemCallArchitectures": "native",
    "UMask": "0077",
    "MemoryDenyWriteExecute": "yes",
    "User": "mushishi-sovereign-x",
    "RestrictAddressFamilies": "AF_INET",
    "IPAddressDeny": "::/0 0.0.0.0/0",
    "IPAddressAllow": "127.0.0.0/8 10.88.0.0/24",
    "BindsTo": "mushishi-plane.service",
    "After": "mushishi-plane.service",
    "InaccessiblePaths": "-/etc/mushishi/secrets -/run/docker.sock -/run/docker -/run/containerd -/run/dbus"
    " -/run/tailscale -/run/nscd -/run/avahi-daemon"
    " -/run/systemd/resolve -/run/systemd/private -/var/lib/docker",
    "BindReadOnlyPaths": "/a:/etc/nsswitch.conf:rbind /b:/etc/resolv.conf:rbind /c:/etc/hosts:rbind",
    "SystemCallFilter": "read write",
    "RestrictNamespaces": "yes",
    "ExecStart": "{ path=/usr/bin/x ; argv[]=/usr/bin/x }",
    "Environment": "A=b",
    "LogNamespace": "sovereign",
    "Slice": "sovereign.slice",
}


def bad(rows: list[static.Row]) -> list[str]:
    return [row.path for row in rows if row.outcome == "leaked"]


def test_a_unit_as_it_should_be() -> None:
    assert bad(static.unit("unit x", GOOD_UNIT, SETTINGS)) == []


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("NetworkNamespacePath", "", "NetworkNamespacePath"),
        ("User", "root", "User"),
        ("User", "mushishi-hybrid-x", "User"),
        ("RestrictAddressFamilies", "AF_INET AF_UNIX", "RestrictAddressFamilies"),
        ("RestrictAddressFamilies", "", "RestrictAddressFamilies"),
        ("RestrictAddressFamilies", "~AF_INET", "RestrictAddressFamilies"),
        ("IPAddressDeny", "0.0.0.0/0", "IPAddressDeny"),
        ("IPAddressAllow", "10.0.0.0/8", "IPAddressAllow"),
        ("IPAddressAllow", "::/0", "IPAddressAllow"),
        ("BindsTo", "", "BindsTo"),
        ("After", "network.target", "After"),
        ("LimitCORE", "infinity", "LimitCORE"),
        ("CapabilityBoundingSet", "cap_net_raw", "CapabilityBoundingSet"),
        ("InaccessiblePaths", "-/run/docker", "InaccessiblePaths"),
        ("BindReadOnlyPaths", "/a:/etc/nsswitch.conf:rbind", "names come"),
        ("BindPaths", "/run:/run", "BindPaths"),
        ("SystemCallFilter", "", "SystemCallFilter"),
        ("SystemCallFilter", "~read", "SystemCallFilter"),
        ("SystemCallFilter", "read mount", "SystemCallFilter"),
        ("ExecStart", "{ path=+/usr/bin/x ; }", "no command"),
        ("Environment", "HTTPS_PROXY=http://x", "its Environment="),
        ("Environment", "OPENROUTER_API_KEY=x", "its Environment="),
        ("NeedDaemonReload", "yes", "NeedDaemonReload"),
        ("LogNamespace", "", "LogNamespace"),
    ],
)
def test_each_property_counts(name: str, value: str, said: str) -> None:
    (found,) = bad(static.unit("unit x", {**GOOD_UNIT, name: value}, SETTINGS))
    assert found.startswith(said)


@pytest.mark.parametrize(
    ("entry", "local"),
    [
        ({"dst": "10.88.0.0/24", "dev": "sov0"}, True),
        ({"type": "local", "dst": "127.0.0.0/8", "dev": "lo"}, True),
        ({"type": "broadcast", "dst": "10.88.0.255", "dev": "sov0"}, True),
        ({"type": "unreachable", "dst": "default"}, True),
        ({"dst": "default", "gateway": "10.88.0.1"}, False),
        ({"dst": "default", "dev": "sov0"}, False),
        ({"dst": "192.0.2.0/24", "dev": "sov0"}, False),
        ({"dst": "10.88.0.0/24", "gateway": "10.88.0.1"}, False),
        ({"dst": "10.0.0.0/8", "dev": "sov0"}, False),
        ({"dst": "nonsense"}, False),
    ],
)
def test_a_route_that_leads_beyond_the_lan(entry: dict[str, Any], local: bool) -> None:
    assert static.local_route(entry, SETTINGS) is local
    assert bool(bad(static.routes("x", SETTINGS, [entry], []))) is not local


def test_any_route_of_ipv6_but_loopbacks_is_a_finding() -> None:
    assert bad(static.routes("x", SETTINGS, [], [{"dst": "::1", "dev": "lo"}])) == []
    assert bad(static.routes("x", SETTINGS, [], [{"dst": "fe80::/64", "dev": "sov0"}])) == ["IPv6: no route"]


@pytest.mark.parametrize(
    ("line", "hit"),
    [
        ("-A POSTROUTING -s 10.88.0.0/24 -j MASQUERADE", True),
        ("-A POSTROUTING -s 10.0.0.0/8 ! -o docker0 -j MASQUERADE", True),
        ("-A POSTROUTING -o eth0 -j MASQUERADE", True),
        ("-A DOCKER -p tcp -m tcp --dport 8000 -j DNAT --to-destination 10.88.0.10:8000", True),
        ("-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE", False),
        ("-A ts-postrouting -m mark --mark 0x40000/0xff0000 -j MASQUERADE", False),
        ("-A POSTROUTING ! -s 10.88.0.0/24 -j MASQUERADE", False),
        ("-A DOCKER -p tcp -m tcp --dport 80 -j DNAT --to-destination 172.17.0.2:80", False),
        ("-A POSTROUTING -j DOCKER_POSTROUTING", False),
        (":POSTROUTING ACCEPT [0:0]", False),
    ],
)
def test_a_translation_of_the_lans_addresses(line: str, hit: bool) -> None:
    assert static.translated(line, SETTINGS) is hit


def test_a_key_of_the_cloud_is_known_by_its_hash_and_its_name(tmp_path: Path) -> None:
    (tmp_path / "cloud").mkdir()
    (tmp_path / "cloud/groq.key").write_text("gsk-made-up-0123456789\n")
    keys = static.cloud_keys(Settings(secrets=str(tmp_path)))
    assert list(keys.values()) == ["groq.key"] and "gsk-made-up" not in str(keys)
    row = static.environment("x", "its environment", {"HARMLESS": "gsk-made-up-0123456789"}, keys)
    assert row.outcome == "leaked" and "gsk-made-up" not in str(row)
    assert static.environment("x", "its environment", {"HARMLESS": "other", "no_proxy": ""}, keys).outcome == "holds"
    for name in ("GROQ_API_KEY", "OPENAI_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "https_proxy", "ALL_PROXY"):
        assert static.environment("x", "its environment", {name: "y"}, {}).outcome == "leaked", name
    for name in ("HF_HUB_OFFLINE", "VLLM_NO_USAGE_STATS", "PATH", "CREDENTIALS_DIRECTORY"):
        assert static.environment("x", "its environment", {name: "y"}, {}).outcome == "holds", name


def test_mounts_that_lead_out(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(tmp_path / "s"))
        assert not static.harmless_mount({"Source": str(tmp_path / "s")})
    for source in ("/run", "/", "/etc/mushishi", "/proc", "/dev", "/var/lib/docker/x"):
        if os.path.exists(source):
            assert not static.harmless_mount({"Source": source}), source
    assert static.harmless_mount({"Source": "/data/ai/02-models"}) and static.harmless_mount({"Source": str(tmp_path)})


CONTAINER: dict[str, Any] = {
    "Name": "/mushishi-vllm-agent",
    "Image": "sha256:0123456789abcdef",
    "State": {"Pid": 0},
    "Mounts": [],
    "Config": {"Env": ["A=b"], "Labels": {}},
    "NetworkSettings": {"Networks": {"sovereign": {}}},
    "HostConfig": {
        "CapDrop": ["ALL"],
        "CapAdd": None,
        "Privileged": False,
        "NetworkMode": "abc",
        "IpcMode": "private",
        "PidMode": "",
        "ReadonlyRootfs": True,
        "SecurityOpt": ["no-new-privileges:true"],
        "PortBindings": {},
        "Dns": ["127.0.0.1"],
        "RestartPolicy": {"Name": "no"},
        "CgroupnsMode": "private",
        "Ulimits": [{"Name": "core", "Hard": 0, "Soft": 0}],
        "LogConfig": {"Type": "json-file"},
        "CgroupParent": "sovereign-engines.slice",
    },
}


class Nothing(Machine):
    """A machine on which no command is there."""

    def done(self, *argv: str, stdin: str = "", timeout: float = 30) -> tuple[int, str, str]:
        return 127, "", "not there"


def test_a_container_as_it_should_be() -> None:
    # Made by hand, since no compose file is named here.
    assert bad(static.container(Nothing(), SETTINGS, CONTAINER, {})) == ["it was made by a compose file"]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("CapAdd", ["NET_RAW"], "every capability dropped"),
        ("CapDrop", None, "every capability dropped"),
        ("Privileged", True, "not privileged"),
        ("NetworkMode", "host", "no namespace of the host"),
        ("IpcMode", "host", "no namespace of the host"),
        ("PidMode", "container:other", "no namespace of the host"),
        ("ReadonlyRootfs", False, "a file system"),
        ("SecurityOpt", ["seccomp=unconfined", "no-new-privileges"], "no-new-privileges"),
        ("PortBindings", {"8000/tcp": [{"HostPort": "8000"}]}, "no published port"),
        ("Dns", ["9.9.9.9"], "names resolve"),
        ("ExtraHosts", ["api.groq.com:192.0.2.1"], "names resolve"),
        ("RestartPolicy", {"Name": "always"}, "started by nobody"),
        ("Ulimits", [], "no core dump"),
        ("LogConfig", {"Type": "syslog"}, "its log"),
        ("CgroupParent", "", "in the plane's slice"),
        ("Devices", [{"PathOnHost": "/dev/net/tun"}], "no device"),
    ],
)
def test_each_setting_of_a_container_counts(key: str, value: Any, said: str) -> None:
    changed = {**CONTAINER, "HostConfig": {**CONTAINER["HostConfig"], key: value}}
    found = [
        path
        for path in bad(static.container(Nothing(), SETTINGS, changed, {}))
        if path != "it was made by a compose file"
    ]
    assert len(found) == 1 and found[0].startswith(said)


def test_a_second_network_and_a_mount_of_a_container_count() -> None:
    second = {**CONTAINER, "NetworkSettings": {"Networks": {"sovereign": {}, "bridge": {}}}}
    assert "one network, the plane's" in bad(static.container(Nothing(), SETTINGS, second, {}))
    mounted = {**CONTAINER, "Mounts": [{"Source": "/proc"}]}
    assert "no socket and no system folder mounted" in bad(static.container(Nothing(), SETTINGS, mounted, {}))


def test_what_could_not_be_looked_at_is_not_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = static.plane(Nothing(), Settings(namespace="no-such-namespace"))
    assert [row.outcome for row in rows] == ["not tested"]


def test_a_listing_keeps_its_digest_while_it_counts() -> None:
    def rules(packets: int, port: int) -> Any:
        rule = {"handle": packets, "expr": [{"match": {"right": port}}, {"counter": {"packets": packets}}]}
        return facts.without_counts({"nftables": [{"metainfo": {"version": packets}}, {"rule": rule}]})

    assert rules(1, 22) == rules(7, 22) and rules(1, 22) != rules(1, 23)


def test_a_model_is_hashed_or_said_not_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "m.gguf"
    model.write_bytes(b"model")
    assert facts.model_digest(str(model), False) == facts.file_digest(str(model)) == facts.digest(b"model")
    monkeypatch.setattr(facts, "HASHED_BYTES", 1)
    assert "not hashed" in facts.model_digest(str(model), False) and len(facts.model_digest(str(model), True)) == 64
    assert facts.model_digest(str(tmp_path / "none"), False) == ""
