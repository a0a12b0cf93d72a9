# SPDX-License-Identifier: MIT
"""Bad policies: each is refused, and the message names the key path, the value and the remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.mushishi.sovereign.plugins.module_utils.policy.errors import PolicyError
from ansible_collections.mushishi.sovereign.plugins.module_utils.policy.validate import load_policy
from policy_samples import Raw, default_policy

Case = tuple[str, Callable[[Raw], Any], list[str]]


def _set(*path: str, value: Any) -> Callable[[Raw], None]:
    def change(raw: Raw) -> None:
        held = raw
        for step in path[:-1]:
            held = held[step]
        held[path[-1]] = value

    return change


def _delete(*path: str) -> Callable[[Raw], None]:
    def change(raw: Raw) -> None:
        held = raw
        for step in path[:-1]:
            held = held[step]
        del held[path[-1]]

    return change


def _chain(profile: str, *links: str) -> Callable[[Raw], None]:
    return _set("profiles", profile, "chain", value=list(links))


def _url(backend: str, url: str) -> Callable[[Raw], None]:
    return _set("backends", backend, "url", value=url)


CASES: list[Case] = [
    # shape
    (
        "unknown key at the top",
        _set("fallbacks", value=[]),
        ["sovereign_policy.fallbacks = []", "not a key", "Remove it"],
    ),
    (
        "unknown key in a profile",
        _set("profiles", "private", "model", value="x"),
        ["profiles.private.model = 'x'", "Remove"],
    ),
    (
        "unknown key in a backend",
        _set("backends", "cpu", "key", value="groq"),
        ["backends.cpu.key = 'groq'", "not a key"],
    ),
    ("no version", _delete("version"), ["sovereign_policy.version", "is missing", "Add it"]),
    ("another version", _set("version", value=2), ["sovereign_policy.version = 2", "Use 1"]),
    ("no url", _delete("backends", "groq", "url"), ["backends.groq.url", "is missing"]),
    ("no location", _delete("backends", "groq", "location"), ["backends.groq", "location: cloud"]),
    ("another location", _set("backends", "cpu", "location", value="lan"), ["backends.cpu", "neither local nor cloud"]),
    ("unknown tier", _set("profiles", "private", "tier", value="T9"), ["profiles.private.tier = 'T9'", "'T1', 'T2'"]),
    (
        "a tier of one's own",
        _set("tiers", "T5", value={"name": "x", "cloud": "never"}),
        ["tiers", "'T5'", "'T1', 'T2'"],
    ),
    (
        "another provider",
        _set("backends", "groq", "provider", value="acme"),
        ["backends.groq.provider = 'acme'", "'groq'"],
    ),
    ("a budget of nobody", _set("budgets", "acme", value={"usd": 1, "period": "1d"}), ["budgets", "'acme'", "'groq'"]),
    ("text for a number", _set("backends", "cpu", "timeout", value="60"), ["backends.cpu.timeout = '60'", "integer"]),
    ("no time", _set("backends", "cpu", "timeout", value=0), ["backends.cpu.timeout = 0", "greater than 0"]),
    ("infinite budget", _set("budgets", "groq", "usd", value=float("inf")), ["budgets.groq.usd = inf", "finite"]),
    ("empty chain", _chain("private"), ["profiles.private.chain = []", "is empty"]),
    ("a chain of text", _set("profiles", "private", "chain", value="gpu"), ["profiles.private.chain = 'gpu'", "list"]),
    (
        "a link that is a mapping",
        _set("profiles", "private", "chain", value=[{"a": 1}]),
        ["private.chain[0]", "string"],
    ),
    # tiers
    (
        "T1 may fall back",
        _set("tiers", "T1", "cloud", value="fallback"),
        ["tiers.T1.cloud = 'fallback'", "Write never"],
    ),
    ("T3 never", _set("tiers", "T3", "cloud", value="never"), ["tiers.T3.cloud = 'never'", "Write explicit"]),
    ("a tier is gone", _delete("tiers", "T4"), ["tiers.T4", "is missing", "cloud: fallback"]),
    # names
    (
        "profile with a slash",
        lambda raw: raw["profiles"].update({"a/b": raw["profiles"]["private"]}),
        ["'a/b'", "safe name"],
    ),
    ("profile with a dot", lambda raw: raw["profiles"].update({"a.cpu": raw["profiles"]["private"]}), ["'a.cpu'"]),
    ("profile with a comma", lambda raw: raw["profiles"].update({"a,b": raw["profiles"]["private"]}), ["'a,b'"]),
    ("profile with a capital", lambda raw: raw["profiles"].update({"Ab": raw["profiles"]["private"]}), ["'Ab'"]),
    ("profile with a star", lambda raw: raw["profiles"].update({"*": raw["profiles"]["private"]}), ["'*'"]),
    (
        "profile name ends in a line feed",
        lambda raw: raw["profiles"].update({"ab\n": raw["profiles"]["private"]}),
        ["'ab\\n'"],
    ),
    (
        "profile name is long",
        lambda raw: raw["profiles"].update({"a" * 33: raw["profiles"]["private"]}),
        ["32 at most"],
    ),
    (
        "profile of all models",
        lambda raw: raw["profiles"].update({"all-proxy-models": raw["profiles"]["private"]}),
        ["reserved"],
    ),
    (
        "backend called queue",
        lambda raw: raw["backends"].update({"queue": raw["backends"]["cpu"]}),
        ["'queue'", "reserved"],
    ),
    # engines
    ("engine at a name", _url("cpu", "http://cpu.lan:8001/v1"), ["backends.cpu.url", "IPv4 address", "10.88.0.0/24"]),
    (
        "engine on another network",
        _url("cpu", "http://192.168.1.5:8001/v1"),
        ["backends.cpu.url", "outside the sovereign LAN"],
    ),
    ("engine on the internet", _url("cpu", "http://93.184.216.34:8001/v1"), ["outside the sovereign LAN"]),
    ("engine on loopback", _url("cpu", "http://127.0.0.1:8001/v1"), ["outside the sovereign LAN"]),
    ("engine at the host", _url("cpu", "http://10.88.0.1:8001/v1"), ["the host's own address"]),
    ("engine at admission's port", _url("cpu", "http://10.88.0.2:4001/v1"), ["another service of the plane"]),
    ("engine at the door's port", _url("cpu", "http://10.88.0.2:4021/v1"), ["another service of the plane"]),
    ("engine at the broadcast address", _url("cpu", "http://10.88.0.255:8001/v1"), ["broadcast"]),
    ("engine with TLS", _url("cpu", "https://10.88.0.2:8001/v1"), ["form of an engine's URL"]),
    ("engine without a port", _url("cpu", "http://10.88.0.2/v1"), ["form of an engine's URL"]),
    ("engine at another path", _url("cpu", "http://10.88.0.2:8001/v2"), ["form of an engine's URL"]),
    ("engine with a user", _url("cpu", "http://10.88.0.2@evil.example.com:80/v1"), ["is no plain URL"]),
    ("engine with a query", _url("cpu", "http://10.88.0.2:8001/v1?a=b"), ["is no plain URL"]),
    ("engine as a whole number", _url("cpu", "http://173539330:8001/v1"), ["IPv4 address"]),
    ("engine with a bad port", _url("cpu", "http://10.88.0.2:99999/v1"), ["is no plain URL"]),
    ("engine on IPv6", _url("cpu", "http://[fd00::2]:8001/v1"), ["IPv4 address"]),
    ("vLLM without a mode", _set("backends", "gpu", "mode", value=None), ["backends.gpu.mode", "Say which GPU mode"]),
    ("llama.cpp with a mode", _set("backends", "cpu", "mode", value="agent"), ["backends.cpu.mode", "Remove it"]),
    (
        "served name with a slash",
        _set("backends", "cpu", "model", value="groq/x"),
        ["backends.cpu.model", "plain served"],
    ),
    (
        "same served name in two modes",
        _set("backends", "gpu-forensic", "model", value="nemotron"),
        ["gpu-forensic.model", "gpu"],
    ),
    (
        "same address for two",
        _url("gpu-forensic", "http://10.88.0.10:8000/v1"),
        ["gpu-forensic.url", "also the URL of gpu"],
    ),
    (
        "first piece after the end",
        _set("backends", "cpu", "stream_timeout", value=9999),
        ["cpu.stream_timeout", "timeout 1200"],
    ),
    ("a public LAN", _set("lan", value="8.8.8.0/24"), ["sovereign_policy.lan = '8.8.8.0/24'", "RFC 1918"]),
    ("no network", _set("lan", value="10.88.0.1/24"), ["sovereign_policy.lan", "no IPv4 network"]),
    # cloud
    ("cloud without TLS", _url("groq", "http://api.groq.com/openai/v1"), ["backends.groq.url", "not https"]),
    ("cloud on loopback", _url("groq", "https://127.0.0.1/v1"), ["backends.groq.url", "public host"]),
    ("cloud on a private address", _url("groq", "https://10.88.0.2/v1"), ["public host"]),
    ("cloud at localhost", _url("groq", "https://localhost/v1"), ["public host"]),
    ("cloud at home", _url("groq", "https://nas.home.arpa/v1"), ["public host"]),
    ("cloud inside", _url("groq", "https://metadata.google.internal/v1"), ["public host"]),
    ("cloud with a user", _url("groq", "https://key@api.groq.com/v1"), ["no plain URL"]),
    ("cloud with a line feed", _url("groq", "https://api.groq.com/v1\n"), ["no plain URL"]),
    (
        "a key where its name belongs",
        _set("backends", "groq", "key", value="gsk_A1b2C3d4"),
        ["backends.groq.key", "key's name"],
    ),
    (
        "one key, two hosts",
        _set("backends", "groq", "key", value="openrouter"),
        ["openrouter.key = 'openrouter'", "also the key of groq"],
    ),
    ("a model with a space", _set("backends", "groq", "model", value="a b"), ["backends.groq.model"]),
    # chains
    (
        "missing backend",
        _chain("private", "gpu", "gpu2", "queue"),
        ["private.chain[1] = 'gpu2'", "names no backend", "Use one of"],
    ),
    (
        "cloud in T1",
        _chain("private", "cpu", "groq"),
        ["private.chain[1] = 'groq'", "private → cpu → groq", "move the profile to T2"],
    ),
    ("cloud alone in T1", _chain("client", "kimi", "error"), ["client → kimi"]),
    (
        "queue, then cloud",
        _chain("private", "gpu", "queue", "groq"),
        ["chain[1] = 'queue'", "private → gpu → queue → groq"],
    ),
    ("queue, then local", _chain("private", "gpu", "queue", "cpu"), ["chain[1] = 'queue'", "Put queue last"]),
    ("queue, then error", _chain("private", "gpu", "queue", "error"), ["chain[1] = 'queue'", "Put queue last"]),
    ("error in the middle", _chain("private", "gpu", "error", "cpu"), ["chain[1] = 'error'", "Put error last"]),
    (
        "queue outside T1",
        _chain("personal", "gpu", "cpu", "queue"),
        ["personal.chain[2] = 'queue'", "only T1 has a queue"],
    ),
    (
        "a wait without a queue",
        lambda raw: raw["profiles"]["client"].update({"queue_wait": 60}),
        ["client.queue_wait = 60", "this chain has none"],
    ),
    (
        "queue, then the cloud behind another link",
        _chain("private", "queue", "cpu", "groq"),
        ["chain[0] = 'queue'", "private → queue → cpu → groq"],
    ),
    ("nothing but an end", _chain("private", "queue"), ["private.chain = ['queue']", "has no backend"]),
    ("twice the same", _chain("private", "gpu", "gpu", "queue"), ["private.chain[1] = 'gpu'", "twice"]),
    (
        "cloud before local in T2",
        _chain("personal", "gpu", "kimi", "cpu"),
        ["personal.chain[1] = 'kimi'", "local first"],
    ),
    ("only cloud in T2", _chain("personal", "kimi"), ["personal.chain[0] = 'kimi'", "local first"]),
    ("only cloud in T4", _chain("coordination", "kimi"), ["coordination.chain[0] = 'kimi'"]),
    ("T3 without cloud", _chain("planning", "cpu", "error"), ["planning.chain", "T3 means"]),
    (
        "T3 without a cloud budget",
        _set("profiles", "planning", "cloud_budget_usd", value=0),
        ["planning.cloud_budget_usd", "null"],
    ),
    ("forensic in T2", _chain("personal", "gpu-forensic", "kimi"), ["personal.chain[0] = 'gpu-forensic'", "T1 only"]),
    ("forensic in T3", _chain("planning", "gpu-forensic", "deepseek"), ["planning.chain[0]", "T1 only"]),
    # budgets
    (
        "a budget for a profile",
        _set("profiles", "coordination", "cloud_budget_usd", value=5.0),
        ["= 5.0", "per provider", "Write 0"],
    ),
    ("a budget below zero", _set("profiles", "coordination", "cloud_budget_usd", value=-1.0), ["= -1.0", "Write 0"]),
    (
        "a budget that is none",
        _set("profiles", "coordination", "cloud_budget_usd", value=float("nan")),
        ["= nan", "Write 0"],
    ),
    ("a budget nobody spends", _chain("planning", "kimi", "error"), ["budgets.deepseek", "no chain uses"]),
    (
        "a budget without a price",
        _set("backends", "groq", "price", value=None),
        ["backends.groq.price", "never be spent"],
    ),
    ("no period", _set("budgets", "groq", "period", value="daily"), ["budgets.groq.period = 'daily'", "like 1d"]),
    ("a negative budget", _set("budgets", "groq", "usd", value=-1), ["budgets.groq.usd = -1"]),
]


def test_the_default_policy_is_accepted() -> None:
    assert sorted(load_policy(default_policy()).profiles) == [
        "client",
        "coding",
        "coordination",
        "personal",
        "planning",
        "private",
        "research",
    ]


@pytest.mark.parametrize(("name", "change", "fragments"), CASES, ids=[case[0] for case in CASES])
def test_a_bad_policy_is_refused_with_path_value_and_remedy(
    name: str, change: Callable[[Raw], Any], fragments: list[str]
) -> None:
    raw = default_policy()
    change(raw)
    with pytest.raises(PolicyError) as refusal:
        load_policy(raw)
    message = str(refusal.value)
    assert message.startswith("sovereign_policy is refused")
    for fragment in fragments:
        assert fragment in message, message
    for problem in refusal.value.problems:
        assert problem.path.startswith("sovereign_policy")
        assert problem.problem
        assert problem.remedy


@pytest.mark.parametrize("value", [None, [], "text", 7, {}])
def test_what_is_no_policy_at_all_is_refused(value: object) -> None:
    with pytest.raises(PolicyError):
        load_policy(value)


def test_all_faults_are_named_at_once() -> None:
    raw = default_policy()
    raw["profiles"]["private"]["chain"] = ["gpu", "groq"]
    raw["profiles"]["client"]["chain"] = ["nowhere"]
    raw["backends"]["cpu"]["url"] = "http://api.example.com:80/v1"
    with pytest.raises(PolicyError, match="3 faults") as refusal:
        load_policy(raw)
    assert [problem.path for problem in refusal.value.problems] == [
        "sovereign_policy.backends.cpu.url",
        "sovereign_policy.profiles.client.chain[0]",
        "sovereign_policy.profiles.private.chain[1]",
    ]


@pytest.mark.parametrize(
    "change",
    [
        _set("backends", "groq", "key", value="gsk_A1b2C3d4"),
        _set("backends", "groq", "api_key", value="gsk_A1b2C3d4"),
        _set("backends", "cpu", "token", value="gsk_A1b2C3d4"),
        _url("groq", "https://gsk_A1b2C3d4@api.groq.com/v1"),
    ],
)
def test_a_pasted_secret_is_not_shown_in_the_message(change: Callable[[Raw], None]) -> None:
    raw = default_policy()
    change(raw)
    with pytest.raises(PolicyError) as refusal:
        load_policy(raw)
    assert "A1b2" not in str(refusal.value)


def test_a_bad_lan_is_named_alone() -> None:
    raw = default_policy()
    raw["lan"] = "10.88.0.1/24"
    with pytest.raises(PolicyError) as refusal:
        load_policy(raw)
    assert [problem.path for problem in refusal.value.problems] == ["sovereign_policy.lan"]
