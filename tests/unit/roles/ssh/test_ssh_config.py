# SPDX-License-Identifier: MIT
"""The settings of sshd before the eyes of a real sshd: what it says it would do, and what it refuses."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import rendering
import yaml
from rendering import Rendered

TEMPLATE = ("ssh", "00-mushishi.conf.j2")
SETTINGS = ("example", "lab", "few people, another port")

#: Names that a release does not know, so that a file with them keeps it from starting. From OpenSSH's release notes
#: (9.9: mlkem768x25519-sha256, sntrup761x25519-sha512 without a suffix; 10.0: no DSA) and 9.6's own tables.
TOO_NEW = {"mlkem768x25519-sha256", "sntrup761x25519-sha512", "RefuseConnection", "PerSourcePenalties"}
GONE = {"ssh-dss", "3des-cbc", "arcfour"}
WEAK = re.compile(r"sha1|-cbc|nistp|group1[,\s]|group14|md5|ssh-rsa\b|hmac-[^,]*(?<!etm@openssh\.com)(,|$)")


def server() -> str:
    """The program, as the environment names it or where the package puts it."""
    found = os.environ.get("MUSHISHI_SSHD") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    assert found, "sshd is missing: install openssh-server (it need not run)"
    return found


@pytest.fixture(scope="module")
def host_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "host"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


def ask(folder: Path, key: Path, text: str, *who: str) -> tuple[int, list[str], str]:
    """Exit status, what sshd would do (for somebody), and what it complains of.

    In a mount namespace with a /run and an account file of its own: a server that is installed and never started has
    neither its folder nor, where it was only unpacked, its user.
    """
    (folder / "config").write_text(text)
    accounts = Path("/etc/passwd").read_text()
    if "\nsshd:" not in accounts:
        accounts += "sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin\n"
    (folder / "passwd").write_text(accounts)
    script = (
        f"mount -t tmpfs none /run && mkdir /run/sshd && mount --bind {folder}/passwd /etc/passwd && "
        f"exec {server()} -T -h {key} -f {folder}/config {' '.join(who)}"
    )
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.splitlines(), done.stderr


def config(rendered: Rendered, setting: str) -> str:
    made = rendered[(*TEMPLATE, setting)]
    assert not isinstance(made, str), made
    return made[0][1]


def effective(setting: str) -> list[str]:
    """What the role expects of `sshd -T`."""
    values = rendering.values_of("ssh", rendering.settings("ssh")[setting])
    lines: list[str] = rendering.evaluate("{{ __ssh_effective }}", values)
    return lines


@pytest.mark.parametrize("setting", SETTINGS)
def test_sshd_does_what_is_written(rendered: Rendered, setting: str, tmp_path: Path, host_key: Path) -> None:
    status, said, complaints = ask(tmp_path, host_key, config(rendered, setting))
    assert (status, complaints) == (0, "")
    expected = effective(setting)
    assert len(expected) > 25 and set(expected) <= set(said), set(expected) - set(said)
    for line in ("permitrootlogin no", "passwordauthentication no", "authenticationmethods publickey"):
        assert line in said


def test_what_comes_later_does_not_win(rendered: Rendered, tmp_path: Path, host_key: Path) -> None:
    """cloud-init's file, and the distribution's own lines, come after ours."""
    later = "PasswordAuthentication yes\nPermitRootLogin yes\nX11Forwarding yes\nCiphers aes256-ctr\n"
    text = config(rendered, "example")
    _status, said, _complaints = ask(tmp_path, host_key, text + later)
    assert set(effective("example")) <= set(said)
    # Control: before ours they do, and the role would see it.
    _status, said, _complaints = ask(tmp_path, host_key, later + text)
    missing = set(effective("example")) - set(said)
    assert {"passwordauthentication no", "permitrootlogin no", "x11forwarding no"} <= missing


def test_a_wrong_word_is_refused(rendered: Rendered, tmp_path: Path, host_key: Path) -> None:
    """Control: the judgement that stands before the file gets its place."""
    text = config(rendered, "example")
    for change in (("Ciphers ", "Ciphers no-such-cipher,"), ("UseDNS no", "UseDNSS no"), ("Port 22", "Port x")):
        status, _said, complaints = ask(tmp_path, host_key, text.replace(*change))
        assert status != 0 and complaints, change


def algorithms(text: str) -> dict[str, str]:
    """Keyword → list of algorithms of a file."""
    words = ("KexAlgorithms", "Ciphers", "MACs", "HostKeyAlgorithms", "PubkeyAcceptedAlgorithms")
    # A setting that is not there fails the test, here and now.
    return {word: re.search(rf"^{word} (.*)$", text, re.MULTILINE)[1] for word in words}  # type: ignore[index]


def test_both_releases_know_every_name(rendered: Rendered) -> None:
    text = config(rendered, "example")
    words = set(re.split(r"[\s,]+", text))
    assert words & (TOO_NEW | GONE) == set()
    assert all(made.count(",") >= 2 for made in algorithms(text).values())


def test_nothing_weak(rendered: Rendered) -> None:
    made = algorithms(config(rendered, "example"))
    # People's existing ecdsa keys are let in; the server itself has none.
    assert {word: WEAK.findall(made[word]) for word in made if word != "PubkeyAcceptedAlgorithms"} == {
        "KexAlgorithms": [],
        "Ciphers": [],
        "MACs": [],
        "HostKeyAlgorithms": [],
    }
    assert WEAK.search("aes256-cbc") and WEAK.search("hmac-sha2-256") and WEAK.search("ecdh-sha2-nistp256")
    assert not WEAK.search("hmac-sha2-256-etm@openssh.com")


def test_the_first_key_exchange_stands_against_a_quantum_computer(rendered: Rendered) -> None:
    assert algorithms(config(rendered, "example"))["KexAlgorithms"].startswith("sntrup761x25519-sha512@openssh.com,")


def test_the_filter_of_the_units(rendered: Rendered) -> None:
    made = rendered["ssh", "20-tailnet.conf.j2", "few people, another port"]
    assert not isinstance(made, str)
    texts = {path.split("/")[-2]: text for path, text in made}
    assert set(texts) == {"ssh.service.d", "ssh@.service.d", "ssh.socket.d"}
    for name, text in texts.items():
        section = "[Socket]" if name == "ssh.socket.d" else "[Service]"
        assert f"{section}\nIPAddressDeny=any\nIPAddressAllow=localhost 192.0.2.0/24\n" in text


def values(**given: Any) -> dict[str, Any]:
    return rendering.values_of("ssh", given)


@pytest.mark.parametrize(
    ("state", "names"), [("enabled", ["ssh.socket", "ssh.service"]), ("disabled", ["ssh.service"])]
)
def test_the_units_of_both_systems(state: str, names: list[str]) -> None:
    looked = {"__ssh_look": {"commands": {"socket": {"stdout": state}}}}
    units = rendering.evaluate("{{ __ssh_units }}", values() | looked)
    assert [unit["name"] for unit in units] == names
    # Behind a socket the service is started by who knocks: enabling it as well would fight over the port.
    assert units[-1].get("owned", True) is (state == "disabled")


def test_logins_have_sessions_of_their_own() -> None:
    """The filter of addresses holds for sshd; what a login starts must not be under it."""
    assert "libpam-systemd" in values()["__ssh_packages"] and values()["__ssh_settings"]["UsePAM"] == "yes"


def test_the_door() -> None:
    doors = rendering.evaluate("{{ __ssh_doors }}", values(ssh_port=2222))
    assert doors == [{"name": "ssh", "port": 2222, "protocol": "tcp", "role": "ssh"}]


def preflight(name: str, **registered: Any) -> list[bool]:
    """Whether each condition of an assertion of the preflight holds under these values."""
    tasks = yaml.safe_load((rendering.ROLES / "ssh/tasks/preflight.yml").read_text())
    (task,) = [task for task in tasks if task["name"] == name]
    conditions = task["ansible.builtin.assert"]["that"]
    known = values() | registered
    listed = [conditions] if isinstance(conditions, str) else conditions
    return [bool(rendering.evaluate("{{ " + each + " }}", known)) for each in listed]


def looked(doors: str | None = None, **contents: str) -> dict[str, Any]:
    """What a look at the machine registers."""
    return {"contents": {"/etc/mushishi/doors.json": doors, **contents}, "commands": {"socket": {"stdout": ""}}}


DOORS = '{"doors": [{"name": "ssh", "port": 22, "protocol": "tcp"}, {"name": "x", "port": 2223, "protocol": "udp"}]}'


@pytest.mark.parametrize(
    ("given", "holds"),
    [
        ({"ssh_port": 22}, True),
        ({"ssh_port": 2222}, False),
        # A door for datagrams is none for SSH.
        ({"ssh_port": 2223}, False),
        ({"ssh_port": 2222, "site_brings_doors": True}, True),
        ({"ssh_port": 2222, "site_leaves_ssh_out": True}, True),
        ({"ssh_port": 2222, "ssh_lockout_accepted": True}, True),
    ],
)
def test_sshd_does_not_move_behind_a_shut_door(given: dict[str, Any], holds: bool) -> None:
    name = "Sshd goes to no port that guard and UFW keep shut"
    assert preflight(name, __ssh_look=looked(DOORS), **given) == [holds]
    # Control: without a firewall of ours there is no such door.
    assert preflight(name, __ssh_look=looked(), **given) == [True]


@pytest.mark.parametrize(
    ("run", "skipped", "brings"),
    [
        (["all"], [], True),
        (["guard", "firewall", "ssh"], [], True),
        (["ssh"], [], False),
        (["firewall", "ssh"], [], False),
        (["all"], ["guard"], False),
    ],
)
def test_a_run_says_whether_it_brings_the_doors(run: list[str], skipped: list[str], brings: bool) -> None:
    plays = yaml.safe_load((rendering.ROOT / "playbooks/site.yml").read_text())
    text = plays[1]["vars"]["site_doors_come"]
    assert rendering.evaluate(text, {"ansible_run_tags": run, "ansible_skip_tags": skipped}) is brings


#: What beats the role's file for whoever it fits, and what does not.
MATCHED = """
Port 22
PermitRootLogin yes
Match Address 192.168.0.0/16
  PermitRootLogin yes
\tPasswordAuthentication=yes
  # PermitEmptyPasswords yes
  X11Forwarding no
  Banner /etc/issue
MATCH User git
  AllowTcpForwarding no
  AuthenticationMethods "publickey"
"""


def otherwise(folder: Path, *texts: str, **given: Any) -> list[str]:
    """What the role's preflight says of such files, by its own program."""
    paths = []
    for number, text in enumerate(texts):
        paths.append(str(folder / f"{number}.conf"))
        Path(paths[-1]).write_text(text)
    program = values()["__ssh_matched"]
    done = subprocess.run(["awk", program, *paths], capture_output=True, text=True, check=True)
    said = {"commands": {"matched": {"stdout": done.stdout.rstrip("\n")}}}
    found: list[str] = rendering.evaluate("{{ __ssh_otherwise }}", values(**given) | {"__ssh_look": said})
    return [line.replace(f"{folder}/", "") for line in found]


def test_a_match_block_that_loosens_is_named_before_anything_is_changed(tmp_path: Path) -> None:
    assert otherwise(tmp_path, MATCHED, "PermitRootLogin yes\n") == [
        "0.conf, Match Address 192.168.0.0/16: permitrootlogin yes",
        "0.conf, Match Address 192.168.0.0/16: passwordauthentication yes",
    ]
    # Stricter stays; a block ends with its file; what only some people may is judged like the rest.
    assert otherwise(tmp_path, "Match User git\n  AllowTcpForwarding no\n", ssh_tcp_forwarding="local") == []
    assert otherwise(tmp_path, "Match all\n", "PermitRootLogin yes\n") == []
    assert otherwise(tmp_path, "Match User x\nAllowUsers x\n") == []
    assert len(otherwise(tmp_path, "Match User x\nAllowUsers x\n", ssh_allow_users=["me"])) == 1


def test_the_preflight_refuses_it() -> None:
    name = "No Match block lets in whom this role keeps out"
    for line, holds in (("f\tMatch all\tpermitrootlogin\tyes", False), ("", True)):
        look = {"contents": {}, "commands": {"matched": {"stdout": line}}}
        assert preflight(name, __ssh_look=look) == [holds]


def test_sshd_is_asked_for_root_from_both_sides(rendered: Rendered, tmp_path: Path, host_key: Path) -> None:
    """A Match block shows only where a connection is named: the question without one stays blind to it."""
    asked = rendering.evaluate("{{ __ssh_ask_effective }}", values())
    assert [each["name"] for each in asked][:3] == ["everybody", "root from 100.64.0.0", "root from fd7a:115c:a1e0::"]
    assert all("root from" in each["name"] and each["argv"][3] in each["name"] for each in asked[1:])
    text = config(rendered, "example") + "Match Address 192.168.0.0/16\n  PermitRootLogin yes\n"
    said = {}
    for each in asked:
        who = each["argv"][2].partition(" -T")[2].replace("$0", each["argv"][-1])
        status, lines, complaints = ask(tmp_path, host_key, text, who)
        assert status == 0, complaints
        said[each["name"]] = {"stdout": "\n".join(lines)}
    missing = rendering.evaluate("{{ __ssh_missing }}", values() | {"__ssh_said": {"commands": said}})
    assert missing == ["permitrootlogin no (root from 192.168.1.2)"]
