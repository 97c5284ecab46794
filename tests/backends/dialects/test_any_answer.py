"""Whatever a model's server answers, it is read or it is a broken backend: nothing else is raised,
and what is read has the types that it is said to have."""

import json
from contextlib import suppress
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.backends.dialects import (
    answer_in,
    answer_of,
    can_translate,
    stream_from_whole,
    stream_translator,
    translate_response,
    usage_of,
    whole_from_stream,
)
from twin.errors import BackendBroken
from twin.records import Answer, DialectName

DIALECTS: tuple[DialectName, ...] = get_args(DialectName)

CHAT = {
    "id": "c",
    "created": 1,
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "hi",
                "refusal": None,
                "reasoning_content": "hm",
                "tool_calls": [{"id": "t", "function": {"name": "f", "arguments": "{}"}}],
            },
            "logprobs": {"content": [{"token": "a", "logprob": -0.1, "top_logprobs": []}]},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 1, "prompt_tokens_details": {"cached_tokens": 0}},
}
MESSAGES = {
    "id": "m",
    "content": [
        {"type": "text", "text": "a"},
        {"type": "thinking", "thinking": "b"},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
    ],
    "stop_reason": "refusal",
    "stop_details": {"explanation": "no"},
    "usage": {"input_tokens": 1, "output_tokens": 2},
}
COMPLETIONS = {
    "choices": [
        {"index": 0, "text": "x", "finish_reason": "stop", "logprobs": {"token_logprobs": [-0.1]}}
    ],
    "usage": {"completion_tokens": 2},
}
RESPONSES = {
    "status": "incomplete",
    "incomplete_details": {"reason": "content_filter"},
    "output": [
        {"type": "message", "content": [{"text": "x", "refusal": "", "logprobs": [
            {"logprob": -0.1}]}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "reasoning", "summary": [{"text": "x"}]},
    ],
    "usage": {"output_tokens": 2},
}  # fmt: skip
CHAT_STREAM = [
    {"id": "c", "created": 1, "choices": [{"index": 0, "delta": {"role": "assistant"}}]},
    {"choices": [{"index": 0, "delta": {"content": "hi", "reasoning_content": "x"},
                  "logprobs": {"content": [{"token": "a", "logprob": -1}]}}]},
    {"choices": [{"index": 0, "delta": {"tool_calls": [
        {"index": 0, "id": "t", "function": {"name": "f", "arguments": "{}"}}]}}]},
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
    {"choices": [], "usage": {"prompt_tokens": 1}},
]  # fmt: skip
MESSAGES_STREAM = [
    {"type": "message_start", "message": {"id": "m", "usage": {"input_tokens": 3}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hi"}},
    {"type": "content_block_start", "index": 1, "content_block": {
        "type": "tool_use", "id": "t", "name": "f", "input": {}}},
    {"type": "content_block_delta", "index": 1, "delta": {
        "type": "input_json_delta", "partial_json": "{}"}},
    {"type": "content_block_stop", "index": 1},
    {"type": "message_delta", "delta": {"stop_reason": "refusal", "stop_details": {}},
     "usage": {"output_tokens": 5}},
    {"type": "message_stop"},
]  # fmt: skip

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2)
    | st.dictionaries(st.sampled_from(["content", "text", "type", "usage", "choices", "x"]), inner,
                      max_size=2),
    max_leaves=4,
)  # fmt: skip


@st.composite
def spoilt(draw: st.DrawFn, value: Any) -> Any:
    """Like `value`, but that a field or two is something else or not there."""
    value = json.loads(json.dumps(value))
    for _ in range(draw(st.integers(1, 2))):
        holder = value
        while True:
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(holder[key], dict | list) and draw(st.integers(0, 3)):
                holder = holder[key]
                continue
            holder[key] = draw(JUNK)
            break
    return value


def check(answer: Answer) -> None:
    msgspec.json.decode(msgspec.json.encode(answer), type=Answer)


@given(
    st.sampled_from(DIALECTS),
    st.one_of(*(spoilt(whole) for whole in (CHAT, MESSAGES, COMPLETIONS, RESPONSES))),
)
def test_any_whole_answer_is_read_or_broken(dialect: DialectName, whole: Any) -> None:
    body = json.dumps(whole).encode()
    usage_of(dialect, body, False)
    with suppress(BackendBroken):
        check(answer_of(dialect, body))
    for target in DIALECTS:
        if target != dialect and can_translate(target, dialect):
            with suppress(BackendBroken):
                translate_response(dialect, target, body, "m")
    if dialect != "embeddings":
        with suppress(BackendBroken):
            stream_from_whole(dialect, body, include_usage=True)


@given(
    st.sampled_from([("chat", CHAT_STREAM), ("messages", MESSAGES_STREAM)]).flatmap(
        lambda pair: st.tuples(st.just(pair[0]), spoilt(pair[1]))
    ),
    st.booleans(),
    st.booleans(),
)
def test_any_stream_is_said_in_every_dialect(pair: Any, include_usage: bool, is_done: bool) -> None:
    source, events = pair
    stream = b"".join(b"data: %s\n\n" % json.dumps(event).encode() for event in events)
    stream += b"data: [DONE]\n\n" if is_done else b""
    for target in ("chat", "messages", "responses", "completions"):
        if target != source:
            translator = stream_translator(source, target, "m", include_usage=include_usage)
            translator.feed(stream)
            translator.end()
    usage_of(source, stream, True)
    whole = whole_from_stream(source, stream)
    with suppress(BackendBroken):
        check(answer_in(source, whole))


@pytest.mark.parametrize("content", [{"a": 1}, 3, [[]], {"choices": {}}])
def test_a_text_that_is_none_is_a_broken_backend(content: Any) -> None:
    whole = {"choices": [{"message": {"content": content}, "finish_reason": "stop"}]}
    with pytest.raises(BackendBroken):
        answer_of("chat", json.dumps(whole).encode())


def test_an_end_of_a_strange_type_ends_the_stream_with_an_error() -> None:
    translator = stream_translator("messages", "chat", "m", include_usage=True)
    translator.feed(b'data: {"type": "message_start", "message": {"usage": 5}}\n\n')
    out = translator.feed(b'data: {"type": "message_delta", "delta": [1]}\n\n')
    assert b"cannot be read" in out + translator.end()
