#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Write a tiny random-weight model in GGUF for real llama.cpp: the same bytes for the same options on every machine.

The format is GGUF version 3 (ggml's docs/gguf.md), the architecture ``llama``, the vocabulary a byte-fallback
SentencePiece one, so any text can be tokenised. Weights come from Python's Mersenne Twister and IEEE
arithmetic; nothing depends on the platform's mathematics library.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import string
import struct
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

# GGUF value types and tensor types (ggml: include/gguf.h, include/ggml.h).
U32, I32, F32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
TENSOR_F32, TENSOR_F16 = 0, 1
ALIGNMENT = 32
FILE_TYPE_MOSTLY_F16 = 1
# Token types (llama.cpp: enum llama_token_type).
NORMAL, UNKNOWN, CONTROL, UNUSED, BYTE = 1, 2, 3, 5, 6


@dataclass(frozen=True)
class Shape:
    """The dimensions of a model."""

    layers: int
    embedding: int
    feed_forward: int
    heads: int
    kv_heads: int

    @property
    def head_size(self) -> int:
        """Features of one head."""
        return self.embedding // self.heads


TINY = Shape(layers=2, embedding=128, feed_forward=256, heads=4, kv_heads=2)
LAYERS, EMBEDDING, FEED_FORWARD = TINY.layers, TINY.embedding, TINY.feed_forward
HEADS, KV_HEADS = TINY.heads, TINY.kv_heads
HEAD_SIZE = TINY.head_size
SPACE = "\u2581"
COMMON_WORDS = (
    "a the of and to in is it for on with as at by from this that you are was be or not can will more one two hello"
    " world yes no"
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)

SHARED_FEATURE = 6.0
"""Value of feature 0 in every embedding: the hook by which the output layer keeps unwanted tokens down."""
UNWANTED_WEIGHT = -30.0
"""Output weight of feature 0 for tokens that shall never be written: control, byte, unused, end of text."""
RESIDUAL_SCALE = 0.02
"""Weights that write into the residual stream are small, so that feature 0 survives all layers."""


@dataclass(frozen=True)
class Token:
    """One entry of the vocabulary."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True)
class Tensor:
    """A matrix (columns, rows) or a vector (columns,) with its bytes, row by row."""

    name: str
    shape: tuple[int, ...]
    kind: int
    data: bytes


def vocabulary() -> list[Token]:
    """Special tokens, 256 bytes, roles, characters, a few words; padded to a multiple of 32."""
    tokens = [
        Token("<unk>", 0.0, UNKNOWN),
        Token("<s>", 0.0, CONTROL),
        Token("</s>", 0.0, CONTROL),
    ]
    tokens += [Token(f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)]
    tokens += [
        Token(f"<|{role}|>", 0.0, CONTROL)
        for role in ("system", "user", "assistant", "tool")
    ]
    tokens.append(Token(SPACE, -1.0, NORMAL))
    characters = string.ascii_letters + string.digits + string.punctuation
    tokens += [
        Token(char, -2.0 - at / 1024, NORMAL) for at, char in enumerate(characters)
    ]
    tokens += [
        Token(SPACE + word, -0.5 - at / 1024, NORMAL)
        for at, word in enumerate(COMMON_WORDS.split())
    ]
    seen = {token.text for token in tokens}
    if len(seen) != len(tokens):
        raise ValueError("two tokens have the same text")
    while len(tokens) % 32:
        tokens.append(Token(f"<unused{len(tokens)}>", 0.0, UNUSED))
    return tokens


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def metadata(name: str, context_length: int, tokens: Sequence[Token], shape: Shape = TINY) -> list[bytes]:
    """The key-value section of a model of that shape, one item per key."""

    def entry(key: str, kind: int, value: bytes) -> bytes:
        return _string(key) + struct.pack("<I", kind) + value

    def u32(key: str, value: int) -> bytes:
        return entry(key, U32, struct.pack("<I", value))

    def array(key: str, kind: int, values: Sequence[bytes]) -> bytes:
        return entry(
            key, ARRAY, struct.pack("<IQ", kind, len(values)) + b"".join(values)
        )

    def text(key: str, value: str) -> bytes:
        return entry(key, STRING, _string(value))

    def boolean(key: str, value: bool) -> bytes:
        return entry(key, BOOL, struct.pack("<?", value))

    def f32(key: str, value: float) -> bytes:
        return entry(key, F32, struct.pack("<f", value))

    return [
        text("general.architecture", "llama"),
        text("general.name", name),
        text("general.description", "random weights, for tests only"),
        text("general.license", "cc0-1.0"),
        u32("general.file_type", FILE_TYPE_MOSTLY_F16),
        u32("general.alignment", ALIGNMENT),
        u32("llama.vocab_size", len(tokens)),
        u32("llama.context_length", context_length),
        u32("llama.embedding_length", shape.embedding),
        u32("llama.block_count", shape.layers),
        u32("llama.feed_forward_length", shape.feed_forward),
        u32("llama.attention.head_count", shape.heads),
        u32("llama.attention.head_count_kv", shape.kv_heads),
        f32("llama.attention.layer_norm_rms_epsilon", 1e-5),
        u32("llama.rope.dimension_count", shape.head_size),
        f32("llama.rope.freq_base", 10000.0),
        text("tokenizer.ggml.model", "llama"),
        text("tokenizer.ggml.pre", "default"),
        array(
            "tokenizer.ggml.tokens", STRING, [_string(token.text) for token in tokens]
        ),
        array(
            "tokenizer.ggml.scores",
            F32,
            [struct.pack("<f", token.score) for token in tokens],
        ),
        array(
            "tokenizer.ggml.token_type",
            I32,
            [struct.pack("<i", token.kind) for token in tokens],
        ),
        u32("tokenizer.ggml.bos_token_id", 1),
        u32("tokenizer.ggml.eos_token_id", 2),
        u32("tokenizer.ggml.unknown_token_id", 0),
        boolean("tokenizer.ggml.add_bos_token", True),
        boolean("tokenizer.ggml.add_eos_token", False),
        boolean("tokenizer.ggml.add_space_prefix", True),
        text("tokenizer.chat_template", CHAT_TEMPLATE),
    ]


def tensors(seed: int, tokens: Sequence[Token]) -> list[Tensor]:
    """All weights. Random ones are uniform with mean 0 and, before scaling, variance 1."""
    generator = random.Random(seed)  # noqa: S311 - weights, the same for the same seed
    spread = math.sqrt(3.0)

    def weights(count: int, scale: float) -> list[float]:
        factor = 2.0 * spread * scale / 2**32
        return [(generator.getrandbits(32) - 2**31) * factor for _ in range(count)]

    def matrix(name: str, columns: int, rows: int, values: Sequence[float]) -> Tensor:
        return Tensor(
            name,
            (columns, rows),
            TENSOR_F16,
            struct.pack(f"<{columns * rows}e", *values),
        )

    def ones(name: str) -> Tensor:
        return Tensor(
            name,
            (EMBEDDING,),
            TENSOR_F32,
            struct.pack(f"<{EMBEDDING}f", *[1.0] * EMBEDDING),
        )

    def drawn(name: str, columns: int, rows: int, scale: float | None = None) -> Tensor:
        return matrix(
            name,
            columns,
            rows,
            weights(
                columns * rows, 1.0 / math.sqrt(columns) if scale is None else scale
            ),
        )

    def first_column(
        values: list[float], choose: Callable[[int], float]
    ) -> list[float]:
        for row in range(len(values) // EMBEDDING):
            values[row * EMBEDDING] = choose(row)
        return values

    embedding = first_column(
        weights(len(tokens) * EMBEDDING, 1.0), lambda _: SHARED_FEATURE
    )
    head = first_column(
        weights(len(tokens) * EMBEDDING, 1.0 / math.sqrt(EMBEDDING)),
        lambda row: 0.0 if tokens[row].kind == NORMAL else UNWANTED_WEIGHT,
    )
    made = [matrix("token_embd.weight", EMBEDDING, len(tokens), embedding)]
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        made += [
            ones(f"{block}attn_norm.weight"),
            drawn(f"{block}attn_q.weight", EMBEDDING, HEADS * HEAD_SIZE),
            drawn(f"{block}attn_k.weight", EMBEDDING, KV_HEADS * HEAD_SIZE),
            drawn(f"{block}attn_v.weight", EMBEDDING, KV_HEADS * HEAD_SIZE),
            drawn(
                f"{block}attn_output.weight",
                HEADS * HEAD_SIZE,
                EMBEDDING,
                RESIDUAL_SCALE,
            ),
            ones(f"{block}ffn_norm.weight"),
            drawn(f"{block}ffn_gate.weight", EMBEDDING, FEED_FORWARD),
            drawn(f"{block}ffn_up.weight", EMBEDDING, FEED_FORWARD),
            drawn(f"{block}ffn_down.weight", FEED_FORWARD, EMBEDDING, RESIDUAL_SCALE),
        ]
    return [
        *made,
        ones("output_norm.weight"),
        matrix("output.weight", EMBEDDING, len(tokens), head),
    ]


def build(name: str, seed: int, context_length: int) -> bytes:
    """The whole file."""
    tokens = vocabulary()
    pairs = metadata(name, context_length, tokens)
    made = tensors(seed, tokens)
    infos: list[bytes] = []
    blobs: list[bytes] = []
    offset = 0
    for tensor in made:
        shape = struct.pack(f"<{len(tensor.shape)}Q", *tensor.shape)
        infos.append(
            _string(tensor.name)
            + struct.pack("<I", len(tensor.shape))
            + shape
            + struct.pack("<IQ", tensor.kind, offset)
        )
        blob = tensor.data + b"\0" * (-len(tensor.data) % ALIGNMENT)
        blobs.append(blob)
        offset += len(blob)
    head = (
        b"GGUF"
        + struct.pack("<IQQ", 3, len(made), len(pairs))
        + b"".join(pairs)
        + b"".join(infos)
    )
    return head + b"\0" * (-len(head) % ALIGNMENT) + b"".join(blobs)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the file; leaves an equal one alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--name", default="tiny-random-llama")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--context-length", type=int, default=32768)
    options = parser.parse_args(argv)
    data = build(options.name, options.seed, options.context_length)
    changed = not (options.out.exists() and options.out.read_bytes() == data)
    if changed:
        partial = options.out.with_name(options.out.name + ".part")
        partial.write_bytes(data)
        partial.replace(options.out)
    digest = hashlib.sha256(data).hexdigest()
    print(
        json.dumps(
            {
                "path": str(options.out),
                "bytes": len(data),
                "sha256": digest,
                "changed": changed,
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
