"""Calls as a gateway would record them."""

import json

import msgspec

from twin.records import (
    Attempt,
    Call,
    Classification,
    ContextItem,
    Entry,
    Feedback,
    RouteDecision,
    Usage,
)

encode = msgspec.msgpack.Encoder().encode
NOON = 1_763_726_400.0
"""2025-11-21 12:00 UTC."""


def body(text: str) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": text}]}).encode()


def reply(text: str) -> bytes:
    return json.dumps({"choices": [{"message": {"content": text}}]}).encode()


def attempt(model: str = "small", **values: object) -> Attempt:
    usual = {
        "outcome": "ok",
        "status": 200,
        "response": reply(f"{model} says so"),
        "usage": Usage(num_prompt_tokens=10, num_completion_tokens=5),
        "cost_usd": 0.25,
    }
    return Attempt(model=model, **(usual | values))  # type: ignore[arg-type]


def call(call_id: str = "call_1", **values: object) -> Call:
    usual = {
        "at": NOON,
        "dialect": "chat",
        "outcome": "ok",
        "asked_model": "twin",
        "model": "small",
        "request": body(f"question of {call_id}"),
        "attempts": (attempt(),),
    }
    return Call(call_id=call_id, **(usual | values))  # type: ignore[arg-type]


def escalated(call_id: str = "call_1", **values: object) -> Call:
    first = attempt("small", outcome="escalated", reason="it refuses", response=reply("I cannot."))
    last = attempt("big", response=reply("42"), request=body("asked anew"))
    return call(call_id, attempts=(first, last), model="big", **values)


def everything(call_id: str = "call_1") -> Call:
    """A call in which nothing has its default."""
    stream = b'data: {"choices":[{"delta":{"content":"4"}}]}\n\ndata: [DONE]\n\n'
    return Call(
        call_id=call_id,
        at=NOON + 0.125,
        dialect="messages",
        outcome="ok",
        asked_model="twin",
        model="big",
        key_id="key_0123456789ab",
        session="s\x00\x1a\u00e9",
        task_id="task",
        status=201,
        error="none, \U0001f600",
        is_stream=True,
        is_degraded=True,
        route=RouteDecision(
            model="small",
            reason="simple \x00 enough",
            classification=Classification(
                type="coding", complexity=0.1, confidence=0.9, gain=0.2, skill="s", project="p",
                version="router-1",
            ),
        ),
        context=(
            ContextItem(source="memory", name="a.md:1-3", relevance=0.5, num_tokens=7),
            ContextItem(source="repository", name="a.py", relevance=0.25, num_tokens=9),
        ),
        handoff=b'{"why":"unsure"}',
        first_byte_ms=1.5,
        latency_ms=2.25,
        request=b"\x00\xff not JSON",
        response=b"",
        attempts=(
            attempt("small", outcome="escalated", reason="why", account="env:A", confidence=0.1),
            attempt(
                "big", upstream_model="big-1", dialect="messages", started_ms=1.0,
                first_byte_ms=2.0, latency_ms=3.0, request=b"asked", response=stream,
                is_streamed=True, chunk_ms=(2.0, 2.1, 1 / 3),
                usage=Usage(num_cached_tokens=3, is_estimated=True),
            ),
            attempt("none", outcome="failed", usage=None, response=b"", status=0),
        ),
        meta={"user_agent": "x\x00"},
    )  # fmt: skip


def feedback(call_id: str = "call_1", number: int = 1, **values: object) -> Feedback:
    usual = {"feedback_id": f"fb_{number}", "call_id": call_id, "at": NOON + number}
    return Feedback(**(usual | values))  # type: ignore[arg-type]


def payloads(entries: list[Entry]) -> list[bytes]:
    return [encode(entry) for entry in entries]
