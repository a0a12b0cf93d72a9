# SPDX-License-Identifier: MIT
"""Policies to test with: the default one, and a hypothesis strategy for valid ones of every shape."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

CHECKOUT = Path(__file__).resolve().parents[5]
DEFAULT_FILE = CHECKOUT / "inventory" / "example" / "group_vars" / "all" / "policy.yml"

Raw = dict[str, Any]

TIERS = {
    "T1": {"name": "sovereign", "cloud": "never"},
    "T2": {"name": "local first", "cloud": "fallback"},
    "T3": {"name": "cloud explicit", "cloud": "explicit"},
    "T4": {"name": "coordination", "cloud": "fallback"},
}
PROVIDERS = ("nvidia_nim", "groq", "openrouter", "deepseek")
MODES = ("agent", "forensic", "coding")
TAKEN_WORDS = frozenset({"queue", "error", "all", "none", "cloud", "local", "default", "openai", "azure", "gemini"})


def default_policy() -> Raw:
    """A fresh copy of the policy that the example inventory ships."""
    loaded = yaml.safe_load(DEFAULT_FILE.read_text(encoding="utf-8"))
    return dict(copy.deepcopy(loaded["sovereign_policy"]))


def shuffled(value: Any, draw_order: Any) -> Any:
    """The same data with the keys of every mapping in another order; lists keep theirs."""
    if isinstance(value, dict):
        keys = list(value)
        return {key: shuffled(value[key], draw_order) for key in draw_order(keys)}
    return [shuffled(item, draw_order) for item in value] if isinstance(value, list) else value


def _names(prefix: str, size: int) -> st.SearchStrategy[list[str]]:
    """Distinct safe names. The prefix keeps profile and backend names apart, which makes failures easier to read."""
    one = st.from_regex(rf"{prefix}[a-z0-9]{{1,4}}(-[a-z0-9]{{1,4}}){{0,2}}", fullmatch=True)
    return st.lists(one.filter(lambda name: name not in TAKEN_WORDS), min_size=size, max_size=size, unique=True)


@st.composite
def policies(draw: st.DrawFn, *, with_t1: bool = False) -> Raw:
    """A valid policy: any number of engines on any private LAN, any providers, any chains that the tiers allow."""
    block = draw(st.sampled_from(["10.88.0", "10.200.7", "172.20.3", "192.168.77"]))
    engines = draw(st.integers(1, 6))
    local = _local_backends(draw, block, engines)
    cloud = _cloud_backends(draw, draw(st.integers(1, 5)))
    profiles = _profiles(draw, local, cloud, with_t1)
    used = {cloud[link]["provider"] for profile in profiles.values() for link in profile["chain"] if link in cloud}
    budgets = {
        provider: {
            "usd": draw(st.sampled_from([0, 0.01, 1, 2.5])),
            "period": draw(st.sampled_from(["30m", "12h", "1d"])),
        }
        for provider in sorted(used)
        if draw(st.booleans())
    }
    policy: Raw = {
        "version": 1,
        "lan": f"{block}.0/24",
        "tiers": copy.deepcopy(TIERS),
        "backends": {**local, **cloud},
        "profiles": profiles,
        "budgets": budgets,
    }
    shuffle: Raw = shuffled(policy, lambda keys: draw(st.permutations(keys)))
    return shuffle


def _local_backends(draw: st.DrawFn, block: str, count: int) -> Raw:
    backends: Raw = {}
    hosts = draw(st.lists(st.integers(2, 254), min_size=count, max_size=count, unique=True))
    for name, host in zip(draw(_names("l", count)), hosts, strict=True):
        mode = draw(st.sampled_from([None, *MODES]))
        timeout = draw(st.integers(1, 3600))
        backends[name] = {
            "location": "local",
            "engine": "vllm" if mode else "llama.cpp",
            "model": f"served-{name}",
            "url": f"http://{block}.{host}:{draw(st.sampled_from([8000, 8001, 9000]))}/v1",
            "context_length": draw(st.integers(1024, 262144)),
            "timeout": timeout,
            "stream_timeout": draw(st.integers(1, timeout)),
            **({"mode": mode} if mode else {}),
        }
    return backends


def _cloud_backends(draw: st.DrawFn, count: int) -> Raw:
    backends: Raw = {}
    for number, name in enumerate(draw(_names("c", count))):
        timeout = draw(st.integers(1, 600))
        backends[name] = {
            "location": "cloud",
            "provider": draw(st.sampled_from(PROVIDERS)),
            "model": draw(st.sampled_from(["maker/big-1.5", "plain-70b", "maker/family/x:free"])),
            "url": f"https://api{number}.example.com{draw(st.sampled_from(['/v1', '/openai/v1', '']))}",
            "key": f"key{number}",
            "context_length": draw(st.integers(1024, 1_000_000)),
            "timeout": timeout,
            "stream_timeout": draw(st.integers(1, timeout)),
            "price": {"input_usd_per_mtok": draw(st.sampled_from([0, 0.28, 3])), "output_usd_per_mtok": 0.42},
        }
    return backends


def _profiles(draw: st.DrawFn, local: Raw, cloud: Raw, with_t1: bool) -> Raw:
    shared = [name for name, backend in local.items() if backend.get("mode") != "forensic"]
    profiles: Raw = {}
    for position, name in enumerate(draw(_names("p", draw(st.integers(1, 6))))):
        allowed = ["T1", "T3", *(["T2", "T4"] if shared else [])]
        tier = "T1" if with_t1 and position == 0 else draw(st.sampled_from(allowed))
        ends: list[list[str]] = [[], ["error"], *([["queue"]] if tier == "T1" else [])]
        end = draw(st.sampled_from(ends))
        profile: Raw = {"tier": tier}
        if tier == "T1":
            links = draw(_some(list(local), 1))
        elif tier == "T3":
            links = draw(st.permutations([*draw(_some(shared, 0)), *draw(_some(list(cloud), 1))]))
        else:
            links = [*draw(_some(shared, 1)), *draw(_some(list(cloud), 0))]
            profile["cloud_budget_usd"] = draw(st.sampled_from([None, 0, 0.0]))
        profiles[name] = {**profile, "chain": [*links, *end]}
    return profiles


def _some(names: list[str], at_least: int) -> st.SearchStrategy[list[str]]:
    """Some of the names, in any order."""
    return st.lists(st.sampled_from(names), min_size=at_least, unique=True) if names else st.just([])
