# SPDX-License-Identifier: MIT
"""What can be wrong with a policy, said so that a person can act on it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

#: Longest value quoted in a message. A key pasted where a key's *name* belongs must not end up in a log.
MAX_QUOTED = 60
#: Characters shown of what stands where a key, or the name of one, belongs and does not look like a name.
SHOWN_OF_SECRET = 3

_SECRET_PATH = re.compile(r"(key|token|secret|password)$", re.IGNORECASE)
_PLAIN_WORD = re.compile(r"[a-z][a-z_]{0,19}")
_URL_USER = re.compile(r"//[^/@]*@")


@dataclass(frozen=True)
class Problem:
    """One fault: where it is, what stands there, what is wrong with it, what to do."""

    path: str
    value: object
    problem: str
    remedy: str

    def __str__(self) -> str:
        if self.value is None:
            return f"{self.path} {self.problem}. {self.remedy}."
        return f"{self.path} = {quote(masked(self.path, self.value))}: {self.problem}. {self.remedy}."


class PolicyError(ValueError):
    """The policy is refused. ``problems`` holds every fault found, the text lists them one a line."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        lines = [str(problem) for problem in self.problems]
        head = "sovereign_policy is refused" if len(lines) == 1 else f"sovereign_policy is refused, {len(lines)} faults"
        super().__init__(f"{head}: {lines[0]}" if len(lines) == 1 else "\n  - ".join([f"{head}:", *lines]))


class ProofError(ValueError):
    """A path from T1 to the cloud, or something in a document that nobody has shown to be safe.

    ``where`` is the key path in the document, or the way of the request (``private → cpu → groq``).
    """

    def __init__(self, where: str, problem: str) -> None:
        self.where = where
        self.problem = problem
        super().__init__(f"{where}: {problem}")


def masked(path: str, value: object) -> object:
    """The value without what may be a secret: all but the start of a key, and the user part of a URL."""
    if not isinstance(value, str):
        return value
    if _SECRET_PATH.search(path):
        return value if _PLAIN_WORD.fullmatch(value) else f"{value[:SHOWN_OF_SECRET]}…"
    return _URL_USER.sub("//…@", value)


def quote(value: object) -> str:
    """The value as it may be shown: short, and never the whole of something long."""
    text = repr(value)
    return text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}… ({len(text)} characters)"


def arrow(steps: Sequence[str]) -> str:
    """A way through the graph, as it is printed everywhere: ``private → cpu → groq``."""
    return " → ".join(steps)
