# SPDX-License-Identifier: MIT
"""The lab as the tests see it: four machines, a way to ask a profile, a way to ask the recorders.

The tests run once on the machine as it was built, once more after a restart of its inner Docker, once more after a
reboot of the whole machine (the ``epoch`` fixture): what holds must hold through all three.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
SETTINGS = yaml.safe_load((ROOT / "molecule/lab/vars.yml").read_text())
PREFIX = SETTINGS["lab_prefix"]
HUB = SETTINGS["lab_hub"]
STANDINS = ROOT / "molecule/standins"
EPOCHS = ("as built", "inner Docker restarted", "machine rebooted")
#: What the gate asks once more after a reboot: that all comes back by itself, in the right order, as shut as before.
#: The nightly run (``MUSHISHI_EPOCHS=all``, and whoever starts pytest by hand) asks everything in every epoch.
AFTER_REBOOT = {
    "test_unit",
    "test_sovereign_unit",
    "test_the_plane_is_made_before_docker",
    "test_the_bridge_carries_registered_members_alone",
    "test_no_way_out_of_the_namespace",
    "test_a_sovereign_user_has_no_network_on_the_host",
    "test_the_same_probe_is_open_for_others",
    "test_without_the_guard_nothing_runs",
    "test_the_hybrid_gateway_opens_the_hosts_of_the_policy_alone",
    "test_a_stranger_finds_nothing_that_is_published",
    "test_tailnet_sees_the_doors_alone",
    "test_agent_mode",
    "test_the_order_of_units",
}


#: The guard's own counts. While a test attacks they are booked as an audit's, and planted holes are not mended.
EVIDENCE = ("/usr/bin/python3", "-IB", "/opt/mushishi/guard/counters.py")


class Machine:
    """One of the lab's containers."""

    def __init__(self, name: str) -> None:
        self.name = f"{PREFIX}-{name}"

    def run(self, *argv: str, stdin: str | None = None, check: bool = True, timeout: float = 300) -> str:
        """Run a command as root in the container; its standard output. Fails the test when it fails."""
        done = subprocess.run(
            ["docker", "exec", "-i", self.name, *argv],
            input=stdin or "",
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if check and done.returncode != 0:
            pytest.fail(f"on {self.name}: {' '.join(argv)} ended with {done.returncode}: {done.stderr or done.stdout}")
        return done.stdout

    def ok(self, *argv: str) -> bool:
        """Does the command succeed?"""
        done = subprocess.run(["docker", "exec", self.name, *argv], capture_output=True, stdin=subprocess.DEVNULL)
        return done.returncode == 0


@dataclass(frozen=True)
class Answer:
    """One answer to a chat request: status, headers (lower case), body text, seconds to the whole of it."""

    status: int
    headers: dict[str, str]
    text: str
    seconds: float

    @property
    def backend(self) -> str:
        """Who answered, from the headers of either plane; empty when nobody did."""
        own = self.headers.get("x-sovereign-backend", "")
        return own or self.headers.get("x-litellm-model-id", "").partition("/")[2]

    @property
    def error(self) -> dict[str, Any]:
        """The error object of an OpenAI-shaped error."""
        return dict(json.loads(self.text)["error"])

    @property
    def json(self) -> dict[str, Any]:
        """The body of any JSON answer."""
        return dict(json.loads(self.text))

    @property
    def content(self) -> str:
        """The text of a plain completion."""
        return str(json.loads(self.text)["choices"][0]["message"]["content"])


ASK = """
import http.client, json, sys, time, urllib.request, urllib.error
q = json.load(sys.stdin)
body = None if q["body"] is None else json.dumps(q["body"]).encode()
request = urllib.request.Request(q["url"], body, q["headers"], method=q.get("method"))
began = time.monotonic()
try:
    with urllib.request.urlopen(request, timeout=q["timeout"]) as answer:
        out = answer.status, dict(answer.headers), answer.read().decode()
except urllib.error.HTTPError as error:
    out = error.code, dict(error.headers), error.read().decode()
except (OSError, http.client.HTTPException) as error:
    out = 0, {}, repr(error)
print(json.dumps([out[0], {k.lower(): v for k, v in out[1].items()}, out[2], time.monotonic() - began]))
"""


class Lab:
    """The four machines and what the tests do with them."""

    def __init__(self) -> None:
        self.hub, self.client = Machine("hub"), Machine("client")
        self.stranger, self.internet = Machine("stranger"), Machine("internet")
        policy = yaml.safe_load((ROOT / "inventory/example/group_vars/all/policy.yml").read_text())
        self.policy: dict[str, Any] = policy["sovereign_policy"]

    # ---- asking
    def plane(self, profile: str) -> str:
        """``sovereign`` or ``hybrid``."""
        return "sovereign" if self.policy["profiles"][profile]["tier"] == "T1" else "hybrid"

    def key(self, profile: str) -> str:
        """The profile's key, as its owner reads it on the machine."""
        return self.hub.run("cat", f"/etc/mushishi/secrets/profiles/{profile}.key").strip()

    def url(self, plane: str, family: str = "v4") -> str:
        """Base address of a plane's API on the tailnet."""
        host = HUB["tailnet"][family]
        port = {"sovereign": 4001, "hybrid": 4000}[plane]
        return f"http://[{host}]:{port}/v1" if family == "v6" else f"http://{host}:{port}/v1"

    def ask(
        self,
        profile: str,
        content: str = "Say yes.",
        *,
        stream: bool = False,
        timeout: float = 120,
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> Answer:
        """Ask a profile from the tailnet client; ``more`` goes into the body.

        A profile with a queue has twenty seconds for its answer, unless ``headers`` say otherwise: a test that finds
        nothing local hears of it.
        """
        body = {"model": profile, "messages": [{"role": "user", "content": content}], "max_tokens": 8, **more}
        if stream:
            body["stream"] = True
        question = {
            "url": self.url(self.plane(profile)) + "/chat/completions",
            "body": body,
            "headers": {
                "Authorization": f"Bearer {self.key(profile)}",
                "Content-Type": "application/json",
                "Prefer": "wait=20",
                **(headers or {}),
            },
            "timeout": timeout,
        }
        return Answer(*json.loads(self.client.run("python3", "-c", ASK, stdin=json.dumps(question))))

    def queue(self, method: str, job: str, profile: str = "private") -> Answer:
        """GET or DELETE a job of the private queue, as the owner of a key on the tailnet; ``job`` is its path."""
        question = {
            "url": self.url("sovereign").removesuffix("/v1") + job,
            "method": method,
            "body": None,
            "headers": {"Authorization": f"Bearer {self.key(profile)}"},
            "timeout": 60,
        }
        return Answer(*json.loads(self.client.run("python3", "-c", ASK, stdin=json.dumps(question))))

    # ---- the recorders
    def ctl(self, *words: str, machine: Machine | None = None, control: str = "127.0.0.1:9099") -> dict[str, Any]:
        """Ask or steer a stand-in."""
        where = machine or self.internet
        return dict(json.loads(where.run("python3", "-m", "standins.ctl", "--control", control, *words)))

    def provider(self, name: str, fault: str) -> None:
        """Make a provider (or ``all``) fail, or ``ok`` again."""
        self.ctl("mode", name, fault)

    def seen_outside(self, marker: str) -> int:
        """Times a marker was seen at any stand-in outside the machine, DNS included."""
        total = 0
        for machine, control in ((self.internet, "127.0.0.1:9099"), (self.stranger, "127.0.0.1:9097")):
            found = self.ctl("find", marker, machine=machine, control=control)
            total += int(found["count"])
        return total

    def unreadable_outside(self) -> int:
        """Recorded things nobody could look into; must stay 0 for a count of 0 to mean anything."""
        return int(self.ctl("find", "no-such-marker-0")["unreadable"])

    # ---- states
    def gpu(self, mode: str) -> None:
        """Bring a GPU mode up the way a user would, unless it is the one that runs."""
        names = self.hub.run("docker", "ps", "--format", "{{.Names}}").split()
        if names == [f"mushishi-vllm-{mode}"]:
            return
        # Whatever a test has left at work there.
        done = play("mode", "--extra-vars", f"mode={mode} on_busy=force drain_timeout=5")
        if done.returncode != 0:
            pytest.fail(f"mode.yml -e mode={mode} failed:\n{done.stdout[-3000:]}\n{done.stderr[-1000:]}")

    def engine(self, mode: str, verb: str) -> None:
        """``stop`` or ``start`` an engine's container, as a crash or an operator would."""
        self.hub.run("docker", verb, self.engine_container(mode))

    def engine_container(self, mode: str) -> str:
        """Name of a mode's engine container."""
        names = self.hub.run("docker", "ps", "-a", "--format", "{{.Names}}").split()
        found = [name for name in names if mode in name]
        assert len(found) == 1, f"expected one container of mode {mode}, found {names}"
        return found[0]

    def cpu(self, verb: str) -> None:
        """``stop`` or ``start`` the CPU floor."""
        for name in ("nemotron", "coder"):
            self.hub.run("systemctl", verb, f"mushishi-sovereign-llama-{name}.service")
        if verb == "start":
            self.until(lambda: self.ask("private").status == 200, "the CPU floor answers")

    def until(self, wanted: Any, what: str, seconds: float = 60) -> None:
        """Wait for something, no longer than ``seconds``."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if wanted():
                return
            time.sleep(0.5)
        pytest.fail(f"not within {seconds:.0f} s: {what}")

    def audit(self, verb: str) -> None:
        """``begin`` (until the machine's end, or ``end``): what is tried now is no alarm."""
        self.hub.run(*EVIDENCE, "audit", verb, "--pid", "1")

    def everything_up(self) -> None:
        """Agent mode, CPU floor, all providers: the state each test begins with."""
        self.provider("all", "ok")
        names = self.hub.run("docker", "ps", "--format", "{{.Names}}").split()
        if not any("agent" in name for name in names) or any("forensic" in name for name in names):
            self.gpu("agent")
        for name in ("nemotron", "coder"):
            self.hub.run("systemctl", "start", f"mushishi-sovereign-llama-{name}.service")
        self.until(lambda: self.ask("personal").backend == "gpu", "the GPU answers")

    # ---- probing
    def probe(self, targets: list[dict[str, Any]], prefix: list[str]) -> dict[str, dict[str, Any]]:
        """Knock at ``targets`` from wherever ``prefix`` puts a process on the machine; results by name."""
        program = (STANDINS / "probe.py").read_text()
        argv = [*prefix, "python3", "-", json.dumps(targets)]
        out = json.loads(self.hub.run(*argv, stdin=program))
        return {result["name"]: result for result in out["results"]}


def ansible_environment() -> dict[str, str]:
    """The environment that tools/lab gives; the tests are run by it."""
    assert os.environ.get("MUSHISHI_ROOT"), "Run the lab's tests through tools/test."
    return dict(os.environ)


def play(playbook: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """One of the collection's playbooks on the lab machine; the result is the caller's to judge."""
    return subprocess.run(
        ["ansible-playbook", "--inventory", "inventory/lab", f"playbooks/{playbook}.yml", *arguments],
        env=ansible_environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=1800,
    )


def play_apart(playbook: str, *arguments: str) -> subprocess.Popen[bytes]:
    """The same in the background, in a session of its own so that all of it can be killed; what it says is not kept."""
    return subprocess.Popen(
        ["ansible-playbook", "--inventory", "inventory/lab", f"playbooks/{playbook}.yml", *arguments],
        env=ansible_environment(),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def site(*arguments: str) -> str:
    """site.yml, which must succeed; its output."""
    done = play("site", *arguments)
    if done.returncode != 0:
        pytest.fail(f"site.yml {' '.join(arguments)} failed:\n{done.stdout[-3000:]}\n{done.stderr[-1000:]}")
    return done.stdout


def recap(output: str) -> dict[str, int]:
    """The hub's counters of Ansible's recap: ok, changed, failed …"""
    line = next(line for line in output.splitlines() if line.startswith("hub ") and "changed=" in line)
    return {name: int(value) for name, value in (pair.split("=") for pair in line.split(":", 1)[1].split())}


def marker(profile: str) -> str:
    """A long random word to look for."""
    return f"MARK-{profile}-{secrets.token_hex(12)}"


def in_the_gate(item: pytest.Item) -> bool:
    """Whether the gate runs a test: all but the nightly ones on the machine as built, some once more after a reboot."""
    if item.get_closest_marker("nightly"):
        return False
    # Only a parametrized test has a callspec, which pytest does not declare.
    epoch = getattr(item, "callspec", None) and item.callspec.params.get("epoch")  # type: ignore[attr-defined]
    if epoch in (None, EPOCHS[0]):
        return True
    return epoch == EPOCHS[-1] and getattr(item, "originalname", "") in AFTER_REBOOT


def pytest_configure(config: pytest.Config) -> None:
    """The one mark of ours."""
    config.addinivalue_line("markers", "nightly: too long for the gate")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave to the nightly run what the gate does without; a name in the list that is no test is an error."""
    if os.environ.get("MUSHISHI_EPOCHS") != "gate":
        return
    gone = AFTER_REBOOT - {getattr(item, "originalname", "") for item in items}
    if gone and not config.getoption("keyword"):
        raise pytest.UsageError(f"AFTER_REBOOT in conftest.py names no test: {sorted(gone)}")
    left = [item for item in items if not in_the_gate(item)]
    config.hook.pytest_deselected(items=left)
    items[:] = [item for item in items if in_the_gate(item)]


@pytest.fixture(scope="session")
def raw_lab() -> Iterator[Lab]:
    made = Lab()
    made.audit("begin")
    yield made
    made.audit("end")


@pytest.fixture(scope="session", params=EPOCHS)
def epoch(request: pytest.FixtureRequest, raw_lab: Lab) -> str:
    """The machine as built, after a restart of the inner Docker, after a reboot."""
    raw_lab.everything_up()
    if request.param == "inner Docker restarted":
        raw_lab.hub.run("systemctl", "restart", "docker.service")
    elif request.param == "machine rebooted":
        subprocess.run(["docker", "restart", raw_lab.hub.name], check=True, capture_output=True, timeout=180)
        raw_lab.until(
            lambda: raw_lab.hub.run("systemctl", "is-system-running", "--wait", check=False).strip() == "running",
            "the machine booted without a failed unit",
            120,
        )
        raw_lab.audit("begin")
    # Everything comes back by itself, the GPU engine of the chosen mode included.
    raw_lab.until(lambda: raw_lab.ask("private").backend == "gpu", "private is answered by the GPU", 120)
    raw_lab.until(lambda: raw_lab.ask("personal").backend == "gpu", "personal is answered by the GPU", 120)
    return str(request.param)


@pytest.fixture(scope="module")
def lab(epoch: str, raw_lab: Lab) -> Lab:
    """The lab in one of its epochs, everything up."""
    raw_lab.everything_up()
    return raw_lab
