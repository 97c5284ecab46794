"""What has no words in another dialect is refused; what has them comes back as it went."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.backends.dialects import can_translate, translate_request
from twin.errors import BadRequest, Untranslatable

PNG = "iVBORw0KGgo="
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


def chat_message(**message: Any) -> dict[str, Any]:
    return {"messages": [message]}


def parts(*content: Any) -> dict[str, Any]:
    return chat_message(role="user", content=list(content))


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2},
        {"logprobs": True},
        {"logit_bias": {"5": 1}},
        {"functions": [{}]},
        {"modalities": ["text", "audio"]},
        {"web_search_options": {"search_context_size": "low"}},
        {"stop": [" "]},
        {"stop": 5},
        {"messages": "hi"},
        {"messages": ["hi"]},
        {"tools": [{"type": "custom", "custom": {"name": "x"}}]},
        {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "some"},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}},
        chat_message(role="critic", content="x"),
        chat_message(role="user", content=5),
        chat_message(role="assistant", function_call={"name": "f", "arguments": ""}),
        chat_message(role="assistant", audio={"id": "a"}),
        chat_message(role="assistant", tool_calls=[{"type": "custom", "custom": {}}]),
        chat_message(role="assistant", tool_calls=[{"function": {"name": "f", "arguments": "{"}}]),
        chat_message(role="assistant", tool_calls=[{"function": {"name": "f", "arguments": "[]"}}]),
        parts({"type": "input_audio", "input_audio": {}}),
        parts({"type": "text"}),
        parts({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}),
        parts({"type": "file", "file": {"file_id": "f"}}),
        parts({"type": "file", "file": {"file_data": "data:text/csv;base64,YQ=="}}),
    ],
)
def test_what_anthropic_has_no_words_for_is_refused_with_a_sentence(fields: dict[str, Any]) -> None:
    with pytest.raises(Untranslatable, match=r"; [a-z].*\.$"):
        from_chat(**fields)


def blocks(*content: Any, role: str = "user") -> dict[str, Any]:
    return {"messages": [{"role": role, "content": list(content)}]}


@pytest.mark.parametrize(
    "fields",
    [
        {"container": "c"},
        {"mcp_servers": [{"url": "x"}]},
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        {"tools": [{"name": "f"}], "tool_choice": {"type": "some"}},
        {"messages": [{"role": "critic", "content": "x"}]},
        blocks({"type": "image", "source": {"type": "file", "file_id": "f"}}),
        blocks({"type": "document", "source": {"type": "url", "url": "https://e.org/a.pdf"}}),
        blocks({"type": "container_upload", "file_id": "f"}),
        blocks({"type": "server_tool_use", "id": "s", "name": "n", "input": {}}, role="assistant"),
    ],
)
def test_what_chat_has_no_words_for_is_refused_with_a_sentence(fields: dict[str, Any]) -> None:
    with pytest.raises(Untranslatable, match=r"; [a-z].*\.$"):
        to_chat(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"previous_response_id": "r", "input": "x"},
        {"conversation": "c", "input": "x"},
        {"prompt": {"id": "p"}},
        {"background": True, "input": "x"},
        {"input": [{"type": "item_reference", "id": "i"}]},
        {"input": [{"type": "custom_tool_call", "call_id": "c"}]},
        {"input": [{"role": "critic", "content": "x"}]},
        {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
        {"input": [{"role": "user", "content": [{"type": "input_audio"}]}]},
        {"input": "x", "tools": [{"type": "web_search"}]},
        {
            "input": "x",
            "tools": [{"type": "function", "name": "f"}],
            "tool_choice": {"type": "mcp"},
        },
    ],
)
def test_what_is_kept_or_run_at_the_provider_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(Untranslatable, match=r"; [a-z].*\.$"):
        responses(**fields)


@pytest.mark.parametrize(
    "fields",
    [{"prompt": [1, 2]}, {"prompt": ["a", "b"]}, {"prompt": "a", "suffix": "b"},
     {"prompt": "a", "echo": True}, {"prompt": "a", "best_of": 3}],
)  # fmt: skip
def test_what_only_the_old_endpoint_can_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(Untranslatable):
        translated("completions", "chat", {"model": "m", **fields})


def test_pairs_without_a_way_are_named() -> None:
    assert can_translate("responses", "messages")
    assert not can_translate("embeddings", "messages")
    assert not can_translate("chat", "responses")
    with pytest.raises(Untranslatable, match="No request of `embeddings`"):
        translate_request("embeddings", "chat", b"{}")


TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
NAMES = st.sampled_from(["look", "see", "go"])
ARGUMENTS = st.dictionaries(TEXT, TEXT | st.integers(-9, 9) | st.none(), max_size=2)
CALLS = st.lists(st.tuples(NAMES, ARGUMENTS), min_size=1, max_size=3)
IMAGE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
USER_PARTS = st.lists(st.just(IMAGE) | TEXT.map(lambda text: {"type": "text", "text": text}),
                      min_size=2, max_size=3)  # fmt: skip
TURNS = st.lists(
    st.one_of(
        st.tuples(st.just("user"), TEXT | USER_PARTS),
        st.tuples(st.just("assistant"), TEXT),
        st.tuples(st.just("calls"), CALLS, st.none() | TEXT),
    ),
    min_size=1,
    max_size=6,
)


def conversation(system: str | None, turns: list[Any]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    for number, (kind, what, *more) in enumerate(turns):
        if kind != "calls":
            messages.append({"role": kind, "content": what})
            continue
        ids = [f"call_{number}_{place}" for place in range(len(what))]
        calls = [
            {"id": call_id, "type": "function",
             "function": {"name": name, "arguments": json.dumps(arguments)}}
            for call_id, (name, arguments) in zip(ids, what, strict=True)
        ]  # fmt: skip
        messages.append({"role": "assistant", "content": more[0], "tool_calls": calls})
        messages += [
            {"role": "tool", "tool_call_id": each, "content": f"of {each}"} for each in ids
        ]
    return messages


def with_decoded_arguments(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for message in messages:
        for call in message.get("tool_calls", ()):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return messages


@given(st.none() | TEXT, TURNS)
def test_chat_to_messages_and_back_keeps_roles_texts_images_and_calls(
    system: str | None, turns: list[Any]
) -> None:
    messages = conversation(system, turns)
    there = translate_request(
        "chat", "messages", json.dumps({"model": "m", "messages": messages}).encode()
    )
    back = json.loads(translate_request("messages", "chat", there))["messages"]
    assert with_decoded_arguments(back) == with_decoded_arguments(messages)


ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["text", "user", "auto", ""]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["type", "role", "content", "text", "tool_calls", "function", "name", "arguments",
             "image_url", "source", "input", "id", "format", "schema", "effort", "url"]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=10,
)  # fmt: skip
FIELDS = st.sampled_from(
    ["messages", "system", "input", "instructions", "prompt", "tools", "tool_choice", "stop", "n",
     "response_format", "text", "output_config", "metadata", "max_tokens", "modalities", "include",
     "reasoning_effort", "reasoning", "temperature", "thinking", "best_of", "user", "logprobs"]
)  # fmt: skip


@given(
    st.dictionaries(FIELDS, ANY, max_size=6),
    st.sampled_from(
        [("chat", "messages"), ("messages", "chat"), ("responses", "chat"),
         ("responses", "messages"), ("completions", "chat"), ("completions", "messages")]
    ),
)  # fmt: skip
def test_any_object_is_translated_or_refused(fields: dict[str, Any], pair: Any) -> None:
    body = json.dumps(fields).encode()
    # Refusals are all that may come out of it.
    with contextlib.suppress(Untranslatable, BadRequest):
        assert isinstance(json.loads(translate_request(*pair, body)), dict)


def test_a_field_of_another_type_than_documented_is_a_bad_request() -> None:
    with pytest.raises(BadRequest, match="another type"):
        from_chat(modalities=5)
