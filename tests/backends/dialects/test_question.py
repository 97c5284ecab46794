"""What a request asks, read alike from every dialect."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.backends.dialects import question
from twin.errors import BadRequest
from twin.records import Question

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1000}}


def asked(dialect: Any, **request: Any) -> Question:
    return question(dialect, json.dumps(request).encode())


@pytest.mark.parametrize(
    ("dialect", "request_"),
    [
        ("chat", {"messages": [
            {"role": "system", "content": "be"}, {"role": "developer", "content": "kind"},
            {"role": "user", "content": "one"}, {"role": "assistant", "content": "two"},
            {"role": "user", "content": [{"type": "text", "text": "three"}]}]}),
        ("messages", {"system": [{"type": "text", "text": "be"}, {"type": "text", "text": "kind"}],
                      "messages": [
            {"role": "user", "content": "one"}, {"role": "assistant", "content": "two"},
            {"role": "user", "content": [{"type": "text", "text": "three"}]}]}),
        ("responses", {"instructions": "be", "input": [
            {"role": "developer", "content": "kind"},
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": [{"type": "output_text", "text": "two"}]},
            {"role": "user", "content": [{"type": "input_text", "text": "three"}]}]}),
    ],
)  # fmt: skip
def test_a_conversation_is_read_alike_in_three_dialects(dialect, request_) -> None:
    found = asked(dialect, **request_)
    assert found.text == "three"
    assert found.system.split() == ["be", "kind"]
    assert found.num_messages == 3
    assert found.num_chars == len(found.system) + len("onetwothree")
    assert found.num_prompt_tokens == (found.num_chars + 3) // 4
    flags = (found.has_tools, found.has_tool_results, found.has_images, found.wants_json)
    assert flags == (False, False, False, False)


def test_a_string_is_one_user_message() -> None:
    assert asked("responses", input="hi").text == "hi"
    assert asked("completions", prompt="hi").text == "hi"
    assert asked("completions", prompt=["a", "bc"]).num_chars == 3
    assert asked("embeddings", input=["a", "bc"]).text == "bc"
    assert asked("embeddings", input=[1, 2, 3]).num_prompt_tokens == 3


@pytest.mark.parametrize(
    ("dialect", "request_"),
    [
        ("chat", {"messages": [
            {"role": "user", "content": "go"},
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "c", "content": "done"}]}),
        ("messages", {"messages": [
            {"role": "user", "content": "go"},
            {"role": "assistant", "content": [{"type": "tool_use", "name": "f", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "content": "done"}]}]}),
        ("responses", {"input": [
            {"role": "user", "content": "go"},
            {"type": "function_call", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "output": "done"}]}),
    ],
)  # fmt: skip
def test_an_agent_at_work_is_seen(dialect, request_) -> None:
    found = asked(dialect, tools=[{"name": "f", "description": "x" * 400}], **request_)
    assert found.has_tools
    assert found.has_tool_results
    assert found.num_prompt_tokens > 100 > found.num_chars >= len("godone")
    assert found.text == "go", "in every dialect, whatever brings the results"


@pytest.mark.parametrize(
    ("dialect", "content"),
    [
        ("chat", [IMAGE]),
        ("messages", [{"type": "image", "source": {"type": "base64", "data": "A" * 1000}}]),
        ("messages", [{"type": "tool_result", "content": [{"type": "image", "source": {}}]}]),
        ("responses", [{"type": "input_image", "image_url": "https://e.org/x.png"}]),
    ],
)
def test_images_are_seen_and_not_counted_as_text(dialect, content) -> None:
    messages = [{"role": "user", "content": content}]
    found = asked(dialect, **{"input" if dialect == "responses" else "messages": messages})
    assert found.has_images
    assert found.num_chars == 0


@pytest.mark.parametrize(
    ("dialect", "request_"),
    [
        ("chat", {"response_format": {"type": "json_object"}}),
        ("chat", {"response_format": {"type": "json_schema", "json_schema": {}}}),
        ("responses", {"text": {"format": {"type": "json_schema"}}}),
        ("messages", {"output_config": {"format": {"type": "json_schema"}}}),
    ],
)
def test_a_wish_for_json_is_seen(dialect, request_) -> None:
    assert asked(dialect, **request_).wants_json
    assert not asked(dialect, response_format={"type": "text"}, text={}).wants_json


def test_the_bound_is_told() -> None:
    assert asked("chat", max_completion_tokens=5).max_tokens == 5
    assert asked("responses", max_output_tokens=6).max_tokens == 6
    assert asked("messages", max_tokens=7).max_tokens == 7
    assert asked("chat").max_tokens is None


@pytest.mark.parametrize("body", [b"", b"[]", b'{"a": "\xff"}', b'{"a":' + b"[" * 100_000])
def test_what_cannot_be_read_is_a_bad_request(body: bytes) -> None:
    with pytest.raises(BadRequest):
        question("chat", body)


ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["user", "x"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["role", "content", "type", "text", "messages", "input", "tool_calls",
                         "function", "output", "system", "format", "prompt"]),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@given(
    st.dictionaries(
        st.sampled_from(["messages", "system", "input", "instructions", "prompt", "tools", "text",
                         "response_format", "output_config", "max_tokens"]),
        ANY,
    ),
    st.sampled_from(["chat", "messages", "responses", "completions", "embeddings"]),
)  # fmt: skip
def test_any_object_is_some_question(request_: dict[str, Any], dialect: Any) -> None:
    found = asked(dialect, **request_)
    assert found.num_chars >= 0
    assert isinstance(found.text, str)
