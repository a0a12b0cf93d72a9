# SPDX-License-Identifier: MIT
"""From inventory data to a :class:`.model.Policy` that keeps every rule, or to one error that names them all.

Three steps, in this order: :func:`parse_policy` (the shape), :func:`find_problems` (the rules), and the walk over every
edge in :func:`.proof.prove_policy`. The walk repeats what the rules say about T1 by other means, so that a fault in one
of them is caught by the other.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from urllib.parse import SplitResult, urlsplit

from ._pydantic import ValidationError, require_pydantic
from .errors import PolicyError, Problem, arrow
from .model import HOST_OFFSET, PLANE_PORTS, TERMINALS, TIER_CLOUD, CloudBackend, LocalBackend, Policy, host_port
from .proof import prove_policy

ROOT = "sovereign_policy"

#: Profile and backend names go into model groups, URLs, file names and unit names: nothing in them may be special.
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
NAME_LENGTH = 32
KEY_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
LOCAL_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
CLOUD_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]*(/[A-Za-z0-9][A-Za-z0-9_.:-]*){0,3}")
PERIOD = re.compile(r"[1-9][0-9]{0,3}[smhd]")
DNS_NAME = re.compile(r"(?=.{4,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9]")
#: Names that never mean a public host (RFC 2606, 6761, 6762, 8375, and what home routers use).
PRIVATE_SUFFIXES = ("local", "localhost", "localdomain", "internal", "intranet", "lan", "home", "corp", "home.arpa")

#: Words with a meaning of their own in a chain, in LiteLLM's model lists, or as a provider.
RESERVED = frozenset(
    {*TERMINALS, "t1", "t2", "t3", "t4", "default", "all", "none", "cloud", "local", "all-proxy-models"}
    | {
        "all-team-models",
        "no-default-models",
        "openai",
        "azure",
        "bedrock",
        "anthropic",
        "gemini",
        "sovereign",
        "hybrid",
    }
)

_SHAPE_REMEDIES: dict[str, tuple[str, str]] = {
    "extra_forbidden": ("is not a key of the policy", "Remove it or correct its spelling"),
    "missing": ("is missing", "Add it"),
    "union_tag_invalid": ("is neither local nor cloud", "Write location: local or location: cloud"),
    "union_tag_not_found": ("has no location", "Add location: local or location: cloud"),
    "too_short": ("is empty", "Give at least one entry"),
}
#: Tags that pydantic puts into the location of a union's member; they are no keys of the policy.
_UNION_TAGS = frozenset({"local", "cloud"})


def load_policy(data: object) -> Policy:
    """Read, check and prove a policy. Raises :class:`.errors.PolicyError` that lists every fault found."""
    policy = parse_policy(data)
    problems = find_problems(policy)
    if problems:
        raise PolicyError(problems)
    prove_policy(policy)
    return policy


def parse_policy(data: object) -> Policy:
    """Read the shape only: types, known keys, closed word lists. Raises :class:`.errors.PolicyError`."""
    require_pydantic()
    plain = to_plain(data)
    try:
        return Policy.model_validate(plain)
    except ValidationError as exc:
        raise PolicyError([_shape_problem(dict(error), plain) for error in exc.errors()]) from exc


def to_plain(value: object) -> object:
    """Copy into plain dicts, lists and scalars: inventory data comes in wrappers that remember where it was written."""
    if isinstance(value, Mapping):
        return {to_plain(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return int(value)
    return float(value) if isinstance(value, float) else value


def find_problems(policy: Policy) -> list[Problem]:
    """Every rule the policy breaks, in a stable order. An empty list means that it keeps them all."""
    rules: Sequence[Callable[[Policy], Iterator[Problem]]] = (
        _tier_rules,
        _name_rules,
        _local_backend_rules,
        _cloud_backend_rules,
        _served_name_rules,
        _key_rules,
        _chain_rules,
        _tier_chain_rules,
        _shared_engine_rules,
        _budget_rules,
    )
    return list(_lan_rules(policy)) or [problem for rule in rules for problem in rule(policy)]


def _shape_problem(error: dict[str, object], data: object) -> Problem:
    """Turn one of pydantic's findings into ours: key path, value, remedy."""
    kind = str(error["type"])
    steps = error["loc"] if isinstance(error["loc"], tuple) else ()
    path, at_path, found = ROOT, data, True
    for position, step in enumerate(steps):
        if isinstance(at_path, dict) and (step in at_path or (kind == "missing" and position == len(steps) - 1)):
            path, at_path = f"{path}.{step}", at_path.get(step)
        elif isinstance(at_path, list) and isinstance(step, int) and step < len(at_path):
            path, at_path = f"{path}[{step}]", at_path[step]
        elif step == "[key]":
            found = False
        elif not (step in _UNION_TAGS and isinstance(at_path, dict)):
            path, at_path = f"{path}.{step}", None
    if not found:
        return Problem(path, steps[-2], "is not a name known here", f"{_expected(error)}")
    problem, remedy = _SHAPE_REMEDIES.get(kind, ("has the wrong form", _expected(error)))
    return Problem(path, at_path, problem, remedy)


def _expected(error: dict[str, object]) -> str:
    message = str(error["msg"]).rstrip(".")
    if not message.startswith("Input should be "):
        return message
    wanted = message[len("Input should be ") :]
    return f"Use a value {wanted}" if wanted.startswith(("greater", "less")) else f"Use {wanted}"


def _lan_rules(policy: Policy) -> Iterator[Problem]:
    path = f"{ROOT}.lan"
    try:
        network = ipaddress.IPv4Network(policy.lan)
    except ValueError as exc:
        yield Problem(path, policy.lan, f"is no IPv4 network ({exc})", "Write it like 10.88.0.0/24")
        return
    private = any(
        network.subnet_of(ipaddress.IPv4Network(block)) for block in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
    )
    if not private or not 16 <= network.prefixlen <= 28:
        yield Problem(path, policy.lan, "is no private network of a usable size", "Use /16 to /28 inside RFC 1918")


def _tier_rules(policy: Policy) -> Iterator[Problem]:
    for tier_id in sorted(set(TIER_CLOUD) - set(policy.tiers)):
        yield Problem(f"{ROOT}.tiers.{tier_id}", None, "is missing", f"Add it with cloud: {TIER_CLOUD[tier_id]}")
    for tier_id, tier in sorted(policy.tiers.items()):
        if tier.cloud != TIER_CLOUD[tier_id]:
            yield Problem(
                f"{ROOT}.tiers.{tier_id}.cloud",
                tier.cloud,
                "changes what the tier means",
                f"Write {TIER_CLOUD[tier_id]}, and give the profile that needs another rule another tier",
            )


def _name_rules(policy: Policy) -> Iterator[Problem]:
    names = [("profiles", name) for name in sorted(policy.profiles)] + [
        ("backends", name) for name in sorted(policy.backends)
    ]
    for section, name in names:
        path = f"{ROOT}.{section}"
        if not NAME.fullmatch(name) or len(name) > NAME_LENGTH:
            yield Problem(
                path, name, "is no safe name", f"Use a-z, 0-9 and single hyphens, a letter first, {NAME_LENGTH} at most"
            )
        elif name in (RESERVED if section == "profiles" else TERMINALS):
            yield Problem(path, name, "is a reserved word", "Choose another name")


def _split(url: str) -> SplitResult | None:
    """Take a URL apart, or None when it cannot be (or holds what no URL of ours may hold)."""
    if not url.isascii() or any(character <= " " or character in "\\%\x7f" for character in url):
        return None
    try:
        parts = urlsplit(url)
        _port = parts.port
    except ValueError:
        return None
    return parts if "@" not in parts.netloc and "?" not in url and "#" not in url else None


def _local_backend_rules(policy: Policy) -> Iterator[Problem]:
    for name, backend in sorted(policy.backends.items()):
        if not isinstance(backend, LocalBackend):
            continue
        path = f"{ROOT}.backends.{name}"
        fault = _local_url_fault(backend.url, policy)
        if fault:
            yield Problem(f"{path}.url", backend.url, fault, f"Write http://<address in {policy.lan}>:<port>/v1")
        if not LOCAL_MODEL.fullmatch(backend.model):
            yield Problem(f"{path}.model", backend.model, "is no plain served name", "Use letters, digits, - and _")
        if backend.engine == "vllm" and backend.mode is None:
            yield Problem(f"{path}.mode", None, "is missing", "Say which GPU mode serves it: agent, forensic or coding")
        if backend.engine == "llama.cpp" and backend.mode is not None:
            yield Problem(f"{path}.mode", backend.mode, "does not fit: llama.cpp runs in every GPU mode", "Remove it")
        yield from _timeout_rules(path, backend)


def _local_url_fault(url: str, policy: Policy) -> str | None:
    parts = _split(url)
    if parts is None:
        return "is no plain URL"
    try:
        network = policy.lan_network()
        address = ipaddress.IPv4Address(parts.hostname or "")
    except ValueError:
        return "does not name an IPv4 address of the sovereign LAN"
    if parts.scheme != "http" or parts.path != "/v1" or not parts.port:
        return "has not the form of an engine's URL"
    if address not in network:
        return f"is outside the sovereign LAN {policy.lan}"
    taken = {network.network_address: "the network's address", network.broadcast_address: "the broadcast address"}
    taken[network.network_address + HOST_OFFSET] = "the host's own address"
    if str(address) == policy.namespace_address() and parts.port in PLANE_PORTS:
        return "is the port of another service of the plane"
    return f"is {taken[address]} on the LAN" if address in taken else None


def _cloud_backend_rules(policy: Policy) -> Iterator[Problem]:
    for name, backend in sorted(policy.backends.items()):
        if not isinstance(backend, CloudBackend):
            continue
        path = f"{ROOT}.backends.{name}"
        fault = _cloud_url_fault(backend.url)
        if fault:
            yield Problem(f"{path}.url", backend.url, fault, "Write https://<the provider's public host name>/<path>")
        if not KEY_NAME.fullmatch(backend.key):
            yield Problem(
                f"{path}.key", backend.key, "is no name of a key", "Give the key's name, keep the key in its file"
            )
        if not CLOUD_MODEL.fullmatch(backend.model):
            yield Problem(
                f"{path}.model", backend.model, "is no plain model name", "Copy the provider's own name of it"
            )
        yield from _timeout_rules(path, backend)


def _cloud_url_fault(url: str) -> str | None:
    parts = _split(url)
    if parts is None:
        return "is no plain URL"
    host = parts.hostname or ""
    if parts.scheme != "https":
        return "is not https"
    if parts.port == 0 or "//" in parts.path or ".." in parts.path:
        return "is no plain URL"
    if not DNS_NAME.fullmatch(host) or host.endswith(tuple(f".{suffix}" for suffix in PRIVATE_SUFFIXES)):
        return "does not name a public host"
    return None


def _timeout_rules(path: str, backend: LocalBackend | CloudBackend) -> Iterator[Problem]:
    if backend.stream_timeout > backend.timeout:
        yield Problem(
            f"{path}.stream_timeout",
            backend.stream_timeout,
            f"is longer than the whole answer may take (timeout {backend.timeout})",
            "Write at most the timeout",
        )


def _served_name_rules(policy: Policy) -> Iterator[Problem]:
    by_model: dict[str, tuple[str, str | None]] = {}
    by_endpoint: dict[str, str] = {}
    for name, backend in sorted(policy.backends.items()):
        if not isinstance(backend, LocalBackend):
            continue
        first, mode = by_model.setdefault(backend.model, (name, backend.mode))
        if first != name and mode != backend.mode:
            yield Problem(
                f"{ROOT}.backends.{name}.model",
                backend.model,
                f"is also served by {first} in another mode, so a wrong mode would answer silently",
                "Give each mode its own model name",
            )
        other = by_endpoint.setdefault(backend.url, name)
        if other != name:
            yield Problem(
                f"{ROOT}.backends.{name}.url", backend.url, f"is also the URL of {other}", "Give each its own address"
            )


def _key_rules(policy: Policy) -> Iterator[Problem]:
    """One key, one host: a key that two hosts got would be known to a provider that it does not belong to."""
    hosts: dict[str, tuple[str, str]] = {}
    for name, backend in sorted(policy.backends.items()):
        if isinstance(backend, CloudBackend):
            host = host_port(backend.url)[0]
            first, first_host = hosts.setdefault(backend.key, (name, host))
            if host != first_host:
                yield Problem(
                    f"{ROOT}.backends.{name}.key",
                    backend.key,
                    f"is also the key of {first}, at another host ({first_host})",
                    "Give each host a key of its own",
                )


def _chain_rules(policy: Policy) -> Iterator[Problem]:
    for name, profile in sorted(policy.profiles.items()):
        path = f"{ROOT}.profiles.{name}"
        seen: list[str] = []
        for position, link in enumerate(profile.chain):
            here = f"{path}.chain[{position}]"
            if link in TERMINALS:
                if position < len(profile.chain) - 1:
                    way = arrow([name, *profile.chain[: position + 2]])
                    yield Problem(here, link, f"ends the chain, yet a link follows ({way})", f"Put {link} last")
                if link == "queue" and profile.tier != "T1":
                    yield Problem(
                        here, link, f"only T1 has a queue, this profile is {profile.tier}", "End it with error"
                    )
            elif link not in policy.backends:
                known = ", ".join(sorted(policy.backends))
                yield Problem(here, link, "names no backend of this policy", f"Use one of {known}, or queue or error")
            elif link in seen:
                yield Problem(here, link, "stands in the chain twice", "Remove one of them")
            seen.append(link)
        if profile.chain[0] in TERMINALS:
            yield Problem(f"{path}.chain", profile.chain, "has no backend", "Put at least one before the last word")
        if profile.queue_wait is not None and profile.chain[-1] != "queue":
            yield Problem(
                f"{path}.queue_wait",
                profile.queue_wait,
                "is how long a request waits in the queue, and this chain has none",
                "End the chain with queue, or remove the line",
            )
        if profile.cloud_budget_usd not in (None, 0):
            yield Problem(
                f"{path}.cloud_budget_usd",
                profile.cloud_budget_usd,
                "is a budget for one profile, which nothing here can keep: budgets are counted per provider",
                "Write 0 (no cloud for this profile) or null, and set the amount under budgets.<provider>",
            )


def _tier_chain_rules(policy: Policy) -> Iterator[Problem]:
    for name, profile in sorted(policy.profiles.items()):
        path = f"{ROOT}.profiles.{name}.chain"
        cloud = [
            position
            for position, link in enumerate(profile.chain)
            if isinstance(policy.backends.get(link), CloudBackend)
        ]
        local = [
            position
            for position, link in enumerate(profile.chain)
            if isinstance(policy.backends.get(link), LocalBackend)
        ]
        if profile.tier == "T1":
            for position in cloud:
                way = arrow([name, *profile.chain[: position + 1]])
                yield Problem(
                    f"{path}[{position}]",
                    profile.chain[position],
                    f"a cloud backend in T1: data of tier T1 has no path off the machine ({way})",
                    "Remove it, or move the profile to T2 if its data may leave",
                )
        elif TIER_CLOUD[profile.tier] == "fallback" and cloud and (not local or cloud[0] < local[-1]):
            way = arrow([name, *profile.chain])
            yield Problem(
                f"{path}[{cloud[0]}]",
                profile.chain[cloud[0]],
                f"the cloud before this machine's own engines, and {profile.tier} is local first ({way})",
                "Start with a local backend and put every cloud backend after the last local one",
            )
        elif profile.tier == "T3" and not cloud:
            yield Problem(path, profile.chain, "has no cloud backend, and T3 means that the cloud is wanted", "Add one")
        if profile.tier == "T3" and profile.cloud_budget_usd == 0:
            yield Problem(
                f"{ROOT}.profiles.{name}.cloud_budget_usd", 0, "takes away the cloud that T3 is for", "Write null"
            )


def _shared_engine_rules(policy: Policy) -> Iterator[Problem]:
    for name, profile in sorted(policy.profiles.items()):
        for position, link in enumerate(profile.chain):
            backend = policy.backends.get(link)
            if profile.tier != "T1" and isinstance(backend, LocalBackend) and backend.mode == "forensic":
                yield Problem(
                    f"{ROOT}.profiles.{name}.chain[{position}]",
                    link,
                    f"the forensic engine serves T1 only, this profile is {profile.tier}",
                    "Use another backend",
                )


def _budget_rules(policy: Policy) -> Iterator[Problem]:
    links = [policy.backends.get(link) for profile in policy.profiles.values() for link in profile.chain]
    used = {backend.provider for backend in links if isinstance(backend, CloudBackend)}
    for provider, budget in sorted(policy.budgets.items()):
        path = f"{ROOT}.budgets.{provider}"
        if provider not in used:
            yield Problem(path, provider, "no chain uses this provider", "Remove the budget or correct its name")
        if not PERIOD.fullmatch(budget.period):
            yield Problem(f"{path}.period", budget.period, "is no period", "Write a number and s, m, h or d, like 1d")
    for name, backend in sorted(policy.backends.items()):
        if isinstance(backend, CloudBackend) and backend.provider in policy.budgets and backend.price is None:
            yield Problem(
                f"{ROOT}.backends.{name}.price",
                None,
                f"is missing, so the budget of {backend.provider} would never be spent",
                "Add price: {input_usd_per_mtok: …, output_usd_per_mtok: …} from the provider's price list",
            )
