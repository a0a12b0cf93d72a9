# SPDX-License-Identifier: MIT
"""audit: how long a full audit takes, and what the guard and the request guard cost a request."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from labkit.paths import ROOT
from labkit.say import Failed

from . import stats
from .gateway import PERCENTILES
from .lab import Lab
from .load import Crowd, Question, Sample, Target
from .results import REPEATS, Figure, exact
from .say import Progress
from .stats import Estimate, over_repeats

#: The engine stand-in answers at once: what is measured is the way, not the engine. Milliseconds, tokens.
FIRST_MS, TOKEN_MS, TOKENS = 0, 0, 1
#: Requests of a block, blocks, by how many at once.
SIZES = {1: (50, 12), 16: (64, 10)}
QUICK = {1: (10, 2), 16: (32, 2)}
#: What a full audit may take, seconds.
AUDIT_GOAL = "<= 300"
#: How the guard is taken away and put back; the timer that would notice is stopped meanwhile.
GUARD_OFF = """
systemctl stop mushishi-evidence.timer 2>/dev/null || true
nft delete table inet mushishi_guard
ip netns exec sovereign nft delete table inet mushishi_guard
"""
GUARD_ON = """
systemctl reload mushishi-guard.service
ip netns exec sovereign nft --file /etc/mushishi/guard/plane.nft
systemctl start mushishi-evidence.timer 2>/dev/null || true
"""


@dataclass(frozen=True)
class Refused(Question):
    """A request that the request guard must refuse: it names a destination of its own."""

    def body(self, model: str) -> bytes:
        """The body of a good request, and one field more."""
        return json.dumps({**json.loads(super().body(model)), "api_base": "http://192.0.2.1/v1"}).encode()


def targets(lab: Lab) -> tuple[Target, Target]:
    """The sovereign gateway itself, and admission in front of it; both asked by root from within the plane."""
    gateway = Target("gateway", "127.0.0.1", 4011, "private", lab.secret("gateway-sovereign.key"), namespace=lab.plane)
    key = lab.run("cat", "/etc/mushishi/secrets/profiles/private.key").strip()
    return gateway, Target("admission", "10.88.0.2", 4001, "private", key, namespace=lab.plane)


@contextmanager
def guard_kept(lab: Lab) -> Iterator[None]:
    """Whatever happens inside, the guard is in force again afterwards."""
    try:
        yield
    finally:
        lab.run("sh", "-ec", GUARD_ON)


def good(samples: Sequence[Sample], status: int = 200) -> list[float]:
    """Seconds of the answers that are what they should be. Raises Failed for any other: every one counts here."""
    wrong = [sample for sample in samples if sample.status != status]
    if wrong or not samples:
        one = wrong[0] if wrong else None
        raise Failed(f"{len(wrong)} of {len(samples)} answers are not {status}; the first: {one and one.error}")
    return [sample.whole for sample in samples]


def figures(case: str, metric: str, seconds: Sequence[float]) -> list[Figure]:
    """Median and tails of some times."""
    made = []
    for percent in PERCENTILES:
        found = stats.percentile_estimate(seconds, percent)
        in_ms = Estimate(found.value * 1000, found.low * 1000, found.high * 1000, found.n)
        made.append(Figure(case, f"{metric.replace('pN', f'p{percent}')}", "ms", in_ms))
    return made


async def _with_and_without(lab: Lab, target: Target, parallel: int, size: tuple[int, int]) -> list[list[list[float]]]:
    """Blocks with the guard in force, and blocks without it, in turn."""
    block, blocks = size
    question = Question(TOKENS, stream=False)
    crowd = Crowd(target, parallel)
    found: list[list[list[float]]] = [[], []]
    try:
        await crowd.block(question, parallel * 4)
        for number in range(blocks):
            for without in (0, 1) if number % 2 == 0 else (1, 0):
                lab.run("sh", "-ec", GUARD_OFF if without else GUARD_ON)
                # The first request after the change finds cold caches of the kernel.
                await crowd.block(question, parallel)
                found[without].append(good(await crowd.block(question, block)))
                if without:
                    lab.run("sh", "-ec", GUARD_ON)
    finally:
        crowd.close()
    return found


async def _in_front(lab: Lab, parallel: int, size: tuple[int, int]) -> tuple[list[list[float]], list[list[float]]]:
    """Blocks of the gateway itself, and blocks through admission, in turn."""
    block, blocks = size
    question = Question(TOKENS, stream=False)
    crowds = [Crowd(target, parallel) for target in targets(lab)]
    found: list[list[list[float]]] = [[], []]
    try:
        for crowd in crowds:
            await crowd.block(question, parallel * 4)
        for number in range(blocks):
            for which in (0, 1) if number % 2 == 0 else (1, 0):
                found[which].append(good(await crowds[which].block(question, block)))
    finally:
        for crowd in crowds:
            crowd.close()
    return found[0], found[1]


async def _refusals(lab: Lab, parallel: int, size: tuple[int, int]) -> list[float]:
    """Times of refusals by the request guard."""
    block, blocks = size
    crowd = Crowd(targets(lab)[1], parallel)
    try:
        await crowd.block(Refused(TOKENS, stream=False), parallel * 2)
        return good(await crowd.block(Refused(TOKENS, stream=False), block * blocks), status=400)
    finally:
        crowd.close()


def full_audit(lab: Lab) -> tuple[float, dict[str, dict[str, int]]]:
    """Seconds of a whole run of playbooks/audit.yml, and what it counted. Raises Failed when it is not green."""
    began = time.monotonic()
    done = subprocess.run(
        ["ansible-playbook", "--inventory", str(ROOT / "inventory/lab"), str(ROOT / "playbooks/audit.yml")],
        cwd=ROOT,
        env=lab.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    took = time.monotonic() - began
    if done.returncode != 0:
        raise Failed("The audit is not green:\n" + "\n".join(done.stdout.splitlines()[-20:]))
    newest = lab.run("sh", "-c", "ls /var/lib/mushishi/audit/AUDIT-*.json | sort | tail -n 1").strip()
    if not re.fullmatch(r"/var/lib/mushishi/audit/[\w.:-]+\.json", newest):
        raise Failed(f"The audit left no report in /var/lib/mushishi/audit: {newest!r}")
    return took, dict(json.loads(lab.run("cat", newest))["summary"])


def measure(lab: Lab, quick: bool) -> list[Figure]:
    """The audit first, on a machine that is as it was built; then what the two guards cost."""
    sizes, repeats = (QUICK, 1) if quick else (SIZES, 3)
    progress = Progress("audit", repeats * 120 + 60 * len(sizes))
    took: list[float] = []
    counted: dict[str, dict[str, int]] = {}
    for number in range(repeats):
        progress.say(f"full audit {number + 1} of {repeats}", number * 120)
        seconds, counted = full_audit(lab)
        took.append(seconds)
    found = [Figure("full audit", "time", "s", over_repeats(took), REPEATS, AUDIT_GOAL)]
    for kind, outcomes in counted.items():
        found += [Figure(f"full audit, {kind}", outcome, "rows", exact(n), "") for outcome, n in outcomes.items()]
    with lab.standin_kept(), guard_kept(lab):
        lab.standin("speed", first_ms=FIRST_MS, token_ms=TOKEN_MS)
        gateway = targets(lab)[0]
        for at, (parallel, size) in enumerate(sizes.items()):
            place = f"{parallel} at once"
            progress.say(f"guard and request guard, {place}", repeats * 120 + 60 * at)
            within, without = asyncio.run(_with_and_without(lab, gateway, parallel, size))
            found += figures(f"guard, {place}", "pN at the gateway, with", [v for block in within for v in block])
            found += figures(f"guard, {place}", "pN at the gateway, without", [v for block in without for v in block])
            found += figures(f"guard, {place}", "added pN at the gateway", stats.added(within, without))
            direct, through = asyncio.run(_in_front(lab, parallel, size))
            found += figures(f"request guard, {place}", "pN, gateway alone", [v for block in direct for v in block])
            found += figures(f"request guard, {place}", "pN, through it", [v for block in through for v in block])
            found += figures(f"request guard, {place}", "added pN", stats.added(through, direct))
            refused = asyncio.run(_refusals(lab, parallel, size))
            found += figures(f"request guard, {place}", "pN of a refusal", refused)
        lab.standin("reset")
    progress.end()
    return found
