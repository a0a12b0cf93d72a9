# SPDX-License-Identifier: MIT
"""The prober as a process, with HAProxy itself and raw engines: what it reads, when it steers, what a caller waits."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from door_bench import CHECKOUT, Door, Engine, hang, plain, render, role_values, running_door
from hypothesis import given, settings
from hypothesis import strategies as st
from prober import door as door_module
from prober import engine as engine_module
from prober import watch as watch_module
from prober.config import Config, read_config
from prober.config import Engine as Asked
from prober.door import Control, Traffic, parse_servers, parse_streams
from prober.engine import cpu_seconds, read_answer, request, steps, unit_group, whole
from prober.judge import Outcome, Settings

PROGRAM = CHECKOUT / "roles/gateway/files/prober"
CHAT = "/gpu/v1/chat/completions"


class Vllm:
    """Scripts of an engine with metrics: ``mode`` is what it does to completions, ``step`` its one counter."""

    def __init__(self) -> None:
        self.mode = "ok"
        self.step = 0
        self.probes = 0
        self.release = threading.Event()

    def __call__(self, connection: socket.socket, raw: bytes) -> None:
        if raw.startswith(b"GET /metrics"):
            if self.mode == "dead":
                hang(connection, raw)
                return
            arrivals = f'vllm:num_requests_running{{m="x"}} {time.monotonic()}\n'
            text = f'{arrivals}vllm:kv_cache_usage_perc{{m="x"}} {self.step}\n'
            plain(text.encode())(connection, raw)
            return
        probe = b'"content": "."' in raw
        self.probes += probe
        if self.mode in ("hang", "dead") or (self.mode == "working" and not self.release.is_set()):
            connection.settimeout(0.05)
            while self.mode in ("hang", "dead") or (self.mode == "working" and not self.release.is_set()):
                self.step += self.mode == "working"
                try:
                    if not connection.recv(1):
                        return
                except TimeoutError:
                    pass
            connection.settimeout(5)
        elif self.mode == "slow" and not probe:
            self.release.wait(60)
        plain()(connection, raw)


@pytest.fixture
def gpu() -> Iterator[Engine]:
    engine = Engine(Vllm())
    yield engine
    engine.close()


@pytest.fixture
def door(gpu: Engine, tmp_path: Path) -> Iterator[Door]:
    with running_door(tmp_path, {"gpu": gpu.port}) as running:
        yield running


def test_no_answer_ends_the_prober(door: Door, gpu: Engine, tmp_path: Path) -> None:
    def script(connection: socket.socket, _raw: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n{}")

    gpu.script = script
    with prober(door, tmp_path, gpu) as said:
        said("now failing")


@contextmanager
def prober(door: Door, folder: Path, gpu: Engine, **settings: float) -> Iterator[Callable[[str], None]]:
    """The program with one engine; gives a way to wait for a line of its log."""
    engine = {
        "name": "gpu",
        "kind": "vllm",
        "host": "127.0.0.1",
        "port": gpu.port,
        "model": "nemotron",
        "unit": "",
        "idle_seconds": 30,
        "patience_seconds": 1.5,
        **settings,
    }
    config = folder / "prober.json"
    config.write_text(json.dumps({"control": f"127.0.0.1:{door.control}", "engines": [engine]}))
    log = folder / "prober.log"

    def said(words: str, seconds: float = 10) -> None:
        deadline = time.monotonic() + seconds
        while words not in log.read_text():
            assert time.monotonic() < deadline, f"not said: {words}\n{log.read_text()}"
            time.sleep(0.02)

    with log.open("w") as out:
        process = subprocess.Popen([sys.executable, "-IB", PROGRAM, config], stdout=out, stderr=out)
        try:
            said("watching gpu")
            yield said
            assert process.poll() is None, log.read_text()
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()


def stop(engine: Engine) -> None:
    """Refuse from here on. The thread that accepts still holds the socket; a knock ends it, ours or the prober's."""
    engine.close()
    with suppress(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", engine.port), 1).close()


def until(wanted: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not wanted():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_hang_is_cut_and_steered_and_the_return_is_at_once(door: Door, gpu: Engine, tmp_path: Path) -> None:
    script: Any = gpu.script
    with prober(door, tmp_path, gpu) as said:
        until(lambda: script.probes == 1)
        assert door.ask("sovereign", "POST", CHAT, b"{}")[0] == 200
        script.mode = "hang"
        began = time.monotonic()
        assert door.ask("sovereign", "POST", CHAT, b"{}")[0] == 502, "who waits is cut"
        assert time.monotonic() - began < 3, "so that the next link answers within three seconds"
        said("now hung")
        began = time.monotonic()
        assert door.ask("hybrid", "POST", CHAT, b"{}")[0] == 503 and time.monotonic() - began < 0.2
        script.mode = "ok"
        until(lambda: door.ask("hybrid", "POST", CHAT, b"{}")[0] == 200, 1.5)
        said("hung for")


@pytest.mark.parametrize("mode", ["slow", "working"])
def test_a_slow_answer_is_waited_for(door: Door, gpu: Engine, tmp_path: Path, mode: str) -> None:
    """``slow``: others are served meanwhile. ``working``: nobody is, but a counter moves."""
    script: Any = gpu.script
    with prober(door, tmp_path, gpu):
        until(lambda: script.probes == 1)
        script.mode = mode
        threading.Timer(6, script.release.set).start()
        began = time.monotonic()
        assert door.ask("sovereign", "POST", CHAT, b"{}")[0] == 200
        assert time.monotonic() - began >= 5.5
        assert "now" not in (tmp_path / "prober.log").read_text()
        assert 2 <= script.probes <= 5


def test_an_idle_engine_that_is_wholly_dead_is_found(door: Door, gpu: Engine, tmp_path: Path) -> None:
    script: Any = gpu.script
    with prober(door, tmp_path, gpu, idle_seconds=1) as said:
        until(lambda: script.probes >= 1)
        script.mode = "dead"
        said("now hung")
        assert door.ask("hybrid", "POST", CHAT, b"{}")[0] == 503


def test_a_stream_is_proof_of_life(door: Door, gpu: Engine, tmp_path: Path) -> None:
    """Bytes for a caller: nobody else is asked for anything, although the door counts them only every five seconds."""
    script: Any = gpu.script

    def stream(connection: socket.socket, raw: bytes) -> None:
        if b'"content": "."' in raw or raw.startswith(b"GET"):
            script(connection, raw)
            return
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(16):
            time.sleep(0.25)
            connection.sendall(b"3\r\n: x\r\n")
        connection.sendall(b"0\r\n\r\n")

    gpu.script = stream
    with prober(door, tmp_path, gpu):
        until(lambda: script.probes == 1)
        assert door.ask("hybrid", "POST", CHAT, b"{}")[0] == 200
        assert script.probes == 1


def test_a_stopped_engine_is_out_within_two_seconds_and_back_within_one(
    door: Door, gpu: Engine, tmp_path: Path
) -> None:
    with prober(door, tmp_path, gpu) as said:
        until(lambda: gpu.script.probes == 1)  # type: ignore[attr-defined]  # a Vllm
        stop(gpu)
        said("now refused", 3)
        began = time.monotonic()
        assert door.ask("hybrid", "POST", CHAT, b"{}")[0] == 503 and time.monotonic() - began < 0.2
        again = Engine(Vllm(), gpu.port)
        until(lambda: door.ask("hybrid", "POST", CHAT, b"{}")[0] == 200, 1.5)
        again.close()


def test_a_door_or_a_prober_started_anew_keeps_nobody_out_for_long(door: Door, gpu: Engine, tmp_path: Path) -> None:
    script: Any = gpu.script
    with prober(door, tmp_path, gpu, idle_seconds=1) as said:
        script.mode = "hang"
        said("now hung")
        door.command("set server engine-gpu/engine state ready")  # as a door that has forgotten
        until(lambda: door.ask("hybrid", "GET", "/gpu/v1/models")[0] == 503)
    assert door.ask("hybrid", "GET", "/gpu/v1/models")[0] == 503, "the prober is gone, its judgement is still there"
    config = tmp_path / "prober.json"
    shown = subprocess.run(
        [sys.executable, "-IB", PROGRAM, "--show", config], capture_output=True, text=True, check=True
    )
    assert (
        shown.stdout.splitlines()[1:][[line.split()[0] for line in shown.stdout.splitlines()[1:]].index("gpu")].split()[
            1
        ]
        == "out"
    )
    done = subprocess.run([sys.executable, "-IB", PROGRAM, "--release", config], check=False)
    script.mode = "ok"
    assert done.returncode == 0 and door.ask("hybrid", "POST", CHAT, b"{}")[0] == 200
    door.command("set server engine-gpu/engine state maint")
    with prober(door, tmp_path, gpu):
        until(lambda: door.ask("hybrid", "POST", CHAT, b"{}")[0] == 200, 2)


# --- the parts --------------------------------------------------------------------------------------------------------


def test_the_configuration_of_the_role_is_read(tmp_path: Path) -> None:
    path = tmp_path / "prober.json"
    path.write_text(render("prober.json.j2", role_values()))
    engines = {engine.name: engine for engine in read_config(path).engines}
    assert sorted(engines) == ["cpu", "cpu-coder", "gpu", "gpu-coder", "gpu-forensic"]
    assert (engines["gpu"].host, engines["gpu"].port, engines["gpu"].model) == ("10.88.0.10", 8000, "nemotron")
    assert engines["gpu"].settings.patience == 1.5 and not engines["gpu"].settings.work_first
    patience = {name: engine.settings.patience for name, engine in engines.items()}
    assert patience == {"gpu": 1.5, "gpu-coder": 1.5, "gpu-forensic": 60, "cpu": 10, "cpu-coder": 10}
    assert engines["cpu"].unit == "mushishi-sovereign-llama-nemotron.service" and engines["cpu"].settings.work_first
    assert engines["cpu-coder"].unit == "mushishi-sovereign-llama-coder.service" and engines["gpu"].unit == ""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"control": "nothing"}, "invalid literal"),
        ({"engines": [{}]}, "KeyError"),
        ({"engines": None}, "TypeError"),
    ],
)
def test_a_configuration_that_makes_no_sense_names_its_file(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = tmp_path / "prober.json"
    path.write_text(json.dumps({"control": "127.0.0.1:1", "engines": [], **change}))
    with pytest.raises(ValueError, match=r"prober\.json") as refusal:
        read_config(path)
    assert said in str(refusal.value)
    done = subprocess.run([sys.executable, "-IB", PROGRAM, path], capture_output=True, text=True, check=False)
    assert done.returncode == 78 and "prober.json" in done.stderr


COUNTERS = """# pxname,svname,qcur,scur,stot,econ,hrsp_2xx,cli_abrt,srv_abrt,status
engine-gpu,engine,0,2,9,1,7,1,0,no check
engine-cpu,engine,0,0,3,0,3,0,0,MAINT
"""
STREAMS = """0x55aa: [23/Nov/2026:22:46:01.039478] id=17 proto=tcpv4 source=127.0.0.1:56678
  backend=engine-gpu (id=3 mode=http) addr=127.0.0.1:52686
  txn=0x5635 flags=0x0 meth=3 status=200 req.st=MSG_DONE rsp.st=MSG_DATA req.f=0x0d rsp.f=0x0e
  req=0x5635 (f=0x48c48080 an=0x8000 pipe=0 tofwd=0 total=132)
  res=0x5635 (f=0x88040000 an=0x4000000 pipe=0 tofwd=-1 total={total})
0x55bb: [23/Nov/2026:22:46:01.039478] id=18 proto=tcpv4 source=127.0.0.1:56679
  backend=engine-gpu (id=3 mode=http) addr=127.0.0.1:52687
  txn=0x5635 flags=0x0 meth=3 status=-1 req.st=MSG_DONE rsp.st=MSG_RPBEFORE req.f=0x0d rsp.f=0x00
  res=0x5635 (f=0x88040000 an=0x4000000 pipe=0 tofwd=0 total=0)
0x55cc: [23/Nov/2026:22:46:02.040426] id=19 proto=tcpv4 source=127.0.0.1:50298
  backend=<NONE> (id=-1 mode=-)
  res=0x5635 (f=0x80008002 an=0x0 pipe=0 tofwd=-1 total=1521)
"""


def test_what_the_door_tells_is_read() -> None:
    servers, streams = parse_servers(COUNTERS), parse_streams(STREAMS.format(total=114))
    assert [(s.engine, s.in_flight, s.callers, s.errors, s.out) for s in servers] == [
        ("gpu", 2, 9, 1, False),
        ("cpu", 0, 3, 0, True),
    ]
    assert [(s.number, s.engine, s.status, s.answered) for s in streams] == [(17, "gpu", 200, 114), (18, "gpu", -1, 0)]
    with pytest.raises(ValueError, match="no counters"):
        parse_servers("Unknown command\n")


def test_headers_are_no_sign_of_life_and_a_growing_body_is() -> None:
    traffic = Traffic()
    assert traffic.moved(parse_servers(COUNTERS), parse_streams(STREAMS.format(total=114))) == set(), (
        "the first reading"
    )
    assert traffic.moved(parse_servers(COUNTERS), parse_streams(STREAMS.format(total=114))) == set()
    assert traffic.moved(parse_servers(COUNTERS), parse_streams(STREAMS.format(total=139))) == {"gpu"}
    begun = COUNTERS.replace(",1,7,1,0,no", ",1,8,1,0,no")
    more = STREAMS.format(total=139).replace("status=-1", "status=200")
    assert traffic.moved(parse_servers(begun), parse_streams(more)) == set(), "one more answer has begun"
    ended = more.split("0x55bb")[0]
    assert traffic.moved(parse_servers(begun), parse_streams(ended)) == {"gpu"}, "it has come to its end"
    aborted = begun.replace(",8,1,0,no", ",8,2,0,no")
    assert traffic.moved(parse_servers(aborted), []) == set(), "the other one was given up"


@pytest.mark.parametrize(
    ("raw", "outcome"),
    [
        (b'HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{"choices":[]}', Outcome.SERVED),
        (b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\ne\r\n{"choices":[]}\r\n0\r\n\r\n', Outcome.SERVED),
        (b'HTTP/1.1 200 OK\r\n\r\n{"choices":[]}', Outcome.SERVED),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"choices":[]}', Outcome.BROKEN),
        (b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\ne\r\n{"choices":[]}\r\n', Outcome.BROKEN),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", Outcome.ANSWERED),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}", Outcome.ANSWERED),
        (b"HTTP/1.1 503 X\r\n\r\n", Outcome.ANSWERED),
        (b"", Outcome.BROKEN),
        (b"\x16\x03", Outcome.BROKEN),
    ],
)
def test_an_answer_is_a_completion_or_it_is_not(raw: bytes, outcome: Outcome) -> None:
    assert read_answer(raw)[0] is outcome


HEAD = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 999 \r\n",
        b"Content-Length: ",
        b"9" * 5000,
        b"-1",
        b"Transfer-Encoding: chunked",
        b"\r\n",
        b"\r\n\r\n",
        b"\r\n0\r\n\r\n",
        b'{"choices":[]}',
        b"vllm:kv_cache_usage_perc",
        b"{",
        b"} 1\n",
    ]
)
HOSTILE = st.lists(HEAD | st.binary(max_size=20), max_size=12).map(b"".join)


def feed(raw: bytes, size: int = 1 << 20) -> bytes:
    """What is kept of an answer that comes in pieces and then ends."""

    async def read() -> bytes:
        reader = asyncio.StreamReader(limit=1 << 26)
        for at in range(0, len(raw), size):
            reader.feed_data(raw[at : at + size])
        reader.feed_eof()
        return await engine_module._read(reader)

    return asyncio.run(read())


@settings(max_examples=300, deadline=None, database=None)
@given(raw=HOSTILE, size=st.integers(1, 50))
def test_no_answer_is_more_than_an_outcome(raw: bytes, size: int) -> None:
    kept = feed(raw, size)
    assert raw.startswith(kept) and (kept == raw or whole(kept) or len(raw) > len(kept) > 0)
    assert read_answer(raw)[0] in set(Outcome)
    steps(raw.decode("utf-8", "replace"))


def test_a_length_of_thousands_of_digits_is_no_length() -> None:
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b'\r\n\r\n{"choices":[]}'
    assert not whole(raw) and read_answer(raw)[0] is Outcome.BROKEN


def test_an_answer_is_read_once_and_never_without_end() -> None:
    began = time.monotonic()
    assert len(feed(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 8_000_000)) == engine_module.MOST
    assert len(feed(b"x" * 8_000_000)) <= 2 * engine_module.MOST_HEAD
    open_labels = "vllm:kv_cache_usage_perc{"
    for text in ("a" * engine_module.MOST, open_labels * 20_000, f"{open_labels}\n" * 20_000):
        assert steps(text + "\n") == {}
    assert time.monotonic() - began < 3, "the event loop stands still meanwhile"


def test_half_a_line_is_no_sample() -> None:
    assert steps("vllm:prompt_tokens_total 12\nvllm:generation_tokens_total 1") == {"vllm:prompt_tokens_total": "12"}


def test_the_control_channel_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "MOST", 1000)

    async def talk(length: int) -> str:
        async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readline()
            writer.write(b"x" * length)
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(say, "127.0.0.1", 0) as server:
            return await Control(server.sockets[0].getsockname()).command("show stat")

    assert len(asyncio.run(talk(1000))) == 1000
    with pytest.raises(OSError, match="more than 1000 bytes"):
        asyncio.run(talk(1001))


def watching(kind: str = "vllm", unit: str = "") -> tuple[Any, Any]:
    """A watch with one engine and no door, and what it keeps of that engine."""
    asked = Asked("gpu", kind, "127.0.0.1", 1, "m", Settings(30, 1.5, work_first=kind == "llama.cpp"), unit)
    watch = watch_module.Watch(Config(("127.0.0.1", 1), (asked,)), "")
    return watch, watch._watched["gpu"]


def test_whatever_asking_raises_the_prober_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fail(*_given: object) -> None:
        raise ValueError("of the engine")

    for name in ("complete", "knock", "metrics"):
        monkeypatch.setattr(watch_module, name, fail)

    async def ask() -> None:
        watch, watched = watching()
        for _ in range(3):
            watched.judge.tick(time.monotonic())
            await watch._probe(watched)
            await watch._knock(watched)
            await watch._sample(watched)
        for task in watch._tasks:
            task.cancel()

    asyncio.run(ask())
    assert capsys.readouterr().out.count("cannot be read: ValueError\n") == 1, "said once"


@pytest.mark.parametrize("blind", [True, False])
def test_cpu_time_that_cannot_be_read_is_no_hang(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], blind: bool
) -> None:
    """Control: CPU time that can be read and stands still is one."""
    now = [time.monotonic()]
    monkeypatch.setattr(watch_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(watch_module, "cpu_seconds", lambda _unit: None if blind else 7.0)
    watch, watched = watching("llama.cpp", "a.service")
    watched.judge.tick(now[0])
    for _ in range(40):
        now[0] += 0.5
        watched.judge.seen(now[0], in_flight=1, callers=1, errors=0, moved=False)
        watch._look_for_work(watched)
    assert watched.judge.verdict.value == ("serving" if blind else "hung")
    said = "gpu: the CPU time of a.service cannot be read: not judged hung while that is so\n"
    assert capsys.readouterr().out == (said if blind else "")


def test_a_stream_of_an_engine_that_closed_its_port_flows_to_its_end(door: Door, gpu: Engine, tmp_path: Path) -> None:
    script: Any = gpu.script
    begun = threading.Event()

    def stream(connection: socket.socket, raw: bytes) -> None:
        if b'"content": "."' in raw or raw.startswith(b"GET"):
            script(connection, raw)
            return
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        begun.set()
        for _ in range(16):
            time.sleep(0.25)
            connection.sendall(b"3\r\n: x\r\n")
        connection.sendall(b"0\r\n\r\n")

    gpu.script = stream
    answers: list[tuple[int, bytes]] = []
    ask = threading.Thread(target=lambda: answers.append(door.ask("hybrid", "POST", CHAT, b"{}")[::2]))
    with prober(door, tmp_path, gpu) as said:
        until(lambda: script.probes == 1)
        ask.start()
        assert begun.wait(5)
        stop(gpu)
        said("now refused", 3)
        assert door.ask("hybrid", "POST", CHAT, b"{}")[0] == 503
        ask.join(10)
    assert answers[0][0] == 200 and answers[0][1].count(b": x") == 16


def test_the_probe_is_one_token_and_holds_a_key_for_llama_alone(tmp_path: Path) -> None:
    path = tmp_path / "prober.json"
    path.write_text(render("prober.json.j2", role_values()))
    engines = {engine.name: engine for engine in read_config(path).engines}
    gpu, cpu = request(engines["gpu"], "sk-x"), request(engines["cpu"], "sk-x")
    assert json.loads(gpu.partition(b"\r\n\r\n")[2])["max_tokens"] == 1
    assert b"sk-x" not in gpu and b"Authorization: Bearer sk-x\r\n" in cpu
    assert b"cache_salt" in gpu and b"cache_salt" not in cpu


def test_only_steps_of_the_engine_count_as_work() -> None:
    text = (
        '# TYPE vllm:kv_cache_usage_perc gauge\nvllm:kv_cache_usage_perc{engine="0"} 0.25\n'
        'vllm:num_requests_running{engine="0"} 3.0\nvllm:prompt_tokens_total{engine="0"} 9.0\n'
        'vllm:request_success_total{finished_reason="abort"} 4.0\n'
    )
    assert steps(text) == {
        'vllm:kv_cache_usage_perc{engine="0"}': "0.25",
        'vllm:prompt_tokens_total{engine="0"}': "9.0",
    }


def test_cpu_time_is_read_from_the_unit_beside_ours(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("1:name=systemd:/x\n0::/system.slice/mushishi-sovereign-prober.service\n")
    assert unit_group(own.read_text(), "a.service") == "/system.slice/a.service"
    group = tmp_path / "system.slice/a.service"
    group.mkdir(parents=True)
    (group / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 1\n")
    assert cpu_seconds("a.service", tmp_path, own) == 2.5
    assert cpu_seconds("b.service", tmp_path, own) is None and cpu_seconds("", tmp_path, own) is None
