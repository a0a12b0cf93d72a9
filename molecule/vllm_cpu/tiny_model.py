#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Write a model folder without weights, for ``vllm --load-format dummy``: shapes, a tokenizer of bytes, a template.

Standard library only, the same bytes on every machine. vLLM fills the weights with random numbers of a fixed seed, so
what such a model says means nothing and is the same every time.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
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


def files(kind: str) -> dict[str, str]:
    """Name → text of every file of the folder."""
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


def main(arguments: Sequence[str] | None = None) -> int:
    words = argparse.ArgumentParser(description="Write a model folder without weights, for --load-format dummy.")
    words.add_argument("folder", type=Path)
    words.add_argument("--kind", choices=sorted(CONFIGS), default="dense")
    given = words.parse_args(arguments)
    write(given.folder, given.kind)
    return 0


if __name__ == "__main__":
    sys.exit(main())
