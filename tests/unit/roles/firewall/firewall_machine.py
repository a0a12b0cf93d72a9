# SPDX-License-Identifier: MIT
"""A machine with the real UFW and iptables, in namespaces of its own: its files, its kernel's rules, nothing of ours.

``/etc`` and ``/var/lib`` are seen through layers that are thrown away. systemd is played: a timer that is started runs
the real rollback program when its time is over, unless it is stopped.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from ansible_collections.mushishi.sovereign.plugins.module_utils.firewall.brake import UFW_FILES
from wires import Place

CHECKOUT = Path(__file__).resolve().parents[4]
PARTS = CHECKOUT / "plugins/module_utils/firewall"
INSIDE = ["lo", "docker0", "br-*", "veth*", "br-sovereign"]
SSH = {"name": "ssh", "port": 22, "protocol": "tcp", "role": "ssh"}
ADMISSION = {"name": "admission", "port": 4001, "protocol": "tcp", "role": "ingress"}
SYNC = {"name": "sync", "port": 22000, "protocol": "udp", "role": "firewall"}

#: Runs the module's own core in the namespace; arguments as JSON on standard input, the answer as JSON.
DRIVER = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils.firewall import brake, machine
from ansible_collections.mushishi.sovereign.plugins.module_utils.firewall.doors import doors_from
given = json.load(sys.stdin)
wish = machine.Wish(given['state'], 'tailscale0', doors_from(given['doors']), given['inside'], given['seconds'],
                    given['over_ssh'], given['accepted'], os.getpid())
here = machine.Machine(brake.run_program)
try:
    if given['arm']:
        answer = {'token': here.arm(wish, given['arm'])}
    else:
        outcome = here.bring(wish, check_mode=given['check'])
        answer = {'changed': outcome.changed, 'token': outcome.token, 'diff': outcome.diff, 'notes': outcome.notes,
                  'kept': outcome.kept, 'login': outcome.login}
except SovereignError as error:
    answer = {'failed': str(error)}
print(json.dumps(answer))
"""

SYSTEMCTL = """#!/bin/sh
echo "systemctl $*" >> /run/said
case "$*" in
"is-active docker.service") if [ -e /run/docker-runs ]; then echo active; else echo inactive; exit 3; fi ;;
"stop mushishi-firewall-rollback.timer"*) rm -f /run/timer ;;
"try-restart mushishi-docker-user.service")
    [ ! -e /run/docker-runs ] || python3 -IB @PARTS@/docker_user.py apply ;;
is-*) cat "/run/answers/$*" 2> /dev/null || echo unknown ;;
esac
"""

SYSTEMD_RUN = """#!/bin/sh
echo "systemd-run $*" >> /run/said
[ ! -e /run/no-timers ] || { echo "no timers today" >&2; exit 1; }
for word in "$@"; do
    case "$word" in --on-active=*) seconds=${word#--on-active=}; seconds=${seconds%s} ;; esac
done
echo "$$" > /run/timer
mine=$$
(sleep "$seconds"; [ "$(cat /run/timer 2> /dev/null)" = "$mine" ] && python3 -IB @PARTS@/brake.py roll-back) \
    > /run/rolled 2>&1 < /dev/null &
"""


class Machine:
    """The machine under test."""

    def __init__(self, place: Place, stranger: Place, client: Place, collections: Path) -> None:
        self.place, self.stranger, self.client = place, stranger, client
        self.collections = collections

    def run(self, *argv: str, check: bool = True, text: str = "") -> str:
        return self.place.run(*argv, check=check, text=text)

    def bring(self, *doors: dict[str, Any], **given: Any) -> dict[str, Any]:
        """One run of the module's core."""
        asked = {
            "state": "present",
            "doors": list(doors),
            "inside": INSIDE,
            "seconds": 60,
            "over_ssh": False,
            "accepted": False,
            "check": False,
            "arm": "",
            **given,
        }
        out = self.run(sys.executable, "-c", DRIVER, str(self.collections), text=json.dumps(asked))
        answer: dict[str, Any] = json.loads(out)
        return answer

    def brake(self, *words: str) -> str:
        return self.run(sys.executable, "-IB", str(PARTS / "brake.py"), *words, check=False)

    def confirm(self, answer: dict[str, Any]) -> None:
        assert answer.get("token"), answer
        self.run(sys.executable, "-IB", str(PARTS / "brake.py"), "confirm", answer["token"])

    def docker_user(self, word: str) -> str:
        """What the unit's program says, with its exit status as the last word."""
        return self.run("sh", "-c", f"python3 -IB {PARTS}/docker_user.py {word} 2>&1; echo $?")

    def files(self) -> dict[str, str]:
        """UFW's files with mode and content."""
        names = [*UFW_FILES, "ufw/before.rules", "ufw/before6.rules"]
        return {
            name: self.run("sh", "-c", f"stat -c '%a %u %g' /etc/{name} && cat /etc/{name}", check=False)
            for name in names
        }

    def switches(self) -> str:
        """What UFW's sysctl.conf names, as the kernel has it."""
        read = "grep -v '^#' /etc/ufw/sysctl.conf | grep = | cut -d= -f1 | while read n; do cat /proc/sys/$n; done"
        return self.run("sh", "-c", read)

    def rules(self, family: str = "iptables") -> list[str]:
        return self.run(family, "-S").splitlines()

    def docker(self, *, v6: bool = True) -> None:
        """The chains that Docker makes when it starts, and the mark that it runs."""
        for family in ("iptables", "ip6tables") if v6 else ("iptables",):
            for chain in ("DOCKER", "DOCKER-USER", "DOCKER-FORWARD"):
                self.run(family, "-N", chain, check=False)
                self.run(family, "-F", chain)
            self.run(family, "-D", "FORWARD", "-j", "DOCKER-USER", check=False)
            self.run(family, "-I", "FORWARD", "-j", "DOCKER-USER")
        self.run("touch", "/run/docker-runs")

    def said(self) -> str:
        return self.run("cat", "/run/said", check=False)
