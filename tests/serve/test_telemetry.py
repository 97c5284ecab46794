"""Traces arrive at a real OpenTelemetry receiver, say what the conventions ask, and no texts."""

import http.server
import json
import threading
from collections.abc import Callable

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv.attributes import error_attributes, http_attributes
from tests.backends.upstream import unused_url
from tests.serve.conftest import Served

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"
WORDS = "the-words-of-the-question"


class Receiver:
    """Takes OTLP over HTTP, as a collector does."""

    def __init__(self) -> None:
        requests: list[ExportTraceServiceRequest] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/traces"
                data = self.rfile.read(int(self.headers["content-length"]))
                requests.append(ExportTraceServiceRequest.FromString(data))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.requests = requests
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    @property
    def spans(self) -> list[Span]:
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture(scope="module")
def told(together: Callable[..., Served]) -> Receiver:
    """What arrived of a few calls to a gateway that has ended."""
    receiver = Receiver()
    served = together(
        f"""
        [serve]
        otlp_endpoint = "{receiver.url}"
        [models.scripted]
        provider = "scripted"
        role = "triage"
        [models.dead]
        provider = "openai"
        base_url = "{unused_url()}"
        model = "gpt-x"
        retries = 0
        """
    )
    body = {"messages": [{"role": "user", "content": WORDS}]}
    caller = {"traceparent": f"00-{TRACE}-{CALLER}-01", "x-twin-session": "talk-1"}
    served.post("/v1/chat/completions", {"model": "twin", **body}, caller)
    served.post("/v1/chat/completions", {"model": "twin", "stream": True, **body})
    served.post("/v1/messages", {"model": "scripted", "max_tokens": 5, **body})
    served.post("/v1/completions", {"model": "scripted", "prompt": WORDS})
    served.post("/v1/embeddings", {"model": "scripted", "input": WORDS})
    served.post("/v1/chat/completions", {"model": "dead", **body})
    served.post("/v1/chat/completions", {"model": "nobody", **body})
    served.post("/v1/chat/completions", b"{}", {"traceparent": "not-a-trace"})
    assert served.stop() == 0
    receiver.close()
    return receiver


def values(span: Span) -> dict[str, object]:
    found = {}
    for pair in span.attributes:
        kind = pair.value.WhichOneof("value")
        assert kind is not None
        found[pair.key] = getattr(pair.value, kind)
    return found


def test_a_call_is_a_span_of_the_callers_trace_with_one_below_it_for_each_question(
    told: Receiver,
) -> None:
    mine = [span for span in told.spans if span.trace_id.hex() == TRACE]
    call = next(span for span in mine if span.kind == Span.SPAN_KIND_SERVER)
    asked = [span for span in mine if span.kind == Span.SPAN_KIND_CLIENT]
    assert call.parent_span_id.hex() == CALLER
    assert call.name == "chat twin"
    said = values(call)
    assert said["gen_ai.request.model"] == "twin"
    assert said["gen_ai.response.model"] == "scripted"
    assert said["gen_ai.conversation.id"] == "talk-1"
    assert said["http.response.status_code"] == 200
    assert str(said["twin.call_id"]).startswith("call_")
    assert asked
    for span in asked:
        assert span.parent_span_id == call.span_id
        assert call.start_time_unix_nano <= span.start_time_unix_nano
        assert span.start_time_unix_nano <= span.end_time_unix_nano <= call.end_time_unix_nano
    answered = values(asked[-1])
    assert answered["gen_ai.provider.name"] == "scripted"
    tokens = (answered["gen_ai.usage.input_tokens"], answered["gen_ai.usage.output_tokens"])
    assert all(isinstance(count, int) and count > 0 for count in tokens)


def test_every_call_is_told_once_under_its_operation(told: Receiver) -> None:
    calls = [span for span in told.spans if span.kind == Span.SPAN_KIND_SERVER]
    names = sorted(span.name.split(" ")[0] for span in calls)
    assert names == ["chat"] * 6 + ["embeddings", "text_completion"]
    assert len({values(span)["twin.call_id"] for span in calls}) == 8


def test_a_failure_says_what_failed(told: Receiver) -> None:
    asked = next(span for span in told.spans if values(span).get("gen_ai.request.model") == "gpt-x")
    assert asked.kind == Span.SPAN_KIND_CLIENT
    assert asked.status.code == Status.STATUS_CODE_ERROR
    assert values(asked)[error_attributes.ERROR_TYPE] == "no_answer"
    assert values(asked)["gen_ai.provider.name"] == "openai"
    call = next(span for span in told.spans if span.span_id == asked.parent_span_id)
    assert call.status.code == Status.STATUS_CODE_ERROR
    assert values(call)[error_attributes.ERROR_TYPE] == "502"


def test_all_names_are_those_of_the_conventions_or_begin_with_our_own(told: Receiver) -> None:
    known = {
        value
        for module in (gen_ai_attributes, error_attributes, http_attributes)
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, str)
    }
    operations = {value.value for value in gen_ai_attributes.GenAiOperationNameValues}
    for span in told.spans:
        said = values(span)
        assert said["gen_ai.operation.name"] in operations
        assert {name for name in said if not name.startswith("twin.")} <= known
        assert "" not in said.values()


def test_no_texts_are_in_traces(told: Receiver) -> None:
    assert told.requests
    assert WORDS.encode() not in b"".join(found.SerializeToString() for found in told.requests)


@pytest.mark.slow
def test_a_receiver_that_is_down_changes_nothing_and_is_complained_of_once(
    serving: Callable[..., Served],
) -> None:
    url = unused_url().removesuffix("/v1")
    served = serving(f'[serve]\notlp_endpoint = "{url}"\n', OTEL_BSP_SCHEDULE_DELAY="50")
    for _ in range(30):
        assert served.chat()[0] == 200
    served.until(lambda: url.split("/")[2].split(":")[1] in served.log.read_text())
    for _ in range(10):
        assert served.chat()[0] == 200
    assert served.stop() == 0
    lines = served.log.read_text().splitlines()
    assert 1 <= len(lines) <= 4
    for line in lines:
        assert json.loads(line)["level"] in ("warning", "error")
