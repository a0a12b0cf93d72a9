# SPDX-License-Identifier: MIT
"""A larger model with random weights, so that memory bandwidth matters: the same bytes for the same shape."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

#: As many random weights are drawn; a tensor repeats them from another place on. What a weight is does not matter here,
#: that each one is read from memory does.
DRAWN = 1 << 22
#: Biased exponents of half precision: the magnitude of a weight is between 1 and 2 times 2 to the (this - 15).
ONE, SMALL, SMALLER = 15, 9, 7


def half_floats(seed: int, exponent: int, count: int = DRAWN) -> bytes:
    """``count`` half-precision numbers of random sign and mantissa and the same exponent, little endian."""
    raw = random.Random(seed).randbytes(2 * count)  # noqa: S311 - weights, no secret
    # Sign and mantissa stay, the exponent is set: on all numbers at once, as one large integer.
    keep = int.from_bytes(b"\xff\x83" * count, "little")
    put = int.from_bytes(struct.pack("<H", exponent << 10) * count, "little")
    return (int.from_bytes(raw, "little") & keep | put).to_bytes(2 * count, "little")


def repeated(drawn: bytes, start: int, size: int) -> Iterator[bytes]:
    """``size`` bytes of ``drawn``, from byte ``start`` on and round and round."""
    start %= len(drawn)
    while size:
        piece = drawn[start : start + size]
        size -= len(piece)
        start = 0
        yield piece


def with_first(row: bytes, value: float) -> bytes:
    """A row of weights with another first one."""
    return struct.pack("<e", value) + row[2:]


def write(path: Path, tiny: ModuleType, layers: int, embedding: int = 1024, feed_forward: int = 2816) -> int:
    """Write a llama of that shape with the vocabulary of ``tiny`` (make_tiny_gguf.py); bytes that each token reads.

    The output never ends by itself: the unwanted tokens are kept down in the same way as in the tiny model.
    """
    shape = tiny.Shape(layers, embedding, feed_forward, heads=embedding // 64, kv_heads=embedding // 256)
    tokens = tiny.vocabulary()
    pairs = tiny.metadata(f"random-llama-{layers}", 4096, tokens, shape)
    small, smaller, one = half_floats(1, SMALL), half_floats(2, SMALLER), half_floats(3, ONE)
    kv = shape.kv_heads * shape.head_size
    ones = struct.pack(f"<{embedding}f", *[1.0] * embedding)

    def rows(drawn: bytes, first: list[float]) -> bytes:
        out = bytearray()
        for at, value in enumerate(first):
            row = b"".join(repeated(drawn, at * embedding * 2 + at * 2, embedding * 2))
            out += with_first(row, value)
        return bytes(out)

    embed = rows(one, [tiny.SHARED_FEATURE] * len(tokens))
    head = rows(small, [0.0 if token.kind == tiny.NORMAL else tiny.UNWANTED_WEIGHT for token in tokens])

    # name, shape, type, where the bytes come from (drawn bytes and a start, or the bytes themselves)
    plan: list[tuple[str, tuple[int, ...], int, bytes, int | None]] = []

    def matrix(name: str, columns: int, rows_: int, drawn: bytes) -> None:
        plan.append((name, (columns, rows_), tiny.TENSOR_F16, drawn, len(plan) * 7919 * 2))

    plan.append(("token_embd.weight", (embedding, len(tokens)), tiny.TENSOR_F16, embed, None))
    for layer in range(layers):
        block = f"blk.{layer}."
        plan.append((f"{block}attn_norm.weight", (embedding,), tiny.TENSOR_F32, ones, None))
        matrix(f"{block}attn_q.weight", embedding, embedding, small)
        matrix(f"{block}attn_k.weight", embedding, kv, small)
        matrix(f"{block}attn_v.weight", embedding, kv, small)
        matrix(f"{block}attn_output.weight", embedding, embedding, smaller)
        plan.append((f"{block}ffn_norm.weight", (embedding,), tiny.TENSOR_F32, ones, None))
        matrix(f"{block}ffn_gate.weight", embedding, feed_forward, small)
        matrix(f"{block}ffn_up.weight", embedding, feed_forward, small)
        matrix(f"{block}ffn_down.weight", feed_forward, embedding, smaller)
    plan.append(("output_norm.weight", (embedding,), tiny.TENSOR_F32, ones, None))
    plan.append(("output.weight", (embedding, len(tokens)), tiny.TENSOR_F16, head, None))

    def size_of(shape_: tuple[int, ...], kind: int) -> int:
        count = 1
        for side in shape_:
            count *= side
        return count * (4 if kind == tiny.TENSOR_F32 else 2)

    infos, offset = [], 0
    for name, sides, kind, _, _ in plan:
        raw = name.encode()
        infos.append(struct.pack("<Q", len(raw)) + raw + struct.pack("<I", len(sides)))
        infos.append(struct.pack(f"<{len(sides)}Q", *sides) + struct.pack("<IQ", kind, offset))
        offset += -(-size_of(sides, kind) // tiny.ALIGNMENT) * tiny.ALIGNMENT
    top = b"GGUF" + struct.pack("<IQQ", 3, len(plan), len(pairs)) + b"".join(pairs) + b"".join(infos)
    partial = path.with_name(path.name + ".part")
    with partial.open("wb") as out:
        out.write(top + b"\0" * (-len(top) % tiny.ALIGNMENT))
        for _, sides, kind, data, start in plan:
            size = size_of(sides, kind)
            if start is None:
                out.write(data)
            else:
                for piece in repeated(data, start, size):
                    out.write(piece)
            out.write(b"\0" * (-size % tiny.ALIGNMENT))
    partial.replace(path)
    # The table of embeddings is not read whole: one row per token.
    return sum(size_of(sides, kind) for name, sides, kind, _, _ in plan if name != "token_embd.weight")
