# SPDX-License-Identifier: MIT
from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import pytest
from standins import make_tiny_gguf as gguf

SHA256 = "88f90326ba52a004d8986afbc1f0623f19379056ec29baa4ff19d7a7d7321aab"
"""Of the file with default options; real llama.cpp has loaded it and answered from it."""


def test_the_bytes_are_the_same_everywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tiny.gguf"
    assert gguf.main([str(out)]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["changed"] and first["bytes"] == out.stat().st_size < 1_000_000
    assert first["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest() == SHA256
    assert gguf.main([str(out)]) == 0
    assert json.loads(capsys.readouterr().out) == {**first, "changed": False}


def test_name_and_seed_change_the_bytes() -> None:
    made = {
        gguf.build(name, seed, 4096) for name, seed in (("a", 1), ("a", 2), ("b", 1))
    }
    assert len(made) == 3


def test_the_header_counts_and_the_data_end_where_they_should() -> None:
    data = gguf.build("tiny", 1, 2048)
    magic, version, tensors, pairs = struct.unpack_from("<4sIQQ", data)
    assert (magic, version) == (b"GGUF", 3)
    made = gguf.tensors(1, gguf.vocabulary())
    assert tensors == len(made) == 3 + 9 * gguf.LAYERS and pairs == len(
        gguf.metadata("tiny", 2048, gguf.vocabulary())
    )
    assert len(data) % gguf.ALIGNMENT == 0
    for tensor in made:
        count = 1
        for size in tensor.shape:
            count *= size
        assert len(tensor.data) == count * (2 if tensor.kind == gguf.TENSOR_F16 else 4)
    assert data.endswith(made[-1].data)


def test_the_vocabulary_covers_every_byte() -> None:
    tokens = gguf.vocabulary()
    assert len(tokens) % 32 == 0 and len({t.text for t in tokens}) == len(tokens)
    assert sum(t.kind == gguf.BYTE for t in tokens) == 256
