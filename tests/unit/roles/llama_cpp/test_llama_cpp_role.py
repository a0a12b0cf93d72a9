# SPDX-License-Identifier: MIT
"""The llama_cpp role's templates and computed values, rendered by Ansible itself."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROLE = Path(__file__).parents[4] / "roles" / "llama_cpp"
CPUINFO = "processor\t: 0\nflags\t\t: fpu avx2 avx512f\n\nprocessor\t: 1\nflags\t\t: fpu avx2 avx512f\n"


def templar(**overrides: Any) -> Templar:
    loader = DataLoader()
    variables: dict[str, Any] = {}
    for name in ("defaults", "vars"):
        variables |= loader.load_from_file(str(ROLE / name / "main.yml"), trusted_as_template=True)
    variables |= {
        "ansible_managed": "Managed by Ansible",
        "__llama_cpp_pin": (ROLE / "files" / "source.txt").read_text(),
        "ansible_facts": {
            "processor_cores": 12,
            "processor_count": 1,
            "processor_vcpus": 24,
            "architecture": "x86_64",
            "distribution_release": "trixie",
        },
        "__llama_cpp_look": {"contents": {"/proc/cpuinfo": CPUINFO}},
    }
    return Templar(loader=loader, variables=variables | overrides)


def value(name: str, **overrides: Any) -> Any:
    return templar(**overrides).template(trust_as_template("{{ " + name + " }}"))


def unit(instance: dict[str, Any] | None = None, **overrides: Any) -> str:
    if instance is not None:
        overrides["llama_cpp_instances"] = [instance]
    overrides["item"] = value("__llama_cpp_instances", **overrides)[0]
    source = trust_as_template((ROLE / "templates/mushishi-sovereign-llama.service.j2").read_text())
    return str(templar(**overrides).template(source))


def command(text: str) -> list[str]:
    match = re.search(r"^ExecStart=((?:.*\\\n)*.*)", text, re.MULTILINE)
    assert match
    return match.group(1).replace("\\\n", " ").split()


CODER = {"name": "coder", "port": 8002, "alias": "coder-cpu", "model": {"path": "/data/ai/02-models/c.gguf"}}


def test_the_default_instance() -> None:
    words = command(unit())
    pairs = dict(itertools.pairwise(words))
    assert pairs["--model"] == "/data/ai/02-models/nemotron-cpu/nemotron-cpu.gguf"
    assert pairs["--alias"] == "nemotron-cpu"
    assert (pairs["--host"], pairs["--port"]) == ("10.88.0.2", "8001")
    assert pairs["--parallel"] == "2"
    assert pairs["--ctx-size"] == "65536", "slots share the context evenly, so each gets 32768"
    assert pairs["--threads"] == "11", "12 physical cores less one, not 24 hyperthreads"
    assert pairs["--load-mode"] == "mmap+mlock"
    assert pairs["--api-key-file"] == "%d/keys"
    for flag in ("--metrics", "--no-slots", "--no-ui", "--offline", "--no-cors-credentials", "--no-cache-prompt"):
        assert flag in words
    assert not {"--tools", "--agent", "--slot-save-path", "--props", "--api-key"} & set(words)


def test_the_unit_lives_in_the_plane() -> None:
    lines = unit().splitlines()
    for line in (
        "BindsTo=mushishi-plane.service",
        "After=mushishi-plane.service",
        "NetworkNamespacePath=/run/netns/sovereign",
        "RestrictAddressFamilies=AF_INET",
        "IPAddressDeny=any",
        "IPAddressAllow=127.0.0.0/8 10.88.0.0/24",
        "LoadCredential=keys:/etc/mushishi/secrets/llama-nemotron.keys",
        "LimitMEMLOCK=infinity",
    ):
        assert line in lines


def test_an_instance_of_one_plane_has_one_key_and_keeps_prompts() -> None:
    text = unit(CODER)
    assert "--cache-prompt" in command(text)
    assert value("__llama_cpp_instances", llama_cpp_instances=[CODER])[0]["keys"] == ["llama-sovereign.key"]
    assert "llama-coder.keys" in text


def test_without_mlock_no_limit_is_raised() -> None:
    text = unit(llama_cpp_mlock=False)
    assert "LimitMEMLOCK" not in text
    assert command(text)[command(text).index("--load-mode") + 1] == "mmap"


def test_words_reach_the_program_as_they_are() -> None:
    text = unit(CODER | {"extra_args": ["--temp", "0.2"], "threads": 3, "model": {"path": "/data/a b/50%$x.gguf"}})
    assert "--model '/data/a b/50%%$$x.gguf'" in text
    words = command(text)
    assert words[-2:] == ["--temp", "0.2"]
    assert words[words.index("--threads") + 1] == "3"
    assert "\n\n[Install]" in text


@pytest.mark.parametrize(("cores", "sockets", "reserve", "threads"), [(2, 1, 1, 1), (1, 1, 1, 1), (8, 2, 2, 14)])
def test_threads_are_physical_cores_less_the_reserve(cores: int, sockets: int, reserve: int, threads: int) -> None:
    facts = {"processor_cores": cores, "processor_count": sockets, "processor_vcpus": 99}
    assert int(value("__llama_cpp_auto_threads", ansible_facts=facts, llama_cpp_reserved_cores=reserve)) == threads


def test_the_key_says_what_the_binary_was_made_of() -> None:
    key = str(value("__llama_cpp_key"))
    assert re.fullmatch("[0-9a-f]{64}", key)
    assert key == str(value("__llama_cpp_key"))
    other_cpu = CPUINFO.replace("avx512f", "sse2")
    others = [
        value("__llama_cpp_key", llama_cpp_cmake_flags=["-DGGML_BLAS=ON"]),
        value("__llama_cpp_key", llama_cpp_native=False),
        value("__llama_cpp_key", __llama_cpp_source_sha256="0" * 64),
        value("__llama_cpp_key", __llama_cpp_look={"contents": {"/proc/cpuinfo": other_cpu}}),
    ]
    assert len({key, *map(str, others)}) == 5


def test_without_native_the_cpu_does_not_matter() -> None:
    keys = {
        str(
            value(
                "__llama_cpp_key",
                llama_cpp_native=False,
                __llama_cpp_look={"contents": {"/proc/cpuinfo": text}},
            )
        )
        for text in ("flags : a b", "flags : c", "Features : neon")
    }
    assert len(keys) == 1


def test_a_given_binary_is_its_own_key() -> None:
    assert str(value("__llama_cpp_key", llama_cpp_binary_path="/srv/b", llama_cpp_binary_sha256="a" * 64)) == "a" * 64


def test_the_pin_is_read_from_the_lock() -> None:
    assert str(value("__llama_cpp_archive")) == "llama_cpp_python-0.3.36.tar.gz"
    assert re.fullmatch("[0-9a-f]{64}", str(value("__llama_cpp_source_sha256")))


def test_nothing_that_opens_a_connection_is_built() -> None:
    flags = value("__llama_cpp_flags")
    for flag in (
        "-DLLAMA_OPENSSL=OFF",
        "-DLLAMA_SUBPROCESS=OFF",
        "-DLLAMA_USE_PREBUILT_UI=OFF",
        "-DLLAMA_BUILD_UI=OFF",
    ):
        assert flag in flags


def test_the_build_script_quotes_every_flag() -> None:
    source = trust_as_template((ROLE / "templates/build.sh.j2").read_text())
    text = str(templar(llama_cpp_cmake_flags=["-DX=a b; rm -rf /"], llama_cpp_build_jobs=3).template(source))
    assert "'-DX=a b; rm -rf /'\nninja" in text
    assert "-j 3 llama-server" in text


def test_what_is_missing_is_given_to_the_role_that_brings() -> None:
    model = {"path": "/m/c.gguf", "url": "https://models.example.org/c", "sha256": "a" * 64, "size_bytes": 7, "src": ""}
    found = {
        "results": [
            {"exists": True, "item": {"name": "here", "model": {"path": "/m/h.gguf"}}},
            {"exists": False, "item": {"name": "coder", "model": model}},
        ]
    }
    wanted = {name: each for name, each in model.items() if name != "src"} | {"name": "the model of coder"}
    assert value("__llama_cpp_missing", __llama_cpp_models=found) == [wanted], "an option that is empty is left out"
