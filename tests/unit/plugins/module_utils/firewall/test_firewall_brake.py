# SPDX-License-Identifier: MIT
"""The brake's pure parts and its races; the whole of it, with the real UFW, is in tests/unit/roles/firewall."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from ansible_collections.mushishi.sovereign.plugins.module_utils.firewall import brake
from ansible_collections.mushishi.sovereign.plugins.module_utils.firewall.brake import (
    BEGIN,
    END,
    Brake,
    NotArmed,
    OldConnection,
    Undone,
    Unfinished,
)
from hypothesis import given
from hypothesis import strategies as some

TEXT = some.text(some.characters(codec="ascii", exclude_characters="#\r\n\x0b\x0c\x1c\x1d\x1e"), max_size=40)


@given(TEXT, TEXT, TEXT, TEXT)
def test_the_lines_of_the_doors_alone_are_exchanged(head: str, old: str, new: str, tail: str) -> None:
    rules = f"{head}\n{BEGIN}{old}\n{END}{tail}\n"
    wanted = f"{BEGIN}{new}\n{END}"
    made = brake.with_doors(rules, wanted)
    assert made == f"{head}\n{wanted}{tail}\n" and brake.doors_of(made) == wanted
    assert brake.with_doors(made, brake.doors_of(rules)) == rules, "and back again"


@pytest.mark.parametrize("rules", [None, "", "table inet mushishi_guard { }\n", BEGIN])
def test_rules_without_a_place_for_doors_have_none(rules: str | None) -> None:
    assert brake.doors_of(rules) == brake.NO_DOORS
    assert brake.with_doors(rules or "", brake.NO_DOORS) == (rules or "")


def test_the_marks_are_those_of_the_guard(checkout: Path) -> None:
    text = (checkout / "roles/guard/templates/host.nft.j2").read_text()
    assert text.count(BEGIN) == 1 and text.count(END) == 1 and text.index(BEGIN) < text.index(END)


LISTING = """-P INPUT DROP
-N DOCKER-USER
-N ufw-before-input
-N ufw-user-input
-A INPUT -s 192.0.2.1/32 -j ACCEPT
-A INPUT -j ufw-before-input
-A DOCKER-USER -j ufw-user-input
-A ufw-before-input -j ufw-user-input
-A ufw-user-input -p tcp -m tcp --dport 22 -j ACCEPT
"""


def test_every_chain_of_ufw_is_taken_away_and_no_other() -> None:
    assert brake.purge(LISTING, "ufw").splitlines() == [
        *("*filter", "-D INPUT -j ufw-before-input", "-D DOCKER-USER -j ufw-user-input"),
        *("-F ufw-before-input", "-F ufw-user-input", "-X ufw-before-input", "-X ufw-user-input", "COMMIT"),
    ]
    assert brake.purge(LISTING, "ufw6") == "*filter\nCOMMIT\n"


def test_switches_are_paths() -> None:
    text = "# a=1\n;b=2\n\nnet/ipv4/conf/all/x=1\nnet.ipv4.y = 0\n-net.ipv6.z=2\nnonsense\n"
    assert brake.switches_of(text) == ["net/ipv4/conf/all/x", "net/ipv4/y", "net/ipv6/z"]


class System:
    """Programs that all succeed, and are remembered."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.fails = ""

    def run(self, argv: Sequence[str], text: str) -> tuple[int, str, str]:
        self.said.append(" ".join(argv))
        return (1, "", "no") if self.fails and self.fails in self.said[-1] else (0, "", "")


@pytest.fixture
def places(tmp_path: Path) -> brake.Places:
    etc = tmp_path / "etc"
    for name in (*brake.UFW_FILES, "mushishi/x"):
        (etc / name).parent.mkdir(parents=True, exist_ok=True)
        (etc / name).write_text(f"{name} as it was\n")
        (etc / name).chmod(0o640)
    (tmp_path / "boot").write_text("one\n")
    return brake.Places(tmp_path / "state", tmp_path / "lock", etc, tmp_path / "boot", tmp_path / "sys")


def test_armed_changed_undone_told(places: brake.Places) -> None:
    system = System()
    one = Brake(places, system.run)
    token = one.arm(60, "UFW", remember=True)
    assert "systemd-run --on-active=60s" in system.said[-1]
    with pytest.raises(NotArmed, match="the change of UFW waits"):
        one.arm(60, "again")
    (places.etc / "ufw/user.rules").write_text("changed")
    (places.etc / "ufw/user6.rules").unlink()
    places.doors.write_text("{}")
    record = one.roll_back()
    assert record and record["problems"] == [] and one.roll_back() is None
    assert (places.etc / "ufw/user.rules").read_text() == "ufw/user.rules as it was\n"
    assert (places.etc / "ufw/user6.rules").stat().st_mode & 0o777 == 0o640 and not places.doors.exists()
    assert not places.before.exists(), "a first change that was undone is no first change"
    with pytest.raises(Undone, match="nobody confirmed it in a new connection within 60 seconds"):
        one.confirm(token)
    one.confirm(one.arm(60, "UFW", remember=True))
    assert one.last_undone() is None and places.before.exists()


def test_a_token_of_nobody(places: brake.Places) -> None:
    one = Brake(places, System().run)
    with pytest.raises(NotArmed, match="no change with this token"):
        one.confirm("x")
    one.arm(60, "UFW")
    with pytest.raises(NotArmed):
        one.confirm("x")
    assert one.armed(), "a wrong token confirms nothing"


OLD, NEW = "100.64.0.9 50000 100.64.0.1 22", "100.64.0.9 50001 100.64.0.1 22"


def test_the_connection_from_before_confirms_nothing(places: brake.Places) -> None:
    one = Brake(places, System().run)
    token = one.arm(60, "UFW", connection=OLD)
    with pytest.raises(OldConnection, match="was there before the change"):
        one.confirm(token, OLD)
    assert one.armed(), "it waits on"
    one.confirm(token, NEW)
    assert one.armed() is None
    # At a console, or where nobody knew the connection: the token is all there is.
    one.confirm(one.arm(60, "UFW", connection=OLD))
    one.confirm(one.arm(60, "UFW"), NEW)


def process(proc: Path, pid: int, parent: int, *environment: str) -> None:
    """A process as /proc shows it."""
    (proc / str(pid)).mkdir()
    (proc / str(pid) / "environ").write_bytes("\0".join(environment).encode())
    (proc / str(pid) / "stat").write_text(f"{pid} (a ) b) S {parent} 1 1\n")


def test_which_connection_it_is(tmp_path: Path) -> None:
    for pid, parent, words in (
        *((1, 0, "PATH=/bin"), (7, 1, f"SSH_CONNECTION={OLD}"), (8, 7, "SUDO_USER=me"), (9, 1, "SSH_CONNECTION=x")),
        *((10, 11, ""), (11, 10, ""), (12, 7, f"SSH_CONNECTION={NEW}")),
    ):
        process(tmp_path, pid, parent, words)
    asked = {pid: brake.ssh_connection(pid, str(tmp_path)) for pid in (1, 7, 8, 9, 10, 12, 77)}
    assert asked == {1: "", 7: OLD, 8: OLD, 9: "", 10: "", 12: NEW, 77: ""}


def test_who_waits_hears_what_became_of_it(places: brake.Places, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a run inside a login: somebody else confirms, or nobody does."""
    one, looks = Brake(places, System().run), iter(range(9))
    token = one.arm(60, "UFW", connection=OLD)
    monkeypatch.setattr(brake.time, "sleep", lambda _s: one.confirm(token, NEW) if next(looks) == 2 else None)
    one.wait(token)
    assert next(looks) == 3, "it waited"
    late = one.arm(60, "UFW", connection=OLD)
    monkeypatch.setattr(brake.time, "sleep", lambda _s: one.roll_back())
    with pytest.raises(Undone, match="nobody confirmed it"):
        one.wait(late)
    monkeypatch.setattr(brake.time, "sleep", lambda _s: None)
    lost = one.arm(60, "UFW", connection=OLD)
    later = time.time() + 900
    monkeypatch.setattr(brake.time, "time", lambda: later)
    with pytest.raises(Unfinished, match="not undone although its time is over"):
        one.wait(lost)


def test_a_timer_that_does_not_start_changes_nothing(places: brake.Places) -> None:
    system = System()
    system.fails = "systemd-run"
    with pytest.raises(NotArmed, match="cannot be started"):
        Brake(places, system.run).arm(60, "UFW", remember=True)
    assert list(places.state.iterdir()) == []


def test_nothing_is_undone_in_the_middle_of_a_change(places: brake.Places) -> None:
    """Who makes it has the lock from the arming to the last step; the timer's program waits."""
    maker, timer, done = Brake(places, System().run), Brake(places, System().run), []
    with maker.alone():
        token = maker.arm(60, "UFW")
        thread = threading.Thread(target=lambda: done.append(timer.roll_back()))
        thread.start()
        for name in ("ufw/user.rules", "ufw/user6.rules"):
            thread.join(0.4)
            assert done == [] and maker.stands(token)
            (places.etc / name).write_text("changed")
    thread.join(30)
    assert done and done[0] and not maker.stands(token)
    for name in ("ufw/user.rules", "ufw/user6.rules"):
        assert (places.etc / name).read_text() == f"{name} as it was\n"


def test_one_that_hangs_is_not_waited_for(places: brake.Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brake, "HANGS_SECONDS", 0.7)
    maker, timer = Brake(places, System().run), Brake(places, System().run)
    with maker.alone():
        token = maker.arm(60, "UFW")
        began = time.monotonic()
        assert timer.roll_back() and time.monotonic() - began >= 0.7
        assert not maker.stands(token), "and it sees that when it goes on"


def test_what_cannot_be_put_back_is_said_and_the_rest_is(places: brake.Places) -> None:
    system = System()
    one = Brake(places, system.run)
    one.arm(60, "UFW")
    (places.etc / "ufw/ufw.conf").write_text("changed")
    system.fails = "iptables-restore"
    token = one.armed()["token"]
    for _try in range(brake.TRIES - 1):
        with pytest.raises(Unfinished, match="could not be put back yet: iptables-restore"):
            one.roll_back()
        assert (places.etc / "ufw/ufw.conf").read_text() == "ufw/ufw.conf as it was\n"
        with pytest.raises(Undone, match="is being undone"):
            one.confirm(token)
    record = one.roll_back()
    assert record and len(record["problems"]) == 1 and "iptables-restore" in record["problems"][0]
    assert "could not be put back" in brake.told(record) and one.armed() is None


def test_what_fails_once_is_put_back_at_the_next_try(places: brake.Places) -> None:
    """The files are back after the first try; the kernel is not forgotten for that."""
    system = System()
    one = Brake(places, system.run)
    one.arm(60, "UFW")
    (places.etc / "ufw/ufw.conf").write_text("changed")
    system.fails = "iptables-restore"
    with pytest.raises(Unfinished):
        one.roll_back()
    system.fails = ""
    system.said.clear()
    record = one.roll_back()
    assert record and record["problems"] == [] and any("iptables-restore" in said for said in system.said)


LATER = time.time() + 9000


@pytest.mark.parametrize("killed", ["before the timer", "by a failed undoing", "by a boot that undid nothing"])
def test_a_mark_without_a_timer_blocks_nobody(
    places: brake.Places, monkeypatch: pytest.MonkeyPatch, killed: str
) -> None:
    system = System()
    one = Brake(places, system.run)
    one.arm(60, "UFW")
    (places.etc / "ufw/ufw.conf").write_text("changed")
    if killed == "by a failed undoing":
        index = (places.pending / "index.json").read_text()
        (places.pending / "index.json").write_text("{")
        with pytest.raises(Unfinished, match="cannot be undone"):
            one.roll_back()
        assert one.armed(), "it is tried again"
        (places.pending / "index.json").write_text(index)
    with pytest.raises(NotArmed, match="waits for its confirmation"):
        one.arm(60, "again")
    if killed == "by a boot that undid nothing":
        places.boot.write_text("two\n")
    else:
        monkeypatch.setattr(brake.time, "time", lambda: LATER)
    token = one.arm(60, "again")
    assert (places.etc / "ufw/ufw.conf").read_text() == "ufw/ufw.conf as it was\n"
    assert one.last_undone()["reason"] == "UFW" and one.stands(token)


def test_what_cannot_be_undone_at_all_says_what_to_do(places: brake.Places, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Brake(places, System().run)
    one.arm(60, "UFW")
    (places.pending / "index.json").unlink()
    monkeypatch.setattr(brake.time, "time", lambda: LATER)
    with pytest.raises(Unfinished, match=f"as you want it: rm {places.mark}"):
        one.arm(60, "again")


def test_the_record_that_cannot_be_written_leaves_the_mark(places: brake.Places) -> None:
    """A full disk: whoever comes next learns what happened, and the timer's program is run again."""
    one = Brake(places, System().run)
    one.arm(60, "UFW")
    places.undone.mkdir()
    with pytest.raises(Unfinished):
        one.roll_back()
    places.undone.rmdir()
    assert one.armed() and one.roll_back()


def test_exit_statuses_are_those_of_the_unit(
    checkout: Path, places: brake.Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd starts it again for each status but success and the one that says that the rest cannot be put back."""
    system = System()
    monkeypatch.setattr(brake, "Brake", lambda: Brake(places, system.run))
    Brake(places, system.run).arm(60, "UFW")
    (places.etc / "ufw/ufw.conf").write_text("changed")
    system.fails = "iptables-restore"
    said = [brake.main(["roll-back"]) for _try in range(brake.TRIES)]
    assert said == [brake.EXIT_UNFINISHED] * (brake.TRIES - 1) + [brake.EXIT_LEFT]
    unit = (checkout / "roles/firewall/templates/mushishi-firewall-rollback.service.j2").read_text()
    assert f"\nRestartPreventExitStatus={brake.EXIT_LEFT}\n" in unit and "\nRestart=on-failure\n" in unit


def test_after_a_reboot_files_alone_are_put_back(places: brake.Places) -> None:
    system = System()
    one = Brake(places, system.run)
    one.arm(60, "UFW")
    (places.etc / "ufw/ufw.conf").write_text("changed")
    system.said.clear()
    record = one.roll_back("reboot")
    assert record and system.said == [] and "the machine was restarted" in brake.told(record)
    assert (places.etc / "ufw/ufw.conf").read_text() == "ufw/ufw.conf as it was\n"


def test_a_copy_that_was_cut_off_is_no_copy(places: brake.Places) -> None:
    """A power cut while it is armed: without the mark nothing waits, and the next change copies anew."""
    one = Brake(places, System().run)
    one.take(places.pending)
    (places.state / "pending.new").mkdir()
    assert one.armed() is None and one.roll_back() is None
    one.arm(60, "UFW")
    assert json.loads((places.pending / "index.json").read_text())["files"]
