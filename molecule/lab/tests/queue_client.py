# SPDX-License-Identifier: MIT
"""Many requests to the private queue through the OpenAI Python SDK; prints what came of each as JSON.

Reads an order from stdin: ``url``, ``key``, ``prompts``; every third request is streamed and held, every third plain
and held, every third leaves at once and is fetched later. Says ``asked`` on a line of its own when all were sent.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import urllib.request
from typing import Any

from openai import APIStatusError, OpenAI

ORDER = json.load(sys.stdin)
PATIENCE = float(ORDER.get("patience", 600))
CLIENT = OpenAI(base_url=ORDER["url"], api_key=ORDER["key"], timeout=PATIENCE)  # retries as the SDK has them
FOUND: dict[str, dict[str, Any]] = {}


def ask(prompt: str, kind: int) -> None:
    """One request; what came of it."""
    messages: Any = [{"role": "user", "content": prompt}]
    said: dict[str, Any] = {"kind": ("streamed", "held", "left")[kind]}
    try:
        if kind == 0:
            events = CLIENT.chat.completions.create(
                model="private", messages=messages, max_tokens=8, stream=True,
                extra_headers={"Prefer": f"wait={PATIENCE:.0f}"},
            )  # fmt: skip
            pieces = [choice for event in events for choice in event.choices]
            said["content"] = "".join(choice.delta.content or "" for choice in pieces)
            said["finish"] = next(choice.finish_reason for choice in reversed(pieces) if choice.finish_reason)
        else:
            wait = PATIENCE if kind == 1 else 0
            raw = CLIENT.chat.completions.with_raw_response.create(
                model="private", messages=messages, max_tokens=8, extra_headers={"Prefer": f"wait={wait:.0f}"}
            )
            said["queued"] = raw.headers.get("x-sovereign-queued")
            answer = raw.parse()
            said["content"] = answer.choices[0].message.content
    except APIStatusError as error:
        said["status"], said["code"] = error.status_code, error.code
        said["job"] = error.response.headers.get("location")
    except Exception as error:  # noqa: BLE001 - what came of it is the report
        said["error"] = repr(error)
    FOUND[prompt] = said


def fetch(said: dict[str, Any]) -> None:
    """The answer of one that has left."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        asked = urllib.request.Request(  # noqa: S310 - the address of the order
            ORDER["url"].removesuffix("/v1") + said["job"], headers={"Authorization": f"Bearer {ORDER['key']}"}
        )
        with urllib.request.urlopen(asked, timeout=60) as reply:  # noqa: S310 - as above
            document = json.load(reply)
        if document["status"] not in ("queued", "running"):
            said["later"] = document["status"]
            said["content"] = document["response"]["choices"][0]["message"]["content"]
            return
        time.sleep(0.5)


THREADS = []
for at, one in enumerate(ORDER["prompts"]):
    thread = threading.Thread(target=ask, args=(one, at % 3))
    thread.start()
    THREADS.append(thread)
    if at % 3 == 2:
        thread.join()
    else:
        time.sleep(float(ORDER.get("pause", 0.05)))
sys.stdout.write("asked\n")
sys.stdout.flush()
for thread in THREADS:
    thread.join()
for found in FOUND.values():
    if found.get("job"):
        fetch(found)
sys.stdout.write(json.dumps(FOUND) + "\n")
