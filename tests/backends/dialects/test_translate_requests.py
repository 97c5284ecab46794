"""Requests said in another dialect's words, case by case."""

import json
from typing import Any

import pytest

from twin.backends.dialects import translate_request

PNG = "iVBORw0KGgo="
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
ASK = [{"role": "user", "content": "hi"}]


def translated(source: Any, target: Any, request: dict[str, Any]) -> dict[str, Any]:
    return json.loads(translate_request(source, target, json.dumps(request).encode()))


def from_chat(**fields: Any) -> dict[str, Any]:
    return translated("chat", "messages", {"model": "m", "messages": ASK, **fields})


def to_chat(**fields: Any) -> dict[str, Any]:
    return translated(
        "messages", "chat", {"model": "m", "messages": ASK, "max_tokens": 5, **fields}
    )


def responses(**fields: Any) -> dict[str, Any]:
    return translated("responses", "chat", {"model": "m", **fields})


def test_a_chat_request_in_anthropics_words() -> None:
    request = {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Compare."},
                    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
                    {"type": "image_url", "image_url": {"url": "https://e.org/x.png"}},
                    {
                        "type": "file",
                        "file": {
                            "filename": "a.pdf",
                            "file_data": f"data:application/pdf;base64,{PNG}",
                        },
                    },
                ],
            },
            {
                "role": "assistant",
                "content": "Looking.",
                "tool_calls": [
                    {
                        "id": "c1",
                        "type": "function",
                        "function": {"name": "look", "arguments": '{"at": 1}'},
                    },
                    {"id": "c2", "type": "function", "function": {"name": "see", "arguments": ""}},
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "red"},
            {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "blue"}]},
            {"role": "user", "content": "So?"},
        ],
        "max_completion_tokens": 50,
        "temperature": 1.5,
        "top_p": 0.9,
        "stop": ["END"],
        "stream": True,
        "stream_options": {"include_usage": True},
        "user": "u1",
        "seed": 3,
        "reasoning_effort": "minimal",
        "parallel_tool_calls": False,
        "tool_choice": {"type": "function", "function": {"name": "look"}},
        "tools": [
            {
                "type": "function",
                "function": {"name": "look", "description": "d", "parameters": SCHEMA},
            },
            {"type": "function", "function": {"name": "see", "strict": True}},
        ],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "n", "schema": SCHEMA, "strict": True},
        },
    }
    assert translated("chat", "messages", request) == {
        "model": "m",
        "max_tokens": 50,
        "system": [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Be kind."}],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Compare."},
                    {
                        "type": "image",
                        "source": {"type": "base64", "media_type": "image/png", "data": PNG},
                    },
                    {"type": "image", "source": {"type": "url", "url": "https://e.org/x.png"}},
                    {
                        "type": "document",
                        "source": {"type": "base64", "media_type": "application/pdf", "data": PNG},
                        "title": "a.pdf",
                    },
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "Looking."},
                    {"type": "tool_use", "id": "c1", "name": "look", "input": {"at": 1}},
                    {"type": "tool_use", "id": "c2", "name": "see", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c1", "content": "red"},
                    {
                        "type": "tool_result",
                        "tool_use_id": "c2",
                        "content": [{"type": "text", "text": "blue"}],
                    },
                ],
            },
            {"role": "user", "content": "So?"},
        ],
        "stream": True,
        "stop_sequences": ["END"],
        "metadata": {"user_id": "u1"},
        "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}},
        "tools": [
            {"name": "look", "description": "d", "input_schema": SCHEMA},
            {"name": "see", "strict": True, "input_schema": {"type": "object", "properties": {}}},
        ],
        "tool_choice": {"type": "tool", "name": "look", "disable_parallel_tool_use": True},
    }


def test_an_anthropic_request_in_chats_words() -> None:
    request = {
        "model": "m",
        "max_tokens": 50,
        "system": [
            {"type": "text", "text": "One.", "cache_control": {"type": "ephemeral"}},
            {"type": "text", "text": "Two."},
        ],
        "messages": [
            {"role": "user", "content": "Look."},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "s"},
                    {"type": "text", "text": "Looking."},
                    {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": 1}},
                    {"type": "tool_use", "id": "t2", "name": "see", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "t1",
                        "content": [
                            {"type": "text", "text": "red"},
                            {
                                "type": "image",
                                "source": {
                                    "type": "base64",
                                    "media_type": "image/png",
                                    "data": PNG,
                                },
                            },
                        ],
                    },
                    {
                        "type": "tool_result",
                        "tool_use_id": "t2",
                        "content": "no such file",
                        "is_error": True,
                    },
                    {"type": "text", "text": "So?"},
                ],
            },
        ],
        "stop_sequences": ["END"],
        "temperature": 0.2,
        "stream": True,
        "metadata": {"user_id": "u1"},
        "thinking": {"type": "adaptive"},
        "output_config": {"effort": "high", "format": {"type": "json_schema", "schema": SCHEMA}},
        "tools": [{"name": "look", "description": "d", "input_schema": SCHEMA}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
    }
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    assert translated("messages", "chat", request) == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "One.\n\nTwo."},
            {"role": "user", "content": "Look."},
            {
                "role": "assistant",
                "content": "Looking.",
                "tool_calls": [
                    {
                        "id": "t1",
                        "type": "function",
                        "function": {"name": "look", "arguments": '{"at":1}'},
                    },
                    {
                        "id": "t2",
                        "type": "function",
                        "function": {"name": "see", "arguments": "{}"},
                    },
                ],
            },
            {
                "role": "tool",
                "tool_call_id": "t1",
                "content": "red\n\n(The image is in the next message.)",
            },
            {"role": "tool", "tool_call_id": "t2", "content": "Error: no such file"},
            {"role": "user", "content": [image, {"type": "text", "text": "So?"}]},
        ],
        "max_tokens": 50,
        "temperature": 0.2,
        "stop": ["END"],
        "stream": True,
        "stream_options": {"include_usage": True},
        "user": "u1",
        "reasoning_effort": "high",
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
        },
        "tools": [
            {
                "type": "function",
                "function": {"name": "look", "description": "d", "parameters": SCHEMA},
            }
        ],
        "tool_choice": "required",
        "parallel_tool_calls": False,
    }


def test_a_responses_request_in_chats_words() -> None:
    request = {
        "model": "gpt-x",
        "instructions": "Be brief.",
        "input": [
            {"role": "developer", "content": "Be kind."},
            {
                "type": "message",
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "Look."},
                    {"type": "input_image", "image_url": "https://e.org/x.png", "detail": "low"},
                ],
            },
            {"type": "reasoning", "id": "rs", "summary": []},
            {
                "type": "message",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "Looking.", "annotations": []}],
            },
            {"type": "function_call", "call_id": "c1", "name": "look", "arguments": '{"at":1}'},
            {"type": "function_call", "call_id": "c2", "name": "see", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "red"},
            {
                "type": "function_call_output",
                "call_id": "c2",
                "output": [{"type": "input_text", "text": "blue"}],
            },
        ],
        "max_output_tokens": 50,
        "reasoning": {"effort": "low", "summary": "auto"},
        "store": True,
        "stream": True,
        "parallel_tool_calls": True,
        "text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True}},
        "tools": [{"type": "function", "name": "look", "parameters": SCHEMA, "strict": True}],
        "tool_choice": {"type": "function", "name": "look"},
        "include": ["message.output_text.logprobs"],
    }
    look = {"url": "https://e.org/x.png", "detail": "low"}
    assert translated("responses", "chat", request) == {
        "model": "gpt-x",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": "Be kind."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Look."},
                    {"type": "image_url", "image_url": look},
                ],
            },
            {
                "role": "assistant",
                "content": "Looking.",
                "tool_calls": [
                    {
                        "id": "c1",
                        "type": "function",
                        "function": {"name": "look", "arguments": '{"at":1}'},
                    },
                    {
                        "id": "c2",
                        "type": "function",
                        "function": {"name": "see", "arguments": "{}"},
                    },
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "red"},
            {"role": "tool", "tool_call_id": "c2", "content": "blue"},
        ],
        "max_completion_tokens": 50,
        "parallel_tool_calls": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        "reasoning_effort": "low",
        "logprobs": True,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "n", "schema": SCHEMA, "strict": True},
        },
        "tools": [
            {
                "type": "function",
                "function": {"name": "look", "parameters": SCHEMA, "strict": True},
            }
        ],
        "tool_choice": {"type": "function", "function": {"name": "look"}},
    }


def test_a_responses_request_reaches_anthropic_by_way_of_chat() -> None:
    request = {"model": "m", "instructions": "Be brief.", "input": "hi", "max_output_tokens": 9}
    assert translated("responses", "messages", request) == {
        "model": "m",
        "max_tokens": 9,
        "system": "Be brief.",
        "messages": ASK,
    }


def test_a_prompt_becomes_a_user_message() -> None:
    request = {"model": "m", "prompt": ["hi"], "max_tokens": 4, "logprobs": 2, "n": 2, "stop": "E"}
    assert translated("completions", "chat", request) == {
        "model": "m",
        "messages": ASK,
        "n": 2,
        "stop": "E",
        "max_tokens": 4,
        "logprobs": True,
        "top_logprobs": 2,
    }


def test_anthropic_gets_a_bound_where_the_caller_gave_none() -> None:
    assert from_chat()["max_tokens"] == 8192
    assert from_chat(max_tokens=3)["max_tokens"] == 3


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", {"type": "auto"}),
        ("none", {"type": "none"}),
        ("required", {"type": "any"}),
        ({"type": "function", "function": {"name": "f"}}, {"type": "tool", "name": "f"}),
    ],
)
def test_every_tool_choice_has_its_word(choice: Any, expected: dict[str, Any]) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}]
    assert from_chat(tools=tools, tool_choice=choice)["tool_choice"] == expected
    back = to_chat(tools=[{"name": "f", "input_schema": SCHEMA}], tool_choice=expected)
    assert back["tool_choice"] == choice
    assert back["tools"] == tools


def test_allowed_tools_are_all_that_anthropic_gets_to_see() -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in "ab"]
    allowed = {"mode": "required", "tools": [tools[1]]}
    out = from_chat(tools=tools, tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    assert [tool["name"] for tool in out["tools"]] == ["b"]
    assert out["tool_choice"] == {"type": "any"}


def test_sampling_is_left_to_anthropics_models_which_refuse_to_be_told() -> None:
    assert from_chat(temperature=1, top_p=0.9, top_k=5) == from_chat()


def test_json_without_a_schema_becomes_an_instruction() -> None:
    out = from_chat(response_format={"type": "json_object"})
    assert out["system"] == "Answer with one JSON object and nothing else."


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("gpt-5.1", "max_completion_tokens"),
        ("o4-mini", "max_completion_tokens"),
        ("openai/gpt-5", "max_completion_tokens"),
        ("gpt-oss-20b", "max_tokens"),
        ("openai/gpt-oss-20b", "max_tokens"),
        ("qwen3-4b", "max_tokens"),
        ("olmo", "max_tokens"),
    ],
)
def test_the_bound_has_the_name_that_the_model_takes(model: str, name: str) -> None:
    assert to_chat(model=model)[name] == 5


def test_an_empty_assistant_turn_is_left_out_for_anthropic_which_refuses_it() -> None:
    messages = [*ASK, {"role": "assistant", "content": ""}, {"role": "user", "content": "go"}]
    assert from_chat(messages=messages)["messages"] == [*ASK, {"role": "user", "content": "go"}]


def test_images_in_a_tools_output_follow_in_a_user_message() -> None:
    shot = [{"type": "input_image", "image_url": "https://e.org/x.png"}]
    out = responses(
        input=[
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": shot},
        ]
    )
    image = {"type": "image_url", "image_url": {"url": "https://e.org/x.png"}}
    assert out["messages"][1]["content"] == "(The image is in the next message.)"
    assert out["messages"][2] == {"role": "user", "content": [image]}


def blocks(*content: Any, role: str = "user") -> dict[str, Any]:
    return {"messages": [{"role": role, "content": list(content)}]}


def test_documents_of_text_become_text() -> None:
    source = {"type": "text", "media_type": "text/plain", "data": "body"}
    out = to_chat(**blocks({"type": "document", "title": "T", "source": source}))
    assert out["messages"][0]["content"] == [
        {"type": "text", "text": "T"},
        {"type": "text", "text": "body"},
    ]


def test_within_one_dialect_nothing_changes() -> None:
    body = b'{ "anything" : [1.50] }'
    assert translate_request("chat", "chat", body) is body


@pytest.mark.parametrize(
    ("block", "part"),
    [
        (
            {"type": "image", "source": {"type": "url", "url": "https://e.org/x.png"}},
            {"type": "image_url", "image_url": {"url": "https://e.org/x.png"}},
        ),
        (
            {
                "type": "document",
                "title": "a.pdf",
                "source": {"type": "base64", "media_type": "application/pdf", "data": PNG},
            },
            {
                "type": "file",
                "file": {
                    "filename": "a.pdf",
                    "file_data": f"data:application/pdf;base64,{PNG}",
                },
            },
        ),
        (
            {
                "type": "search_result",
                "title": "T",
                "source": "https://e.org",
                "content": [{"type": "text", "text": "found"}],
            },
            {"type": "text", "text": "T (https://e.org)\nfound"},
        ),
    ],
)
def test_every_block_that_chat_can_hold_has_its_part(block: Any, part: Any) -> None:
    found = to_chat(**blocks(block, {"type": "text", "text": "x"}))["messages"][0]["content"]
    assert found[0] == part


def test_a_system_message_in_the_middle_stays_there_in_chat() -> None:
    messages = [*ASK, {"role": "system", "content": [{"type": "text", "text": "now"}]}]
    assert to_chat(messages=messages)["messages"] == [*ASK, {"role": "system", "content": "now"}]


def test_a_refusal_in_the_history_is_text_for_anthropic_and_a_refusal_for_chat() -> None:
    messages = [*ASK, {"role": "assistant", "content": None, "refusal": "No."}]
    assert from_chat(messages=messages)["messages"][1]["content"] == "No."
    part = {"type": "refusal", "refusal": "No."}
    out = responses(input=[{"role": "assistant", "content": [part]}])
    assert out["messages"] == [{"role": "assistant", "content": [part]}]


def test_an_assistant_turn_of_thinking_alone_stays_a_turn() -> None:
    turn = {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "x"}]}
    assert to_chat(messages=[*ASK, turn])["messages"][1] == {"role": "assistant", "content": ""}


def test_what_else_a_responses_request_may_say() -> None:
    file = {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,"}
    tools = [{"type": "function", "name": "f", "parameters": SCHEMA}]
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [tools[0]]}
    shot = [{"type": "input_image", "image_url": "https://e.org/x.png"}]
    out = responses(
        input=[
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": ""},
            {"type": "function_call_output", "call_id": "c", "output": shot},
            {"role": "user", "content": [file, {"type": "input_text", "text": "x"}]},
        ],
        tools=tools,
        tool_choice=allowed,
        top_logprobs=2,
        text={"format": {"type": "json_object"}, "verbosity": "low"},
    )
    assert [message["role"] for message in out["messages"]] == ["assistant", "tool", "user", "user"]
    assert out["messages"][0]["tool_calls"][0]["function"]["arguments"] == "{}"
    assert out["messages"][3]["content"][0]["file"]["filename"] == "a.pdf"
    assert (out["logprobs"], out["top_logprobs"]) == (True, 2)
    assert (out["response_format"], out["verbosity"]) == ({"type": "json_object"}, "low")
    names = {"mode": "required", "tools": [{"type": "function", "function": {"name": "f"}}]}
    assert out["tool_choice"] == {"type": "allowed_tools", "allowed_tools": names}
    assert responses(input="x", tools=tools, tool_choice="required")["tool_choice"] == "required"
