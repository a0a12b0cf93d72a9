# SPDX-License-Identifier: MIT
"""Runs the judges: reads the door four times a second, asks engines when their judge says so, steers the door.

Says one line when a verdict changes, with names and times and nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import TypeVar

from prober.config import LLAMA_CPP, VLLM, Config, Engine, read_config
from prober.door import Control, Server, Traffic
from prober.engine import complete, cpu_seconds, knock, metrics
from prober.judge import Act, Action, Change, Judge, Outcome

#: EX_CONFIG of sysexits.h: the unit does not restart on it.
EXIT_CONFIG = 78
POLL_SECONDS = 0.25
SAMPLE_SECONDS = 0.3
#: A share of one core above this is work; a server that waits uses a thousandth.
WORKING_SHARE = 0.1
Found = TypeVar("Found")


class Watched:
    """An engine, its judge, and what is under way to it."""

    def __init__(self, engine: Engine, now: float) -> None:
        self.engine = engine
        self.judge = Judge(engine.settings, now)
        self.probe: asyncio.Task[None] | None = None
        self.sampling: asyncio.Task[None] | None = None
        self.sampled_at = 0.0
        self.steps: dict[str, str] | None = None
        self.cpu: tuple[float, float] | None = None
        self.said: set[str] = set()

    def say_once(self, text: str) -> None:
        """A line that is worth saying once for an engine, however often it is true."""
        if text not in self.said:
            self.said.add(text)
            say(f"{self.engine.name}: {text}")

    async def ask(self, asking: Coroutine[None, None, Found], otherwise: Found) -> Found:
        """What asking the engine gives, or ``otherwise``: nothing that an engine answers ends the prober."""
        try:
            return await asking
        except Exception as exc:  # noqa: BLE001  # whatever it is, the other engines are still to be watched
            self.say_once(f"what it answers cannot be read: {type(exc).__name__}")
            return otherwise


class Watch:
    """All engines and the door."""

    def __init__(self, config: Config, key: str) -> None:
        now = time.monotonic()
        self._key = key
        self._control = Control(config.control)
        self._watched = {engine.name: Watched(engine, now) for engine in config.engines}
        self._traffic = Traffic()
        self._door_away = False
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Watch until told to stop."""
        say(f"watching {', '.join(self._watched)}")
        next_poll = time.monotonic()
        while True:
            now = time.monotonic()
            if now >= next_poll:
                next_poll = now + POLL_SECONDS
                await self._poll()
            for watched in self._watched.values():
                self._look_for_work(watched)
                await self._do(watched, watched.judge.tick(time.monotonic()))
            due = min([next_poll, *(watched.judge.due() for watched in self._watched.values())])
            try:
                await asyncio.wait_for(self._wake.wait(), max(0.005, due - time.monotonic()))
            except TimeoutError:
                continue
            self._wake.clear()

    async def _poll(self) -> None:
        try:
            servers, streams = await self._control.read()
        except (OSError, ValueError) as exc:
            if not self._door_away:
                say(f"the engine door does not tell its counters: {exc}")
            self._door_away = True
            return
        if self._door_away:
            say("the engine door tells its counters again")
        self._door_away = False
        moved = self._traffic.moved(servers, streams)
        for server in servers:
            watched = self._watched.get(server.engine)
            if watched is None:
                continue
            actions = watched.judge.seen(
                time.monotonic(),
                in_flight=server.in_flight,
                callers=server.callers,
                errors=server.errors,
                moved=server.engine in moved,
            )
            await self._do(watched, actions)
            await self._reconcile(watched, server)

    async def _reconcile(self, watched: Watched, server: Server) -> None:
        """The door may have been started anew. Whom to cut is for the judge to say, at each reading."""
        if watched.judge.out and not server.out:
            await self._steer(watched, Act.OUT)
        elif server.out and not watched.judge.out:
            await self._steer(watched, Act.IN)

    async def _do(self, watched: Watched, actions: Sequence[Action]) -> None:
        for action in actions:
            if isinstance(action, Change):
                name, seconds = watched.engine.name, action.seconds
                say(f"{name}: {action.before.value} for {seconds:.1f} s, now {action.after.value}: {action.why}")
            elif action is Act.PROBE:
                watched.steps, watched.sampled_at = None, 0.0
                watched.probe = self._start(self._probe(watched))
            elif action is Act.DROP:
                if watched.probe is not None:
                    watched.probe.cancel()
            elif action is Act.KNOCK:
                self._start(self._knock(watched))
            else:
                await self._steer(watched, action)

    async def _steer(self, watched: Watched, action: Act) -> None:
        try:
            if action is Act.OUT:
                await self._control.take_out(watched.engine.name)
            elif action is Act.CUT:
                await self._control.cut(watched.engine.name)
            else:
                await self._control.put_in(watched.engine.name)
        except OSError as exc:
            say(f"{watched.engine.name}: the engine door was not told: {exc}")  # the next poll tells it again

    def _look_for_work(self, watched: Watched) -> None:
        if not watched.judge.waited_for:
            watched.cpu = None
        elif watched.engine.kind == LLAMA_CPP:
            now, used = time.monotonic(), cpu_seconds(watched.engine.unit)
            if used is None:
                watched.cpu = None
                if not watched.judge.out:  # a unit that has ended has no CPU time, and who waits for it is cut
                    # Nobody can tell a long prompt from a hang now, and the floor is not taken away on a doubt.
                    unit = watched.engine.unit or "its unit"
                    watched.say_once(f"the CPU time of {unit} cannot be read: not judged hung while that is so")
                    watched.judge.worked(now)
            elif watched.cpu is None:
                watched.cpu = (now, used)
            elif now - watched.cpu[0] >= POLL_SECONDS / 2:
                if used - watched.cpu[1] > WORKING_SHARE * (now - watched.cpu[0]):
                    watched.judge.worked(now)
                watched.cpu = (now, used)
        elif (
            watched.engine.kind == VLLM
            and watched.judge.probing_since is not None
            and watched.sampling is None
            and time.monotonic() >= watched.sampled_at + SAMPLE_SECONDS
        ):
            watched.sampling = self._start(self._sample(watched))

    async def _sample(self, watched: Watched) -> None:
        probe = watched.probe
        try:
            found = await watched.ask(metrics(watched.engine), None)
        finally:
            watched.sampling, watched.sampled_at = None, time.monotonic()
        if found is None or watched.probe is not probe:
            return
        if watched.steps is not None and found != watched.steps:
            await self._do(watched, watched.judge.worked(time.monotonic()))
        watched.steps = found

    async def _probe(self, watched: Watched) -> None:
        broken = (Outcome.BROKEN, "it cannot be read")
        outcome, detail = await watched.ask(complete(watched.engine, self._key), broken)
        await self._do(watched, watched.judge.answered(time.monotonic(), outcome, detail))

    async def _knock(self, watched: Watched) -> None:
        outcome: Outcome = await watched.ask(knock(watched.engine), Outcome.BROKEN)
        await self._do(watched, watched.judge.knocked(time.monotonic(), outcome))

    def _start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            raise SystemExit(f"prober: {task.exception()!r}")
        self._wake.set()


def say(text: str) -> None:
    """One line for the journal, which adds the time."""
    print(text, flush=True)


async def watch(config: Config, key: str) -> None:
    """Put every engine into service, then watch. What an earlier prober thought counts no longer."""
    # Without a door there is nothing to put back: it starts with every engine in service.
    with contextlib.suppress(OSError):
        await release(config)
    await Watch(config, key).run()


async def release(config: Config) -> None:
    """Put every engine into service. Raises :class:`OSError` when the door does not answer."""
    await Control(config.control).put_in(*(engine.name for engine in config.engines))


async def show(config: Config) -> str:
    """A line for each engine: in service or out, requests under way, callers and failed connections so far."""
    servers, _unused = await Control(config.control).read()
    lines = [f"{'engine':<20} {'':<5} under way  callers  refused"]
    for server in servers:
        state = "out" if server.out else "in"
        lines.append(f"{server.engine:<20} {state:<5} {server.in_flight:>9} {server.callers:>8} {server.errors:>8}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Watch until told to stop, or do the one thing that an option asks for."""
    parser = argparse.ArgumentParser(prog="prober", description="Find engines that hang, and steer the engine door.")
    parser.add_argument("config", type=Path)
    parser.add_argument("--release", action="store_true", help="put every engine into service and end")
    parser.add_argument("--show", action="store_true", help="print which engines are in service and end")
    parser.add_argument("--check", action="store_true", help="only read the configuration")
    given = parser.parse_args(argv)
    try:
        config = read_config(given.config)
        if given.check:
            return 0
        if given.show:
            print(asyncio.run(show(config)))
            return 0
        if given.release:
            asyncio.run(release(config))
            return 0
        credentials = os.environ.get("CREDENTIALS_DIRECTORY")
        key = (Path(credentials) / "llama.key").read_text(encoding="utf-8").strip() if credentials else ""
    except ValueError as exc:
        print(f"prober: {exc}", file=sys.stderr)
        return EXIT_CONFIG
    except OSError as exc:
        print(f"prober: {exc}", file=sys.stderr)
        return 1
    asyncio.run(watch(config, key))
    return 0
