# SPDX-License-Identifier: MIT
"""What the role renders: the example of a policy against its doors, the unit, the ways of the keys."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import rendering
import yaml
from rendering import ROLES, Rendered

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "plugins/module_utils"))

from test_tailnet_policy import faults, opened

ROLE = ROLES / "tailscale"
EDGE = "another interface, both protocols"
#: A line of comment, as HuJSON has it beside JSON. Strings of a policy hold no two slashes at their line's beginning.
COMMENT = re.compile(r"^\s*//.*$", re.MULTILINE)


def hujson(text: str) -> dict[str, Any]:
    """The policy in a file, without its comments; a comma before an end is none of ours."""
    made: dict[str, Any] = json.loads(COMMENT.sub("", text))
    return made


def text_of(rendered: Rendered, template: str, name: str) -> str:
    made = rendered["tailscale", template, name]
    assert not isinstance(made, str), made
    return made[0][1]


def test_the_policy_opens_the_doors_of_the_list(rendered: Rendered) -> None:
    made = hujson(text_of(rendered, "policy.hujson.j2", EDGE))
    doors = rendering.EDGES["tailscale"][EDGE]["tailscale_policy_doors"]
    assert opened(made) == {(door["protocol"], door["port"]) for door in doors} and faults(made) == []
    assert [test["proto"] for test in made["tests"]] == ["tcp", "udp"]
    assert made["grants"][0]["dst"] == list(made["tagOwners"])


def test_the_policy_says_what_it_is(rendered: Rendered) -> None:
    text = text_of(rendered, "policy.hujson.j2", EDGE)
    assert "Nothing here is in force" in text and "udp 53  a b (role x)" in text
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)


def values(**given: Any) -> dict[str, Any]:
    """The role's variables under these settings, with a machine that was looked at."""
    look = {
        "commands": {"dpkg": {"stdout": "", "rc": 1}, "client": {"rc": 127, "stdout": ""}},
        "contents": {
            "/etc/os-release": 'ID=ubuntu\nVERSION_CODENAME=noble\nVERSION_ID="24.04"\n',
            "/etc/apt/sources.list.d/tailscale.list": None,
            "/etc/apt/preferences.d/mushishi-tailscale": None,
        },
        "sha256": {"/usr/share/keyrings/tailscale-archive-keyring.gpg": None},
    }
    return rendering.values_of("tailscale", given) | {"__tailscale_look": look}


def value(name: str, **given: Any) -> Any:
    return rendering.evaluate("{{ " + name + " }}", values(**given))


def test_no_door_no_file() -> None:
    assert value("__tailscale_policy_files", tailscale_policy_doors=[]) == []


def test_a_served_port_is_a_door() -> None:
    page = {"port": 443, "target": "http://127.0.0.1:6006"}
    assert value("__tailscale_doors") == []
    assert value("__tailscale_doors", tailscale_serve=[page]) == [
        {"name": "serve-443", "port": 443, "protocol": "tcp", "role": "tailscale"}
    ]


def test_ports_of_others_are_taken() -> None:
    doors = [
        {"name": "x", "port": 8443, "protocol": "tcp", "role": "x"},
        {"name": "serve-443", "port": 443, "protocol": "tcp", "role": "tailscale"},
    ]
    taken = value("__tailscale_taken", tailscale_policy_doors=doors, ingress_hybrid_port=4100)
    assert sorted(taken) == [22, 4001, 4100, 8443]


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({}, ""),
        ({"tailscale_auth_key": "tskey-auth-x"}, "tskey-auth-x"),
        ({"tailscale_oauth_secret": "tskey-client-x"}, "tskey-client-x?ephemeral=false&preauthorized=true"),
        ({"tailscale_oauth_secret": "tskey-client-x?ephemeral=true"}, "tskey-client-x?ephemeral=true"),
    ],
)
def test_the_key(given: dict[str, Any], key: str) -> None:
    assert value("__tailscale_key", **given) == key


def looked(found: dict[str, Any], **given: Any) -> bool:
    """Whether the role would install under what was found."""
    known = values(**given)
    known["__tailscale_look"] = {**known["__tailscale_look"], **found}
    return bool(rendering.evaluate("{{ __tailscale_install }}", known))


def test_what_is_installed_and_held_is_left_alone() -> None:
    right = {
        "commands": {"dpkg": {"stdout": "1.102.3|hold|installed"}},
        "contents": values()["__tailscale_look"]["contents"]
        | {
            "/etc/apt/sources.list.d/tailscale.list": value("__tailscale_list_text"),
            "/etc/apt/preferences.d/mushishi-tailscale": value("__tailscale_pin_text"),
        },
        "sha256": {"/usr/share/keyrings/tailscale-archive-keyring.gpg": value("__tailscale_keyring_sha256")},
    }
    assert looked(right) is False
    # Control: each of them alone.
    assert looked({}) is True
    assert looked(right | {"commands": {"dpkg": {"stdout": "1.90.0|hold|installed"}}}) is True
    assert looked(right | {"commands": {"dpkg": {"stdout": "1.102.3|deinstall|config-files"}}}) is True
    assert looked(right | {"sha256": {"/usr/share/keyrings/tailscale-archive-keyring.gpg": "0" * 64}}) is True
    for path in ("/etc/apt/sources.list.d/tailscale.list", "/etc/apt/preferences.d/mushishi-tailscale"):
        assert looked(right | {"contents": {**right["contents"], path: None}}) is True


def test_a_newer_client_stays_and_is_held() -> None:
    """An older one may not be able to read its state, and the way in would be gone."""
    known = values()
    look = known["__tailscale_look"]

    def under(version: str, name: str, **files: str) -> Any:
        dpkg = {"dpkg": {"stdout": f"{version}|install|installed"}}
        contents = look["contents"] | {f"/etc/apt/{path}": text for path, text in files.items()}
        sha = {"/usr/share/keyrings/tailscale-archive-keyring.gpg": known["__tailscale_keyring_sha256"]}
        now = known | {"__tailscale_look": {**look, "commands": dpkg, "contents": contents, "sha256": sha}}
        return rendering.evaluate("{{ " + name + " }}", now)

    for version, held in (("1.104.1", "1.104.1"), ("1.102.10", "1.102.10"), ("1.98.0", "1.102.3"), ("", "1.102.3")):
        assert under(version, "__tailscale_held_version") == held
        text = under(version, "__tailscale_pin_text")
        assert f"Pin: version {held}\n" in text and "Pin-Priority: 1001" in text
        files = {
            "sources.list.d/tailscale.list": value("__tailscale_list_text"),
            "preferences.d/mushishi-tailscale": text,
        }
        assert under(version, "__tailscale_install", **files) is (version in ("1.98.0", ""))
    assert "downgrade" not in (ROLE / "tasks/install.yml").read_text()


def test_a_package_of_somebody_elses() -> None:
    here = {"commands": {"dpkg": {"stdout": "1.90.0|install|installed"}}}
    assert looked({}, tailscale_source="none") is False
    assert looked({}, tailscale_source="configured") is True
    assert looked(here, tailscale_source="configured", tailscale_version="") is False
    assert looked(here, tailscale_source="configured", tailscale_version="1.91.0") is True


def test_the_repository_is_bound_to_one_key() -> None:
    line = value("__tailscale_list_text")
    assert line == (
        "deb [signed-by=/usr/share/keyrings/tailscale-archive-keyring.gpg] "
        "https://pkgs.tailscale.com/stable/ubuntu noble main\n"
    )
    assert re.fullmatch("[0-9a-f]{64}", value("__tailscale_keyring_sha256"))
    install = (ROLE / "tasks/install.yml").read_text()
    assert 'checksum: "sha256:{{ __tailscale_keyring_sha256 }}"' in install


def test_the_lab_fetches_no_package_that_its_distribution_does_not_have() -> None:
    """tools/labkit/depot.py takes every variable `__<role>_packages` for names of the distribution."""
    names = yaml.safe_load((ROLE / "vars/main.yml").read_text())
    assert [name for name in names if name.endswith("_packages")] == []


def test_no_secret_is_an_argument_of_a_command() -> None:
    """Keys go to the module, which hides them; nothing else of the role has one in its hands."""
    for path in sorted(ROLE.glob("t*/**/*")):
        if path.is_file() and path.name != "preflight.yml":
            assert not re.search(r"tailscale_(auth_key|oauth_secret)\b", path.read_text()), path
    users = re.findall(r"tailscale_(?:auth_key|oauth_secret)\b[^,\n]*", (ROLE / "tasks/preflight.yml").read_text())
    assert users and not any("{{ tailscale_oauth_secret" in use or "{{ tailscale_auth_key" in use for use in users)


def node_of(path: str) -> dict[str, Any]:
    """The options that a tasks file gives to the module."""
    tasks = yaml.safe_load((ROLE / "tasks" / path).read_text())
    name = "mushishi.sovereign.tailscale_node"
    (options,) = [task[name] for task in tasks if name in task]
    return dict(options)


def test_the_look_before_and_the_work_want_the_same() -> None:
    """The work is left out when the look has found nothing to do."""
    assert node_of("preflight.yml") == node_of("service.yml")
    # What waits for UFW's doors wants the same, and waits no longer. A dry run has not made them.
    late = {name: value for name, value in node_of("service.yml").items() if name != "defer_netfilter"}
    late["lockout_accepted"] = "{{ (tailscale_lockout_accepted | bool) or ansible_check_mode }}"
    assert node_of("filter.yml") == late
    known = yaml.safe_load((ROLES.parent / "roles/tailscale/defaults/main.yml").read_text())
    used = set(re.findall(r"tailscale_[a-z_]+", json.dumps(node_of("service.yml"))))
    assert len(used) > 10 and used - {"tailscale_key", "tailscale_defer"} <= set(known)


def test_it_waits_only_where_somebody_brings_the_doors() -> None:
    assert value("__tailscale_defer") is False
    assert value("__tailscale_defer", site_brings_doors=True) is True
    assert value("__tailscale_defer", site_brings_doors=True, firewall_state="absent") is False


def test_ingress_starts_after_the_address_and_does_not_require_it(rendered: Rendered) -> None:
    made = rendered["ingress", "mushishi-ingress-plane.service.j2", "example"]
    assert not isinstance(made, str)
    for _path, text in made:
        assert re.search(r"^After=.*\bmushishi-tailnet\.service", text, re.MULTILINE)
        assert not re.search(r"^(Requires|BindsTo|Requisite)=.*mushishi-tailnet", text, re.MULTILINE)


def test_the_unit_waits_a_bounded_time(rendered: Rendered) -> None:
    text = text_of(rendered, "mushishi-tailnet.service.j2", EDGE)
    assert "--interface=wg-home --seconds=5 --other-seconds=10" in text and "TimeoutStartSec=25" in text
    # A hyphen in a device's name is escaped as systemd-escape does it.
    name = subprocess.run(
        ["systemd-escape", "--suffix=device", "--path", "/sys/subsystem/net/devices/wg-home"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    assert f"WantedBy=multi-user.target {name}\n" in text
