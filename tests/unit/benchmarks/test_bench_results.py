# SPDX-License-Identifier: MIT
"""The CSV files, the tables, the machine, and that plots and page belong to the committed results."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from benchkit import machine, plots, render, results
from benchkit.results import Figure, exact
from benchkit.stats import Estimate

ROOT = Path(__file__).resolve().parents[3]
MACHINE = {
    "cores": "2",
    "memory_gib": "24",
    "cpu": "A CPU, with a comma",
    "kernel": "6.1",
    "versions": "x 1, y 2",
    "commit": "abc",
    "measured_at": "2026-01-01T00:00Z",
}
ESTIMATE = Estimate(12.3456, 11, 14.2, 300)
FIGURE = Figure("T1, plain, 1 at once", "added p50 to the last byte", "ms", ESTIMATE, goal="<= 15")


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (12.3456, "12.35"), (0.0012345, "0.001234"), (123456.7, "123500"), (1000.4, "1000")]
)
def test_numbers_have_four_digits_and_no_exponent(value: float, text: str) -> None:
    assert results.number(value) == text


@pytest.mark.parametrize(
    ("goal", "met"), [("", ""), ("<= 12.4", "yes"), ("<= 12.3", "no"), (">= 12.3", "yes"), (">= 13", "no")]
)
def test_a_goal_is_judged(goal: str, met: str) -> None:
    assert replace(FIGURE, goal=goal).met == met


def test_a_goal_that_nobody_understands() -> None:
    with pytest.raises(ValueError, match="neither"):
        _ = replace(FIGURE, goal="< 5").met


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "deep/x.csv"
    other = replace(FIGURE, case="cold", machine={**MACHINE, "commit": "older"})
    results.write(path, [FIGURE, other], MACHINE)
    first, second = results.read(path)
    assert (first.case, first.estimate.n, first.goal, first.machine) == (FIGURE.case, 300, "<= 15", MACHINE)
    assert first.estimate.value == pytest.approx(12.35)
    assert second.machine["commit"] == "older"
    results.write(path, [first, second], {})
    assert results.read(path) == [first, second]


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="measure again"):
        results.read(path)


def test_a_table_has_columns() -> None:
    lines = results.table([FIGURE, replace(FIGURE, estimate=exact(3), goal="")])
    assert len(lines) == 4
    assert lines[2].startswith("T1, plain, 1 at once  added p50")
    assert lines[2].endswith("<= 15  yes")
    assert {line.index("ms") for line in lines[2:]} == {lines[0].index("unit")}


def test_markdown_names_the_machine_once_for_all_its_rows() -> None:
    old = replace(FIGURE, machine={**MACHINE, "commit": "older"}, goal="<= 1")
    text = "\n".join(results.markdown([replace(FIGURE, machine=MACHINE), replace(FIGURE, machine=MACHINE), old]))
    assert text.count("A CPU, with a comma") == 2
    assert "| 12.35 ms | 11, 14.2 | 300 | ≤ 15 | yes |" in text
    assert "**no**" in text


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        ("model name\t: Intel(R) Xeon(R) Processor\ncpu family\t: 6\nmodel\t\t: 207\nstepping\t: 2\n",
         "Intel Xeon Processor (family 6 model 207 stepping 2)"),
        ("model name\t: AMD Ryzen 9 9950X 16-Core Processor\ncpu family\t: 26\nmodel\t\t: 68\nstepping\t: 0\n",
         "AMD Ryzen 9 9950X 16-Core Processor"),
    ],
)  # fmt: skip
def test_a_cpu_has_a_name_that_says_something(cpuinfo: str, name: str) -> None:
    assert machine.cpu_model(cpuinfo) == name


@pytest.mark.parametrize(
    ("release", "version"), [("6.1.0-28-amd64", "6.1.0"), ("6.8.12", "6.8.12"), ("odd", "odd")]
)
def test_a_kernel_is_its_version(release: str, version: str) -> None:
    assert machine.kernel(release) == version


def test_a_commit_says_whether_files_differ_from_it(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        who = ["-c", "user.name=x", "-c", "user.email=x@example.test", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *words], check=True, capture_output=True)

    assert machine.commit(tmp_path) == "unknown"
    (tmp_path / "benchmarks/results").mkdir(parents=True)
    code, result = tmp_path / "code", tmp_path / "benchmarks/results/x.csv"
    code.write_text("1")
    result.write_text("1")
    git("init", "-q")
    git("add", "code", "benchmarks")
    git("commit", "-q", "-m", "x")
    result.write_text("2")
    assert re.fullmatch(r"[0-9a-f]{9}", machine.commit(tmp_path))
    code.write_text("2")
    assert machine.commit(tmp_path).endswith("+")


def test_a_plot_names_the_file_it_was_made_from() -> None:
    digest = "a" * 64
    assert plots.digest_in(f"<x><dc:identifier>sha256:{digest}</dc:identifier></x>") == digest
    assert plots.digest_in("<svg/>") == ""


def test_the_data_of_a_plot() -> None:
    four = replace(FIGURE, case="T1, plain, 4 at once")
    other = replace(FIGURE, case="engine directly, plain, 1 at once")
    assert plots.gateway_lines([four, FIGURE, other]) == {("plain", "T1", "p50"): [(1, FIGURE), (4, four)]}
    first = Figure("T2, refused", "first request: added p95 to the first piece", "ms", exact(40))
    assert plots.failover_points([first, FIGURE]) == {"first request, p95 added": [("T2", "refused", first)]}
    speed = Figure("610 MB, llama-server, threads 2, 4 at once", "speed", "tokens/s", exact(40))
    assert plots.speeds([speed, FIGURE]) == {("610 MB", 4): [("llama-server", 2, speed)]}
    limit = Figure("610 MB, threads 2", "limit by memory, 1 at once", "tokens/s", exact(33))
    assert plots.limits([limit, speed]) == {("610 MB", 2): 33}
    role = Figure("no change, gateway", "time", "s", exact(7))
    whole = Figure("no change", "time", "s", exact(50))
    assert plots.converge_bars([whole, role, FIGURE]) == ([("no change", whole)], [("gateway", role)])


def _tree(root: Path) -> Path:
    results.write(root / render.RESULTS / "gateway.csv", [FIGURE], MACHINE)
    page = root / render.PAGE
    page.parent.mkdir(parents=True)
    page.write_text(f"# Words\n\n{render.begin('gateway')}\nold\n{render.end('gateway')}\n\nmore words\n")
    page.write_text(render.page(root, page.read_text()))
    (root / render.PLOTS).mkdir()
    digest = results.digest(root / render.RESULTS / "gateway.csv")
    (root / render.PLOTS / "gateway.svg").write_text(f"<dc:identifier>sha256:{digest}</dc:identifier>")
    return page


def test_what_belongs_together_is_not_stale(tmp_path: Path) -> None:
    page = _tree(tmp_path)
    assert render.stale(tmp_path) == []
    assert "more words" in page.read_text()
    assert "old\n" not in page.read_text()


def test_a_result_that_was_measured_anew_makes_plot_and_table_stale(tmp_path: Path) -> None:
    _tree(tmp_path)
    results.write(tmp_path / render.RESULTS / "gateway.csv", [replace(FIGURE, estimate=exact(99))], MACHINE)
    assert len(render.stale(tmp_path)) == 2
    (tmp_path / render.PLOTS / "gateway.svg").unlink()
    assert "is missing" in render.stale(tmp_path)[0]


def test_a_page_without_a_place_for_a_result(tmp_path: Path) -> None:
    page = _tree(tmp_path)
    page.write_text("# Words\n")
    with pytest.raises(ValueError, match="are missing"):
        render.stale(tmp_path)


def test_the_committed_plots_and_tables_belong_to_the_committed_results() -> None:
    assert render.stale(ROOT) == [], "run tools/bench render and commit what it writes"


def test_every_committed_result_is_a_result() -> None:
    found = sorted((ROOT / render.RESULTS).glob("*.csv"))
    assert {path.stem for path in found} <= set(render.NAMES)
    for path in found:
        for figure in results.read(path):
            assert figure.machine["commit"] not in ("", "unknown")
            assert figure.row()["met"] in ("", "yes", "no")
