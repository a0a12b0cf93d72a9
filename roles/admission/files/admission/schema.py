# SPDX-License-Identifier: MIT
"""The request that admission understands: OpenAI chat completions, closed at every level.

What is not written here is refused. Media come inside the request (``data:`` URL or base64) or as a file below the
profile's media folder (``file:///name``), which is read here and stands in the model as a ``data:`` URL; never as an
address to fetch. The body for the gateway is built from these models by `build`, so nothing that was not validated can
be in it. The other routes' requests (``schema_*.py``) are made of the same pieces, and of nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from admission.errors import Refusal, bad_field
from admission.media import MediaError, Shelf

MESSAGES_MAX = 4096
PARTS_MAX = 256
TOOLS_MAX = 256

IMAGE_TYPES = frozenset({"image/png", "image/jpeg", "image/jpg", "image/webp", "image/gif", "image/bmp"})
AUDIO_TYPES = frozenset(
    {"audio/wav", "audio/x-wav", "audio/mpeg", "audio/mp3", "audio/flac", "audio/ogg", "audio/webm"}
)
VIDEO_TYPES = frozenset({"video/mp4", "video/webm"})
FILE_TYPES = frozenset({"application/pdf", "text/plain", "text/markdown", "text/csv", "application/json"})

_DATA_URL = re.compile(r"data:([a-z0-9.+/-]{1,64});base64,")
_BASE64 = re.compile(r"[A-Za-z0-9+/]++={0,2}")
_SAFE_KEY = re.compile(r"[A-Za-z0-9_.$-]{1,64}")


def refuse(text: str) -> PydanticCustomError:
    return PydanticCustomError("refused", "{why}", {"why": text})


def _base64(value: str, start: int = 0) -> None:
    if (len(value) - start) % 4 or not _BASE64.fullmatch(value, start):
        raise refuse("must be base64 with its padding and without line breaks")


def _from_file(value: str, allowed: frozenset[str], info: ValidationInfo) -> str:
    shelf = info.context
    if not isinstance(shelf, Shelf):
        raise refuse("may name a file:/// only where admission_media_dirs gives this profile a folder")
    try:
        return shelf.take(value, allowed)
    except MediaError as error:
        raise refuse(str(error)) from None


def _inline(allowed: frozenset[str]) -> Callable[[str, ValidationInfo], str]:
    def check(value: str, info: ValidationInfo) -> str:
        if value.startswith("file:"):
            return _from_file(value, allowed, info)
        head = _DATA_URL.match(value)
        if head is None:
            raise refuse("must be a data: URL with base64 content; addresses are never fetched here")
        if head.group(1) not in allowed:
            raise refuse("must have one of these media types: " + ", ".join(sorted(allowed)))
        _base64(value, head.end())
        return value

    return check


def _below_the_folder(allowed: frozenset[str]) -> Callable[[str, ValidationInfo], str]:
    def check(value: str, info: ValidationInfo) -> str:
        if not value.startswith("file:"):
            raise refuse("must be a file:/// below the profile's media folder; addresses are never fetched here")
        return _from_file(value, allowed, info)

    return check


def _plain_base64(value: str) -> str:
    _base64(value)
    return value


def _inline_file(value: str, info: ValidationInfo) -> str:
    if value.startswith(("data:", "file:")):
        return _inline(FILE_TYPES)(value, info)
    return _plain_base64(value)


def _local_references(value: dict[str, Any]) -> dict[str, Any]:
    pending: list[object] = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            for key, inner in item.items():
                if key in ("$ref", "$dynamicRef", "$recursiveRef") and isinstance(inner, str) and inner[:1] != "#":
                    raise refuse("may only refer to itself: a reference must begin with '#'")
                pending.append(inner)
        elif isinstance(item, list):
            pending.extend(item)
    return value


JSONSchema: TypeAlias = Annotated[dict[str, Any], AfterValidator(_local_references)]
FunctionName: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,128}$")]
ShortText: TypeAlias = Annotated[str, Field(min_length=1, max_length=256)]
ImageSource: TypeAlias = Annotated[str, AfterValidator(_inline(IMAGE_TYPES))]
FileSource: TypeAlias = Annotated[str, AfterValidator(_inline_file)]
ImageBelow: TypeAlias = Annotated[str, AfterValidator(_below_the_folder(IMAGE_TYPES))]
FileBelow: TypeAlias = Annotated[str, AfterValidator(_below_the_folder(FILE_TYPES))]
PlainBase64: TypeAlias = Annotated[str, AfterValidator(_plain_base64)]
FileName: TypeAlias = Annotated[str, Field(pattern=r"^[^/\\\x00-\x1f]{1,255}$")]
Tokens: TypeAlias = Annotated[int, Field(ge=1, le=1_000_000)]


class Strict(BaseModel):
    """A JSON object with exactly the keys that its class names."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

    dropped: ClassVar[frozenset[str]] = frozenset()
    """Keys that are accepted, because clients send them, and never sent on."""
    keep_null: ClassVar[frozenset[str]] = frozenset()
    """Keys that are sent on even when they are null."""


# --- content parts ---------------------------------------------------------------------------------------------------
class TextPart(Strict):
    """Text."""

    type: Literal["text"]
    text: str


class RefusalPart(Strict):
    """A model's own refusal, in an assistant message."""

    type: Literal["refusal"]
    refusal: str


class ImageURL(Strict):
    """An image inside the request."""

    url: ImageSource
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(Strict):
    """An image part."""

    type: Literal["image_url"]
    image_url: ImageURL


class InputAudio(Strict):
    """Audio as base64."""

    data: PlainBase64
    format: Literal["wav", "mp3", "flac", "ogg"]


class InputAudioPart(Strict):
    """An audio part in OpenAI's form."""

    type: Literal["input_audio"]
    input_audio: InputAudio


class AudioURL(Strict):
    """Audio inside the request, in vLLM's form."""

    url: Annotated[str, AfterValidator(_inline(AUDIO_TYPES))]


class AudioPart(Strict):
    """An audio part in vLLM's form."""

    type: Literal["audio_url"]
    audio_url: AudioURL


class VideoURL(Strict):
    """A video inside the request."""

    url: Annotated[str, AfterValidator(_inline(VIDEO_TYPES))]


class VideoPart(Strict):
    """A video part."""

    type: Literal["video_url"]
    video_url: VideoURL


class InlineFile(Strict):
    """A file inside the request; there is no file store, so no file_id."""

    file_data: FileSource
    filename: FileName | None = None


class FilePart(Strict):
    """A file part."""

    type: Literal["file"]
    file: InlineFile


# Tags of unions are written in angle brackets; `field_path` leaves them out.
def _tag_of(key: str, known: Iterable[str]) -> Callable[[Any], str | None]:
    names = frozenset(known)

    def tag(value: Any) -> str | None:
        word = value.get(key) if isinstance(value, dict) else getattr(value, key, None)
        return f"<{word}>" if isinstance(word, str) and word in names else None

    return tag


def one_of(key: str, *names: str) -> Discriminator:
    return Discriminator(
        _tag_of(key, names),
        custom_error_type="refused",
        custom_error_message=f"must be an object whose {key} is one of: {', '.join(names)}",
    )


UserPart: TypeAlias = Annotated[
    Annotated[TextPart, Tag("<text>")]
    | Annotated[ImagePart, Tag("<image_url>")]
    | Annotated[InputAudioPart, Tag("<input_audio>")]
    | Annotated[AudioPart, Tag("<audio_url>")]
    | Annotated[VideoPart, Tag("<video_url>")]
    | Annotated[FilePart, Tag("<file>")],
    one_of("type", "text", "image_url", "input_audio", "audio_url", "video_url", "file"),
]
AssistantPart: TypeAlias = Annotated[
    Annotated[TextPart, Tag("<text>")] | Annotated[RefusalPart, Tag("<refusal>")], one_of("type", "text", "refusal")
]


def _text_or(kind: type, word: str) -> Callable[[Any], str | None]:
    def tag(value: Any) -> str | None:
        if isinstance(value, str):
            return "<string>"
        return f"<{word}>" if isinstance(value, kind) else None

    return tag


def text_or_list() -> Discriminator:
    return Discriminator(
        _text_or(list, "list"),
        custom_error_type="refused",
        custom_error_message="must be a string or a list",
    )


def text_or_object() -> Discriminator:
    return Discriminator(
        _text_or(dict, "object"),
        custom_error_type="refused",
        custom_error_message="must be a string or an object",
    )


PartList = Field(min_length=1, max_length=PARTS_MAX)
UserContent: TypeAlias = Annotated[
    Annotated[str, Tag("<string>")] | Annotated[Annotated[list[UserPart], PartList], Tag("<list>")], text_or_list()
]
AssistantContent: TypeAlias = Annotated[
    Annotated[str, Tag("<string>")] | Annotated[Annotated[list[AssistantPart], PartList], Tag("<list>")],
    text_or_list(),
]
TextContent: TypeAlias = Annotated[
    Annotated[str, Tag("<string>")] | Annotated[Annotated[list[TextPart], PartList], Tag("<list>")], text_or_list()
]


# --- messages --------------------------------------------------------------------------------------------------------
class SystemMessage(Strict):
    """Instructions."""

    role: Literal["system", "developer"]
    content: TextContent
    name: ShortText | None = None


class UserMessage(Strict):
    """What a person or program says."""

    role: Literal["user"]
    content: UserContent
    name: ShortText | None = None


class CalledFunction(Strict):
    """A function the model called."""

    name: FunctionName
    arguments: str


class ToolCall(Strict):
    """One call of a tool."""

    id: ShortText
    type: Literal["function"]
    function: CalledFunction
    index: int | None = None

    dropped = frozenset({"index"})


class AssistantMessage(Strict):
    """What the model said earlier. The null-only keys are those that SDKs send back with a message they were given."""

    role: Literal["assistant"]
    content: AssistantContent | None = None
    name: ShortText | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=TOOLS_MAX)] | None = None
    function_call: None = None
    audio: None = None
    annotations: Annotated[list[None], Field(max_length=0)] | None = None

    dropped = frozenset({"function_call", "audio", "annotations"})
    keep_null = frozenset({"content"})

    @model_validator(mode="after")
    def _says_something(self) -> AssistantMessage:
        if self.content is None and not self.tool_calls and self.refusal is None:
            raise refuse("must have content, tool_calls or a refusal")
        return self


class ToolMessage(Strict):
    """What a tool answered."""

    role: Literal["tool"]
    content: TextContent
    tool_call_id: ShortText
    name: ShortText | None = None


Message: TypeAlias = Annotated[
    Annotated[SystemMessage, Tag("<system>")]
    | Annotated[SystemMessage, Tag("<developer>")]
    | Annotated[UserMessage, Tag("<user>")]
    | Annotated[AssistantMessage, Tag("<assistant>")]
    | Annotated[ToolMessage, Tag("<tool>")],
    one_of("role", "system", "developer", "user", "assistant", "tool"),
]


# --- tools and formats -----------------------------------------------------------------------------------------------
class Function(Strict):
    """A function that the client offers; the client runs it, never this machine."""

    name: FunctionName
    description: str | None = None
    parameters: JSONSchema | None = None
    strict: bool | None = None


class Tool(Strict):
    """A tool; only functions exist here (no web search, no MCP server, no code runner)."""

    type: Literal["function"]
    function: Function


class NamedFunction(Strict):
    """A function's name."""

    name: FunctionName


class NamedTool(Strict):
    """The one tool to call."""

    type: Literal["function"]
    function: NamedFunction


class TextFormat(Strict):
    """Free text, or any JSON object."""

    type: Literal["text", "json_object"]


class NamedSchema(Strict):
    """A JSON schema with its name."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    description: str | None = None
    schema_: Annotated[JSONSchema | None, Field(alias="schema")] = None
    strict: bool | None = None


class SchemaFormat(Strict):
    """JSON that follows a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


ToolChoice: TypeAlias = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("<string>")] | Annotated[NamedTool, Tag("<object>")],
    text_or_object(),
]
ResponseFormat: TypeAlias = Annotated[
    Annotated[TextFormat, Tag("<text>")]
    | Annotated[TextFormat, Tag("<json_object>")]
    | Annotated[SchemaFormat, Tag("<json_schema>")],
    one_of("type", "text", "json_object", "json_schema"),
]
StopText: TypeAlias = Annotated[str, Field(min_length=1, max_length=256)]
Stop: TypeAlias = Annotated[
    Annotated[StopText, Tag("<string>")]
    | Annotated[Annotated[list[StopText], Field(min_length=1, max_length=16)], Tag("<list>")],
    text_or_list(),
]
TokenBias: TypeAlias = Annotated[
    dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]],
    Field(max_length=1024),
]


class StreamOptions(Strict):
    """Options of a streamed answer."""

    include_usage: bool | None = None


class TemplateOptions(Strict):
    """The chat template's switches that concern the answer only; a template itself is never taken from a client."""

    enable_thinking: bool | None = None
    thinking: bool | None = None
    thinking_budget: Annotated[int, Field(ge=0, le=1_000_000)] | None = None


# --- the request -----------------------------------------------------------------------------------------------------
class ChatRequest(Strict):
    """The body of POST /v1/chat/completions. Ranges are those of OpenAI's and vLLM's documented parameters."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MESSAGES_MAX)]
    model: str | None = None
    user: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=100_000)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | None = None
    n: Annotated[int, Field(ge=1, le=8)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    logit_bias: TokenBias | None = None
    tools: Annotated[list[Tool], Field(max_length=TOOLS_MAX)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high"] | None = None
    chat_template_kwargs: TemplateOptions | None = None

    dropped = frozenset({"model", "user"})


# --- errors ----------------------------------------------------------------------------------------------------------
_WHY: dict[str, str] = {
    "bool_type": "must be true or false",
    "dict_type": "must be an object",
    "extra_forbidden": "is not accepted here",
    "float_type": "must be a number",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "int_from_float": "must be a whole number",
    "int_type": "must be a whole number",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "list_type": "must be a list",
    "literal_error": "must be {expected}",
    "missing": "is required",
    "model_type": "must be an object",
    "none_required": "must be null or left out",
    "string_pattern_mismatch": "must match {pattern}",
    "string_too_long": "is too long (at most {max_length} characters)",
    "string_too_short": "is too short (at least {min_length} characters)",
    "string_type": "must be a string",
    "string_unicode": "must be valid Unicode text",
    "too_long": "has too many elements (at most {max_length})",
    "too_short": "has too few elements (at least {min_length})",
}
"""Our own words for pydantic's error types; the braces are filled from the error's context, never from the input."""


def field_path(location: Iterable[int | str]) -> str:
    """The path of a field as a client would write it; a key that is not a plain name is not repeated."""
    path = ""
    for step in location:
        if isinstance(step, int):
            path += f"[{step}]"
        elif not step.startswith("<"):
            word = step if _SAFE_KEY.fullmatch(step) else "(unprintable key)"
            path += f".{word}" if path else word
    return path


def _explain(error: ErrorDetails) -> str:
    if error["type"] == "refused":  # our own validators' and unions' texts
        return error["msg"]
    return _WHY.get(error["type"], "is not valid").format(**error.get("ctx", {}))


Asked = TypeVar("Asked", bound=Strict)


def read(kind: type[Asked], document: object, shelf: Shelf | None) -> Asked:
    """Check a parsed body against a schema; raises Refusal (400) with the first offending field.

    shelf: where the files lie that a body of this profile may name.
    """
    try:
        return kind.model_validate(document, context=shelf)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        unknown_key = first["type"] == "extra_forbidden"
        known = first["loc"][:-1] if unknown_key else first["loc"]
        path = field_path(first["loc"]) or None
        refusal = bad_field(path, _explain(first))
        # The log names known fields only: an unknown key is a word of the client.
        reason = f"{'unknown key' if unknown_key else 'field'} at {field_path(known) or 'top level'}"
        raise Refusal(refusal.status, refusal.code, refusal.message, param=path, reason=reason) from None


def check_model(model: str | None, profile: str) -> None:
    """A request names its key's profile or nothing; raises Refusal (400)."""
    if model is not None and model != profile:
        raise Refusal(
            400,
            "model_not_allowed",
            f"'model' must be '{profile}', the profile of this key, or be left out",
            param="model",
            reason="field at model",
        )


def validate(document: object, profile: str, shelf: Shelf | None = None) -> ChatRequest:
    """Check the body of a chat completion; raises Refusal (400)."""
    request = read(ChatRequest, document, shelf)
    check_model(request.model, profile)
    return request


Plain: TypeAlias = dict[str, Any]
"""A JSON object."""


# --- the body that is sent on ----------------------------------------------------------------------------------------
def plain(value: Strict, only: Iterable[str] | None = None) -> Plain:
    """The JSON object of a model (or of these fields of it), without what is dropped and what is null."""
    kind = type(value)
    built: Plain = {}
    for name in kind.model_fields if only is None else only:
        inner = getattr(value, name)
        if name in kind.dropped or (inner is None and name not in kind.keep_null):
            continue
        built[kind.model_fields[name].alias or name] = _plain(inner)
    return built


def _plain(value: object) -> object:
    if isinstance(value, Strict):
        return plain(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def build(request: ChatRequest, group: str, cache_salt: str | None) -> bytes:
    """The body for the gateway (UTF-8 JSON).

    group: the profile's model group. cache_salt: keeps one profile's prefix cache from being probed by another's
    requests on a shared engine (vLLM's `cache_salt`; other engines ignore it). Raises Refusal (400) for text that is
    not Unicode.
    """
    body = plain(request)
    body["model"] = group
    if cache_salt is not None:
        body["cache_salt"] = cache_salt
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        raise bad_field(None, "holds text that is not valid Unicode (a lone surrogate)") from None
