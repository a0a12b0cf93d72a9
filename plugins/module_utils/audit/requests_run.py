# SPDX-License-Identifier: MIT
"""Send the vectors to an address and say of each who refused it, or who answered.

Usable as a program: ``python3 -m audit.requests_run < order.json`` prints what came of it, see `main`.
"""

from __future__ import annotations

import json
import re
import secrets
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from .http1_client import Reply, exchange
from .model import Row
from .vectors import LOCAL, REFUSE, VECTORS, Fill, Vector, render

#: Codes of admission about a request that its guard let pass.
PASSED_CODES = frozenset(
    {
        "no_local_engine",
        "queued",
        "queue_full",
        "queue_failed",
        "engine_unavailable",
        "context_length_exceeded",
        "engine_rejected_request",
        "gateway_misconfigured",
        "stream_interrupted",
        "internal_error",
    }
)
#: Those that say: nothing local can answer, and the request stays here.
STAYED_CODES = PASSED_CODES - {"gateway_misconfigured", "stream_interrupted", "internal_error"}
INGRESS_CODES = frozenset({"route_not_found", "request_too_large", "plane_unreachable"})

#: Backends that are on the machine, by the default policy.
LOCAL_BACKENDS = ("gpu", "cpu", "gpu-forensic", "gpu-coder", "cpu-coder")

#: Seconds that a server may wait for the rest of a broken request before we end it.
PATIENCE = 1.5
_JOB = re.compile(r"/v1/queue/[A-Za-z0-9_-]+")
_ADMISSION_ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Result:
    """What came of one vector. ``layer``: `layer_of`; ``code``: of the error; ``outcome``, ``detail``: `judge`."""

    name: str
    profile: str
    marker: str
    expect: str
    status: int
    layer: str
    code: str
    backend: str
    ms: float
    outcome: str
    detail: str


def _error(reply: Reply) -> dict[str, Any]:
    """The error object of an OpenAI- or Anthropic-shaped answer; empty when there is none."""
    try:
        error = json.loads(reply.body)["error"]
    except (ValueError, KeyError, TypeError):
        return {}
    return error if isinstance(error, dict) else {}


def code_of(reply: Reply) -> str:
    """The error's code, or its type where a protocol has no codes."""
    error = _error(reply)
    return str(error.get("code") or error.get("type") or "")


def layer_of(reply: Reply) -> str:
    """Who spoke: ``admission``, ``ingress``, ``http`` (a server before it looked at the request), ``gateway``,

    ``closed`` or ``silent`` (nobody), ``nobody`` (there was no connection).
    """
    if reply.status == 0:
        return reply.error if reply.error in ("closed", "silent") else "http" if reply.body else "nobody"
    if _ADMISSION_ID.fullmatch(reply.headers.get("x-request-id", "")):
        return "admission"
    if code_of(reply) in INGRESS_CODES:
        return "ingress"
    return "gateway" if _error(reply) or reply.status < 400 else "http"


def backend_of(reply: Reply) -> str:
    """Who answered, by the header of either gateway; empty when nobody says so."""
    own = reply.headers.get("x-sovereign-backend", "")
    return own or reply.headers.get("x-litellm-model-id", "").partition("/")[2]


def _only_models(reply: Reply, profile: str) -> bool:
    try:
        return [entry["id"] for entry in json.loads(reply.body)["data"]] == [profile]
    except (ValueError, KeyError, TypeError):
        return False


def judge(vector: Vector, reply: Reply, profile: str, backends: Iterable[str]) -> tuple[str, str]:
    """(Outcome of `Row`, what it rests on) for a vector that was sent to admission, through the ingress or directly.

    ``leaked`` here: the guard let through what it must refuse, or something that is not local answered.
    """
    layer, code = layer_of(reply), code_of(reply)
    said = f"{reply.status or reply.error} {code}".strip()
    if code == "plane_unreachable" and vector.raw:
        return "refused", "ingress: the request broke on its way to admission"
    if layer == "nobody" or code in ("plane_unreachable", "too_many_requests"):
        return "not tested", f"no answer to the request itself: {said}"
    if reply.status == 0:
        # Without an answer the request went no further: admission answers all that it understands.
        refused = bool(vector.raw) or vector.expect == REFUSE
        return ("refused", f"{layer}: {said}") if refused else ("not tested", f"no answer: {layer}")
    if 400 <= reply.status < 500 and not (layer == "admission" and code in PASSED_CODES):
        return "refused", f"{layer}: {said}"
    if layer == "http" and reply.status in (501, 505):
        return "refused", f"{layer}: {said}"
    if reply.status < 300 and layer == "gateway" and not reply.body and not backend_of(reply):
        return "refused", f"{layer}: an empty answer to no request: {said}"
    if vector.expect == REFUSE:
        return "leaked", f"not refused: {layer} {said} {backend_of(reply)}".strip()
    if reply.status < 300:
        backend = backend_of(reply)
        if backend in backends or (not backend and _only_models(reply, profile)):
            return "holds", f"answered here by {backend or 'admission'}"
        if reply.status == 202 and layer == "admission":
            return "holds", "kept in the queue"
        return "leaked", f"answered by {backend or 'nobody knows whom'}"
    if layer == "admission" and code in STAYED_CODES:
        return "holds", f"nothing local answers, and the request stays: {said}"
    return "not tested", f"neither refused nor answered: {layer} {said}"


def forget(host: str, port: int, fill: Fill, reply: Reply, timeout: float) -> None:
    """Take out of the private queue what an attack has left there: nobody waits for its answer."""
    job = reply.headers.get("location", "")
    if _JOB.fullmatch(job):
        head = (f"Host: {fill.host}", f"Authorization: Bearer {fill.key}", "Connection: close")
        exchange(host, port, "\r\n".join((f"DELETE {job} HTTP/1.1", *head, "", "")).encode(), timeout)


def send(
    host: str, port: int, vector: Vector, fill: Fill, timeout: float, backends: Sequence[str] = LOCAL_BACKENDS
) -> Result:
    """One vector."""
    reply = exchange(host, port, render(vector, fill), timeout, PATIENCE if vector.raw else None)
    forget(host, port, fill, reply, timeout)
    outcome, detail = judge(vector, reply, fill.profile, backends)
    return Result(
        vector.name, fill.profile, fill.marker, vector.expect, reply.status, layer_of(reply), code_of(reply)[:80],
        backend_of(reply), reply.ms, outcome, detail[:200],
    )  # fmt: skip


def token() -> str:
    """What all markers of a run begin with; it may stand in a name of the DNS."""
    return "mk" + secrets.token_hex(8)


def marker_of(begin: str, number: int) -> str:
    """The marker of vector ``number`` in a run."""
    return f"{begin}x{number:04d}"


def run(
    host: str,
    port: int,
    profile: str,
    key: str,
    *,
    vectors: Sequence[Vector] = VECTORS,
    begin: str = "",
    parallel: int = 8,
    timeout: float = 30.0,
    backends: Sequence[str] = LOCAL_BACKENDS,
    **sinks: str,
) -> list[Result]:
    """All vectors with one key, ``parallel`` at a time, results in their order. ``sinks``: fields of `Fill`."""
    begin = begin or token()
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    numbers = {vector.name: number for number, vector in enumerate(VECTORS)}

    def one(vector: Vector) -> Result:
        fill = Fill(marker_of(begin, numbers[vector.name]), profile, key, where, **sinks)
        return send(host, port, vector, fill, timeout, backends)

    with ThreadPoolExecutor(max_workers=parallel) as pool:
        return list(pool.map(one, vectors))


def row_of(result: Result, where: str) -> Row:
    """A result as a row of the audit."""
    source = f"profile {result.profile} → {where}"
    return Row("request", "", source, result.name, result.outcome, result.ms, result.detail)


def run_requests(
    address: tuple[str, int],
    keys: Mapping[str, str],
    *,
    vectors: Sequence[Vector] = VECTORS,
    parallel: int = 8,
    timeout: float = 30.0,
    backends: Sequence[str] = LOCAL_BACKENDS,
) -> list[Row]:
    """Every vector with every key (profile → key) against admission, directly or through the ingress."""
    host, port = address
    where = f"{host}:{port}"
    rows: list[Row] = []
    for profile, key in keys.items():
        for result in run(
            host, port, profile, key, vectors=vectors, parallel=parallel, timeout=timeout, backends=backends
        ):
            rows.append(row_of(result, where))
    return rows


def chosen(families: Sequence[str] = (), names: Sequence[str] = (), without: Sequence[str] = ()) -> list[Vector]:
    """Vectors of these families (all when empty) or of these names, without some names."""
    picked = [
        vector
        for vector in VECTORS
        if (not families and not names) or vector.family in families or vector.name in names
    ]
    return [vector for vector in picked if vector.name not in without]


def clean(host: str, port: int, profile: str, key: str, count: int, begin: str, timeout: float = 60.0) -> list[Result]:
    """``count`` ordinary requests, one after the other."""
    plain = next(vector for vector in VECTORS if vector.expect == LOCAL)
    where = f"{host}:{port}"
    fills = [Fill(marker_of(begin, number), profile, key, where) for number in range(count)]
    return [send(host, port, plain, fill, timeout) for fill in fills]


def main() -> int:
    """Read an order (JSON) from stdin, print the results (JSON).

    ``host``, ``port``, ``profile``, ``key``; optional: ``begin``, ``parallel``, ``timeout``, ``sinks``, ``families``,
    ``names``, ``without`` (see `chosen`), ``clean`` (a number: so many ordinary requests instead).
    """
    order: dict[str, Any] = json.load(sys.stdin)
    began = time.monotonic()
    who = (order["host"], int(order["port"]), order["profile"], order["key"])
    if "clean" in order:
        results = clean(*who, int(order["clean"]), order.get("begin") or token())
    else:
        results = run(
            *who,
            vectors=chosen(order.get("families", ()), order.get("names", ()), order.get("without", ())),
            begin=order.get("begin", ""),
            parallel=int(order.get("parallel", 8)),
            timeout=float(order.get("timeout", 30.0)),
            **order.get("sinks", {}),
        )
    done = {"seconds": round(time.monotonic() - began, 1), "results": [asdict(result) for result in results]}
    sys.stdout.write(json.dumps(done) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
