#!/usr/bin/python
# SPDX-License-Identifier: MIT
# MIT is compatible with the GNU General Public License v3.0 of ansible-core, which loads this.
"""Ansible module: send a real request for each profile and compare who answered with who must."""

from __future__ import annotations

DOCUMENTATION = r"""
module: route_verify
short_description: Prove that each profile is answered as its chain promises
description:
  - Finds out which backends answer now, by a real completion from each local engine.
  - Works out from that who must answer each profile, or how it must fail.
  - Sends one real completion for each profile with its own key, and compares.
  - Beside each plane's positive answers, a wrong key, no key, and the keys of the other plane must be refused.
  - When an answer is not the expected one, the backends are looked at once more; only when they are as before is the
    answer wrong. A backend may come or go between two looks.
  - Prompts are fixed texts. No content of an answer is returned.
version_added: 0.1.0
author: mushishi.sovereign contributors (!UNKNOWN)
extends_documentation_fragment:
  - mushishi.sovereign.attributes
attributes:
  check_mode:
    support: full
    details: Sends the same requests; they change nothing on the machine.
  diff_mode:
    support: none
    details: Nothing is ever changed.
  idempotent:
    support: full
options:
  policy:
    description:
      - The checked policy, as the filter P(mushishi.sovereign.policy_check#filter) returns it.
    type: dict
    required: true
  matrix:
    description:
      - What the filter P(mushishi.sovereign.route_matrix#filter) returns for an empty list of available backends.
    type: list
    elements: dict
    required: true
  endpoints:
    description:
      - Where clients reach the planes, with C(/v1).
    type: dict
    required: true
    suboptions:
      sovereign:
        description: Admission, through its ingress.
        type: str
        required: true
      hybrid:
        description: The hybrid gateway, through its ingress.
        type: str
        required: true
  key_directory:
    description:
      - Folder of the profiles' key files, C(<profile>.key).
    type: path
    default: /etc/mushishi/secrets/profiles
  engine_keys:
    description:
      - For each engine that wants a key, C(vllm) or C(llama.cpp), the file that holds it.
    type: dict
    default:
      llama.cpp: /etc/mushishi/secrets/llama-sovereign.key
  namespace:
    description:
      - The network namespace from which the local engines are reached.
    type: path
    default: /run/netns/sovereign
  include_cloud:
    description:
      - Whether to send requests that a cloud backend will answer. They cost money.
    type: bool
    default: false
  probe_cloud:
    description:
      - Whether to ask the cloud backends too, one token each, with their keys in O(cloud_key_directory).
      - Otherwise they are assumed to answer, and any later cloud link of the chain may answer instead.
    type: bool
    default: false
  cloud_key_directory:
    description:
      - Folder of the cloud keys, C(<key>.key).
    type: path
    default: /etc/mushishi/secrets/cloud
  prompt:
    description:
      - What to ask.
    type: str
    default: Count from one to ten in words.
  max_tokens:
    description:
      - The most tokens of an answer.
    type: int
    default: 32
  timeout:
    description:
      - Seconds to wait for a profile's answer.
    type: int
    default: 300
  probe_timeout:
    description:
      - Seconds to wait for a backend's answer when looking which ones answer.
    type: int
    default: 60
  fail:
    description:
      - Whether to fail when something is wrong. When false it is only returned.
    type: bool
    default: true
"""

EXAMPLES = r"""
- name: Every profile is answered as its chain promises
  mushishi.sovereign.route_verify:
    policy: "{{ sovereign_policy | mushishi.sovereign.policy_check }}"
    matrix: "{{ sovereign_policy | mushishi.sovereign.route_matrix([]) }}"
    endpoints:
      sovereign: http://100.64.0.2:4001/v1
      hybrid: http://100.64.0.2:4000/v1
  register: routes

- name: Show it
  ansible.builtin.debug:
    msg: "{{ routes.table.splitlines() }}"
"""

RETURN = r"""
rows:
  description: One entry per profile. Its C(ok) is null when nothing was sent.
  returned: always
  type: list
  elements: dict
  sample:
    - profile: private
      tier: T1
      plane: sovereign
      chain: [gpu, cpu, queue]
      expected: gpu
      answered_by: gpu
      status: 200
      tokens: 32
      seconds: 0.41
      tokens_per_second: 78.0
      ok: true
      detail: ""
refusals:
  description: One entry per request that must be refused, with C(plane), C(request), C(status), C(ok) and C(detail).
  returned: always
  type: list
  elements: dict
backends:
  description: One entry per backend, with C(backend), C(location), C(state) (answers, silent or assumed) and C(detail).
  returned: always
  type: list
  elements: dict
table:
  description: The rows as plain text.
  returned: always
  type: str
problems:
  description: What is wrong, one message each.
  returned: always
  type: list
  elements: str
  sample: []
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mushishi.sovereign.plugins.module_utils import _completions, _files, _routes
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils._tokens import clean_token

ANSWERS = "answers"
SILENT = "silent"
ASSUMED = "assumed"


@dataclass(frozen=True)
class Settings:
    """The options, checked, with the keys read."""

    backends: Mapping[str, Mapping[str, Any]]
    profiles: Sequence[_routes.Profile]
    endpoints: Mapping[str, str]
    profile_keys: Mapping[str, str]
    backend_keys: Mapping[str, str | None]
    namespace: str
    include_cloud: bool
    probe_cloud: bool
    prompt: str
    max_tokens: int
    timeout: int
    probe_timeout: int


@dataclass(frozen=True)
class Look:
    """What a look at one backend showed. ``state`` is answers, silent or assumed."""

    state: str
    detail: str


def read_key(path: str, thing: str) -> str:
    """The key in a file.

    Raises:
        SovereignError: there is none.
    """
    found = _files.look(path, thing)
    key = "" if found is None else clean_token(found.content, thing)
    if not key:
        raise SovereignError(thing, "it does not exist or is empty", "Run site.yml, which makes it.")
    return key


def settings_from(params: Mapping[str, Any]) -> Settings:
    """Checks the options and reads the keys.

    Raises:
        SovereignError: a key is missing.
    """
    profiles = _routes.read_profiles(params["policy"], params["matrix"])
    used = {link for profile in profiles for link in profile.links}
    backends = {name: backend for name, backend in params["policy"]["backends"].items() if name in used}
    backend_keys: dict[str, str | None] = {}
    for name, backend in backends.items():
        backend_keys[name] = None
        if backend["location"] == "local":
            path = params["engine_keys"].get(backend["engine"])
            if path:
                backend_keys[name] = read_key(path, f"engine key {path}")
        elif params["probe_cloud"]:
            path = f"{params['cloud_key_directory']}/{backend['key']}.key"
            backend_keys[name] = read_key(path, f"cloud key {path}")
    keys = {
        profile.name: read_key(
            f"{params['key_directory']}/{profile.name}.key",
            f"key of profile {profile.name} ({params['key_directory']}/{profile.name}.key)",
        )
        for profile in profiles
    }
    return Settings(
        backends=backends,
        profiles=profiles,
        endpoints=params["endpoints"],
        profile_keys=keys,
        backend_keys=backend_keys,
        namespace=params["namespace"],
        include_cloud=params["include_cloud"],
        probe_cloud=params["probe_cloud"],
        prompt=params["prompt"],
        max_tokens=params["max_tokens"],
        timeout=params["timeout"],
        probe_timeout=params["probe_timeout"],
    )


def look_at(settings: Settings, name: str) -> Look:
    """Asks one backend for one token."""
    backend = settings.backends[name]
    reply = _completions.complete(
        backend["url"],
        backend["model"],
        "Say yes.",
        key=settings.backend_keys[name],
        max_tokens=1,
        timeout=settings.probe_timeout,
    )
    if _completions.is_completion(reply):
        return Look(ANSWERS, "")
    code, message = _completions.error_of(reply)
    return Look(SILENT, reply.failure or f"{reply.status} {code} {message}".strip())


def look_at_all(settings: Settings) -> dict[str, Look]:
    """Which backends answer now. Local ones are asked from inside the sovereign namespace, at the same time."""
    local = [name for name, backend in settings.backends.items() if backend["location"] == "local"]
    cloud = [name for name in settings.backends if name not in local]

    def job(name: str) -> Any:
        return lambda: look_at(settings, name)

    looks: dict[str, Look] = _completions.together({name: job(name) for name in local}, settings.namespace)
    if settings.probe_cloud:
        looks.update(_completions.together({name: job(name) for name in cloud}))
    else:
        looks.update({name: Look(ASSUMED, "not asked") for name in cloud})
    return looks


def expectations(settings: Settings, looks: Mapping[str, Look]) -> dict[str, _routes.Expectation]:
    """Profile to who must answer it."""
    available = {name for name, look in looks.items() if look.state == ANSWERS}
    assumed = {name for name, look in looks.items() if look.state == ASSUMED}
    return {profile.name: _routes.expect(profile, available, assumed) for profile in settings.profiles}


def ask(settings: Settings, profile: _routes.Profile) -> _routes.Answer:
    """Sends one real completion as a client of ``profile`` would."""
    reply = _completions.complete(
        settings.endpoints[profile.plane],
        profile.name,
        settings.prompt,
        key=settings.profile_keys[profile.name],
        max_tokens=settings.max_tokens,
        timeout=settings.timeout,
        # What would wait in the private queue is told at once, and taken out again: a question of ours is no job.
        prefer="wait=0" if profile.chain[-1] == "queue" else "",
    )
    job = reply.headers.get("location", "")
    if job.startswith("/v1/queue/"):
        endpoint, key = settings.endpoints[profile.plane], settings.profile_keys[profile.name]
        _completions.forget(endpoint, job, key=key, timeout=settings.timeout)
    code, message = _completions.error_of(reply)
    failure = reply.failure
    if reply.status == 200 and not _completions.is_completion(reply):
        failure = "status 200 without a completion"
    return _routes.Answer(
        status=reply.status,
        answered_by=_routes.backend_of(profile.plane, profile.name, reply.headers),
        error=code,
        message=message,
        retry_after=reply.headers.get("retry-after", ""),
        tokens=_completions.tokens_of(reply),
        seconds=reply.seconds,
        failure=failure,
    )


def costs_money(settings: Settings, expectation: _routes.Expectation) -> bool:
    """Whether a cloud backend may answer."""
    return any(settings.backends[name]["location"] == "cloud" for name in expectation.backends)


def verify_profile(
    settings: Settings, profile: _routes.Profile, expectation: _routes.Expectation
) -> tuple[dict[str, Any], bool]:
    """Asks for one profile and judges. Returns its row and whether it is right (or was not sent)."""
    if costs_money(settings, expectation) and not settings.include_cloud:
        reason = "a cloud backend would answer, which costs money; set include_cloud to send it"
        return _routes.row_of(profile, expectation, None, reason), True
    answer = ask(settings, profile)
    problem = _routes.judge(profile, expectation, answer)
    return _routes.row_of(profile, expectation, answer, problem), not problem


def verify_profiles(settings: Settings, looks: dict[str, Look]) -> list[dict[str, Any]]:
    """One row per profile. ``looks`` is brought up to date when a second look was needed."""
    rows = []
    expected = expectations(settings, looks)
    for profile in settings.profiles:
        row, right = verify_profile(settings, profile, expected[profile.name])
        if not right:
            looks.update(look_at_all(settings))
            again = expectations(settings, looks)
            if again[profile.name] != expected[profile.name]:
                row, right = verify_profile(settings, profile, again[profile.name])
            expected = again
        rows.append(row)
    return rows


def verify_refusals(settings: Settings) -> list[dict[str, Any]]:
    """Requests that each plane must refuse: a wrong key, no key, and every key of the other plane."""
    rows = []
    for plane in (_routes.SOVEREIGN, _routes.HYBRID):
        own = [profile.name for profile in settings.profiles if profile.plane == plane]
        if not own:
            continue
        attempts: list[tuple[str, str | None]] = [
            ("a key that nobody has", f"sk-{own[0]}-{secrets.token_urlsafe(32)}"),
            ("no key", None),
        ]
        attempts += [
            (f"the key of {profile.name} ({profile.tier})", settings.profile_keys[profile.name])
            for profile in settings.profiles
            if profile.plane != plane
        ]
        for name, key in attempts:
            reply = _completions.complete(
                settings.endpoints[plane],
                own[0],
                settings.prompt,
                key=key,
                max_tokens=1,
                timeout=settings.timeout,
            )
            refused = reply.status in _routes.REFUSED
            rows.append(
                {
                    "plane": plane,
                    "request": name,
                    "status": reply.status or None,
                    "ok": refused,
                    "detail": "" if refused else (reply.failure or "the request was not refused for its key"),
                }
            )
    return rows


def problems_of(rows: Sequence[Mapping[str, Any]], refusals: Sequence[Mapping[str, Any]]) -> list[str]:
    """One message for each row that is not right."""
    problems = [
        f"profile {row['profile']}: expected {row['expected']}; seen: {row['detail']}."
        for row in rows
        if row["ok"] is False
    ]
    return problems + [
        f"{row['plane']} endpoint with {row['request']}: expected 401 or 403; seen: "
        f"{row['status'] or 'no answer'}, {row['detail']}."
        for row in refusals
        if not row["ok"]
    ]


def verify(settings: Settings) -> dict[str, Any]:
    """The module's result."""
    looks = look_at_all(settings)
    rows = verify_profiles(settings, looks)
    refusals = verify_refusals(settings)
    return {
        "changed": False,
        "rows": rows,
        "refusals": refusals,
        "backends": [
            {
                "backend": name,
                "location": settings.backends[name]["location"],
                "state": looks[name].state,
                "detail": looks[name].detail,
            }
            for name in sorted(looks)
        ],
        "table": _routes.render_table(rows),
        "problems": problems_of(rows, refusals),
    }


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "policy": {"type": "dict", "required": True},
            "matrix": {"type": "list", "elements": "dict", "required": True},
            "endpoints": {
                "type": "dict",
                "required": True,
                "options": {
                    "sovereign": {"type": "str", "required": True},
                    "hybrid": {"type": "str", "required": True},
                },
            },
            "key_directory": {"type": "path", "default": "/etc/mushishi/secrets/profiles", "no_log": False},
            "engine_keys": {
                "type": "dict",
                "default": {"llama.cpp": "/etc/mushishi/secrets/llama-sovereign.key"},
                "no_log": False,
            },
            "namespace": {"type": "path", "default": "/run/netns/sovereign"},
            "include_cloud": {"type": "bool", "default": False},
            "probe_cloud": {"type": "bool", "default": False},
            "cloud_key_directory": {"type": "path", "default": "/etc/mushishi/secrets/cloud", "no_log": False},
            "prompt": {"type": "str", "default": "Count from one to ten in words."},
            "max_tokens": {"type": "int", "default": 32, "no_log": False},
            "timeout": {"type": "int", "default": 300},
            "probe_timeout": {"type": "int", "default": 60},
            "fail": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    try:
        settings = settings_from(module.params)
        # A service may quote a key in its error: what is returned is searched for every key.
        module.no_log_values.update(
            key for key in (*settings.profile_keys.values(), *settings.backend_keys.values()) if key
        )
        result = verify(settings)
    except SovereignError as error:
        module.fail_json(msg=str(error), rows=[], refusals=[], backends=[], table="", problems=[str(error)])
    if result["problems"] and module.params["fail"]:
        result.pop("changed")
        module.fail_json(msg=" ".join(result["problems"]), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
