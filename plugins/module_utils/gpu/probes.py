# SPDX-License-Identifier: MIT
# Private to this collection: may change in any release.
"""Whether a tenant serves, and whether it works: asked of the tenant itself.

An engine of the policy is asked from inside the plane's network namespace, where its callers stand. Any other tenant is
asked from inside its own: nobody in the plane may open it, and no rule is made for a question.

Ready is a real answer; ``/health`` stays green on an engine that hangs. Busy is work that runs or waits; a model that
is loaded is not work. What does not answer is not known to be idle, so it counts as busy for as long as it is there.
"""

from __future__ import annotations

import functools
import http.client
import json
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ansible_collections.mushishi.sovereign.plugins.module_utils._completions import (
    complete,
    error_of,
    is_completion,
    together,
)
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.tenants import Process, Tenant

#: Seconds for one question. An engine with a free place answers one token in less; who takes longer is asked again.
ASK_SECONDS = 10.0
#: The CPU floor is slower, and has others to serve.
FLOOR_SECONDS = 60.0
#: As a question that got no answer in its time is called, also by a completion.
TIMED_OUT = "timed out"
_MOST = 4 * 1024 * 1024
#: Metrics of vLLM: requests in the engine, and those that wait for it.
_VLLM = re.compile(r"^vllm:num_requests_(running|waiting)(?:\{[^}]*\})? ([0-9.e+-]+)$", re.MULTILINE)
#: … and tokens that it has read and made.
_TOKENS = re.compile(r"^vllm:(?:prompt|generation)_tokens_total(?:\{[^}]*\})? ([0-9.e+-]+)$", re.MULTILINE)
#: A metric of llama-server: requests in its places. It is told between two steps of the work: who hangs tells none.
_LLAMA = re.compile(r"^llamacpp:requests_processing ([0-9.e+-]+)$", re.MULTILINE)


Answer = TypeVar("Answer")


class NoAnswer(Exception):
    """A question that got none; the message says why."""


def fetched(url: str, seconds: float = ASK_SECONDS, key: str | None = None) -> str:
    """The text behind an address, which must answer with 200.

    Raises:
        NoAnswer: it does not.
    """
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=seconds)
    try:
        allowed = {"Authorization": f"Bearer {key}"} if key else {}
        connection.request("GET", parts.path or "/", headers={"Accept": "*/*", "Connection": "close", **allowed})
        response = connection.getresponse()
        text = response.read(_MOST).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        raise NoAnswer(TIMED_OUT if isinstance(error, TimeoutError) else str(error) or type(error).__name__) from None
    finally:
        connection.close()
    if response.status != 200:
        raise NoAnswer(f"status {response.status}")
    return text


def _object(url: str) -> Mapping[str, Any]:
    try:
        found = json.loads(fetched(url))
    except ValueError:
        raise NoAnswer("it answers no JSON") from None
    if not isinstance(found, dict):
        raise NoAnswer("it answers no JSON object")
    return found


# ---- ready
def _completion(probe: Mapping[str, Any], key: str | None = None, seconds: float = ASK_SECONDS) -> str:
    base = str(probe["url"]).rstrip("/")
    reply = complete(f"{base}/v1", probe["model"], "Say yes.", key=key, max_tokens=1, timeout=seconds)
    if is_completion(reply):
        return ""
    code, message = error_of(reply)
    return reply.failure or f"status {reply.status} {code} {message}".strip()


def _answer(probe: Mapping[str, Any]) -> str:
    return "" if probe["key"] in _object(probe["url"]) else f"its answer has no {probe['key']}"


READY: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "completion": _completion,
    "answer": _answer,
}


# ---- busy
def _vllm(probe: Mapping[str, Any]) -> list[str]:
    counts = {"running": 0.0, "waiting": 0.0}
    found = _VLLM.findall(fetched(probe["url"]))
    if not found:
        raise NoAnswer("its metrics count no requests")
    for what, number in found:
        counts[what] += float(number)
    return [f"{count:.0f} requests {what}" for what, count in counts.items() if count > 0]


def _works(probe: Mapping[str, Any], key: str | None) -> bool:
    """Whether a llama-server works for others, all its places taken, while it answers us nothing."""
    try:
        found = _LLAMA.search(fetched(f"{str(probe['url']).rstrip('/')}/metrics", FLOOR_SECONDS, key))
    except NoAnswer:
        return False
    return found is not None and float(found[1]) > 0


def _comfyui(probe: Mapping[str, Any]) -> list[str]:
    queue = _object(probe["url"])
    found = []
    for what, name in (("running", "queue_running"), ("waiting", "queue_pending")):
        entries = queue.get(name)
        if not isinstance(entries, list):
            raise NoAnswer("it answers no queue")
        found += [f"{len(entries)} prompts {what}"] if entries else []
    return found


def _rq(probe: Mapping[str, Any]) -> list[str]:
    """Keys of RQ: a list of jobs that wait, and a sorted set of those that were started."""
    parts = urlsplit(probe["url"])
    asked = [(queue, what) for queue in probe["queues"] for what in ("waiting", "running")]
    words = {"waiting": "LLEN rq:queue:", "running": "ZCARD rq:wip:"}
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 6379), ASK_SECONDS) as connection:
            connection.sendall("".join(f"{words[what]}{queue}\r\n" for queue, what in asked).encode("ascii"))
            with connection.makefile("rb") as stream:
                answers = [stream.readline(256).decode("utf-8", "replace").strip() for _asked in asked]
    except OSError as error:
        raise NoAnswer(TIMED_OUT if isinstance(error, TimeoutError) else str(error)) from None
    found = []
    for (queue, what), answer in zip(asked, answers):
        if not re.fullmatch(r":\d+", answer):
            raise NoAnswer(f"it answers {answer[:80]!r}")
        if answer != ":0":
            found.append(f"{answer[1:]} jobs {what} in {queue}")
    return found


BUSY: Mapping[str, Callable[[Mapping[str, Any]], list[str]]] = {"vllm": _vllm, "comfyui": _comfyui, "rq": _rq}


class Probes:
    """Both questions, asked from inside a network namespace (the empty string stays here).

    ``inside``: the namespace from which a tenant's address is asked; None when nobody is there. ``load``: percent of
    the card's multiprocessors that are in use, for the back-stop; None when that is not known.
    """

    def __init__(
        self,
        namespace: str,
        load: Callable[[], int | None] = lambda: None,
        inside: Callable[[Tenant, str], str | None] | None = None,
    ) -> None:
        self._namespace, self._load = namespace, load
        self._inside = inside or (lambda _tenant, _address: namespace)

    def _from(self, tenant: Tenant, url: str, ask: Callable[[], Answer], otherwise: Callable[[str], Answer]) -> Answer:
        """Ask from where a tenant's address is asked; ``otherwise`` gets the reason where nobody is there.

        Raises:
            SovereignError: the plane's own namespace cannot be entered.
        """
        where: str | None = self._namespace
        if tenant.engine is None:
            where = self._inside(tenant, urlsplit(url).hostname or "")
        if where is None:
            return otherwise("none of its containers has that address")
        try:
            return together({tenant.name: ask}, where)[tenant.name]
        except SovereignError as error:
            # A container that ended between the look and the question takes its namespace with it.
            if where == self._namespace:
                raise
            return otherwise(error.seen)

    def ready(self, tenant: Tenant) -> str:
        """Empty when it has really answered; else why not.

        Raises:
            SovereignError: the namespace cannot be entered.
        """
        ask = READY[tenant.ready["kind"]]

        def asked() -> str:
            try:
                return ask(tenant.ready)
            except NoAnswer as error:
                return str(error)

        return self._from(tenant, str(tenant.ready["url"]), asked, lambda why: why)

    def floor(self, name: str, probe: Mapping[str, Any]) -> str:
        """Empty when a CPU floor has really answered, or is at work for others; else why not.

        Raises:
            SovereignError: the namespace cannot be entered.
        """
        key = None
        if probe.get("key_file"):
            try:
                with open(probe["key_file"], encoding="ascii") as stream:
                    key = stream.readline().strip()
            except (OSError, UnicodeDecodeError) as error:
                return f"its key {probe['key_file']} cannot be read ({error})"

        def asked() -> str:
            why = _completion(probe, key, FLOOR_SECONDS)
            return "" if why == TIMED_OUT and _works(probe, key) else why

        return together({name: asked}, self._namespace)[name]

    def made(self, tenant: Tenant) -> float | None:
        """How many tokens it has read and made; None when it does not say.

        Raises:
            SovereignError: the namespace cannot be entered.
        """

        def asked(url: str) -> float | None:
            try:
                found = _TOKENS.findall(fetched(url))
            except NoAnswer:
                return None
            return sum(map(float, found)) if found else None

        for probe in tenant.busy:
            if probe["kind"] == "vllm":
                url = str(probe["url"])
                return self._from(tenant, url, functools.partial(asked, url), lambda _why: None)
        return None

    def busy(self, tenant: Tenant, processes: Sequence[Process]) -> list[str]:
        """What it works at, one phrase each. ``processes``: who is on the card now.

        Raises:
            SovereignError: the namespace cannot be entered.
        """
        there = any(process.tenant == tenant.name for process in processes)

        def asked(probe: Mapping[str, Any]) -> list[str]:
            try:
                return BUSY[probe["kind"]](probe)
            except NoAnswer as error:
                # One that holds nothing of the card cannot be at work on it.
                return [f"it does not say whether it works ({error})"] if there else []

        found: list[str] = []
        for probe in tenant.busy:
            if probe["kind"] == "load":
                continue
            found += self._from(
                tenant,
                str(probe["url"]),
                functools.partial(asked, probe),
                lambda why: [f"it does not say whether it works ({why})"] if there else [],
            )
        for probe in tenant.busy:
            load = self._load() if probe["kind"] == "load" and there else None
            if load is not None and load >= int(probe["percent"]):
                found.append(f"the card is used to {load} %")
        return found


def known(tenant: Tenant) -> None:
    """Refuse probes that this version does not know.

    Raises:
        SovereignError: it names one.
    """
    kinds = [(tenant.ready["kind"], READY), *((probe["kind"], {**BUSY, "load": None}) for probe in tenant.busy)]
    for kind, table in kinds:
        if kind not in table:
            seen = f"its probe {kind!r} is not known here"
            raise SovereignError(f"tenant {tenant.name}", seen, "Run site.yml again.")
