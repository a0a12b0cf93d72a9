# SPDX-License-Identifier: MIT
"""Every template of every role, over a table of settings, rendered by Ansible's own engine.

Ansible refuses an undefined variable wherever it is used, so a rendering that succeeds has used none. ``ROWS`` says how
the roles use each template; a template without a row is an error (``test_templates.py``), so that none is forgotten.

As a program it renders everything, or the roles that are named, and prints one JSON document. It is a process of its
own because Ansible finds the filters of a collection through an import hook, which would change what the other tests
import.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar, trust_as_template

#: (role, template, setting) → [(path, text), …], or the error's words.
Rendered = dict[tuple[str, str, str], list[tuple[str, str]] | str]

ROOT = Path(__file__).resolve().parents[3]
ROLES = ROOT / "roles"
Values = dict[str, Any]
UNITS = "/etc/systemd/system"

#: What the machine itself says, as far as a template needs it.
MACHINE: Values = {
    "ansible_managed": "Ansible managed",
    "ansible_facts": {
        "processor_cores": 12,
        "processor_count": 1,
        "processor_vcpus": 24,
        "architecture": "x86_64",
        "distribution": "Ubuntu",
        "distribution_release": "noble",
        "tailscale0": {
            "ipv4": {"address": "100.64.0.2"},
            "ipv6": [
                {"address": "fd7a:115c:a1e0::2", "scope": "global"},
                {"address": "fe80::1", "scope": "link"},
            ],
        },
        "wg_home": {"ipv4": {"address": "10.9.0.1"}},
    },
    # What the role's first steps register.
    "__llama_cpp_cpuinfo": {"content": "ZmxhZ3MJCTogZnB1IGF2eDIK"},
    "__gateway_interpreter": {"stdout": "Python 3.12.3"},
}
IMAGE = {"vllm_image": "vllm/vllm-openai@sha256:" + "a" * 64}
ARCHIVE = {"vllm_image_archive": "/srv/engine.tar", "vllm_image_id": "sha256:" + "b" * 64}
#: Every tenant of the card; nothing is enabled by default.
TENANTS = {
    "gpu_tenants_enabled": ["comfyui", "tts", "audio-worker", "musetalk", "latentsync", "hallo2", "music"],
    "gpu_tenants_images": {
        name: {"image": f"example.org/{name}@sha256:" + "d" * 64}
        for name in ("comfyui", "tts", "audio", "redis", "musetalk", "latentsync", "hallo2", "music")
    },
}
INSTANCE = {"name": "coder", "port": 8002, "alias": "coder-cpu", "model": {"path": "/data/a b/50%$x.gguf"}}

#: Settings beyond the two inventories: the ends of what each role accepts.
EDGES: dict[str, dict[str, Values]] = {
    "audit": {},
    "admission": {
        "other numbers, a media folder": {
            "admission_memory_max": "64M",
            "admission_media_dirs": {"private": "/srv/media/private", "client": "/srv/media/client"},
            "admission_queue_slots": 1,
            "admission_queue_wipe_request": "answered",
        },
    },
    "bring": {},
    "base": {"another root": {"base_data_root": "/srv/with space"}},
    "docker_engine": {},
    "firewall": {
        "another interface, a longer list": {
            "firewall_interface": "wg-home",
            "firewall_inside_interfaces": ["lo", "docker0"],
        },
    },
    "gateway": {
        "other ports, no prober's patience": {"gateway_hybrid_port": 4100, "gateway_memory_max": "512M"},
    },
    "gpu_modes": {},
    "gpu_tenants": {
        "comfyui alone, no GPU": {
            "gpu_tenants_enabled": ["comfyui"],
            "gpu_tenants_images": {"comfyui": {"archive": "/srv/comfyui.tar", "id": "sha256:" + "c" * 64}},
            "gpu_tenants_gpu_devices": [],
        },
        "odd words": {
            "gpu_tenants_data_dir": "/srv/with space/50%$x",
            "gpu_tenants_overrides": {
                "tts": {"services": {"tts": {"environment": {"X": "a $y 'z'"}, "command": ["--a=b c$d"]}}},
                "music": {"services": {"music": {"volumes": [{"source": "/data/ai/08/x", "target": "/out"}]}}},
            },
        },
    },
    "guard": {
        "nothing on loopback, one client": {
            "guard_loopback_services": [],
            "guard_namespace_flows": [],
            "guard_plane_clients": [
                {"user": "mushishi-x", "address": "10.88.0.2", "port": 1, "comment": "x"},
            ],
        },
        "no host, a user of another name": {
            "guard_egress": {},
            "guard_hybrid_users": ["mushishi-ingress-hybrid"],
            "guard_sovereign_users": ["somebody"],
        },
        # As test_guard_doors.py knocks at them.
        "doors": {
            "guard_doors_enforced": True,
            "guard_doors": [
                {"name": "ssh", "port": 22, "protocol": "tcp", "role": "ssh"},
                {"name": "admission", "port": 4001, "protocol": "tcp", "role": "ingress"},
                {"name": "sync", "port": 22000, "protocol": "udp", "role": "firewall"},
                {"name": "published", "port": 4002, "protocol": "tcp", "role": "firewall"},
                {"name": "published too", "port": 22001, "protocol": "udp", "role": "firewall"},
            ],
        },
        "the doors are UFW's alone": {"guard_doors_enforced": False},
        "no door at all": {"guard_doors_enforced": True, "guard_doors": [], "guard_inside_interfaces": ["lo"]},
        "another bridge": {"guard_bridge": "br-other", "guard_ingress_interface": "wg-home"},
    },
    "host_gpu": {
        "a limit": {"host_gpu_power_watts": 450},
        "another branch, no toolkit": {"host_gpu_driver_branch": "580", "host_gpu_toolkit": False},
    },
    "ingress": {
        "an interface that is not there": {"ingress_interface": "none0", "ingress_addresses": ["192.0.2.7"]},
        "IPv4 alone": {"ingress_interface": "wg-home", "ingress_client_networks": []},
        "other ports": {"ingress_sovereign_port": 9001, "ingress_hybrid_port": 9000},
    },
    "llama_cpp": {
        "no lock, odd words": {
            "llama_cpp_mlock": False,
            "llama_cpp_instances": [INSTANCE | {"extra_args": ["--temp", "50% $x 'y'"], "threads": 3}],
        },
        "a given binary": {"llama_cpp_binary_path": "/srv/llama-server", "llama_cpp_binary_sha256": "a" * 64},
        "other flags": {"llama_cpp_native": False, "llama_cpp_cmake_flags": ["-DX=a b"], "llama_cpp_build_jobs": 3},
    },
    "sovereign_plane": {"a patient plane": {"sovereign_plane_neighbour_retry_ms": 5000}},
    "sovereignctl": {
        "a desktop, shown at login": {"sovereignctl_desktop": True, "sovereignctl_desktop_autostart": True},
    },
    "ssh": {
        "few people, another port": {
            "ssh_allow_users": ["me", "you"],
            "ssh_allow_groups": ["people"],
            "ssh_port": 2222,
            "ssh_client_networks": ["192.0.2.0/24"],
            "ssh_tcp_forwarding": "local",
        },
    },
    "tailscale": {
        "no doors": {"tailscale_policy_doors": []},
        "another interface, both protocols": {
            "tailscale_interface": "wg-home",
            "tailscale_wait_seconds": 5,
            "tailscale_policy_doors": [
                {"name": "a b", "port": 53, "protocol": "udp", "role": "x"},
                {"name": "ssh", "port": 22, "protocol": "tcp", "role": "ssh"},
            ],
        },
    },
    "vllm": {
        "an image from an archive": ARCHIVE,
        "no GPU, media, a prefix": {
            "vllm_gpu_devices": [],
            "vllm_media_dir": "/data/media",
            "vllm_command_prefix": ["serve"],
            "vllm_mode": False,
        },
        "an override": {"vllm_mode_overrides": {"agent": {"max_num_seqs": 3, "extra_args": ["--root-path=/$1"]}}},
    },
    "verify": {},
}


@dataclass(frozen=True)
class Row:
    """How a role uses a template: where the result goes, and once for each value of an expression.

    ``path`` is evaluated with the values of that time, and so is each expression of ``also``. ``each`` is an expression
    whose items become ``item``.
    """

    role: str
    template: str
    path: str
    each: str = ""
    also: tuple[tuple[str, str], ...] = ()


PREFIXES = "['mushishi-sovereign', 'mushishi-hybrid', 'mushishi-ingress']"
ROUTES = (("__ingress_routes", "sovereign_policy | mushishi.sovereign.ingress_routes(item.plane)"),)
#: What the firewall compiles out of the roles of a play; a role alone has none, and then writes no policy.
DOORS = "[{'name': 'ssh', 'port': 22, 'protocol': 'tcp', 'role': 'ssh'}]"
ROWS = (
    Row("admission", "mushishi-sovereign-admission.service.j2", f"{UNITS}/mushishi-sovereign-admission.service"),
    Row("base", "plane/hosts.j2", "/etc/mushishi/plane/hosts"),
    Row("base", "plane/nsswitch.conf.j2", "/etc/mushishi/plane/nsswitch.conf"),
    Row("base", "plane/resolv.conf.j2", "/etc/mushishi/plane/resolv.conf"),
    Row(
        "base",
        "systemd/10-hardening.conf.j2",
        UNITS + "/{{ item }}-.service.d/10-hardening.conf",
        each=PREFIXES,
        also=(("__base_prefix", "item"),),
    ),
    Row("base", "systemd/20-plane.conf.j2", f"{UNITS}/mushishi-sovereign-.service.d/20-plane.conf"),
    Row("base", "systemd/journald@sovereign.conf.j2", "/etc/systemd/journald@sovereign.conf"),
    Row("base", "systemd/sovereign-engines.slice.j2", f"{UNITS}/sovereign-engines.slice"),
    Row("base", "systemd/sovereign.slice.j2", f"{UNITS}/sovereign.slice"),
    Row("docker_engine", "10-guard.conf.j2", f"{UNITS}/docker.service.d/10-guard.conf"),
    Row("docker_engine", "mushishi-docker.sources.j2", "/etc/apt/sources.list.d/mushishi-docker.sources"),
    Row("firewall", "mushishi-docker-user.service.j2", f"{UNITS}/mushishi-docker-user.service"),
    Row("firewall", "mushishi-firewall-boot.service.j2", f"{UNITS}/mushishi-firewall-boot.service"),
    Row("firewall", "mushishi-firewall-rollback.service.j2", f"{UNITS}/mushishi-firewall-rollback.service"),
    Row("gateway", "haproxy.cfg.j2", "/etc/mushishi/gateway/haproxy.cfg"),
    Row("gateway", "litellm.yaml.j2", "/etc/mushishi/gateway/{{ item.plane }}.yaml", each="__gateway_configs"),
    Row("gateway", "mushishi-hybrid-gateway.service.j2", f"{UNITS}/mushishi-hybrid-gateway.service"),
    Row("gateway", "mushishi-sovereign-door.service.j2", f"{UNITS}/mushishi-sovereign-door.service"),
    Row("gateway", "mushishi-sovereign-gateway.service.j2", f"{UNITS}/mushishi-sovereign-gateway.service"),
    Row("gateway", "mushishi-sovereign-prober.service.j2", f"{UNITS}/mushishi-sovereign-prober.service"),
    Row("gateway", "prober.json.j2", "/etc/mushishi/gateway/prober.json"),
    Row(
        "gpu_tenants",
        "compose.yml.j2",
        "/etc/mushishi/gpu_tenants/{{ item.key }}/compose.yml",
        each="__gpu_tenants_chosen | dict2items",
    ),
    Row("guard", "egress.json.j2", "/etc/mushishi/guard/egress.json"),
    Row("guard", "host.nft.j2", "/etc/mushishi/guard/host.nft"),
    Row("guard", "mushishi-egress.service.j2", f"{UNITS}/mushishi-egress.service"),
    Row("guard", "mushishi-egress.timer.j2", f"{UNITS}/mushishi-egress.timer"),
    Row("guard", "mushishi-evidence.service.j2", f"{UNITS}/mushishi-evidence.service"),
    Row("guard", "mushishi-evidence.timer.j2", f"{UNITS}/mushishi-evidence.timer"),
    Row("guard", "mushishi-guard.service.j2", f"{UNITS}/mushishi-guard.service"),
    Row("guard", "plane.nft.j2", "/etc/mushishi/guard/plane.nft"),
    Row("host_gpu", "10-mushishi.conf.j2", f"{UNITS}/nvidia-persistenced.service.d/10-mushishi.conf"),
    Row("host_gpu", "52mushishi-gpu.j2", "/etc/apt/apt.conf.d/52mushishi-gpu"),
    Row("host_gpu", "mushishi-gpu.service.j2", f"{UNITS}/mushishi-gpu.service"),
    Row("ingress", "20-late-address.conf.j2", f"{UNITS}/mushishi-ingress-.service.d/20-late-address.conf"),
    Row(
        "ingress",
        "Caddyfile.j2",
        "/etc/mushishi/ingress-{{ item.plane }}/Caddyfile",
        each="__ingress_planes",
        also=ROUTES,
    ),
    Row(
        "ingress",
        "mushishi-ingress-plane.service.j2",
        UNITS + "/mushishi-ingress-{{ item.plane }}.service",
        each="__ingress_planes",
        also=ROUTES,
    ),
    Row("llama_cpp", "build.sh.j2", "/var/cache/mushishi/build.sh"),
    Row(
        "llama_cpp",
        "mushishi-sovereign-llama.service.j2",
        UNITS + "/mushishi-sovereign-llama-{{ item.name }}.service",
        each="__llama_cpp_instances",
    ),
    Row("sovereign_plane", "mushishi-plane.service.j2", f"{UNITS}/mushishi-plane.service"),
    Row("sovereign_plane", "plane.sh.j2", "/opt/mushishi/plane/plane.sh"),
    Row("ssh", "00-mushishi.conf.j2", "/etc/ssh/sshd_config.d/00-mushishi.conf"),
    Row(
        "ssh",
        "20-tailnet.conf.j2",
        UNITS + "/{{ item }}.d/20-tailnet.conf",
        each="['ssh.service', 'ssh@.service', 'ssh.socket']",
    ),
    Row("tailscale", "10-quiet.conf.j2", f"{UNITS}/tailscaled.service.d/10-quiet.conf"),
    Row("tailscale", "mushishi-tailnet.service.j2", f"{UNITS}/mushishi-tailnet.service"),
    Row(
        "tailscale",
        "policy.hujson.j2",
        "{{ tailscale_policy_path }}",
        also=(("tailscale_policy_doors", f"tailscale_policy_doors or {DOORS}"),),
    ),
    Row("vllm", "compose.yml.j2", "/etc/mushishi/vllm/{{ item.key }}/compose.yml", each="__vllm_modes | dict2items"),
)


def templates_on_disk(roles: Path = ROLES) -> set[tuple[str, str]]:
    """(role, name below ``templates/``) of every file in a role's template folder, and every ``.j2`` elsewhere."""
    found = set()
    for role in (path for path in roles.iterdir() if path.is_dir()):
        for path in role.rglob("*"):
            below = path.relative_to(role)
            if path.is_file() and (below.parts[0] == "templates" or path.suffix == ".j2"):
                found.add((role.name, str(below.relative_to("templates") if below.parts[0] == "templates" else below)))
    return found


def _read(*files: Path) -> Values:
    loader = DataLoader()
    values: Values = {}
    for path in files:
        if path.is_file():
            values |= loader.load_from_file(str(path), trusted_as_template=True) or {}
    return values


def settings(role: str) -> dict[str, Values]:
    """Named settings of a role: the example's inventory, the lab's, and the role's own edges on top of the first."""
    inventories = {
        name: _read(*sorted((ROOT / f"inventory/{name}/group_vars/all").glob("*.yml"))) for name in ("example", "lab")
    }
    example = inventories["example"] | IMAGE | TENANTS
    # The lab reads the image's name from a file that its depot writes.
    lab = inventories["lab"] | ARCHIVE | TENANTS
    return {"example": example, "lab": lab} | {name: example | edge for name, edge in EDGES[role].items()}


def values_of(role: str, given: Mapping[str, Any]) -> Values:
    """All variables as a play has them: defaults, then the inventory, then the role's own."""
    folder = ROLES / role
    paths = {"role_path": str(folder), "ansible_search_path": [str(folder)], "role_name": role}
    return _read(folder / "defaults/main.yml") | dict(given) | _read(folder / "vars/main.yml") | MACHINE | paths


def evaluate(text: str, values: Values) -> Any:
    """What Ansible makes of a template. Raises its error when a variable is undefined."""
    return Templar(loader=DataLoader(), variables=values).template(trust_as_template(text))


def render(row: Row, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(path on the machine, text) of each use of a template under some settings."""
    values = values_of(row.role, given)
    source = ROLES / row.role / "templates" / row.template
    # The lookup, as the roles use it: a file is trimmed in other places than an expression.
    text = "{{ lookup('ansible.builtin.template', __source) }}"
    items = list(evaluate("{{ " + row.each + " }}", values)) if row.each else [None]
    for item in items:
        now = values | ({"item": item} if row.each else {})
        for name, expression in row.also:
            now[name] = evaluate("{{ " + expression + " }}", now)
        yield str(evaluate(row.path, now)), str(evaluate(text, now | {"__source": str(source)}))


def render_all(roles: Collection[str] = ()) -> Rendered:
    """Every row under every setting of its role; of some roles alone, when they are named."""
    done: Rendered = {}
    for row in ROWS:
        if roles and row.role not in roles:
            continue
        for name, given in settings(row.role).items():
            try:
                done[row.role, row.template, name] = list(render(row, given))
            except (AnsibleError, OSError) as error:
                done[row.role, row.template, name] = f"{type(error).__name__}: {error}"
    return done


if __name__ == "__main__":
    init_plugin_loader(os.environ["ANSIBLE_COLLECTIONS_PATH"].split(":"))
    print(json.dumps([[*key, result] for key, result in render_all(sys.argv[1:]).items()]))  # noqa: T201 - its result
