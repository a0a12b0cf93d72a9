# SPDX-License-Identifier: MIT
"""Proof before print: no way from a T1 profile to the cloud, shown twice.

:func:`prove_policy` walks the policy's own graph. :func:`prove_litellm` takes the *rendered text* of a gateway's
configuration and refuses it unless

1. every way that LiteLLM could take from each profile (``litellm_walk.py``) ends at a link of that profile's chain;
2. no setting stands in it that is known to open another way;
3. in a sovereign text no cloud host, model, provider or key reference stands anywhere, comments included, and no
   address but the engine door's route to an engine of the policy;
4. every key and every value is one of the closed list below. So what nobody thought of is refused too.

:func:`prove_door` does the same for the engine door's routes: each leads to the engine that the policy names, on the
LAN, and the hybrid side has a route only to what a hybrid chain uses.

The closed list repeats what the compiler writes, by hand and on purpose: a change of one without the other is refused.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .errors import PolicyError, Problem, ProofError, arrow, quote
from .litellm_walk import Graph, read_document, scalars
from .model import TERMINALS, CloudBackend, LocalBackend, Plane, Policy, host_port

DEFAULT_MAX_ANSWER_TOKENS = 16384

AUTH_HOOK = "mushishi_gateway_auth.authenticate"
BUDGET_HOOK = "mushishi_gateway_budget.ledger"
LLAMA_KEY = "os.environ/LLAMA_API_KEY"
MASTER_KEY = "os.environ/LITELLM_MASTER_KEY"

#: Keys that open a way out in some setting of LiteLLM, wherever they stand. Value: what they do.
#: They would be refused by the closed list as well; here they get a message that says why.
DANGERS: dict[str, str] = {
    "default_fallbacks": "sends every failed group to these models",
    "context_window_fallbacks": "sends an over-long prompt to other models, with every engine healthy",
    "content_policy_fallbacks": "sends a refused prompt to other models",
    "model_group_alias": "is resolved after the access check, so a group can mean another",
    "model_alias_map": "is resolved after the access check, so a group can mean another",
    "pass_through_endpoints": "forwards requests to an address of its own",
    "search_tools": "sends queries to a search service",
    "mcp_servers": "lets the gateway call tools elsewhere",
    "mcp_tools": "lets the gateway call tools elsewhere",
    "vector_store_registry": "sends content to a vector store",
    "vector_stores": "sends content to a vector store",
    "guardrails": "sends content to a checking service",
    "prompts": "lets a prompt template choose the model",
    "cache": "shares answers between profiles, or sends them to a store elsewhere",
    "cache_params": "shares answers between profiles, or sends them to a store elsewhere",
    "database_url": "lets a database add models and keys while the gateway runs",
    "allow_client_side_credentials": "lets a client choose the destination",
    "configurable_clientside_auth_params": "lets a client choose the destination",
    "environment_variables": "sets the process's environment",
    "include": "reads further configuration that was not proven",
    "credential_list": "holds credentials of other providers",
    "litellm_credential_name": "takes credentials and a destination from elsewhere",
    "retry_policy": "retries, possibly on another deployment",
    "model_group_retry_policy": "retries, possibly on another deployment",
    "enable_tag_filtering": "lets tags of the request choose the deployment",
    "tags": "lets tags of the request choose the deployment",
    "request_timeout": "overrides the time-out of every deployment",
    "files_settings": "lets a client store files at a provider",
    "finetune_settings": "sends data to a provider",
    "access_groups": "makes a deployment reachable under another name",
    "callback_settings": "configures a service that sees each request",
    "router_settings_override": "replaces the routing",
}
#: Dangers whose switched-off form the compiler writes on purpose.
SWITCHED_OFF = {"allow_client_side_credentials": False}

_ROUTER: dict[str, object] = {"routing_strategy": "simple-shuffle", "num_retries": 0, "disable_cooldowns": True}
_SETTINGS: dict[str, object] = {
    "num_retries": 0,
    "telemetry": False,
    "drop_params": True,
    "disable_hf_tokenizer_download": True,
    "enable_post_custom_auth_checks": True,
    "turn_off_message_logging": True,
    "suppress_debug_info": True,
}
_GENERAL: dict[str, object] = {
    "master_key": MASTER_KEY,
    "custom_auth": AUTH_HOOK,
    "custom_auth_run_common_checks": True,
    "enforce_fallback_model_access": True,
    "allow_client_side_credentials": False,
    "store_model_in_db": False,
    "disable_spend_logs": True,
    "background_health_checks": False,
    "disable_model_info_refresh": True,
}
_HYBRID_CALLBACKS = [BUDGET_HOOK]
#: The engine door's ports; the sovereign gateway calls it on its loopback, the hybrid one on the namespace's address.
_DOOR_PORTS = {Plane.SOVEREIGN: 4022, Plane.HYBRID: 4021}
_DOOR_ROUTE_KEYS = {"backend", "prefix", "upstream_host", "upstream_port", "model", "engine", "mode", "planes", "last"}

_DOTTED = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)+")
_KEY_LIKE = re.compile(r"[A-Za-z0-9_]*(?:API_KEY|APIKEY|CLOUD_KEY|TOKEN|SECRET)[A-Za-z0-9_]*")
_REFERENCE = re.compile(r"os\.environ/?([^\s\"',}\]]*)")


# --- on the model -----------------------------------------------------------------------------------------------------


def prove_policy(policy: Policy) -> None:
    """Walk every edge of the policy's graph from each T1 profile. Raises :class:`.errors.PolicyError` with the path.

    The graph is built from the chains as they are *written* (before a budget of 0 takes cloud links away), every link
    leading to the next whatever word stands between them, and a local backend counts as local only when its URL is an
    address of the LAN.
    """
    problems = [
        Problem(
            f"sovereign_policy.profiles.{way[0]}.chain",
            policy.profiles[way[0]].chain,
            f"leads from T1 to the cloud ({arrow(way)})",
            "Remove that link, or move the profile to T2 if its data may leave",
        )
        for way in cloud_ways(policy)
    ]
    if problems:
        raise PolicyError(problems)


def cloud_ways(policy: Policy) -> list[tuple[str, ...]]:
    """Every shortest way from a T1 profile to something that is not an engine on the LAN, sorted by profile."""
    edges = _policy_edges(policy)
    found: list[tuple[str, ...]] = []
    for name in sorted(policy.profiles):
        if policy.profiles[name].tier != "T1":
            continue
        queue: list[tuple[str, ...]] = [(name,)]
        seen = {name}
        while queue:
            way = queue.pop(0)
            target = way[-1].split("#")[-1]
            if len(way) > 1 and target not in TERMINALS and not _is_on_lan(policy, target):
                found.append(tuple(step.split("#")[-1] for step in way))
                break
            for step in edges.get(way[-1], []):
                if step not in seen:
                    seen.add(step)
                    queue.append((*way, step))
    return found


def _policy_edges(policy: Policy) -> dict[str, list[str]]:
    """``profile → profile#first``, ``profile#link → profile#next``: a node for each link of each chain."""
    edges: dict[str, list[str]] = {}
    for name, profile in policy.profiles.items():
        previous = name
        for link in profile.chain:
            node = f"{name}#{link}"
            edges.setdefault(previous, []).append(node)
            previous = node
    return edges


def _is_on_lan(policy: Policy, backend_name: str) -> bool:
    backend = policy.backends.get(backend_name)
    return isinstance(backend, LocalBackend) and _lan_url(policy, backend.url)


def _lan_url(policy: Policy, url: str) -> bool:
    """True for ``http://<IPv4 address of the LAN>:<port>/v1``, read by a pattern and not by a URL library."""
    match = re.fullmatch(r"http://([0-9]{1,3})\.([0-9]{1,3})\.([0-9]{1,3})\.([0-9]{1,3}):[0-9]{1,5}/v1", url)
    if not match or any((len(part) > 1 and part[0] == "0") or int(part) > 255 for part in match.groups()):
        return False
    address = int.from_bytes(bytes(int(part) for part in match.groups()), "big")
    network = policy.lan_network()
    return int(network.network_address) + 1 < address < int(network.broadcast_address)


def _door(policy: Policy, plane: Plane) -> str:
    """The engine door's address as a plane's gateway must call it. Not by ``Policy.door_url``."""
    namespace = ipaddress.IPv4Network(policy.lan).network_address + 2
    return f"http://{'127.0.0.1' if plane is Plane.SOVEREIGN else namespace}:{_DOOR_PORTS[plane]}"


# --- on the engine door's routes --------------------------------------------------------------------------------------


def prove_door(routes: Sequence[Mapping[str, Any]], policy: Policy) -> None:
    """Refuse routes of the engine door not shown to keep the policy. Raises :class:`.errors.ProofError`.

    A request of T1 goes where this table says: each upstream must be the very engine of the policy, on the LAN, and a
    route is open for a plane only where a chain of that plane names its engine.
    """
    wanted = {
        name: {plane.value for plane in Plane if name in _plane_links(policy, plane)}
        for name, backend in policy.backends.items()
        if isinstance(backend, LocalBackend) and any(name in _plane_links(policy, plane) for plane in Plane)
    }
    if len(routes) != len(wanted):
        raise ProofError("engine door", f"has {len(routes)} routes, the chains use {len(wanted)} engines")
    for route in routes:
        name = route.get("backend")
        where = f"engine door: {name}"
        backend = policy.backends.get(str(name))
        if not isinstance(backend, LocalBackend) or set(route) != _DOOR_ROUTE_KEYS:
            raise ProofError(where, "is no route to an engine of this policy")
        url = f"http://{route['upstream_host']}:{route['upstream_port']}/v1"
        if url != backend.url or not _lan_url(policy, url):
            raise ProofError(where, f"leads to {url}, which is not that engine on the sovereign LAN")
        if route["prefix"] != f"/{name}/v1" or set(route["planes"]) != wanted.get(str(name)):
            raise ProofError(
                where, f"is open as {route['prefix']} for {', '.join(route['planes'])}, against the chains"
            )
        if route["mode"] != backend.mode:
            raise ProofError(where, f"is of mode {route['mode']}, and that engine is of {backend.mode}")
        if "hybrid" in route["planes"] and backend.mode == "forensic":
            raise ProofError(where, "would open the forensic engine to the hybrid plane")
    if len({route["backend"] for route in routes}) != len(routes):
        raise ProofError("engine door", "names an engine twice")


def _plane_links(policy: Policy, plane: Plane) -> set[str]:
    """Names in the chains of a plane's profiles, as they are written."""
    return {
        link
        for profile in policy.profiles.values()
        if (profile.tier == "T1") is (plane is Plane.SOVEREIGN)
        for link in profile.chain
    }


# --- on the rendered text ---------------------------------------------------------------------------------------------


def prove_litellm(
    text: str,
    policy: Policy,
    plane: Plane,
    max_answer_tokens: int = DEFAULT_MAX_ANSWER_TOKENS,
) -> None:
    """Refuse a rendered LiteLLM configuration not shown to keep the policy. Raises :class:`.errors.ProofError`."""
    document = read_document(text)
    _prove_ways(document, policy, plane)
    _prove_no_dangers(document)
    if plane is Plane.SOVEREIGN:
        prove_no_cloud(text, document, policy)
    _prove_closed(document, _expected(policy, plane, max_answer_tokens))


def prove_no_cloud(text: str, data: object, policy: Policy) -> None:
    """Refuse a sovereign output in which a cloud host, model, provider or key stands, in keys, values or comments."""
    words = _cloud_words(policy)
    for path, value in scalars(data):
        _refuse_words(path, str(value), words)
        _refuse_addresses(path, str(value), policy)
    _refuse_words("text", text, words)


def _prove_ways(document: dict[str, Any], policy: Policy, plane: Plane) -> None:
    callbacks = frozenset(_HYBRID_CALLBACKS) if plane is Plane.HYBRID else frozenset()
    graph = Graph(document, callbacks)
    for name in sorted(policy.profiles):
        if policy.plane_of(name) is not plane:
            if name in graph.deployments:
                raise ProofError(
                    f"model_list: {name}", f"is a {policy.profiles[name].tier} profile, this is the {plane.value} plane"
                )
            continue
        allowed = dict(_link_urls(policy, name))
        for way in graph.ways(name):
            if way.destination.address not in allowed:
                known = _label(policy, way.destination.address) or way.destination.label
                raise ProofError(
                    arrow([*way.steps, known]),
                    f"a way out of the chain of {name} ({policy.profiles[name].tier}), through {way.destination.where}",
                )


def _label(policy: Policy, address: str | None) -> str | None:
    """The policy's own name of a destination, where it has one."""
    names = [name for name, backend in sorted(policy.backends.items()) if backend.url == address]
    return f"{names[0]} ({address})" if names else None


def _link_urls(policy: Policy, profile_name: str) -> Iterator[tuple[str, str]]:
    """``(url, backend name)`` of each link a profile may use, as its plane reaches it. Not by ``Policy.chain``."""
    profile = policy.profiles[profile_name]
    door = _door(policy, Plane.SOVEREIGN if profile.tier == "T1" else Plane.HYBRID)
    for name in profile.chain:
        backend = policy.backends.get(name)
        if isinstance(backend, LocalBackend):
            if _lan_url(policy, backend.url):
                yield f"{door}/{name}/v1", name
        elif isinstance(backend, CloudBackend) and profile.tier != "T1" and profile.cloud_budget_usd != 0:
            yield backend.url, name


def _prove_no_dangers(document: Mapping[str, Any]) -> None:
    for path, value in scalars(document):
        key = path.rsplit(".", 1)[-1]
        if value != key or key not in DANGERS:
            continue
        if key in SWITCHED_OFF and _at(document, path) is SWITCHED_OFF[key]:
            continue
        raise ProofError(path, f"{DANGERS[key]}: no such setting is written here")


def _at(document: object, path: str) -> object:
    for step in path.split("."):
        document = document.get(step) if isinstance(document, dict) else None
    return document


def _cloud_words(policy: Policy) -> list[tuple[str, str]]:
    """``(word, what it is)`` for all of a policy's cloud side: it may not stand in a sovereign text."""
    words: list[tuple[str, str]] = []
    own = {backend.model for backend in policy.backends.values() if isinstance(backend, LocalBackend)}
    for name, backend in sorted(policy.backends.items()):
        if isinstance(backend, CloudBackend):
            words.append((host_port(backend.url)[0], f"the host of {name}"))
            words.append((f"{backend.provider}/", f"the provider of {name}"))
            words.append((f"CLOUD_KEY_{re.sub('[^A-Z0-9]', '_', backend.key.upper())}", f"the key of {name}"))
            if backend.model not in own:
                words.append((backend.model, f"the model of {name}"))
    return words


def _refuse_words(path: str, value: str, words: list[tuple[str, str]]) -> None:
    lowered = value.lower()
    for word, what in words:
        if word.lower() in lowered:
            raise ProofError(path, f"holds {word}, {what}: a sovereign output knows no cloud")
    names = [match.group(0) for match in _KEY_LIKE.finditer(value)]
    references = [match.group(1) for match in _REFERENCE.finditer(value)]
    for name in (*names, *references):
        if f"os.environ/{name}" not in (LLAMA_KEY, MASTER_KEY):
            raise ProofError(path, f"refers to {name}: a sovereign output knows no key but those of this plane")


def _refuse_addresses(path: str, value: str, policy: Policy) -> None:
    """Any URL must be the door's, any dotted name one of ours: a host needs no ``://`` to be reached."""
    door = _door(policy, Plane.SOVEREIGN)
    engines = {
        f"{door}/{name}/v1"
        for name, backend in policy.backends.items()
        if isinstance(backend, LocalBackend) and _lan_url(policy, backend.url)
    }
    if "://" in value or value.startswith("//"):
        if value not in engines:
            raise ProofError(
                path, f"holds the address {quote(value)}, which is no route to an engine on the sovereign LAN"
            )
        return
    groups = {f"{name}.{link}" for name, profile in policy.profiles.items() for link in profile.chain}
    for match in _DOTTED.finditer(value):
        word = match.group(0)
        harmless = word in groups | {AUTH_HOOK, "os.environ"} or re.fullmatch(r"[0-9]+\.[0-9]+(e-[0-9]+)?", word)
        if not harmless:
            raise ProofError(path, f"holds {word}, which could be a host and is no name of this policy")


# --- the closed list --------------------------------------------------------------------------------------------------


def _expected(policy: Policy, plane: Plane, max_answer_tokens: int) -> dict[str, object]:
    """What a document of this plane may hold, key by key. Written without the compiler and without ``Policy.chain``."""
    names = [name for name in sorted(policy.profiles) if policy.plane_of(name) is plane]
    chains = {name: list(_link_urls(policy, name)) for name in names}
    settings = dict(_SETTINGS)
    if plane is Plane.HYBRID:
        settings["callbacks"] = list(_HYBRID_CALLBACKS)
    document: dict[str, object] = {
        "model_list": [
            _expected_deployment(policy, name, position, backend_name, url, max_answer_tokens)
            for name, links in chains.items()
            for position, (url, backend_name) in enumerate(links)
        ],
        "router_settings": {
            **_ROUTER,
            "max_fallbacks": max([1, *(len(links) for links in chains.values())]),
            "fallbacks": [
                {name: [f"{name}.{backend_name}" for _url, backend_name in links[1:]]}
                for name, links in chains.items()
                if len(links) > 1
            ],
        },
        "litellm_settings": settings,
        "general_settings": dict(_GENERAL),
    }
    if plane is Plane.HYBRID:
        document["mushishi"] = {"budgets": _expected_budgets(policy, chains)}
    return document


def _expected_deployment(
    policy: Policy, profile: str, position: int, backend_name: str, url: str, max_answer_tokens: int
) -> dict[str, object]:
    backend = policy.backends[backend_name]
    params: dict[str, object] = {
        "model": f"openai/{backend.model}",
        "api_base": url,
        "timeout": backend.timeout,
        "stream_timeout": backend.stream_timeout,
        "max_retries": 0,
        "input_cost_per_token": 0.0,
        "output_cost_per_token": 0.0,
    }
    info: dict[str, object] = {"id": f"{profile}/{backend_name}", "mode": "chat", "location": backend.location}
    if isinstance(backend, CloudBackend):
        params["api_key"] = f"os.environ/CLOUD_KEY_{re.sub('[^A-Z0-9]', '_', backend.key.upper())}"
        params["max_tokens"] = min(max_answer_tokens, backend.context_length)
        info["provider"] = backend.provider
        info["max_input_tokens"] = backend.context_length
        if backend.price is not None:
            params["input_cost_per_token"] = backend.price.input_usd_per_mtok / 1_000_000
            params["output_cost_per_token"] = backend.price.output_usd_per_mtok / 1_000_000
    elif backend.engine == "vllm":
        params["api_key"] = "none"
        params["extra_body"] = {"cache_salt": profile}
    else:
        params["api_key"] = LLAMA_KEY
    return {
        "model_name": profile if position == 0 else f"{profile}.{backend_name}",
        "litellm_params": params,
        "model_info": info,
    }


def _expected_budgets(policy: Policy, chains: Mapping[str, list[tuple[str, str]]]) -> dict[str, object]:
    backends = [policy.backends[backend_name] for links in chains.values() for _url, backend_name in links]
    used = {backend.provider for backend in backends if isinstance(backend, CloudBackend)}
    return {
        provider: {"usd": float(budget.usd), "period": budget.period}
        for provider, budget in policy.budgets.items()
        if provider in used
    }


def _prove_closed(found: object, expected: object, path: str = "") -> None:
    """Compare key by key, types included (``True`` is not ``1``). The first difference is refused."""
    where = path or "document"
    if isinstance(expected, dict):
        if not isinstance(found, dict):
            raise ProofError(where, f"is {quote(found)}, a mapping belongs here")
        for key in found:
            if key not in expected:
                raise ProofError(f"{path}.{key}" if path else str(key), "is no key that has been shown to be safe")
        for key, value in expected.items():
            here = f"{path}.{key}" if path else key
            if key not in found:
                raise ProofError(here, f"is missing, it must be {quote(value)}")
            _prove_closed(found[key], value, here)
    elif isinstance(expected, list):
        if not isinstance(found, list):
            raise ProofError(where, f"is {quote(found)}, a list belongs here")
        for position, value in enumerate(found):
            if position >= len(expected):
                raise ProofError(f"{path}[{position}]", f"is one entry too many: {quote(value)}")
            _prove_closed(value, expected[position], f"{path}[{position}]")
        if len(found) < len(expected):
            raise ProofError(f"{path}[{len(found)}]", f"is missing, it must be {quote(expected[len(found)])}")
    elif type(found) is not type(expected) or found != expected:
        raise ProofError(where, f"is {quote(found)}, it must be {quote(expected)}")
