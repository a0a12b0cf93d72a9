# SPDX-License-Identifier: MIT
# Private to this collection: may change in any release.
"""The firewall of one machine: read once, compared once, changed under the brake."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.mushishi.sovereign.plugins.module_utils._diff import Differences
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils._login import find_login
from ansible_collections.mushishi.sovereign.plugins.module_utils.firewall import brake, docker_user, lockout, ufw
from ansible_collections.mushishi.sovereign.plugins.module_utils.firewall.doors import (
    Door,
    check_interface,
    document,
    doors_from,
)

# Runs a program: argument list and standard input in; exit status, standard output and standard error out.
Runner = Callable[[Sequence[str], str], "tuple[int, str, str]"]
_THING = "firewall"


@dataclass(frozen=True)
class Wish:
    """What the task wants."""

    state: str
    interface: str
    doors: Sequence[Door]
    inside: Sequence[str]
    seconds: int
    over_ssh: bool
    accepted: bool
    pid: int

    @classmethod
    def of(cls, given: Mapping[str, Any], state: str) -> Wish:
        """From a module's parameters, for the process that runs it. Raises SovereignError for a door that is none."""
        return cls(
            state=state,
            interface=check_interface(given["interface"]),
            doors=doors_from(given["doors"]),
            inside=given["inside"],
            seconds=given["confirm_seconds"],
            over_ssh=given["over_ssh"],
            accepted=given["lockout_accepted"],
            pid=os.getpid(),
        )


def runner(module: Any) -> Runner:
    """A module's own way to run a program; 127 for one that is not there."""
    # The output of iptables and ufw is read, so it must not be translated.
    module.run_command_environ_update = {"LANG": "C", "LC_ALL": "C"}

    def run(command: Sequence[str], text: str) -> tuple[int, str, str]:
        try:
            status, out, err = module.run_command(list(command), data=text or None, handle_exceptions=False)
        except OSError as error:
            return 127, "", str(error)
        return status, out, err

    return run


@dataclass
class Outcome:
    """What the module answers."""

    changed: bool = False
    token: str = ""
    diff: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    #: Whether it was changed from within an SSH login.
    login: bool = False


class Machine:
    """UFW, DOCKER-USER and the list of doors on this machine."""

    def __init__(self, run: Runner, places: brake.Places | None = None, proc: str = "/proc") -> None:
        self._run = run
        self._places = places or brake.Places()
        self._proc = proc
        self.brake = brake.Brake(self._places, run)
        # The change that is being made.
        self._token = ""

    # ---- reading
    def _text(self, name: str) -> str:
        try:
            return (self._places.etc / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise SovereignError(
                _THING, f"{self._places.etc / name} is missing", "Install the package ufw again, with its files."
            ) from None

    def kernel(self) -> dict[str, docker_user.Filter]:
        """The filter table of each family.

        Raises:
            SovereignError: it cannot be read, or the programs write to the legacy packet filter.
        """
        try:
            return docker_user.Policy(run=self._run).families()
        except docker_user.Fault as error:
            raise SovereignError(_THING, "its rules would not be in force", str(error) + ".") from None

    def found(self) -> ufw.Found:
        """UFW as it is."""
        return ufw.Found(
            settings=self._text("default/ufw"),
            switch=self._text("ufw/ufw.conf"),
            rules4=self._text("ufw/user.rules"),
            rules6=self._text("ufw/user6.rules"),
            kernel=self.kernel(),
        )

    def backends(self) -> None:
        """Refuse packet filters in which our rules would stand unread.

        Raises:
            SovereignError: legacy tables with rules in them, or Docker filters by itself or not at all.
        """
        for names, program in (("ip_tables_names", "iptables"), ("ip6_tables_names", "ip6tables")):
            try:
                # Asking the program would make the table; the kernel says whether there is one.
                tables = Path(self._proc, "net", names).read_text(encoding="ascii").split()
            except OSError:
                tables = []
            status, out, _err = self._run([f"{program}-legacy-save"], "") if tables else (0, "", "")
            rules = [line for line in out.splitlines() if line.startswith("-A ")]
            closed = [line for line in out.splitlines() if line.startswith(":") and line.split()[1] == "DROP"]
            if status == 0 and (rules or closed):
                raise SovereignError(
                    _THING,
                    f"{program}-legacy has {len(rules)} rules ({(rules or closed)[0]}): two packet filters, of which "
                    "each tool shows the other half",
                    f"Find out what wrote them, then: {program}-legacy -F; {program}-legacy -X; {program}-legacy -P "
                    "INPUT ACCEPT (in each table), and update-alternatives --set "
                    f"{program} /usr/sbin/{program}-nft.",
                )
        self._docker_settings()
        if docker_user.Policy(run=self._run).docker_is_elsewhere():
            raise SovereignError(
                _THING,
                f"Docker filters with nftables by itself (tables {docker_user.DOCKER_TABLE}), where no DOCKER-USER is; "
                "that was never tested here",
                'Take "firewall-backend" out of /etc/docker/daemon.json (its default is iptables), restart Docker, and '
                "run again.",
            )

    def _docker_settings(self) -> None:
        path = self._places.etc / "docker/daemon.json"
        try:
            settings = json.loads(path.read_text(encoding="utf-8") or "{}")
        except FileNotFoundError:
            return
        except ValueError as error:
            raise SovereignError(f"file {path}", f"it is no JSON ({error})", "Correct it; Docker needs it.") from None
        if settings.get("firewall-backend", "iptables") != "iptables":
            raise SovereignError(
                f"file {path}",
                f"Docker's firewall backend is {settings['firewall-backend']!r}, where no DOCKER-USER is; that was "
                "never tested here",
                'Take "firewall-backend" out (its default is iptables), restart Docker, and run again.',
            )
        for name in ("iptables", "ip6tables"):
            if settings.get(name, True) is False:
                raise SovereignError(
                    f"file {path}",
                    f'"{name}" is false: Docker makes no chain DOCKER-USER, and nothing locks its ports a second time',
                    f'Take "{name}" out, restart Docker, and run again.',
                )

    def docker_runs(self) -> bool:
        """Whether there are containers to lock."""
        status, out, _err = self._run(["systemctl", "is-active", "docker.service"], "")
        return status == 0 and out.strip() == "active"

    # ---- who would be locked out
    def locked_out(self, wish: Wish) -> list[str]:
        """Why the change would cut off who makes it."""
        login = find_login(wish.pid, self._proc)
        found = lockout.problems(
            login=login,
            over_ssh=wish.over_ssh,
            device=(login.zone or lockout.device_to(login.address, self._run)) if login else None,
            interface=wish.interface,
            addresses=lockout.addresses_of(wish.interface, self._run),
            doors=wish.doors,
            inside=wish.inside,
        )
        fenced = lockout.fenced_in(self._run, wish.inside)
        if fenced:
            raise SovereignError(
                _THING,
                f"{', '.join(fenced)} counts as inside (guard_inside_interfaces) and leads outside: it would stay open",
                "Give that interface another name, or name Docker's bridges one by one.",
            )
        return found

    def connection(self, wish: Wish) -> str:
        """The SSH connection by which the task is here; empty without one."""
        return brake.ssh_connection(wish.pid, self._proc)

    def arm(self, wish: Wish, reason: str, *, remember: bool = False, leaving: bool = False) -> str:
        """Refuse to lock somebody out, then arm the brake; its token.

        Who goes on to change something does both while he is alone with the brake.
        """
        if not leaving:
            lockout.refuse(self.locked_out(wish), accepted=wish.accepted)
        try:
            self._token = self.brake.arm(
                wish.seconds, reason, remember=remember, leaving=leaving, connection=self.connection(wish)
            )
        except (brake.NotArmed, brake.Unfinished) as error:
            raise SovereignError("brake of the firewall", str(error), "Nothing was changed.") from None
        return self._token

    # ---- changing
    def bring(self, wish: Wish, *, check_mode: bool) -> Outcome:
        """Everything as the task wants it."""
        self.backends()
        settled = self._settle(check_mode)
        outcome = self._present(wish, check_mode) if wish.state == "present" else self._absent(wish, check_mode)
        outcome.login = bool(self.connection(wish))
        outcome.changed = outcome.changed or settled
        undone = self.brake.last_undone()
        if undone is not None:
            outcome.notes.insert(0, f"Last time {brake.told(undone)}")
        return outcome

    def _step(self) -> None:
        """Before each step of a change: it is still ours to make.

        Raises:
            SovereignError: it took so long that it was undone.
        """
        if not self.brake.stands(self._token):
            raise SovereignError(
                _THING, "the change took so long that it was undone before it was made", "What hung? Then run again."
            )

    def _settle(self, check_mode: bool) -> bool:
        """What should have been undone long ago is undone before anything is compared; whether something was, or is."""
        if check_mode:
            return self.brake.overdue() is not None
        try:
            return self.brake.settle()
        except brake.Unfinished as error:
            raise SovereignError("brake of the firewall", str(error), "Nothing was changed.") from None

    def _command(self, argv: Sequence[str], text: str = "") -> None:
        self._step()
        status, out, err = self._run(argv, text)
        if status != 0:
            raise SovereignError(
                _THING,
                f"{' '.join(argv)} ended with {status}: {(err or out).strip()[:400]}",
                "What was changed so far is undone by itself.",
            )

    def _docker_faults(self, wish: Wish, doors: Sequence[Door] | None) -> list[str]:
        """What DOCKER-USER would lack with these doors."""
        listed = None if doors is None else json.loads(document(wish.interface, doors, wish.inside))["doors"]
        found = []
        for family, now in self.kernel().items():
            wanted = None if listed is None else docker_user.rules(family, wish.interface, listed, wish.inside)
            found += [f"{family}: {what}" for what in docker_user.differences(now, wanted)]
        return found

    def _present(self, wish: Wish, check_mode: bool) -> Outcome:
        found = self.found()
        settings = ufw.settings_from(found.settings)
        if settings.get("MANAGE_BUILTINS", "no").lower() == "yes":
            raise SovereignError(
                "file /etc/default/ufw",
                "MANAGE_BUILTINS is yes: with each reload UFW flushes the chains of Docker and Tailscale",
                "Set MANAGE_BUILTINS=no, then run again.",
            )
        if self.docker_runs():
            self._docker_asks(wish, found)
        verdict = ufw.judge(found, wish.interface, wish.doors)
        differences = self._compare(wish, found, verdict)
        outcome = Outcome(differences.changed, diff=differences.diff("firewall"))
        outcome.notes += self._wide(wish, found)
        if not differences.changed or check_mode:
            return outcome
        with self.brake.alone():
            outcome.token = self.arm(wish, "UFW, DOCKER-USER and the list of doors", remember=True)
            self._place_doors(document(wish.interface, wish.doors, wish.inside))
            self._make(verdict)
            if self.docker_runs():
                self._docker_apply()
        again = ufw.judge(self.found(), wish.interface, wish.doors)
        if again.changed:
            left = [*again.kernel, *again.policies, *(rule.text for rule in again.delete)]
            left += [f"port {what[2]}/{what[1]} is missing" for what, _comment in again.add]
            raise SovereignError(
                _THING,
                f"UFW says that it is done, and it is not: {'; '.join(left) or again}",
                "What was changed is undone by itself. Look at: ufw show raw.",
            )
        return outcome

    def _docker_asks(self, wish: Wish, found: ufw.Found) -> None:
        """Docker alone puts its jump to DOCKER-USER where it belongs.

        Raises:
            SovereignError: there is none, or something lets strangers pass before it.
        """
        for family, now in found.kernel.items():
            why = docker_user.unguarded(now, family, wish.inside)
            if why:
                raise SovereignError("chain DOCKER-USER", why, "Nothing was changed.")

    def _wide(self, wish: Wish, found: ufw.Found) -> list[str]:
        """What of another hand, in UFW, lets in more than the doors or takes our rules away again."""
        notes = []
        rules = ufw.wider(found.rules, wish.interface, wish.doors, wish.inside)
        if rules:
            notes.append(
                f"UFW lets in more than the doors, by rules of yours: {'; '.join(rules)}. The guard alone shuts that, "
                "while guard_doors_enforced is on. To take one away: ufw status numbered; ufw delete NUMBER"
            )
        texts = {}
        for name in ("ufw/before.rules", "ufw/before6.rules", "ufw/after.rules", "ufw/after6.rules"):
            try:
                texts[f"/etc/{name}"] = (self._places.etc / name).read_text(encoding="utf-8", errors="replace")
            except FileNotFoundError:
                continue
        files = ufw.emptied_chains(texts, "DOCKER-USER")
        if files:
            notes.append(
                f"{', '.join(files)} declares the chain DOCKER-USER, as ufw-docker does: each reload of UFW empties "
                "it, and our rules for published ports are gone until Docker starts or this role runs. Take that out"
            )
        if self.docker_runs():
            for family, now in found.kernel.items():
                notes += docker_user.before_the_jump(now, family, wish.inside)[1]
        return notes

    def _compare(self, wish: Wish, found: ufw.Found, verdict: ufw.Judgement) -> Differences:
        """One comparison behind `changed` and `diff`."""
        differences = Differences()
        settings = ufw.settings_from(found.settings)
        for name in verdict.policies:
            differences.compare(name, settings.get(name), ufw.POLICIES[name][0])
        if verdict.ipv6:
            differences.compare("IPV6", settings.get("IPV6"), "yes")
        before = {f"v{rule.family} {rule.port}/{rule.protocol} {rule.way}" for rule in found.rules if rule.ours}
        gone = {f"v{rule.family} {rule.port}/{rule.protocol} {rule.way}" for rule in verdict.delete}
        families = sorted(found.families)
        new = {f"v{family} {what[2]}/{what[1]} {what[3]}" for what, _comment in verdict.add for family in families}
        if verdict.delete or verdict.add:
            # A door that only gets another name has the same rule before and after.
            old, named = sorted(rule.comment for rule in verdict.delete), sorted(comment for _w, comment in verdict.add)
            differences.compare("doors in UFW", [sorted(before), old], [sorted((before - gone) | new), named])
        differences.compare("enabled", "yes" if found.enabled else "no", "yes")
        if verdict.kernel:
            differences.compare("in force", verdict.kernel, "as the files say")
        try:
            listed = self._places.doors.read_text(encoding="utf-8")
        except FileNotFoundError:
            listed = ""
        differences.compare(str(self._places.doors), listed, document(wish.interface, wish.doors, wish.inside))
        if self.docker_runs():
            differences.compare("DOCKER-USER", self._docker_faults(wish, wish.doors), [])
        return differences

    def _place_doors(self, text: str) -> None:
        self._places.doors.parent.mkdir(parents=True, exist_ok=True)
        brake.write(self._places.doors, text.encode(), 0o644)

    def _make(self, verdict: ufw.Judgement) -> None:
        """What differs, in the order in which nothing is open that was shut."""
        if verdict.ipv6:
            self._set("default/ufw", "IPV6", "yes")
        running = not verdict.enable
        if running and (verdict.kernel or verdict.ipv6):
            self._rebuild()
        for name in verdict.policies:
            self._command(ufw.default_command(name))
        for argv in ufw.delete_commands(verdict.delete):
            self._command(argv)
        for what, comment in verdict.add:
            self._command(ufw.add_command(what, comment))
        if verdict.enable:
            self._purge()
            self._command(["ufw", "--force", "enable"])

    def _purge(self) -> None:
        for program, prefix in brake.FAMILIES.items():
            status, out, _err = self._run([program, "-S"], "")
            if status == 0:
                self._command([f"{program}-restore", "--noflush", "--wait", "10"], brake.purge(out, prefix))

    def _rebuild(self) -> None:
        """Load UFW anew from nothing: `ufw reload` leaves out what somebody has flushed."""
        self._purge()
        self._command([brake.UFW_INIT, "start"])

    def _set(self, name: str, key: str, value: str) -> None:
        path = self._places.etc / name
        status = path.stat()
        text = ufw.with_setting(path.read_text(encoding="utf-8"), key, value)
        self._step()
        brake.write(path, text.encode(), status.st_mode & 0o7777, (status.st_uid, status.st_gid))

    def _docker_apply(self) -> None:
        self._step()
        try:
            docker_user.Policy(self._places.doors, self._run).apply()
        except docker_user.Fault as error:
            raise SovereignError("chain DOCKER-USER", str(error), "What was changed is undone by itself.") from None

    # ---- taking it away
    def _absent(self, wish: Wish, check_mode: bool) -> Outcome:
        """What was there before the first converge, to the byte; what another hand has done since stays."""
        outcome = Outcome()
        differences = Differences()
        before = brake.Snapshot.read(self._places.before) if (self._places.before / "index.json").is_file() else None
        back: list[Path] = []
        if before is not None:
            for name in brake.UFW_FILES:
                path = self._places.etc / name
                if before.same(path):
                    continue
                if self._only_ours(name, before):
                    back.append(path)
                    differences.compare(str(path), "as this role left it", "as it was before")
                else:
                    outcome.kept.append(str(path))
        there = (self._places.etc / "ufw/user.rules").is_file()
        ours = [rule for rule in self.found().rules if rule.ours] if there else []
        listed = sorted({f"{rule.port}/{rule.protocol} {rule.way}" for rule in ours})
        differences.compare("doors in UFW", listed, [])
        differences.compare(str(self._places.doors), self._places.doors.is_file(), False)
        differences.compare("DOCKER-USER", self._docker_faults(wish, None), [])
        off = before is not None and self._switch_off(before)
        if off:
            differences.compare("enabled", "yes", "no")
        outcome.changed = differences.changed
        outcome.diff = differences.diff("firewall")
        if outcome.kept and differences.changed:
            outcome.notes.append(
                "Another hand has changed these files since; its changes stay, only what is ours is taken out: "
                + ", ".join(outcome.kept)
            )
        if not differences.changed or check_mode:
            return outcome
        with self.brake.alone():
            outcome.token = self.arm(wish, "the whole firewall, which is taken away", leaving=True)
            for argv in ufw.delete_commands([rule for rule in ours if self._path_of(rule) not in back]):
                self._command(argv)
            self._step()
            if before is not None:
                for path in back:
                    before.put_back(path)
                self._settings_back(before)
                for problem in self.brake.load_ufw(before):
                    raise SovereignError(_THING, problem, "What was changed is undone by itself.")
            self._places.doors.unlink(missing_ok=True)
            self._docker_apply()
        return outcome

    def _path_of(self, rule: ufw.Rule) -> Path:
        return self._places.etc / ("ufw/user.rules" if rule.family == 4 else "ufw/user6.rules")

    def _only_ours(self, name: str, before: brake.Snapshot) -> bool:
        """Whether nobody but this role has changed a file since."""
        kept, switch = before.content(self._places.etc / name), before.content(self._places.etc / "ufw/ufw.conf")
        if kept is None or switch is None or not (self._places.etc / name).is_file():
            return False
        then, now = kept.decode("utf-8", "replace"), self._text(name)
        if name == "default/ufw":
            return ufw.own_settings(then, now, _OUR_SETTINGS)
        if name == "ufw/ufw.conf":
            return ufw.own_settings(then, now, {"ENABLED": "yes"})
        if name in ("ufw/user.rules", "ufw/user6.rules"):
            levels = [ufw.settings_from(text).get("LOGLEVEL") for text in (switch.decode(), self._text("ufw/ufw.conf"))]
            if levels[0] != levels[1]:
                # The level is written into these files, too.
                return False
            return ufw.own_rules(then, now, 4 if name == "ufw/user.rules" else 6)
        return ufw.own_words(then, now)

    def _switch_off(self, before: brake.Snapshot) -> bool:
        """Whether UFW was off before, and is on."""
        then = before.content(self._places.etc / "ufw/ufw.conf") or b""
        return ufw.settings_from(then.decode()).get("ENABLED") == "no" and self.found().enabled

    def _settings_back(self, before: brake.Snapshot) -> None:
        """Where a file of settings is another hand's now: each setting of ours as it was, and nothing else."""
        for name, ours in (("default/ufw", _OUR_SETTINGS), ("ufw/ufw.conf", {"ENABLED": "yes"})):
            then = ufw.settings_from((before.content(self._places.etc / name) or b"").decode())
            now = ufw.settings_from(self._text(name))
            for key, value in ours.items():
                if now.get(key) == value and key in then and then[key] != value:
                    self._set(name, key, then[key])


_OUR_SETTINGS = {"IPV6": "yes", **{name: value for name, (value, _words) in ufw.POLICIES.items()}}
