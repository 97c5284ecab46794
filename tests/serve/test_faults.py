"""Whatever a model's server does wrong, the client gets a correct answer or a clear error, and the
record says what happened."""

import http.client
import json
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from tests.backends.upstream import (
    FAULTS,
    STALL,
    STREAM_HEAD,
    Pause,
    Received,
    Step,
    Upstream,
    answer,
    big,
    chat,
    chat_events,
    chunk,
    drip,
    http_date,
    sent,
    stream,
    unused_url,
)
from tests.serve.conftest import Served

Serving = Callable[..., Served]

IMPATIENT = "first_byte_s = 0.4\nidle_s = 0.4\ndeadline_s = 3\nconnect_s = 1\nretries = 0\n"


def model(name: str, url: str, *more: str) -> str:
    lines = "\n".join(more)
    return f'[models.{name}]\nprovider = "vllm"\nbase_url = "{url}"\n{IMPATIENT}{lines}\n'


def message_of(body: bytes) -> str:
    """The sentence of an error in OpenAI's shape."""
    return str(json.loads(body)["error"]["message"])


def events_of(body: bytes) -> list[str]:
    return [line[6:] for line in body.decode().splitlines() if line.startswith("data: ")]


@dataclass
class Faulty:
    """One gateway over a model for each fault, and one good model behind them all."""

    served: Served
    spare: Upstream

    def name(self, fault: str) -> str:
        return fault.replace(" ", "-")


@pytest.fixture(scope="module")
def faulty(together: Serving) -> Iterator[Faulty]:
    def good(request: Received) -> Step:
        return stream("Good", " day.") if request.json.get("stream") else chat("Good day.")

    with ExitStack() as stack:
        spare = stack.enter_context(Upstream(good))
        config = model("spare", spare.url)
        for fault, step in FAULTS.items():
            name = fault.replace(" ", "-")
            url = stack.enter_context(Upstream(step)).url
            config += model(f"{name}-alone", url)
            config += model(name, url, 'fallback = ["spare"]')
        yield Faulty(together(config), spare)


@pytest.mark.parametrize("fault", sorted(name for name in FAULTS if "in the stream" not in name))
def test_a_broken_answer_becomes_a_clear_error_and_a_record(fault: str, faulty: Faulty) -> None:
    name = f"{faulty.name(fault)}-alone"
    status, headers, body = faulty.served.chat(model=name)
    assert status in (502, 504)
    assert f"`{name}`" in message_of(body)
    call = faulty.served.recorded(headers["x-request-id"])
    assert call.outcome == "failed"
    assert call.status == status
    assert [attempt.outcome for attempt in call.attempts] == ["failed"]
    assert call.attempts[0].reason


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("fault", sorted(name for name in FAULTS if "in the stream" not in name))
def test_before_the_first_byte_the_next_model_answers_instead(
    fault: str, is_stream: bool, faulty: Faulty
) -> None:
    status, headers, body = faulty.served.chat(model=faulty.name(fault), stream=is_stream)
    assert status == 200
    assert b"day." in body
    assert headers["x-twin-model"] == "spare"
    call = faulty.served.recorded(headers["x-request-id"])
    assert call.outcome == "ok"
    assert [a.outcome for a in call.attempts] == ["failed", "ok"]


@pytest.mark.parametrize("fault", sorted(name for name in FAULTS if "in the stream" in name))
def test_a_stream_that_breaks_after_its_first_byte_ends_with_an_error_in_the_stream(
    fault: str, faulty: Faulty
) -> None:
    asked = len(faulty.spare.requests)
    status, headers, body = faulty.served.chat(model=faulty.name(fault), stream=True)
    events = events_of(body)
    assert status == 200
    assert json.loads(events[0])["choices"][0]["delta"]["content"] == "Hel"
    assert "error" in json.loads(events[-1])
    assert len(faulty.spare.requests) == asked, "never two models in one answer"
    call = faulty.served.recorded(headers["x-request-id"])
    assert call.outcome == "failed"
    assert b"Hel" in call.attempts[0].response


WRONG = [
    (answer("<html>Bad gateway</html>", content_type="text/html"), "no JSON object"),
    (answer('{"choices": [{"mess'), "no JSON object"),
    (answer('{"error": {"message": "out of memory"}}'), "holds an error"),
    (answer("[1, 2]"), "no JSON object"),
    (answer(b"\xff\xfe{}"), "no JSON object"),
    (answer("[" * 100_000), "no JSON object"),
    (answer("{}", status=500), "trouble of its own (500)"),
    (answer("<html>", status=503, content_type="text/html"), "trouble of its own (503)"),
    (answer("{}", status=302, headers={"location": "http://x/"}), "status 302"),
    (answer("{}", status=404), "does not exist there"),
    (answer("{}", status=401), "refused a request without a key (401)"),
]


@pytest.fixture(scope="module")
def wrong(together: Serving) -> Iterator[Served]:
    with ExitStack() as stack:
        urls = [stack.enter_context(Upstream(step)).url for step, _ in WRONG]
        config = "".join(model(f"m{number}", url) for number, url in enumerate(urls))
        yield together(config, "wrong")


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_an_answer_of_the_wrong_kind_is_told_from_a_right_one(number: int, wrong: Served) -> None:
    status, headers, body = wrong.chat(model=f"m{number}")
    assert status == 502
    assert WRONG[number][1] in message_of(body)
    assert wrong.recorded(headers["x-request-id"]).outcome == "failed"


def test_a_request_that_the_provider_refuses_comes_back_in_its_own_words(
    serving: Serving,
) -> None:
    words = b'{"error": {"message": "temperature: at most 2", "type": "bad", "x": 1.50}}'
    with Upstream(answer(words, status=400)) as upstream:
        served = serving(model("m", upstream.url))
        status, headers, body = served.chat(model="m", temperature=3)
        assert (status, body) == (400, words), "byte for byte"
        assert len(upstream.requests) == 1, "asking again would not help"
        assert served.recorded(headers["x-request-id"]).outcome == "refused"


def test_a_stream_asked_for_and_json_received_is_no_stream(serving: Serving) -> None:
    with Upstream(chat("whole")) as upstream:
        served = serving(model("m", upstream.url))
        status, _, body = served.chat(model="m", stream=True)
    assert status == 502
    assert "A stream was asked for and something else came" in message_of(body)


@pytest.mark.slow
def test_trouble_that_passes_is_overcome_by_asking_again(serving: Serving) -> None:
    plan = [answer("{}", status=503), FAULTS["resets in the body"], chat("at last")]
    with Upstream(plan) as upstream:
        served = serving(model("m", upstream.url).replace("retries = 0", "retries = 2"))
        status, headers, body = served.chat(model="m")
        assert status == 200
        assert b"at last" in body
        outcomes = [a.outcome for a in served.recorded(headers["x-request-id"]).attempts]
    assert outcomes == ["failed", "failed", "ok"]


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_rate_limit_is_passed_on_with_its_wait_and_respected(form: str, serving: Serving) -> None:
    after = "60" if form == "seconds" else http_date(90)
    with Upstream(answer("{}", status=429, headers={"retry-after": after})) as upstream:
        served = serving(model("m", upstream.url))
        status, headers, body = served.chat(model="m")
        assert status == 429
        assert int(headers["retry-after"]) >= 5
        assert "rate-limited" in message_of(body)
        served.chat(model="m")
        assert len(upstream.requests) == 1, "the account rests as long as it was told to"


def test_of_several_accounts_the_next_one_is_asked_at_once(serving: Serving) -> None:
    def plan(request: Any) -> Step:
        limited = request.headers["authorization"] == "Bearer first"
        return answer("{}", status=429, headers={"retry-after": "60"}) if limited else chat("ok")

    with Upstream(plan) as upstream:
        config = model("m", upstream.url, 'accounts = ["env:A", "env:B"]')
        served = serving(config.replace("retries = 0", "retries = 1"), A="first", B="second")
        for number in range(4):
            status, _, _ = served.chat(f"conversation {number}", model="m")
            assert status == 200
        keys = [request.headers["authorization"] for request in upstream.requests]
        assert keys.count("Bearer first") <= 1
        assert keys.count("Bearer second") == 4
        call = served.calls()[-1]
    assert call.attempts[-1].account == "env:B"


def test_a_server_that_keeps_failing_is_left_alone_for_a_while(serving: Serving) -> None:
    with Upstream(answer("{}", status=500)) as upstream:
        served = serving(model("m", upstream.url))
        for _ in range(8):
            status, headers, body = served.chat(model="m")
        assert len(upstream.requests) == 5
        assert status == 503
        assert "rests" in message_of(body)
        assert int(headers["retry-after"]) >= 1


def test_nobody_there_is_an_error_that_names_the_cure(serving: Serving) -> None:
    served = serving(model("m", unused_url() + "/v1"))
    status, _, body = served.chat(model="m")
    assert status == 502
    assert "did not answer" in message_of(body)


@pytest.mark.slow
def test_a_body_of_200_mb_is_cut_off_and_costs_no_memory(serving: Serving) -> None:
    with Upstream(big(200_000_000)) as upstream:
        served = serving(model("m", upstream.url))
        before = _memory_mb(served)
        status, _, body = served.chat(model="m")
        assert status == 502
        assert "more than 64000000 bytes" in message_of(body)
        assert _memory_mb(served) - before < 150
        assert upstream.num_bytes_sent < 120_000_000


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 7, 4096])
def test_events_split_anywhere_arrive_as_they_were_sent(size: int, serving: Serving) -> None:
    events = b"".join(chat_events("Grüße", " 日本", " 🙂"))
    step = [STREAM_HEAD]
    for place in range(0, len(events), size):
        step.append(chunk(events[place : place + size]))
    step.append(b"0\r\n\r\n")
    with Upstream(step) as upstream:
        served = serving(model("m", upstream.url))
        status, headers, body = served.chat(model="m", stream=True)
        assert status == 200
        assert body == events
        call = served.recorded(headers["x-request-id"])
    assert call.outcome == "ok"
    assert call.attempts[0].response == events


def test_a_slow_answer_in_drips_is_an_answer(serving: Serving) -> None:
    with Upstream(drip(sent(chat("slow but sure")), gap_s=0.001)) as upstream:
        served = serving(model("m", upstream.url))
        status, _, body = served.chat(model="m")
    assert status == 200
    assert b"slow but sure" in body


def test_a_client_that_hangs_up_in_a_stream_ends_the_models_work_and_is_recorded(
    serving: Serving,
) -> None:
    step = [STREAM_HEAD]
    for event in chat_events(*["word "] * 400)[:-1]:
        step += [chunk(event), Pause(0.01)]
    with Upstream(step) as upstream:
        served = serving(model("m", upstream.url))
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
        body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "x"}]}
        connection.request("POST", "/v1/chat/completions", json.dumps(body))
        found = connection.getresponse()
        call_id = found.headers["x-request-id"]
        found.read1(200)
        _reset(connection)
        upstream.wait_until(lambda up: bool(up.hangups))
        call = served.recorded(call_id)
    assert call.outcome == "cancelled", call.error
    assert b"word" in call.attempts[0].response
    assert call.attempts[0].outcome == "cancelled"


def test_a_client_that_hangs_up_before_the_answer_ends_the_models_work_too(
    serving: Serving,
) -> None:
    with Upstream([STALL]) as upstream:
        served = serving(model("m", upstream.url).replace("first_byte_s = 0.4", "first_byte_s = 9"))
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
        body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
        connection.request("POST", "/v1/chat/completions", json.dumps(body))
        upstream.wait_until(lambda up: bool(up.requests))
        time.sleep(0.1)
        connection.close()
        upstream.wait_until(lambda up: bool(up.hangups))
        served.until(lambda: any(call.outcome == "cancelled" for call in served.calls()))


@pytest.mark.slow
def test_a_client_that_reads_slowly_gets_everything(serving: Serving) -> None:
    words = ["x" * 1000] * 3000
    with Upstream(stream(*words)) as upstream:
        served = serving(model("m", upstream.url).replace("idle_s = 0.4", "idle_s = 20"))
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
        body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "x"}]}
        connection.request("POST", "/v1/chat/completions", json.dumps(body))
        found = connection.getresponse()
        text = b""
        while piece := found.read1(65_536):
            text += piece
            if len(text) < 500_000:
                time.sleep(0.02)
        connection.close()
    assert text == b"".join(chat_events(*words))


def _reset(connection: http.client.HTTPConnection) -> None:
    """Ends it with RST, as a process that is killed does."""
    assert connection.sock is not None
    linger = struct.pack("ii", 1, 0)
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    os.close(connection.sock.detach())  # `close` would wait for the answer's own handle


def _memory_mb(served: Served) -> float:
    with open(f"/proc/{served.process.pid}/status", encoding="ascii") as file:
        line = next(line for line in file if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024
