# SPDX-License-Identifier: MIT
"""The filters as Ansible sees them: a real ``ansible-playbook`` on this machine, templating and error text included."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

FILTERS = {
    "check": "sovereign_policy | mushishi.sovereign.policy_check",
    "sovereign": "sovereign_policy | mushishi.sovereign.litellm_config('sovereign')",
    "hybrid": "sovereign_policy | mushishi.sovereign.litellm_config('hybrid')",
    "bounded": "sovereign_policy"
    " | mushishi.sovereign.litellm_config('hybrid', max_answer_tokens=512)",
    "admission": "sovereign_policy | mushishi.sovereign.admission_rules",
    "ingress": "sovereign_policy | mushishi.sovereign.ingress_routes('hybrid')",
    "door": "sovereign_policy | mushishi.sovereign.door_routes",
    "egress": "sovereign_policy | mushishi.sovereign.egress_hosts",
    "clients": "sovereign_policy | mushishi.sovereign.plane_clients",
    "everyone": "sovereign_policy | mushishi.sovereign.route_matrix",
    "cpu_only": "sovereign_policy | mushishi.sovereign.route_matrix(answering)",
    "table": "sovereign_policy | mushishi.sovereign.chain_table",
    "diagram": "sovereign_policy | mushishi.sovereign.chain_diagram",
    "keys": "sovereign_policy | mushishi.sovereign.cloud_key_names",
    "profiles": "sovereign_policy | mushishi.sovereign.plane_profiles('sovereign')",
}


def ansible(
    tmp_path: Path, expressions: dict[str, str], overrides: dict[str, Any] | None = None
) -> tuple[int, str, Path]:
    """Run a play on localhost that writes each value to a file. Returns status, output, the files' folder."""
    checkout = Path(__file__).resolve().parents[4]
    policy = checkout / "inventory" / "example" / "group_vars" / "all" / "policy.yml"
    tasks = [
        {
            "name": f"Write {name}",
            "ansible.builtin.copy": {
                "content": "{{ " + f"({expression}) | to_json" + " }}",
                "dest": f"{tmp_path}/{name}.json",
            },
        }
        for name, expression in expressions.items()
    ]
    play = [
        {
            "hosts": "localhost",
            "connection": "local",
            "gather_facts": False,
            "vars_files": [str(policy)],
            "vars": {"answering": ["{{ floor }}"], "floor": "cpu", **(overrides or {})},
            "tasks": tasks,
        }
    ]
    playbook = tmp_path / "play.yml"
    playbook.write_text(yaml.safe_dump(play, sort_keys=False), encoding="utf-8")
    environment = {**os.environ, "ANSIBLE_LOCALHOST_WARNING": "False", "ANSIBLE_NOCOLOR": "1", "LC_ALL": "C.UTF-8"}
    environment["ANSIBLE_HOME"] = str(tmp_path / "home")
    environment["ANSIBLE_PYTHON_INTERPRETER"] = sys.executable
    done = subprocess.run(
        [sys.executable, "-m", "ansible", "playbook", "-i", "localhost,", str(playbook)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr, tmp_path


def test_every_filter_works_in_a_play(tmp_path: Path) -> None:
    status, output, folder = ansible(tmp_path, FILTERS)
    assert status == 0, output
    values = {name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in FILTERS}
    assert values["check"]["profiles"]["private"]["chain"] == ["gpu", "cpu", "queue"]
    assert yaml.safe_load(values["sovereign"])["general_settings"]["master_key"] == "os.environ/LITELLM_MASTER_KEY"
    assert "groq" not in values["sovereign"]
    assert "https://api.groq.com/openai/v1" in values["hybrid"]
    assert "http://10.88.0.2:4021/gpu/v1" in values["bounded"]
    assert "max_tokens: 512" in values["bounded"]
    assert sorted(values["admission"]["profiles"]) == values["profiles"] == ["client", "coding", "private"]
    assert values["ingress"][0] == {"method": "POST", "path": "/v1/chat/completions"}
    assert [route["backend"] for route in values["door"]] == ["cpu", "cpu-coder", "gpu", "gpu-coder", "gpu-forensic"]
    assert list(values["egress"]) == ["mushishi-hybrid-gateway"]
    assert values["clients"][0]["port"] == 4001
    assert len(values["everyone"]) == 7
    assert {row["profile"]: row["expect"] for row in values["cpu_only"]}["private"] == {"backend": "cpu"}
    assert values["table"].startswith("| profile ")
    assert values["diagram"].startswith("flowchart ")
    assert values["keys"] == ["deepseek", "groq", "nvidia", "openrouter"]


@pytest.mark.parametrize(
    ("expression", "overrides", "fragments"),
    [
        (
            (
                "sovereign_policy"
                " | combine({'profiles': {'private': {'tier': 'T1', 'chain': ['cpu', 'groq']}}}, recursive=true)"
                " | mushishi.sovereign.policy_check"
            ),
            {},
            ["sovereign_policy.profiles.private.chain[1] = 'groq'", "private → cpu → groq", "move the profile to T2"],
        ),
        (
            (
                "sovereign_policy | combine({'profiles': {'private': {'tier': 'T7'}}}, recursive=true)"
                " | mushishi.sovereign.litellm_config('sovereign')"
            ),
            {},
            ["sovereign_policy.profiles.private.tier = 'T7'", "'T1', 'T2', 'T3' or 'T4'"],
        ),
        (
            "sovereign_policy | mushishi.sovereign.litellm_config('moon')",
            {},
            ["plane = 'moon'", "Use sovereign or hybrid"],
        ),
        (
            "sovereign_policy | mushishi.sovereign.litellm_config('hybrid', max_answer_tokens=0)",
            {},
            ["max_answer_tokens", "above 0"],
        ),
        ("sovereign_policy | mushishi.sovereign.route_matrix(['gpu9'])", {}, ["available = 'gpu9'", "Use one of cpu"]),
        ("sovereign_policy | mushishi.sovereign.route_matrix('gpu')", {}, ["available = 'gpu'", "is no list"]),
        ("7 | mushishi.sovereign.policy_check", {}, ["sovereign_policy = 7"]),
    ],
)
def test_a_refusal_is_one_clear_error(
    expression: str, overrides: dict[str, Any], fragments: list[str], tmp_path: Path
) -> None:
    status, output, folder = ansible(tmp_path, {"refused": expression}, overrides)
    assert status != 0
    for fragment in fragments:
        assert fragment in output, output
    assert "Traceback" not in output
    assert not (folder / "refused.json").exists()


def test_without_pydantic_the_filters_say_what_to_install(collections_root: Path) -> None:
    program = (
        "import sys\n"
        "sys.modules['pydantic'] = None\n"
        f"sys.path.insert(0, {str(collections_root)!r})\n"
        "from ansible.errors import AnsibleFilterError\n"
        "from ansible_collections.mushishi.sovereign.plugins.filter.router import FilterModule\n"
        "try:\n"
        "    FilterModule().filters()['policy_check']({})\n"
        "except AnsibleFilterError as exc:\n"
        "    print(exc)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "pip install 'pydantic" in done.stdout


def test_every_filter_is_documented(checkout: Path) -> None:
    from ansible_collections.mushishi.sovereign.plugins.filter.router import FilterModule

    for name in FilterModule().filters():
        documented = yaml.safe_load((checkout / "plugins" / "filter" / f"{name}.yml").read_text(encoding="utf-8"))
        assert documented["DOCUMENTATION"]["name"] == name
        assert documented["EXAMPLES"]
        assert documented["RETURN"]["_value"]["description"]
