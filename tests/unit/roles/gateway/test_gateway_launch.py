# SPDX-License-Identifier: MIT
"""The launcher: which keys reach which gateway, and what stops it."""

from __future__ import annotations

from pathlib import Path

import mushishi_gateway_launch as launch
import pytest
from ansible_collections.mushishi.sovereign.plugins.module_utils.policy.litellm import cloud_key_env

CONFIGURATION = "api_key: os.environ/LLAMA_API_KEY\nmaster_key: os.environ/LITELLM_MASTER_KEY\n"
PROGRAM = Path("/opt/mushishi/gateway")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "gateway.yaml"
    path.write_text(CONFIGURATION)
    return path


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / "llama.key").write_text("sk-llama\n")
    (folder / "client.key").write_text("sk-admission\n")
    return folder


def test_sovereign_gateway_gets_its_two_keys_and_a_clean_environment(config: Path, credentials: Path) -> None:
    given = {"GROQ_API_KEY": "leak", "HTTPS_PROXY": "http://192.0.2.1", "LANG": "C.UTF-8", "DATABASE_URL": "x"}
    environment = launch.build_environment("sovereign", config, credentials, given, PROGRAM)
    assert environment["LLAMA_API_KEY"] == "sk-llama"
    assert environment["MUSHISHI_GATEWAY_KEY"] == str(credentials / "client.key")
    assert environment["LANG"] == "C.UTF-8"
    assert not {"GROQ_API_KEY", "HTTPS_PROXY", "DATABASE_URL", "MUSHISHI_GATEWAY_INDEX"} & set(environment)
    assert not [name for name in environment if name.startswith("CLOUD_KEY_")]
    assert "sk-admission" not in environment.values()


def test_admin_key_is_another_one_at_every_start(config: Path, credentials: Path) -> None:
    first, second = (launch.build_environment("sovereign", config, credentials, {}, PROGRAM) for _ in range(2))
    assert first["LITELLM_MASTER_KEY"] != second["LITELLM_MASTER_KEY"]
    assert len(first["LITELLM_MASTER_KEY"]) > 60


def test_hybrid_gateway_gets_the_cloud_keys(config: Path, credentials: Path) -> None:
    (credentials / "cloud-my-key.key").write_text("gsk_1\n")
    config.write_text(CONFIGURATION + "api_key: os.environ/CLOUD_KEY_MY_KEY\n")
    environment = launch.build_environment("hybrid", config, credentials, {"STATE_DIRECTORY": "/var/lib/x"}, PROGRAM)
    assert environment["CLOUD_KEY_MY_KEY"] == "gsk_1"
    assert environment["MUSHISHI_GATEWAY_LEDGER"] == "/var/lib/x/budgets.sqlite3"
    assert "MUSHISHI_GATEWAY_KEY" not in environment


def test_compiler_and_launcher_name_a_cloud_key_alike() -> None:
    for name in ("nvidia", "my-key", "a_b-2"):
        assert launch.cloud_variable(name) == cloud_key_env(name)


def test_cloud_key_in_the_sovereign_plane_stops_it(config: Path, credentials: Path) -> None:
    (credentials / "cloud-groq.key").write_text("gsk_1\n")
    with pytest.raises(launch.LaunchError, match="no cloud key may exist in the sovereign plane"):
        launch.build_environment("sovereign", config, credentials, {}, PROGRAM)


def test_key_that_nobody_gave_stops_it(config: Path, credentials: Path) -> None:
    config.write_text(CONFIGURATION + "api_key: os.environ/CLOUD_KEY_GROQ\n")
    with pytest.raises(launch.LaunchError, match="CLOUD_KEY_GROQ"):
        launch.build_environment("hybrid", config, credentials, {"STATE_DIRECTORY": "/x"}, PROGRAM)


@pytest.mark.parametrize("content", ["", "\n", "two words\n", "a\nb\n"])
def test_malformed_key_stops_it(config: Path, credentials: Path, content: str) -> None:
    (credentials / "llama.key").write_text(content)
    with pytest.raises(launch.LaunchError, match=r"llama\.key"):
        launch.build_environment("sovereign", config, credentials, {}, PROGRAM)


def test_missing_pieces_are_named(config: Path, credentials: Path) -> None:
    with pytest.raises(launch.LaunchError, match="STATE_DIRECTORY"):
        launch.build_environment("hybrid", config, credentials, {}, PROGRAM)
    (credentials / "client.key").unlink()
    with pytest.raises(launch.LaunchError, match=r"client\.key"):
        launch.build_environment("sovereign", config, credentials, {}, PROGRAM)


def test_main_says_what_is_missing_and_does_not_start(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    command = ["--plane", "sovereign", "--config", str(config), "--port", "4011"]
    assert launch.main(command) == launch.EXIT_CONFIG
    assert "CREDENTIALS_DIRECTORY" in capsys.readouterr().err


def test_main_becomes_the_gate_without_a_key_among_its_arguments(
    config: Path, credentials: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    monkeypatch.setattr(launch.os, "execve", lambda _path, argv, environment: seen.append((argv, environment)))
    launch.main(["--plane", "sovereign", "--config", str(config), "--port", "4011"])
    ((argv, environment),) = seen
    assert argv[1].endswith("mushishi_gateway_serve.py")
    assert argv[-1] == "4011"
    assert not any(word.startswith("sk-") for word in argv)
    assert environment["CONFIG_FILE_PATH"] == str(config)


def test_check_refuses_a_foreign_key(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text(CONFIGURATION + "api_key: os.environ/CLOUD_KEY_GROQ\n")
    assert launch.main(["--plane", "sovereign", "--config", str(config), "--check"]) == launch.EXIT_CONFIG
    assert "does not belong in the sovereign plane" in capsys.readouterr().err
