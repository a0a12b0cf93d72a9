# SPDX-License-Identifier: MIT
"""The role docker_engine's settings of the daemon, evaluated by Ansible itself from what a look would have found."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROLES = Path(__file__).resolve().parents[4] / "roles"
ROLE = ROLES / "docker_engine"
#: A process of its own: Ansible finds the filters of a collection through an import hook.
PROGRAM = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
import rendering
from ansible.plugins.loader import init_plugin_loader
init_plugin_loader(os.environ["ANSIBLE_COLLECTIONS_PATH"].split(":"))
given = json.load(sys.stdin)
values = rendering.values_of("docker_engine", given["values"])
print(json.dumps([rendering.evaluate("{{ " + text + " }}", values) for text in given["ask"]]))
"""
UBUNTU = "ID=ubuntu\nVERSION_CODENAME=noble\n"


def look(version: str = "", daemon: str | None = None, packages: str = "") -> dict[str, Any]:
    said = {"version_docker": version, "packages": packages}
    return {
        "contents": {"/etc/os-release": UBUNTU, "/etc/docker/daemon.json": daemon},
        "globs": {},
        "commands": {name: {"rc": 0, "stdout": text, "stderr": ""} for name, text in said.items()},
    }


def asked(*expressions: str, **values: Any) -> list[Any]:
    """What the role's expressions are under these registered values."""
    argv = [sys.executable, "-c", PROGRAM, str(ROLES.parent / "tests/unit/roles")]
    stdin = json.dumps({"values": values, "ask": expressions})
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: list[Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    ("before", "after", "knows"),
    [
        (look("Docker version 26.1.5+dfsg1, build a"), None, False),
        (look("Docker version 29.9.0, build a"), None, True),
        (look(), None, False),
        (look(), look("Docker version 29.1.3, build a"), True),
        (look(), look("Docker version 28.2.2, build a"), False),
    ],
)
def test_a_setting_is_written_where_the_version_knows_it(
    before: dict[str, Any], after: dict[str, Any] | None, knows: bool
) -> None:
    registered = {"__docker_engine_look": before} | ({"__docker_engine_installed": after} if after else {})
    (daemon,) = asked("__docker_engine_daemon", **registered)
    assert daemon.pop("firewall-backend", None) == ("iptables" if knows else None)
    assert daemon["ip"] == "127.0.0.1"
    assert daemon["default-address-pools"] == [{"base": "10.90.0.0/16", "size": 24}]
    assert (daemon["live-restore"], daemon["userland-proxy"], daemon["no-new-privileges"]) == (False, True, True)
    assert daemon["log-opts"] == {"max-size": "10m", "max-file": "3"}
    assert daemon["exec-opts"] == ["native.cgroupdriver=systemd"] and daemon["features"] == {"cdi": True}


def test_a_new_ubuntu_gets_dockers_packages_where_they_can_be_reached() -> None:
    reached = {"commands": {"index": {"rc": 0}}}
    blind, daemon = asked("__docker_engine_judged", "__docker_engine_daemon", __docker_engine_look=look())
    assert blind["ask_index"] and blind["origin"] == "distribution" and "firewall-backend" not in daemon
    found, daemon = asked(
        "__docker_engine_judged",
        "__docker_engine_daemon",
        __docker_engine_look=look(),
        __docker_engine_reached=reached,
    )
    pins = yaml.safe_load((ROLE / "vars/main.yml").read_text())["__docker_engine_pins"]
    assert found["install"] == [*(f"{name}={pin}" for name, pin in pins.items()), "python3-requests"]
    assert found["hold"] == list(pins) and found["refused"] == [] and daemon["firewall-backend"] == "iptables"
    (away,) = asked(
        "__docker_engine_judged",
        __docker_engine_look=look(),
        __docker_engine_reached={"commands": {"index": {"rc": 1}}},
    )
    assert away["origin"] == "distribution" and away["install"][0] == "docker.io" and away["hold"] == []


def test_a_question_that_was_skipped_is_no_answer() -> None:
    skipped = {"skipped": True, "changed": False}
    (found,) = asked("__docker_engine_judged", __docker_engine_look=look(), __docker_engine_reached=skipped)
    assert found["origin"] == "distribution"


BINDING = "com.docker.network.bridge.host_binding_ipv4"


def test_a_second_run_finds_its_own_settings_and_changes_nothing() -> None:
    (daemon,) = asked("__docker_engine_daemon", __docker_engine_look=look("Docker version 29.9.0, build a"))
    again, judged = asked(
        "__docker_engine_daemon",
        "__docker_engine_judged",
        __docker_engine_look=look("Docker version 29.9.0, build a", json.dumps(daemon)),
    )
    assert again == daemon and judged["refused"] == []


def test_every_new_network_binds_where_the_first_one_does() -> None:
    for bind in ("127.0.0.1", "100.64.0.2"):
        (daemon,) = asked("__docker_engine_daemon", __docker_engine_look=look(), docker_engine_default_bind=bind)
        assert daemon["ip"] == bind and daemon["default-network-opts"] == {"bridge": {BINDING: bind}}


def test_settings_of_another_hand_stay_where_they_touch_nothing() -> None:
    theirs: dict[str, Any] = {
        "runtimes": {"nvidia": {"path": "x"}},
        "data-root": "/data/docker",
        "registry-mirrors": ["https://mirror.example"],
        "features": {"containerd-snapshotter": True, "cdi": False},
        "default-network-opts": {"bridge": {"com.docker.network.driver.mtu": "1400", BINDING: "0.0.0.0"}},
        "log-opts": {"max-size": "9g"},
        "live-restore": True,
    }
    daemon, judged = asked(
        "__docker_engine_daemon", "__docker_engine_judged", __docker_engine_look=look(daemon=json.dumps(theirs))
    )
    assert judged["refused"] == []
    assert {name: daemon[name] for name in ("runtimes", "data-root", "registry-mirrors")} == {
        name: theirs[name] for name in ("runtimes", "data-root", "registry-mirrors")
    }
    assert daemon["features"] == {"containerd-snapshotter": True, "cdi": True}
    options = {"com.docker.network.driver.mtu": "1400", BINDING: "127.0.0.1"}
    assert daemon["default-network-opts"] == {"bridge": options}
    # Control: what the role has an opinion about is the role's.
    assert daemon["log-opts"] == {"max-size": "10m", "max-file": "3"} and daemon["live-restore"] is False


def test_the_daemon_judges_its_settings_unless_it_is_about_to_be_replaced() -> None:
    packages = "ii  docker.io 26.1\nii  docker-compose-v2 2\nii  python3-requests 2\n"
    there, away = (
        asked("__docker_engine_validate", __docker_engine_look=look(packages=packages))[0],
        asked("__docker_engine_validate", __docker_engine_look=look())[0],
    )
    assert away == [] and "%s" in there and "dockerd --validate --config-file" in " ".join(there)
    (after,) = asked("__docker_engine_validate", __docker_engine_look=look(), __docker_engine_installed=look())
    assert after == there


def test_the_pins_are_exact_and_for_one_system() -> None:
    values = yaml.safe_load((ROLE / "vars/main.yml").read_text())
    assert set(values["__docker_engine_pins"]) == set(values["__docker_engine_ce"]) - {"python3-requests"}
    assert all(pin.endswith("~ubuntu.24.04~noble") for pin in values["__docker_engine_pins"].values())
    assert values["__docker_engine_pins"]["docker-ce"] == values["__docker_engine_pins"]["docker-ce-cli"]
    assert len(values["__docker_engine_key_sha256"]) == 64


def test_the_preflight_only_reads() -> None:
    """Every command of its look, by name: none that could change anything."""
    values = yaml.safe_load((ROLE / "vars/main.yml").read_text())
    words = {
        (command["argv"][0], *command["argv"][1:3])
        for command in values["__docker_engine_ask"]
        if isinstance(command["argv"], list)
    }
    assert (
        ("docker", "network", "ls") in words
        and ("docker", "ps", "--all") in words
        and ("docker", "info", "--format") in words
    )
    shell = ("/bin/sh", "-c", "docker network inspect $(docker network ls --quiet --filter driver=bridge)")
    assert shell in words
    readers = ("docker", "apt-mark", "grep", "systemctl", "ip")
    assert not [argv for argv in words if argv[0] not in readers and argv != shell]
    assert [argv[1] for argv in words if argv[0] == "docker"].count("run") == 0
