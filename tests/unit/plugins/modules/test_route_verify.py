# SPDX-License-Identifier: MIT
"""route_verify against servers of this process: right answers are right, and each kind of wrong one is found."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.mushishi.sovereign.plugins.module_utils import _completions, _routes
from ansible_collections.mushishi.sovereign.plugins.module_utils.policy import compile as compiled
from ansible_collections.mushishi.sovereign.plugins.module_utils.policy.validate import load_policy
from ansible_collections.mushishi.sovereign.plugins.modules import route_verify

PROFILES = {
    "personal": ("T2", ["gpu", "cpu", "kimi", "groq"]),
    "private": ("T1", ["gpu", "cpu", "queue"]),
    "client": ("T1", ["gpu-forensic", "error"]),
    "planning": ("T3", ["kimi", "error"]),
    "coordination": ("T4", ["gpu", "cpu", "kimi"]),
}
LOCAL = {"gpu": "nemotron", "cpu": "nemotron-cpu", "gpu-forensic": "nemotron-forensic"}
CLOUD = {"kimi": "kimi-k2", "groq": "llama-70b"}
ENGINE_KEY = "engine-key-0123456789abcdef"


class World:
    """A machine: which backends are up, and how its two planes behave. One server plays all parts, told by path."""

    def __init__(self) -> None:
        self.up = {"gpu", "cpu"}
        self.keys: dict[str, str] = {}
        self.answered_by: dict[str, str] = {}
        self.broken_lock = False
        self.health_only: set[str] = set()
        self.plain_503 = False
        self.preferred: list[str] = []
        self.forgotten: list[str] = []
        self.asked: list[tuple[str, str]] = []

    def links(self, profile: str) -> list[str]:
        """The backends a request of ``profile`` can reach."""
        tier, chain = PROFILES[profile]
        names = [name for name in chain if name not in ("queue", "error")]
        return [name for name in names if name not in CLOUD] if tier == "T4" else names

    def answer(self, path: str, body: dict[str, Any], key: str) -> tuple[int, dict[str, str], Any]:
        """Status, headers and body for a request to ``/<part>/v1/chat/completions``."""
        part = path.split("/")[1]
        self.asked.append((part, body["model"]))
        if part in ("sovereign", "hybrid"):
            return self.plane(part, body["model"], key)
        wanted = {**LOCAL, **CLOUD}[part]
        if part not in self.up or body["model"] != wanted:
            return 404, {}, {"error": {"message": "no such model", "code": "404"}}
        if part == "cpu" and key != ENGINE_KEY:
            return 401, {}, {"error": {"message": "bad key", "code": "401"}}
        return 200, {}, {"status": "ok"} if part in self.health_only else completion()

    def plane(self, plane: str, model: str, key: str) -> tuple[int, dict[str, str], Any]:
        """What a client of a plane gets."""
        profile = next((name for name, known in self.keys.items() if known == key), None)
        at_home = profile is not None and (PROFILES[profile][0] == "T1") == (plane == "sovereign")
        if self.broken_lock and profile is not None:
            profile, at_home = model, True
        if profile is None or not at_home:
            return 401, {}, {"error": {"message": "unknown key", "code": "invalid_api_key"}}
        backend = self.answered_by.get(profile) or next((x for x in self.links(profile) if x in self.up), None)
        if backend:
            name = {
                "sovereign": ("X-Sovereign-Backend", backend),
                "hybrid": ("x-litellm-model-id", f"{profile}/{backend}"),
            }
            return 200, dict([name[plane]]), completion()
        if plane == "hybrid":
            return 500, {}, {"error": {"message": "all failed", "code": "500"}}
        if PROFILES[profile][1][-1] == "queue":
            headers = {} if self.plain_503 else {"Retry-After": "30", "Location": f"/v1/queue/job-of-{profile}"}
            return 503, headers, {"error": {"message": "nothing local can answer", "code": "queued"}}
        words = "it is off" if self.plain_503 else "it needs mode forensic"
        return 503, {}, {"error": {"message": words, "code": "engine_unavailable"}}


def completion() -> dict[str, Any]:
    """A completion of eight tokens."""
    return {"choices": [{"message": {"content": "one two"}}], "usage": {"completion_tokens": 8}}


@pytest.fixture
def world() -> World:
    """A machine with GPU (agent) and CPU up."""
    return World()


@pytest.fixture
def options(world: World, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Options that point at a server which plays ``world``."""

    class Handler(BaseHTTPRequestHandler):
        def do_DELETE(self) -> None:
            world.forgotten.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_POST(self) -> None:
            world.preferred += [self.headers["Prefer"]] if "Prefer" in self.headers else []
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            key = self.headers.get("Authorization", "").removeprefix("Bearer ")
            status, headers, answer = world.answer(self.path, body, key)
            raw = json.dumps(answer).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(raw))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    base = f"http://127.0.0.1:{server.server_address[1]}"

    for folder in ("profiles", "cloud"):
        (tmp_path / folder).mkdir()
    (tmp_path / "llama.key").write_text(ENGINE_KEY)
    for name in PROFILES:
        world.keys[name] = f"sk-{name}-0123456789abcdef"
        (tmp_path / f"profiles/{name}.key").write_text(world.keys[name])
    for name in CLOUD:
        (tmp_path / f"cloud/{name}.key").write_text("cloud-key-of-a-test")
    backends: dict[str, Any] = {
        name: {
            "location": "local",
            "engine": "llama.cpp" if name == "cpu" else "vllm",
            "model": model,
            "url": f"{base}/{name}/v1",
        }
        for name, model in LOCAL.items()
    }
    for name, model in CLOUD.items():
        backends[name] = {"location": "cloud", "model": model, "url": f"{base}/{name}/v1", "key": name}
    profiles = {
        name: {"tier": tier, "chain": chain, "cloud_budget_usd": 0 if tier == "T4" else None}
        for name, (tier, chain) in PROFILES.items()
    }
    nothing = {
        "private": {"error": "queued", "status": 503, "mode": None},
        "client": {"error": "engine_unavailable", "status": 503, "mode": "forensic"},
    }
    yield {
        "policy": {"backends": backends, "profiles": profiles},
        "matrix": [
            {
                "profile": name,
                "tier": tier,
                "plane": "sovereign" if tier == "T1" else "hybrid",
                "chain": chain,
                "expect": nothing.get(name, {"error": "upstream_failed", "status": 500, "mode": None}),
            }
            for name, (tier, chain) in sorted(PROFILES.items())
        ],
        "endpoints": {"sovereign": f"{base}/sovereign/v1", "hybrid": f"{base}/hybrid/v1"},
        "key_directory": str(tmp_path / "profiles"),
        "engine_keys": {"llama.cpp": str(tmp_path / "llama.key")},
        "cloud_key_directory": str(tmp_path / "cloud"),
        "namespace": "",
        "timeout": 5,
        "probe_timeout": 5,
    }
    server.shutdown()
    server.server_close()
    thread.join()


def rows_of(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Profile to its row."""
    return {row["profile"]: row for row in result["rows"]}


def test_agent_mode(run: Any, options: dict[str, Any], world: World) -> None:
    result = run(route_verify, **options)
    rows = rows_of(result)
    assert not result["failed"] and not result["changed"] and result["problems"] == []
    assert {name: row["answered_by"] for name, row in rows.items()} == {
        "personal": "gpu",
        "private": "gpu",
        "coordination": "gpu",
        "client": None,
        "planning": None,
    }
    assert rows["client"]["status"] == 503 and rows["client"]["ok"] is True
    assert rows["client"]["expected"] == "503 engine_unavailable"
    assert rows["private"]["tokens"] == 8 and rows["private"]["tokens_per_second"] > 0
    # Nothing that costs money was sent.
    assert rows["planning"]["ok"] is None and ("hybrid", "planning") not in world.asked
    assert not any(part in CLOUD for part, _model in world.asked)
    states = {item["backend"]: item["state"] for item in result["backends"]}
    assert states == {
        "gpu": "answers",
        "cpu": "answers",
        "gpu-forensic": "silent",
        "kimi": "assumed",
        "groq": "assumed",
    }


def test_refusals_stand_beside_the_answers(run: Any, options: dict[str, Any]) -> None:
    result = run(route_verify, **options)
    asked = {(item["plane"], item["request"].split(" (")[0]) for item in result["refusals"]}
    assert asked == {
        ("sovereign", "a key that nobody has"),
        ("sovereign", "no key"),
        ("sovereign", "the key of personal"),
        ("sovereign", "the key of planning"),
        ("sovereign", "the key of coordination"),
        ("hybrid", "a key that nobody has"),
        ("hybrid", "no key"),
        ("hybrid", "the key of private"),
        ("hybrid", "the key of client"),
    }
    assert all(item["ok"] and item["status"] == 401 for item in result["refusals"])


def test_the_table(run: Any, options: dict[str, Any]) -> None:
    lines = run(route_verify, **options)["table"].splitlines()
    assert lines[0].split() == ["profile", "tier", "chain", "expected", "who", "answered", "tokens/s", "right"]
    assert len(lines) == 2 + len(PROFILES)
    private = next(line for line in lines if line.startswith("private"))
    assert "gpu → cpu → queue" in private and private.endswith("yes")
    assert "refused (503)" in next(line for line in lines if line.startswith("client"))
    assert "not sent" in next(line for line in lines if line.startswith("planning"))


def test_forensic_mode(run: Any, options: dict[str, Any], world: World) -> None:
    world.up = {"gpu-forensic", "cpu"}
    rows = rows_of(run(route_verify, **options))
    assert [rows[name]["answered_by"] for name in ("client", "private", "personal")] == ["gpu-forensic", "cpu", "cpu"]


def test_nothing_local(run: Any, options: dict[str, Any], world: World) -> None:
    world.up = {"kimi", "groq"}
    rows = rows_of(run(route_verify, **options))
    assert rows["personal"]["ok"] is None and rows["personal"]["expected"] == "kimi or groq"
    assert rows["private"]["ok"] is True and rows["private"]["status"] == 503
    assert world.preferred == ["wait=0"], "only the profile with a queue is asked not to be held"
    assert world.forgotten == ["/v1/queue/job-of-private"], "a question of ours is no job"
    assert rows["coordination"]["ok"] is True and rows["coordination"]["status"] == 500


def test_cloud_is_asked_when_told_to(run: Any, options: dict[str, Any], world: World) -> None:
    world.up = {"groq"}
    rows = rows_of(run(route_verify, include_cloud=True, **{**options, "fail": False}))
    assert rows["personal"]["answered_by"] == "groq" and rows["personal"]["ok"] is True
    assert rows["planning"]["ok"] is False
    result = run(route_verify, include_cloud=True, probe_cloud=True, **options)
    assert not result["failed"]
    assert rows_of(result)["personal"]["expected"] == "groq"
    assert rows_of(result)["planning"]["ok"] is True and rows_of(result)["planning"]["status"] == 500


@pytest.mark.parametrize(
    ("profile", "backend", "seen"),
    [
        ("private", "groq", "answered by groq, which is not in the chain"),
        ("private", "cpu", "answered by cpu"),
        ("client", "gpu", "answered by gpu, which is not in the chain"),
        ("client", "gpu-forensic", "although it does not answer a direct question"),
        ("personal", "kimi", "answered by kimi"),
        ("coordination", "kimi", "answered by kimi, which is not in the chain"),
    ],
)
def test_a_wrong_answer_fails(
    run: Any, options: dict[str, Any], world: World, profile: str, backend: str, seen: str
) -> None:
    world.answered_by[profile] = backend
    result = run(route_verify, **options)
    assert result["failed"] and len(result["problems"]) == 1
    assert f"profile {profile}: expected" in result["msg"] and seen in result["msg"]
    assert rows_of(result)[profile]["ok"] is False and "NO" in result["table"]


def test_an_open_door_fails(run: Any, options: dict[str, Any], world: World) -> None:
    world.broken_lock = True
    result = run(route_verify, **options)
    assert result["failed"]
    assert any("hybrid endpoint with the key of private (T1)" in problem for problem in result["problems"])
    assert any("sovereign endpoint with the key of personal (T2)" in problem for problem in result["problems"])


def test_a_health_page_is_no_completion(run: Any, options: dict[str, Any], world: World) -> None:
    """The engine says 200 but completes nothing: it does not answer, and the gateway must not be said to use it."""
    world.health_only = {"gpu"}
    result = run(route_verify, **options)
    assert {item["backend"]: item["state"] for item in result["backends"]}["gpu"] == "silent"
    assert result["failed"] and rows_of(result)["private"]["expected"] == "cpu"


def test_a_refusal_must_help(run: Any, options: dict[str, Any], world: World) -> None:
    world.up = set()
    world.plain_503 = True
    result = run(route_verify, **options)
    assert "does not name the mode forensic" in result["msg"] and "Retry-After" in result["msg"]


def test_a_backend_that_comes_back_between_two_looks(
    run: Any, options: dict[str, Any], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.up = {"cpu"}
    first = route_verify.look_at_all

    def look_then_start(settings: Any) -> Any:
        looks = first(settings)
        world.up = {"gpu", "cpu"}
        return looks

    monkeypatch.setattr(route_verify, "look_at_all", look_then_start)
    result = run(route_verify, **options)
    assert not result["failed"] and rows_of(result)["private"]["answered_by"] == "gpu"


def test_nobody_listens(run: Any, options: dict[str, Any]) -> None:
    options["endpoints"] = {"sovereign": "http://127.0.0.1:1/v1", "hybrid": "http://127.0.0.1:1/v1"}
    result = run(route_verify, **options)
    assert result["failed"] and "profile private: expected gpu; seen: no answer: connection refused." in result["msg"]
    assert "no answer, connection refused" in result["msg"]


def test_a_missing_key_is_named(run: Any, options: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "profiles/private.key").unlink()
    result = run(route_verify, **options)
    assert result["failed"] and "key of profile private" in result["msg"] and "site.yml" in result["msg"]


def test_no_key_is_ever_returned(run: Any, options: dict[str, Any], world: World) -> None:
    said = json.dumps(
        [run(route_verify, **options), run(route_verify, include_cloud=True, **{**options, "fail": False})]
    )
    assert not any(key in said for key in [*world.keys.values(), ENGINE_KEY, "cloud-key-of-a-test"])


def test_a_namespace_that_is_not_there(run: Any, options: dict[str, Any], tmp_path: Path) -> None:
    options["namespace"] = str(tmp_path / "none")
    result = run(route_verify, **options)
    assert result["failed"] and f"network namespace {tmp_path / 'none'}" in result["msg"]


def test_a_thread_error_reaches_the_caller() -> None:
    def job() -> int:
        raise ValueError("seen")

    with pytest.raises(ValueError, match="seen"):
        _completions.together({"x": job, "y": lambda: 1})


def test_the_deployment_of_another_profile_is_nobody() -> None:
    assert _routes.backend_of("hybrid", "personal", {"x-litellm-model-id": "personal/gpu"}) == "gpu"
    assert (
        _routes.backend_of("hybrid", "personal", {"x-litellm-model-id": "planning/gpu"}) == "deployment 'planning/gpu'"
    )
    assert _routes.backend_of("hybrid", "personal", {"x-litellm-model-id": "gpu"}) == "deployment 'gpu'"
    assert _routes.backend_of("sovereign", "private", {"x-litellm-model-id": "private/gpu"}) == ""


def test_the_target_and_the_compiler_agree(checkout: Path) -> None:
    """For every set of backends that may be up, the target expects what the compiler says."""
    inventory = yaml.safe_load((checkout / "inventory/example/group_vars/all/policy.yml").read_text())
    policy = load_policy(inventory["sovereign_policy"])
    profiles = _routes.read_profiles(compiled.policy_to_dict(policy), compiled.route_matrix(policy, []))
    names = sorted(policy.backends)
    for count in range(len(names) + 1):
        for available in itertools.combinations(names, count):
            for row, profile in zip(compiled.route_matrix(policy, available), profiles, strict=True):
                expectation = _routes.expect(profile, available)
                said = row["expect"]
                if "backend" in said:
                    assert expectation.backends == (said["backend"],), (available, row)
                else:
                    seen = {"error": expectation.error, "status": expectation.status, "mode": expectation.mode}
                    assert expectation.backends == () and seen == said, (available, row)
