"""Whatever a stranger sends, they get one well-formed answer and the gateway goes on."""

import asyncio
import contextlib
import http.client
import io
import json
import re
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
import uvicorn
from tests.backends.upstream import Received, Step, Upstream, chat_body, head, stream, unused_url
from tests.serve.conftest import Served

from twin.serve import logs
from twin.serve.connection import BODY_S, HEAD_S, MAX_HEAD_BYTES, STUCK_S, Connection
from twin.serve.exchange import Exchange
from twin.store.database import open_store

LIMIT = 300_000
CHAT = "/v1/chat/completions"
ASK = {"model": "scripted", "messages": [{"role": "user", "content": "hi"}]}
BODY = json.dumps(ASK).encode()
POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
GOOD = POST + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
PATHS = [CHAT, "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages"]


def reply(request: Received) -> Step:
    """Answers with the headers or the status that the question names."""
    said = request.json["messages"][0]["content"]
    kind, _, rest = said.partition(":")
    body = chat_body("Hello.")
    if kind == "status":
        return [b"HTTP/1.1 %s Odd\r\ncontent-length: 2\r\n\r\n{}" % rest.encode()]
    if kind == "broken":
        return [head(418, {"content-length": str(len(rest))}) + rest.encode()]
    extra = rest.encode("latin-1") if kind == "headers" else b""
    if request.json.get("stream"):
        plain, *pieces = stream("Hello.")
        return [plain[:-2] + extra + b"\r\n", *pieces]
    return [head(200, {"content-length": str(len(body))})[:-2] + extra + b"\r\n" + body]


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream(reply) as running:
        yield running


@pytest.fixture(scope="module")
def served(together: Callable[..., Served], upstream: Upstream) -> Served:
    config = f"""
        [serve]
        max_body_bytes = {LIMIT}
        admin_key = "env:ADMIN"
        [serve.aliases]
        "org/large" = "scripted"
        "dead*" = "dead"
        [models.scripted]
        provider = "scripted"
        role = "triage"
        [models.up]
        provider = "vllm"
        base_url = "{upstream.url}"
        retries = 0
        [models.dead]
        provider = "vllm"
        base_url = "{unused_url()}"
        retries = 0
    """
    return together(config, ADMIN="root-key")


@pytest.fixture(autouse=True)
def goes_on(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test that had the shared gateway, it is alive and answers."""
    yield
    if "served" in request.fixturenames:
        served: Served = request.getfixturevalue("served")
        assert served.request("GET", "/health")[0] == 200
        assert served.chat(model="scripted")[0] == 200


class Wire:
    """A connection on which anything can be said."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)

    def say(self, data: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            self.socket.sendall(data)

    def say_for_ever(self, data: bytes) -> None:
        """Says it again and again, until the gateway hangs up."""
        for _ in range(1_000):
            try:
                self.socket.sendall(data)
            except ConnectionError:
                return
        pytest.fail("all of it was taken")

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """The next answer."""
        found = http.client.HTTPResponse(self.socket)
        found.begin()
        body = found.read()
        return found.status, {name.lower(): value for name, value in found.getheaders()}, body

    def rest(self) -> bytes:
        """Everything until the gateway hangs up."""
        data = b""
        with contextlib.suppress(ConnectionError):
            while piece := self.socket.recv(65_536):
                data += piece
        return data

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def said(served: Served, data: bytes) -> tuple[int, dict[str, str], bytes]:
    """The one answer to these bytes."""
    with Wire(served.port) as wire:
        wire.say(data)
        return wire.answer()


def _readable(wires: list[Wire]) -> list[Wire]:
    """Those on which an answer has arrived, of all; none unless it is many."""
    ready = select.select([wire.socket for wire in wires], [], [], 0)[0]
    return [wire for wire in wires if wire.socket in ready] if len(ready) > 15 else []


def error_in(body: bytes) -> dict[str, Any]:
    """The error, in OpenAI's shape."""
    found = json.loads(body)
    assert set(found["error"]) >= {"message", "type", "code"}
    assert found["request_id"].startswith("call_")
    error: dict[str, Any] = found["error"]
    assert error["message"]
    return error


FIVE = b"Content-Length: 5\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
NO_HTTP = {
    "a length and chunks": POST + FIVE + CHUNKED + b"\r\n0\r\n\r\n",
    "chunks and a length": POST + CHUNKED + FIVE + b"\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
    "the same length twice": POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nabcde",
    "a list of lengths": POST + b"Content-Length: 5, 5\r\n\r\nabcde",
    "a length with a sign": POST + b"Content-Length: +5\r\n\r\nabcde",
    "a negative length": POST + b"Content-Length: -5\r\n\r\nabcde",
    "a hexadecimal length": POST + b"Content-Length: 0x5\r\n\r\nabcde",
    "a length beyond all numbers": POST + b"Content-Length: " + b"9" * 40 + b"\r\n\r\nabcde",
    "an unknown encoding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunks that are not last": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "identity and a length": POST + b"Transfer-Encoding: identity\r\nContent-Length: 2\r\n\r\n{}",
    "a tab before chunked": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "chunked twice": POST + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n0\r\n\r\n",
    "a blank before the colon": POST + b"Content-Length : 5\r\n\r\nabcde",
    "a blank before the other colon": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "a blank in a name": POST + b"X A: b\r\n\r\n",
    "a NUL in a header": POST + b"X-A: a\0b\r\n\r\n",
    "a CR in a header": POST + b"X-A: a\rContent-Length: 5\r\n\r\nabcde",
    "an LF in a header": POST + b"X-A: a\nContent-Length: 5\r\n\r\nabcde",
    "a control character": POST + b"X-A: a\x01b\r\n\r\n",
    "a folded header": POST + b"X-A: a\r\n b\r\n\r\n",
    "lines that end with LF": b"GET /health HTTP/1.1\nHost: x\n\n",
    "a negative chunk": POST + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nabc\r\n0\r\n\r\n",
    "a chunk with 0x": POST + b"Transfer-Encoding: chunked\r\n\r\n0x5\r\nabcde\r\n0\r\n\r\n",
    "chunks that end with LF": POST + b"Transfer-Encoding: chunked\r\n\r\n5\nabcde\n0\n\n",
    "a chunk beyond all numbers": POST + CHUNKED + b"\r\n" + b"f" * 20 + b"\r\n",
    "a tunnel": b"CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    "an unknown method": b"BREW /health HTTP/1.1\r\nHost: x\r\n\r\n",
    "an unknown version": b"GET /health HTTP/3.7\r\nHost: x\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 200,
    "garbage": b"\x00\xff\x17\r\n\r\n",
    "a path that is no text": b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("data", NO_HTTP.values(), ids=NO_HTTP)
def test_what_two_servers_could_read_differently_is_read_by_neither(
    data: bytes, served: Served
) -> None:
    with Wire(served.port) as wire:
        # A request behind it, as one who smuggles would send it.
        wire.say(data + b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
        status, headers, body = wire.answer()
        assert status == 400
        assert headers["connection"] == "close"
        assert error_in(body)["message"]
        assert wire.rest() == b"", "nothing that follows is answered"


def test_what_is_only_unusual_is_answered(served: Served) -> None:
    assert said(served, b"GET http://elsewhere.example/health HTTP/1.1\r\n\r\n")[0] == 200
    assert said(served, b"GET /%68ealth HTTP/1.1\r\nHost: x\r\n\r\n")[0] == 200
    assert said(served, b"GET /health HTTP/1.0\r\n\r\n")[0] == 200
    assert said(served, b"GET /health?model=twin#there HTTP/1.1\r\nHost: x\r\n\r\n")[0] == 200
    chunked = POST + b"Transfer-Encoding: chunked\r\n\r\n%x;name=value\r\n" % len(BODY) + BODY
    assert said(served, chunked + b"\r\n0\r\nTrailer: x\r\n\r\n")[0] == 200
    waits = POST + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY)
    with Wire(served.port) as wire:
        wire.say(waits)
        assert wire.socket.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        wire.say(BODY)
        assert wire.answer()[0] == 200


def test_requests_sent_ahead_are_answered_in_order(served: Served) -> None:
    with Wire(served.port) as wire:
        wire.say(GOOD + HEALTH + POST + b"Content-Length: 2\r\n\r\n{}" + HEALTH)
        data = b""
        while data.count(b"HTTP/1.1 ") < 4 or not data.endswith(b'{"status":"ok"}'):
            data += wire.socket.recv(65_536)
    assert re.findall(rb"HTTP/1.1 (\d+)", data) == [b"200", b"200", b"400", b"200"]


def test_garbage_behind_a_request_does_not_end_up_in_its_answer(
    served: Served, upstream: Upstream
) -> None:
    body = json.dumps({**ASK, "model": "up", "stream": True}).encode()
    with Wire(served.port) as wire:
        wire.say(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body + b"\x00garbage\r\n\r\n")
        assert b"400" not in wire.rest()


@pytest.mark.parametrize("wish", [b"h2c", b"websocket"])
def test_a_client_that_would_rather_speak_something_newer_is_answered_all_the_same(
    wish: bytes, served: Served
) -> None:
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: %s\r\nHTTP2-Settings: AA\r\n" % wish
    for size in (1, 40, len(GOOD) + 400):
        with Wire(served.port) as wire:
            data = POST + upgrade + GOOD[len(POST) :] + HEALTH
            for place in range(0, len(data), size):
                wire.say(data[place : place + size])
            status, _, body = wire.answer()
            assert status == 200
            assert json.loads(body)["choices"]


BAD_BODIES: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"hello",
    "half of it": BODY[:-3],
    "two documents": BODY + BODY,
    "no UTF-8": BODY.replace(b"hi", b"\xff\xfe"),
    "UTF-16": BODY.decode().encode("utf-16"),
    "a lone surrogate": BODY.replace(b"scripted", b"\\ud800"),
    "brackets without end": b"[" * 100_000,
    "nested arrays": b'{"model":"twin","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "nested objects": b'{"model":"twin","x":' + b'{"a":' * 40_000 + b"1" + b"}" * 40_000 + b"}",
    "a list": b"[]",
    "a number": b"1",
    "null": b"null",
    "a model twice": b'{"model":"scripted",' + BODY[1:],
    "a model that is a number": BODY.replace(b'"scripted"', b"5"),
    "a stream that is text": BODY.replace(b"{", b'{"stream":"yes",', 1),
    "a bound below zero": BODY.replace(b"{", b'{"max_tokens":-1,"max_output_tokens":-1,', 1),
    "a bound beyond all numbers": BODY.replace(
        b"{", b'{"max_tokens":%s,"max_output_tokens":1%s,' % (b"9" * 5_000, b"0" * 400), 1
    ),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES)
def test_a_body_that_cannot_be_read_is_refused_in_the_callers_dialect(
    body: bytes, path: str, served: Served
) -> None:
    status, headers, answer = served.post(path, body)
    if path == "/v1/embeddings" and (b"max_tokens" in body or b"stream" in body):
        # This dialect has no such field; only a number that no JSON reader takes is refused.
        assert status == (400 if b"999" in body else 200)
        return
    assert status == 400
    found = json.loads(answer)
    assert headers["content-type"] == "application/json"
    assert headers["x-request-id"] == found["request_id"]
    if path == "/v1/messages":
        assert found["type"] == "error"
        assert found["error"]["type"] == "invalid_request_error"
    else:
        assert error_in(answer)["type"] == "invalid_request_error"


def test_fields_of_the_wrong_kind_never_break_the_gateway(served: Served) -> None:
    values: list[Any] = [None, True, 0, -1.5, "x", [], {}, [None], [[]], [{}], {"a": []}]
    fields = ("messages", "input", "prompt", "tools", "system", "instructions", "max_tokens",
              "stream_options", "metadata", "user", "logprobs", "response_format", "text",
              "conversation", "previous_response_id", "stop", "temperature")  # fmt: skip
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    with contextlib.closing(connection):
        for path in PATHS:
            for field in fields:
                for value in values:
                    body = {**ASK, "model": "twin", "input": "x", "prompt": "x", field: value}
                    connection.request("POST", path, json.dumps(body))
                    answer = connection.getresponse()
                    found = json.loads(answer.read())
                    assert answer.status in (200, 400), (path, field, value, found)


def test_a_body_that_is_too_large_is_refused_before_and_while_it_is_read(served: Served) -> None:
    announced = POST + b"Content-Length: %d\r\n\r\n" % (10 * LIMIT)
    status, _, body = said(served, announced)
    assert status == 413
    assert "serve.max_body_bytes" in error_in(body)["message"]
    with Wire(served.port) as wire:
        wire.say(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(4):
            wire.say(b"%x\r\n" % LIMIT + b"x" * LIMIT + b"\r\n")
        assert wire.answer()[0] == 413
    exact = BODY + b" " * (LIMIT - len(BODY))
    assert served.post(CHAT, exact)[0] == 200
    status, _, body = served.post(CHAT, exact + b" ")
    assert status == 413, "a client that sends all of it first reads the answer too"
    status, _, body = served.post("/v1/messages", exact + b" ")
    assert json.loads(body)["error"]["type"] == "request_too_large"


def test_a_connection_lives_on_after_a_body_that_was_too_large(served: Served) -> None:
    with Wire(served.port) as wire:
        wire.say(POST + b"Content-Length: %d\r\n\r\n" % (LIMIT + 1) + b"x" * (LIMIT + 1))
        assert wire.answer()[0] == 413
        wire.say(GOOD)
        assert wire.answer()[0] == 200


def test_a_client_that_goes_on_after_its_refusal_is_hung_up_on(served: Served) -> None:
    with Wire(served.port) as wire:
        wire.say(POST + b"Content-Length: 99999999999\r\n\r\n")
        assert wire.answer()[0] == 413
        wire.say_for_ever(b"x" * 100_000)


@pytest.mark.parametrize(
    "endless",
    [
        pytest.param(b"GET /" + b"a" * 1_000, id="a path"),
        pytest.param(b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 200, id="headers"),
        pytest.param(b"GET / HTTP/1.1\r\nx: " + b"y" * 1_000, id="one header"),
        pytest.param(b"\r\n" * 500, id="empty lines"),
    ],
)
def test_a_head_without_end_is_refused(endless: bytes, served: Served) -> None:
    more = endless if endless.startswith(b"\r\n") else endless[-600:]
    with Wire(served.port) as wire:
        wire.say(endless)
        for _ in range(2 * MAX_HEAD_BYTES // len(more)):
            wire.say(more)
        assert b" 431 " in wire.rest()[:20]


def test_a_trailer_without_end_is_cut_off(served: Served) -> None:
    with Wire(served.port) as wire:
        wire.say(POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n")
        wire.say_for_ever(b"trailer: value\r\n" * 5_000)


@pytest.mark.parametrize("encoding", ["gzip", "br", "GZIP", "gzip, identity"])
def test_a_compressed_body_is_refused(encoding: str, served: Served) -> None:
    status, _, body = served.post(CHAT, b"\x1f\x8b\x08", {"content-encoding": encoding})
    assert status == 415
    assert error_in(body)["code"] == "unsupported_encoding"
    assert served.post(CHAT, BODY, {"content-encoding": "Identity"})[0] == 200


WRONG_PLACES = {
    ("GET", CHAT): 405,
    ("PUT", CHAT): 405,
    ("OPTIONS", CHAT): 405,
    ("HEAD", CHAT): 405,
    ("GET", "/v1/feedback"): 405,
    ("POST", "/health"): 405,
    ("POST", "/metrics"): 405,
    ("DELETE", "/v1/models"): 405,
    ("DELETE", "/v1/models/scripted"): 405,
    ("POST", CHAT + "/"): 404,
    ("GET", "/v1/models/"): 400,
    ("POST", "//v1/chat/completions"): 404,
    ("POST", "/v1/../v1/chat/completions"): 404,
    ("POST", "/V1/CHAT/COMPLETIONS"): 404,
    ("GET", "/"): 404,
    ("GET", "/admin/"): 404,
    ("GET", "/admin/nothing"): 404,
    ("GET", "/%00%0d%0aset-cookie:a"): 404,
    ("GET", "/" + "a" * 10_000): 404,
    ("GET", "/v1/models/nothing"): 404,
    ("GET", "/v1/models/%00%0a%ff"): 404,
}


@pytest.mark.parametrize(("method", "path"), WRONG_PLACES)
def test_a_wrong_place_or_method_is_an_error_in_json(
    method: str, path: str, served: Served
) -> None:
    status, headers, body = served.request(method, path)
    assert status == WRONG_PLACES[method, path]
    assert headers["content-type"] == "application/json"
    assert "set-cookie" not in headers
    if status == 405:
        assert headers["allow"] in ("GET", "POST")
    if method == "HEAD":
        assert body == b""
    else:
        assert len(error_in(body)["message"]) < 1_000
        status, _, body = served.request(method, path, headers={"anthropic-version": "2023-06-01"})
        assert path == CHAT or json.loads(body)["type"] == "error"


def test_reading_is_possible_without_the_body(served: Served) -> None:
    for path in ("/health", "/metrics", "/v1/models", "/v1/models/scripted", "/openapi.json"):
        status, headers, body = served.request("HEAD", path)
        assert (status, body) == (200, b"")
        assert int(headers["content-length"]) > 0


def test_a_model_whose_name_holds_a_slash_is_found(served: Served) -> None:
    for path in ("/v1/models/org/large", "/v1/models/org%2Flarge"):
        assert json.loads(served.request("GET", path)[2])["id"] == "org/large"
    assert served.chat(model="org/large")[0] == 200


HOSTILE_NAMES = {
    "steers a terminal": "dead\x1b[2J\x9b31m\u202e",
    "another line": 'dead\n{"level": "error", "event": "forged"}',
    "NUL": "dead\x00",
    "empty": "",
    "blank": " ",
    "100 kB": "dead" + "x" * 100_000,
    "not ASCII": "dead\U0001f600\ufeff",
    "a format": "dead%s{0}{asked}",
    "markup": "dead[red]<script>",
}


@pytest.mark.parametrize("name", HOSTILE_NAMES.values(), ids=HOSTILE_NAMES)
def test_hostile_names_stay_texts_in_answers_logs_and_records(name: str, served: Served) -> None:
    headers = {
        "x-twin-session": "\x85\x9b31m" + "s" * 20_000,
        "x-twin-task": "t" * 20_000,
        "user-agent": "u" * 20_000,
        "traceparent": "not a trace",
    }
    before = len(served.log.read_bytes())
    status, answered, body = served.post(CHAT, {**ASK, "model": name, "user": name}, headers)
    assert status in (400, 404, 502, 503)
    assert len(body) < 2_000
    call = served.recorded(answered["x-request-id"])
    assert name.startswith(call.asked_model)
    assert max(map(len, (call.asked_model, call.session, call.task_id))) <= 200
    assert len(call.meta["user_agent"]) <= 200
    text = served.log.read_bytes()[before:].decode()
    for line in text.splitlines():
        assert json.loads(line)["event"] != "forged"
        assert line.isprintable()
    metrics = served.request("GET", "/metrics")[2]
    assert b"dead\\n" not in metrics
    assert len(metrics) < 100_000


def test_a_session_of_any_length_is_told_from_others(served: Served) -> None:
    sessions = set()
    for end in ("a", "b"):
        body = {**ASK, "user": "u" * 10_000 + end}
        sessions.add(served.recorded(served.post(CHAT, body)[1]["x-request-id"]).session)
    assert len(sessions) == 2


def test_a_terminal_is_not_steered_by_a_models_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    try:
        logs.configure()
        exchange = Exchange("chat", b"")
        exchange.asked_model = "m\x1b[2J\nforged"
        logs.call_logger()(exchange, "failed", 502)
        shown = sys.stderr.getvalue()
        assert "\x1b[2J" not in shown
        assert shown.count("\n") == 1
    finally:
        structlog.reset_defaults()
        logs.let_go()


@pytest.mark.parametrize(
    "value",
    [
        "Bearer twin-",
        "Bearer twin-\xff\xfe\xa0",
        "Bearer twin-" + "x" * 30_000,
        "bearer  twin-a b c",
        "BEARER twin-",
    ],
)
def test_a_key_that_is_none_is_refused_in_the_callers_dialect(value: str, served: Served) -> None:
    for headers in ({"authorization": value}, {"x-api-key": value[7:].strip()}):
        status, _, body = served.post(CHAT, BODY, headers)
        assert status == 401
        assert error_in(body)["type"] == "authentication_error"
        status, _, body = served.post("/v1/messages", BODY, headers)
        assert json.loads(body)["error"]["type"] == "authentication_error"
        assert served.request("GET", "/admin/status", headers=headers)[0] == 401


@pytest.mark.parametrize("value", ["Basic cm9vdDpyb290", "Bearer", "", "\xff", "Bearer none"])
def test_where_no_key_is_needed_any_other_will_do(value: str, served: Served) -> None:
    assert served.post(CHAT, BODY, {"authorization": value})[0] == 200


ADMIN = {"authorization": "Bearer root-key"}


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        [],
        {"name": 5},
        {"name": ""},
        {"name": "n" * 1_000},
        {"name": "two\nlines"},
        {"name": "n", "requests_per_minute": 0},
        {"name": "n", "requests_per_minute": -1},
        {"name": "n", "tokens_per_minute": 2**80},
        {"name": "n", "monthly_usd": -1},
        {"name": "n", "expires_at": -1},
        {"name": "n", "models": "scripted"},
        {"name": "n", "models": ["*" * 1_000]},
        {"name": "n", "other": 1},
    ],
)
def test_a_key_that_makes_no_sense_is_not_made(wanted: object, served: Served) -> None:
    status, _, body = served.post("/admin/keys", wanted, ADMIN)
    assert status == 400
    assert error_in(body)["message"]


def test_the_admin_api_takes_hostile_names_as_names(served: Served) -> None:
    assert served.request("DELETE", "/admin/keys/%00%ff%27;--", headers=ADMIN)[0] == 404
    assert served.request("DELETE", "/admin/keys/", headers=ADMIN)[0] == 404
    name = "it's; DROP TABLE keys --"
    assert served.post("/admin/keys", {"name": name}, ADMIN)[0] == 201
    status, _, body = served.post("/admin/keys", {"name": name}, ADMIN)
    assert status == 409
    assert "another name" in error_in(body)["message"]


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "http://localhost.evil.example", "null", "http://[", "https://"],
)
def test_a_page_on_the_internet_cannot_spend_where_no_key_is_needed(
    origin: str, served: Served
) -> None:
    # A form's content type, so that browsers send it without asking first.
    headers = {"origin": origin, "content-type": "text/plain"}
    status, answered, body = served.post(CHAT, BODY, headers)
    assert status == 403
    assert error_in(body)["code"] == "origin_not_allowed"
    assert "access-control-allow-origin" not in answered
    assert served.request("GET", "/v1/models", headers=headers)[0] == 403


@pytest.mark.parametrize(
    "origin", ["http://localhost:3000", "http://127.0.0.1:8080", "http://[::1]:1", "app://mine"]
)
def test_pages_of_this_machine_and_programs_may_ask(origin: str, served: Served) -> None:
    assert served.post(CHAT, BODY, {"origin": origin})[0] == 200


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_providers_headers_reach_the_client_only_where_they_are_harmless(
    is_stream: bool, served: Served
) -> None:
    hostile = (
        "set-cookie: a=b\r\naccess-control-allow-origin: *\r\nx-accel-redirect: /secret\r\n"
        "x-sendfile: /etc/passwd\r\nlocation: http://evil.example\r\nx-twin-model: forged\r\n"
        "x-request-id: forged\r\nx-twin-degraded: true\r\nproxy-authenticate: Basic\r\n"
        "www-authenticate: Basic\r\nrefresh: 0;url=http://evil.example\r\nlink: <a>\r\n"
        "clear-site-data: *\r\nservice-worker-allowed: /\r\nkeep-alive: timeout=1\r\n"
        f"x-ratelimit-huge: {'x' * 5_000}\r\n"
    )
    harmless = (
        "x-ratelimit-remaining-tokens: 7\r\nOpenAI-Processing-MS: 3\r\nrequest-id: req\xe9\r\n"
    )
    question = [{"role": "user", "content": "headers:" + hostile + harmless}]
    body = {"model": "up", "messages": question, "stream": is_stream}
    status, headers, answer = served.post(CHAT, body)
    assert status == 200
    assert b"Hello." in answer
    assert headers.pop("x-request-id").startswith("call_")
    assert headers.pop("x-ratelimit-remaining-tokens") == "7"
    assert headers.pop("openai-processing-ms") == "3"
    assert headers.pop("request-id") == "req\xe9"
    assert headers.pop("x-twin-model") == "up"
    assert set(headers) <= {"content-type", "content-length", "transfer-encoding", "cache-control"}


@pytest.mark.parametrize(
    "line", ["x-ratelimit-a: b\rset-cookie: c\r\n", "x-ratelimit-a: b\nset-cookie: c\r\n",
             "x-ratelimit-a: b\0c\r\n", "x-ratelimit-a: b\r\n set-cookie: c\r\n",
             "x-ratelimit-\x01: b\r\n", "x-ratelimit-a: \x7f\x01\r\n", ": b\r\n"],
)  # fmt: skip
def test_a_provider_cannot_write_headers_of_ours(line: str, served: Served) -> None:
    assert served.chat(model="up")[0] == 200  # or its breaker would open
    question = [{"role": "user", "content": "headers:" + line}]
    status, headers, _ = served.post(CHAT, {"model": "up", "messages": question})
    assert status in (200, 502)
    assert "set-cookie" not in headers


@pytest.mark.parametrize("number", ["204", "304", "418", "499", "599", "600", "999"])
def test_a_status_that_nobody_knows_is_still_an_answer_in_json(number: str, served: Served) -> None:
    assert served.chat(model="up")[0] == 200
    question = [{"role": "user", "content": "status:" + number}]
    status, _, body = served.post(CHAT, {"model": "up", "messages": question})
    assert 400 <= status < 600
    json.loads(body)


@pytest.mark.parametrize("words", ["{oops", "<html>no</html>", '"text"', "[1]", "{}{}", "\x00"])
def test_a_providers_error_that_is_no_json_becomes_one(words: str, served: Served) -> None:
    question = [{"role": "user", "content": "broken:" + words}]
    status, _, body = served.post(CHAT, {"model": "up", "messages": question})
    assert status == 418
    assert error_in(body)["message"] == words


@pytest.mark.slow
def test_where_keys_are_needed_a_stranger_fills_no_memory(together: Callable[..., Served]) -> None:
    served = together("", name="locked")
    with open_store(served.root) as store:
        _, secret = store.keys.create("laptop")
    served.stop()
    served.configure(f"[serve]\nrequire_keys = true\nmax_body_bytes = {LIMIT}\n")
    served.start()
    large = BODY + b" " * (LIMIT - len(BODY))
    begun = POST + b"Content-Length: %d\r\n" % LIMIT
    with Wire(served.port) as wire:
        wire.say(begun + b"\r\n" + large[:100])
        status, _, body = wire.answer()
        assert status == 401, "before the rest of the body came"
        assert error_in(body)["code"] == "missing_api_key"
    key = b"Authorization: Bearer %s\r\n\r\n" % secret.encode()
    with Wire(served.port) as wire:
        wire.say(begun + key + large[:100])
        wire.say(large[100:])
        assert wire.answer()[0] == 200
    # A page's key is its own; where it comes from does not matter then.
    bearer = {"authorization": f"Bearer {secret}", "origin": "https://somewhere.example"}
    assert served.post(CHAT, {**ASK}, bearer)[0] == 200
    # Many large bodies at once, none of them whole.
    wires = [Wire(served.port) for _ in range(40)]
    for wire in wires:
        wire.say(begun + key + large[:-1])
    refused: list[Wire] = []
    served.until(lambda: bool(refused.extend(_readable(wires))) or len(refused) > 15)
    assert {wire.answer()[0] for wire in set(refused)} == {503}
    for wire in wires:
        wire.socket.close()
    served.until(lambda: served.post(CHAT, BODY, bearer)[0] == 200)


def test_hundreds_of_stalled_requests_hinder_nobody(served: Served) -> None:
    halves = [b"", b"GET /hea", POST, POST + b"Content-Length: 9\r\n\r\n{", GOOD[:-1]]
    wires = [Wire(served.port) for _ in range(300)]
    for number, wire in enumerate(wires):
        wire.say(halves[number % len(halves)])
    assert all(served.chat(model="scripted")[0] == 200 for _ in range(5))
    assert b"twin_calls_active 0.0" in served.request("GET", "/metrics")[2]
    for wire in wires:
        wire.socket.close()


class Inside:
    """The gateway's connections in this process, around an application of one line, so that their
    clock can be moved."""

    max_body_bytes = LIMIT

    def __init__(self, answer: bytes = b"{}") -> None:
        self.answer = answer

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        while (message := await receive()).get("more_body"):
            pass
        if message["type"] == "http.disconnect":
            return
        length = [(b"content-length", str(len(self.answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": length})
        await send({"type": "http.response.body", "body": self.answer})

    def __enter__(self) -> "Inside":
        config = uvicorn.Config(
            self, http=Connection, lifespan="off", log_config=None, proxy_headers=False
        )
        self.server = uvicorn.Server(config)
        self.loop = asyncio.new_event_loop()
        self.door = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.door.getsockname()[1]
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        return self

    def _run(self) -> None:
        self.loop.run_until_complete(self.server._serve(sockets=[self.door]))

    def look(self, seconds: float) -> None:
        """As if so much time had passed."""

        async def look() -> None:
            for connection in list(self.server.server_state.connections):
                connection.look(time.monotonic() + seconds)

        asyncio.run_coroutine_threadsafe(look(), self.loop).result(10)

    def until(self, num_connections: int) -> None:
        deadline = time.monotonic() + 10
        while len(self.server.server_state.connections) != num_connections:
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = self.server.force_exit = True
        self.thread.join()
        self.door.close()
        self.loop.close()


@pytest.mark.parametrize(
    ("half", "allowed_s"),
    [
        pytest.param(b"", HEAD_S, id="nothing"),
        pytest.param(b"GET /hea", HEAD_S, id="half a line"),
        pytest.param(POST + b"Content-Le", HEAD_S, id="half a head"),
        pytest.param(POST + b"Content-Length: 9\r\n\r\n{", BODY_S, id="half a body"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{", BODY_S, id="half a chunk"),
        pytest.param(HEALTH + b"GET /hea", HEAD_S, id="half of the second request"),
    ],
)
def test_half_a_request_is_given_up_after_a_while(half: bytes, allowed_s: float) -> None:
    with Inside() as inside, Wire(inside.port) as wire:
        wire.say(half)
        if half.startswith(HEALTH):
            assert wire.answer()[0] == 200
        inside.until(1)
        inside.look(allowed_s / 2)
        inside.until(1)
        # The piece may still be on its way to the process.
        time.sleep(0.1)
        inside.look(allowed_s + 2)
        status, headers, body = wire.answer()
        assert status == 408
        assert headers["connection"] == "close"
        assert error_in(body)["message"]
        assert wire.rest() == b""
        inside.until(0)


def test_a_connection_between_two_requests_is_left_alone() -> None:
    with Inside() as inside, Wire(inside.port) as wire:
        for _ in range(2):
            wire.say(HEALTH)
            assert wire.answer()[0] == 200
            inside.look(3_600)
        inside.until(1)


def test_a_slow_but_steady_body_has_the_time_it_needs() -> None:
    with Inside() as inside, Wire(inside.port) as wire:
        wire.say(POST + b"Content-Length: 250000\r\n\r\n" + b"x" * 200_000)
        time.sleep(0.1)
        inside.look(BODY_S + 10)  # 20 s more for the 200 kB
        inside.until(1)
        wire.say(b"x" * 50_000)
        assert wire.answer()[0] == 200


def test_an_answer_that_nobody_takes_is_thrown_away() -> None:
    with Inside(answer=b"x" * 20_000_000) as inside, Wire(inside.port) as wire:
        wire.say(HEALTH)
        assert wire.socket.recv(1) == b"H"
        inside.look(0)
        inside.look(STUCK_S / 2)
        inside.until(1)
        inside.look(STUCK_S + 1)
        inside.until(0)


def test_an_answer_that_is_taken_slowly_comes_to_its_end() -> None:
    size = 20_000_000
    with Inside(answer=b"x" * size) as inside, Wire(inside.port) as wire:
        wire.say(HEALTH)
        taken = 0
        step = 0
        while taken < size:
            taken += len(wire.socket.recv(2_000_000))
            step += 1
            inside.look(step * STUCK_S / 2)
        assert taken >= size


@pytest.mark.slow
def test_a_running_gateway_gives_half_a_request_up(served: Served) -> None:
    with Wire(served.port) as wire:
        wire.socket.settimeout(HEAD_S + 10)
        wire.say(b"GET /hea")
        assert wire.answer()[0] == 408
