# SPDX-License-Identifier: MIT
"""The stand-in for a vLLM container: its routes, its error shapes, its metrics names, and faults that can be switched.

The shapes follow vLLM 0.33 (`vllm serve`). Takes vLLM's own command line; options that mean nothing here are ignored.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import ctl, http1
from .card import TOTAL_MIB, Hold
from .chat import send_answer
from .control import Arguments, ControlServer, record_verbs
from .net import Connection, TcpListener, join_address, log, run_until_signal
from .openai_wire import Answer, Fault, limit_of, prompt_of, prompt_tokens, wants_usage
from .records import Recorder

VERSION = "0.33.0"
DEFAULT_CONTROL = "127.0.0.1:9098"
HANG_STEP = 0.2
GUARDED = ("/v1", "/v2", "/inference", "/cohere")
"""Prefixes that vLLM's API key guards; everything else is open."""

FAULTS: dict[str, float | None] = {
    "ok": None,
    "hang": None,
    "hang-all": None,
    "sleep": None,
    "500": None,
    "404": None,
    "drop": None,
    "cut": 3.0,
    "short": 3.0,
    "unhealthy": None,
    "slow-first-token": 60.0,
    "slow-prompt": 60.0,
    "slow-serial": 60.0,
    "refuse": None,
}
"""What an engine can be told, with the default number of those that take one (seconds; pieces: ``cut``, ``short``)."""

SLOW_WORD = "SLOW-PROMPT"
"""A prompt that holds this is the one that takes long under ``slow-prompt`` and ``slow-serial``."""
STUCK = ("hang", "hang-all", "sleep")
"""Faults with which a completion is taken and never answered."""

EXTRA: dict[str, object] = {"service_tier": None, "system_fingerprint": None}
"""Members of vLLM's answers beyond the common ones."""

BUCKETS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0)
"""Upper bounds of the latency histograms, seconds."""


@dataclass(frozen=True)
class Options:
    """What the engine is told; times in seconds."""

    names: tuple[str, ...]
    host: str = "0.0.0.0"
    port: int = 8000
    keys: tuple[str, ...] = ()
    max_model_len: int = 32768
    first: float = 0.02
    each: float = 0.002
    control: str = DEFAULT_CONTROL
    state: Path | None = None
    fault: str = "ok"
    vram_mib: int = 0
    loading: float = 0.0
    dies_after: float | None = None
    #: Whether it has vLLM's development routes, with which it can sleep.
    sleeps: bool = False


ASLEEP_SHARE = 0.07
"""Of its memory that a sleeping engine keeps: public logs say 1.5 to 4.3 GiB of 22 and more."""

SCRIPT = "stand-in.json"
"""In the model's folder: how an engine behaves from its start on, by served name. See :func:`scripted`."""


def scripted(model: str, names: Sequence[str]) -> dict[str, Any]:
    """What a file beside the model says of this engine's start: ``fault``, ``loading`` (seconds before it listens),
    ``dies_after`` (seconds; 0: at once), ``vram_mib``. Raises ValueError for anything else.
    """
    try:
        text = (Path(model) / SCRIPT).read_text(encoding="utf-8")
    except OSError:
        return {}
    whole = json.loads(text)
    found: dict[str, Any] = next((whole[name] for name in names if name in whole), {})
    if unknown := sorted(set(found) - {"fault", "loading", "dies_after", "vram_mib"}):
        raise ValueError(f"{SCRIPT}: unknown {', '.join(unknown)}")
    return dict(found)


def parse_options(argv: Sequence[str], environment: Mapping[str, str]) -> Options:
    """Read vLLM's command line and the environment. Raises ValueError for a value that cannot be used."""
    words = list(argv[1:] if argv[:1] == ["serve"] else argv)
    model = words[0] if words and not words[0].startswith("-") else ""
    given: dict[str, list[str]] = {}
    current: list[str] = []
    for word in words:
        if word.startswith("-") and not word[1:].isdigit():
            name, equals, text = word.lstrip("-").partition("=")
            current = given[name.replace("_", "-")] = [text] if equals else []
        else:
            current.append(word)

    def value(option: str, variable: str, default: str) -> str:
        return (
            given[option][0]
            if given.get(option)
            else environment.get(variable) or default
        )

    model = model or value("model", "", "")
    names = (
        given.get("served-model-name")
        or environment.get("STANDIN_SERVED_MODEL_NAME", "").split()
        or [model]
    )
    key = environment.get("VLLM_API_KEY")
    script = scripted(model, names)
    share = float(value("gpu-memory-utilization", "STANDIN_GPU_SHARE", "0"))
    if not 0 <= share <= 1:
        raise ValueError(f"gpu-memory-utilization: {share} is not 0 to 1")
    dies = script.get("dies_after")
    return Options(
        names=tuple(name for name in names if name) or ("stand-in",),
        host=value("host", "STANDIN_HOST", "0.0.0.0"),
        port=_number("port", value("port", "STANDIN_PORT", "8000")),
        keys=tuple(given.get("api-key") or ([key] if key else [])),
        max_model_len=_length(value("max-model-len", "STANDIN_MAX_MODEL_LEN", "32768")),
        first=_number("STANDIN_TTFT_MS", environment.get("STANDIN_TTFT_MS", "20"))
        / 1000,
        each=_number("STANDIN_TOKEN_MS", environment.get("STANDIN_TOKEN_MS", "2"))
        / 1000,
        control=environment.get("STANDIN_CONTROL") or DEFAULT_CONTROL,
        state=Path(environment["STANDIN_STATE"])
        if environment.get("STANDIN_STATE")
        else None,
        fault=str(script.get("fault") or environment.get("STANDIN_FAULT") or "ok"),
        vram_mib=int(script.get("vram_mib", environment.get("STANDIN_VRAM_MIB") or share * TOTAL_MIB)),
        loading=float(script.get("loading", 0.0)),
        dies_after=None if dies is None else float(dies),
        sleeps="enable-sleep-mode" in given and environment.get("VLLM_SERVER_DEV_MODE") == "1",
    )


def _number(name: str, text: str) -> int:
    if not text.isdigit():
        raise ValueError(f"{name}: {text!r} is not a whole number")
    return int(text)


def _length(text: str) -> int:
    """vLLM's forms of a context length: ``32768``, ``32k`` (1000s), ``32K`` (1024s); ``-1``, ``auto``: the default."""
    if text in ("-1", "auto"):
        return 32768
    factor = {"k": 1000, "K": 1024}.get(text[-1:], 1)
    return _number("max-model-len", text if factor == 1 else text[:-1]) * factor


def error_body(
    status: int, kind: str, message: str, param: str | None = None
) -> dict[str, Any]:
    """vLLM's error shape."""
    return {"error": {"message": message, "type": kind, "param": param, "code": status}}


class Metrics:
    """The numbers behind /metrics."""

    def __init__(self, model: str) -> None:
        self._labels = f'engine="0",model_name="{model}"'
        self._lock = threading.Lock()
        self.running = 0
        self.asleep = False
        self._in_cache = 0
        self._prefills: list[tuple[float, float]] = []
        self.counts: Counter[str] = Counter()
        self._times: dict[str, list[float]] = {
            "time_to_first_token_seconds": [],
            "inter_token_latency_seconds": [],
            "e2e_request_latency_seconds": [],
        }

    def begin(self, seen: bool = True) -> None:
        """A completion starts. Of one that the engine's core never sees, only the arrival is counted."""
        with self._lock:
            self.running += 1
            self._in_cache += seen

    def prefill(self, seconds: float) -> None:
        """A prompt is read from now on for so many seconds, in steps of a tenth, and each step fills the cache."""
        with self._lock:
            self._prefills.append((time.monotonic(), seconds))

    def cache(self) -> float:
        """The share of the cache that is in use, moved by every step of the core and by nothing else."""
        now = time.monotonic()
        read = sum(int(10 * min(now - began, seconds)) for began, seconds in self._prefills)
        return min(1.0, 0.01 * self._in_cache + 0.0001 * read)

    def end(
        self,
        answer: Answer | None,
        reason: str,
        seconds: float,
        first: float,
        each: float,
        seen: bool = True,
    ) -> None:
        """A completion ends; without an answer it was aborted."""
        with self._lock:
            self.running -= 1
            self._in_cache -= seen
            if not self._in_cache:
                self._prefills.clear()
            self.counts[f"request_success_total/{reason}"] += 1
            if answer is None:
                return
            self.counts["prompt_tokens_total"] += answer.prompt_tokens
            self.counts["generation_tokens_total"] += len(answer.pieces)
            self.counts["prefix_cache_queries_total"] += answer.prompt_tokens
            self._times["time_to_first_token_seconds"].append(first)
            self._times["inter_token_latency_seconds"].append(each)
            self._times["e2e_request_latency_seconds"].append(seconds)

    def text(self, max_model_len: int) -> str:
        """Prometheus text format."""
        lines: list[str] = []

        def metric(name: str, kind: str, *values: tuple[str, float]) -> None:
            lines.append(f"# TYPE vllm:{name} {kind}")
            for labels, number in values:
                lines.append(f"vllm:{name}{{{self._labels}{labels}}} {float(number)}")

        with self._lock:
            # What comes to a sleeping engine is counted nowhere.
            metric("num_requests_running", "gauge", ("", 0 if self.asleep else self.running))
            metric("num_requests_waiting", "gauge", ("", 0))
            waiting = [
                (f',reason="{reason}"', 0.0) for reason in ("capacity", "deferred")
            ]
            metric("num_requests_waiting_by_reason", "gauge", *waiting)
            metric("kv_cache_usage_perc", "gauge", ("", self.cache()))
            states = ("awake", not self.asleep), ("weights_offloaded", self.asleep), ("discard_all", False)
            metric(
                "engine_sleep_state",
                "gauge",
                *((f',sleep_state="{state}"', float(on)) for state, on in states),
            )
            for name in ("prefix_cache_queries_total", "prefix_cache_hits_total"):
                metric(name, "counter", ("", self.counts[name]))
            for name in ("prompt_tokens_total", "generation_tokens_total"):
                metric(name, "counter", ("", self.counts[name]))
            reasons = ("stop", "length", "abort", "error")
            done = [
                (f',finished_reason="{r}"', self.counts[f"request_success_total/{r}"])
                for r in reasons
            ]
            metric("request_success_total", "counter", *done)
            metric("admission_rejections_total", "counter", ("", 0))
            blocks = max_model_len // 16
            cache = f',block_size="16",num_gpu_blocks="{blocks}",kv_cache_max_concurrency="1.0"'
            metric("cache_config_info", "gauge", (cache, 1))
            for name, times in self._times.items():
                lines.append(f"# TYPE vllm:{name} histogram")
                for bound in BUCKETS:
                    count = sum(1 for t in times if t <= bound)
                    lines.append(
                        f'vllm:{name}_bucket{{{self._labels},le="{bound}"}} {float(count)}'
                    )
                lines.append(
                    f'vllm:{name}_bucket{{{self._labels},le="+Inf"}} {float(len(times))}'
                )
                lines.append(f"vllm:{name}_count{{{self._labels}}} {float(len(times))}")
                lines.append(f"vllm:{name}_sum{{{self._labels}}} {sum(times)}")
        return "\n".join(lines) + "\n"


class Engine:
    """The listener, its fault and its answers."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.recorder = Recorder(
            options.state / "records.jsonl" if options.state else None
        )
        self.fault = Fault()
        self.first, self.each = options.first, options.each
        self.metrics = Metrics(options.names[0])
        #: It says that it sleeps, and frees nothing.
        self.lies = False
        # Held from the first moment, as weights that load.
        self.hold = Hold(options.vram_mib)
        self._serial = threading.Lock()
        self.listener = TcpListener(
            options.host, options.port, self.recorder, "engine", self._handle
        )
        self._created = int(time.time())
        self._routes: dict[
            tuple[str, str], Callable[[Connection, http1.Request], bool]
        ] = {
            ("GET", "/health"): self._health,
            ("GET", "/ping"): self._health,
            ("POST", "/ping"): self._health,
            ("GET", "/version"): lambda c, _: c.send(
                http1.json_response(200, {"version": VERSION})
            ),
            ("GET", "/load"): lambda c, _: c.send(
                http1.json_response(200, {"server_load": 0})
            ),
            ("GET", "/metrics"): self._metrics,
            ("GET", "/v1/models"): self._models,
            ("POST", "/tokenize"): self._tokenize,
            ("POST", "/detokenize"): self._detokenize,
            ("POST", "/v1/chat/completions"): lambda c, r: self._complete(
                c, r, chat=True
            ),
            ("POST", "/v1/completions"): lambda c, r: self._complete(c, r, chat=False),
        }

        if options.sleeps:
            self._routes |= {
                ("POST", "/sleep"): lambda c, _: self._sleep(c),
                ("POST", "/wake_up"): lambda c, _: self._wake(c),
                ("GET", "/is_sleeping"): lambda c, _: c.send(
                    http1.json_response(200, {"is_sleeping": self.fault.kind == "sleep"})
                ),
                ("POST", "/collective_rpc"): lambda c, _: c.send(http1.json_response(200, {"results": [None]})),
                ("POST", "/reset_prefix_cache"): lambda c, _: c.send(http1.response(200, b"")),
            }

    def _sleep(self, connection: Connection) -> bool:
        """As vLLM does: what waits gets no answer, health stays green, most of the memory is given back."""
        self.set_fault("sleep")
        if not self.lies:
            self.hold.take(int(self.options.vram_mib * ASLEEP_SHARE))
        return connection.send(http1.json_response(200, {"status": "sleeping"}))

    def _wake(self, connection: Connection) -> bool:
        self.hold.take(self.options.vram_mib)
        self.set_fault("ok")
        return connection.send(http1.json_response(200, {"status": "awake"}))

    def open(self) -> None:
        """Start as the options say. Raises OSError, ValueError."""
        self.set_fault(self.options.fault)

    def set_fault(self, text: str) -> dict[str, Any]:
        """Switch the fault. Raises ValueError."""
        self.fault = Fault.parse(text, FAULTS)
        self.metrics.asleep = self.fault.kind == "sleep"
        if self.fault.kind == "refuse":
            self.listener.shut()
        else:
            self.listener.open()
        return {"fault": str(self.fault)}

    def set_speed(self, first_ms: float, token_ms: float) -> dict[str, Any]:
        """Milliseconds to the first token and for each further one, from the next request on. Raises ValueError."""
        if not (0 <= first_ms <= 86_400_000 and 0 <= token_ms <= 86_400_000):
            raise ValueError(f"speed: {first_ms} and {token_ms} are not both 0 to 86400000 ms")
        self.first, self.each = first_ms / 1000, token_ms / 1000
        return self.speed()

    def speed(self) -> dict[str, Any]:
        """The speed as it is, in milliseconds."""
        return {"first_ms": self.first * 1000, "token_ms": self.each * 1000}

    def verbs(self) -> dict[str, Callable[[Arguments], dict[str, Any]]]:
        """What the control channel offers."""

        def speed(arguments: Arguments) -> dict[str, Any]:
            if "first_ms" not in arguments:
                return self.speed()
            return self.set_speed(float(arguments["first_ms"]), float(arguments["token_ms"]))

        def fault(arguments: Arguments) -> dict[str, Any]:
            return (
                self.set_fault(str(arguments["fault"]))
                if "fault" in arguments
                else {"fault": str(self.fault)}
            )

        def describe(_: Arguments) -> dict[str, Any]:
            return {
                "listen": join_address(self.listener.host, self.listener.port),
                "names": list(self.options.names),
            }

        def vram(arguments: Arguments) -> dict[str, Any]:
            if "mib" in arguments:
                self.hold.take(int(arguments["mib"]))
            return {"mib": self.hold.mib}

        def lies(arguments: Arguments) -> dict[str, Any]:
            self.lies = bool(int(arguments.get("lies", "1")))
            return {"lies": self.lies}

        def die(_: Arguments) -> dict[str, Any]:
            self.die_after(0.2)
            return {"dies": True}

        return {
            **record_verbs(self.recorder),
            "fault": fault,
            "speed": speed,
            "describe": describe,
            "vram": vram,
            "die": die,
            "lies": lies,
        }

    def die_after(self, seconds: float) -> None:
        """End as a crash does: at once, with a word in the log, without a goodbye to anybody."""

        def end() -> None:
            log("EngineCore died: the stand-in was told to")
            os._exit(1)

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()

    def _handle(self, connection: Connection) -> None:
        reader = http1.RequestReader(connection.recv, connection.send)
        while True:
            try:
                request = reader.next()
            except http1.NotHttp:
                connection.send(
                    http1.response(
                        400,
                        b"Invalid HTTP request received.",
                        "text/plain; charset=utf-8",
                    )
                )
                return
            if request is None:
                return
            http1.record_request(connection, request, "engine")
            if (
                not self._answer(connection, request)
                or request.header("connection").lower() == "close"
            ):
                return

    def _answer(self, connection: Connection, request: http1.Request) -> bool:
        path = request.path
        if self.fault.kind == "hang-all":
            return self._hang(connection)
        if path.startswith(GUARDED) and self.options.keys:
            scheme, _, key = request.header("authorization").partition(" ")
            if scheme.lower() != "bearer" or key not in self.options.keys:
                return connection.send(
                    http1.json_response(401, {"error": "Unauthorized"})
                )
        route = self._routes.get((request.method, path))
        if route is not None:
            return route(connection, request)
        known = any(path == other for _, other in self._routes)
        status, words = (405, "Method Not Allowed") if known else (404, "Not Found")
        return connection.send(http1.json_response(status, {"detail": words}))

    def _hang(self, connection: Connection) -> bool:
        """Take the request and say nothing, until the fault is lifted: then a reset."""
        fault = self.fault
        while self.fault is fault and not connection.client_gone(HANG_STEP):
            pass
        connection.reset()
        return False

    def _health(self, connection: Connection, _: http1.Request) -> bool:
        return connection.send(
            http1.response(503 if self.fault.kind == "unhealthy" else 200, b"")
        )

    def _metrics(self, connection: Connection, _: http1.Request) -> bool:
        text = self.metrics.text(self.options.max_model_len)
        return connection.send(
            http1.response(
                200, text.encode(), "text/plain; version=1.0.0; charset=utf-8"
            )
        )

    def _models(self, connection: Connection, _: http1.Request) -> bool:
        permission: list[object] = []
        cards = [
            {
                "id": name,
                "object": "model",
                "created": self._created,
                "owned_by": "vllm",
                "root": self.options.names[0],
                "parent": None,
                "max_model_len": self.options.max_model_len,
                "permission": permission,
            }
            for name in self.options.names
        ]
        return connection.send(
            http1.json_response(200, {"object": "list", "data": cards})
        )

    def _fail(
        self,
        connection: Connection,
        status: int,
        kind: str,
        message: str,
        param: str | None = None,
    ) -> bool:
        return connection.send(
            http1.json_response(status, error_body(status, kind, message, param))
        )

    def _body(
        self, connection: Connection, request: http1.Request
    ) -> dict[str, Any] | None:
        """The JSON body of a request for a served model; None when an error was sent."""
        try:
            body = request.json()
        except ValueError as error:
            self._fail(
                connection, 400, "BadRequestError", f"JSON decode error: {error}"
            )
            return None
        model = body.get("model")
        if model and model not in self.options.names:
            self._fail(
                connection,
                404,
                "NotFoundError",
                f"The model `{model}` does not exist.",
                "model",
            )
            return None
        return body

    def _tokenize(self, connection: Connection, request: http1.Request) -> bool:
        body = self._body(connection, request)
        if body is None:
            return True
        try:
            count = prompt_tokens(body)
        except ValueError as error:
            return self._fail(
                connection,
                400,
                "BadRequestError",
                f"Field required: {error}",
                str(error),
            )
        said = {
            "count": count,
            "max_model_len": self.options.max_model_len,
            "tokens": list(range(count)),
        }
        return connection.send(http1.json_response(200, {**said, "token_strs": None}))

    def _detokenize(self, connection: Connection, request: http1.Request) -> bool:
        body = self._body(connection, request)
        if body is None:
            return True
        tokens = body.get("tokens")
        words = (
            [f"token{token}" for token in tokens] if isinstance(tokens, list) else []
        )
        return connection.send(http1.json_response(200, {"prompt": " ".join(words)}))

    def _seconds_to_first_token(self, fault: Fault, body: dict[str, Any]) -> float:
        slow = fault.kind == "slow-first-token" or (
            fault.kind in ("slow-prompt", "slow-serial") and SLOW_WORD in json.dumps(body)
        )
        return fault.value if slow else self.first

    def _complete(
        self, connection: Connection, request: http1.Request, chat: bool
    ) -> bool:
        body = self._body(connection, request)
        if body is None:
            return True
        fault = self.fault
        started = time.monotonic()
        answer: Answer | None = None
        reason = "abort"
        turn = contextlib.ExitStack()
        first = self._seconds_to_first_token(fault, body)
        seen = fault.kind not in STUCK
        self.metrics.begin(seen)
        try:
            if not seen:
                return self._hang(connection)
            if fault.kind == "drop":
                return False
            if fault.kind == "404":
                reason = "error"
                message = f"The model `{body.get('model')}` does not exist."
                return self._fail(connection, 404, "NotFoundError", message, "model")
            if fault.kind in ("500", "unhealthy"):
                reason = "error"
                message = "EngineCore encountered an issue. See stack trace (above) for the root cause."
                return self._fail(connection, 500, "InternalServerError", message)
            try:
                prompt_of(body)
            except ValueError:
                field = "messages" if chat else "prompt"
                return self._fail(
                    connection,
                    400,
                    "BadRequestError",
                    f"Field required: {field}",
                    field,
                )
            have, limit = prompt_tokens(body), self.options.max_model_len
            if have + 1 > limit:
                message = (
                    f"This model's maximum context length is {limit} tokens. However, your request has {have} input"
                    " tokens. Please reduce the length of the input messages."
                )
                return self._fail(
                    connection, 400, "BadRequestError", message, "input_tokens"
                )
            room = {
                **body,
                "max_tokens": min(limit_of(body), limit - have),
                "max_completion_tokens": None,
            }
            name = self.options.names[0]
            made = Answer.to(room, name, name, chat, EXTRA)
            if fault.kind == "slow-serial":
                # One after the other: who comes meanwhile waits, and nothing but the steps of the first one shows work.
                while not self._serial.acquire(timeout=HANG_STEP):
                    if connection.client_gone(0.001):
                        return False
                turn.callback(self._serial.release)
            self.metrics.prefill(first)
            whole = send_answer(
                connection,
                made,
                bool(body.get("stream")),
                wants_usage(body),
                first=first,
                each=self.each,
                cut_after=int(fault.value) if fault.kind == "cut" else None,
                short_after=int(fault.value) if fault.kind == "short" else None,
            )
            if whole:
                answer, reason = made, made.finish_reason
            return whole
        finally:
            self.metrics.end(
                answer, reason, time.monotonic() - started, first, self.each, seen
            )
            turn.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Serve, or with ``ctl`` as first word ask and steer the engine that runs here."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["ctl"]:
        rest = words[1:]
        if rest and rest[0].partition("=")[0] in FAULTS:
            rest = ["fault", *rest]
        return ctl.main(rest, os.environ.get("STANDIN_CONTROL") or DEFAULT_CONTROL)
    try:
        engine = Engine(parse_options(words, os.environ))
        control = ControlServer(engine.options.control, engine.verbs())
        if engine.options.dies_after is not None:
            engine.die_after(engine.options.dies_after)
        # Weights load; until then nobody listens.
        time.sleep(engine.options.loading)
        engine.open()
    except (OSError, ValueError) as error:
        log(f"cannot start: {error}")
        return 1
    print(
        "ready "
        + json.dumps({**engine.verbs()["describe"]({}), "control": control.address}),
        flush=True,
    )
    run_until_signal()
    engine.listener.shut()
    control.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
