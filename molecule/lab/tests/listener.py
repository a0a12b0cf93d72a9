# SPDX-License-Identifier: MIT
"""A service that somebody opened to everyone."""

from __future__ import annotations

from conftest import Lab


def start_planted_listener(lab: Lab) -> str:
    """A service that somebody opened to everyone on port 9999; its process id."""
    code = (
        "import socket,os,time\n"
        "s=socket.create_server(('::',9999),family=socket.AF_INET6,dualstack_ipv6=True,backlog=64)\n"
        "pid=os.fork()\n"
        "if pid: print(pid, flush=True); os._exit(0)\n"
        "os.setsid(); [os.close(f) for f in (0,1,2)]; s.settimeout(300)\n"
        "end=time.time()+300\n"
        "while time.time()<end:\n"
        "  try: s.accept()[0].close()\n"
        "  except OSError: pass\n"
    )
    return lab.hub.run("python3", "-c", code).strip()
