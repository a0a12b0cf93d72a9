# SPDX-License-Identifier: MIT
"""The terminal picker under its headless driver: choose, look, switch, watch, fail, call off."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from ctl_recording import BEGIN, PAGE, SIZE, choose, page, record, text_of, until
from ctl_world import Desk
from sovereignctl import attempt
from sovereignctl.picker import Picker, Question, Switching
from textual.pilot import Pilot

Drive = Callable[[Pilot[int]], Awaitable[None]]


def drive(desk: Desk, steps: Drive) -> Picker:
    """Run a picker on a played machine through some steps."""
    app = Picker(desk.card, now=lambda: 0.0)

    async def run() -> None:
        async with app.run_test(size=SIZE, notifications=True) as pilot:
            await until(pilot, "mode ", "forensic")
            await steps(pilot)

    asyncio.run(run())
    return app


def test_the_modes_with_budget_and_what_would_be_done(desk: Desk) -> None:
    desk.world.at_work["vllm-agent"] = 1e9

    async def steps(pilot: Pilot[int]) -> None:
        shown = await until(pilot, "mode agent")
        assert "26000 of 32607 MiB are taken" in shown and "at work: vllm-agent: 2 requests run" in shown
        await choose(pilot, "audio")
        shown = await until(pilot, "stops   vllm-agent (22000 MiB)", "keeps   tts (4000 MiB)", "starts  nobody")
        assert "AT WORK vllm-agent: 2 requests run" in shown
        await choose(pilot, "off")
        await until(pilot, "keeps   nobody")

    drive(desk, steps)
    assert desk.journal.history() == []


def test_choose_and_switch_and_see_its_progress(desk: Desk) -> None:
    desk.world.hold = "start vllm-forensic"

    async def steps(pilot: Pilot[int]) -> None:
        await choose(pilot, "forensic")
        await pilot.press("enter")
        await until(pilot, "Switch from agent to forensic?", "stop vllm-agent (22000 MiB)")
        await pilot.press("left", "enter")
        shown = await until(pilot, "> starting: vllm-forensic")
        assert "stopping: vllm-agent" in shown and "no switch to this mode was measured yet" in shown and "%" in shown
        desk.world.go.set()
        await until(pilot, "mode forensic, 27000 of 32607 MiB")
        await pilot.press("q")

    assert drive(desk, steps).return_value == attempt.DONE
    desk.serves("forensic")


def test_a_second_enter_begins_nothing(desk: Desk) -> None:
    """The answer that is under the cursor is the one that does nothing."""

    async def steps(pilot: Pilot[int]) -> None:
        await choose(pilot, "forensic")
        await pilot.press("enter")
        await until(pilot, "Switch from agent to forensic?")
        await pilot.press("enter")
        await pilot.pause()
        assert not isinstance(pilot.app.screen, (Question, Switching))

    drive(desk, steps)
    assert desk.journal.history() == []


@pytest.mark.parametrize("key", ["escape"])
def test_cancel_before_it(desk: Desk, key: str) -> None:
    async def steps(pilot: Pilot[int]) -> None:
        await choose(pilot, "forensic")
        await pilot.press("enter")
        await until(pilot, "Switch from agent to forensic?")
        await pilot.press(key)
        await pilot.pause()
        assert not isinstance(pilot.app.screen, Question)

    drive(desk, steps)
    assert desk.journal.history() == []


@pytest.mark.parametrize("key", ["escape", "ctrl+q", "enter"])
def test_call_it_off_in_the_middle(desk: Desk, key: str) -> None:
    """Escape, the button, and leaving: each goes back to the old mode, and nobody leaves before that."""
    desk.world.hold = "start vllm-forensic"

    async def steps(pilot: Pilot[int]) -> None:
        await choose(pilot, "forensic")
        await pilot.press("enter")
        await until(pilot, "Switch from agent")
        await pilot.press("left", "enter")
        await until(pilot, "> starting: vllm-forensic")
        await pilot.press(key)
        await until(pilot, "it is called off at its next step")
        assert pilot.app.is_running
        desk.world.go.set()
        await until(pilot, "it was called off", "The last good mode serves again.")
        await pilot.press("escape")
        await until(pilot, "mode agent")
        await pilot.press("q")

    assert drive(desk, steps).return_value == attempt.CANCELLED
    desk.serves("agent")


def test_a_failure_with_its_remedy(desk: Desk) -> None:
    desk.world.die.add("vllm-forensic")

    async def steps(pilot: Pilot[int]) -> None:
        await choose(pilot, "forensic")
        await pilot.press("enter")
        await until(pilot, "Switch from agent")
        await pilot.press("left", "enter")
        shown = await until(pilot, "tenant vllm-forensic", "What to do: Look at what its log says.")
        assert "the last words of vllm-forensic" in shown and "The last good mode serves again." in shown
        await pilot.press("enter", "q")

    assert drive(desk, steps).return_value == attempt.ROLLED_BACK
    desk.serves("agent")


@pytest.mark.parametrize(
    ("presses", "target"), [(("left", "left"), "forensic"), (("left",), "forensic"), ((), "agent")]
)
def test_who_is_at_work_is_asked_about(desk: Desk, presses: tuple[str, ...], target: str) -> None:
    """Wait for it, end the work, or leave it; the work takes 5 seconds behind a shut door."""
    desk.world.at_work["vllm-agent"] = desk.world.clock + 5

    async def steps(pilot: Pilot[int]) -> None:
        await choose(pilot, "forensic")
        await pilot.press("enter")
        shown = await until(pilot, "Somebody is at work", "vllm-agent: 2 requests run")
        assert "Wait for it" in shown and "End the work" in shown
        await pilot.press(*presses, "enter")
        await until(pilot, f"mode {target}")

    drive(desk, steps)
    desk.serves(target)


def test_the_mode_that_serves_is_not_switched_to(desk: Desk) -> None:
    async def steps(pilot: Pilot[int]) -> None:
        await pilot.press("enter")
        await until(pilot, "agent serves already.")

    drive(desk, steps)
    assert desk.journal.history() == []


def test_a_plan_that_is_refused_is_told(desk: Desk) -> None:
    desk.world.broken["memory"] = "the driver does not answer"

    async def steps(pilot: Pilot[int]) -> None:
        await choose(pilot, "forensic")
        await pilot.press("enter")
        await until(pilot, "played memory", "the driver does not answer", "Nothing was begun.")

    app = Picker(desk.card, now=lambda: 0.0)

    async def run() -> None:
        async with app.run_test(size=SIZE, notifications=True) as pilot:
            await until(pilot, "the driver does not answer")
            await steps(pilot)

    asyncio.run(run())
    assert desk.journal.intent() is None


def test_marks_in_texts_are_shown_as_they_are(desk: Desk) -> None:
    """A log may hold what textual takes for markup."""
    desk.world.broken["start"] = "it said [bold]no[/nothing] and [red"

    async def steps(pilot: Pilot[int]) -> None:
        await choose(pilot, "forensic")
        await pilot.press("enter")
        await until(pilot, "Switch from agent")
        await pilot.press("left", "enter")
        await until(pilot, "[bold]no[/nothing]")

    drive(desk, steps)


def test_who_leaves_while_the_machine_is_asked_just_leaves(desk: Desk) -> None:
    async def steps(pilot: Pilot[int]) -> None:
        desk.world.hold = "running"
        await pilot.press("r")
        await asyncio.to_thread(desk.world.reached.wait, 20)
        await pilot.press("q")
        desk.world.go.set()

    assert drive(desk, steps).return_value == attempt.DONE


# ---- the recording
def test_the_recording_in_the_docs_is_what_is_shown(desk: Desk) -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert page(text, asyncio.run(record(desk))) == text, "run tests/unit/roles/sovereignctl/ctl_recording.py"


def test_another_screen_would_be_seen() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert BEGIN in text and page(text, [("Something:", "else")]) != text


def test_text_of_a_screen_is_text(desk: Desk) -> None:
    async def steps(pilot: Pilot[int]) -> None:
        assert isinstance(pilot.app, Picker)
        assert "\x1b" not in text_of(pilot.app)

    drive(desk, steps)
