"""Requests that nobody thought of: made from the OpenAPI document, and JSON of any shape.

What comes back is always an answer of the dialect or an error in its shape, and never a fault of
the gateway's own.
"""

import contextlib
import http.client
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tests.serve.conftest import Served

from twin.serve.openapi import DOCUMENT

api = schemathesis.openapi.from_dict(DOCUMENT)
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
QUICK = settings(
    max_examples=25,
    deadline=None,  # never a timing assertion
    derandomize=True,
    database=None,
    # The gateway is shared on purpose: what one request leaves behind must not harm the next.
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def served(together: Callable[..., Served]) -> Served:
    # One speaks every dialect; for the others requests are translated.
    served = together(
        """
        [models.scripted]
        provider = "scripted"
        role = "triage"
        [models.chatty]
        provider = "scripted"
        endpoints = ["chat"]
        [models.claude]
        provider = "scripted"
        endpoints = ["messages"]
        role = "reasoning"
        """
    )
    served.until(lambda: served.request("GET", "/ready")[0] == 200)
    return served


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


@pytest.fixture(scope="module")
def connection(served: Served) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    with contextlib.closing(connection):
        yield connection


def test_the_document_that_is_served_is_the_one_that_is_tested(served: Served) -> None:
    assert json.loads(served.request("GET", "/openapi.json")[2]) == DOCUMENT


@pytest.mark.slow
@api.parametrize()
@QUICK
def test_answers_are_as_the_document_says(
    case: schemathesis.Case, served: Served, session: requests.Session
) -> None:
    case.call_and_validate(base_url=served.url, session=session, checks=CHECKS)


_TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["twin", "scripted", "user", "assistant", "system", "tool", "text", "function",
                     "image_url", "input_text", "tool_use", "tool_result", "base64", "auto",
                     "message", "function_call", "function_call_output", "json_object", "refusal",
                     "thinking", "input_image", "reasoning", "item_reference", "document"]),
)  # fmt: skip
_KEYS = st.sampled_from(
    ["model", "messages", "role", "content", "type", "text", "stream", "tools", "function", "name",
     "parameters", "arguments", "tool_calls", "tool_call_id", "id", "call_id", "input", "output",
     "prompt", "system", "instructions", "max_tokens", "stop", "temperature", "image_url", "url",
     "source", "data", "media_type", "tool_use_id", "input_schema", "tool_choice", "metadata",
     "user", "user_id", "response_format", "stream_options", "include_usage", "logprobs",
     "conversation", "thinking", "reasoning", "summary", "include", "n", "best_of", "echo",
     "dimensions", "encoding_format", "cache_control", "is_error", "signature"]
)  # fmt: skip
_VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(allow_nan=False, allow_infinity=False),
        _TEXTS,
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.one_of(_KEYS, _TEXTS), inner, max_size=6)
    ),
    max_leaves=25,
)
_PARTS = st.lists(st.dictionaries(_KEYS, _VALUES, max_size=6), max_size=3)
_MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": _TEXTS, "content": st.one_of(_TEXTS, _PARTS, _VALUES)},
        optional={"tool_calls": _VALUES, "tool_call_id": _VALUES, "name": _VALUES, "type": _TEXTS},
    ),
    max_size=4,
)
_LIKELY = st.fixed_dictionaries(
    {"model": st.sampled_from(["twin", "scripted", "chatty", "claude"])},
    optional={
        "messages": st.one_of(_MESSAGES, _VALUES),
        "input": st.one_of(_MESSAGES, _TEXTS, _VALUES),
        "prompt": st.one_of(_TEXTS, _VALUES),
        "stream": st.booleans(),
        "max_tokens": st.integers(0, 2**53),
        "tools": st.one_of(_PARTS, _VALUES),
        "system": st.one_of(_TEXTS, _PARTS),
        "instructions": _VALUES,
        "tool_choice": _VALUES,
        "response_format": _VALUES,
        "stream_options": _VALUES,
        "metadata": _VALUES,
        "logprobs": _VALUES,
        "stop": _VALUES,
        "n": _VALUES,
    },
)
_ANSWER = {
    "/v1/chat/completions": "choices",
    "/v1/completions": "choices",
    "/v1/embeddings": "data",
    "/v1/responses": "output",
    "/v1/messages": "content",
}
_OVER = {
    "/v1/chat/completions": b"data: [DONE]",
    "/v1/completions": b"data: [DONE]",
    "/v1/responses": b"event: response.",
    "/v1/messages": b"event: message_stop",
}


@pytest.mark.slow
@pytest.mark.parametrize("path", _ANSWER)
@settings(QUICK, max_examples=150)
@given(document=st.one_of(_LIKELY, _VALUES, st.dictionaries(_KEYS, _VALUES)))
@example(document={"model": "twin", "messages": [{"role": "user", "content": [{"type": "text"}]}]})
@example(document={"model": "twin", "input": [{"type": "function_call_output", "output": None}]})
@example(document={"model": "scripted", "input": [[1, 2], [3]]})
@example(document={"model": "scripted", "prompt": ["a", ["b"]], "stream": True})
def test_json_of_any_shape_is_answered_or_refused(
    path: str, document: Any, connection: http.client.HTTPConnection
) -> None:
    connection.request("POST", path, json.dumps(document))
    reply = connection.getresponse()
    body = reply.read()
    assert reply.getheader("x-request-id", "").startswith("call_")
    if reply.getheader("content-type", "").startswith("text/event-stream"):
        assert reply.status == 200
        assert _OVER[path] in body
        return
    found = json.loads(body)
    if reply.status == 200:
        assert isinstance(found[_ANSWER[path]], list)
        return
    assert reply.status in (400, 404), found
    assert found["error"]["message"]
    assert found["error"]["type"]
    assert found.get("type") == ("error" if path == "/v1/messages" else None)


@pytest.mark.slow
@settings(QUICK, max_examples=150)
@given(document=st.one_of(_VALUES, st.dictionaries(st.sampled_from(["call_id", "score", "comment",
    "demonstration"]), _VALUES)))  # fmt: skip
def test_feedback_of_any_shape_is_refused_with_a_sentence(
    document: Any, connection: http.client.HTTPConnection
) -> None:
    connection.request("POST", "/v1/feedback", json.dumps(document))
    reply = connection.getresponse()
    found = json.loads(reply.read())
    assert reply.status == 400
    assert found["error"]["message"]


@settings(QUICK, max_examples=100)
@given(body=st.binary(max_size=300), path=st.sampled_from(sorted(_ANSWER)))
def test_bytes_of_any_kind_are_refused(
    body: bytes, path: str, connection: http.client.HTTPConnection
) -> None:
    connection.request("POST", path, body)
    reply = connection.getresponse()
    assert json.loads(reply.read())["error"]["message"]
    assert reply.status == 400
