# SPDX-License-Identifier: MIT
"""The machine on which the tests of the firewall run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from firewall_machine import PARTS, SYSTEMCTL, SYSTEMD_RUN, Machine
from wires import places, program, wire


@pytest.fixture
def machine(collections_root: Path, tmp_path: Path) -> Iterator[Machine]:
    """A machine with UFW as its package leaves it: off, nothing allowed."""
    for name in ("ufw", "iptables", "ip6tables", "nft", "ip"):
        program(name)
    for name, text in (("systemctl", SYSTEMCTL), ("systemd-run", SYSTEMD_RUN)):
        stub = tmp_path / name
        stub.write_text(text.replace("@PARTS@", str(PARTS)))
        stub.chmod(0o755)
    with places("machine", "stranger", "client") as (place, stranger, client):
        layers = (
            "mount -t tmpfs tmpfs /mnt && mkdir /mnt/etc /mnt/work && "
            "mount -t overlay overlay -o lowerdir=/etc,upperdir=/mnt/etc,workdir=/mnt/work /etc && "
            f"mount --bind {tmp_path} /usr/local/sbin && mount -t tmpfs tmpfs /var/lib && mount -t tmpfs tmpfs /run && "
            "rm -rf /etc/mushishi /etc/docker && cp /usr/share/ufw/ufw.conf /etc/ufw/ufw.conf"
        )
        place.run("sh", "-c", layers)
        wire(place, "lan0", stranger, "out0")
        wire(place, "tailscale0", client, "out0")
        place.address("lan0", "198.51.100.1/24", "2001:db8:1::1/64")
        place.address("tailscale0", "100.64.0.1/24", "fd7a:115c:a1e0::1/64")
        stranger.address("out0", "198.51.100.9/24", "2001:db8:1::9/64")
        client.address("out0", "100.64.0.9/24", "fd7a:115c:a1e0::9/64")
        yield Machine(place, stranger, client, collections_root)
