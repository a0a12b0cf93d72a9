# SPDX-License-Identifier: MIT
"""Bad input stops site.yml before anything is changed, with one message that names thing, value and remedy."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, Lab, play, recap

Change = Callable[[dict[str, Any]], None]


def policy_with(change: Change) -> dict[str, Any]:
    """The default policy with one thing changed, as extra variables."""
    policy = yaml.safe_load((ROOT / "inventory/example/group_vars/all/policy.yml").read_text())
    changed = copy.deepcopy(policy)
    change(changed["sovereign_policy"])
    assert changed != policy
    return dict(changed)


def instances_with(**model: Any) -> dict[str, Any]:
    """The lab's CPU engines with the first one's model changed, as extra variables."""
    lab = yaml.safe_load((ROOT / "inventory/lab/group_vars/all/lab.yml").read_text())
    instances = lab["llama_cpp_instances"]
    instances[0]["model"].update(model)
    return {"llama_cpp_instances": [{**i, "model": {k: v for k, v in i["model"].items() if v}} for i in instances]}


def unknown_tier(policy: dict[str, Any]) -> None:
    policy["profiles"]["private"]["tier"] = "T9"


def missing_backend(policy: dict[str, Any]) -> None:
    policy["profiles"]["personal"]["chain"].insert(1, "tpu")


def cloud_in_t1(policy: dict[str, Any]) -> None:
    policy["profiles"]["private"]["chain"] = ["gpu", "cpu", "groq", "queue"]


CASES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "an unknown tier": (policy_with(unknown_tier), ["profiles.private.tier", "T9"]),
    "a chain naming a missing backend": (policy_with(missing_backend), ["profiles.personal.chain", "tpu"]),
    "a cloud backend in T1": (policy_with(cloud_in_t1), ["private → ", "groq"]),
    "a model with the wrong hash": (instances_with(sha256="0" * 64), ["/srv/depot/models/tiny.gguf", "0" * 64]),
    "too little memory": ({"llama_cpp_memory_reserve": 10**15}, ["memory", "llama_cpp"]),
    "too little disk": (
        instances_with(
            path="/data/ai/02-models/big.gguf",
            url="https://models.example/big.gguf",
            sha256="1" * 64,
            size_bytes=10**15,
        ),
        ["/data/ai/02-models", "big.gguf"],
    ),
}


def state(lab: Lab) -> str:
    """Everything on the machine that the play could have changed: files with their times, units with theirs."""
    return lab.hub.run(
        "sh",
        "-c",
        "find /etc /opt/mushishi /data /var/lib/mushishi-* -xdev -type f -printf '%p %s %T@ %m %u\\n' "
        "| grep -v -e /var/lib/mushishi -e '/etc/mtab' | sort; "
        # Without the two that come every minute by themselves.
        "systemctl show 'mushishi-[!e]*' docker.service --property=Id,ActiveEnterTimestamp,ActiveState; "
        "docker ps -a --format '{{.ID}} {{.Names}} {{.State}}'",
    )


def refused(lab: Lab, tmp_path: Path, variables: dict[str, Any], words: list[str]) -> None:
    """Run site.yml with these variables: it must fail, name these words, and leave the machine as it was."""
    extra = tmp_path / "extra.json"
    extra.write_text(json.dumps(variables))
    before = state(lab)
    done = play("site", "--extra-vars", f"@{extra}")
    assert done.returncode != 0, done.stdout[-2000:]
    assert recap(done.stdout)["changed"] == 0
    text = done.stdout + done.stderr
    assert all(word.lower() in text.lower() for word in words), text[-3000:]
    assert text.count("fatal: [hub]") <= 1, "one message, not a cascade"
    assert state(lab) == before


@pytest.mark.nightly
def test_the_same_call_without_the_mistake_is_accepted(raw_lab: Lab) -> None:
    """Control: it was the bad input that was refused, not the way it was given.

    It comes first: a key that a later test puts back is newer than its service, and a restart is predicted for it.
    """
    with nullcontext():
        done = play("site", "--extra-vars", json.dumps({"llama_cpp_memory_reserve": 536870912}), "--check")
    assert done.returncode == 0, done.stdout[-2000:]
    assert recap(done.stdout)["changed"] == 0


#: The gate's, one that the policy refuses and one that a role does; a run of site.yml is half a minute.
SHOWN = ("a cloud backend in T1", "a model with the wrong hash")


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[] if case in SHOWN else [pytest.mark.nightly]) for case in CASES]
)
def test_refused_before_anything_is_changed(raw_lab: Lab, tmp_path: Path, case: str) -> None:
    variables, words = CASES[case]
    refused(raw_lab, tmp_path, variables, words)


@contextmanager
def occupied(lab: Lab, unit: str, address: str, port: int) -> Iterator[None]:
    """Somebody else's service on the port of one of our units, where that unit lives."""
    lab.hub.run("systemctl", "stop", unit)
    inside = "-sovereign-" in unit and "ingress" not in unit
    where = ("--property=NetworkNamespacePath=/run/netns/sovereign",) if inside else ()
    look = ("ip", "netns", "exec", "sovereign") if inside else ()
    code = f"import socket,time; s=socket.create_server(('{address}',{port})); time.sleep(300)"
    lab.hub.run("systemd-run", "--quiet", "--unit=planted-listener", *where, "python3", "-c", code)
    listing = (*look, "ss", "-Hltn", f"sport = :{port}")
    lab.until(lambda: str(port) in lab.hub.run(*listing), "the planted listener listens")
    try:
        yield
    finally:
        lab.hub.run("systemctl", "stop", "planted-listener.service")
        lab.hub.run("systemctl", "start", unit)


@contextmanager
def without_key(lab: Lab, name: str) -> Iterator[None]:
    """A machine on which one provider's key was never placed."""
    path = f"/etc/mushishi/secrets/cloud/{name}.key"
    lab.hub.run("mv", path, "/root/kept.key")
    try:
        yield
    finally:
        lab.hub.run("mv", "/root/kept.key", path)


@pytest.mark.parametrize(
    ("unit", "address", "port"),
    [
        ("mushishi-sovereign-door.service", "10.88.0.2", 4021),
        pytest.param("mushishi-sovereign-gateway.service", "127.0.0.1", 4011, marks=pytest.mark.nightly),
        pytest.param("mushishi-hybrid-gateway.service", "127.0.0.1", 4000, marks=pytest.mark.nightly),
        pytest.param("mushishi-ingress-sovereign.service", "100.64.77.10", 4001, marks=pytest.mark.nightly),
    ],
)
def test_an_occupied_port(raw_lab: Lab, tmp_path: Path, unit: str, address: str, port: int) -> None:
    with occupied(raw_lab, unit, address, port):
        refused(raw_lab, tmp_path, {}, [str(port), "planted-listener"])
    raw_lab.everything_up()


@pytest.mark.nightly
def test_a_missing_key(raw_lab: Lab, tmp_path: Path) -> None:
    with without_key(raw_lab, "groq"):
        keys = {"nvidia": "lab-nvidia-key", "openrouter": "lab-openrouter-key", "deepseek": "lab-deepseek-key"}
        refused(raw_lab, tmp_path, {"gateway_cloud_keys": keys}, ["groq", "/etc/mushishi/secrets/cloud/groq.key"])
