# SPDX-License-Identifier: MIT
"""Every request vector against the sovereign plane leaves nothing outside; against a naive gateway many do.

Three ways in: the tailnet client through the ingress, the ingress's own user at admission, admission's own user at the
gateway. The recorders outside are asked for every marker, and for DNS questions.
"""

from __future__ import annotations

import io
import json
import os
import secrets
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pytest
import yaml
from conftest import HUB, ROOT, STANDINS, Lab, Machine

AUDIT = ROOT / "plugins/module_utils/audit"
NAIVE = ROOT / "molecule/naive"
RESULTS = ROOT / ".lab/results/vectors.json"
FILES = ("__init__.py", "model.py", "vectors.py", "http1_client.py", "requests_run.py")
#: The gate does without what differs in the state alone; the nightly run asks all in every state.
NIGHTLY = os.environ.get("MUSHISHI_EPOCHS") != "gate"

#: A sink must have a global address: LiteLLM's own filter refuses others, and so hides a leak. In the lab every address
#: of the internet is the recorder.
SINKS = {"sink": "93.184.216.34", "sink6": "2606:2800:220:1:248:1893:25c8:1946"}
#: Longer than the context of every engine here.
FILLER = " long prompt" * 24_000

TIMERS = ("mushishi-egress.timer", "mushishi-egress.service")

PROGRAM = """
import json, pathlib, subprocess, sys, tempfile
order = json.load(sys.stdin)
with tempfile.TemporaryDirectory() as folder:
    package = pathlib.Path(folder, "audit")
    package.mkdir()
    for name, text in order["files"].items():
        package.joinpath(name).write_text(text)
    done = subprocess.run(
        [sys.executable, "-B", "-m", "audit.requests_run"], cwd=folder, input=json.dumps(order["ask"]), text=True
    )
sys.exit(done.returncode)
"""

#: Which markers of a run are in the records, and where: one look at everything, whatever it was wrapped in.
SEARCH = """
import json, pathlib, re, sys
from standins import markers, records
begin, since = sys.argv[1], float(sys.argv[2])
marker = re.compile(begin.encode() + rb"x[0-9]{4}")
kept = [r for r in map(json.loads, pathlib.Path("/var/lib/standins/records.jsonl").open()) if r["ts"] >= since]
found = {}
def look(blob, where):
    for view in markers.views(blob):
        for one in set(marker.findall(view[1].lower())):
            found.setdefault(one.decode(), set()).add(where)
for record in kept:
    for where, blob in records._searchable(record):
        look(blob, f"{where} of {records._header(record, 'host') if record['kind'] == 'request' else record['kind']}")
for stream in records._streams(kept).values():
    look(stream, "stream")
print(json.dumps({name: sorted(places) for name, places in found.items()}))
"""


@dataclass(frozen=True)
class Way:
    """From where, as whom, to what."""

    machine: Machine
    become: tuple[str, ...]
    host: str
    port: int


def ways(lab: Lab) -> dict[str, Way]:
    """The ways into the sovereign plane, the ordinary one first."""
    ingress = ("setpriv", "--reuid=mushishi-ingress-sovereign", "--regid=65534", "--clear-groups")
    admission = ("setpriv", "--reuid=mushishi-sovereign-admission", "--regid=65534", "--clear-groups")
    return {
        "through the ingress": Way(lab.client, (), HUB["tailnet"]["v4"], 4001),
        "at admission": Way(lab.hub, ingress, "10.88.0.2", 4001),
        "at the gateway": Way(lab.hub, ("ip", "netns", "exec", "sovereign", *admission), "127.0.0.1", 4011),
    }


def send(way: Way, profile: str, key: str, **order: Any) -> tuple[list[dict[str, Any]], float]:
    """Send vectors; what came of each, and the seconds of it all."""
    ask = {"host": way.host, "port": way.port, "profile": profile, "key": key, "sinks": SINKS, "timeout": 30, **order}
    files = {name: (AUDIT / name).read_text(encoding="utf-8") for name in FILES}
    order_text = json.dumps({"files": files, "ask": ask})
    out = json.loads(way.machine.run(*way.become, "python3", "-c", PROGRAM, stdin=order_text, timeout=600))
    assert out["results"], "something was sent"
    return out["results"], float(out["seconds"])


def begin() -> str:
    """What all markers of a run begin with."""
    return "mk" + secrets.token_hex(8)


def gateway_key(lab: Lab) -> str:
    """Admission's own key at the gateway."""
    return lab.hub.run("cat", "/etc/mushishi/secrets/gateway-sovereign.key").strip()


def seen_since(lab: Lab, mark: str, since: float) -> int:
    """Times a marker was seen at any stand-in outside the machine since then; to look at all that ever came is slow."""
    places = ((lab.internet, "127.0.0.1:9099"), (lab.stranger, "127.0.0.1:9097"))
    words = ("find", mark, "--since", str(since))
    return sum(int(lab.ctl(*words, machine=machine, control=control)["count"]) for machine, control in places)


@contextmanager
def nothing_outside(lab: Lab, mark: str) -> Iterator[None]:
    """0 markers at any stand-in, 0 questions at the DNS, and nothing that nobody could look into."""
    # The machine looks up its providers once a minute; a question of a request's is to be the only one.
    lab.hub.run("systemctl", "stop", *TIMERS, check=False)
    time.sleep(0.2)
    asked, dark, since = lab.ctl("dns")["count"], lab.ctl("stats")["unreadable"], time.time() - 1
    try:
        yield
        questions = lab.ctl("dns")["questions"][asked:]
    finally:
        lab.hub.run("systemctl", "start", TIMERS[0], check=False)
    assert seen_since(lab, mark, since) == 0
    assert questions == [], questions[:10]
    assert lab.ctl("stats")["unreadable"] == dark


def kernel_refusals(lab: Lab) -> int:
    """Packets and connections that the kernel refused to sovereign sources: filters here and in the namespace, and no
    route."""
    total = 0
    for inside in ((), ("ip", "netns", "exec", "sovereign")):
        rules = json.loads(lab.hub.run(*inside, "nft", "--json", "list", "ruleset"))["nftables"]
        for entry in rules:
            words = entry.get("rule", {}).get("expr", [])
            if any("reject" in word or "drop" in word for word in words):
                total += sum(word["counter"]["packets"] for word in words if isinstance(word.get("counter"), dict))
    lines = lab.hub.run("ip", "netns", "exec", "sovereign", "cat", "/proc/net/snmp").splitlines()
    names, values = (line.split() for line in lines if line.startswith("Ip:"))
    return total + int(values[names.index("OutNoRoutes")])


def of(results: list[dict[str, Any]], outcome: str) -> list[str]:
    """Names and details of the vectors with an outcome."""
    return [f"{result['name']}: {result['detail']}" for result in results if result["outcome"] == outcome]


def local_alone(results: list[dict[str, Any]], backends: set[str]) -> None:
    """Each is refused, or answered by one of these; what must be refused is refused before any engine is asked."""
    assert of(results, "leaked") == []
    assert of(results, "not tested") == []
    assert {result["backend"] for result in results if result["status"] == 200} <= {*backends, ""}
    must = [result for result in results if result["expect"] == "refuse"]
    assert len(must) > 1000
    # A server that is asked what it can do (OPTIONS *) says so with an empty answer; nothing else is answered.
    assert [r["name"] for r in must if 0 < r["status"] < 400 and "empty answer" not in r["detail"]] == []
    loud = [r for r in must if r["status"] >= 500 and (r["layer"], r["status"]) not in {("http", 501), ("http", 505)}]
    # The ingress has no better word for a request that breaks while it is passed on.
    assert [r["name"] for r in loud if not r["detail"].startswith("ingress: the request broke")] == []
    # LiteLLM's own words never reach a client.
    assert [r["name"] for r in results if r["layer"] == "gateway" and "empty answer" not in r["detail"]] == []


# --- the guard of requests -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("profile", ["private", "client"])
def test_admission_itself_refuses(lab: Lab, profile: str) -> None:
    """Directly, so that nothing in front of it has refused before."""
    mark = begin()
    with nothing_outside(lab, mark):
        results, seconds = send(ways(lab)["at admission"], profile, lab.key(profile), begin=mark)
    local_alone(results, {"gpu"})
    must = [result for result in results if result["expect"] == "refuse"]
    others = {r["name"]: r["layer"] for r in must if r["layer"] not in ("admission", "http", "closed", "silent")}
    assert others == {}
    # What is no HTTP is refused by its server; all else by admission, which says so itself.
    by_server = [r["name"] for r in must if r["layer"] != "admission"]
    assert [name for name in by_server if not name.startswith(("http framing:", "path encoding:"))] == []
    answered = Counter(r["backend"] for r in results if r["outcome"] == "holds" and r["status"] == 200)
    # In agent mode nothing serves the profile client: its requests end at the guard or with "nothing local answers".
    assert answered["gpu"] > 50 if profile == "private" else set(answered) <= {""}
    assert seconds < 120


def test_through_the_ingress(lab: Lab) -> None:
    mark = begin()
    with nothing_outside(lab, mark):
        results, _seconds = send(ways(lab)["through the ingress"], "private", lab.key("private"), begin=mark)
    local_alone(results, {"gpu"})
    assert len([r for r in results if r["backend"] == "gpu"]) > 50


@contextmanager
def engines_down(lab: Lab) -> Iterator[None]:
    """No engine runs."""
    lab.engine("agent", "stop")
    lab.cpu("stop")
    try:
        yield
    finally:
        lab.engine("agent", "start")
        lab.cpu("start")
        lab.everything_up()


def test_with_every_engine_down(lab: Lab) -> None:
    """The state in which a gateway with a cloud falls back to it."""
    mark = begin()
    with engines_down(lab), nothing_outside(lab, mark):
        results, _seconds = send(ways(lab)["through the ingress"], "private", lab.key("private"), begin=mark)
        if NIGHTLY:
            send(ways(lab)["at the gateway"], "private", gateway_key(lab), begin=mark)
            send(ways(lab)["at admission"], "client", lab.key("client"), begin=mark)
    local_alone(results, set())
    assert any(result["code"] == "queued" for result in results)


def test_with_a_prompt_that_fits_nowhere(lab: Lab) -> None:
    """The state in which context-window fallbacks send it elsewhere: the same vectors, each with a long prompt."""
    mark = begin()
    families = ["plain", "query", "model", "poisoning", "overflow"]
    families += ["body field", "tools", "header"] if NIGHTLY else []
    long = {**SINKS, "filler": FILLER}
    with nothing_outside(lab, mark):
        way = ways(lab)["through the ingress"]
        results, _seconds = send(way, "private", lab.key("private"), begin=mark, families=families, sinks=long)
        if NIGHTLY:
            send(ways(lab)["at the gateway"], "private", gateway_key(lab), begin=mark, families=families, sinks=long)
    assert of(results, "leaked") == [] and of(results, "not tested") == []
    assert any(result["code"] == "context_length_exceeded" for result in results)


def test_at_the_gateway_itself(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    """As admission's user, with admission's key: what a broken admission could do. What passes stays here."""
    mark, before = begin(), kernel_refusals(lab)
    with nothing_outside(lab, mark):
        results, _seconds = send(ways(lab)["at the gateway"], "private", gateway_key(lab), begin=mark)
    assert {result["backend"] for result in results} <= {"gpu", "cpu", ""}
    assert len([result for result in results if result["backend"]]) > 50, "control: requests are answered at all"
    stopped = kernel_refusals(lab) - before
    with capsys.disabled():
        sys.stdout.write(f"\n  at the gateway: {len(results)} vectors, 0 outside, {stopped} refused by the kernel\n")


def test_one_poisons_and_forty_are_clean(lab: Lab) -> None:
    """On an older LiteLLM one such request sent half of all later ones, of every key, to another address."""
    mark = begin()
    with nothing_outside(lab, mark):
        for name in ("through the ingress", "at the gateway"):
            key = gateway_key(lab) if name == "at the gateway" else lab.key("coding")
            profile = "private" if name == "at the gateway" else "coding"
            poisoned, _seconds = send(ways(lab)[name], profile, key, begin=mark, families=["poisoning"])
            assert {result["status"] // 100 for result in poisoned} == {4}
            way = ways(lab)["through the ingress"]
            cleaned, _seconds = send(way, "private", lab.key("private"), begin=mark, clean=40)
            assert [result["backend"] for result in cleaned] == ["gpu"] * 40


def test_the_recorder_hears_every_address(lab: Lab) -> None:
    """Control: what leaves for the sinks, from an ordinary user of the machine, is heard."""
    mark = begin()
    for sink in (SINKS["sink"], f"[{SINKS['sink6']}]"):
        since = time.time() - 1
        assert seen_since(lab, mark, since) == 0
        lab.hub.run("setpriv", "--reuid=nobody", "--regid=65534", "--clear-groups", "curl", "-s", "-m", "5",
                    f"http://{sink}/{mark}", check=False)  # fmt: skip
        assert seen_since(lab, mark, since) > 0, sink
        time.sleep(1.1)


# --- the control -----------------------------------------------------------------------------------------------------
@contextmanager
def naive_gateway(lab: Lab) -> Iterator[tuple[Way, str]]:
    """One gateway for everything on the lab machine, with a local engine of its own: how to reach it, its one key."""
    key = "sk-" + secrets.token_hex(16)
    cloud = yaml.safe_load((ROOT / "inventory/lab/group_vars/all/lab.yml").read_text())["gateway_cloud_keys"]
    names = {"nvidia": "NVIDIA_NIM_API_KEY"}
    environment = {names.get(name, f"{name.upper()}_API_KEY"): word for name, word in cloud.items()}
    environment |= {"LITELLM_MASTER_KEY": key, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "HF_HUB_OFFLINE": "1"}
    environment |= {"SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt", "PYTHONDONTWRITEBYTECODE": "1"}
    environment["HOME"] = "/tmp"
    config = (NAIVE / "litellm.yaml.in").read_text().replace("{LOCAL}", "http://127.0.0.1:14001/v1")
    texts = {
        "litellm.yaml": config,
        "hosts": (NAIVE / "hosts").read_text(),
        "environment": "".join(f"{name}={word}\n" for name, word in environment.items()),
    }
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(STANDINS, "standins", filter=lambda entry: None if "__pycache__" in entry.name else entry)
        for name, text in texts.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            tar.addfile(entry, io.BytesIO(text.encode()))
    put = ["docker", "exec", "-i", lab.hub.name, "sh", "-c", "mkdir -p /run/naive && tar -x -C /run/naive"]
    subprocess.run(put, input=archive.getvalue(), check=True, capture_output=True, timeout=60)
    as_nobody = ("systemd-run", "--quiet", "--collect", "--property=User=nobody", "--property=PrivateTmp=yes")
    engine = ("python3", "-m", "standins.engine", "serve", "nemotron", "--host", "127.0.0.1", "--port", "14001")
    litellm = ("/opt/mushishi/venvs/gateway/bin/litellm", "--config", "/run/naive/litellm.yaml")
    try:
        lab.hub.run(
            *as_nobody, "--unit=naive-engine", "--setenv=PYTHONPATH=/run/naive", "--setenv=PYTHONDONTWRITEBYTECODE=1",
            "--setenv=STANDIN_CONTROL=127.0.0.1:14002", *engine,
        )  # fmt: skip
        lab.hub.run(
            *as_nobody, "--unit=naive-gateway", "--property=EnvironmentFile=/run/naive/environment",
            "--property=BindReadOnlyPaths=/run/naive/hosts:/etc/hosts", "--working-directory=/tmp", *litellm,
            "--host", "127.0.0.1", "--port", "14000",
        )  # fmt: skip
        alive = ("curl", "-sf", "-m", "2", "http://127.0.0.1:14000/health/liveliness")
        lab.until(lambda: lab.hub.ok(*alive), "the naive gateway answers", 90)
        yield Way(lab.hub, (), "127.0.0.1", 14000), key
    finally:
        for unit in ("naive-gateway", "naive-engine"):
            lab.hub.run("systemctl", "kill", "--signal=SIGKILL", f"{unit}.service", check=False)
            lab.hub.run("systemctl", "stop", f"{unit}.service", check=False)
        lab.hub.run("rm", "-rf", "/run/naive")
    assert not lab.hub.ok("systemctl", "is-active", "--quiet", "naive-gateway.service")


def found_outside(lab: Lab, mark: str, since: float) -> dict[str, list[str]]:
    """Marker → where it was seen, among the records since then."""
    out = lab.internet.run("python3", "-", mark, str(since), stdin=SEARCH, timeout=300)
    return dict(json.loads(out))


@pytest.mark.nightly
def test_the_same_requests_leave_a_naive_gateway(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    """The control of all the above: a recorder that has never caught anything proves nothing."""
    mark, since = begin(), time.time() - 5
    with naive_gateway(lab) as (way, key):
        results, seconds = send(way, "private", key, begin=mark, timeout=12)
        plain = next(r for r in results if r["name"] == "plain: a request with nothing wrong")
        assert plain["status"] == 200, f"control: its local engine answers: {plain}"
        leaks = found_outside(lab, mark, since)
        # Long prompts by the hundred: whoever looks for a marker after us shall not have to look through them.
        lab.ctl("reset")
    names = {result["marker"]: result["name"] for result in results}
    leaked = sorted(names[one] for one in leaks)
    ours = begin()
    since = time.time() - 5
    send(ways(lab)["through the ingress"], "private", lab.key("private"), begin=ours)
    assert found_outside(lab, ours, since) == {}
    line = f"naive gateway: {len(leaked)} of {len(results)} vectors leaked; ours: 0 of {len(results)}"
    families = Counter(name.partition(":")[0] for name in leaked)
    with suppress(OSError):
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        where = {names[one]: places for one, places in sorted(leaks.items())}
        result = {"line": line, "families": families, "leaked": where, "seconds": seconds}
        RESULTS.write_text(json.dumps(result, indent=1))
    with capsys.disabled():
        sys.stdout.write(f"\n  {line} ({', '.join(f'{name} {count}' for name, count in families.most_common())})\n")
    assert len(leaked) > 20
    # With the local engine healthy: by the query, the path, the model, a file's id, a pass-through.
    assert {"query", "path", "model", "content part", "passthrough"} <= set(families)
    assert "content part: file_id, an address" in leaked, "the recorder hears what the gateway fetches"
