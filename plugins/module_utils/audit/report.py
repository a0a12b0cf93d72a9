# SPDX-License-Identifier: MIT
"""The report of an audit: a page for a reader who is no engineer, and the same as canonical JSON.

Nothing that anybody asked or was answered is in it: rows hold ways, settings, numbers and fixed words, are cut to
length, and whatever looks like a marker is taken out.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import chain, model

#: What the guarantee does not cover: the limit, why, what the reader can do. docs/what-is-not-covered.md says the same.
NOT_COVERED = (
    (
        "root",
        "root can change the guard, enter the namespace and read any file",
        "keep root to yourself; no automation account with sudo",
    ),
    (
        "The Docker group",
        "a member can start a container that is root on the host",
        "no user of this collection is in it; do not add your desktop user",
    ),
    (
        "Firmware, management engine, kernel",
        "they lie below everything that is tested here",
        "updates; a board whose network management is off",
    ),
    (
        "Physical access",
        "who can open the machine or boot it from another disk reads what lies on its disks",
        "encrypted disks; a locked room",
    ),
    (
        "A person who may read",
        "an answer on a reader's screen can be photographed, copied, pasted",
        "give profile keys to people, not to teams",
    ),
    (
        "The reader's own machine",
        (
            "what a browser, an editor plug-in or a desktop client does with an answer on another machine is outside. A"
            " page that renders a remote image has already told somebody"
        ),
        "use clients that load nothing remote",
    ),
    (
        "Engines shared with T2",
        (
            "in agent mode `private` and `personal` use one engine process, and on the CPU floor always. A cache salt"
            " per profile, no prompt cache on the CPU and closed routes (`/metrics`, `/slots`) narrow it. They do not"
            " make two processes of it: a fault in the engine, or its timing, can still tell one about the other"
        ),
        "run client work in forensic mode, which serves `client` only",
    ),
    (
        "Off-site copies that you ordered",
        "a policy line may send T1 backups elsewhere, encrypted",
        "leave the line out; it is printed wherever the guarantee is printed",
    ),
    (
        "Timing and volume",
        "that the machine is busy can be seen from outside: power, heat, a late answer of a shared engine",
        "nothing is promised here",
    ),
    (
        "Files placed by hand",
        "the rules know users and trees, not content. A T1 document in a hybrid user's folder is a T2 document",
        "keep to the trees",
    ),
    (
        "The classification",
        (
            "the machine does what the key's profile says. A private question asked with the `personal` key is a"
            " personal question"
        ),
        "one client, one key",
    ),
    (
        "The tailnet's client",
        (
            "tailscaled sees every packet of the tailnet before it is encrypted, so also the pages of a service that"
            " it serves with TLS. It answers its peer API, and what `tailscale serve` opens, past every packet filter"
            " of the machine"
        ),
        (
            "its version is pinned, its updates, SSH and remote configuration are off; serve nothing; or a control"
            " server of your own (Headscale)"
        ),
    ),
    (
        "Your own use of the cloud",
        "T3 profiles such as `planning` go to a cloud provider because you asked for that",
        "nothing confidential in a T3 profile",
    ),
    (
        "The controller",
        "the machine that runs Ansible sees the inventory, the cloud keys and root's door",
        "guard it as you guard the machine",
    ),
)

#: Kind of attempt → what a reader who is no engineer is told was done.
KIND_WORDS = {
    "static": "settings read back from the running machine",
    "attack": "ways out tried from inside the confidential services",
    "request": "requests built to trick the machine into sending something out",
    "pull": "attempts to fetch confidential things from the cloud side of the machine",
    "files": "attempts to open confidential files",
    "logs": "log books searched for, or opened by, somebody who must not",
    "capture": "searches for secret marker words, on the wires and in what others can read",
}

#: Kind of attempt → what it means that it got through, in words.
LEAK_WORDS = {
    "static": "{source}: {path} is not as it must be.",
    "attack": "From {source} this way was open: {path}.",
    "request": "Sent as {source}, this request got something out: {path}.",
    "pull": "{source} could fetch what it must not: {path}.",
    "files": "{source} could open {path}.",
    "logs": "{source}: {path}.",
    "capture": "A secret marker word was found: {source}, {path}.",
}

#: Rule → (its name, what it means when it is broken, what to do first).
RULE_WORDS = {
    "P1": (
        "No way out",
        "a process that handles confidential data could have sent it to another computer",
        "stop confidential work, run `playbooks/site.yml`, then the audit again; if it stays, read the guard's page",
    ),
    "P2": (
        "Nothing can be fetched",
        "the part of the machine that talks to the cloud could have read from the confidential part",
        "run `playbooks/site.yml`, then the audit again; look at who may open what in `guard_plane_clients`",
    ),
    "P3": (
        "No helper is misused",
        "a confidential process could have asked another program of the machine to send something for it",
        "look at the named socket or service, and remove it from the unit's sight or from the machine",
    ),
    "P4": (
        "The user, not only the process",
        "a user that handles confidential data could have used the ordinary network, or run something elsewhere",
        "remove the login, timer or rule that is named; run `playbooks/site.yml`",
    ),
    "P5": (
        "A quiet internal network",
        "something on the internal network could have listened in, or pretended to be somebody else",
        "remove the member, address or capability that is named; run `playbooks/site.yml`",
    ),
    "P6": (
        "Shared engines",
        "one profile's use of an engine could have told another profile about it",
        "run client work in forensic mode until it is mended",
    ),
    "P7": (
        "Files",
        "a confidential file could be read by a program that may talk to the cloud",
        "give the named file back to its own user with mode 0600 (folders 0700)",
    ),
    "P8": (
        "Logs",
        "confidential words were written down where others can read them, or a log can be read by who must not",
        "delete the named log, and look at which program wrote it",
    ),
    "P9": (
        "The reader's browser",
        "a web page could have made a reader's browser fetch an answer for somebody else",
        "run `playbooks/site.yml`; look at the ingress",
    ),
    "P10": (
        "Cloud-side programs reach only what is named",
        "a program of the cloud side could reach more of the internet than the policy names, with no confidential data",
        "run `playbooks/site.yml`; look at the policy's providers",
    ),
}
NO_RULE = (
    "The guarantee",
    "the machine is not set up as it must be",
    "run `playbooks/site.yml`, then the audit again",
)
#: Nothing longer than this is taken over from a row.
CELL = 300
#: How many of what got through stand on the first page; all of them follow below.
FIRST_PAGE = 10
MARKER = re.compile(r"mushimark[a-z2-7]+", re.IGNORECASE)
CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")


# ---- words
def plain(text: Any) -> str:
    """One line, without markers, not too long."""
    line = MARKER.sub("(marker)", CONTROL_CHARACTERS.sub(" ", str(chain.clean(str(text))))).strip()
    return line if len(line) <= CELL else line[: CELL - 1] + "…"


def code(text: Any) -> str:
    """Foreign words as they are: nothing in them is a link, an image or a tag in whatever shows the page."""
    line = plain(text).replace("`", "'").replace("|", "\\|")
    return f"`{line}`" if line else ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows), ""]


def number(many: int, one: str, more: str = "") -> str:
    """``1 hole``, ``2 holes``."""
    return f"{many} {one if many == 1 else more or one + 's'}"


def moment(value: Any) -> str:
    """Seconds or text, as text in UTC."""
    if isinstance(value, (int, float)):
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(value))
    return plain(value or "")


def seconds_between(began: Any, ended: Any) -> str:
    """How long it took, where both are known."""
    found = []
    for value in (began, ended):
        try:
            wanted = time.strptime(moment(value)[:19], "%Y-%m-%dT%H:%M:%S")
        except ValueError:
            return ""
        found.append(time.mktime(wanted))
    return f"{found[1] - found[0]:.0f} s"


def milliseconds(values: Sequence[float]) -> str:
    """Smallest, median and largest."""
    if not values:
        return ""
    if len(values) == 1:
        return f"in {values[0]:.3g} ms"
    return f"in {min(values):.3g} / {statistics.median(values):.3g} / {max(values):.3g} ms"


# ---- what was found
def rows_of(result: Mapping[str, Any]) -> list[model.Row]:
    """The result's rows, checked and cut.

    Raises:
        ValueError: a row is none.
    """
    rows = []
    for given in result.get("rows") or []:
        try:
            row = model.Row(**{name: given.get(name) for name in ("kind", "rule", "source", "path", "outcome")})
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"no row of an audit: {plain(given)} ({error})") from None
        ms = given.get("ms")
        spent, detail = None if ms is None else round(float(ms), 4), plain(given.get("detail") or "")
        rule = row.rule if re.fullmatch(r"P\d{1,2}", str(row.rule)) else ""
        words = (row.kind, rule, plain(row.source), plain(row.path), row.outcome)
        rows.append(model.Row(*words, spent, detail))
    return rows


def judged(result: Mapping[str, Any], rows: Sequence[model.Row]) -> str:
    """The verdict over the rows; the audit itself may have a reason for a worse one, never for a better one."""
    order = (model.GREEN, model.INVALID, model.RED)
    said = str(result.get("verdict") or model.GREEN)
    return max(model.verdict(rows), said if said in order else model.INVALID, key=order.index)


def tried(rows: Iterable[model.Row]) -> list[model.Row]:
    """All but the planted holes."""
    return [row for row in rows if row.kind != "control"]


def why_invalid(rows: Sequence[model.Row]) -> str:
    """Why a run proves nothing."""
    controls = [row for row in rows if row.kind == "control"]
    missed = [row for row in controls if row.outcome != "leaked"]
    if not controls:
        return "no hole was planted, so nobody knows whether the test would have found one"
    if missed:
        return f"{number(len(missed), 'planted hole')} of {len(controls)} was not found, so the test is blind there"
    if not any(row.outcome in ("refused", "holds") for row in tried(rows)):
        return "nothing could be tried"
    return "the audit did not come to its end"


def sentence(verdict: str, rows: Sequence[model.Row], why: str = "") -> str:
    """The verdict in one sentence. ``why``: the audit's own words for what makes it invalid."""
    found = tried(rows)
    leaked = sum(row.outcome == "leaked" for row in found)
    untested = sum(row.outcome == "not tested" for row in found)
    done = len(found) - untested
    if verdict == model.RED:
        return f"A way out is open: {leaked} of {number(done, 'attempt')} got through." if leaked else "A way is open."
    if verdict == model.INVALID:
        said = plain(why).rstrip(".") if why and model.verdict(rows) == model.GREEN else why_invalid(rows)
        return f"This run proves nothing: {said}."
    left = f" {untested} could not be tried; they are listed with their reasons." if untested else ""
    return f"No way out was found: none of {number(done, 'attempt')} got through.{left}"


def counts(counters: Mapping[str, Any], prefix: str = "") -> dict[str, int]:
    """Every whole number in what the guard's counters gave, by its place: ``planes.host.sovereign_to_host.traffic``."""
    found: dict[str, int] = {}
    for name, value in counters.items():
        place = f"{prefix}.{name}" if prefix else str(name)
        if isinstance(value, Mapping):
            found.update(counts(value, place))
        elif isinstance(value, int) and not isinstance(value, bool):
            found[place] = value
    return found


def rises(now: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    """What was added since; a counter that is smaller than it was began anew at zero."""
    return {name: value - before.get(name, 0) if value >= before.get(name, 0) else value for name, value in now.items()}


def document(result: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The report's own fields. ``before``: the report before, for what is counted since."""
    rows = rows_of(result)
    verdict = judged(result, rows)
    counters = dict(result.get("counters") or {})
    last = before or {}
    then = counts(dict((last.get("counters") or {}).get("read") or {}))
    since = moment(last.get("ended")) or moment(counters.get("since"))
    return {
        "verdict": verdict,
        "sentence": sentence(verdict, rows, str(result.get("why") or "")),
        "started": moment(result.get("started")),
        "ended": moment(result.get("ended")),
        "summary": model.summary(rows),
        "rows": [row.as_dict() for row in rows],
        "facts": chain.clean(dict(result.get("facts") or {})),
        "counters": {"read": counters, "since": since, "risen": rises(counts(counters), then)},
        "not_covered": [{"limit": limit, "why": why, "remedy": remedy} for limit, why, remedy in NOT_COVERED],
    }


# ---- the page
def markdown(report: Mapping[str, Any], link: Mapping[str, Any]) -> str:
    """The page of a report (:func:`document`) at its place in the chain."""
    rows = [model.Row(**row) for row in report["rows"]]
    parts = [
        _head(report, rows),
        _tried(rows),
        _through(rows),
        _controls(rows),
        _limits_in_short(),
        _counters(report),
        _chain(link),
        _limits(),
        _by_source(rows),
        _not_tested(rows),
        _facts(report["facts"]),
        _appendix(rows),
    ]
    return "\n".join(line for part in parts for line in part).rstrip() + "\n"


def _head(report: Mapping[str, Any], rows: Sequence[model.Row]) -> list[str]:
    facts = report["facts"]
    machine = facts.get("machine") or facts.get("host") or ""
    name = machine.get("name", machine.get("host", "")) if isinstance(machine, Mapping) else machine
    took = seconds_between(report["started"], report["ended"])
    word = {model.GREEN: "GREEN", model.RED: "RED", model.INVALID: "INVALID"}[report["verdict"]]
    meaning = {
        model.GREEN: "Everything that was tried from inside the machine was stopped.",
        model.RED: "Confidential work should stop until it is mended. What got through is named below.",
        model.INVALID: "It is neither good nor bad news. Run the audit again and mend what kept it from judging.",
    }
    return [
        f"# Sovereignty audit{' of ' + code(name) if name else ''}, {report['ended'] or report['started']}",
        "",
        f"**{word}. {report['sentence']}** {meaning[report['verdict']]}",
        "",
        (
            "What is tested: *confidential data (tier T1) has no path off this machine.* "
            f"The audit ran from {report['started'] or '?'} to {report['ended'] or '?'}{f' ({took})' if took else ''}."
        ),
        "",
    ]


def _tried(rows: Sequence[model.Row]) -> list[str]:
    lines = []
    for kind, words in KIND_WORDS.items():
        of_kind = [row.outcome for row in rows if row.kind == kind]
        if of_kind:
            stopped = of_kind.count("refused") + of_kind.count("holds")
            leaked = of_kind.count("leaked")
            through = f"**{leaked}**" if leaked else "0"
            lines.append([words, str(len(of_kind)), str(stopped), through, str(of_kind.count("not tested"))])
    head = ["what was tried", "how many", "stopped, or as it must be", "got through", "not tested"]
    return ["## What was tried", "", *(table(head, lines) if lines else ["Nothing.", ""])]


def _through(rows: Sequence[model.Row]) -> list[str]:
    leaked = [row for row in tried(rows) if row.outcome == "leaked"]
    lines = ["## What got through", ""]
    if not leaked:
        return [*lines, "Nothing.", ""]
    by_rule: dict[str, list[model.Row]] = {}
    for row in leaked:
        by_rule.setdefault(row.rule, []).append(row)
    left = FIRST_PAGE
    for rule, found in sorted(by_rule.items(), key=lambda pair: (len(pair[0]), pair[0])):
        name, meaning, remedy = RULE_WORDS.get(rule, NO_RULE)
        lines += [f"**Broken: *{name}*{f' (rule {rule})' if rule else ''}, in {number(len(found), 'place')}.**", ""]
        for row in found[: max(left, 1)]:
            said = LEAK_WORDS[row.kind].format(source=code(row.source), path=code(row.path))
            lines.append(f"- {said}{' Seen: ' + code(row.detail) if row.detail else ''}")
        if len(found) > max(left, 1):
            lines.append(f"- and {len(found) - max(left, 1)} more; all are in the tables below")
        left -= len(found)
        lines += ["", f"*What it means:* {meaning}. *What to do:* {remedy}.", ""]
    return lines


def _controls(rows: Sequence[model.Row]) -> list[str]:
    controls = [row for row in rows if row.kind == "control"]
    found = [row for row in controls if row.outcome == "leaked"]
    lines = ["## How we know that this test finds holes", ""]
    if not controls:
        return [*lines, "It is not known: no hole was planted in this run.", ""]
    many = "The one was found." if len(found) == len(controls) == 1 else f"{len(found)} of {len(controls)} were found."
    if len(found) == len(controls) > 1:
        many = "All were found."
    lines.append(
        f"{number(len(controls), 'hole')} {'was' if len(controls) == 1 else 'were'} opened on purpose, each for one "
        f"marked place alone, and closed again. {many}"
    )
    words = {True: "found", False: "**not found**"}
    said = [[code(row.source), code(row.path), words[row.outcome == "leaked"]] for row in controls]
    return [*lines, "", *table(["planted in", "way", "the test"], said)]


def _limits_in_short() -> list[str]:
    names = [row[0] if row[0] == "root" else row[0][0].lower() + row[0][1:] for row in NOT_COVERED]
    said = "; ".join(names)
    return [
        "## What this does not cover",
        "",
        f"Nothing here speaks about: {said}. What each means, and what you can do, is [below](#what-is-not-covered).",
        "",
    ]


def _counters(report: Mapping[str, Any]) -> list[str]:
    risen = {name: value for name, value in report["counters"]["risen"].items() if value}
    since = f" since {report['counters']['since']}" if report["counters"]["since"] else ""
    lines = ["## Packets that were refused since the last report", ""]
    if not report["counters"]["read"]:
        return [*lines, "The guard's counters were not read.", ""]
    if not risen:
        return [*lines, f"No counter of the guard has risen{since}.", ""]
    lines += [f"Each of these packets was stopped; counted{since}. An audit's own are counted as `audit`.", ""]
    return [*lines, *table(["counter", "packets"], [[code(name), str(value)] for name, value in sorted(risen.items())])]


def _chain(link: Mapping[str, Any]) -> list[str]:
    name, key = link["name"], link["key"]
    before = link["previous"]
    first = "It is the first of its chain."
    said = f"It follows {code(before['name'])} (sha256 of its JSON `{before['sha256']}`)." if before else first
    return [
        "## How to check that nobody has changed this report",
        "",
        (
            f"This is record {link['sequence']} of its chain. {said} It is signed with the machine's key "
            f"`{key['fingerprint']}`; compare that with the one that you were given before."
        ),
        "",
        (
            "With the three files of this report in one folder, on any computer with OpenSSH (`sha256sum` must show "
            f"what stands under `markdown` in {name}.json):"
        ),
        "",
        "```sh",
        f"echo '{chain.signers([key['public']]).strip()}' > signers",
        f"ssh-keygen -Y verify -f signers -I {chain.PRINCIPAL} -n {chain.NAMESPACE} -s {name}.sig < {name}.json",
        f"sha256sum {name}.md; grep '\"sha256\"' {name}.json",
        "```",
        "",
        "On the machine itself `mushishi-audit verify` looks at the whole chain and names what was changed.",
        "",
        "---",
        "",
    ]


def _limits() -> list[str]:
    rows = [[f"**{limit}**", why, remedy] for limit, why, remedy in NOT_COVERED]
    return ["## What is not covered", "", *table(["limit", "why", "what you can do"], rows)]


def _by_source(rows: Sequence[model.Row]) -> list[str]:
    lines = ["## By place", "", "Times are smallest / median / largest.", ""]
    by_source: dict[str, list[model.Row]] = {}
    for row in tried(rows):
        by_source.setdefault(row.source, []).append(row)
    said = []
    for source, found in by_source.items():
        refused = [row for row in found if row.outcome == "refused"]
        times = milliseconds([row.ms for row in refused if row.ms is not None])
        by_outcome = {outcome: sum(row.outcome == outcome for row in found) for outcome in model.OUTCOMES}
        leaked = f"**{by_outcome['leaked']}**" if by_outcome["leaked"] else "0"
        stopped = f"{by_outcome['refused']} {times}".strip()
        said.append([code(source), stopped, str(by_outcome["holds"]), leaked, str(by_outcome["not tested"])])
    lines += table(["place", "refused", "as it must be", "leaked", "not tested"], said)
    for source, found in by_source.items():
        leaked_rows = [[code(row.path), row.rule, code(row.detail)] for row in found if row.outcome == "leaked"]
        if leaked_rows:
            lines += [f"### Leaked: {code(source)}", "", *table(["way", "rule", "seen"], leaked_rows)]
    return lines


def _not_tested(rows: Sequence[model.Row]) -> list[str]:
    found = [row for row in rows if row.outcome == "not tested"]
    if not found:
        return ["## Not tested", "", "Nothing was left out of what this audit knows to try.", ""]
    by_reason: dict[str, list[model.Row]] = {}
    for row in found:
        by_reason.setdefault(row.detail or "no reason was given", []).append(row)
    lines = ["## Not tested", ""]
    for reason, of_reason in sorted(by_reason.items()):
        lines += [f"{code(reason)} ({len(of_reason)}):", ""]
        lines += table(["place", "way"], [[code(row.source), code(row.path)] for row in of_reason])
    return lines


def _flat(value: Any, name: str = "") -> Iterable[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield from _flat(value[key], f"{name}.{key}" if name else str(key))
    elif isinstance(value, (list, tuple)):
        yield name, ", ".join(str(one) for one in value)
    else:
        yield name, str(value)


def _facts(facts: Mapping[str, Any]) -> list[str]:
    lines = ["## Versions and digests", "", "Digests are cut to 16 digits here and whole in the JSON.", ""]
    scalars = {name: value for name, value in facts.items() if not isinstance(value, Mapping)}
    groups: list[tuple[str, Mapping[str, Any]]] = [("machine", scalars)] if scalars else []
    groups += [(str(name), value) for name, value in facts.items() if isinstance(value, Mapping)]
    for name, group in groups:
        pairs = [[code(key), code(_cut(value))] for key, value in _flat(group)]
        if pairs:
            lines += [f"### {code(name)}", "", *table(["what", "value"], pairs)]
    return lines


def _cut(value: str) -> str:
    return re.sub(r"\b[0-9a-f]{64}\b", lambda found: found[0][:16] + "…", value)


def _appendix(rows: Sequence[model.Row]) -> list[str]:
    lines = ["## Appendix: what was stopped, and what is as it must be", ""]
    by_source: dict[str, list[model.Row]] = {}
    for row in tried(rows):
        if row.outcome in ("refused", "holds"):
            by_source.setdefault(row.source, []).append(row)
    if not by_source:
        return [*lines, "Nothing.", ""]
    for source, found in by_source.items():
        said = [
            [code(row.path), row.rule, row.outcome, "" if row.ms is None else f"{row.ms:.3g}", code(row.detail)]
            for row in found
        ]
        lines += [f"### {code(source)}", "", *table(["way", "rule", "outcome", "ms", "seen"], said)]
    return lines


def write(result: Mapping[str, Any], folder: Path = chain.FOLDER, key: Path = chain.KEY) -> dict[str, Any]:
    """Write, sign and chain the report of an audit; the JSON's content.

    Raises:
        chain.ChainError: the chain in the folder is broken.
        ValueError: the result is none of an audit.
    """
    here = chain.Chain(folder, key)

    def make(link: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
        report: dict[str, Any] = chain.clean(document(result, here.last()))
        return report, markdown(report, link)

    return here.append(make)
