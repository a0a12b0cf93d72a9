# SPDX-License-Identifier: MIT
# Private to this collection: may change in any release.
"""Who must answer a profile, who did, and whether that is right. Pure: no network, no files, no pydantic.

The compiler (``policy/compile.py``, on the controller) says the same about a policy; a unit test compares the two over
every set of backends. This copy exists because the target has only Python's own library.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TERMINALS = ("queue", "error")
SOVEREIGN = "sovereign"
HYBRID = "hybrid"
# What a refused key gets: not known, or known and not allowed here.
REFUSED = (401, 403)
# When every link of a hybrid chain fails, LiteLLM passes on the last link's status: throttled or broken. Below that it
# would be our own request that is wrong, and 401 or 403 our own key.
_LAST_LINK_FAILED = range(429, 600)


@dataclass(frozen=True)
class Profile:
    """A profile's chain as it is compiled.

    ``chain`` is as written in the policy; ``links`` are the backends that a request can reach, in order;
    ``when_nothing`` is ``{error, status, mode}``, what the client gets when no link answers.
    """

    name: str
    tier: str
    plane: str
    chain: tuple[str, ...]
    links: tuple[str, ...]
    when_nothing: Mapping[str, Any]


@dataclass(frozen=True)
class Expectation:
    """Who may answer, best first. No backend: the request must fail with ``error``, ``status`` and ``mode``."""

    backends: tuple[str, ...]
    error: str = ""
    status: int = 200
    mode: str | None = None

    def __str__(self) -> str:
        return " or ".join(self.backends) if self.backends else f"{self.status} {self.error}"


@dataclass(frozen=True)
class Answer:
    """What came back. ``failure`` is set when nothing did; ``error`` and ``message`` are those of the error body."""

    status: int = 0
    answered_by: str = ""
    error: str = ""
    message: str = ""
    retry_after: str = ""
    tokens: int = 0
    seconds: float = 0.0
    failure: str = ""


def read_profiles(policy: Mapping[str, Any], matrix: Sequence[Mapping[str, Any]]) -> list[Profile]:
    """The profiles of a checked policy.

    Args:
        policy: what the filter ``policy_check`` returns.
        matrix: what the filter ``route_matrix`` returns for no available backend.
    """
    profiles = []
    for row in matrix:
        profile = policy["profiles"][row["profile"]]
        links = [name for name in row["chain"] if name not in TERMINALS]
        if profile.get("cloud_budget_usd") == 0:
            links = [name for name in links if policy["backends"][name]["location"] == "local"]
        profiles.append(
            Profile(row["profile"], row["tier"], row["plane"], tuple(row["chain"]), tuple(links), row["expect"])
        )
    return profiles


def expect(profile: Profile, available: Collection[str], assumed: Collection[str] = ()) -> Expectation:
    """Who must answer ``profile`` when the backends ``available`` answer.

    A backend in ``assumed`` was not asked: it may answer, or leave that to a later link. The first backend known to
    answer ends the search.
    """
    accepted: list[str] = []
    for link in profile.links:
        if link in available:
            return Expectation((*accepted, link))
        if link in assumed:
            accepted.append(link)
    if accepted:
        return Expectation(tuple(accepted))
    nothing = profile.when_nothing
    return Expectation((), str(nothing["error"]), int(nothing["status"]), nothing.get("mode"))


def backend_of(plane: str, profile: str, headers: Mapping[str, str]) -> str:
    """Who answered, as the response headers (names in lower case) say; the empty string when they do not.

    The hybrid gateway names the deployment, ``<profile>/<backend>``. A deployment of another profile is given back in
    words that equal no backend's name.
    """
    if plane == SOVEREIGN:
        return headers.get("x-sovereign-backend", "")
    deployment = headers.get("x-litellm-model-id", "")
    if deployment and not deployment.startswith(f"{profile}/"):
        return f"deployment {deployment!r}"
    return deployment.removeprefix(f"{profile}/")


def judge(profile: Profile, expectation: Expectation, answer: Answer) -> str:
    """What is wrong with an answer; the empty string when nothing is."""
    if answer.failure:
        return f"no answer: {answer.failure}"
    if answer.status == 200 and answer.answered_by not in profile.links:
        return f"answered by {answer.answered_by or 'somebody who is not named'}, which is not in the chain"
    if expectation.backends:
        if answer.status != 200:
            return f"refused with {answer.status} {answer.error}: {answer.message}".rstrip(": ")
        if answer.answered_by not in expectation.backends:
            return f"answered by {answer.answered_by}"
        return ""
    if answer.status == 200:
        return f"answered by {answer.answered_by}, although it does not answer a direct question"
    if profile.plane == HYBRID:
        return "" if answer.status in _LAST_LINK_FAILED else f"refused with {answer.status} {answer.error}".rstrip()
    if (answer.status, answer.error) != (expectation.status, expectation.error):
        return f"refused with {answer.status} {answer.error}: {answer.message}".rstrip(": ")
    if expectation.mode and expectation.mode not in answer.message:
        return f"the refusal does not name the mode {expectation.mode} that it needs"
    if profile.chain[-1] == "queue" and not answer.retry_after:
        return "the refusal does not say when to try again (Retry-After)"
    return ""


def row_of(profile: Profile, expectation: Expectation, answer: Answer | None, problem: str) -> dict[str, Any]:
    """One row of the result. ``answer`` is None when nothing was sent; ``problem`` then says why."""
    row: dict[str, Any] = {
        "profile": profile.name,
        "tier": profile.tier,
        "plane": profile.plane,
        "chain": list(profile.chain),
        "expected": str(expectation),
        "answered_by": None,
        "status": None,
        "tokens": None,
        "seconds": None,
        "tokens_per_second": None,
        "ok": None,
        "detail": problem,
    }
    if answer is None:
        return row
    answered = answer.status == 200 and not answer.failure
    row.update(
        answered_by=answer.answered_by if answered else None,
        status=answer.status or None,
        tokens=answer.tokens if answered else None,
        seconds=round(answer.seconds, 2),
        tokens_per_second=round(answer.tokens / answer.seconds, 1) if answered and answer.seconds > 0 else None,
        ok=not problem,
        detail=problem or ("" if answered else f"{answer.error}: {answer.message}".strip(": ")),
    )
    return row


def _answer_text(row: Mapping[str, Any]) -> str:
    if row["answered_by"]:
        return str(row["answered_by"])
    if row["ok"] is None:
        return "not sent"
    return f"refused ({row['status']})" if row["status"] else "nothing"


def render_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as plain text, one line each under a heading."""
    lines: list[tuple[str, ...]] = [("profile", "tier", "chain", "expected", "who answered", "tokens/s", "right")]
    for row in rows:
        rate = row["tokens_per_second"]
        lines.append(
            (
                str(row["profile"]),
                str(row["tier"]),
                " → ".join(row["chain"]),
                str(row["expected"]),
                _answer_text(row),
                "" if rate is None else f"{rate:.1f}",
                {True: "yes", False: "NO", None: "-"}[row["ok"]],
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    lines.insert(1, tuple("-" * width for width in widths))
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join("  ".join(cells).rstrip() for cells in padded)
