# SPDX-License-Identifier: MIT
"""For any request that is accepted: what is built is a chat completion of the closed kind."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from admission import schema
from admission.errors import Refusal
from admission.routes import ROUTES
from admission.schema import ChatRequest
from hypothesis import given, settings
from hypothesis import strategies as st

Document = dict[str, Any]

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
WORD = st.from_regex(r"[A-Za-z0-9_.:-]{1,12}", fullmatch=True)
BASE64 = st.binary(min_size=1, max_size=9).map(lambda raw: base64.b64encode(raw).decode())
PNG = BASE64.map(lambda data: f"data:image/png;base64,{data}")
PDF = BASE64.map(lambda data: f"data:application/pdf;base64,{data}")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT, lambda inner: st.dictionaries(TEXT, inner, max_size=3)
)
OBJECT = st.dictionaries(TEXT.filter(lambda key: "ef" not in key), JSON, max_size=3)
FEW = {"min_size": 1, "max_size": 3}


def record(fixed: Document, **optional: st.SearchStrategy[Any]) -> st.SearchStrategy[Document]:
    """An object with these keys, and any of the others, or null in their place."""
    required = {key: value if isinstance(value, st.SearchStrategy) else st.just(value) for key, value in fixed.items()}
    return st.fixed_dictionaries(required, optional={key: st.none() | value for key, value in optional.items()})


def text_or(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return TEXT | st.lists(parts, **FEW)


NUMBERS = {"temperature": st.sampled_from([0, 0.5, 1]), "top_p": st.floats(0, 1)}
BIASES = st.dictionaries(st.integers(0, 999).map(str), st.integers(-100, 100), max_size=2)
STOPS = st.lists(st.text("ab", min_size=1, max_size=3), **FEW)

COMPLETIONS = record(
    {"prompt": TEXT | st.lists(TEXT, min_size=1, max_size=1)},
    model=st.just("private"), user=TEXT, stream=st.booleans(), max_tokens=st.integers(1, 99), n=st.integers(1, 8),
    seed=st.integers(0, 9), stop=STOPS, logit_bias=BIASES, echo=st.just(False), best_of=st.just(1), **NUMBERS,
)  # fmt: skip

_input_text = record({"type": "input_text", "text": TEXT})
_image = record({"type": "input_image", "image_url": PNG}, detail=st.sampled_from(["auto", "low", "high"]))
_file = record({"type": "input_file", "file_data": PDF}, filename=WORD)
_said = record({"type": "output_text", "text": TEXT, "annotations": []}) | record({"type": "refusal", "refusal": TEXT})
_item = st.one_of(
    record({"role": "user", "content": text_or(_input_text | _image | _file)}, type=st.just("message")),
    record({"role": st.sampled_from(["system", "developer"]), "content": text_or(_input_text)}),
    record({"role": "assistant", "content": text_or(_said)}, id=WORD, status=st.just("completed")),
    record({"type": "function_call", "call_id": WORD, "name": WORD, "arguments": TEXT}, id=WORD),
    record({"type": "function_call_output", "call_id": WORD, "output": text_or(_input_text)}),
    record({"type": "reasoning", "summary": []}, id=WORD),
)


def _says_something(items: list[Document]) -> bool:
    return any(item.get("type") != "reasoning" for item in items)


_format = record({"type": "json_schema", "name": "s", "schema": OBJECT}, strict=st.booleans(), description=TEXT)
RESPONSES = record(
    {"input": TEXT | st.lists(_item, **FEW).filter(_says_something)},
    model=st.just("private"), instructions=TEXT, stream=st.booleans(), max_output_tokens=st.integers(1, 99),
    tools=st.lists(record({"type": "function", "name": WORD}, parameters=OBJECT, strict=st.booleans()), **FEW),
    tool_choice=st.sampled_from(["auto", "none", "required"]) | record({"type": "function", "name": WORD}),
    parallel_tool_calls=st.booleans(), text=record({}, format=_format | record({"type": "text"})),
    reasoning=record({}, effort=st.sampled_from(["low", "high"])), metadata=st.dictionaries(WORD, TEXT, max_size=2),
    store=st.just(False), user=TEXT, **NUMBERS,
)  # fmt: skip

_text = record({"type": "text", "text": TEXT}, cache_control=record({"type": "ephemeral"}))
_picture = record({"type": "image", "source": record({"type": "base64", "media_type": "image/png", "data": BASE64})})
_paper = record(
    {
        "type": "document",
        "source": record({"type": "base64", "media_type": "application/pdf", "data": BASE64})
        | record({"type": "text", "media_type": "text/plain", "data": TEXT}),
    },
    title=WORD,
    context=TEXT,
)
_result = record(
    {"type": "tool_result", "tool_use_id": WORD},
    content=TEXT | st.lists(_text | _picture, max_size=3),
    is_error=st.booleans(),
)
_use = record({"type": "tool_use", "id": WORD, "name": WORD, "input": OBJECT})
_thought = record({"type": "thinking", "thinking": TEXT, "signature": TEXT})
_user = record({"role": "user", "content": text_or(_text | _picture | _paper | _result)})
_turns = st.lists(_user | record({"role": "assistant", "content": text_or(_text | _use | _thought)}), max_size=3)
MESSAGES = record(
    {"max_tokens": st.integers(1, 99), "messages": st.tuples(_turns, _user).map(lambda both: [*both[0], both[1]])},
    model=st.just("private"), system=text_or(_text), stream=st.booleans(), top_k=st.integers(0, 9),
    stop_sequences=STOPS,
    tools=st.lists(record({"name": WORD, "input_schema": OBJECT}, description=TEXT), **FEW),
    tool_choice=st.sampled_from([{"type": "auto"}, {"type": "any"}, {"type": "none"}, {"type": "tool", "name": "f"}]),
    thinking=st.sampled_from([{"type": "disabled"}, {"type": "enabled", "budget_tokens": 1024}]),
    metadata=record({}, user_id=TEXT), **NUMBERS,
)  # fmt: skip

REQUESTS = {b"/v1/completions": COMPLETIONS, b"/v1/responses": RESPONSES, b"/v1/messages": MESSAGES}


def built(path: bytes, document: Document) -> Document:
    read = ROUTES[path].read
    assert read is not None
    request, _voice = read(copy.deepcopy(document), "private", None)
    body: Document = json.loads(schema.build(request, "group-of-private", "salt"))
    return body


@pytest.mark.parametrize("path", REQUESTS)
def test_what_is_built_is_a_chat_completion_of_the_closed_kind(path: bytes) -> None:
    @settings(max_examples=150, deadline=None)
    @given(REQUESTS[path])
    def check(document: Document) -> None:
        body = built(path, document)  # no translation is ever refused
        assert (body.pop("model"), body.pop("cache_salt")) == ("group-of-private", "salt")
        again = json.loads(schema.build(ChatRequest.model_validate(body), "group-of-private", None))
        assert again == {**body, "model": "group-of-private"}
        assert bool(body.get("stream")) == bool(document.get("stream"))

    check()


FREE = frozenset({"parameters", "input_schema", "schema", "metadata", "logit_bias"})
"""Keys whose objects are the client's own: a function's schema, a called tool's arguments, and what is dropped."""


def places(value: Any, key: str = "") -> Iterator[Document]:
    """Every object in a document whose keys are listed."""
    if isinstance(value, dict):
        if key in FREE or (key == "input" and value is not None):
            return
        yield value
        for name, inner in value.items():
            yield from places(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from places(inner, "")


@pytest.mark.parametrize("path", REQUESTS)
def test_a_key_that_nobody_listed_is_refused_wherever_it_stands(path: bytes) -> None:
    @settings(max_examples=150, deadline=None)
    @given(REQUESTS[path], st.data(), st.sampled_from(["api_base", "fallbacks", "url", "file_id", "x", "extra_body"]))
    def check(document: Document, data: st.DataObject, key: str) -> None:
        planted = copy.deepcopy(document)
        place = data.draw(st.sampled_from(list(places(planted))))
        place[key] = "https://203.0.113.9/canary"
        with pytest.raises(Refusal) as caught:
            built(path, planted)
        assert caught.value.status == 400

    check()
