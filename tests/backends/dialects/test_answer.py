"""What is read of answers: texts, calls, log-probabilities, refusals, and tokens consumed."""

import json
from typing import Any

import pytest

from twin.backends.dialects import answer_of, usage_of
from twin.errors import BackendBroken
from twin.records import Answer, ToolCall, Usage


def answer(dialect: Any, whole: dict[str, Any]) -> Answer:
    return answer_of(dialect, json.dumps(whole).encode())


def chat(message: dict[str, Any], finish: str | None = "stop", **more: Any) -> dict[str, Any]:
    return {"choices": [{"message": message, "finish_reason": finish, **more}]}


def test_a_chat_answer() -> None:
    call = {"id": "c", "function": {"name": "f", "arguments": '{"a":'}}
    logprobs = {"content": [{"token": "a", "logprob": -0.1}, {"token": "b", "logprob": 0}]}
    whole = chat({"content": "hi", "tool_calls": [call]}, "tool_calls", logprobs=logprobs)
    assert answer("chat", {**whole, "usage": {"completion_tokens": 9}}) == Answer(
        text="hi",
        tool_calls=(ToolCall(name="f", arguments='{"a":', call_id="c"),),
        finish_reason="tool_calls",
        logprobs=(-0.1, 0.0),
        num_completion_tokens=9,
    )


@pytest.mark.parametrize(
    ("dialect", "whole", "text", "finish", "is_refusal"),
    [
        ("chat", chat({"content": None, "refusal": "no"}), "no", "stop", True),
        ("chat", chat({"content": "x"}, "content_filter"), "x", "content_filter", True),
        ("chat", chat({"content": [{"type": "text", "text": "x"}]}), "x", "stop", False),
        ("chat", chat({"content": "I cannot"}, None), "I cannot", "", False),
        ("completions", {"choices": [{"text": "x", "finish_reason": "length"}]}, "x", "length",
         False),
        ("messages", {"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
                      "stop_reason": "max_tokens"}, "ab", "length", False),
        ("messages", {"content": [], "stop_reason": "refusal"}, "", "content_filter", True),
        ("messages", {"content": [], "stop_reason": None}, "", "", False),
        ("responses", {"status": "completed", "output": [{"type": "message", "content": [
            {"type": "output_text", "text": "x"}]}]}, "x", "stop", False),
        ("responses", {"status": "completed", "output": [{"type": "message", "content": [
            {"type": "refusal", "refusal": "no"}]}]}, "no", "stop", True),
        ("responses", {"status": "incomplete", "output": [],
                       "incomplete_details": {"reason": "max_output_tokens"}}, "", "length", False),
        ("responses", {"status": "in_progress", "output": []}, "", "", False),
        ("embeddings", {"data": []}, "", "", False),
    ],
)  # fmt: skip
def test_the_text_and_how_it_ended(dialect, whole, text, finish, is_refusal) -> None:
    found = answer(dialect, whole)
    assert (found.text, found.finish_reason, found.is_refusal) == (text, finish, is_refusal)


@pytest.mark.parametrize(
    ("dialect", "whole"),
    [
        ("messages", {"content": [{"type": "tool_use", "id": "c", "name": "f",
                                   "input": {"a": 1}}]}),
        ("responses", {"status": "completed", "output": [
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"a":1}'}]}),
        ("chat", chat({"tool_calls": [{"id": "c", "function": {"name": "f",
                                                               "arguments": '{"a":1}'}}]})),
    ],
)  # fmt: skip
def test_tool_calls_are_the_same_in_every_dialect(dialect, whole) -> None:
    assert answer(dialect, whole).tool_calls == (
        ToolCall(name="f", arguments='{"a":1}', call_id="c"),
    )


def test_log_probabilities_of_the_other_openai_dialects() -> None:
    old = {"choices": [{"text": "x", "logprobs": {"token_logprobs": [None, -0.5]}}]}
    assert answer("completions", old).logprobs == (-0.5,)
    part = {"type": "output_text", "text": "x", "logprobs": [{"token": "x", "logprob": -1}]}
    whole = {"status": "completed", "output": [{"type": "message", "content": [part]}]}
    assert answer("responses", whole).logprobs == (-1.0,)
    assert answer("chat", chat({"content": "x"})).logprobs is None


def test_tokens_are_estimated_where_nobody_counted() -> None:
    assert answer("chat", chat({"content": "x" * 9})).num_completion_tokens == 3
    assert answer("chat", chat({"content": "", "reasoning": "x" * 8})).num_completion_tokens == 2


@pytest.mark.parametrize("dialect", ["chat", "completions", "messages", "responses"])
@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b'{"choices":[],"content":5,"output":[5]}']
)
def test_what_is_no_answer_is_a_broken_backend(dialect, body) -> None:
    with pytest.raises(BackendBroken, match=r"\.$"):
        answer_of(dialect, body)


OPENAI = {
    "prompt_tokens": 10,
    "completion_tokens": 5,
    "prompt_tokens_details": {"cached_tokens": 4},
}
ANTHROPIC = {"input_tokens": 3, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 2,
             "output_tokens": 5}  # fmt: skip
RESPONSES = {"input_tokens": 10, "output_tokens": 5, "input_tokens_details": {"cached_tokens": 4}}


@pytest.mark.parametrize(
    ("dialect", "usage", "cached"),
    [("chat", OPENAI, 4), ("completions", OPENAI, 4), ("messages", ANTHROPIC, 5),
     ("responses", RESPONSES, 4), ("chat", {"prompt_tokens": 10, "completion_tokens": 5,
                                            "prompt_cache_hit_tokens": 4}, 4)],
)  # fmt: skip
def test_prompt_tokens_include_the_cached_ones_in_every_dialect(dialect, usage, cached) -> None:
    body = json.dumps({"id": "x", "output": [{"usage": 7}], "usage": usage}).encode()
    assert usage_of(dialect, body, False) == Usage(
        num_prompt_tokens=10, num_completion_tokens=5, num_cached_tokens=cached
    )


def stream(*payloads: dict[str, Any]) -> bytes:
    return b"".join(b"data: %s\n\n" % json.dumps(each).encode() for each in payloads)


def test_the_usage_of_streams_is_at_their_ends() -> None:
    text = {"choices": [{"delta": {"content": 'say "usage": {"prompt_tokens": 99}'}}]}
    last = {"choices": [], "usage": OPENAI}
    found = usage_of("chat", stream(text, last, text) + b"data: [DONE]\n\n", True)
    assert found == Usage(num_prompt_tokens=10, num_completion_tokens=5, num_cached_tokens=4)
    sums = stream(
        {"type": "message_start", "message": {"usage": {**ANTHROPIC, "output_tokens": 1}}},
        {"type": "content_block_delta", "delta": {"text": '"usage"'}},
        {"type": "message_delta", "usage": {"output_tokens": 5}},
        {"type": "message_stop"},
    )
    assert usage_of("messages", sums, True) == Usage(
        num_prompt_tokens=10, num_completion_tokens=5, num_cached_tokens=5
    )
    corrected = stream(
        {"type": "message_start", "message": {"usage": {"input_tokens": 0, "output_tokens": 0}}},
        {"type": "message_delta", "usage": ANTHROPIC},
    )
    assert usage_of("messages", corrected, True) == usage_of("messages", sums, True)
    completed = stream({"type": "response.completed", "response": {"usage": RESPONSES}})
    assert usage_of("responses", completed, True) == found


def test_a_message_stream_that_broke_off_still_tells_its_prompt() -> None:
    sse = stream({"type": "message_start", "message": {"usage": ANTHROPIC}})
    assert usage_of("messages", sse, True).num_prompt_tokens == 10


@pytest.mark.parametrize(
    ("body", "is_stream"),
    [
        (b"", False), (b"<html>", False), (b"[]", False), (b'{"usage": null}', False),
        (b'{"usage": {"prompt_tokens": "many"}}', False), (b"[" * 100_000, False),
        (b"", True), (b"data: [DONE]\n\n", True), (b'data: {"usage": null}\n\n' * 50, True),
        (b'data: {"usage": 5}\n\n', True), (b'event: "usage"\n\n', True),
        (b'data: {"usage": {"prompt_tokens": 1', True),
    ],
)  # fmt: skip
def test_usage_that_is_not_told_or_not_readable_is_none(body: bytes, is_stream: bool) -> None:
    assert usage_of("chat", body, is_stream) is None
    assert usage_of("messages", body, is_stream) is None


def test_impossible_counts_stay_within_bounds() -> None:
    body = b'{"usage": {"prompt_tokens": -5, "completion_tokens": 99999999999999999999}}'
    assert usage_of("chat", body, False) == Usage(num_prompt_tokens=0, num_completion_tokens=10**12)


def test_thinking_counts_where_tokens_are_estimated_and_is_no_text() -> None:
    thinking = {"content": [{"type": "thinking", "thinking": "x" * 8}], "stop_reason": "end_turn"}
    found = answer("messages", thinking)
    assert (found.text, found.num_completion_tokens) == ("", 2)
    summary = [{"type": "summary_text", "text": "x" * 8}]
    item = {"type": "reasoning", "summary": summary}
    found = answer("responses", {"status": "completed", "output": [item]})
    assert (found.text, found.num_completion_tokens) == ("", 2)


def test_the_old_function_call_is_a_tool_call() -> None:
    whole = chat({"function_call": {"name": "f", "arguments": "{}"}}, "function_call")
    assert answer("chat", whole).tool_calls == (ToolCall(name="f", arguments="{}"),)
