# SPDX-License-Identifier: MIT
"""The vllm role's compose projects, rendered by Ansible itself."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROLE = Path(__file__).parents[4] / "roles" / "vllm"
IMAGE = "vllm/vllm-openai@sha256:" + "a" * 64
MODES = ("agent", "forensic", "coding")


def templar(**overrides: Any) -> Templar:
    loader = DataLoader()
    variables: dict[str, Any] = {"ansible_managed": "Managed by Ansible", "vllm_image": IMAGE}
    for name in ("defaults", "vars"):
        variables = loader.load_from_file(str(ROLE / name / "main.yml"), trusted_as_template=True) | variables
    return Templar(loader=loader, variables=variables | overrides)


def value(name: str, **overrides: Any) -> Any:
    return templar(**overrides).template(trust_as_template("{{ " + name + " }}"))


def text(mode: str, **overrides: Any) -> str:
    item = {"key": mode, "value": value("__vllm_modes", **overrides)[mode]}
    return str(
        templar(item=item, **overrides).template(trust_as_template((ROLE / "templates/compose.yml.j2").read_text()))
    )


def engine(mode: str, **overrides: Any) -> dict[str, Any]:
    service: dict[str, Any] = yaml.safe_load(text(mode, **overrides))["services"]["engine"]
    return service


def flags(mode: str, **overrides: Any) -> dict[str, str]:
    words = [str(word) for word in engine(mode, **overrides)["command"]]
    return dict([*word.split("=", 1), ""][:2] for word in words if word.startswith("--"))


@pytest.mark.parametrize(
    ("mode", "name", "address", "length", "seqs"),
    [
        ("agent", "nemotron", "10.88.0.10", "32768", "2"),
        ("forensic", "nemotron-forensic", "10.88.0.11", "180000", "4"),
        ("coding", "coder", "10.88.0.12", "65536", "2"),
    ],
)
def test_each_mode_has_its_own_name_and_address(mode: str, name: str, address: str, length: str, seqs: str) -> None:
    given = flags(mode)
    assert given["--served-model-name"] == name
    assert engine(mode)["networks"] == {"sovereign": {"ipv4_address": address}}
    assert (given["--max-model-len"], given["--max-num-seqs"]) == (length, seqs)


@pytest.mark.parametrize("mode", MODES)
def test_the_container_can_do_nothing_but_compute(mode: str) -> None:
    service = engine(mode)
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    assert service["restart"] == "unless-stopped"
    assert service["pull_policy"] == "never"
    assert service["stop_grace_period"] == "20s"
    assert service["sysctls"] == {"net.ipv6.conf.all.disable_ipv6": "1"}
    assert not {"privileged", "network_mode", "ipc", "ports", "pid", "cap_add", "env_file", "userns_mode"} & set(
        service
    )
    assert list(yaml.safe_load(text(mode))["networks"]) == ["sovereign"]
    models, cache = service["volumes"]
    assert models["read_only"] is True and models["source"].startswith("/data/ai/02-models/")
    assert cache["target"] == "/cache"
    assert "docker.sock" not in text(mode)


@pytest.mark.parametrize("mode", MODES)
def test_nothing_reports_or_fetches(mode: str) -> None:
    environment = engine(mode)["environment"]
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "VLLM_NO_USAGE_STATS", "DO_NOT_TRACK"):
        assert environment[name] == "1"
    assert not [name for name in environment if "KEY" in name or "TOKEN" in name or "MOE" in name]
    given = flags(mode)
    assert not {"--api-key", "--moe-backend", "--mamba-cache-mode", "--enable-sleep-mode"} & set(given)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_the_routes_to_sleep_are_there_only_when_they_are_asked_for(level: int) -> None:
    rendered = yaml.safe_load(text("agent", vllm_sleep_level=level))["services"]["engine"]
    assert ("--enable-sleep-mode" in rendered["command"]) is (level > 0)
    assert ("VLLM_SERVER_DEV_MODE" in rendered["environment"]) is (level > 0)


@pytest.mark.parametrize(
    ("level", "tenants", "accepted", "fine"),
    [
        (0, ["tts"], False, True),
        (1, [], False, True),
        (1, ["tts"], False, False),
        (2, ["tts"], True, True),
        (3, [], True, False),
    ],
)
def test_who_sleeps_is_alone_on_the_lan_or_trusted(level: int, tenants: list[str], accepted: bool, fine: bool) -> None:
    (task,) = [task for task in PREFLIGHT if task["name"] == "Who sleeps is alone on the LAN, or is trusted"]
    given = {"vllm_sleep_level": level, "gpu_tenants_enabled": tenants, "vllm_sleep_beside_tenants": accepted}
    judged = [
        templar(**given).template(trust_as_template("{{ " + expression + " }}"))
        for expression in task["ansible.builtin.assert"]["that"]
    ]
    assert all(judged) is fine


def test_every_flag_is_justified_beside_it() -> None:
    for mode in MODES:
        lines = text(mode).split("    command:\n")[1].split("networks:")[0].splitlines()
        previous_comment = False
        for line in lines[1:]:
            is_flag = line.strip().startswith("- ") and "--port" not in line and "--tool-call-parser" not in line
            assert not is_flag or previous_comment, line
            previous_comment = line.strip().startswith("#")


def test_the_hybrid_model_keeps_its_state_in_full_precision() -> None:
    assert flags("agent")["--mamba-ssm-cache-dtype"] == "float32"
    assert flags("forensic")["--mamba-ssm-cache-dtype"] == "float32"
    assert "--mamba-ssm-cache-dtype" not in flags("coding")


def test_forensic_drops_no_frame() -> None:
    given = flags("forensic")
    assert given["--video-pruning-rate"] == "0.0"
    assert json.loads(given["--media-io-kwargs"]) == {"video": {"fps": 8, "num_frames": 512}}
    assert json.loads(given["--limit-mm-per-prompt"]) == {"audio": 1, "image": 8, "video": 1}
    assert "--video-pruning-rate" not in flags("agent")


# Bytes of one block with float32 state, and attention tokens in it, for the hybrid model (docs/decisions/009).
BLOCK_BYTES, BLOCK_TOKENS, ATTENTION_GROUPS, STATE_GROUPS, STATE_BLOCKS = 12_828_672, 4_176, 1, 4, 3


@pytest.mark.parametrize("mode", ["agent", "forensic"])
def test_all_sequences_of_full_length_fit_the_cache(mode: str) -> None:
    given = {name: int(flags(mode)[name]) for name in ("--kv-cache-memory-bytes", "--max-model-len", "--max-num-seqs")}
    blocks = given["--kv-cache-memory-bytes"] // BLOCK_BYTES
    each = -(-given["--max-model-len"] // BLOCK_TOKENS) * ATTENTION_GROUPS + STATE_GROUPS * STATE_BLOCKS
    assert blocks - 1 >= each * given["--max-num-seqs"]


def test_all_sequences_of_full_length_fit_the_cache_of_the_coder() -> None:
    given = {
        name: int(flags("coding")[name]) for name in ("--kv-cache-memory-bytes", "--max-model-len", "--max-num-seqs")
    }
    per_token = 48 * 2 * 4 * 128
    assert given["--max-model-len"] * given["--max-num-seqs"] * per_token <= given["--kv-cache-memory-bytes"]


def test_a_gpu_is_handed_over_by_cdi_or_not_at_all() -> None:
    assert engine("agent")["devices"] == ["nvidia.com/gpu=all"]
    assert "devices" not in engine("agent", vllm_gpu_devices=[])


def test_media_are_read_only_and_named() -> None:
    service = engine("forensic", vllm_media_dir="/data/ai/03-data/media")
    assert service["volumes"][2] | {"bind": None} == {
        "type": "bind",
        "source": "/data/ai/03-data/media",
        "target": "/media",
        "read_only": True,
        "bind": None,
    }
    assert "--allowed-local-media-path" in flags("forensic", vllm_media_dir="/m")
    assert "--allowed-local-media-path" not in flags("forensic")


def test_an_override_changes_only_what_it_names() -> None:
    changed = flags("agent", vllm_mode_overrides={"agent": {"max_num_seqs": 3, "extra_args": ["--seed=$1"]}})
    assert changed["--max-num-seqs"] == "3"
    assert changed["--seed"] == "$$1", "compose turns $$ into $"
    assert changed["--max-model-len"] == "32768"
    assert flags("forensic", vllm_mode_overrides={"agent": {"max_num_seqs": 3}}) == flags("forensic")


def test_an_image_from_an_archive_is_named_by_its_id() -> None:
    service = engine("agent", vllm_image_archive="/srv/engine.tar", vllm_image_id="sha256:" + "b" * 64)
    assert service["image"] == "mushishi/vllm:" + "b" * 12
    assert engine("agent")["image"] == IMAGE


def test_a_container_says_which_project_it_was_made_from() -> None:
    """So that a run that was killed between writing the project and starting it is noticed."""
    seen = []
    for size in ("16g", "8g"):
        bare = {mode: text(mode, vllm_shm_size=size) for mode in MODES}
        files = value("__vllm_files", __vllm_projects_bare=bare, vllm_shm_size=size)
        entry = next(item for item in files if item["path"] == "/etc/mushishi/vllm/agent/compose.yml")
        label = yaml.safe_load(entry["content"])["services"]["engine"]["labels"]["mushishi.project"]
        assert len(label) == 64 and entry["validate"][:2] == ["docker", "compose"]
        assert label == value("__vllm_project_hashes", __vllm_projects_bare=bare)["agent"]
        seen.append(label)
    assert seen[0] != seen[1]


def test_the_prefix_stands_before_the_model() -> None:
    words = engine("agent", vllm_command_prefix=["serve"])["command"]
    assert words[:2] == ["serve", "/models/nemotron-nvfp4"]


@pytest.mark.parametrize(("given", "mode"), [("agent", "agent"), ("off", "off"), (False, "off")])
def test_off_needs_no_quotes(given: Any, mode: str) -> None:
    assert value("__vllm_mode", vllm_mode=given) == mode


def test_docker_may_restart_it_when_asked() -> None:
    assert engine("agent", vllm_restart=True)["restart"] == "unless-stopped"


# --- the image with audio, and models by manifest

RECIPE = (ROLE / "files/audio/Dockerfile").read_text()
LOCK = (ROLE / "files/audio/requirements.txt").read_text()
AUDIO = {"vllm_audio": True, "__vllm_audio_recipe": RECIPE, "__vllm_audio_lock": LOCK}


def test_the_image_with_audio_is_called_by_what_it_is_built_from() -> None:
    name = engine("agent", **AUDIO)["image"]
    assert re.fullmatch(r"mushishi/vllm-audio:[0-9a-f]{12}", name)
    assert name == engine("agent", **AUDIO)["image"]
    others = (
        {"vllm_image": IMAGE.replace("a", "b", 1).replace("a" * 64, "c" * 64)},
        {"vllm_image": "", "vllm_image_archive": "/srv/engine.tar", "vllm_image_id": "sha256:" + "b" * 64},
        {"__vllm_audio_recipe": RECIPE + "RUN true\n"},
        {"__vllm_audio_lock": LOCK + "\n"},
    )
    assert len({name, *(engine("agent", **AUDIO | other)["image"] for other in others)}) == 5


def test_without_audio_nothing_is_built() -> None:
    look = {"commands": {"base": {"rc": 0, "stdout": "sha256:1"}, "image": {"rc": 1, "stdout": ""}}}
    assert value("__vllm_have_image", __vllm_look=look) is True
    assert value("__vllm_missing_images", __vllm_look=look) == []


def test_an_image_counts_when_it_was_built_from_this() -> None:
    inputs = value("__vllm_audio_inputs", **AUDIO)
    for said, have in ((inputs + "\n", True), ("", False), ("0" * 64, False)):
        look = {"commands": {"base": {"rc": 0, "stdout": "x"}, "image": {"rc": 0, "stdout": said}}}
        assert value("__vllm_have_image", __vllm_look=look, **AUDIO) is have


def test_a_missing_base_is_brought_by_its_pin() -> None:
    look = {"commands": {"base": {"rc": 1, "stdout": ""}, "image": {"rc": 1, "stdout": ""}}}
    assert value("__vllm_missing_images", __vllm_look=look) == [{"name": IMAGE}]
    archive = {"vllm_image": "", "vllm_image_archive": "/srv/e.tar", "vllm_image_id": "sha256:" + "b" * 64}
    assert value("__vllm_missing_images", __vllm_look=look, **archive) == [
        {"name": "mushishi/vllm:" + "b" * 12, "archive": "/srv/e.tar", "id": "sha256:" + "b" * 64}
    ]
    look["commands"]["base"] = {"rc": 0, "stdout": "sha256:" + "c" * 64}
    assert value("__vllm_have_base", __vllm_look=look, **archive) is False, "another image under that name"


def test_the_build_takes_from_its_folder_alone() -> None:
    lines = RECIPE.replace("\\\n", "").splitlines()
    (install,) = [line for line in lines if line.startswith("RUN python3 -m pip install ")]
    for word in ("--no-index", "--find-links", "--require-hashes", "--no-deps"):
        assert word in install
    assert "FROM ${BASE}" in RECIPE and "http" not in RECIPE and "apt-get" not in RECIPE


def test_every_package_of_the_lock_has_its_hash_and_is_tried() -> None:
    names = re.findall(r"^([a-z0-9-]+)==", LOCK, re.MULTILINE)
    assert names == ["av", "scipy", "soundfile", "soxr"]
    assert all(f"import {name}" in RECIPE or f", {name}" in RECIPE for name in names)
    assert all("--hash=sha256:" in part for part in re.split(r"^[a-z0-9-]+==", LOCK, flags=re.MULTILINE)[1:])


def test_the_downloader_is_the_one_of_llama_cpp() -> None:
    here = re.findall(r"pip==[\s\S]*?(?=\n\s*#|\Z)", (ROLE / "files/audio/pip.txt").read_text())
    there = (ROLE.parent / "llama_cpp/files/fetch.txt").read_text()
    assert here and here[0].strip() in there


def test_what_is_built_is_not_in_the_lab_s_depot() -> None:
    """Its wheels are for the image's Python, not for the machine's."""
    assert not list((ROLE / "files").glob("*.txt"))


PREFLIGHT = yaml.safe_load((ROLE / "tasks/preflight.yml").read_text())


@pytest.mark.parametrize(
    ("given", "fine"),
    [
        ([], True),
        (["--seed=1"], True),
        (["--moe-backend=triton"], False),
        (["--moe-backend", "triton"], False),
        (["--enable-sleep-mode"], False),
        (["--api-key=x"], False),
    ],
)
def test_no_moe_backend_is_forced(given: list[str], fine: bool) -> None:
    (task,) = [task for task in PREFLIGHT if task["name"] == "Nobody decides about kernels in vLLM's place"]
    expression = task["ansible.builtin.assert"]["that"]
    assert templar(given=given).template(trust_as_template("{{ " + expression + " }}")) is fine
    both = task["vars"]["given"].strip("{} ")
    item = {"key": "agent", "value": {"extra_args": given}}
    judged = templar(item=item, vllm_extra_args=["--x"]).template(trust_as_template("{{ " + both + " }}"))
    assert judged == ["--x", *given]


def test_the_wheels_are_for_the_image_s_python() -> None:
    words = value("__vllm_audio_target")
    assert all(isinstance(word, str) for word in words), "a colon at the end makes YAML think of a dictionary"
    assert "--only-binary=:all:" in words and "--python-version=3.12" in words


@pytest.mark.parametrize(
    ("cards", "asked"),
    [([], False), (["9.0"], False), (["12.0"], True), (["8.9", "12.1"], True), (["10.0"], False)],
)
def test_cuda_is_asked_for_on_the_cards_that_need_it(cards: list[str], asked: bool) -> None:
    found = {"nvml": [{"compute_capability": card} for card in cards]}
    assert value("__vllm_sm120", __host_gpu=found) is asked
    assert value("__vllm_sm120") is False, "role host_gpu did not run"


INSTALL = yaml.safe_load((ROLE / "tasks/install.yml").read_text())


@pytest.mark.parametrize(
    ("said", "fine"),
    [
        ("PATH=/usr/bin\nCUDA_VERSION=13.0.3\n", True),
        ("CUDA_VERSION=12.9.1", True),
        ("CUDA_VERSION=12.8.1\nX=1", False),
        ("NV_CUDA_VERSION=12.8", True),
        ("", True),
    ],
)
def test_the_image_brings_a_cuda_that_knows_the_card(said: str, fine: bool) -> None:
    (task,) = [task for task in INSTALL if task["name"] == "The image's CUDA knows the card"]
    expression = task["ansible.builtin.assert"]["that"]
    seen = {"commands": {"environment": {"stdout": said}}}
    assert templar(__vllm_image_environment=seen).template(trust_as_template("{{ " + expression + " }}")) is fine
