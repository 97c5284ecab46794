"""Streams at their edges: where they begin, break and end, and what they cost then."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import openai
import pytest
from tests.backends.upstream import (
    RESET,
    STALL,
    STREAM_HEAD,
    Pause,
    Step,
    Upstream,
    chat_events,
    chunk,
    stream,
)
from tests.serve.conftest import Served

Serving = Callable[..., Served]

EVENTS = chat_events("Good", " day.")
HALF = EVENTS[2][: len(EVENTS[2]) // 2]
ERROR = b'data: {"error": {"message": "overloaded", "type": "server_error"}}\n\n'
COMPLETED = (
    b'event: response.completed\ndata: {"type":"response.completed","sequence_number":2,"response":'
    b'{"id":"r","object":"response","output":[],"status":"completed",'
    b'"usage":{"input_tokens":111,"output_tokens":222,"total_tokens":333}}}\n\n'
)
CREATED = (
    b'event: response.created\ndata: {"type":"response.created","sequence_number":0,"response":'
    b'{"id":"r","object":"response","output":[],"status":"in_progress"}}\n\n'
)


def chunks(*pieces: bytes, end: object = b"0\r\n\r\n") -> Step:
    step: list[object] = [STREAM_HEAD]
    for piece in pieces:
        step += [chunk(piece), Pause(0.03)]
    return [*step, end]


STEPS: dict[str, Step] = {
    "breaks-in-an-event": chunks(EVENTS[0], EVENTS[1], HALF, end=RESET),
    "begins-split": chunks(b"da", b"".join(EVENTS)[2:]),
    "begins-with-an-error": chunks(ERROR),
    "ends-with-a-reset": chunks(*EVENTS, end=RESET),
    "ends-with-a-stall": chunks(*EVENTS, end=STALL),
    "ends-without-a-blank-line": chunks(*EVENTS[:-1], b"data: [DONE]"),
    "last-event-in-pieces": chunks(CREATED, COMPLETED[:60], COMPLETED[60:150], COMPLETED[150:]),
}


@pytest.fixture(scope="module")
def served(together: Serving) -> Iterator[Served]:
    with ExitStack() as stack:
        spare = stack.enter_context(Upstream(stream("from", " the", " spare"))).url
        config = f'[models.spare]\nprovider = "vllm"\nbase_url = "{spare}"\n'
        for name, step in STEPS.items():
            url = stack.enter_context(Upstream(step)).url
            config += (
                f'[models.{name}]\nprovider = "vllm"\nbase_url = "{url}"\nretries = 0\n'
                'fallback = ["spare"]\nprice = { input = 1000.0, output = 1000.0 }\n'
            )
        yield together(config)


def test_a_stream_that_breaks_inside_an_event_ends_in_an_error_that_the_client_understands(
    served: Served,
) -> None:
    with (
        openai.OpenAI(base_url=f"{served.url}/v1", api_key="x", max_retries=0) as client,
        client.chat.completions.create(
            model="breaks-in-an-event",
            messages=[{"role": "user", "content": "x"}],
            stream=True,
        ) as pieces,
    ):
        texts: list[str] = []
        with pytest.raises(openai.APIError, match=r"broke|reset|closed|ended"):
            texts.extend(piece.choices[0].delta.content or "" for piece in pieces)
    assert not texts or "Good" in "".join(texts)


def test_what_came_of_a_broken_stream_is_paid_for(served: Served) -> None:
    _, headers, _ = served.chat(model="breaks-in-an-event", stream=True)
    call = served.recorded(headers["x-request-id"])
    assert call.outcome == "failed"
    assert call.attempts[0].cost_usd > 0
    assert call.attempts[0].usage is not None
    assert call.attempts[0].usage.is_estimated


def test_a_stream_whose_first_event_comes_in_pieces_is_a_stream(served: Served) -> None:
    _, headers, body = served.chat(model="begins-split", stream=True)
    assert headers["x-twin-model"] == "begins-split"
    assert body == b"".join(EVENTS)


def test_an_error_as_the_first_event_lets_the_next_model_answer(served: Served) -> None:
    _, headers, body = served.chat(model="begins-with-an-error", stream=True)
    assert headers["x-twin-model"] == "spare"
    assert b"overloaded" not in body


@pytest.mark.parametrize("how", ["ends-with-a-reset", "ends-with-a-stall"])
def test_a_stream_that_is_over_is_ended_whatever_the_server_does(how: str, served: Served) -> None:
    status, headers, body = served.chat(model=how, stream=True)
    assert (status, body) == (200, b"".join(EVENTS))
    assert served.recorded(headers["x-request-id"]).outcome == "ok"


def test_a_last_event_without_its_blank_line_is_passed_on(served: Served) -> None:
    _, headers, body = served.chat(model="ends-without-a-blank-line", stream=True)
    assert body.endswith(b"data: [DONE]")
    assert served.recorded(headers["x-request-id"]).outcome == "ok"


def test_the_usage_in_a_last_event_that_comes_in_pieces_is_recorded(served: Served) -> None:
    _, headers, body = served.post(
        "/v1/responses", {"model": "last-event-in-pieces", "input": "x", "stream": True}
    )
    assert body == CREATED + COMPLETED
    call = served.recorded(headers["x-request-id"])
    usage = call.attempts[0].usage
    assert usage is not None
    assert (usage.num_prompt_tokens, usage.num_completion_tokens) == (111, 222)
    assert json.loads(call.attempts[0].response.split(b"data: ")[-1])["response"]["usage"]
