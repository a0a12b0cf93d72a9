# SPDX-License-Identifier: MIT
"""mode_switch: its arithmetic, and the whole measurement with processes in the place of containers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import switch_processes
from benchkit import mode_switch, plots, switching
from benchkit.results import Figure, exact
from benchkit.switching import Call, Switched
from labkit.say import Failed

BENCHKIT = Path(switching.__file__).parent


def call(began: float, ended: float, words: str) -> Call:
    return Call(began, ended, words)


# --- arithmetic


def test_what_is_the_engines_and_what_is_left() -> None:
    log = [
        call(101.0, 103.0, "compose --file a.yml down"),
        call(104.0, 104.5, "version"),
        call(105.0, 105.5, "compose --file b.yml up --detach"),
    ]
    made = switching.judged("x", "b", 100.0, 110.0, log, 109.0, 8.0)
    assert (made.whole, made.compose, made.loading) == (10.0, 2.5, 3.5)
    assert made.overhead == 4.0 and not made.early


def test_who_says_too_early_that_it_is_done_gets_the_whole_time() -> None:
    log = [call(100.0, 101.0, "compose --file b.yml up")]
    made = switching.judged("x", "b", 100.0, 102.0, log, 107.0, None)
    assert made.early and made.whole == 7.0 and made.overhead == 0.0


def test_an_engine_that_answers_before_up_is_over_has_no_loading() -> None:
    log = [call(100.0, 105.0, "compose --file b.yml up")]
    assert switching.judged("x", "b", 100.0, 106.0, log, 104.0, None).loading == 0.0


def test_nothing_was_brought_up() -> None:
    with pytest.raises(ValueError, match="nothing was brought up"):
        switching.judged("x", "b", 0.0, 1.0, [call(0.0, 1.0, "compose --file a.yml down")], 1.0, None)


def test_words_of_docker() -> None:
    (found,) = switching.calls("1.5\t2.5\tcompose --file /etc/x y.yml up --detach\n")
    assert (found.seconds, found.compose) == (1.0, "up")
    assert [call(0, 0, words).compose for words in ("ps up", "compose --file a ps", "compose --file a down")] == [
        "",
        "",
        "down",
    ]


def made(way: str, overhead: float, **more: Any) -> Switched:
    return Switched(way, "a", 5.0 + overhead, 2.0, 3.0, **more)


def test_figures() -> None:
    found = [made("sovereignctl", 0.5, told=5.2), made("sovereignctl", 0.7), made("stop-script", 6.0, early=True)]
    by_name = {(figure.case, figure.metric): figure for figure in mode_switch.figures(found)}
    own = by_name["sovereignctl", "overhead"]
    assert own.estimate.value == pytest.approx(0.6) and own.met == "yes"
    ratio = by_name["stop-script / sovereignctl", "overhead"]
    assert ratio.estimate.value == pytest.approx(10) and ratio.met == "yes"
    assert by_name["sovereignctl", "overhead, the switch alone"].estimate.value == pytest.approx(0.2)
    assert by_name["stop-script", "said to be done before it answered"].estimate.value == 1
    assert ("stop-script", "overhead, the switch alone") not in by_name


@pytest.mark.parametrize(("ours", "script", "met"), [(1.2, 12.0, ("no", "yes")), (0.9, 2.0, ("yes", "no"))])
def test_a_goal_can_be_missed(ours: float, script: float, met: tuple[str, str]) -> None:
    found = mode_switch.figures([made("sovereignctl", ours), made("stop-script", script)])
    assert tuple(figure.met for figure in found if figure.goal) == met


def test_a_way_that_was_not_measured() -> None:
    with pytest.raises(Failed, match="stop-script was not measured"):
        mode_switch.figures([made("sovereignctl", 1.0)])


@pytest.mark.parametrize("text", ["", "no JSON", '{"switched": []}', '{"error": "", "switched": [{"x": 1}]}'])
def test_an_answer_that_cannot_be_read(text: str) -> None:
    with pytest.raises(Failed, match="nothing that can be read"):
        mode_switch.read(text)


def test_a_failed_switch_is_told() -> None:
    with pytest.raises(Failed, match="first ended with 3"):
        mode_switch.read('{"error": "ours to first ended with 3", "switched": []}')


def test_the_pair_of_modes() -> None:
    def tenant(name: str, kind: str = "completion") -> dict[str, Any]:
        return {"project": f"/{name}.yml", "ready": {"kind": kind, "url": "http://10.88.0.10:8000", "model": name}}

    tenants = {name: tenant(name) for name in "ab"} | {"c": tenant("c", "answer")}
    modes = {
        "two": {"tenants": ["a", "b"]},
        "c": {"tenants": ["c"]},
        "a": {"tenants": ["a"]},
        "again": {"tenants": ["a"]},
    }
    with pytest.raises(Failed, match="found: a"):
        mode_switch.pair({"tenants": tenants, "modes": modes})
    assert list(mode_switch.pair({"tenants": tenants, "modes": modes | {"b": {"tenants": ["b"]}}})) == ["a", "b"]


def test_the_drawing_is_of_the_parts() -> None:
    found = mode_switch.figures([made("sovereignctl", 0.5), made("stop-script", 6.0)])
    parts = plots.mode_switch_parts([*found, Figure("x", "whole", "s", exact(1))])
    assert {way: [metric for metric, _ in each] for way, each in parts.items()} == {
        way: ["docker compose", "engine until its first answer", "overhead"] for way in ("sovereignctl", "stop-script")
    }


# --- the whole, with processes


def free_ports(count: int) -> list[int]:
    """Ports that nobody has, each with the next one free."""
    found: list[int] = []
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found.append(probe.getsockname()[1])
    return [found[0] + 2 * number for number in range(count)]


def measured(tmp_path: Path, collections_root: Path, script: str, loading: float = 0.4) -> str:
    """One round of both ways over two engines; what the measuring program has printed."""
    docker = tmp_path / "real-docker"
    docker.write_text(f'#!/bin/sh\nexec {sys.executable} {switch_processes.HERE} "$@"\n')
    # A script that sleeps five seconds is not waited for in a test.
    sleep = tmp_path / "bin/sleep"
    sleep.parent.mkdir()
    sleep.write_text(
        f"#!/bin/sh\nexec {sys.executable} -c 'import sys, time; time.sleep(float(sys.argv[1]) / 10)' \"$1\"\n"
    )
    for path in (docker, sleep):
        path.chmod(0o755)
    with switch_processes.stage(tmp_path, free_ports(2), loading) as registry:
        ours = [sys.executable, str(switch_processes.HERE), "ours", str(tmp_path / "registry.json")]
        plan = mode_switch.plan_of(registry, ours, script, "", str(docker), 1)
        environment = {
            **os.environ,
            "COLLECTIONS_ROOT": str(collections_root),
            "PATH": f"{sleep.parent}:{os.environ['PATH']}",
        }
        switch_processes.compose(["--file", registry["tenants"]["second"]["project"], "up"])
        deadline = time.monotonic() + 60
        while not switching.answers(registry["tenants"]["second"]["ready"]["url"], "second"):
            assert time.monotonic() < deadline, "the first engine does not come up"
            time.sleep(0.1)
        done = subprocess.run(
            [sys.executable, "-c", (BENCHKIT / "switching.py").read_text()],
            input=json.dumps(plan),
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    return done.stdout


@pytest.mark.nightly
def test_both_ways_are_measured(tmp_path: Path, collections_root: Path) -> None:
    found = mode_switch.read(measured(tmp_path, collections_root, str(BENCHKIT / "plain_switch.sh")))
    assert sorted((each.way, each.target) for each in found) == [
        (way, target) for way in ("sovereignctl", "stop-script") for target in ("first", "second")
    ]
    for each in found:
        # The engine's own time is seen by the program beside it, whoever switches.
        assert each.loading > 0.3 and each.compose > 0 and each.overhead > 0 and not each.early
        assert (each.told is not None) is (each.way == "sovereignctl")
        assert each.told is None or each.told < each.whole
    assert {figure.metric for figure in mode_switch.figures(found) if figure.goal} == {"overhead"}


@pytest.mark.nightly
def test_a_script_that_fails_is_no_result(tmp_path: Path, collections_root: Path) -> None:
    broken = tmp_path / "broken.sh"
    broken.write_text("echo it is broken >&2; exit 7\n")
    with pytest.raises(Failed, match="stop-script to first ended with 7: it is broken"):
        mode_switch.read(measured(tmp_path, collections_root, str(broken)))


@pytest.mark.nightly
def test_a_script_that_does_not_wait_is_found_out(tmp_path: Path, collections_root: Path) -> None:
    """It says that it is done when the engine has not answered yet."""
    hasty = tmp_path / "hasty.sh"
    text = (BENCHKIT / "plain_switch.sh").read_text()
    hasty.write_text(text[: text.index("\nuntil ")] + "\n")
    found = mode_switch.read(measured(tmp_path, collections_root, str(hasty)))
    assert all(each.early for each in found if each.way == "stop-script")
    assert not any(each.early for each in found if each.way == "sovereignctl")
