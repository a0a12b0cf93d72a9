# SPDX-License-Identifier: MIT
# Private to this collection: may change in any release.
"""Sleep as vLLM 0.33 has it: its development routes, asked in the plane's network namespace (see warm.py).

They exist only while the engine runs with ``VLLM_SERVER_DEV_MODE=1``; docs/decisions/026 says what that opens.
"""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.mushishi.sovereign.plugins.module_utils._completions import together
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.tenants import Tenant
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.warm import (
    SLEEP_SECONDS,
    WAKE_SECONDS,
    Doubt,
)

#: Seconds for a question that costs the engine nothing.
ASK_SECONDS = 10.0
#: Long enough that a scale or a state that was lost in sleep shows.
_QUESTION = "Count from one to twenty in words, and name the animal that comes after each number. " * 4
_TOKENS = 48
_MOST = 4 * 1024 * 1024
_RESTART = re.compile(r'^\s*restart:\s*"?([a-z-]+)"?\s*$', re.MULTILINE)
_FREE = re.compile(r"^MemAvailable:\s+(\d+) kB$", re.MULTILINE)


def _asked(url: str, seconds: float, body: Mapping[str, Any] | None = None, method: str = "POST") -> Any:
    """The JSON behind an address (None when it has no body), which must answer with 200.

    Raises:
        Doubt: it does not.
    """
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=seconds)
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    try:
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {"Content-Type": "application/json", "Connection": "close"})
        response = connection.getresponse()
        got = response.read(_MOST)
    except (OSError, http.client.HTTPException) as error:
        said = "timed out" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
        raise Doubt(f"{parts.path} gets no answer ({said})") from None
    finally:
        connection.close()
    if response.status == 404:
        raise Doubt(f"it has no {parts.path}: it does not run with VLLM_SERVER_DEV_MODE=1")
    if response.status != 200:
        raise Doubt(f"{parts.path} answers with status {response.status}")
    try:
        return json.loads(got) if got else None
    except ValueError:
        raise Doubt(f"{parts.path} answers no JSON") from None


class VllmSleeper:
    """The :class:`.warm.Sleeper` of vLLM. ``run``: a program to its end, as status, output, errors."""

    def __init__(
        self,
        namespace: str,
        run: Callable[[Sequence[str]], tuple[int, str, str]],
        meminfo: str = "/proc/meminfo",
    ) -> None:
        self._namespace, self._run, self._meminfo = namespace, run, meminfo

    def _ask(self, tenant: Tenant, path: str, seconds: float = ASK_SECONDS, **more: Any) -> Any:
        url = str(tenant.ready["url"]).rstrip("/") + path
        return together({tenant.name: lambda: _asked(url, seconds, **more)}, self._namespace)[tenant.name]

    def sleep(self, tenant: Tenant, level: int) -> None:
        """``wait``: what runs ends by itself; ``abort``, which is vLLM's default, would drop it."""
        self._ask(tenant, f"/sleep?level={level}&mode=wait", SLEEP_SECONDS)

    def wake(self, tenant: Tenant, level: int) -> None:
        """Level 2 threw its weights away: room for them first, then they are read, then room for the cache."""
        if level == 1:
            self._ask(tenant, "/wake_up", WAKE_SECONDS)
            return
        self._ask(tenant, "/wake_up?tags=weights", WAKE_SECONDS)
        self._ask(tenant, "/collective_rpc", WAKE_SECONDS, body={"method": "reload_weights"})
        self._ask(tenant, "/wake_up?tags=kv_cache", WAKE_SECONDS)
        self._ask(tenant, "/reset_prefix_cache")

    def asleep(self, tenant: Tenant) -> bool:
        """What it says of itself."""
        found = self._ask(tenant, "/is_sleeping", method="GET")
        if not isinstance(found, dict) or not isinstance(found.get("is_sleeping"), bool):
            raise Doubt("/is_sleeping does not say whether it sleeps")
        return bool(found["is_sleeping"])

    def says(self, tenant: Tenant) -> str:
        """Its words to the one question: greedy, with a fixed seed, as the model writes them."""
        body = {"model": tenant.ready["model"], "prompt": _QUESTION, "max_tokens": _TOKENS, "temperature": 0, "seed": 7}
        found = self._ask(tenant, "/v1/completions", WAKE_SECONDS, body=body)
        try:
            text = found["choices"][0]["text"]
        except (KeyError, IndexError, TypeError):
            raise Doubt("/v1/completions answers no completion") from None
        if not text:
            raise Doubt("it answers with nothing, which compares with nothing")
        return str(text)

    def restarts(self, tenant: Tenant, on: bool) -> None:
        """``off``: never; ``on``: as its project says."""
        policy = "no"
        if on:
            try:
                with open(tenant.project, encoding="utf-8") as stream:
                    found = _RESTART.search(stream.read())
            except OSError as error:
                raise Doubt(f"its project {tenant.project} cannot be read ({error.strerror})") from None
            policy = found.group(1) if found else "no"
        status, out, err = self._run(["docker", "update", f"--restart={policy}", *tenant.containers])
        if status != 0:
            raise Doubt(f"docker update ended with {status}: {' '.join((err or out).split())[-300:]}")

    def host_free(self) -> int:
        """What the kernel says could be had."""
        try:
            with open(self._meminfo, encoding="ascii") as stream:
                found = _FREE.search(stream.read())
        except OSError as error:
            raise Doubt(f"{self._meminfo} cannot be read ({error.strerror})") from None
        if found is None:
            raise Doubt(f"{self._meminfo} names no free memory")
        return int(found.group(1)) // 1024
