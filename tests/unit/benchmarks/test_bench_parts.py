# SPDX-License-Identifier: MIT
"""The parts of each benchmark that decide something."""

from __future__ import annotations

import importlib.util
import json
import re
import struct
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from benchkit import (
    audit,
    converge,
    cpu_floor,
    environment,
    failover,
    gateway,
    gguf,
    lab,
    plots,
    queue,
    results,
    say,
    stats,
)
from benchkit.converge import Playback, Task
from benchkit.cpu_floor import Bandwidth, Model
from benchkit.failover import Case, Found
from benchkit.load import Sample
from labkit.say import Failed

ROOT = Path(__file__).resolve().parents[3]


# --- converge


def line(**more: object) -> str:
    told = {"name": "r : t", "action": "ansible.builtin.copy", "ok": 1, "changed": 0, "skipped": 0, "items": 0}
    return json.dumps({**told, "loop": False, "seconds": 0.5, **more})


@pytest.mark.parametrize(
    ("told", "executions"),
    [
        ({}, 1),
        ({"loop": True, "items": 4}, 4),
        ({"loop": True, "items": 0}, 0),
        ({"action": "ansible.builtin.assert"}, 0),
        ({"action": "debug"}, 0),
        ({"action": "mushishi.sovereign.secret_file"}, 1),
        ({"ok": 0, "skipped": 1}, 0),
        ({"ok": 0, "changed": 1}, 1),
    ],
)
def test_what_counts_as_an_execution(told: dict[str, object], executions: int) -> None:
    assert Task.of(line(**told)).executions == executions


def test_the_floor_has_the_same_shape() -> None:
    tasks = [Task.of(line()), Task.of(line(loop=True, items=3)), Task.of(line(action="debug")), Task.of(line())]
    (play,) = yaml.safe_load(converge.floor_playbook(tasks))
    assert [task.get("loop") for task in play["tasks"]] == [None, [0, 1, 2], None]
    assert all("ansible.builtin.ping" in task for task in play["tasks"])


def test_the_profile_sums_tasks_of_one_name() -> None:
    tasks = [Task.of(line(seconds=1.0)), Task.of(line(seconds=2.0)), Task.of(line(name="other", seconds=2.5))]
    table = converge.slowest(tasks, rows=1)
    assert table[2].split() == ["3.00", "2", "2", "r", ":", "t"]
    assert table[3].split() == ["2.50", "1", "others"]
    assert converge.by_role(tasks) == {"r": 3.0, "playbook": 2.5}


def test_a_cold_figure_of_an_earlier_run_stays() -> None:
    tasks = (Task.of(line()),)
    first = converge.figures([Playback(50, tasks)] * 3, [Playback(20, tasks)] * 3, [])
    cold = converge.Figure("cold, llama-server cached", "time", "s", converge.exact(300), "", "", {"commit": "old"})
    again = converge.figures([Playback(40, tasks)] * 3, [Playback(20, tasks)] * 3, [*first, cold])
    assert [figure.machine for figure in again if figure.case.startswith("cold")] == [{"commit": "old"}]
    (ratio,) = [figure for figure in again if figure.metric == "ratio"]
    assert (ratio.estimate.value, ratio.met) == (2.0, "yes")


# --- gateway


def sample(whole: float, status: int = 200) -> Sample:
    return Sample("x", status, whole / 2, whole, 0.0, "gpu", "" if status == 200 else "bad")


def test_a_cell_is_judged_against_the_engine_in_the_same_block() -> None:
    cell = gateway.Cell(stream=False, parallel=1, blocks=2, block=3)
    direct = [[sample(0.215)] * 3, [sample(0.315)] * 3]
    way = [[sample(0.225)] * 3, [sample(0.335)] * 3]
    figures = gateway.judge(cell, {"gpu direct": direct, "T1": way}, "gpu direct")
    found = {(figure.case.split(",")[0], figure.metric[:9]): figure for figure in figures}
    assert found["T1", "added p50"].estimate.value == pytest.approx(15)
    assert found["T1", "added p50"].goal == "<= 15"
    assert found["T1", "added p99"].goal == ""
    assert found["T1", "added p99"].estimate.value == pytest.approx(20)


def test_too_many_failures_make_no_figure() -> None:
    cell = gateway.Cell(stream=True, parallel=4, blocks=1, block=10)
    good, bad = [[sample(0.2)] * 10], [[sample(0.2)] * 7 + [sample(0.2, 429)] * 3]
    with pytest.raises(Failed, match="3 of 10 requests failed"):
        gateway.judge(cell, {"gpu direct": good, "T1": bad}, "gpu direct")
    one = [[sample(0.2)] * 9 + [sample(0.2, 500)]]
    figures = gateway.judge(cell, {"gpu direct": good, "T1": one}, "gpu direct")
    assert [(figure.estimate.value, figure.met) for figure in figures if figure.metric == "failed"] == [(1, "no")]


def test_enough_requests_for_a_99th_percentile() -> None:
    assert all(cell.blocks * cell.block >= 300 for cell in gateway.cells(quick=False))
    assert {cell.parallel for cell in gateway.cells(quick=False)} == {1, 4, 16}
    assert sum(cell.expected for cell in gateway.cells(quick=False)) < 13 * 60
    assert sum(cell.expected for cell in gateway.cells(quick=True)) < 2 * 60


def test_processor_time_is_shared_among_the_requests_that_pass() -> None:
    units = ("sovereign-gateway", "sovereign-door", "sovereign-llama-coder")
    before = {name: lab.Usage(0, None, 1.0) for name in units}
    after = {name: lab.Usage(0, None, 3.0) for name in before}
    figures = gateway.work("plain", before, after, asked=100)
    assert {figure.case: figure.estimate.value for figure in figures} == {
        "sovereign-gateway, plain": 20.0,
        "sovereign-door, plain": 10.0,
    }


# --- failover


def test_the_rows_of_a_case() -> None:
    case = Case("refused", "refuse", "<= 50")
    figures = failover.figures("T1", case, Found([0.04, 0.06], [0.03] * 20, [0.2, 0.9]))
    assert [figure.goal for figure in figures] == ["", "<= 50", "", "<= 50", "<= 1000"]
    assert [figure.met for figure in figures] == ["", "no", "", "yes", "yes"]
    assert figures[-1].estimate.high == pytest.approx(900)


def test_every_fault_is_one_that_the_stand_in_knows() -> None:
    from standins import engine

    assert {case.fault for case in failover.CASES} <= set(engine.FAULTS)


# --- cpu_floor


def test_bandwidth_is_read() -> None:
    assert Bandwidth.of("read 11.5\ntriad 10.25\nread 12\ntriad 11\n") == Bandwidth([11.5e9, 12e9], [10.25e9, 11e9])
    with pytest.raises(ValueError, match="no bandwidth"):
        Bandwidth.of("Segmentation fault")


def test_the_rows_of_the_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_floor, "threads", lambda: [1, 2])
    model = Model("600 MB", Path("x"), 600_000_000, 32)
    speeds: cpu_floor.Speeds = {}
    for server, factor in (("llama-server", 1.0), ("llama-cpp-python", 0.2)):
        for count in (1, 2):
            for parallel in (1, 4):
                speeds[model.name, server, count, parallel] = [factor * count * parallel * 5.0]
    memory = {count: Bandwidth([count * 6e9], [count * 5e9]) for count in (1, 2)}
    found = {(f.case, f.metric): f for f in cpu_floor.figures(speeds, memory, [model])}
    assert found["600 MB, threads 2", "limit by memory, 1 at once"].estimate.value == pytest.approx(20)
    assert found["600 MB, threads 2", "llama-server, 1 at once / limit"].estimate.value == pytest.approx(0.5)
    best = found["600 MB, each at its best threads, 4 at once", "llama-server / llama-cpp-python"]
    assert (round(best.estimate.value, 6), best.goal, best.met) == (5.0, ">= 5", "yes")


def test_both_servers_are_told_the_same() -> None:
    model = Model("tiny", Path("/m.gguf"), 1, 8)
    ours = cpu_floor.command("llama-server", ["a"], model, 2, 4, 1234)
    theirs = cpu_floor.command("llama-cpp-python", ["b", "-m", "c"], model, 2, 4, 1234)
    for argv in (ours, theirs):
        assert ("/m.gguf" in argv, "1234" in argv, "127.0.0.1" in argv) == (True, True, True)
    assert ours[ours.index("--threads") + 1] == theirs[theirs.index("--n_threads") + 1] == "2"
    assert int(ours[ours.index("--ctx-size") + 1]) == 4 * int(theirs[theirs.index("--n_ctx") + 1])


def test_both_are_made_of_the_same_source() -> None:
    role = (ROOT / "roles/llama_cpp/files/source.txt").read_text(encoding="utf-8")
    pin = re.search(r"^(llama-cpp-python==\S+) --hash=(sha256:\w+)", role, re.MULTILINE)
    assert pin is not None
    lock = (ROOT / "requirements/benchmark-engine.txt").read_text(encoding="utf-8")
    assert environment.entries(lock, ["llama-cpp-python"]).split()[0] == pin[1]
    assert pin[2] in environment.entries(lock, ["llama-cpp-python"])
    assert pin[1].partition("==")[2] in (ROOT / "requirements/benchmark-engine.in").read_text(encoding="utf-8")


def test_a_lock_is_split_without_a_loss() -> None:
    lock = (ROOT / "requirements/benchmark-engine.txt").read_text(encoding="utf-8")
    one, others = environment.entries(lock, ["llama-cpp-python"]), environment.entries(lock, ["llama-cpp-python"], True)
    hashes = re.compile(r"--hash=sha256:\w+")
    assert sorted(hashes.findall(one) + hashes.findall(others)) == sorted(hashes.findall(lock))
    assert "llama-cpp-python==" not in others


# --- the larger model


@pytest.fixture(scope="module")
def tiny() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_tiny_gguf", ROOT / "molecule/standins/make_tiny_gguf.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_tiny_gguf"] = module
    spec.loader.exec_module(module)
    return module


def test_drawn_weights_are_half_floats_of_one_size() -> None:
    values = struct.unpack("<1000e", gguf.half_floats(5, gguf.SMALL, 1000))
    assert all(2**-6 <= abs(value) < 2**-5 for value in values)
    assert 350 < sum(value > 0 for value in values) < 650
    assert gguf.half_floats(5, gguf.SMALL, 1000) == gguf.half_floats(5, gguf.SMALL, 1000)


def test_bytes_go_round() -> None:
    assert b"".join(gguf.repeated(b"abcd", 6, 7)) == b"cdabcda"
    assert b"".join(gguf.repeated(b"abcd", 0, 0)) == b""


def test_the_larger_model_has_the_size_that_its_head_says(tiny: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    read = gguf.write(path, tiny, layers=1, embedding=256, feed_forward=512)
    data = path.read_bytes()
    count, pairs = struct.unpack_from("<QQ", data, 8)
    assert (data[:4], count, pairs > 10) == (b"GGUF", 12, True)
    matrices = 256 * 256 * 2 + 256 * 64 * 2 + 512 * 256 * 3
    vectors, head = 256 * 4 * 3, len(tiny.vocabulary()) * 256 * 2
    assert read == matrices * 2 + vectors + head
    assert len(data) > read + head
    assert not list(tmp_path.glob("*.part"))


# --- the rest


def test_units_have_short_names() -> None:
    assert lab.short("mushishi-hybrid-gateway.service") == "hybrid-gateway"


def test_time_left_follows_the_speed_seen() -> None:
    progress = say.Progress("x", 100)
    progress._begun = 0.0
    assert progress.left(10.0, 5.0) == "about 1:35 left"
    assert progress.left(60.0, 50.0) == "about 1:00 left"
    assert progress.left(300.0, 100.0) == "about 0:00 left"


# --- audit


def test_a_refused_question_differs_in_one_field() -> None:
    good, refused = (json.loads(kind(3, stream=False).body("private")) for kind in (audit.Question, audit.Refused))
    assert set(refused) - set(good) == {"api_base"} and {name: refused[name] for name in good} == good


def test_every_answer_must_be_what_was_asked_for() -> None:
    assert audit.good([sample(0.2), sample(0.4)]) == [0.2, 0.4]
    assert audit.good([sample(0.1, 400)], status=400) == [0.1]
    for wrong in ([sample(0.2), sample(0.4, 503)], [], [sample(0.1, 200)]):
        with pytest.raises(Failed):
            audit.good(wrong, status=400 if wrong and len(wrong) == 1 else 200)


def test_the_guards_are_drawn_from_the_file() -> None:
    made = audit.figures("guard, 1 at once", "pN at the gateway, with", [0.01] * 20)
    made += audit.figures("guard, 1 at once", "added pN at the gateway", [0.001] * 20)
    medians, added = plots.audit_bars(made)
    assert [figure.metric for _, figure in medians] == ["p50 at the gateway, with"]
    assert [figure.metric for _, figure in added] == [f"added p{n} at the gateway" for n in (50, 95, 99)]
    assert {figure.estimate.value for _, figure in added} == {1.0}


# --- queue


def test_a_rate_begins_when_every_slot_is_at_work() -> None:
    """Twelve answers, four at a time, a second each: the first four say nothing about the rate."""
    ends = [float(1 + at // queue.SLOTS) for at in range(12)]
    assert queue.rate_of(ends) == queue.rate_of(reversed_of(ends)) == 4.0


def reversed_of(values: list[float]) -> list[float]:
    return values[::-1]


def test_the_queue_is_drawn_from_the_file() -> None:
    made = [
        results.Figure("accepted, 1 at once", "p50 to the 202", "ms", queue.ms([0.003] * 20, 50)),
        results.Figure("accepted, 1 at once", "rate", "1/s", stats.over_repeats([9.0])),
        results.Figure("drained, 4 slots", "from the queue", "1/s", stats.over_repeats([18.0])),
    ]
    times, rates = plots.queue_bars(made)
    assert [figure.estimate.value for _, figure in times] == [pytest.approx(3.0)]
    assert [figure.metric for _, figure in rates] == ["from the queue"]


def test_the_disk_is_asked_for_its_own_time(tmp_path: Path) -> None:
    took = queue.syncs(tmp_path, 5)
    assert len(took) == 5 and all(seconds > 0 for seconds in took)
    assert (tmp_path / "floor").stat().st_size == 5 * 4096
