# SPDX-License-Identifier: MIT
"""Any life of the whole service: clients that hang up and cancel, engines that answer rubbish, restarts, other rules.

The journal has a model of its own (test_admission_queue_model); this one holds what a client was promised against what
it gets in the end, and that no thread, slot, task or place is left behind on the way.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import hypothesis.strategies as st
import pytest
from admission import app, drain, journal, lines
from admission_standin import completion
from hypothesis import HealthCheck, example, given, settings
from queue_inside import PATIENCE, Heard, Inside, away, inside, is_probe, rules, said

RUBBISH: dict[str, Callable[[], httpx.Response]] = {
    "nothing": lambda: httpx.Response(200, content=b""),
    "no JSON": lambda: httpx.Response(200, content=b"<html>"),
    "no answer": lambda: said({"choices": []}),
    "no message": lambda: said({"choices": [{"index": 0, "finish_reason": "stop"}]}),
    "a choice that is none": lambda: said({"choices": [None]}),
    "a message that is none": lambda: said({"choices": [{"index": 0, "message": 7, "finish_reason": "stop"}]}),
    "very deep": lambda: httpx.Response(200, content=b'{"choices":' + b"[" * 100_000),
}
ENGINES = ("good", "slow", "away", "hangs", *RUBBISH)
RULES = ("queue", "error", "gone")
PATHS = ("/v1/chat/completions", "/v1/messages", "/v1/completions")


def words_of(answer: Any) -> str:
    """What an answer of any route says."""
    if "choices" in answer:
        choice = answer["choices"][0]
        return str(choice["message"]["content"] if "message" in choice else choice["text"])
    return str(answer["content"][0]["text"])


@dataclass
class Life:
    """The service, restarted now and then, and what its clients know."""

    home: Path
    engine: str = "good"
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    number: int = 0
    lives: int = 0
    promised: dict[str, str] = field(default_factory=dict)
    """A job's URL, and what was asked."""
    cancelled: set[str] = field(default_factory=set)
    unheard: dict[str, str] = field(default_factory=dict)
    """Requests whose client hung up, by their key: nobody knows whether they were taken in; and their path."""

    async def answer(self, request: dict[str, Any]) -> httpx.Response:
        """The engine."""
        if self.engine == "hangs":
            await self.changed.wait()
        if self.engine == "slow":
            await asyncio.sleep(0.02)
        if self.engine in ("away", "hangs"):
            return away(request)
        if self.engine in RUBBISH and not is_probe(request):
            return RUBBISH[self.engine]()
        return said(completion(f"answer to {request['messages'][-1]['content']}"))

    async def run(self, steps: list[tuple[Any, ...]]) -> None:
        """Live."""
        async with AsyncExitStack() as stack:
            await self._start(stack, "queue")
            for name, *what in steps:
                await getattr(self, f"do_{name}")(stack, *what)
                self._whole()
            await self._end(stack)

    async def _start(self, stack: AsyncExitStack, which: str) -> None:
        which_rules = rules(private="error" if which == "error" else "queue", coding="queue")
        which_rules["profiles"]["private"] |= {"wait": 0.05, "timeout": 0.3}
        if which == "gone":
            del which_rules["profiles"]["private"]
        self.which, folder = which, self.home / f"life-{self.lives}"
        folder.mkdir(exist_ok=True)
        self.one: Inside = await stack.enter_async_context(
            inside(folder, self.answer, rules=which_rules, probe_seconds=0.01, limits={"concurrent_requests": 2})
        )

    def _whole(self) -> None:
        """Nothing is left behind, whatever has just happened."""
        queue = self.one.queue
        for thread in (queue._journal.read, queue._journal.write):
            assert thread._thread.is_alive()
        assert not queue._tasks[0].done(), "the worker works"
        assert not self.one.app._busy.total() and not queue.held and not queue._bells
        assert queue._drainer._working <= queue._drainer.lines.at_work <= set(queue._drainer._tasks)
        assert not [line for line in self.one.log if line["event"] == "fault"]

    def _question(self, path: str, text: str, *, stream: bool) -> dict[str, Any]:
        asked = {"prompt": text} if path == "/v1/completions" else {"messages": [{"role": "user", "content": text}]}
        return {**asked, "stream": stream}

    # ---- what happens
    async def do_ask(self, _stack: AsyncExitStack, path: str, wish: str, stream: bool, hang_up: int | None) -> None:
        """A request, whose client may hang up after so many turns of the loop."""
        if self.which == "gone":
            return
        self.number += 1
        text = f"q{self.number}"
        gone = asyncio.Event()
        document = self._question(path, text, stream=stream)
        headers = {"prefer": wish, "idempotency_key": text}
        asked = asyncio.create_task(self.one.chat(path=path, document=document, gone=gone, **headers))
        if hang_up is not None:
            for _ in range(hang_up):
                await asyncio.sleep(0)
            gone.set()
        self._heard(await asked, path, text, stream=stream, whole=hang_up is None)

    def _heard(self, heard: Heard, path: str, text: str, *, stream: bool, whole: bool) -> None:
        if "location" in heard.headers and heard.status in (202, 503):
            self.promised[heard.headers["location"]] = text
        elif heard.status == 200 and not stream and heard.body:
            assert words_of(heard.json) == f"answer to {text}"
        elif whole and heard.status not in (200, 503):
            raise AssertionError(f"neither an answer nor a promise: {heard}")
        elif not whole and self.which == "queue":
            self.unheard[text] = path

    async def do_cancel(self, _stack: AsyncExitStack, at: int) -> None:
        """DELETE, whatever becomes of the job just now."""
        if self.promised and self.which != "gone":
            url = list(self.promised)[at % len(self.promised)]
            heard = await self.one.ask("DELETE", url)
            assert heard.status in (200, 404)
            self.cancelled.add(url)

    async def do_engine(self, _stack: AsyncExitStack, which: str) -> None:
        """Another engine."""
        self.engine = which
        self.changed.set()
        self.changed = asyncio.Event()

    async def do_time(self, _stack: AsyncExitStack, seconds: float) -> None:
        """Time passes."""
        await asyncio.sleep(seconds)

    async def do_restart(self, stack: AsyncExitStack, which: str) -> None:
        """An update, perhaps with other rules."""
        await stack.aclose()
        await self._start(stack, which)

    async def do_crash(self, stack: AsyncExitStack) -> None:
        """SIGKILL: the next life has what lies in the files now."""
        await asyncio.wrap_future(self.one.journal.changes())  # the writer is idle: no file is copied by half
        self.lives += 1
        into = self.home / f"life-{self.lives}"
        into.mkdir()
        for path in self.one.journal.folder.iterdir():
            if not path.name.endswith("-shm"):  # memory of the process that is gone
                shutil.copy(path, into)
        await stack.aclose()
        await self._start(stack, self.which)

    # ---- what holds in the end
    async def _end(self, stack: AsyncExitStack) -> None:
        if self.which != "queue":
            await self.do_restart(stack, "queue")
        await self.do_engine(stack, "good")
        await self.one.until(lambda: not self.one.queue._drainer.lines.known, 2 * PATIENCE)
        await self.one.until(lambda: not self.one.queue._drainer.lines.at_work)
        self._whole()
        for url, text in self.promised.items():
            heard = await self.one.ask("GET", url)
            if url in self.cancelled:
                assert heard.status == 404 or heard.json["status"] in ("cancelled", "completed")
            else:
                assert (heard.status, heard.json["status"]) == (200, "completed"), (text, heard)
                assert words_of(heard.json["response"]) == f"answer to {text}"
        db = journal.connect(self.one.journal.folder / journal.FILE, read_only=True)
        prints = [row[0] for row in db.execute("SELECT print FROM jobs WHERE key IS NOT NULL")]
        db.close()
        assert len(set(prints)) == len(prints), "two jobs of one request"


STEP = st.one_of(
    st.tuples(
        st.just("ask"),
        st.sampled_from(PATHS),
        st.sampled_from(("respond-async", "wait=0", "")),
        st.booleans(),
        st.none() | st.integers(0, 30),
    ),
    st.tuples(st.just("engine"), st.sampled_from(ENGINES)),
    st.tuples(st.just("cancel"), st.integers(0, 9)),
    st.tuples(st.just("time"), st.sampled_from((0.0, 0.01, 0.05))),
    st.tuples(st.just("restart"), st.sampled_from(RULES)),
    st.tuples(st.just("crash")),
)


ALL_RUBBISH: list[tuple[Any, ...]] = [
    step
    for which in RUBBISH
    for step in (
        ("engine", which), ("ask", PATHS[0], "respond-async", True, None), ("ask", PATHS[0], "wait=0", False, None),
        ("ask", PATHS[1], "respond-async", False, None), ("engine", "good"), ("time", 0.05),
    )
]  # fmt: skip
"""Each kind at least once, whatever is drawn."""


def lived(steps: list[tuple[Any, ...]]) -> None:
    """A life from its beginning to its end, with pauses that are as short as can be."""
    home = Path(tempfile.mkdtemp(prefix="queue-life-"))
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lines, "pause_after", lambda _failures: 0.02)
            patch.setattr(lines, "PATIENT_TIMEOUTS", 1000)
            patch.setattr(drain, "STORE_PAUSE", 0.02)
            patch.setattr(app, "TRY_SECONDS", 0.05)
            asyncio.run(Life(home).run(steps))
    finally:
        shutil.rmtree(home)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(STEP, min_size=4, max_size=14))
@example(ALL_RUBBISH)
def test_any_life(steps: list[tuple[Any, ...]]) -> None:
    lived(steps)


@pytest.mark.nightly
@settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(STEP, min_size=4, max_size=40))
def test_any_long_life(steps: list[tuple[Any, ...]]) -> None:
    lived(steps)
