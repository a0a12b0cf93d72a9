# SPDX-License-Identifier: MIT
"""The request of Anthropic's Messages, closed at every level."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, Field, Tag

from admission.schema import (
    MESSAGES_MAX,
    TOOLS_MAX,
    FileBelow,
    FileName,
    FunctionName,
    ImageBelow,
    JSONSchema,
    PartList,
    PlainBase64,
    ShortText,
    StopText,
    Strict,
    Tokens,
    one_of,
    refuse,
    text_or_list,
)


class CacheControl(Strict):
    """A wish about Anthropic's cache; the engines here cache every prefix by themselves."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


# --- content ---------------------------------------------------------------------------------------------------------
class TextBlock(Strict):
    """Text."""

    type: Literal["text"]
    text: str
    cache_control: CacheControl | None = None
    citations: None = None


class ImageData(Strict):
    """An image inside the request."""

    type: Literal["base64"]
    media_type: Literal["image/png", "image/jpeg", "image/gif", "image/webp"]
    data: PlainBase64


class ImageFile(Strict):
    """An image below the media folder."""

    type: Literal["url"]
    url: ImageBelow


class ImageBlock(Strict):
    """An image."""

    type: Literal["image"]
    source: Annotated[
        Annotated[ImageData, Tag("<base64>")] | Annotated[ImageFile, Tag("<url>")], one_of("type", "base64", "url")
    ]
    cache_control: CacheControl | None = None


class DocumentData(Strict):
    """A PDF inside the request."""

    type: Literal["base64"]
    media_type: Literal["application/pdf"]
    data: PlainBase64


class DocumentText(Strict):
    """A plain text inside the request."""

    type: Literal["text"]
    media_type: Literal["text/plain"]
    data: str


class DocumentFile(Strict):
    """A document below the media folder."""

    type: Literal["url"]
    url: FileBelow


class Citations(Strict):
    """Citations, which no engine here makes."""

    enabled: Literal[False] | None = None


class DocumentBlock(Strict):
    """A document."""

    type: Literal["document"]
    source: Annotated[
        Annotated[DocumentData, Tag("<base64>")]
        | Annotated[DocumentText, Tag("<text>")]
        | Annotated[DocumentFile, Tag("<url>")],
        one_of("type", "base64", "text", "url"),
    ]
    title: FileName | None = None
    context: str | None = None
    citations: Citations | None = None
    cache_control: CacheControl | None = None


ResultPart: TypeAlias = Annotated[
    Annotated[TextBlock, Tag("<text>")] | Annotated[ImageBlock, Tag("<image>")], one_of("type", "text", "image")
]


class ToolResultBlock(Strict):
    """What a tool answered."""

    type: Literal["tool_result"]
    tool_use_id: ShortText
    content: (
        Annotated[
            Annotated[str, Tag("<string>")]
            | Annotated[Annotated[list[ResultPart], Field(max_length=256)], Tag("<list>")],
            text_or_list(),
        ]
        | None
    ) = None
    is_error: bool | None = None
    cache_control: CacheControl | None = None


class DirectCaller(Strict):
    """The model itself called the tool."""

    type: Literal["direct"]


class ToolUseBlock(Strict):
    """A tool the model called."""

    type: Literal["tool_use"]
    id: ShortText
    name: FunctionName
    input: dict[str, Any]
    caller: DirectCaller | None = None
    cache_control: CacheControl | None = None


class ThinkingBlock(Strict):
    """What the model thought."""

    type: Literal["thinking"]
    thinking: str
    signature: str


UserBlock: TypeAlias = Annotated[
    Annotated[TextBlock, Tag("<text>")]
    | Annotated[ImageBlock, Tag("<image>")]
    | Annotated[DocumentBlock, Tag("<document>")]
    | Annotated[ToolResultBlock, Tag("<tool_result>")],
    one_of("type", "text", "image", "document", "tool_result"),
]
AssistantBlock: TypeAlias = Annotated[
    Annotated[TextBlock, Tag("<text>")]
    | Annotated[ToolUseBlock, Tag("<tool_use>")]
    | Annotated[ThinkingBlock, Tag("<thinking>")],
    one_of("type", "text", "tool_use", "thinking"),
]


class UserTurn(Strict):
    """What a person or program says, and what tools answered."""

    role: Literal["user"]
    content: Annotated[
        Annotated[str, Tag("<string>")] | Annotated[Annotated[list[UserBlock], PartList], Tag("<list>")], text_or_list()
    ]


class AssistantTurn(Strict):
    """What the model said earlier."""

    role: Literal["assistant"]
    content: Annotated[
        Annotated[str, Tag("<string>")] | Annotated[Annotated[list[AssistantBlock], PartList], Tag("<list>")],
        text_or_list(),
    ]


Turn: TypeAlias = Annotated[
    Annotated[UserTurn, Tag("<user>")] | Annotated[AssistantTurn, Tag("<assistant>")],
    one_of("role", "user", "assistant"),
]


# --- tools -----------------------------------------------------------------------------------------------------------
class ToolOffer(Strict):
    """A tool that the client offers and runs; none runs at the server (no web search, no code runner, no MCP)."""

    type: Literal["custom"] | None = None  # looked at first: it is what is wrong with a server's tool
    name: FunctionName
    input_schema: JSONSchema
    description: str | None = None
    strict: bool | None = None
    cache_control: CacheControl | None = None


class AnyChoice(Strict):
    """Whether a tool is called."""

    type: Literal["auto", "any"]
    disable_parallel_tool_use: bool | None = None


class NoneChoice(Strict):
    """No tool is called."""

    type: Literal["none"]


class NamedChoice(Strict):
    """The one tool to call."""

    type: Literal["tool"]
    name: FunctionName
    disable_parallel_tool_use: bool | None = None


ToolChoice: TypeAlias = Annotated[
    Annotated[AnyChoice, Tag("<auto>")]
    | Annotated[AnyChoice, Tag("<any>")]
    | Annotated[NoneChoice, Tag("<none>")]
    | Annotated[NamedChoice, Tag("<tool>")],
    one_of("type", "auto", "any", "none", "tool"),
]


class ThinkingOn(Strict):
    """Think, up to so many tokens."""

    type: Literal["enabled"]
    budget_tokens: Annotated[int, Field(ge=1024, le=1_000_000)]


class ThinkingOther(Strict):
    """Do not think, or as the model likes."""

    type: Literal["disabled", "adaptive"]


Thinking: TypeAlias = Annotated[
    Annotated[ThinkingOn, Tag("<enabled>")]
    | Annotated[ThinkingOther, Tag("<disabled>")]
    | Annotated[ThinkingOther, Tag("<adaptive>")],
    one_of("type", "enabled", "disabled", "adaptive"),
]


class Metadata(Strict):
    """Who asks, in the client's words."""

    user_id: str | None = None


def _a_person_speaks_last(turns: list[Turn]) -> list[Turn]:
    if not isinstance(turns[-1], UserTurn):
        raise refuse("must end with a user's message: no engine here continues a begun answer")
    return turns


class MessagesRequest(Strict):
    """The body of POST /v1/messages."""

    messages: Annotated[list[Turn], Field(min_length=1, max_length=MESSAGES_MAX), AfterValidator(_a_person_speaks_last)]
    max_tokens: Tokens
    model: str | None = None
    system: (
        Annotated[
            Annotated[str, Tag("<string>")] | Annotated[Annotated[list[TextBlock], PartList], Tag("<list>")],
            text_or_list(),
        ]
        | None
    ) = None
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=100_000)] | None = None
    stop_sequences: Annotated[list[StopText], Field(max_length=16)] | None = None
    tools: Annotated[list[ToolOffer], Field(max_length=TOOLS_MAX)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    # Accepted, because clients send them, and never sent on.
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
