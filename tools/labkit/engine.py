# SPDX-License-Identifier: MIT
"""The Docker engine that carries the lab: the user's own if one runs, else a private one with its own socket."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from .paths import DOCKER, LOGS, ROOT
from .say import Failed, Run

SOCKET = DOCKER / "docker.sock"
PIDFILE = DOCKER / "dockerd.pid"
BRIDGE_MARK = DOCKER / "docker0-is-ours"
#: Longest path of a Unix socket on Linux (sun_path, unix(7)) less its closing zero.
SOCKET_PATH_MAX = 107
START_SECONDS = 60
#: The engine gives its own containerd 15 s, and a loaded machine takes several times that.
STOP_WITHIN = 120


def answers(host: str | None = None) -> bool:
    """Does an engine answer at ``host`` (a ``unix://`` address; ``None``: wherever the environment says)?"""
    env = {**os.environ, **({"DOCKER_HOST": host} if host else {})}
    done = subprocess.run(["docker", "version"], env=env, capture_output=True, stdin=subprocess.DEVNULL)
    return done.returncode == 0


def address() -> str | None:
    """The engine that carries the lab, or ``None`` when none runs."""
    own = f"unix://{SOCKET}"
    if SOCKET.exists() and answers(own):
        return own
    if answers():
        return os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    return None


def start(run: Run) -> str:
    """Return the address of a running engine, starting a private one if none runs."""
    found = address()
    if found:
        run.note(f"using the Docker engine at {found}")
        return found
    longest = DOCKER / "exec" / "containerd" / "containerd-debug.sock"
    if len(str(longest)) > SOCKET_PATH_MAX:
        raise Failed(
            f"{ROOT} is too long a path: the engine's socket {longest} would have {len(str(longest))} characters,"
            f" Linux allows {SOCKET_PATH_MAX}. Move the clone to a shorter path."
        )
    DOCKER.mkdir(parents=True, exist_ok=True)
    PIDFILE.unlink(missing_ok=True)
    # A bridge that was there before us stays when we go.
    BRIDGE_MARK.unlink(missing_ok=True)
    if not Path("/sys/class/net/docker0").exists():
        BRIDGE_MARK.touch()
    log = LOGS / "dockerd.log"
    run.note(f"starting a private Docker engine (log: {log.relative_to(ROOT)})")
    with log.open("ab") as sink:
        process = subprocess.Popen(
            [
                "dockerd",
                f"--data-root={DOCKER / 'data'}",
                f"--exec-root={DOCKER / 'exec'}",
                f"--host=unix://{SOCKET}",
                f"--pidfile={PIDFILE}",
            ],
            stdout=sink,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        if SOCKET.exists() and answers(f"unix://{SOCKET}"):
            return f"unix://{SOCKET}"
        time.sleep(0.3)
    process.terminate()
    last = "\n".join(log.read_text(errors="replace").splitlines()[-8:])
    raise Failed(f"The Docker engine did not start. Its last lines ({log}):\n{last}")


def stop(run: Run) -> None:
    """Stop the private engine, if it is ours and runs. The user's own is left alone."""
    pid = _own_pid()
    if pid is None:
        return
    run.note("stopping the private Docker engine")
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_WITHIN
    while time.monotonic() < deadline and _runs(pid):
        time.sleep(0.2)
    if _runs(pid):
        log = LOGS / "dockerd.log"
        last = "\n".join(log.read_text(errors="replace").splitlines()[-8:])
        raise Failed(
            f"The private Docker engine (pid {pid}) did not stop within {STOP_WITHIN} s."
            f" Its last lines ({log}):\n{last}"
        )
    if BRIDGE_MARK.exists():
        subprocess.run(["ip", "link", "delete", "docker0"], capture_output=True, stdin=subprocess.DEVNULL)
        BRIDGE_MARK.unlink()


def _runs(pid: int) -> bool:
    """Does the process still run? One that ended and waits for its parent to ask (a zombie) does not."""
    try:
        # After the name in brackets, which may hold anything: proc_pid_stat(5).
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _own_pid() -> int | None:
    """The private engine's process id, only when that process really is ours."""
    try:
        pid = int(PIDFILE.read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return pid if f"--host=unix://{SOCKET}".encode() in command else None
