"""Streams said in another dialect's events, cut anywhere; the official clients read them."""

import json
from typing import Any

import openai
import pytest
from anthropic import APIStatusError
from hypothesis import given
from hypothesis import strategies as st

from twin.backends.dialects import stream_translator, whole_from_stream
from twin.errors import Untranslatable

ASK = [{"role": "user", "content": "x"}]


def sse(*payloads: Any, named: bool = False) -> bytes:
    out = b""
    for payload in payloads:
        data = payload if isinstance(payload, str) else json.dumps(payload)
        name = f"event: {payload['type']}\n" if named else ""
        out += f"{name}data: {data}\n\n".encode()
    return out


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish, **more}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1700000000,
            "model": "upstream", "choices": [choice]}  # fmt: skip


def call(index: int, arguments: str, call_id: str | None = None, name: str | None = None) -> Any:
    function = {"arguments": arguments, **({"name": name} if name else {})}
    start = {"id": call_id, "type": "function"} if call_id else {}
    return {"tool_calls": [{"index": index, **start, "function": function}]}


USAGE = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120,
         "prompt_tokens_details": {"cached_tokens": 60}}  # fmt: skip
LAST = {**chunk({}), "choices": [], "usage": USAGE}
CHAT = sse(
    chunk({"role": "assistant", "content": ""}),
    chunk({"reasoning_content": "h"}),
    chunk({"reasoning_content": "m"}),
    chunk({"content": "Look"}, logprobs={"content": [{"token": "Look", "logprob": -0.5}]}),
    chunk({"content": "ing €."}),
    chunk(call(0, "", "c1", "look")),
    chunk(call(0, '{"at"')),
    chunk(call(0, ": 1}")),
    chunk(call(1, '{"b": 2}', "c2", "see")),
    chunk({}, "tool_calls"),
    LAST,
    "[DONE]",
)
MESSAGES = sse(
    {
        "type": "message_start",
        "message": {
            "id": "msg_1", "type": "message", "role": "assistant", "model": "upstream",
            "content": [], "stop_reason": None, "stop_sequence": None,
            "usage": {"input_tokens": 40, "cache_read_input_tokens": 60, "output_tokens": 1},
        },
    },
    {"type": "content_block_start", "index": 0,
     "content_block": {"type": "thinking", "thinking": "", "signature": ""}},
    {"type": "content_block_delta", "index": 0,
     "delta": {"type": "thinking_delta", "thinking": "hm"}},
    {"type": "content_block_delta", "index": 0,
     "delta": {"type": "signature_delta", "signature": "sig"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "ping"},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "Look"}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "ing €."}},
    {"type": "content_block_stop", "index": 1},
    {"type": "content_block_start", "index": 2,
     "content_block": {"type": "tool_use", "id": "c1", "name": "look", "input": {}}},
    {"type": "content_block_delta", "index": 2,
     "delta": {"type": "input_json_delta", "partial_json": ""}},
    {"type": "content_block_delta", "index": 2,
     "delta": {"type": "input_json_delta", "partial_json": '{"at": 1}'}},
    {"type": "content_block_stop", "index": 2},
    {"type": "content_block_start", "index": 3,
     "content_block": {"type": "tool_use", "id": "c2", "name": "see", "input": {}}},
    {"type": "content_block_stop", "index": 3},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_sequence": None},
     "usage": {"output_tokens": 20}},
    {"type": "message_stop"},
    named=True,
)  # fmt: skip


def through(source: Any, target: Any, *pieces: bytes, **options: Any) -> bytes:
    translator = stream_translator(source, target, "asked", **options)
    return b"".join([*map(translator.feed, pieces), translator.end()])


def test_the_anthropic_client_reads_a_chat_stream(anthropic_client) -> None:
    client = anthropic_client(through("chat", "messages", CHAT), is_stream=True)
    with client.messages.stream(model="asked", max_tokens=9, messages=ASK) as stream:
        assert "".join(stream.text_stream) == "Looking €."
        message = stream.get_final_message()
    assert (message.id, message.model, message.stop_reason) == ("msg_1", "asked", "tool_use")
    kinds = [block.type for block in message.content]
    assert kinds == ["thinking", "text", "tool_use", "tool_use"]
    assert message.content[0].thinking == "hm"
    assert [(block.id, block.name, block.input) for block in message.content[2:]] == [
        ("c1", "look", {"at": 1}),
        ("c2", "see", {"b": 2}),
    ]
    assert (message.usage.input_tokens, message.usage.output_tokens) == (40, 20)
    assert message.usage.cache_read_input_tokens == 60


def test_the_openai_client_reads_an_anthropic_stream(openai_client) -> None:
    body = through("messages", "chat", MESSAGES, include_usage=True)
    client = openai_client(body, is_stream=True)
    with client.chat.completions.stream(model="asked", messages=ASK) as stream:
        kinds = {event.type for event in stream}
        answer = stream.get_final_completion()
    assert {"content.delta", "content.done", "tool_calls.function.arguments.done"} <= kinds
    choice = answer.choices[0]
    assert (answer.id, answer.model, choice.finish_reason) == ("chatcmpl-1", "asked", "tool_calls")
    assert (choice.message.content, choice.message.reasoning_content) == ("Looking €.", "hm")
    calls = [(each.id, each.function.name, each.function.arguments)
             for each in choice.message.tool_calls]  # fmt: skip
    assert calls == [("c1", "look", '{"at": 1}'), ("c2", "see", "{}")]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (100, 20)


def test_usage_is_told_only_to_those_who_asked() -> None:
    assert b'"usage"' not in through("messages", "chat", MESSAGES)
    assert b'"usage"' not in through("chat", "completions", CHAT)
    assert b'"usage"' in through("chat", "completions", CHAT, include_usage=True)


@pytest.mark.parametrize(("source", "stream"), [("chat", CHAT), ("messages", MESSAGES)])
def test_the_openai_client_reads_either_stream_as_a_response(openai_client, source, stream) -> None:
    client = openai_client(through(source, "responses", stream), is_stream=True)
    with client.responses.stream(model="asked", input="x") as events:
        seen = list(events)
        response = events.get_final_response()
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    assert [event.type for event in seen[:2]] == ["response.created", "response.in_progress"]
    assert seen[-1].type == "response.completed"
    assert response.output_text == "Looking €."
    kinds = [item.type for item in response.output]
    assert kinds == ["reasoning", "message", "function_call", "function_call"]
    assert response.output[0].summary[0].text == "hm"
    assert json.loads(response.output[2].arguments) == {"at": 1}
    assert [item.call_id for item in response.output[2:]] == ["c1", "c2"]
    assert (response.usage.input_tokens, response.usage.output_tokens) == (100, 20)
    done = [event for event in seen if event.type == "response.output_item.done"]
    assert [event.output_index for event in done] == [0, 1, 2, 3]


@pytest.mark.parametrize(("source", "stream"), [("chat", CHAT), ("messages", MESSAGES)])
def test_the_openai_client_reads_either_stream_as_a_completion(
    openai_client, source, stream
) -> None:
    body = through(source, "completions", stream, include_usage=True)
    client = openai_client(body, is_stream=True)
    chunks = list(client.completions.create(model="asked", prompt="x", stream=True))
    assert "".join(each.text for part in chunks for each in part.choices) == "Looking €."
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.prompt_tokens == 100


PAIRS = [("chat", "messages", CHAT), ("messages", "chat", MESSAGES), ("chat", "responses", CHAT),
         ("messages", "responses", MESSAGES), ("chat", "completions", CHAT),
         ("messages", "completions", MESSAGES)]  # fmt: skip


def told(target: Any, stream: bytes) -> str:
    """What a stream says in the end, without what is made up: ids, and when it was made."""
    answer = {**whole_from_stream(target, stream), "created": 0, "created_at": 0}
    whole = json.dumps(answer)
    for item in answer.get("output", ()):
        whole = whole.replace(item["id"], "ID")
    return whole


@given(st.sampled_from(PAIRS), st.lists(st.integers(min_value=0), max_size=8))
def test_cuts_anywhere_change_nothing(pair: Any, cuts: list[int]) -> None:
    source, target, stream = pair
    places = sorted({cut % (len(stream) + 1) for cut in cuts})
    pieces = [stream[a:b] for a, b in zip([0, *places], [*places, len(stream)], strict=True)]
    assert told(target, through(source, target, *pieces)) == told(
        target, through(source, target, stream)
    )


@given(st.sampled_from(PAIRS), st.integers(min_value=0))
def test_a_stream_that_breaks_off_never_looks_whole(pair: Any, cut: int) -> None:
    source, target, stream = pair
    # Until the reason why it ended has been told.
    until = stream.index(b'tool_calls"}]' if source == "chat" else b'"stop_reason": "tool_use"')
    out = through(source, target, stream[: cut % until])
    assert b"The model's answer broke off; ask again." in out
    for ending in (b"[DONE]", b"message_stop", b"response.completed"):
        assert ending not in out


def test_a_finish_reason_is_enough_where_the_last_line_is_missing() -> None:
    out = through("chat", "messages", CHAT.replace(b"data: [DONE]\n\n", b""))
    assert out.endswith(b'event: message_stop\ndata: {"type":"message_stop"}\n\n')
    stop = MESSAGES.index(b"event: message_stop")
    assert through("messages", "chat", MESSAGES[:stop]).endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("source", "broken"),
    [
        ("chat", sse({"error": {"message": "Overloaded.", "code": "busy"}})),
        ("messages", b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error",'
                     b'"message":"Overloaded."}}\n\n'),
    ],
)  # fmt: skip
def test_an_error_of_the_source_is_told_in_the_callers_dialect(source, broken) -> None:
    stream = (CHAT if source == "chat" else MESSAGES)[:700].rpartition(b"\n\n")[0] + b"\n\n"
    for target in {"chat", "messages", "responses", "completions"} - {source}:
        out = through(source, target, stream + broken, request_id="r1")
        assert out.count(b"Overloaded.") == (2 if target == "responses" else 1)
        assert b'"request_id":"r1"' in out


def test_the_official_clients_raise_for_an_error_in_the_middle(
    openai_client, anthropic_client
) -> None:
    cut = CHAT[:900]
    client = anthropic_client(through("chat", "messages", cut), is_stream=True)
    with (
        client.messages.stream(model="asked", max_tokens=9, messages=ASK) as stream,
        pytest.raises(APIStatusError, match="broke off"),
    ):
        stream.get_final_message()
    client = openai_client(through("chat", "responses", cut), is_stream=True)
    with (
        client.responses.stream(model="asked", input="x") as stream,
        pytest.raises(openai.APIError, match="broke off"),
    ):
        stream.get_final_response()
    client = openai_client(through("messages", "chat", MESSAGES[:900]), is_stream=True)
    with (
        client.chat.completions.stream(model="asked", messages=ASK) as stream,
        pytest.raises(openai.APIError, match="broke off"),
    ):
        stream.get_final_completion()


@pytest.mark.parametrize("data", ["{", "5", '{"choices": [5]}', '{"choices":[{"delta":5}]}'])
def test_an_event_that_cannot_be_read_ends_the_stream_with_an_error(data: str) -> None:
    out = through("chat", "messages", CHAT[:500].rpartition(b"\n\n")[0] + b"\n\n" + sse(data))
    assert out.count(b"event: error") == 1
    assert b"cannot be read" in out


@pytest.mark.parametrize(
    "deltas",
    [
        # All calls under one index; the ids tell them apart.
        [call(0, '{"a":1}', "c1", "f"), call(0, '{"b":2}', "c2", "g")],
        # No index at all.
        [{"tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": '{"a":1}'}}]},
         {"tool_calls": [{"id": "c2", "function": {"name": "g", "arguments": '{"b":'}}]},
         {"tool_calls": [{"function": {"arguments": "2}"}}]}],
        # The id repeated in every delta.
        [call(0, '{"a"', "c1", "f"), call(0, ":1}", "c1"), call(1, '{"b":2}', "c2", "g")],
        # By turns.
        [call(0, '{"a"', "c1", "f"), call(1, '{"b"', "c2", "g"), call(0, ":1}"), call(1, ":2}")],
    ],
)  # fmt: skip
@pytest.mark.parametrize("target", ["messages", "responses"])
def test_tool_calls_are_told_apart_however_a_server_numbers_them(
    openai_client, anthropic_client, deltas: list[Any], target: str
) -> None:
    stream = sse(*[chunk(delta) for delta in deltas], chunk({}, "tool_calls"), "[DONE]")
    body = through("chat", target, stream)
    if target == "messages":
        client = anthropic_client(body, is_stream=True)
        with client.messages.stream(model="asked", max_tokens=9, messages=ASK) as events:
            found = [(each.id, each.input) for each in events.get_final_message().content]
    else:
        client = openai_client(body, is_stream=True)
        with client.responses.stream(model="asked", input="x") as events:
            output = events.get_final_response().output
        found = [(item.call_id, json.loads(item.arguments)) for item in output]
    assert found == [("c1", {"a": 1}), ("c2", {"b": 2})]
    calls = whole_from_stream("chat", stream)["choices"][0]["message"]["tool_calls"]
    assert [(each["id"], json.loads(each["function"]["arguments"])) for each in calls] == found


def test_a_refusal_streams_through(openai_client) -> None:
    stream = sse(chunk({"refusal": "I will "}), chunk({"refusal": "not."}), chunk({}, "stop"))
    client = openai_client(through("chat", "responses", stream), is_stream=True)
    with client.responses.stream(model="asked", input="x") as events:
        response = events.get_final_response()
    assert response.output[0].content[0].refusal == "I will not."
    whole = whole_from_stream("messages", through("chat", "messages", stream))
    assert (whole["stop_reason"], whole["content"][0]["text"]) == ("refusal", "I will not.")


def test_an_answer_cut_by_its_bound_is_an_incomplete_response() -> None:
    stream = sse(chunk({"content": "x"}), chunk({}, "length"), "[DONE]")
    out = through("chat", "responses", stream)
    assert whole_from_stream("responses", out)["incomplete_details"] == {
        "reason": "max_output_tokens"
    }
    assert b"event: response.incomplete\n" in out


def test_within_one_dialect_bytes_pass_as_they_are() -> None:
    assert through("chat", "chat", b"anything", b"\xff") == b"anything\xff"
    with pytest.raises(Untranslatable, match="No stream of `embeddings`"):
        stream_translator("embeddings", "chat", "asked")


def test_a_refusal_of_anthropics_classifiers_reaches_a_chat_stream() -> None:
    details = {"type": "refusal", "explanation": "Not that."}
    delta = {"stop_reason": "refusal", "stop_sequence": None, "stop_details": details}
    start = MESSAGES[: MESSAGES.index(b"event: content_block_start")]
    stream = start + sse({"type": "message_delta", "delta": delta, "usage": {}}, named=True)
    choice = whole_from_stream("chat", through("messages", "chat", stream))["choices"][0]
    assert choice["message"]["refusal"] == "Not that."
    assert choice["finish_reason"] == "content_filter"


def test_blocks_that_begin_with_their_text_lose_nothing() -> None:
    start = MESSAGES[: MESSAGES.index(b"event: content_block_start")]
    stream = start + sse(
        {"type": "content_block_start", "index": 0,
         "content_block": {"type": "thinking", "thinking": "hm"}},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": "a"}},
        {"type": "content_block_start", "index": 2,
         "content_block": {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}},
        {"type": "content_block_stop", "index": 2},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {}},
    )  # fmt: skip
    out = whole_from_stream("chat", through("messages", "chat", stream))
    message = out["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("hm", "a")
    assert message["tool_calls"][0]["function"]["arguments"] == '{"a":1}'


def test_text_and_refusal_are_two_parts_of_one_message(openai_client) -> None:
    stream = sse(chunk({"content": "Well, "}), chunk({"refusal": "no."}), chunk({}, "stop"))
    client = openai_client(through("chat", "responses", stream), is_stream=True)
    with client.responses.stream(model="asked", input="x") as events:
        parts = events.get_final_response().output[0].content
    assert [part.type for part in parts] == ["output_text", "refusal"]


def test_what_follows_the_end_is_not_passed_on() -> None:
    assert through("chat", "messages", CHAT + CHAT) == through("chat", "messages", CHAT)
    unfinished = sse(chunk({"content": "x"}), chunk({}, "stop")).rstrip() + b"\n"
    assert b"message_stop" in through("chat", "messages", unfinished)


@pytest.mark.parametrize(
    "error", [{"error": "Overloaded."}, {"error": {"message": "Overloaded."}}]
)  # fmt: skip
def test_errors_come_in_several_shapes(error: dict[str, Any]) -> None:
    assert b'"message":"Overloaded."' in through("chat", "messages", sse(error))
