"""Whole answers said in another dialect's words; the official clients read them."""

import json
from typing import Any

import pytest

from twin.backends.dialects import translate_response
from twin.errors import BackendBroken, Untranslatable

CHAT = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1700000000,
    "model": "upstream",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "Looking.",
                "reasoning_content": "hm",
                "refusal": None,
                "tool_calls": [
                    {
                        "id": "c1",
                        "type": "function",
                        "function": {"name": "look", "arguments": '{"at": 1}'},
                    },
                    {"id": "c2", "type": "function", "function": {"name": "see", "arguments": ""}},
                ],
            },
            "logprobs": {
                "content": [
                    {"token": "Look", "logprob": -0.1, "bytes": None, "top_logprobs": []},
                    {
                        "token": "ing.",
                        "logprob": -0.2,
                        "bytes": [105],
                        "top_logprobs": [{"token": "x", "logprob": -3.0, "bytes": None}],
                    },
                ]
            },
            "finish_reason": "tool_calls",
        }
    ],
    "usage": {
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "total_tokens": 120,
        "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 10},
        "completion_tokens_details": {"reasoning_tokens": 5},
    },
}
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "upstream",
    "content": [
        {"type": "thinking", "thinking": "hm", "signature": "sig"},
        {"type": "text", "text": "Look"},
        {"type": "text", "text": "ing."},
        {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": 1}},
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {
        "input_tokens": 30,
        "cache_read_input_tokens": 60,
        "cache_creation_input_tokens": 10,
        "output_tokens": 20,
        "output_tokens_details": {"thinking_tokens": 5},
    },
}


def translated(source: Any, target: Any, answer: dict[str, Any]) -> bytes:
    return translate_response(source, target, json.dumps(answer).encode(), "asked")


def chat(finish: str, **message: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": None, **message}
    return {"id": "x", "choices": [{"index": 0, "message": message, "finish_reason": finish}]}


def test_the_anthropic_client_reads_a_chat_answer(anthropic_client) -> None:
    client = anthropic_client(translated("chat", "messages", CHAT))
    message = client.messages.create(
        model="asked", max_tokens=9, messages=[{"role": "user", "content": "x"}]
    )
    assert (message.id, message.model, message.stop_reason) == ("msg_1", "asked", "tool_use")
    kinds = [block.type for block in message.content]
    assert kinds == ["thinking", "text", "tool_use", "tool_use"]
    assert message.content[1].text == "Looking."
    assert [block.input for block in message.content[2:]] == [{"at": 1}, {}]
    assert [block.id for block in message.content[2:]] == ["c1", "c2"]
    assert (message.usage.input_tokens, message.usage.output_tokens) == (30, 20)
    assert message.usage.cache_read_input_tokens == 60
    assert message.usage.cache_creation_input_tokens == 10


def test_the_openai_client_reads_an_anthropic_answer(openai_client) -> None:
    client = openai_client(translated("messages", "chat", MESSAGE))
    answer = client.chat.completions.create(
        model="asked", messages=[{"role": "user", "content": "x"}]
    )
    choice = answer.choices[0]
    assert (answer.id, answer.model, choice.finish_reason) == ("chatcmpl-1", "asked", "tool_calls")
    assert choice.message.content == "Looking."
    assert choice.message.reasoning_content == "hm"
    assert choice.message.tool_calls[0].function.arguments == '{"at":1}'
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (100, 20)
    assert answer.usage.prompt_tokens_details.cached_tokens == 60
    assert answer.usage.completion_tokens_details.reasoning_tokens == 5


@pytest.mark.parametrize(("source", "answer"), [("chat", CHAT), ("messages", MESSAGE)])
def test_the_openai_client_reads_either_as_a_response(openai_client, source, answer) -> None:
    client = openai_client(translated(source, "responses", answer))
    response = client.responses.create(model="asked", input="x")
    assert (response.id, response.status, response.model) == ("resp_1", "completed", "asked")
    assert response.output_text == "Looking."
    kinds = [item.type for item in response.output]
    assert kinds[:3] == ["reasoning", "message", "function_call"]
    assert json.loads(response.output[2].arguments) == {"at": 1}
    assert response.output[2].call_id in ("c1", "t1")
    assert (response.usage.input_tokens, response.usage.output_tokens) == (100, 20)
    assert response.usage.input_tokens_details.cached_tokens == 60
    assert response.usage.output_tokens_details.reasoning_tokens == 5


def test_log_probabilities_reach_a_response_with_their_bytes(openai_client) -> None:
    response = openai_client(translated("chat", "responses", CHAT)).responses.create(input="x")
    tokens = response.output[1].content[0].logprobs
    assert [(token.token, token.logprob) for token in tokens] == [("Look", -0.1), ("ing.", -0.2)]
    assert tokens[0].bytes == [76, 111, 111, 107]
    assert tokens[1].top_logprobs[0].token == "x"


@pytest.mark.parametrize(("source", "answer"), [("chat", CHAT), ("messages", MESSAGE)])
def test_the_openai_client_reads_either_as_a_completion(openai_client, source, answer) -> None:
    client = openai_client(translated(source, "completions", answer))
    completion = client.completions.create(model="asked", prompt="x")
    assert (completion.id, completion.choices[0].text) == ("cmpl-1", "Looking.")
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage.prompt_tokens == 100


def test_log_probabilities_reach_a_completion_as_parallel_lists(openai_client) -> None:
    client = openai_client(translated("chat", "completions", CHAT))
    logprobs = client.completions.create(model="asked", prompt="x").choices[0].logprobs
    assert logprobs.tokens == ["Look", "ing."]
    assert logprobs.token_logprobs == [-0.1, -0.2]
    assert logprobs.top_logprobs == [{}, {"x": -3.0}]
    assert logprobs.text_offset == [0, 4]


@pytest.mark.parametrize(
    ("finish", "message", "stop"),
    [
        ("stop", {"content": "x"}, "end_turn"),
        ("length", {"content": "x"}, "max_tokens"),
        ("content_filter", {"content": "x"}, "refusal"),
        ("stop", {"refusal": "no"}, "refusal"),
        ("stop", {"tool_calls": [{"id": "a", "function": {"name": "f"}}]}, "tool_use"),
        (None, {"content": "x"}, "end_turn"),
        ("eos", {"content": "x"}, "end_turn"),
    ],
)
def test_every_finish_reason_has_its_stop_reason(finish, message, stop) -> None:
    out = json.loads(translated("chat", "messages", chat(finish, **message)))
    assert out["stop_reason"] == stop


@pytest.mark.parametrize(
    ("stop", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        ("something new", "stop"),
        (None, "stop"),
    ],
)
def test_every_stop_reason_has_its_finish_reason(stop, finish) -> None:
    out = json.loads(translated("messages", "chat", {**MESSAGE, "stop_reason": stop}))
    assert out["choices"][0]["finish_reason"] == finish


def test_a_refusal_keeps_its_explanation() -> None:
    details = {"type": "refusal", "category": "cyber", "explanation": "Not that."}
    refused = {**MESSAGE, "content": [], "stop_reason": "refusal", "stop_details": details}
    message = json.loads(translated("messages", "chat", refused))["choices"][0]["message"]
    assert (message["content"], message["refusal"]) == (None, "Not that.")


@pytest.mark.parametrize(
    ("finish", "status", "reason"),
    [("length", "incomplete", "max_output_tokens"), ("content_filter", "incomplete",
     "content_filter"), ("stop", "completed", None)],
)  # fmt: skip
def test_a_response_says_whether_it_is_complete(finish, status, reason) -> None:
    out = json.loads(translated("chat", "responses", chat(finish, content="x")))
    assert out["status"] == status
    assert (out["incomplete_details"] or {}).get("reason") == reason
    assert out["usage"] is None


def test_a_refusal_reaches_a_response() -> None:
    out = json.loads(translated("chat", "responses", chat("stop", refusal="no")))
    assert out["output"][0]["content"] == [{"type": "refusal", "refusal": "no"}]


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b'{"choices": []}', b'{"choices": "x"}', b'{"choices": [5]}',
     b'{"choices": [{"message": 5}]}', b'{"choices": [{"message": {"tool_calls": [5]}}]}',
     b'{"choices":[{"message":{"tool_calls":[{"function":{"name":"f","arguments":"{"}}]}}]}',
     b"[" * 100_000],
)  # fmt: skip
def test_an_answer_that_is_none_is_a_broken_backend(body: bytes) -> None:
    with pytest.raises(BackendBroken, match=r"\.$"):
        translate_response("chat", "messages", body, "asked")


def test_within_one_dialect_an_answer_stays_as_it_came() -> None:
    body = b'{ "id" : 1.50 }'
    assert translate_response("chat", "chat", body, "asked") is body
    with pytest.raises(Untranslatable, match="No answer of `embeddings`"):
        translate_response("embeddings", "chat", body, "asked")
