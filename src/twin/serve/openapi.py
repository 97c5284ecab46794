"""The OpenAPI document of the gateway, at `/openapi.json`.

Names what the gateway itself reads and promises. The rest of a request belongs to the provider's
dialect and is passed on, so every object stays open.
"""

from typing import Any

from twin import __version__

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 1}
_MESSAGES: Schema = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "required": ["role", "content"],
        "properties": {
            "role": {"enum": ["user", "assistant"]},
            "content": {"type": "string", "minLength": 1},
        },
    },
}
_ERROR: Schema = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type"],
            "properties": {"message": _TEXT, "type": _TEXT},
        }
    },
}
_REFUSALS = {
    "400": "The request cannot be read; the sentence says what to change.",
    "401": "No key, or one that is not valid here.",
    "403": "The key may not ask this model, or a page on the internet asks without a key.",
    "404": "There is no such model or call.",
    "405": "Another method.",
    "408": "The request did not arrive in time.",
    "413": "The request is larger than `serve.max_body_bytes`.",
    "415": "The body is compressed.",
    "429": "A rate or budget is used up; `Retry-After` says when to come back.",
    "431": "The headers are larger than 64 kB.",
    "499": "The client hung up.",
    "500": "The gateway failed.",
    "502": "No model could answer; the sentence says why.",
    "503": "Too many calls at once, or calls cannot be recorded; see `Retry-After`.",
    "504": "The models took too long.",
}
_BEARER: list[dict[str, list[str]]] = [{}, {"bearer": []}, {"x-api-key": []}]
_HEADERS = (
    ("x-twin-session", "Names the conversation; else its first message does."),
    ("x-twin-task", "Joins the call with decisions and outcomes of a task."),
    ("x-twin-context", "`on` or `off`: whether retrieved context is put before the request."),
)


def _object(required: list[str], **properties: Schema) -> Schema:
    return {"type": "object", "required": required, "properties": properties}


def _answers(*ok: tuple[str, str, Schema], stream: bool = False) -> Schema:
    found: Schema = {}
    for status, text, schema in ok:
        content: Schema = {"application/json": {"schema": schema}}
        if stream:
            content["text/event-stream"] = {"schema": _TEXT}
        found[status] = {"description": text, "content": content}
    for status, text in _REFUSALS.items():
        found[status] = {
            "description": text,
            "content": {"application/json": {"schema": _ERROR}},
        }
    return found


def _call(summary: str, request: Schema, answer: Schema, *, stream: bool = True) -> Schema:
    """One endpoint that asks a model."""
    return {
        "post": {
            "summary": summary,
            "security": _BEARER,
            "parameters": [
                {"name": name, "in": "header", "description": text, "schema": _TEXT}
                for name, text in _HEADERS
            ],
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": request}},
            },
            "responses": _answers(("200", "The model's answer.", answer), stream=stream),
        }
    }


def _get(summary: str, answer: Schema, **also: Schema) -> Schema:
    responses = _answers(("200", summary, answer))
    responses |= also
    return {"get": {"summary": summary, "security": _BEARER, "responses": responses}}


_FLAG: Schema = {"type": "boolean"}
_MODEL: Schema = {"type": "string", "description": "`twin` lets the router choose."}
_STATE = _object(["status"], status=_TEXT, problems={"type": "array", "items": _TEXT})
_LISTED = _object(["id"], id=_TEXT)

DOCUMENT: Schema = {
    "openapi": "3.1.0",
    "info": {
        "title": "Cognitive Twin gateway",
        "version": __version__,
        "description": "One endpoint over tiers of models; every call recorded.",
    },
    "components": {
        "securitySchemes": {
            "bearer": {"type": "http", "scheme": "bearer"},
            "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
        }
    },
    "paths": {
        "/v1/chat/completions": _call(
            "OpenAI chat completions",
            _object(["model", "messages"], model=_MODEL, messages=_MESSAGES, stream=_FLAG),
            _object(["choices"], choices={"type": "array"}),
        ),
        "/v1/completions": _call(
            "OpenAI completions",
            _object(["model", "prompt"], model=_MODEL, prompt=_TEXT, stream=_FLAG),
            _object(["choices"], choices={"type": "array"}),
        ),
        "/v1/embeddings": _call(
            "OpenAI embeddings",
            _object(["model", "input"], model=_MODEL, input=_TEXT),
            _object(["data"], data={"type": "array"}),
            stream=False,
        ),
        "/v1/responses": _call(
            "OpenAI responses",
            _object(["model", "input"], model=_MODEL, input=_TEXT, stream=_FLAG),
            _object(["output"], output={"type": "array"}),
        ),
        "/v1/messages": _call(
            "Anthropic messages",
            _object(
                ["model", "messages", "max_tokens"],
                model=_MODEL,
                messages=_MESSAGES,
                max_tokens=_COUNT,
                stream=_FLAG,
            ),
            _object(["content"], content={"type": "array"}),
        ),
        "/v1/messages/count_tokens": _call(
            "Anthropic token count, estimated",
            _object(["model", "messages"], model=_MODEL, messages=_MESSAGES),
            _object(["input_tokens"], input_tokens=_COUNT),
            stream=False,
        ),
        "/v1/models": _get(
            "The models that can be asked",
            _object(["data"], data={"type": "array", "items": _LISTED}),
        ),
        "/v1/models/{name}": {
            **_get("One model", _LISTED),
            "parameters": [{"name": "name", "in": "path", "required": True, "schema": _TEXT}],
        },
        "/v1/feedback": {
            "post": {
                "summary": "What somebody thinks of a call",
                "security": _BEARER,
                "requestBody": {
                    "required": True,
                    "content": {
                        "application/json": {
                            "schema": {
                                **_object(
                                    ["call_id"],
                                    call_id={
                                        "type": "string",
                                        "pattern": "^call_[0-9a-f]{32}$",
                                        "description": "The answer's `x-request-id`.",
                                    },
                                    score={"type": "number", "minimum": 0, "maximum": 1},
                                    comment=_TEXT,
                                    demonstration={
                                        **_TEXT,
                                        "description": "The answer that should have been given.",
                                    },
                                ),
                                "additionalProperties": False,
                            }
                        }
                    },
                },
                "responses": _answers(
                    ("201", "Kept.", _object(["feedback_id"], feedback_id=_TEXT))
                ),
            }
        },
        "/health": _get("The process is alive", _STATE),
        "/ready": _get(
            "Calls can be answered and recorded",
            _STATE,
            **{
                "503": {
                    "description": "Not now; `problems` says why.",
                    "content": {"application/json": {"schema": _STATE}},
                }
            },
        ),
        "/metrics": {
            "get": {
                "summary": "Figures for Prometheus",
                "responses": {
                    "200": {
                        "description": "Figures.",
                        "content": {"text/plain": {"schema": _TEXT}},
                    },
                    "401": {
                        "description": _REFUSALS["401"],
                        "content": {"application/json": {"schema": _ERROR}},
                    },
                },
            }
        },
    },
}
