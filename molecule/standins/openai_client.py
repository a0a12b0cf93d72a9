# SPDX-License-Identifier: MIT
"""Use an endpoint through the OpenAI Python SDK and print what came of it as JSON; see README.md."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

Call = Callable[[Any, argparse.Namespace], dict[str, Any]]


def models(client: Any, _: argparse.Namespace) -> dict[str, Any]:
    """List the models."""
    return {"ids": [model.id for model in client.models.list()]}


def _messages(options: argparse.Namespace) -> list[dict[str, str]]:
    return [{"role": "user", "content": options.prompt}]


def chat(client: Any, options: argparse.Namespace) -> dict[str, Any]:
    """One plain completion, with the response headers."""
    raw = client.chat.completions.with_raw_response.create(
        model=options.model, messages=_messages(options), max_tokens=options.max_tokens
    )
    answer = raw.parse()
    choice = answer.choices[0]
    return {
        "content": choice.message.content,
        "finish_reason": choice.finish_reason,
        "model": answer.model,
        "usage": answer.usage.model_dump() if answer.usage else None,
        "headers": {name.lower(): value for name, value in raw.headers.items()},
    }


def stream(client: Any, options: argparse.Namespace) -> dict[str, Any]:
    """One streamed completion with usage; `ttft_ms` is the time to the first content."""
    began = time.monotonic()
    said: list[str] = []
    first = reason = usage = None
    chunks = 0
    events = client.chat.completions.create(
        model=options.model,
        messages=_messages(options),
        max_tokens=options.max_tokens,
        stream=True,
        stream_options={"include_usage": True},
    )
    for event in events:
        chunks += 1
        usage = event.usage.model_dump() if event.usage else usage
        for choice in event.choices:
            reason = choice.finish_reason or reason
            if choice.delta.content:
                first = first or round((time.monotonic() - began) * 1000, 1)
                said.append(choice.delta.content)
    return {
        "content": "".join(said),
        "chunks": chunks,
        "finish_reason": reason,
        "usage": usage,
        "ttft_ms": first,
    }


CALLS: dict[str, Call] = {"models": models, "chat": chat, "stream": stream}


def attempt(call: Call, client: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Make one call; any failure becomes part of the report, since telling it is the program's job."""
    began = time.monotonic()
    try:
        result = {"ok": True, **call(client, options)}
    except Exception as error:  # noqa: BLE001  # whatever went wrong is what the report is about
        response = getattr(error, "response", None)
        result = {
            "ok": False,
            "error": type(error).__name__,
            "status": getattr(error, "status_code", None),
            "code": getattr(error, "code", None),
            "message": str(error),
            "retry_after": response.headers.get("retry-after")
            if response is not None
            else None,
        }
    return {**result, "ms": round((time.monotonic() - began) * 1000, 1)}


def main(
    argv: Sequence[str] | None = None, make_client: Callable[..., Any] | None = None
) -> int:
    """Make the calls that are named (all without a name). Exit 1 when one fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("calls", nargs="*", metavar="models|chat|stream")
    parser.add_argument("--model", default=os.environ.get("MODEL", ""))
    parser.add_argument("--prompt", default=os.environ.get("PROMPT", "Say hello."))
    parser.add_argument("--max-tokens", type=int, default=16)
    parser.add_argument("--timeout", type=float, default=60.0)
    options = parser.parse_args(argv)
    for name in options.calls:
        if name not in CALLS:
            parser.error(f"unknown call {name!r}; known: {', '.join(CALLS)}")
    if make_client is None:
        from openai import OpenAI

        make_client = OpenAI
    client = make_client(
        base_url=os.environ["OPENAI_BASE_URL"],
        api_key=os.environ["OPENAI_API_KEY"],
        max_retries=0,
        timeout=options.timeout,
    )
    results = {
        name: attempt(CALLS[name], client, options)
        for name in options.calls or list(CALLS)
    }
    ok = all(result["ok"] for result in results.values())
    print(json.dumps({"ok": ok, "results": results}, ensure_ascii=False))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
