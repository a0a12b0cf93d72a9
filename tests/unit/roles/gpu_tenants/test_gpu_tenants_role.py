# SPDX-License-Identifier: MIT
"""The tenants of the card: projects judged by the rules of the mode switch, what is given out by its registry."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.mushishi.sovereign.plugins.module_utils._errors import SovereignError
from ansible_collections.mushishi.sovereign.plugins.module_utils.gpu import compose_rules, registry
from rendering import TENANTS, Rendered

HERE = Path(__file__).resolve().parents[1]
ASK = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
import rendering
from ansible.plugins.loader import init_plugin_loader
init_plugin_loader(os.environ["ANSIBLE_COLLECTIONS_PATH"].split(":"))
found = {}
for case, (asked, given) in json.load(sys.stdin).items():
    values = rendering.values_of("gpu_tenants", rendering.settings("gpu_tenants")["example"] | given)
    found[case] = [rendering.evaluate("{{ " + name + " }}", values) for name in asked]
print(json.dumps(found))
"""
MODES = ["vllm-agent", "vllm-forensic", "vllm-coding"]
LOOK: dict[str, Any] = {
    "globs": {
        "/etc/mushishi/gpu_tenants/*/compose.yml": [],
        "/var/lib/mushishi/gpu_tenants/comfyui/custom_nodes/*/.mushishi-commit": [],
    },
    "contents": {},
    "paths": {},
}


IMAGES = {
    "comfyui": {"image": "example.org/comfyui@sha256:" + "d" * 64},
    "redis": {"archive": "/srv/redis.tar", "id": "sha256:" + "e" * 64},
    "audio": {"archive": "/srv/audio.tar", "id": "sha256:" + "f" * 64},
}
FOUND = LOOK | {
    "paths": {"/srv/redis.tar": {"kind": "file", "size": 3 * 1048576}, "/srv/audio.tar": {"kind": "file", "size": 1}},
    "commands": {
        "comfyui": {"rc": 1, "stdout": ""},
        "redis": {"rc": 0, "stdout": "sha256:" + "0" * 64},
        "audio": {"rc": 0, "stdout": "sha256:" + "f" * 64 + "\n"},
    },
}
MANIFEST = {
    "name": "diffusion_models",
    "licence": "Example Licence",
    "licence_url": "https://example.org/licence",
    "source": "https://models.example.org/x",
    "files": [{"path": "flux.safetensors", "size_bytes": 5, "sha256": "a" * 64}],
}
NODE = {
    "name": "kjnodes",
    "repository": "https://github.com/o/kjnodes/",
    "commit": "1" * 40,
    "sha256": "2" * 64,
    "size_bytes": 7,
}
MARK = "/var/lib/mushishi/gpu_tenants/comfyui/custom_nodes/kjnodes/.mushishi-commit"
MARKS = {"absent": None, "right": "1" * 40 + "\n", "older": "3" * 40 + "\n"}
#: Enabled tenants → the modes that there are then.
SUBSETS: list[tuple[list[str], dict[str, list[str]]]] = [
    ([], {}),
    (["tts"], {"agent": ["vllm-agent", "tts"]}),
    (["comfyui"], {"creative": ["comfyui"]}),
    (["music"], {"music": ["music"]}),
    (
        ["tts", "audio-worker"],
        {"audio-light": ["tts", "audio-worker"], "agent": ["vllm-agent", "tts", "audio-worker"]},
    ),
    (["musetalk"], {}),
]
GONE = LOOK | {
    "globs": LOOK["globs"]
    | {"/etc/mushishi/gpu_tenants/*/compose.yml": ["/etc/mushishi/gpu_tenants/music/compose.yml"]}
}
PREFLIGHT = yaml.safe_load((HERE.parents[2] / "roles/gpu_tenants/tasks/preflight.yml").read_text())
#: The condition under which Docker can hand over the GPU, by what is on the machine.
(DESCRIBED,) = [task["ansible.builtin.assert"]["that"] for task in PREFLIGHT if "hand over" in task["name"]]
CDI: dict[str, tuple[dict[str, Any], bool]] = {
    "in etc": ({"/etc/cdi/*.y*ml": ["/etc/cdi/nvidia.yaml"], "/var/run/cdi/*.y*ml": []}, True),
    "in run": ({"/etc/cdi/*.y*ml": [], "/var/run/cdi/*.y*ml": ["/var/run/cdi/nvidia.yaml"]}, True),
    "nowhere": ({"/etc/cdi/*.y*ml": [], "/var/run/cdi/*.y*ml": []}, False),
}
HOLE = {"tts": {"services": {"tts": {"volumes": [{"source": "/var/run/docker.sock", "target": "/docker.sock"}]}}}}
HASHES = ["__gpu_tenants_files", "__gpu_tenants_project_hashes", "__gpu_tenants_given_hash"]
#: Compose projects that have containers, and who of those that go is among them.
THERE = [
    ("mushishi-tts\nmushishi-music\n\nmushishi-vllm-agent", ["music"]),
    ("mushishi-tts\n\nmusic\nmushishi-musetalk", []),
    ("", []),
]
#: What is evaluated: variables of the role, under which settings.
CASES: dict[str, tuple[list[str], dict[str, Any]]] = {
    "registry": (["__gpu_tenants_registry"], {}),
    "hashes": (HASHES, {}),
    "hashes with a node": (HASHES, {"gpu_tenants_comfyui_nodes": [NODE]}),
    "nothing": (
        ["__gpu_tenants_trees", "__gpu_tenants_files", "__gpu_tenants_problems", "__gpu_tenants_missing_images"],
        {"gpu_tenants_enabled": [], "__gpu_tenants_look": LOOK},
    ),
    "trees": (["__gpu_tenants_trees"], {}),
    "missing": (
        ["__gpu_tenants_missing_images", "__gpu_tenants_disk"],
        {
            "gpu_tenants_enabled": ["comfyui", "audio-worker"],
            "gpu_tenants_images": IMAGES,
            "__gpu_tenants_look": FOUND,
        },
    ),
    "models": (
        ["__gpu_tenants_manifests"],
        {"gpu_tenants_models": {"comfyui": [MANIFEST]}, "gpu_tenants_accepted_licences": ["Example Licence"]},
    ),
    "models not accepted": (["__gpu_tenants_manifests"], {"gpu_tenants_models": {"comfyui": [MANIFEST]}}),
    "gone": (["__gpu_tenants_gone"], {"gpu_tenants_enabled": ["tts"], "__gpu_tenants_look": GONE}),
    **{
        f"still there {number}": (
            ["__gpu_tenants_gone_there"],
            {
                "gpu_tenants_enabled": ["tts"],
                "__gpu_tenants_look": GONE | {"commands": {"there": {"rc": 0, "stdout": out}}},
            },
        )
        for number, (out, _found) in enumerate(THERE)
    },
    "asked": (["__gpu_tenants_ask_images + [__gpu_tenants_ask_there]"], {"gpu_tenants_enabled": []}),
    "times": (
        ["__gpu_tenants_registry"],
        {"gpu_tenants_overrides": {"tts": {"drain_seconds": 7, "stop_seconds": 90}}},
    ),
    "not gone": (["__gpu_tenants_gone"], {"__gpu_tenants_look": GONE}),
    **{
        f"described {name}": ([DESCRIBED], {"__gpu_tenants_look": {"globs": found}})
        for name, (found, _is) in CDI.items()
    },
    "described later": (
        [DESCRIBED],
        {"__gpu_tenants_look": {"globs": CDI["nowhere"][0]}, "__host_gpu": {"card": True}},
    ),
    "hole": (["__gpu_tenants_problems"], {"gpu_tenants_overrides": HOLE}),
    **{
        f"enabled {number}": (["__gpu_tenants_registry"], {"gpu_tenants_enabled": enabled})
        for number, (enabled, _modes) in enumerate(SUBSETS)
    },
    **{
        f"node {name}": (
            ["__gpu_tenants_nodes_due", "__gpu_tenants_node_marks", "__gpu_tenants_files_wanted"],
            {"gpu_tenants_comfyui_nodes": [NODE], "__gpu_tenants_look": LOOK | {"contents": {MARK: content}}},
        )
        for name, content in MARKS.items()
    },
}


@pytest.fixture(scope="module")
def said() -> dict[str, list[Any]]:
    """What each case's variables are, evaluated by Ansible in one process (see rendering.py)."""
    argv = [sys.executable, "-c", ASK, str(HERE)]
    done = subprocess.run(argv, input=json.dumps(CASES), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    answers: dict[str, list[Any]] = json.loads(done.stdout)
    return answers


@pytest.fixture(scope="module")
def projects(rendered: Rendered) -> dict[str, dict[str, Any]]:
    """Every project under every setting, by setting and path."""
    found = {}
    for (role, template, setting), made in rendered.items():
        if role == "gpu_tenants" and template == "compose.yml.j2":
            assert not isinstance(made, str), made
            found |= {f"{setting}: {path}": yaml.safe_load(text) for path, text in made}
    return found


@pytest.fixture(scope="module")
def given_out(said: dict[str, list[Any]]) -> dict[str, Any]:
    entries: dict[str, Any] = said["registry"][0]
    return entries


def with_vllm(entries: dict[str, Any]) -> dict[str, Any]:
    """The entries in a whole registry, beside tenants of vLLM such as another role gives out."""
    raw = copy.deepcopy(entries)
    for number, name in enumerate(MODES):
        raw["tenants"][name] = {
            "project": f"/etc/mushishi/vllm/{name[5:]}/compose.yml",
            "containers": [f"mushishi-{name}"],
            "vram_mib": 25600,
            "ready": {"kind": "completion", "url": f"http://10.88.0.{10 + number}:8000/v1", "model": name},
            "models": [name],
        }
    return raw | {"card_mib": 32607}


# --- projects


def test_no_project_has_a_way_around_the_plane(projects: dict[str, dict[str, Any]]) -> None:
    assert len(projects) >= 22
    assert {name: found for name, project in projects.items() if (found := compose_rules.problems(project))} == {}


def test_the_rules_would_say_so(projects: dict[str, dict[str, Any]]) -> None:
    """Control: the same projects with a hole each."""
    for project in projects.values():
        for hole in (
            {"privileged": True},
            {"ports": ["8188:8188"]},
            {"cap_add": ["SYS_ADMIN"]},
            {"network_mode": "host"},
        ):
            holed = copy.deepcopy(project)
            next(iter(holed["services"].values())).update(hole)
            assert compose_rules.problems(holed)


def test_every_container_can_do_nothing_but_its_work(projects: dict[str, dict[str, Any]]) -> None:
    services = [service for project in projects.values() for service in project["services"].values()]
    for service in services:
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
        assert service["restart"] == "no" and service["pull_policy"] == "never", "the mode switch alone starts it"
        assert service["dns"] == ["127.0.0.1"] and service["cgroup_parent"] == "sovereign-engines.slice"
        assert service["environment"]["HF_HUB_OFFLINE"] == "1" and service["ulimits"]["core"] == 0
        written = {volume["target"] for volume in service["volumes"] if not volume.get("read_only")}
        assert written == {"/data", "/cache"}, "models, settings and nodes are read alone"
        assert all(volume["bind"] == {"create_host_path": False} for volume in service["volumes"])
        assert not [name for name in service["environment"] if "KEY" in name or "TOKEN" in name]


def test_what_a_tenant_may_not_change_is_not_below_what_it_may(projects: dict[str, dict[str, Any]]) -> None:
    for project in projects.values():
        for service in project["services"].values():
            written = [each["source"] for each in service["volumes"] if not each.get("read_only")]
            read = [each["source"] for each in service["volumes"] if each.get("read_only")]
            assert not [path for path in read for above in written if path.startswith(above)]


def test_images_are_pinned_and_addresses_are_one_s_own(projects: dict[str, dict[str, Any]]) -> None:
    here = {name: project for name, project in projects.items() if name.startswith("example: ")}
    services = [service for project in here.values() for service in project["services"].values()]
    addresses = [service["networks"]["sovereign"]["ipv4_address"] for service in services]
    assert len(set(addresses)) == len(addresses) == 9
    assert not set(addresses) & {"10.88.0.1", "10.88.0.2", "10.88.0.10", "10.88.0.11", "10.88.0.12"}
    assert all("@sha256:" in service["image"] for service in services)


def test_an_image_from_an_archive_is_called_by_its_id(projects: dict[str, dict[str, Any]]) -> None:
    (project,) = [each for name, each in projects.items() if name.startswith("comfyui alone")]
    assert project["services"]["comfyui"]["image"] == "mushishi/comfyui:" + "c" * 12
    assert "devices" not in project["services"]["comfyui"], "no GPU was asked for"


def test_compose_reads_every_word_as_it_was_meant(projects: dict[str, dict[str, Any]]) -> None:
    tts = projects["odd words: /etc/mushishi/gpu_tenants/tts/compose.yml"]["services"]["tts"]
    assert tts["command"] == ["--a=b c$$d"] and tts["environment"]["X"] == "a $$y 'z'", "compose turns $$ into $"
    assert tts["volumes"][1]["source"] == "/srv/with space/50%$$x/tts"
    music = projects["odd words: /etc/mushishi/gpu_tenants/music/compose.yml"]["services"]["music"]
    assert music["volumes"][-1]["target"] == "/out" and music["volumes"][-1]["read_only"] is True


def test_comfyui_calls_no_cloud_and_keeps_its_nodes(projects: dict[str, dict[str, Any]]) -> None:
    comfyui = projects["example: /etc/mushishi/gpu_tenants/comfyui/compose.yml"]["services"]["comfyui"]
    assert "--disable-api-nodes" in comfyui["command"] and "--enable-cors-header" not in comfyui["command"]
    (nodes,) = [each for each in comfyui["volumes"] if each["target"] == "/custom_nodes"]
    assert nodes["read_only"] is True


def test_a_container_says_which_project_and_which_nodes_it_was_made_from(said: dict[str, list[Any]]) -> None:
    files, hashes, given = said["hashes"]
    entry = next(item for item in files if item["path"] == "/etc/mushishi/gpu_tenants/comfyui/compose.yml")
    labels = yaml.safe_load(entry["content"])["services"]["comfyui"]["labels"]
    assert labels == {"mushishi.project": hashes["comfyui"], "mushishi.given": given}
    _files, other, _given = said["hashes with a node"]
    assert other["comfyui"] != hashes["comfyui"] and other["tts"] == hashes["tts"]
    assert entry["validate"][:2] == ["docker", "compose"]


# --- the registry


def test_the_registry_takes_all_of_it(given_out: dict[str, Any]) -> None:
    loaded = registry.load(with_vllm(given_out))
    assert {name: mode.tenants for name, mode in loaded.modes.items()} == {
        "creative": ["comfyui"],
        "audio-light": ["tts", "audio-worker"],
        "audio-full": ["tts", "audio-worker", "latentsync", "musetalk"],
        "lipsync-hallo2": ["hallo2", "audio-worker"],
        "music": ["music", "audio-worker"],
        "agent": ["vllm-agent", "tts", "audio-worker"],
    }
    assert registry.sums(loaded)["agent"] == (
        31744,
        "vllm-agent 25600 + tts 3072 + audio-worker 2048 + reserve 1024 = 31744 MiB",
    )


def test_the_registry_would_refuse_what_does_not_fit(given_out: dict[str, Any]) -> None:
    """Control: with what is said of Fish Speech elsewhere the agent mode does not fit."""
    raw = with_vllm(given_out)
    raw["tenants"]["tts"]["vram_mib"] = 8192
    with pytest.raises(SovereignError, match="mode agent does not fit"):
        registry.load(raw)


def test_the_containers_are_those_of_the_projects(
    given_out: dict[str, Any], projects: dict[str, dict[str, Any]]
) -> None:
    for entry in given_out["tenants"].values():
        project = projects[f"example: {entry['project']}"]
        assert entry["containers"] == [service["container_name"] for service in project["services"].values()]
        addresses = [service["networks"]["sovereign"]["ipv4_address"] for service in project["services"].values()]
        assert any(f"//{address}:" in entry["ready"]["url"] for address in addresses), "asked where it is"


@pytest.mark.parametrize("number", range(len(SUBSETS)))
def test_a_mode_without_what_it_needs_is_not_there(number: int, said: dict[str, list[Any]]) -> None:
    enabled, modes = SUBSETS[number]
    (made,) = said[f"enabled {number}"]
    assert {name: mode["tenants"] for name, mode in made["modes"].items()} == modes
    assert sorted(made["tenants"]) == sorted(enabled)
    registry.load(with_vllm(made))


def test_nothing_is_enabled_by_default(said: dict[str, list[Any]]) -> None:
    defaults = yaml.safe_load((HERE.parents[2] / "roles/gpu_tenants/defaults/main.yml").read_text())
    assert defaults["gpu_tenants_enabled"] == [] and defaults["gpu_tenants_images"] == {}
    trees, files, problems, images = said["nothing"]
    assert (files, problems, images) == ([], [], [])
    assert all(not entry["path"].startswith("/data") for entry in trees)


# --- images, models, nodes


def test_every_tree_is_for_root_alone(said: dict[str, list[Any]]) -> None:
    trees = {entry["path"]: entry["mode"] for entry in said["trees"][0]}
    for tenant in TENANTS["gpu_tenants_enabled"]:
        for folder in ("02-models", "03-data", "07-cache"):
            assert trees[f"/data/ai/{folder}/{tenant}"] == "0700"
    assert trees["/data/ai/03-data/comfyui/output"] == "0700"


def test_what_is_missing_is_brought(said: dict[str, list[Any]]) -> None:
    missing, disk = said["missing"]
    assert missing == [
        {"name": IMAGES["comfyui"]["image"]},
        {"name": "mushishi/redis:" + "e" * 12, **IMAGES["redis"]},
    ], "another image under the archive's name does not count"
    assert [entry["free_mib"] for entry in disk] == [20000, 3]


def test_models_land_below_their_tenant(said: dict[str, list[Any]]) -> None:
    (read,) = said["models"]
    assert read["problems"] == []
    assert read["files"][0]["path"] == "/data/ai/02-models/comfyui/diffusion_models/flux.safetensors"


def test_a_licence_that_nobody_accepted_is_refused(said: dict[str, list[Any]]) -> None:
    (problem,) = said["models not accepted"][0]["problems"]
    assert "https://example.org/licence" in problem and "gpu_tenants_accepted_licences" in problem


@pytest.mark.parametrize(("name", "due"), [("absent", 1), ("right", 0), ("older", 1)])
def test_a_node_is_unpacked_when_it_is_not_at_its_commit(name: str, due: int, said: dict[str, list[Any]]) -> None:
    nodes, marks, files = said[f"node {name}"]
    assert len(nodes) == due and marks == [MARK]
    assert files[0]["url"] == "https://github.com/o/kjnodes/archive/" + "1" * 40 + ".tar.gz"
    assert files[0]["path"].endswith("kjnodes-" + "1" * 40 + ".tar.gz")


def test_what_is_no_longer_enabled_goes(said: dict[str, list[Any]]) -> None:
    assert said["gone"] == [["music"]] and said["not gone"] == [[]]


@pytest.mark.parametrize("number", range(len(THERE)))
def test_who_is_still_there_is_not_taken_away(number: int, said: dict[str, list[Any]]) -> None:
    assert said[f"still there {number}"] == [THERE[number][1]]


def test_who_is_there_is_asked_of_docker(said: dict[str, list[Any]]) -> None:
    (((asked,),),) = (said["asked"],)
    assert asked["argv"] == ["docker", "ps", "--all", '--format={{.Label "com.docker.compose.project"}}']
    assert asked["allowed"] == [], "Docker need not be there yet"


def test_its_removal_ends_nobody() -> None:
    """That is the mode switch's, which asks who is at work."""
    assert "docker" not in (HERE.parents[2] / "roles/gpu_tenants/tasks/remove.yml").read_text()


def test_its_own_times_reach_the_switch(said: dict[str, list[Any]]) -> None:
    tenants = said["times"][0]["tenants"]
    assert (tenants["tts"]["drain_seconds"], tenants["tts"]["stop_seconds"]) == (7, 90)
    assert (tenants["comfyui"]["drain_seconds"], tenants["comfyui"]["stop_seconds"]) == (300, 60)


def test_a_hole_of_the_operator_s_own_is_refused(said: dict[str, list[Any]]) -> None:
    assert said["hole"] == [["tenant tts: service tts sees /var/run/docker.sock of the host (/var/run)."]]


def test_a_card_is_described_or_will_be(said: dict[str, list[Any]]) -> None:
    assert {name: said[f"described {name}"] for name in CDI} == {name: [fine] for name, (_found, fine) in CDI.items()}
    assert said["described later"] == [True], "role host_gpu has found it and comes first"
