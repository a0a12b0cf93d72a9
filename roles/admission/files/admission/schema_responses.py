# SPDX-License-Identifier: MIT
"""The request of OpenAI's Responses, closed at every level. Nothing is stored, so nothing earlier can be meant."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, Discriminator, Field, Tag

from admission.schema import (
    MESSAGES_MAX,
    TOOLS_MAX,
    FileName,
    FileSource,
    FunctionName,
    ImageSource,
    InputAudioPart,
    JSONSchema,
    PartList,
    RefusalPart,
    ShortText,
    Strict,
    TextFormat,
    Tokens,
    one_of,
    refuse,
    text_or_list,
    text_or_object,
)

Status: TypeAlias = Literal["in_progress", "completed", "incomplete"]
Nothing: TypeAlias = Annotated[list[None], Field(max_length=0)]


# --- content ---------------------------------------------------------------------------------------------------------
class InputText(Strict):
    """Text."""

    type: Literal["input_text"]
    text: str


class InputImage(Strict):
    """An image inside the request, or below the media folder."""

    type: Literal["input_image"]
    image_url: ImageSource
    detail: Literal["auto", "low", "high"] | None = None
    file_id: None = None


class InputFile(Strict):
    """A file inside the request, or below the media folder."""

    type: Literal["input_file"]
    file_data: FileSource
    filename: FileName | None = None
    file_id: None = None
    file_url: None = None


class OutputText(Strict):
    """What the model said, as a client got it here. The lists are empty when they come from here."""

    type: Literal["output_text"]
    text: str
    annotations: Nothing | None = None
    logprobs: Nothing | None = None


InputPart: TypeAlias = Annotated[
    Annotated[InputText, Tag("<input_text>")]
    | Annotated[InputImage, Tag("<input_image>")]
    | Annotated[InputAudioPart, Tag("<input_audio>")]
    | Annotated[InputFile, Tag("<input_file>")],
    one_of("type", "input_text", "input_image", "input_audio", "input_file"),
]
SaidPart: TypeAlias = Annotated[
    Annotated[InputText, Tag("<input_text>")]
    | Annotated[OutputText, Tag("<output_text>")]
    | Annotated[RefusalPart, Tag("<refusal>")],
    one_of("type", "input_text", "output_text", "refusal"),
]
PlainPart: TypeAlias = Annotated[Annotated[InputText, Tag("<input_text>")], one_of("type", "input_text")]
UserParts: TypeAlias = Annotated[
    Annotated[str, Tag("<string>")] | Annotated[Annotated[list[InputPart], PartList], Tag("<list>")], text_or_list()
]
SaidParts: TypeAlias = Annotated[
    Annotated[str, Tag("<string>")] | Annotated[Annotated[list[SaidPart], PartList], Tag("<list>")], text_or_list()
]
PlainParts: TypeAlias = Annotated[
    Annotated[str, Tag("<string>")] | Annotated[Annotated[list[PlainPart], PartList], Tag("<list>")], text_or_list()
]


# --- items -----------------------------------------------------------------------------------------------------------
class UserItem(Strict):
    """What a person or program says."""

    role: Literal["user"]
    content: UserParts
    type: Literal["message"] | None = None
    id: ShortText | None = None
    status: Status | None = None


class SystemItem(Strict):
    """Instructions."""

    role: Literal["system", "developer"]
    content: PlainParts
    type: Literal["message"] | None = None
    id: ShortText | None = None
    status: Status | None = None


class AssistantItem(Strict):
    """What the model said earlier."""

    role: Literal["assistant"]
    content: SaidParts
    type: Literal["message"] | None = None
    id: ShortText | None = None
    status: Status | None = None
    phase: None = None


class CallItem(Strict):
    """A function the model called."""

    type: Literal["function_call"]
    call_id: ShortText
    name: FunctionName
    arguments: str
    id: ShortText | None = None
    status: Status | None = None
    namespace: None = None


class OutputItem(Strict):
    """What a function answered."""

    type: Literal["function_call_output"]
    call_id: ShortText
    output: PlainParts
    id: ShortText | None = None
    status: Status | None = None


class ReasoningText(Strict):
    """A piece of what the model thought."""

    type: Literal["reasoning_text", "summary_text"]
    text: str


class ReasoningItem(Strict):
    """What the model thought earlier: accepted, because SDKs send it back, and left out."""

    type: Literal["reasoning"]
    summary: Annotated[list[ReasoningText], Field(max_length=256)]
    content: Annotated[list[ReasoningText], Field(max_length=256)] | None = None
    id: ShortText | None = None
    status: Status | None = None
    encrypted_content: None = None


_TYPES = ("function_call", "function_call_output", "reasoning")
_ROLES = ("user", "assistant", "system", "developer")


def _item(value: Any) -> str | None:
    def held(key: str) -> Any:
        return value.get(key) if isinstance(value, dict) else getattr(value, key, None)

    kind, role = held("type"), held("role")
    if isinstance(kind, str) and kind in _TYPES:
        return f"<{kind}>"
    return f"<{role}>" if kind in (None, "message") and isinstance(role, str) and role in _ROLES else None


Item: TypeAlias = Annotated[
    Annotated[UserItem, Tag("<user>")]
    | Annotated[SystemItem, Tag("<system>")]
    | Annotated[SystemItem, Tag("<developer>")]
    | Annotated[AssistantItem, Tag("<assistant>")]
    | Annotated[CallItem, Tag("<function_call>")]
    | Annotated[OutputItem, Tag("<function_call_output>")]
    | Annotated[ReasoningItem, Tag("<reasoning>")],
    Discriminator(
        _item,
        custom_error_type="refused",
        custom_error_message="must be a message whose role is one of: "
        + ", ".join(_ROLES)
        + "; or an item whose type is one of: "
        + ", ".join(_TYPES),
    ),
]


def _something_is_said(items: list[Item]) -> list[Item]:
    if all(isinstance(item, ReasoningItem) for item in items):
        raise refuse("must hold something besides reasoning")
    return items


Input: TypeAlias = Annotated[
    Annotated[str, Tag("<string>")]
    | Annotated[
        Annotated[list[Item], Field(min_length=1, max_length=MESSAGES_MAX), AfterValidator(_something_is_said)],
        Tag("<list>"),
    ],
    text_or_list(),
]


# --- tools and formats -----------------------------------------------------------------------------------------------
class FunctionTool(Strict):
    """A function that the client offers and runs; there is no other tool (no web search, no MCP server, no shell)."""

    type: Literal["function"]
    name: FunctionName
    description: str | None = None
    parameters: JSONSchema | None = None
    strict: bool | None = None


class NamedTool(Strict):
    """The one tool to call."""

    type: Literal["function"]
    name: FunctionName


class SchemaFormat(Strict):
    """JSON that follows a schema."""

    type: Literal["json_schema"]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    schema_: Annotated[JSONSchema, Field(alias="schema")]
    description: str | None = None
    strict: bool | None = None


class TextOptions(Strict):
    """The form of the answer."""

    format: (
        Annotated[
            Annotated[TextFormat, Tag("<text>")]
            | Annotated[TextFormat, Tag("<json_object>")]
            | Annotated[SchemaFormat, Tag("<json_schema>")],
            one_of("type", "text", "json_object", "json_schema"),
        ]
        | None
    ) = None
    verbosity: Literal["medium"] | None = None


class Reasoning(Strict):
    """How much to think. A summary is never made: what the engine thinks is given as it is."""

    effort: Literal["none", "minimal", "low", "medium", "high"] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class StreamOptions(Strict):
    """Options of a streamed answer."""

    include_obfuscation: Literal[False] | None = None


ToolChoice: TypeAlias = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("<string>")] | Annotated[NamedTool, Tag("<object>")],
    text_or_object(),
]


class ResponsesRequest(Strict):
    """The body of POST /v1/responses."""

    input: Input
    model: str | None = None
    instructions: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_output_tokens: Tokens | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=TOOLS_MAX)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    # Accepted with the one value that asks for nothing.
    store: Literal[False] | None = None
    background: Literal[False] | None = None
    previous_response_id: None = None
    conversation: None = None
    prompt: None = None
    truncation: Literal["disabled"] | None = None
    top_logprobs: Literal[0] | None = None
    include: Annotated[list[Literal["reasoning.encrypted_content"]], Field(max_length=1)] | None = None
    # Accepted, because clients send them, and never sent on.
    metadata: Annotated[dict[ShortText, str], Field(max_length=16)] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: Literal["auto", "default"] | None = None
