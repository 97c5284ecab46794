"""Errors in the caller's own dialect, as bodies and in the middle of a stream.

The official clients choose their exception by status; people and programs read `type` and `code`.
"""

from typing import Any

import msgspec

from twin.records import DialectName

_OPENAI_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "invalid_request_error",
    408: "timeout_error",
    409: "invalid_request_error",
    413: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "invalid_request_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def error_type(dialect: DialectName, status: int) -> str:
    """The dialect's word for a status."""
    if dialect == "messages":
        other = "api_error" if status >= 500 else "invalid_request_error"
        return _ANTHROPIC_TYPES.get(status, other)
    other = "server_error" if status >= 500 else "invalid_request_error"
    return _OPENAI_TYPES.get(status, other)


def error_body(
    dialect: DialectName, status: int, message: str, code: str, request_id: str
) -> bytes:
    """The JSON body of an answer with `status`. `code` is this gateway's own short word, such as
    `invalid_api_key` or `budget_exceeded`; Anthropic's shape has no place for it."""
    return msgspec.json.encode(_error(dialect, status, message, code, request_id))


def error_event(
    dialect: DialectName,
    message: str,
    code: str,
    request_id: str,
    *,
    status: int = 502,
    sequence_number: int = 0,
) -> bytes:
    """The event that ends a stream which cannot go on. `status` only chooses the `type`, since the
    stream's own has gone out; `sequence_number` is for `responses` alone."""
    error = _error(dialect, status, message, code, request_id)
    if dialect == "messages":
        return b"event: error\ndata: " + msgspec.json.encode(error) + b"\n\n"
    if dialect == "responses":
        # The documented event has the fields at its top, the service nests them, and the official
        # client raises only for the nested ones.
        event = {
            "type": "error",
            "code": code,
            "message": message,
            "param": None,
            "sequence_number": sequence_number,
            **error,
        }
        return b"event: error\ndata: " + msgspec.json.encode(event) + b"\n\n"
    return b"data: " + msgspec.json.encode(error) + b"\n\n"


def _error(
    dialect: DialectName, status: int, message: str, code: str, request_id: str
) -> dict[str, Any]:
    name = error_type(dialect, status)
    if dialect == "messages":
        return {
            "type": "error",
            "error": {"type": name, "message": message},
            "request_id": request_id,
        }
    return {
        "error": {"message": message, "type": name, "param": None, "code": code},
        "request_id": request_id,
    }
