# SPDX-License-Identifier: MIT
"""A chain of reports cannot be changed unseen: every byte of every file, every order, every key."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mushishi.sovereign.plugins.module_utils.audit import chain
from ansible_collections.mushishi.sovereign.plugins.module_utils.audit.command import main
from hypothesis import given, settings
from hypothesis import strategies as st

TEXT = "# A report\n\nIt was green.\n"


class Clock:
    """Seconds that pass when they are asked for."""

    def __init__(self, now: float = 1_795_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        self.now += 60
        return self.now


def begun(folder: Path) -> chain.Chain:
    """An empty chain with a key of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    return chain.Chain(folder / "audit", folder / "audit.key", Clock())


def add(made: chain.Chain, text: str = TEXT, **fields: Any) -> chain.Document:
    """One more report."""
    return made.append(lambda _: ({"verdict": "green", "rows": [{"n": 1}, {"n": 2}], **fields}, text))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> chain.Chain:
    """Two reports, a change of the key, two more; nobody writes to it."""
    made = begun(tmp_path_factory.mktemp("whole"))
    add(made)
    add(made, TEXT + "ü and ünicode\n")
    made.rotate("planned")
    add(made)
    add(made, number=4.5)
    return made


@pytest.fixture
def copy(whole: chain.Chain, tmp_path: Path) -> chain.Chain:
    """The same, to be spoilt."""
    shutil.copytree(whole.folder, tmp_path / "audit")
    shutil.copy2(whole.key, tmp_path / "audit.key")
    return chain.Chain(tmp_path / "audit", tmp_path / "audit.key", Clock(1_796_000_000.0))


def names(made: chain.Chain, ending: str, prefix: str = "") -> list[Path]:
    """Files of a chain, in the order of their making."""
    found = (path for path in made.folder.glob(f"{prefix}*{ending}") if path.name != chain.HEAD)
    return sorted(found, key=lambda path: path.name.split("-")[-1])


def wrong(folder: Path) -> str:
    """What verification says, as one text; empty when all holds."""
    return "\n".join(str(fault) for fault in chain.verify(folder).faults)


# ---- the canonical form
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_there_is_one_way_to_write_a_value(value: Any) -> None:
    value = chain.clean(value)
    data = chain.canonical(value)
    assert json.loads(data) == value and chain.canonical(json.loads(data)) == data
    if isinstance(value, dict):
        assert chain.canonical(dict(reversed(list(value.items())))) == data, "whatever the order"


@given(st.text(alphabet=st.characters()), st.text())
def test_half_characters_and_other_keys_are_made_text(text: str, key: str) -> None:
    chain.canonical(chain.clean({key: text, 1: (text, None)}))
    assert chain.clean({1: ("\ud800",)}) == {"1": ["\\ud800"]}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_json_has_no_word_for_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        chain.canonical({"a": value})


@pytest.mark.parametrize(
    ("edit", "where"),
    [
        (lambda text: text.replace('"kind"', '"kind" ', 1), "line"),
        (lambda text: text.replace("\n", "\r\n", 1), "line 1"),
        (lambda text: text + " ", "line"),
        (lambda text: text.replace('"verdict": "green"', '"verdict": "red",\n "verdict": "green"'), "line"),
        (lambda text: text[:-10], "line"),
        (lambda text: "[]\n", "chain"),
        (lambda text: text.replace('"sequence": 1', '"sequence": "1"'), "chain"),
        (lambda text: text.replace("green", "gr\udcffn"), "line"),
        (lambda text: "[" * 100_000, ""),
    ],
)
def test_another_way_to_write_it_is_named(copy: chain.Chain, edit: Callable[[str], str], where: str) -> None:
    path = names(copy, ".json", "AUDIT")[0]
    path.write_bytes(edit(path.read_text(encoding="utf-8")).encode("utf-8", "surrogateescape"))
    fault = next(fault for fault in chain.verify(copy.folder).faults if fault.file == path.name)
    assert where in fault.where


# ---- what holds
def test_a_whole_chain_holds(whole: chain.Chain) -> None:
    found = chain.verify(whole.folder)
    assert found.ok, found.faults
    assert [record["chain"]["sequence"] for record in found.records] == [1, 2, 3, 4, 5]
    assert [record["chain"]["genesis"] for record in found.records] == [True, False, False, False, False]
    assert len(found.keys) == 2
    for public in found.keys:
        assert chain.verify(whole.folder, public).ok, "who was given the old key can follow to the new one"
    assert whole.folder.stat().st_mode & 0o777 == 0o700 and whole.key.stat().st_mode & 0o777 == 0o600
    assert not list(whole.key.parent.glob("*.next")) and not list(whole.folder.glob(".*"))


def test_a_client_needs_openssh_alone(whole: chain.Chain) -> None:
    for path in names(whole, ".json", "AUDIT"):
        words = ["ssh-keygen", "-Y", "verify", "-f", str(whole.folder / chain.SIGNERS), "-I", chain.PRINCIPAL]
        words += ["-n", chain.NAMESPACE, "-s", str(path.with_suffix(".sig"))]
        assert subprocess.run(words, input=path.read_bytes(), capture_output=True, check=False).returncode == 0
        other = subprocess.run(words, input=path.read_bytes() + b" ", capture_output=True, check=False)
        assert other.returncode != 0, "control"
        assert chain.sha256(path.with_suffix(".md").read_bytes()) in path.read_text()


def test_one_report_elsewhere(whole: chain.Chain, tmp_path: Path) -> None:
    path = names(whole, ".json", "AUDIT")[-1]
    files = [path.with_suffix(".md"), path, path.with_suffix(".sig"), whole.folder / chain.PUBLIC]
    assert main(["verify", *map(str, files)]) == 0
    for spoilt in files[:3]:
        other = tmp_path / spoilt.name
        other.write_bytes(spoilt.read_bytes().replace(b"green", b"brown").replace(b"U1", b"U2"))
        assert main(["verify", *(str(other if file == spoilt else file) for file in files)]) == 1, spoilt
    first = names(whole, ".json", "AUDIT")[0]
    old = [first.with_suffix(".md"), first, first.with_suffix(".sig"), whole.folder / chain.PUBLIC]
    assert main(["verify", *map(str, old)]) == 1, "the key of that time was another"
    assert main(["verify", *map(str, files[:2])]) == 2


# ---- what does not
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_no_byte_of_any_file_can_be_changed(whole: chain.Chain, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(p for p in whole.folder.iterdir() if p.is_file())))
    before = path.read_bytes()
    place = data.draw(st.integers(0, len(before) - 1))
    byte = data.draw(st.integers(1, 255))
    kind = data.draw(st.sampled_from(["flip", "take", "add"]))
    after = {
        "flip": before[:place] + bytes([before[place] ^ byte]) + before[place + 1 :],
        "take": before[:place] + before[place + 1 :],
        "add": before[:place] + bytes([byte]) + before[place:],
    }[kind]
    try:
        path.write_bytes(after)
        said = wrong(whole.folder)
    finally:
        path.write_bytes(before)
    assert said, f"{path.name} byte {place} {kind}"


def test_no_bit_of_a_signature_can_be_changed(whole: chain.Chain) -> None:
    path = names(whole, ".json", "AUDIT")[0]
    data, signature = path.read_bytes(), path.with_suffix(".sig").read_bytes()
    public = json.loads(data)["chain"]["key"]["public"]
    assert chain.check_signature(data, signature, public) == ""
    for place in range(len(signature)):
        for byte in (1, 32):
            spoilt = signature[:place] + bytes([signature[place] ^ byte]) + signature[place + 1 :]
            assert chain.check_signature(data, spoilt, public), place


@pytest.mark.parametrize("line", range(3))
def test_a_changed_line_of_the_page_is_named(copy: chain.Chain, line: int) -> None:
    path = names(copy, ".md")[1]
    lines = path.read_text().split("\n")
    lines[line] += "!"
    path.write_text("\n".join(lines))
    assert wrong(copy.folder) == f"{path.name}, line {line + 1}: it is not as it was when it was signed"


@pytest.mark.parametrize(
    ("edit", "field"),
    [
        (lambda d: d.update(verdict="red"), "field verdict"),
        (lambda d: d["rows"][1].update(n=3), "field rows[1]"),
        (lambda d: d["rows"].append({"n": 3}), "field rows[2]"),
        (lambda d: d["rows"].pop(0), "field rows[0]"),
        (lambda d: d.update(new=1), "chain"),
        (lambda d: d.update(extra=1), "field extra"),
        (lambda d: d["markdown"].update(sha256="0" * 64), "field markdown"),
    ],
)
def test_a_changed_field_is_named(copy: chain.Chain, edit: Callable[[Any], Any], field: str) -> None:
    path = names(copy, ".json", "AUDIT")[1]
    document = json.loads(path.read_bytes())
    edit(document)
    path.write_bytes(chain.canonical(document))
    said = wrong(copy.folder)
    assert f"{path.name}, {field}" in said, said


def test_who_marks_the_fields_anew_is_found_by_the_signature(copy: chain.Chain) -> None:
    path = names(copy, ".json", "AUDIT")[1]
    document = json.loads(path.read_bytes())
    document["verdict"] = "red"
    document["marks"] = chain.field_marks(document)
    path.write_bytes(chain.canonical(document))
    assert f"{path.stem}.sig: the signature: it does not fit" in wrong(copy.folder)


def test_a_missing_report_is_named(copy: chain.Chain) -> None:
    gone = names(copy, ".json", "AUDIT")[1]
    for path in copy.folder.glob(f"{gone.stem}*"):
        path.unlink()
    assert f"record 2 is missing or broken ({gone.stem})" in wrong(copy.folder)


@pytest.mark.parametrize("ending", [".md", ".sig", ".json"])
def test_a_missing_file_is_named(copy: chain.Chain, ending: str) -> None:
    path = names(copy, ending, "AUDIT")[1]
    path.unlink()
    assert path.stem in wrong(copy.folder)


def test_the_first_cannot_be_taken_away(copy: chain.Chain) -> None:
    for path in copy.folder.glob(f"{names(copy, '.json', 'AUDIT')[0].stem}*"):
        path.unlink()
    assert "record 1 is missing" in wrong(copy.folder)


def test_two_reports_cannot_change_places(copy: chain.Chain) -> None:
    first, second = names(copy, ".json", "AUDIT")[:2]
    for ending in (".json", ".md", ".sig"):
        one, other = first.with_suffix(ending), second.with_suffix(ending)
        one_data, other_data = one.read_bytes(), other.read_bytes()
        one.write_bytes(other_data)
        other.write_bytes(one_data)
    said = wrong(copy.folder)
    assert f"{first.name}, field chain.name" in said and f"{second.name}, field chain.name" in said


@pytest.mark.parametrize("many", [1, 2])
def test_a_cut_end_is_found_by_the_head(copy: chain.Chain, many: int) -> None:
    gone = names(copy, ".json", "AUDIT")[-many:]
    for last in gone:
        for path in copy.folder.glob(f"{last.stem}*"):
            path.unlink()
    assert f"the last that was written is {gone[-1].stem} (5)" in wrong(copy.folder)
    (copy.folder / chain.HEAD).unlink()
    assert "HEAD.json: it is missing" in wrong(copy.folder)


def test_a_cut_end_with_an_old_head_is_found_by_who_holds_a_later_report(tmp_path: Path) -> None:
    """What a folder alone cannot tell, as the page says."""
    made = begun(tmp_path)
    add(made)
    old = (made.folder / chain.HEAD).read_bytes()
    later = add(made)
    digest = chain.sha256(chain.canonical(later))
    assert chain.verify(made.folder, holds=[digest]).ok
    kept = tmp_path / "kept.json"
    shutil.copy(made.folder / f"{later['chain']['name']}.json", kept)
    for path in made.folder.glob(f"{later['chain']['name']}*"):
        path.unlink()
    (made.folder / chain.HEAD).write_bytes(old)
    assert chain.verify(made.folder).ok, "not detectable from the folder"
    assert digest in str(chain.verify(made.folder, holds=[digest]).faults[0])
    assert main(["verify", str(made.folder)]) == 0 and main(["verify", str(made.folder), "--holds", str(kept)]) == 1


def test_a_file_that_belongs_to_nothing_is_named(copy: chain.Chain) -> None:
    for name in ("notes.txt", "AUDIT-20200101T000000Z.md", "AUDIT-20200101T000000Z.sig"):
        (copy.folder / name).write_text("x")
    said = wrong(copy.folder)
    assert "notes.txt: it belongs to no chain" in said and said.count("no report that is here") == 2


def test_a_foreign_key_is_named(copy: chain.Chain, tmp_path: Path) -> None:
    chain.make_key(tmp_path / "other.key")
    path = names(copy, ".json", "AUDIT")[-1]
    path.with_suffix(".sig").write_bytes(chain.sign(tmp_path / "other.key", path.read_bytes()))
    other = chain.fingerprint(chain.public_of(tmp_path / "other.key"))
    assert f"{path.stem}.sig: the signature: it was made with another key, {other}" in wrong(copy.folder)


def test_a_whole_chain_by_a_foreign_key_is_found_by_who_was_given_ours(tmp_path: Path, whole: chain.Chain) -> None:
    forged = begun(tmp_path)
    add(forged)
    assert chain.verify(forged.folder).ok, "by itself it holds; that is why a key is handed out"
    given_key = whole.folder / chain.PUBLIC
    assert main(["verify", str(forged.folder), "--public", str(given_key)]) == 1
    assert main(["verify", str(whole.folder), "--public", str(given_key)]) == 0


def test_a_forged_change_of_the_key_is_found(tmp_path: Path) -> None:
    """The old key's holder did not sign that the new one follows."""
    made = begun(tmp_path)
    add(made)
    record = made.rotate("planned")
    path = made.folder / f"{record['chain']['name']}.json"
    path.with_suffix(".sig").write_bytes(chain.sign(made.key, path.read_bytes()))
    assert f"{path.stem}.sig: the signature: it was made with another key" in wrong(made.folder)


def test_a_replaced_key_without_a_record_is_refused(copy: chain.Chain) -> None:
    copy.key.unlink()
    chain.make_key(copy.key)
    with pytest.raises(chain.ChainError, match=r"broken.*another key"):
        add(copy)
    assert wrong(copy.folder) == "", "nothing was added"
    (copy.folder / chain.PUBLIC).write_text(f"{chain.public_of(copy.key)} {chain.PRINCIPAL}\n")
    assert "audit.pub: it does not hold the key of the chain" in wrong(copy.folder)


def test_nothing_is_added_to_a_chain_without_its_head(copy: chain.Chain) -> None:
    (copy.folder / chain.HEAD).unlink()
    with pytest.raises(chain.ChainError, match=r"HEAD.json is missing"):
        add(copy)
    (copy.folder / chain.HEAD).write_text("{}")
    with pytest.raises(chain.ChainError, match=r"HEAD.json"):
        add(copy)


def test_nothing_verified_is_no_success(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["verify", str(tmp_path / "empty")]) == 1 and main(["verify", str(tmp_path / "none")]) == 1


# ---- kills
@pytest.mark.parametrize("after", range(1, 5))
def test_a_killed_report_is_set_aside(copy: chain.Chain, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before the n-th file got its place: the chain holds again with the next report."""
    place, count = chain.place, 0

    def killed(path: Path, data: bytes, mode: int = 0o600) -> None:
        nonlocal count
        count += 1
        if count == after:
            raise KeyboardInterrupt
        place(path, data, mode)

    monkeypatch.setattr(chain, "place", killed)
    with pytest.raises(KeyboardInterrupt):
        add(copy)
    monkeypatch.setattr(chain, "place", place)
    if after > 1:
        assert wrong(copy.folder), "half a report is no report"
    document = add(copy)
    assert document["chain"]["sequence"] == 6 and wrong(copy.folder) == ""
    assert len(list(copy.folder.glob("unfinished-*/*"))) == after - 1


@pytest.mark.parametrize("after", range(1, 8))
def test_the_first_report_may_be_killed_too(tmp_path: Path, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    place, count, made = chain.place, 0, begun(tmp_path)

    def killed(path: Path, data: bytes, mode: int = 0o600) -> None:
        nonlocal count
        count += 1
        if count == after:
            raise KeyboardInterrupt
        place(path, data, mode)

    monkeypatch.setattr(chain, "place", killed)
    with pytest.raises(KeyboardInterrupt):
        add(made)
    monkeypatch.setattr(chain, "place", place)
    assert add(made)["chain"]["genesis"] and wrong(made.folder) == ""


@pytest.mark.parametrize("after", range(1, 7))
def test_a_killed_change_of_the_key_is_finished_or_forgotten(
    copy: chain.Chain, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, count = chain.place, 0

    def killed(path: Path, data: bytes, mode: int = 0o600) -> None:
        nonlocal count
        count += 1
        if count == after:
            raise KeyboardInterrupt
        place(path, data, mode)

    monkeypatch.setattr(chain, "place", killed)
    with pytest.raises(KeyboardInterrupt):
        copy.rotate("planned")
    monkeypatch.setattr(chain, "place", place)
    add(copy)
    assert wrong(copy.folder) == "" and not list(copy.key.parent.glob("*.next"))


# ---- keys and the command
def test_a_key_that_others_can_read_signs_nothing(copy: chain.Chain) -> None:
    copy.key.chmod(0o640)
    with pytest.raises(chain.ChainError, match="can be read by others"):
        add(copy)


@pytest.mark.parametrize("text", ["", "ssh-rsa AAAA", "ssh-ed25519 AAAA", "ssh-ed25519 ?", "-----BEGIN"])
def test_what_is_no_key_is_refused(text: str, tmp_path: Path, whole: chain.Chain) -> None:
    with pytest.raises(chain.ChainError):
        chain.parse_public(text)
    (tmp_path / "key").write_text(text)
    assert main(["verify", str(whole.folder), "--public", str(tmp_path / "key")]) == 2


@pytest.mark.parametrize(
    "spoil", [lambda b: b[:-5], lambda b: b + b"\0\0\0\1x", lambda b: b.replace(b"sha512", b"sha256")]
)
def test_a_signature_has_nothing_in_it_that_is_not_signed(whole: chain.Chain, spoil: Callable[[bytes], bytes]) -> None:
    signature = names(whole, ".sig", "AUDIT")[0].read_bytes()
    blob = base64.b64decode(b"".join(signature.splitlines()[1:-1]))
    assert chain.signer(chain.armour(blob))
    with pytest.raises(ValueError, match="it "):
        chain.signer(chain.armour(spoil(blob)))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, key = str(tmp_path / "audit"), str(tmp_path / "k")
    assert main(["--key", key, "key", "--folder", folder]) == 2, "no key yet"
    assert main(["--key", key, "key", "--make", "--folder", folder]) == 0
    public, fingerprint = capsys.readouterr().out.splitlines()
    assert main(["--key", key, "key", "--make", "--folder", folder]) == 0
    assert capsys.readouterr().out.splitlines() == [public, fingerprint], "made once"
    assert (tmp_path / "audit" / chain.PUBLIC).read_text() == public + "\n"
    assert main(["--key", key, "rotate", "because", "--folder", folder]) == 2, "nothing to follow"
    rows = [{"kind": "attack", "rule": "P1", "source": "a", "path": "b", "outcome": "refused", "ms": 1, "detail": ""}]
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps({"rows": rows})))
    assert main(["--key", key, "report", "--folder", folder]) == 1, "no planted hole: invalid"
    assert main(["--key", key, "rotate", "because", "--folder", folder]) == 0
    capsys.readouterr()
    assert main(["verify", folder]) == 0
    assert "1 report(s), 1 change(s) of the key: whole and in order" in capsys.readouterr().out
    assert os.listdir(tmp_path / "audit") and main(["verify", folder, "--public", str(tmp_path / "audit.pub")]) == 2
