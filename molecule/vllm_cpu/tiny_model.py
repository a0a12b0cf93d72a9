#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Write a tiny model with random weights for a real vLLM: shapes, weights, a tokenizer of bytes, a chat template.

Standard library only, the same bytes on every machine (Mersenne Twister, sums of its numbers, 32-bit floats). What such
a model says means nothing; it depends on every token that it was given, and it is the same every time.
"""

from __future__ import annotations

import argparse
import json
import random
import struct
import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

#: Tokens that stand for something: the parsers of reasoning and tool calls look theirs up in the vocabulary.
BEGIN, END = "<s>", "</s>"
SPECIAL = ("<unk>", BEGIN, END)
MARKS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
#: A multiple of 64; what no text uses is never read.
VOCABULARY = 320
#: The longest request of any mode fits (docs/decisions/009).
POSITIONS = 262144
CHAT_TEMPLATE = (
    "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)

_COMMON: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 256,
    "max_position_embeddings": POSITIONS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "bos_token_id": SPECIAL.index(BEGIN),
    "eos_token_id": SPECIAL.index(END),
}
#: Kind of model → its config.json. ``hybrid`` has the kinds of layers of the GPU modes' own model (Mamba-2, attention,
#: plain), without its experts, which vLLM has no kernel for on a processor.
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "dense": {
        **_COMMON,
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "num_hidden_layers": 2,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
    },
    "hybrid": {
        **_COMMON,
        "architectures": ["NemotronHForCausalLM"],
        "model_type": "nemotron_h",
        "hybrid_override_pattern": "M-M*-M-M",
        "num_hidden_layers": 8,
        "layer_norm_epsilon": 1e-5,
        "mlp_hidden_act": "relu2",
        "mamba_num_heads": 4,
        "mamba_head_dim": 64,
        "ssm_state_size": 16,
        "n_groups": 1,
        "conv_kernel": 4,
        "expand": 2,
        "chunk_size": 128,
    },
}


def byte_letters() -> list[str]:
    """The letter that stands for each byte (GPT-2's table): itself where it can be printed, else one from 256 up."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (byte for byte in range(256) if byte not in plain)
    letters = {byte: chr(byte) for byte in plain} | {byte: chr(256 + at) for at, byte in enumerate(others)}
    return [letters[byte] for byte in range(256)]


def tokenizer() -> dict[str, Any]:
    """tokenizer.json: one token a byte, and those that stand for something."""
    names = [*SPECIAL, *byte_letters(), *MARKS]
    ids = {name: number for number, name in enumerate(names)}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [{"id": ids[name], "content": name, **flags, "special": name in SPECIAL} for name in (*SPECIAL, *MARKS)]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": SPECIAL[0],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {name: number for name, number in ids.items() if name not in MARKS},
            "merges": [],
        },
    }


def _dense(config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...], str]]:
    hidden, between, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = head * config["num_attention_heads"], head * config["num_key_value_heads"]
    yield "model.embed_tokens.weight", (VOCABULARY, hidden), "wide"
    for number in range(config["num_hidden_layers"]):
        layer = f"model.layers.{number}"
        for name, rows in (("q", queries), ("k", keys), ("v", keys)):
            yield f"{layer}.self_attn.{name}_proj.weight", (rows, hidden), "matrix"
        yield f"{layer}.self_attn.o_proj.weight", (hidden, queries), "matrix"
        for name in ("gate", "up"):
            yield f"{layer}.mlp.{name}_proj.weight", (between, hidden), "matrix"
        yield f"{layer}.mlp.down_proj.weight", (hidden, between), "matrix"
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield f"{layer}.{name}.weight", (hidden,), "ones"
    yield "model.norm.weight", (hidden,), "ones"
    yield "lm_head.weight", (VOCABULARY, hidden), "wide"


def _hybrid(config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...], str]]:
    hidden, between, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = head * config["num_attention_heads"], head * config["num_key_value_heads"]
    heads = config["mamba_num_heads"]
    inner = heads * config["mamba_head_dim"]
    convolved = inner + 2 * config["n_groups"] * config["ssm_state_size"]
    yield "backbone.embeddings.weight", (VOCABULARY, hidden), "wide"
    for number, what in enumerate(config["hybrid_override_pattern"]):
        layer = f"backbone.layers.{number}"
        yield f"{layer}.norm.weight", (hidden,), "ones"
        if what == "M":
            yield f"{layer}.mixer.in_proj.weight", (inner + convolved + heads, hidden), "matrix"
            yield f"{layer}.mixer.conv1d.weight", (convolved, 1, config["conv_kernel"]), "wide"
            yield f"{layer}.mixer.conv1d.bias", (convolved,), "matrix"
            for name in ("A_log", "D", "dt_bias"):
                yield f"{layer}.mixer.{name}", (heads,), "ones"
            yield f"{layer}.mixer.norm.weight", (inner,), "ones"
            yield f"{layer}.mixer.out_proj.weight", (hidden, inner), "matrix"
        elif what == "*":
            for name, rows in (("q", queries), ("k", keys), ("v", keys)):
                yield f"{layer}.mixer.{name}_proj.weight", (rows, hidden), "matrix"
            yield f"{layer}.mixer.o_proj.weight", (hidden, queries), "matrix"
        else:
            yield f"{layer}.mixer.up_proj.weight", (between, hidden), "matrix"
            yield f"{layer}.mixer.down_proj.weight", (hidden, between), "matrix"
    yield "backbone.norm_f.weight", (hidden,), "ones"
    yield "lm_head.weight", (VOCABULARY, hidden), "wide"


#: Kind of model → (name, shape, how it is filled) of every tensor, as its checkpoints name them.
TENSORS = {"dense": _dense, "hybrid": _hybrid}
#: How far numbers spread.
SPREAD = {"matrix": 0.15, "wide": 0.5}


def weights(kind: str) -> bytes:
    """model.safetensors: the length of a header, the header (name → type, shape, place), the numbers."""
    chance = random.Random(7)  # noqa: S311 - the same every time is what is wanted
    header, data = {}, bytearray()
    for name, shape, how in TENSORS[kind](CONFIGS[kind]):
        count = 1
        for size in shape:
            count *= size
        spread = SPREAD.get(how, 0.0)
        # A sum of two even numbers: no logarithm or root, which differ between machines.
        numbers = (
            [1.0] * count
            if how == "ones"
            else [spread * (chance.random() + chance.random() - 1.0) for _ in range(count)]
        )
        if name == "lm_head.weight":
            # Zero is never the largest: no end of the text by itself, nothing that has no letter.
            width = shape[1]
            for row in (*range(len(SPECIAL)), *range(len(SPECIAL) + 256, VOCABULARY)):
                numbers[row * width : (row + 1) * width] = [0.0] * width
        values = array("f", numbers)
        if sys.byteorder == "big":
            values.byteswap()
        begin = len(data)
        data += values.tobytes()
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, len(data)]}
    text = json.dumps(header, sort_keys=True).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + bytes(data)


def files(kind: str) -> dict[str, str]:
    """Name → text of every file of the folder but the weights."""
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": SPECIAL[0],
        "bos_token": BEGIN,
        "eos_token": END,
        "clean_up_tokenization_spaces": False,
        "model_max_length": POSITIONS,
        "chat_template": CHAT_TEMPLATE,
    }
    found = {
        "config.json": CONFIGS[kind],
        "generation_config.json": {name: CONFIGS[kind][name] for name in ("bos_token_id", "eos_token_id")},
        "tokenizer.json": tokenizer(),
        "tokenizer_config.json": settings,
    }
    return {name: json.dumps(value, indent=1, sort_keys=True) + "\n" for name, value in found.items()}


def write(folder: Path, kind: str) -> None:
    """Make the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files(kind).items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "model.safetensors").write_bytes(weights(kind))


def main(arguments: Sequence[str] | None = None) -> int:
    words = argparse.ArgumentParser(description="Write a tiny model with random weights.")
    words.add_argument("folder", type=Path)
    words.add_argument("--kind", choices=sorted(CONFIGS), default="dense")
    given = words.parse_args(arguments)
    write(given.folder, given.kind)
    return 0


if __name__ == "__main__":
    sys.exit(main())
