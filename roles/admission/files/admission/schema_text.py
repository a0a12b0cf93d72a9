# SPDX-License-Identifier: MIT
"""The requests of OpenAI's older completions and of embeddings, closed at every level."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, Tag

from admission.schema import Stop, StreamOptions, Strict, TokenBias, Tokens, text_or_list

INPUTS_MAX = 2048

Prompt: TypeAlias = Annotated[
    Annotated[str, Tag("<string>")] | Annotated[Annotated[list[str], Field(min_length=1, max_length=1)], Tag("<list>")],
    text_or_list(),
]
Input: TypeAlias = Annotated[
    Annotated[Annotated[str, Field(min_length=1)], Tag("<string>")]
    | Annotated[
        Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=INPUTS_MAX)], Tag("<list>")
    ],
    text_or_list(),
]


class TextRequest(Strict):
    """The body of POST /v1/completions: one prompt, as text. What a chat cannot express is refused."""

    prompt: Prompt
    model: str | None = None
    user: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Tokens | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | None = None
    n: Annotated[int, Field(ge=1, le=8)] | None = None
    logit_bias: TokenBias | None = None
    best_of: Literal[1] | None = None
    echo: Literal[False] | None = None
    logprobs: None = None
    suffix: None = None


class EmbeddingRequest(Strict):
    """The body of POST /v1/embeddings."""

    input: Input
    model: str | None = None
    user: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1, le=65536)] | None = None
