"""Errors in the caller's dialect: the official clients raise the exception that fits."""

import json

import anthropic
import openai
import pytest

from twin.backends.dialects import error_body, error_event

ASK = [{"role": "user", "content": "x"}]


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (400, openai.BadRequestError, "invalid_request_error"),
        (401, openai.AuthenticationError, "authentication_error"),
        (402, openai.APIStatusError, "insufficient_quota"),
        (403, openai.PermissionDeniedError, "permission_error"),
        (404, openai.NotFoundError, "invalid_request_error"),
        (413, openai.APIStatusError, "invalid_request_error"),
        (418, openai.APIStatusError, "invalid_request_error"),
        (429, openai.RateLimitError, "rate_limit_error"),
        (500, openai.InternalServerError, "server_error"),
        (503, openai.InternalServerError, "overloaded_error"),
    ],
)
def test_the_openai_client_raises_what_fits(openai_client, status, error, kind) -> None:
    body = error_body("chat", status, "No; do.", "the_code", "req_1")
    with pytest.raises(error, match="No; do") as caught:
        openai_client(body, status=status).chat.completions.create(model="m", messages=ASK)
    assert (caught.value.type, caught.value.code) == (kind, "the_code")
    assert json.loads(body)["request_id"] == "req_1"


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (400, anthropic.BadRequestError, "invalid_request_error"),
        (401, anthropic.AuthenticationError, "authentication_error"),
        (402, anthropic.APIStatusError, "billing_error"),
        (403, anthropic.PermissionDeniedError, "permission_error"),
        (404, anthropic.NotFoundError, "not_found_error"),
        (413, anthropic.APIStatusError, "request_too_large"),
        (418, anthropic.APIStatusError, "invalid_request_error"),
        (429, anthropic.RateLimitError, "rate_limit_error"),
        (500, anthropic.InternalServerError, "api_error"),
        (503, anthropic.APIStatusError, "overloaded_error"),
        (529, anthropic.APIStatusError, "overloaded_error"),
    ],
)
def test_the_anthropic_client_raises_what_fits(anthropic_client, status, error, kind) -> None:
    body = error_body("messages", status, "No; do.", "the_code", "req_1")
    with pytest.raises(error, match="No; do") as caught:
        anthropic_client(body, status=status).messages.create(model="m", max_tokens=1, messages=ASK)
    assert caught.value.body["error"] == {"type": kind, "message": "No; do."}
    assert caught.value.body["request_id"] == "req_1"


@pytest.mark.parametrize(
    ("dialect", "event"),
    [
        (
            "chat",
            b'data: {"error":{"message":"No.","type":"server_error","param":null,"code":"c"},'
            b'"request_id":"r"}\n\n',
        ),
        (
            "messages",
            b'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"No."},'
            b'"request_id":"r"}\n\n',
        ),
        (
            "responses",
            b'event: error\ndata: {"type":"error","code":"c","message":"No.","param":null,'
            b'"sequence_number":7,"error":{"message":"No.","type":"server_error","param":null,'
            b'"code":"c"},"request_id":"r"}\n\n',
        ),
    ],
)
def test_an_error_in_the_middle_of_a_stream_is_one_event(dialect, event) -> None:
    assert error_event(dialect, "No.", "c", "r", sequence_number=7) == event
