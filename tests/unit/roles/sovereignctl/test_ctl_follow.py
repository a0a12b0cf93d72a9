# SPDX-License-Identifier: MIT
"""What is shown of a switch: the share never goes down, the times go on between two steps."""

from __future__ import annotations

import pytest
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu.switch import Step
from ctl_world import Desk, Terminal
from hypothesis import given
from hypothesis import strategies as st
from sovereignctl.follow import BACK, WORDS, Follow, Shown, clock
from sovereignctl.say import Progress, drawn

STEPS = st.builds(
    Step,
    st.sampled_from([*WORDS, BACK, "a phase of tomorrow"]),
    st.sampled_from(["", "vllm-agent: it loads"]),
    st.floats(0, 1000),
    st.one_of(st.none(), st.floats(0.1, 1000)),
)


@given(st.lists(STEPS, min_size=1, max_size=20))
def test_the_share_never_goes_down_and_is_never_full(steps: list[Step]) -> None:
    follow, before = Follow(), 0.0
    for at, step in enumerate(steps):
        follow.step(step, float(at))
        shown = follow.shown(at + 0.5)
        assert before <= shown.share < 1 and shown.elapsed >= step.elapsed
        assert shown.left is None or shown.left >= 0
        before = shown.share


def test_an_expected_time_makes_share_and_rest() -> None:
    follow = Follow()
    follow.step(Step("start", "vllm-agent", 30.0, 120.0), 500.0)
    shown = follow.shown(530.0)
    assert (shown.elapsed, shown.left, shown.share) == (60.0, 60.0, 0.5)
    assert shown.times == "1:00, about 1:00 left" and shown.title == "starting: vllm-agent"
    assert follow.shown(700.0).times == "3:50, longer than usual"


def test_without_history_the_phases_count() -> None:
    follow = Follow()
    shares = []
    for phase in WORDS:
        follow.step(Step(phase, "", 1.0, None), 0.0)
        shares.append(follow.shown(0.0).share)
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 0.99
    assert "no switch to this mode was measured yet" in follow.shown(0.0).times


def test_every_phase_of_a_real_switch_has_words(desk: Desk) -> None:
    seen: list[str] = []
    desk.card.switch("forensic", report=lambda step: seen.append(step.phase))
    assert {"busy", "idle", "close", "drain", "stop", "freed", "start", "answers", "open", "commit"} <= set(seen)
    assert set(seen) <= set(WORDS)


def test_the_way_back_is_said() -> None:
    follow = Follow()
    follow.step(Step("start", "x", 10.0, 20.0), 0.0)
    follow.step(Step(BACK, "start vllm-agent", 12.0, 20.0), 0.0)
    assert follow.shown(0.0).title == "going back to the last good mode: start vllm-agent"
    assert follow.shown(5.0).left is None and follow.shown(5.0).share == follow.shown(0.0).share


@pytest.mark.parametrize("width", [10, 40, 80, 200])
def test_a_bar_fits_the_terminal(width: int) -> None:
    line = drawn(Shown("starting", "vllm-forensic: it loads " * 4, 75, 30, 0.42), width)
    assert len(line) < width and (width < 80 or "42 %  1:15, about 0:30 left  starting" in line)


def test_lines_where_nobody_sits_and_a_bar_where_somebody_does() -> None:
    plain, live = Terminal(), Terminal(somebody=True)
    for stream in (plain, live):
        with Progress(stream, stream.isatty(), now=lambda: 0.0) as progress:
            for detail in ("a", "a", "b"):
                progress.step(
                    Step("start", detail, 1.0, None),
                )
    assert plain.getvalue().splitlines() == [
        f"0:01, no switch to this mode was measured yet  starting: {detail}" for detail in "ab"
    ]
    assert live.getvalue().startswith("\r\x1b[2K[####") and live.getvalue().endswith("\r\x1b[2K")
    assert "\x1b" not in plain.getvalue()


def test_a_clock() -> None:
    assert [clock(seconds) for seconds in (0, 59.9, 60, 3601)] == ["0:00", "0:59", "1:00", "60:01"]
