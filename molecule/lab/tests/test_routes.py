# SPDX-License-Identifier: MIT
"""Every route of admission, from the tailnet client to an engine: the GPU's stand-in and the real llama.cpp."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import ASK, Answer, Lab, marker

SDK = """
import json, os, sys
from openai import OpenAI
asked = json.loads(sys.argv[1])
client, model, prompt = OpenAI(max_retries=0, timeout=120), asked["model"], asked["prompt"]
plain = client.responses.create(model=model, input=prompt, instructions="Answer.", max_output_tokens=16)
kinds, text = [], ""
turns = [{"role": "user", "content": prompt}]
for event in client.responses.create(model=model, input=turns, max_output_tokens=16, stream=True):
    kinds.append(event.type)
    text += event.delta if event.type == "response.output_text.delta" else ""
turns += [*plain.output, {"role": "user", "content": "And more?"}]
again = client.responses.create(model=model, input=turns, max_output_tokens=16)
chat = client.chat.completions.create(model=model, messages=[{"role": "user", "content": prompt}], max_tokens=16)
legacy = client.completions.create(model=model, prompt=prompt, max_tokens=16)
print(json.dumps({
    "plain": plain.output_text, "status": plain.status, "used": plain.usage.output_tokens, "model": plain.model,
    "kinds": kinds, "streamed": text, "last": event.response.output_text, "again": again.output_text,
    "chat": chat.choices[0].message.content, "legacy": legacy.choices[0].text,
}))
"""

IMAGE = "https://203.0.113.9/x.png"
TURN = [{"role": "user", "content": "hello"}]


@pytest.fixture(params=["gpu", "cpu"])
def backend(request: pytest.FixtureRequest, lab: Lab) -> Iterator[str]:
    """With the GPU's stand-in, and without it: then the real llama.cpp answers."""
    lab.everything_up()
    if request.param == "cpu":
        lab.engine("agent", "stop")
        lab.until(lambda: lab.ask("private").backend == "cpu", "the CPU floor answers")
    yield str(request.param)
    if request.param == "cpu":
        lab.engine("agent", "start")
        lab.until(lambda: lab.ask("private").backend == "gpu", "the GPU answers again", 120)


def post(lab: Lab, route: str, body: dict[str, Any], *, plane: str = "sovereign", **headers: str) -> Answer:
    question = {
        "url": f"{lab.url(plane)}/{route}",
        "body": body,
        "headers": {"Content-Type": "application/json", **{name.replace("_", "-"): headers[name] for name in headers}},
        "timeout": 120,
    }
    return Answer(*json.loads(lab.client.run("python3", "-c", ASK, stdin=json.dumps(question))))


def test_the_openai_sdk_on_every_route_of_its_own(lab: Lab, backend: str) -> None:
    word = marker("private")
    out = lab.client.run(
        *("env", f"OPENAI_BASE_URL={lab.url('sovereign')}", f"OPENAI_API_KEY={lab.key('private')}"),
        *("python3", "-c", SDK, json.dumps({"model": "private", "prompt": f"Say hello. {word}"})),
    )
    said = json.loads(out)
    for kind in ("plain", "streamed", "again", "chat", "legacy"):
        assert said[kind], (backend, kind, out)
    assert said["model"] == "private" and said["used"] > 0
    assert said["status"] in ("completed", "incomplete")
    assert said["last"] == said["streamed"]
    assert said["kinds"][:2] == ["response.created", "response.in_progress"]
    assert said["kinds"][-1] in ("response.completed", "response.incomplete")
    assert lab.seen_outside(word) == 0
    assert lab.unreadable_outside() == 0


def test_messages_plain_and_streamed(lab: Lab, backend: str) -> None:
    word = marker("private")
    body = {"model": "private", "max_tokens": 16, "messages": [{"role": "user", "content": f"Say hello. {word}"}]}
    for headers in ({"x_api_key": lab.key("private")}, {"authorization": f"Bearer {lab.key('private')}"}):
        answer = post(lab, "messages", body, anthropic_version="2023-06-01", **headers)
        assert (answer.status, answer.backend) == (200, backend), answer
        message = json.loads(answer.text)
        assert message["content"][0]["text"] and message["stop_reason"] in ("end_turn", "max_tokens")
    streamed = post(lab, "messages", {**body, "stream": True}, x_api_key=lab.key("private"))
    kinds = [line.removeprefix("event: ") for line in streamed.text.splitlines() if line.startswith("event: ")]
    assert (streamed.status, kinds[0], kinds[-2:]) == (200, "message_start", ["message_delta", "message_stop"])
    assert "content_block_delta" in kinds
    assert lab.seen_outside(word) == 0


def test_keys_of_messages(lab: Lab) -> None:
    body = {"max_tokens": 8, "messages": TURN}
    good, other = lab.key("private"), lab.key("client")
    assert post(lab, "messages", body, x_api_key=good).status == 200, "control"
    for headers in (
        {},
        {"x_api_key": "sk-made-up"},
        {"x_api_key": lab.key("personal")},
        {"x_api_key": good, "authorization": f"Bearer {other}"},
        {"x_api_key": good, "authorization": f"Bearer {good}"},
    ):
        answer = post(lab, "messages", body, **headers)
        assert (answer.status, answer.error["type"]) == (401, "authentication_error"), answer
    # The header is Anthropic's alone: it opens no other route.
    assert post(lab, "responses", {"input": "x"}, x_api_key=good).status == 401


#: What would be fetched, kept, or answered by somebody else; each in a route's own words.
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "image": (
        "responses",
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": IMAGE}]}]},
        "input[0].content[0].image_url",
    ),
    "mcp": ("responses", {"input": "x", "tools": [{"type": "mcp", "server_url": IMAGE}]}, "tools[0].type"),
    "stored": ("responses", {"input": "x", "previous_response_id": "resp_1"}, "previous_response_id"),
    "base": ("completions", {"prompt": "x", "api_base": IMAGE}, "api_base"),
    "source": (
        "messages",
        {
            "max_tokens": 8,
            "messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": IMAGE}}]}],
        },
        "messages[0].content[0].source.url",
    ),
    "search": (
        "messages",
        {"max_tokens": 8, "messages": TURN, "tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        "tools[0].type",
    ),
    "file": (
        "chat/completions",
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}
            ]
        },
        "messages[0].content[0].image_url.url",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_name_the_field(lab: Lab, case: str) -> None:
    route, body, field = REFUSED[case]
    answer = post(lab, route, body, authorization=f"Bearer {lab.key('private')}")
    assert (answer.status, answer.error["param"]) == (400, field), answer
    assert lab.seen_outside("203.0.113.9") == 0


def test_embeddings_say_that_there_is_no_engine_for_them(lab: Lab) -> None:
    answer = post(lab, "embeddings", {"input": "x"}, authorization=f"Bearer {lab.key('private')}")
    assert (answer.status, answer.error["code"]) == (404, "no_embedding_engine")


def test_cut_streams_say_so_on_every_route(lab: Lab) -> None:
    """The stand-in engine breaks off in mid-stream; nobody is told that the answer is whole."""
    lab.everything_up()

    def fault(word: str) -> None:
        container = lab.engine_container("agent")
        lab.hub.run("docker", "exec", container, "python3", "-m", "standins.engine", "ctl", word)

    key = {"authorization": f"Bearer {lab.key('private')}"}
    fault("cut=3")
    try:
        ends = {
            "completions": post(lab, "completions", {"prompt": "x", "stream": True}, **key),
            "responses": post(lab, "responses", {"input": "x", "stream": True}, **key),
            "messages": post(lab, "messages", {"max_tokens": 32, "messages": TURN, "stream": True}, **key),
        }
    finally:
        fault("ok")
    for route, answer in ends.items():
        assert answer.status == 200 and "stream_interrupted" in answer.text, (route, answer)
        for end in ("[DONE]", "response.completed", "message_stop"):
            assert end not in answer.text, route


def test_the_hybrid_door_has_none_of_it(lab: Lab) -> None:
    for route in ("responses", "messages", "completions", "embeddings"):
        answer = post(lab, route, {"input": "x"}, plane="hybrid", authorization=f"Bearer {lab.key('personal')}")
        assert (answer.status, answer.error["code"]) == (404, "route_not_found"), (route, answer)
