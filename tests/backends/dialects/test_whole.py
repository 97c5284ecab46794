"""Streams put together, and whole answers unfolded into streams; the official clients read them."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.backends.dialects import stream_ended, stream_from_whole, whole_from_stream
from twin.errors import BackendBroken, Untranslatable
from twin.records import DialectName

ASK = [{"role": "user", "content": "x"}]
TOKEN = {"token": "Hi", "logprob": -0.5, "bytes": [72, 105], "top_logprobs": []}
CHAT: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1700000000,
    "model": "m",
    "system_fingerprint": "fp",
    "choices": [
        {
            "index": 0,
            "finish_reason": "tool_calls",
            "message": {
                "role": "assistant",
                "content": "Hi",
                "reasoning_content": "hm",
                "tool_calls": [
                    {
                        "id": "c1",
                        "type": "function",
                        "function": {"name": "look", "arguments": '{"a":1}'},
                    },
                    {"id": "c2", "type": "function", "function": {"name": "see", "arguments": ""}},
                ],
            },
            "logprobs": {"content": [TOKEN]},
        },
        {
            "index": 1,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "", "refusal": "No."},
        },
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
}
COMPLETION: dict[str, Any] = {
    "id": "cmpl-1",
    "object": "text_completion",
    "created": 1700000000,
    "model": "m",
    "choices": [
        {
            "index": 0,
            "finish_reason": "length",
            "text": "once upon",
            "logprobs": {"tokens": ["once"], "token_logprobs": [-1.0], "text_offset": [0]},
        }
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
}
MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [
        {"type": "thinking", "thinking": "hm", "signature": "sig"},
        {"type": "redacted_thinking", "data": "xyz"},
        {"type": "text", "text": "Hi"},
        {"type": "text", "text": "!", "citations": [{"type": "char_location", "cited_text": "x"}]},
        {"type": "tool_use", "id": "t1", "name": "look", "input": {"a": [1, {"b": "€"}]}},
        {"type": "tool_use", "id": "t2", "name": "see", "input": {}},
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {"input_tokens": 3, "output_tokens": 4, "cache_read_input_tokens": 2},
}
RESPONSE: dict[str, Any] = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1700000000,
    "status": "completed",
    "model": "m",
    "error": None,
    "incomplete_details": None,
    "instructions": None,
    "output": [
        {"id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [
                {"type": "output_text", "text": "Hi", "annotations": [], "logprobs": [TOKEN]},
                {"type": "refusal", "refusal": "No."},
            ],
        },
        {
            "id": "fc_1",
            "type": "function_call",
            "call_id": "c1",
            "name": "look",
            "arguments": '{"a":1}',
            "status": "completed",
        },
        {"id": "ws_1", "type": "web_search_call", "status": "completed",
         "action": {"type": "search", "query": "q"}},
    ],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "usage": {
        "input_tokens": 3,
        "input_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 0},
        "output_tokens": 4,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 7,
    },
}  # fmt: skip
WHOLES: list[tuple[DialectName, dict[str, Any]]] = [
    ("chat", CHAT), ("completions", COMPLETION), ("messages", MESSAGE), ("responses", RESPONSE)
]  # fmt: skip


def unfolded(dialect: DialectName, whole: dict[str, Any], **options: Any) -> bytes:
    return stream_from_whole(dialect, json.dumps(whole).encode(), **options)


@pytest.mark.parametrize(("dialect", "whole"), WHOLES)
def test_unfolding_and_putting_together_gives_the_same_answer(dialect, whole) -> None:
    stream = unfolded(dialect, whole, include_usage=True)
    assert whole_from_stream(dialect, stream) == whole
    assert stream_ended(dialect, stream)


def test_the_openai_client_reads_an_unfolded_chat_answer(openai_client) -> None:
    one = {**CHAT, "choices": CHAT["choices"][:1]}
    client = openai_client(unfolded("chat", one, include_usage=True), is_stream=True)
    with client.chat.completions.stream(model="m", messages=ASK) as stream:
        for _ in stream:
            pass
        answer = stream.get_final_completion()
    choice = answer.choices[0]
    assert (choice.message.content, choice.finish_reason) == ("Hi", "tool_calls")
    assert [each.function.name for each in choice.message.tool_calls] == ["look", "see"]
    assert choice.logprobs.content[0].logprob == -0.5
    assert answer.usage.total_tokens == 7


def test_usage_is_unfolded_only_for_those_who_asked() -> None:
    assert b"usage" not in unfolded("chat", CHAT)
    assert b"usage" not in unfolded("completions", COMPLETION)


def test_the_openai_client_reads_an_unfolded_completion(openai_client) -> None:
    client = openai_client(unfolded("completions", COMPLETION), is_stream=True)
    chunks = list(client.completions.create(model="m", prompt="x", stream=True))
    assert "".join(each.choices[0].text for each in chunks) == "once upon"
    assert chunks[-1].choices[0].finish_reason == "length"


def test_the_anthropic_client_reads_an_unfolded_message(anthropic_client) -> None:
    client = anthropic_client(unfolded("messages", MESSAGE), is_stream=True)
    with client.messages.stream(model="m", max_tokens=9, messages=ASK) as stream:
        message = stream.get_final_message()
    found = message.to_dict()
    assert found.pop("stop_details") is None
    assert found.pop("content")[:3] == MESSAGE["content"][:3]
    assert found.items() <= MESSAGE.items()
    assert [block.input for block in message.content[4:]] == [{"a": [1, {"b": "€"}]}, {}]
    assert message.content[3].citations[0].cited_text == "x"


def test_the_openai_client_reads_an_unfolded_response(openai_client) -> None:
    client = openai_client(unfolded("responses", RESPONSE), is_stream=True)
    with client.responses.stream(model="m", input="x") as stream:
        events = list(stream)
        response = stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert response.output_text == "Hi"
    assert [item.type for item in response.output] == [
        "reasoning", "message", "function_call", "web_search_call",
    ]  # fmt: skip
    assert response.output[2].arguments == '{"a":1}'


@pytest.mark.parametrize(("dialect", "whole"), WHOLES)
@given(data=st.data())
def test_a_stream_that_broke_off_gives_what_was_there(dialect, whole, data) -> None:
    stream = unfolded(dialect, whole)
    part = whole_from_stream(dialect, stream[: data.draw(st.integers(0, len(stream)))])
    texts = json.dumps(part)
    assert len(texts) <= 2 * len(stream)
    if dialect == "messages":
        for block, full in zip(part.get("content", ()), whole["content"], strict=False):
            assert full.get("text", "").startswith(block.get("text", ""))
            assert block.get("partial_json") is None or block["type"] == "tool_use"
    for choice, full in zip(part.get("choices", ()), whole.get("choices", ()), strict=False):
        said = choice.get("message", choice)
        expected = full.get("message", full)
        for name in ("content", "text", "refusal"):
            assert (expected.get(name) or "").startswith(said.get(name) or "")


def test_the_reason_of_a_refusal_is_unfolded() -> None:
    details = {"type": "refusal", "explanation": "Not that."}
    refused = {**MESSAGE, "content": [], "stop_reason": "refusal", "stop_details": details}
    assert whole_from_stream("messages", unfolded("messages", refused)) == refused


def test_arguments_that_broke_off_are_kept_as_text() -> None:
    stream = (
        b'data: {"type":"content_block_start","index":0,"content_block":'
        b'{"type":"tool_use","id":"t","name":"f","input":{}}}\n\n'
        b'data: {"type":"content_block_delta","index":0,"delta":'
        b'{"type":"input_json_delta","partial_json":"{\\"a\\": 1"}}\n\n'
    )
    block = whole_from_stream("messages", stream)["content"][0]
    assert (block["input"], block["partial_json"]) == ({}, '{"a": 1')


def test_a_response_that_broke_off_has_its_items_and_their_texts() -> None:
    stream = unfolded("responses", RESPONSE)
    cut = stream.index(b"event: response.output_text.done")
    part = whole_from_stream("responses", stream[:cut])
    assert part["status"] == "in_progress"
    assert part["output"][0] == RESPONSE["output"][0]
    assert part["output"][1]["content"][0]["text"] == "Hi"
    cut = stream.index(b"event: response.function_call_arguments.done")
    assert whole_from_stream("responses", stream[:cut])["output"][2]["arguments"] == '{"a":1}'


def test_items_are_kept_where_the_last_event_does_not_repeat_them() -> None:
    stream = unfolded("responses", RESPONSE)
    start = stream.rindex(b"event: response.completed")
    bare = {**RESPONSE, "output": None}
    last = {"type": "response.completed", "response": bare, "sequence_number": 99}
    stream = stream[:start] + b"data: " + json.dumps(last).encode() + b"\n\n"
    assert whole_from_stream("responses", stream) == RESPONSE


@pytest.mark.parametrize("dialect", ["chat", "completions", "messages", "responses", "embeddings"])
@given(
    stream=st.binary()
    | st.lists(
        st.recursive(
            st.none() | st.integers(-2, 2) | st.sampled_from(["x", "tool_use", "input_json_delta"]),
            lambda inner: st.lists(inner, max_size=2)
            | st.dictionaries(
                st.sampled_from(
                    ["choices", "delta", "tool_calls", "function", "index", "content", "type",
                     "message", "usage", "content_block", "item", "output_index", "part",
                     "response", "output", "logprobs", "content_index", "error", "text"]
                ),
                inner,
                max_size=4,
            ),
            max_leaves=9,
        )
    ).map(lambda items: b"".join(b"data: %s\n\n" % json.dumps(each).encode() for each in items))
)  # fmt: skip
def test_no_stream_whatever_makes_it_fail(dialect: DialectName, stream: bytes) -> None:
    assert isinstance(whole_from_stream(dialect, stream), dict)


def test_unknown_events_and_errors_do_not_stop_it() -> None:
    stream = (
        b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
        b"event: strange\ndata: {}\n\ndata: not json\n\n: note\n\n"
        b'data: {"choices":[{"index":0,"delta":{"content":"b"}}]}\n\n'
        b'data: {"error":{"message":"no"}}\n\n'
    )
    whole = whole_from_stream("chat", stream)
    assert whole["choices"][0]["message"]["content"] == "ab"
    assert whole["error"] == {"message": "no"}
    failed = b'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"no"}}\n\n'
    assert whole_from_stream("messages", failed)["error"]["message"] == "no"
    assert whole_from_stream("responses", failed)["error"]["message"] == "no"


@pytest.mark.parametrize(
    ("dialect", "stream", "ended"),
    [
        ("chat", b'data: {"choices":[{"finish_reason": "stop"}]}\n\n', True),
        ("chat", b'data: {"choices":[{"finish_reason": null}]}\n\n', False),
        ("chat", b"data: [DONE]\n\n", True),
        ("chat", b"", False),
        ("messages", b'data: {"type": "message_stop"}\n\n', True),
        ("messages", b'data: {"type":"message_delta"}\n\n', False),
        ("responses", b'data: {"type":"response.in_progress"}\n\n', False),
        ("responses", b'data: {"type":"x","delta":"\\"response.completed\\""}\n\n', False),
        ("responses", b'data: {"type":"response.failed"}\n\n', False),
    ],
)
def test_a_stream_says_itself_whether_it_ended(dialect, stream, ended) -> None:
    assert stream_ended(dialect, stream) is ended


@pytest.mark.parametrize("dialect", ["chat", "completions", "messages", "responses"])
@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b'{"choices":[5],"content":[5]}'])
def test_what_is_no_answer_cannot_be_unfolded(dialect: DialectName, body: bytes) -> None:
    with pytest.raises(BackendBroken, match=r"\.$"):
        stream_from_whole(dialect, body)


def test_embeddings_are_not_streamed() -> None:
    with pytest.raises(Untranslatable, match="not streamed"):
        stream_from_whole("embeddings", b"{}")
