"""The head of a request, and its `model` replaced without touching another byte."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.backends.dialects import read_request, with_model
from twin.errors import BadRequest


def test_the_head_of_a_chat_request_says_what_the_gateway_needs() -> None:
    head = read_request(
        "chat",
        b'{"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": true,'
        b' "max_tokens": 7, "user": "u", "logprobs": true, "temperature": 0.5,'
        b' "stream_options": {"include_usage": true}}',
    )
    assert (head.model, head.stream, head.max_tokens) == ("m", True, 7)
    assert (head.session, head.wants_logprobs, head.include_usage) == ("user:u", True, True)


def test_a_bare_request_has_defaults() -> None:
    head = read_request("chat", b" {} ")
    assert (head.model, head.stream, head.max_tokens) == ("", False, None)
    assert (head.session, head.wants_logprobs, head.include_usage) == ("", False, False)


@pytest.mark.parametrize(
    ("dialect", "fields", "limit"),
    [
        ("chat", {"max_completion_tokens": 5, "max_tokens": 9}, 5),
        ("chat", {"max_completion_tokens": None, "max_tokens": 9}, 9),
        ("completions", {"max_tokens": 9}, 9),
        ("responses", {"max_output_tokens": 9}, 9),
        ("messages", {"max_tokens": 9}, 9),
        ("embeddings", {"max_tokens": 9}, None),
    ],
)
def test_the_bound_is_read_by_the_name_it_has_in_the_dialect(dialect, fields, limit) -> None:
    assert read_request(dialect, json.dumps(fields).encode()).max_tokens == limit


def test_embeddings_come_whole_whatever_the_caller_says_of_streams() -> None:
    assert not read_request("embeddings", b'{"input": "x", "stream": true}').stream


@pytest.mark.parametrize(
    ("dialect", "fields", "session"),
    [
        ("messages", {"metadata": {"user_id": "a"}}, "user:a"),
        ("chat", {"metadata": {"user_id": 7}, "user": "b"}, "user:b"),
        ("chat", {"metadata": "free", "user": "b"}, "user:b"),
        ("responses", {"previous_response_id": "r", "user": "b"}, "previous_response_id:r"),
        ("responses", {"conversation": {"id": "c"}}, "conversation:c"),
        ("responses", {"conversation": "c"}, "conversation:c"),
        ("chat", {"prompt_cache_key": "k", "user": "b"}, "prompt_cache_key:k"),
        ("chat", {"user": None}, ""),
    ],
)
def test_the_narrowest_hint_holds_a_session_together(dialect, fields, session) -> None:
    assert read_request(dialect, json.dumps(fields).encode()).session == session


@pytest.mark.parametrize(
    ("dialect", "fields", "wants"),
    [
        ("chat", {"logprobs": False}, False),
        ("completions", {"logprobs": 0}, True),
        ("completions", {"logprobs": 5}, True),
        ("responses", {"include": ["message.output_text.logprobs"]}, True),
        ("responses", {"top_logprobs": 2}, True),
        ("responses", {"include": ["reasoning.encrypted_content"]}, False),
    ],
)
def test_log_probabilities_are_asked_for_in_several_ways(dialect, fields, wants) -> None:
    assert read_request(dialect, json.dumps(fields).encode()).wants_logprobs is wants


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"\xff\xfe{\x00}\x00", "is not JSON"),
        (b"\xef\xbb\xbf{}", "is not JSON"),
        (b"{} {}", "is not JSON"),
        (b'{"a": NaN}', "is not JSON"),
        (b'{"a": "\\ud800"}', "is not JSON"),
        (b"[]", "is no JSON object"),
        (b"null", "is no JSON object"),
        (b'"text"', "is no JSON object"),
        (b'{"a": "\xff"}', "is not UTF-8"),
        (b'{"a": "\xed\xa0\x80"}', "is not UTF-8"),
        (b'{"a": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' + b'{"b":' * 100_000, "nested too deeply"),
        (b"[" * 100_000, "no JSON object"),
        (b"{%s}" % b",".join(b'"%d":1' % number for number in range(1001)), "more than 1000"),
        (b'{"model": 1}', "`model` must be a string"),
        (b'{"model": ["m"]}', "`model` must be a string"),
        (b'{"stream": "yes"}', "`stream` must be true or false"),
        (b'{"max_tokens": "9"}', "`max_tokens` must be a whole number"),
        (b'{"max_tokens": 9.5}', "`max_tokens` must be a whole number"),
        (b'{"max_tokens": -1}', "`max_tokens` must be a positive number"),
        (b'{"max_tokens": 99999999999999999999}', "`max_tokens` must be a"),
        (b'{"user": {}}', "`user` must be a string"),
        (b'{"stream_options": 1}', "`stream_options` must be"),
        (b'{"model": "a", "model": "b"}', "given twice"),
        (b'{"model": "a", "m\\u006fdel": "b"}', "given twice"),
        (b'{"model": "a", "x": 1, "model": "a"}', "given twice"),
        (b'{"x": 1, "x": 12}', "given twice"),
        (b'{"x": 12, "x": 1}', "given twice"),
    ],
)
def test_what_cannot_be_read_is_a_bad_request_with_its_cure(body: bytes, sentence: str) -> None:
    with pytest.raises(BadRequest, match=sentence) as caught:
        read_request("chat", body)
    assert str(caught.value).endswith(".")
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'{"model":"old","a":1}', b'{"model":"new","a":1}'),
        (b'{"a":1,"model" :\n "old" }', b'{"a":1,"model" :\n "new" }'),
        (b'{"a":{"model":"old"},"model":"old"}', b'{"a":{"model":"old"},"model":"new"}'),
        (b'{"a":"\\"model\\":\\"old\\"","model":"x"}',
         b'{"a":"\\"model\\":\\"old\\"","model":"new"}'),
        (b'{"a":["model","model"],"model":""}', b'{"a":["model","model"],"model":"new"}'),
        (b'{"m\\u006fdel":"old"}', b'{"m\\u006fdel":"new"}'),
        (b'{"model":null}', b'{"model":"new"}'),
        (b'{"model":"a\\"b\\\\"}', b'{"model":"new"}'),
        (b'{"a":1}', b'{"model":"new","a":1}'),
        (b" { } ", b' {"model":"new" } '),
        (b'{"a":1.0e+5,"b":"\xe2\x82\xac","model":"o"}',
         b'{"a":1.0e+5,"b":"\xe2\x82\xac","model":"new"}'),
    ],
)  # fmt: skip
def test_only_the_models_name_changes(before: bytes, after: bytes) -> None:
    assert with_model("chat", before, "new") == after
    assert with_model("chat", before, "new", read_request("chat", before)) == after


def test_a_name_with_quotes_stays_json() -> None:
    assert json.loads(with_model("chat", b'{"model":"a"}', 'a"\\\n€')) == {"model": 'a"\\\n€'}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text() | st.just("model"),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("model"), inner),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.text() | st.sampled_from(["messages", "tools", "système"]), JSON)


@given(OBJECTS, st.text(), st.integers(0, 9), st.booleans(), st.sampled_from([None, 0, 3]))
def test_in_any_object_the_model_is_replaced_and_nothing_else(
    fields: dict[str, object], name: str, place: int, is_ascii: bool, indent: int | None
) -> None:
    try:
        json.dumps([fields, name], ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return
    items = [(key, value) for key, value in fields.items() if key != "model"]
    items.insert(place % (len(items) + 1), ("model", "THE OLD ONE"))
    body = json.dumps(dict(items), ensure_ascii=is_ascii, indent=indent).encode()
    changed = with_model("chat", body, name)
    assert json.loads(changed) == {**dict(items), "model": name}
    assert list(json.loads(changed)) == list(dict(items))
    head, tail = body.split(b'"THE OLD ONE"')
    assert changed.startswith(head)
    assert changed.endswith(tail)


@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    try:
        read_request("chat", body)
    except BadRequest:
        return
    assert isinstance(json.loads(body), dict)
