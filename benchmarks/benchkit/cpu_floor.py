# SPDX-License-Identifier: MIT
"""cpu_floor: llama-server against llama-cpp-python's own server, and both against what the memory could give."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from labkit.image import ROOTFS
from labkit.paths import CACHE, ROOT, STATE
from labkit.say import Failed, Run

from . import environment, gguf, stats
from .load import Crowd, Question, Sample, Target
from .results import REPEATS, Figure
from .say import Progress
from .stats import over_repeats

WORK = STATE / "bench/cpu_floor"
SERVERS = ("llama-server", "llama-cpp-python")
PARALLEL = (1, 4)
#: Layers of the larger model: 27 of them are 610 MB of weights, more than a CPU's caches hold.
LARGE_LAYERS = 27
#: Tokens of one slot: prompt and answer of these benchmarks fit many times.
CONTEXT = 1024
START_SECONDS = 120.0
#: A short prompt: what is measured is generation.
PROMPT = "hi"


@dataclass(frozen=True)
class Model:
    """A model file; the bytes of weights that each token reads; the tokens that one answer has."""

    name: str
    path: Path
    read_per_token: int
    tokens: int


@dataclass(frozen=True)
class Bandwidth:
    """Repeats of both measures, bytes per second."""

    read: list[float]
    triad: list[float]

    @classmethod
    def of(cls, text: str) -> Bandwidth:
        """Read what bandwidth.c printed. Raises ValueError when it printed nothing."""
        found: dict[str, list[float]] = {"read": [], "triad": []}
        for name, value in re.findall(r"^(read|triad) ([\d.]+)$", text, re.MULTILINE):
            found[name].append(float(value) * 1e9)
        if not found["read"] or not found["triad"]:
            raise ValueError(f"no bandwidth in {text[:200]!r}")
        return cls(found["read"], found["triad"])


def threads() -> list[int]:
    """The sweep: powers of two up to the cores, and the cores."""
    cores = len(os.sched_getaffinity(0))
    powers = [1 << at for at in range(cores.bit_length()) if 1 << at <= cores]
    return sorted({*powers, cores})


def bandwidth(run: Run, count: int, quick: bool) -> Bandwidth:
    """Measure the memory with that many threads."""
    program = WORK / "bandwidth"
    source = Path(__file__).with_name("bandwidth.c")
    run.command(
        ["cc", "-O3", "-march=native", "-fopenmp", "-o", program, source], why="Compiling the bandwidth measure"
    )
    done = subprocess.run(
        [program, "256" if quick else "1024", "2" if quick else "7"],
        env={**os.environ, "OMP_NUM_THREADS": str(count)},
        capture_output=True,
        text=True,
        check=True,
    )
    return Bandwidth.of(done.stdout)


def _tiny_maker() -> ModuleType:
    path = ROOT / "molecule/standins/make_tiny_gguf.py"
    spec = importlib.util.spec_from_file_location("make_tiny_gguf", path)
    if spec is None or spec.loader is None:
        raise Failed(f"{path} cannot be imported.")
    module = importlib.util.module_from_spec(spec)
    # A dataclass looks its own module up.
    sys.modules["make_tiny_gguf"] = module
    spec.loader.exec_module(module)
    return module


def models(quick: bool) -> list[Model]:
    """The tiny model of the lab and a larger one, made when they are missing."""
    maker = _tiny_maker()
    WORK.mkdir(parents=True, exist_ok=True)
    tiny = WORK / "tiny.gguf"
    tiny.write_bytes(maker.build("tiny-random-llama", 1, 32768))
    layers = 4 if quick else LARGE_LAYERS
    large, size = WORK / f"large-{layers}.gguf", WORK / f"large-{layers}.bytes"
    if not (large.is_file() and size.is_file()):
        size.write_text(str(gguf.write(large, maker, layers)), encoding="utf-8")
    read = int(size.read_text(encoding="utf-8"))
    return [
        Model("tiny", tiny, tiny.stat().st_size, 64 if quick else 400),
        Model(f"{read / 1e6:.0f} MB", large, read, 8 if quick else 32),
    ]


def llama_server() -> tuple[list[str], dict[str, str]]:
    """The command of the role's llama-server as the lab built it, and its record. Raises Failed when there is none.

    It was built for the lab machine's distribution, so that machine's own loader and libraries start it.
    """
    found = sorted((CACHE / "machine/llama.cpp").glob("*/llama-server"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise Failed("The lab has not built llama-server yet. Bring the lab up first: tools/lab up")
    record = json.loads(found[-1].with_name("record.json").read_text(encoding="utf-8"))
    loaders = sorted(ROOTFS.glob("usr/lib*/ld-linux*.so.*")) or sorted(ROOTFS.glob("lib*/ld-linux*.so.*"))
    if not loaders:
        raise Failed(f"{ROOTFS} holds no machine image. Bring the lab up first: tools/lab up")
    libraries = ":".join(str(path) for path in sorted(ROOTFS.glob("usr/lib/*-linux-gnu")))
    return [str(loaders[0]), "--library-path", libraries, str(found[-1])], record


def command(server: str, program: Sequence[str], model: Model, count: int, parallel: int, port: int) -> list[str]:
    """The command line of a server; llama-server's as in the role's unit."""
    if server == "llama-server":
        options = [
            *("--model", str(model.path), "--alias", "model", "--host", "127.0.0.1", "--port", str(port)),
            *("--parallel", str(parallel), "--ctx-size", str(CONTEXT * parallel), "--threads", str(count)),
            *("--load-mode", "mmap", "--cache-ram", "0", "--no-cache-prompt", "--no-slots", "--no-ui"),
            *("--fit", "off", "--offline"),
        ]
    else:
        options = [
            *("--model", str(model.path), "--model_alias", "model", "--host", "127.0.0.1", "--port", str(port)),
            *("--n_ctx", str(CONTEXT), "--n_threads", str(count), "--n_threads_batch", str(count)),
            # With its default a second request cuts a streamed first one.
            *("--interrupt_requests", "false", "--verbose", "false"),
        ]
    return [*program, *options]


@contextmanager
def serving(server: str, argv: Sequence[str], port: int) -> Iterator[None]:
    """The server runs inside and is gone afterwards. Raises Failed when it does not answer."""
    log = WORK / f"{server}.log"
    with log.open("w", encoding="utf-8") as out:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_WAIT_POLICY": "passive"},
            start_new_session=True,
        )
        try:
            question = Question(1, stream=False, prompt=PROMPT)
            deadline = time.monotonic() + START_SECONDS
            while True:
                crowd = Crowd(Target(server, "127.0.0.1", port, "model"), 1)
                answer = asyncio.run(_once(crowd, question, 1))[0]
                if answer.good:
                    break
                if process.poll() is not None or time.monotonic() > deadline:
                    raise Failed(f"{server} does not answer ({answer.error}); its log is {log}.")
                time.sleep(0.05)  # a server that starts says nothing when it is ready
            yield
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


async def _once(crowd: Crowd, question: Question, count: int) -> list[Sample]:
    try:
        return await crowd.block(question, count)
    finally:
        crowd.close()


def tokens_per_second(server: str, port: int, model: Model, parallel: int) -> float:
    """Tokens of ``parallel`` answers asked for at the same time, divided by the seconds until the last was whole."""
    target = Target(server, "127.0.0.1", port, "model")
    question = Question(model.tokens, stream=False, prompt=PROMPT)
    began = time.monotonic()
    answers = asyncio.run(_once(Crowd(target, parallel), question, parallel))
    took = time.monotonic() - began
    bad = [answer for answer in answers if not answer.good or answer.tokens != model.tokens]
    if bad:
        raise Failed(f"{server}: {len(bad)} of {parallel} answers are not whole: {bad[0].error or bad[0].tokens}.")
    return sum(answer.tokens for answer in answers) / took


def free_port() -> int:
    """A port of the loopback that nobody has now."""
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])


Speeds = dict[tuple[str, str, int, int], list[float]]


def sweep(programs: dict[str, list[str]], todo: Sequence[Model], quick: bool, progress: Progress) -> Speeds:
    """(model, server, threads, parallel) → tokens per second, repeats in turn, one server at a time."""
    found: Speeds = {}
    rounds, again = (1, 1) if quick else (3, 2)
    steps = rounds * len(todo) * len(SERVERS) * len(threads())
    step = 0
    for number in range(rounds):
        for model in todo:
            for server in SERVERS if number % 2 == 0 else SERVERS[::-1]:
                for count in threads():
                    progress.say(f"{model.name}, {server}, threads {count}", progress.expected * step / steps)
                    port = free_port()
                    argv = command(server, programs[server], model, count, max(PARALLEL), port)
                    with serving(server, argv, port):
                        tokens_per_second(server, port, model, max(PARALLEL))
                        for parallel in PARALLEL:
                            for _ in range(again):
                                speed = tokens_per_second(server, port, model, parallel)
                                found.setdefault((model.name, server, count, parallel), []).append(speed)
                    step += 1
    return found


def figures(speeds: Speeds, memory: dict[int, Bandwidth], todo: Sequence[Model]) -> list[Figure]:
    """The rows of the result."""
    made = []
    for count, found in memory.items():
        for measure_, repeats in (("read", found.read), ("triad", found.triad)):
            estimate = over_repeats([value / 1e9 for value in repeats])
            made.append(Figure(f"memory, threads {count}", f"{measure_} bandwidth", "GB/s", estimate, REPEATS))
    for (name, server, count, parallel), values in speeds.items():
        case = f"{name}, {server}, threads {count}, {parallel} at once"
        made.append(Figure(case, "speed", "tokens/s", over_repeats(values), REPEATS))
    large = todo[-1]
    for count, found in memory.items():
        limit = [value / large.read_per_token for value in found.read]
        case = f"{large.name}, threads {count}"
        made.append(Figure(case, "limit by memory, 1 at once", "tokens/s", over_repeats(limit), REPEATS))
        reached = stats.ratio(speeds[large.name, "llama-server", count, 1], limit)
        made.append(Figure(case, "llama-server, 1 at once / limit", "", reached, "most careful pairing"))
    best = {
        (model.name, server, parallel): max(
            (speeds[model.name, server, count, parallel] for count in threads()), key=stats.median
        )
        for model in todo
        for server in SERVERS
        for parallel in PARALLEL
    }
    for model in todo:
        for parallel in PARALLEL:
            ours, theirs = (best[model.name, server, parallel] for server in SERVERS)
            goal = ">= 5" if parallel == max(PARALLEL) else ""
            case = f"{model.name}, each at its best threads, {parallel} at once"
            ratio = stats.ratio(ours, theirs)
            made.append(Figure(case, "llama-server / llama-cpp-python", "", ratio, "most careful pairing", goal))
    return made


def measure(run: Run, quick: bool) -> tuple[list[Figure], dict[str, str]]:
    """Run everything on this machine, outside the lab, loopback only. Also the versions of what was compared."""
    python = environment.engine(run)
    program, record = llama_server()
    todo = models(quick)
    progress = Progress("cpu_floor", 20.0 if quick else 400.0)
    memory = {}
    for count in threads():
        progress.say(f"memory bandwidth, threads {count}")
        memory[count] = bandwidth(run, count, quick)
    programs = {"llama-server": program, "llama-cpp-python": [str(python), "-m", "llama_cpp.server"]}
    speeds = sweep(programs, todo, quick, progress)
    progress.end()
    return figures(speeds, memory, todo), versions(record)


def versions(record: dict[str, str]) -> dict[str, str]:
    """Both are made of the same archive, by compilers that may differ."""
    lock = (ROOT / "requirements/benchmark-engine.txt").read_text(encoding="utf-8")
    pin = re.search(r"^llama-cpp-python==(\S+)", lock, re.MULTILINE)
    compiler = subprocess.run([shutil.which("g++") or "g++", "-dumpfullversion"], capture_output=True, text=True)
    return {
        "llama-cpp-python": f"{pin[1] if pin else '?'} (g++ {compiler.stdout.strip()})",
        "llama-server": f"of the same source ({record.get('compiler', '?')})",
    }
