import asyncio
import base64
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.backends.backend import Ask
from twin.backends.dialects import answer_of, usage_of, whole_from_stream
from twin.backends.factories import make_backend
from twin.backends.hashed_vectors import hashed_vector
from twin.backends.http import HttpClient, Timeouts
from twin.backends.script import Entry, ScriptedCall
from twin.backends.scripted import ScriptedBackend
from twin.config import ModelConfig
from twin.errors import BackendTimeout
from twin.records import DialectName

LONG = Timeouts(connect_s=20, first_byte_s=20, idle_s=20, deadline_s=20)
REQUESTS: dict[DialectName, dict[str, Any]] = {
    "chat": {"model": "m", "messages": [{"role": "user", "content": "Why is the sky blue?"}]},
    "completions": {"model": "m", "prompt": "Why is the sky blue?"},
    "responses": {"model": "m", "input": "Why is the sky blue?"},
    "messages": {
        "model": "m",
        "max_tokens": 900,
        "messages": [{"role": "user", "content": "Why is the sky blue?"}],
    },
}


def say(
    backend: ScriptedBackend,
    dialect: DialectName = "chat",
    request: dict[str, Any] | bytes | None = None,
    limits: Timeouts = LONG,
    **fields: Any,
) -> tuple[int, dict[bytes, bytes], bytes]:
    """Status, headers and body of one answer."""

    async def main() -> tuple[int, dict[bytes, bytes], bytes]:
        body = request
        if not isinstance(body, bytes):
            body = json.dumps({**(body or REQUESTS[dialect]), **fields}).encode()
        ask = Ask(dialect=dialect, body=body, stream=bool(fields.get("stream")), timeouts=limits)
        reply = await backend.ask(ask, None)
        return reply.status, dict(reply.headers), await reply.read()

    return asyncio.run(main())


@pytest.mark.parametrize("dialect", REQUESTS)
def test_without_a_script_it_says_what_it_is_repeats_the_question_and_names_the_cure(
    dialect: DialectName,
) -> None:
    status, headers, body = say(ScriptedBackend(), dialect)
    answer = answer_of(dialect, body)
    assert (status, headers[b"content-type"]) == (200, b"application/json")
    assert "scripted model" in answer.text
    assert "Why is the sky blue?" in answer.text
    assert "[models.mine]" in answer.text
    assert answer.finish_reason == "stop"
    usage = usage_of(dialect, body, False)
    assert usage is not None
    assert usage.num_completion_tokens > 20


@pytest.mark.parametrize("dialect", REQUESTS)
def test_a_stream_says_the_same_as_the_whole_answer(dialect: DialectName) -> None:
    whole = say(ScriptedBackend(), dialect)[2]
    status, headers, stream = say(ScriptedBackend(), dialect, stream=True)
    assert (status, headers[b"content-type"]) == (200, b"text/event-stream")
    told = json.dumps(whole_from_stream(dialect, stream)).encode()
    assert answer_of(dialect, told).text == answer_of(dialect, whole).text
    assert answer_of(dialect, told).finish_reason == "stop"


@pytest.mark.parametrize("dialect", ["responses", "messages"])
def test_a_stream_reports_usage_where_its_dialect_always_does(dialect: DialectName) -> None:
    whole, stream = say(ScriptedBackend(), dialect)[2], say(ScriptedBackend(), dialect, stream=True)
    usage = usage_of(dialect, stream[2], True)
    expected = usage_of(dialect, whole, False)
    assert usage is not None
    assert expected is not None
    assert usage.num_completion_tokens == expected.num_completion_tokens > 0


@pytest.mark.parametrize("dialect", ["chat", "completions"])
def test_a_stream_reports_usage_elsewhere_when_asked(dialect: DialectName) -> None:
    options = {"stream_options": {"include_usage": True}}
    asked = say(ScriptedBackend(), dialect, stream=True, **options)[2]
    assert usage_of(dialect, asked, True) is not None
    assert usage_of(dialect, say(ScriptedBackend(), dialect, stream=True)[2], True) is None


def test_the_same_request_is_always_answered_the_same() -> None:
    first, second = (json.loads(say(ScriptedBackend())[2]) for _ in range(2))
    assert {**first, "created": 0} == {**second, "created": 0}


def test_a_long_question_is_shortened() -> None:
    request = {"model": "m", "messages": [{"role": "user", "content": "x" * 100_000}]}
    text = answer_of("chat", say(ScriptedBackend(), request=request)[2]).text
    assert len(text) < 1500
    assert "100000 characters" in text


@pytest.mark.parametrize("kind", ["json_object", "json_schema"])
def test_whoever_asks_for_json_gets_json(kind: str) -> None:
    body = say(ScriptedBackend(), response_format={"type": kind})[2]
    assert "sky" in json.loads(answer_of("chat", body).text)["answer"]


def test_the_first_line_that_matches_answers() -> None:
    backend = ScriptedBackend([Entry(match="grass", answer="Green."), Entry(match="sky|sea",
                               answer="Blue."), Entry(answer="Else.")])  # fmt: skip
    assert answer_of("chat", say(backend)[2]).text == "Blue."
    assert backend.num_asked == 1


def test_a_line_answers_as_often_as_it_says() -> None:
    backend = ScriptedBackend([Entry(status=500, times=2), Entry(answer="Back.")])
    assert [say(backend)[0] for _ in range(4)] == [500, 500, 200, 200]


@pytest.mark.parametrize("dialect", REQUESTS)
def test_an_error_comes_in_the_dialect_of_the_question(dialect: DialectName) -> None:
    backend = ScriptedBackend([Entry(status=429, answer="Slow down.", retry_after_s=1.5)])
    status, headers, body = say(backend, dialect, stream=True)
    assert (status, headers[b"retry-after"]) == (429, b"1.5")
    assert headers[b"content-type"] == b"application/json"
    assert json.loads(body)["error"]["message"] == "Slow down."


@pytest.mark.parametrize("dialect", ["chat", "responses", "messages"])
@pytest.mark.parametrize("stream", [False, True])
def test_tools_are_called_when_the_script_says_so(dialect: DialectName, stream: bool) -> None:
    backend = ScriptedBackend(
        [Entry(match="sky", tool_calls=(ScriptedCall(name="look", arguments={"at": "sky"}),))]
    )
    body = say(backend, dialect, stream=stream)[2]
    if stream:
        body = json.dumps(whole_from_stream(dialect, body)).encode()
    answer = answer_of(dialect, body)
    assert answer.finish_reason == "tool_calls"
    assert [(call.name, json.loads(call.arguments)) for call in answer.tool_calls] == [
        ("look", {"at": "sky"})
    ]
    assert answer.tool_calls[0].call_id


def test_arguments_that_are_no_json_go_out_as_they_are() -> None:
    backend = ScriptedBackend([Entry(tool_calls=(ScriptedCall(name="look", arguments='{"a'),))])
    assert answer_of("chat", say(backend)[2]).tool_calls[0].arguments == '{"a'


def test_a_tools_result_is_what_the_script_sees_next() -> None:
    """Else a script that calls a tool would call it for ever."""
    backend = ScriptedBackend(
        [
            Entry(match="blue because", answer="I looked."),
            Entry(match="sky", tool_calls=(ScriptedCall(name="look"),)),
        ]
    )
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    messages = [
        *REQUESTS["chat"]["messages"],
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "blue because of scattering"},
    ]
    body = say(backend, request={"model": "m", "messages": messages})[2]
    assert answer_of("chat", body).text == "I looked."


def test_log_probabilities_come_when_asked_for() -> None:
    backend = ScriptedBackend([Entry(answer="One two three.", logprob=-2.5)])
    assert answer_of("chat", say(backend, logprobs=True)[2]).logprobs == (-2.5, -2.5, -2.5)
    assert answer_of("chat", say(backend)[2]).logprobs is None
    stream = say(backend, logprobs=True, stream=True)[2]
    told = json.dumps(whole_from_stream("chat", stream)).encode()
    assert answer_of("chat", told).logprobs == (-2.5, -2.5, -2.5)


def test_an_answer_is_cut_at_the_callers_bound() -> None:
    backend = ScriptedBackend([Entry(answer="one two three four")])
    answer = answer_of("chat", say(backend, max_tokens=2)[2])
    assert (answer.text, answer.finish_reason) == ("one two", "length")


def test_a_delay_longer_than_the_callers_patience_is_a_timeout() -> None:
    limits = Timeouts(connect_s=20, first_byte_s=0.01, idle_s=20, deadline_s=20)
    with pytest.raises(BackendTimeout, match="delay_ms"):
        say(ScriptedBackend([Entry(delay_ms=60_000)]), limits=limits)
    assert say(ScriptedBackend([Entry(delay_ms=1)]))[0] == 200


def test_a_stream_that_takes_its_time_ends_when_it_is_closed() -> None:
    async def main() -> list[bytes]:
        backend = ScriptedBackend([Entry(answer="one two", word_ms=1)])
        body = json.dumps({**REQUESTS["chat"], "stream": True}).encode()
        reply = await backend.ask(Ask(dialect="chat", body=body, stream=True, timeouts=LONG), None)
        pieces = []
        async for piece in reply:
            pieces.append(piece)
            if b"one" in piece:
                await reply.close()
        return pieces

    assert b"one" in asyncio.run(main())[-1]


@pytest.mark.parametrize(
    ("given_input", "count"),
    [("one", 1), (["one", "two"], 2), ([1, 2, 3], 1), ([[1, 2], [3]], 2), ("", 1)],
)
def test_embeddings_are_one_unit_vector_for_each_text(given_input: object, count: int) -> None:
    request = {"model": "m", "input": given_input}
    data = json.loads(say(ScriptedBackend(), "embeddings", request)[2])["data"]
    assert [each["index"] for each in data] == list(range(count))
    for each in data:
        assert sum(value * value for value in each["embedding"]) == pytest.approx(1.0)


def test_embeddings_come_packed_and_in_any_size() -> None:
    request = {"model": "m", "input": "one", "encoding_format": "base64", "dimensions": 8}
    packed = json.loads(say(ScriptedBackend(), "embeddings", request)[2])["data"][0]["embedding"]
    vector = struct.unpack("<8f", base64.b64decode(packed))
    assert vector == pytest.approx(hashed_vector("one", 8))


@given(st.text(max_size=200), st.integers(1, 64))
def test_every_text_lies_on_the_unit_sphere_always_at_the_same_point(text: str, size: int) -> None:
    vector = hashed_vector(text, size)
    assert len(vector) == size
    assert sum(value * value for value in vector) == pytest.approx(1.0)
    assert vector == hashed_vector(text, size)


def test_texts_that_share_words_lie_closer() -> None:
    def cosine(one: str, other: str) -> float:
        return sum(a * b for a, b in zip(hashed_vector(one), hashed_vector(other), strict=True))

    query = "restart the failed deployment"
    assert cosine(query, "a failed deployment was restarted") > cosine(query, "buy some oranges")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=8,
)
FIELDS = ("messages", "prompt", "input", "max_tokens", "logprobs", "stream_options", "dimensions",
          "response_format", "model", "tools", "system", "encoding_format")  # fmt: skip


@given(
    st.sampled_from([*REQUESTS, "embeddings"]),
    st.dictionaries(st.sampled_from(FIELDS), json_values),
    st.booleans(),
)
def test_a_request_of_any_shape_is_answered_or_refused(
    dialect: DialectName, fields: dict[str, Any], stream: bool
) -> None:
    request = {**REQUESTS.get(dialect, {"input": "x"}), **fields, "stream": stream}
    assert say(ScriptedBackend(), dialect, request)[0] in (200, 400)


@given(st.binary(max_size=60), st.sampled_from([*REQUESTS, "embeddings"]))
def test_bytes_that_are_no_request_are_refused(body: bytes, dialect: DialectName) -> None:
    assert say(ScriptedBackend(), dialect, body)[0] in (200, 400)


def test_a_script_is_named_in_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "answers.jsonl").write_text('{"match": "sky", "answer": "Blue."}\n')
    config = ModelConfig(provider="scripted", script="answers.jsonl")
    backend = make_backend("demo", config, HttpClient(), tmp_path)
    assert isinstance(backend, ScriptedBackend)
    assert answer_of("chat", say(backend)[2]).text == "Blue."
    assert asyncio.run(backend.is_alive())
