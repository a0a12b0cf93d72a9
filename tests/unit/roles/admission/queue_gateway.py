# SPDX-License-Identifier: MIT
"""A stand-in for the sovereign gateway as a process, which a test can kill: ``queue_gateway.py PORT FOLDER``.

FOLDER holds what it is told (``told.json``: status, seconds, slots, text) and what it says of its work (``served``: one
line of JSON for each whole answer). An answer repeats the prompt, so that every answer can be held against its request.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import uvicorn

DEFAULT = {"status": 200, "seconds": 0.01, "slots": 4, "text": ""}


class Gateway:
    """The ASGI application."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._slots: dict[int, asyncio.Semaphore] = {}
        self._served = os.open(folder / "served", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def told(self) -> dict[str, Any]:
        """What the test wants now."""
        try:
            return {**DEFAULT, **json.loads((self._folder / "told.json").read_text())}
        except OSError:
            return dict(DEFAULT)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        request, told = json.loads(body), self.told()
        if told["status"] != 200:
            error = {
                "error": {"message": told["text"] or "Connection error", "type": "x", "param": None, "code": "500"}
            }
            await self._say(send, told["status"], b"application/json", json.dumps(error).encode())
            return
        prompt = request["messages"][-1]["content"]
        async with self._slots.setdefault(told["slots"], asyncio.Semaphore(told["slots"])):
            await asyncio.sleep(told["seconds"])
        text = f"answer to {prompt if isinstance(prompt, str) else '(parts)'}"
        head: dict[str, Any] = {"id": "c1", "created": 1, "model": "internal"}
        if request.get("stream"):
            pieces = [{"role": "assistant", "content": text[:4]}, {"content": text[4:]}]
            choices = [{"index": 0, "delta": piece, "finish_reason": None} for piece in pieces]
            choices.append({"index": 0, "delta": {}, "finish_reason": "stop"})
            events = [{**head, "object": "chat.completion.chunk", "choices": [choice]} for choice in choices]
            raw = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + b"data: [DONE]\n\n"
            kind = b"text/event-stream"
        else:
            message = {"role": "assistant", "content": text}
            choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
            usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
            raw = json.dumps({**head, "object": "chat.completion", "choices": choices, "usage": usage}).encode()
            kind = b"application/json"
        line = {
            "prompt": str(prompt)[:200],
            "stream": bool(request.get("stream")),
            "one": request.get("max_tokens") == 1,
        }
        os.write(self._served, json.dumps(line).encode() + b"\n")
        await self._say(send, 200, kind, raw)

    @staticmethod
    async def _say(send: Any, status: int, kind: bytes, raw: bytes) -> None:
        headers = [(b"content-type", kind), (b"x-litellm-model-id", b"private/cpu")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": raw, "more_body": False})


if __name__ == "__main__":
    uvicorn.run(
        Gateway(Path(sys.argv[2])), host="127.0.0.1", port=int(sys.argv[1]), log_config=None, lifespan="off",
        access_log=False,
    )  # fmt: skip
