"""OpenTelemetry traces of calls, after its conventions for generative AI.

A span for each call and one below it for each question put to a model, sent in batches from a
thread. Holds names, counts and times; never texts. Needs the extra `otel`.
Source of the names: https://opentelemetry.io/docs/specs/semconv/gen-ai/
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from twin import __version__
from twin.config import ModelConfig
from twin.errors import MissingRequirement
from twin.records import Attempt, CallOutcome, DialectName
from twin.serve.exchange import Exchange

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

_OPERATIONS: dict[DialectName, str] = {
    "chat": "chat",
    "messages": "chat",
    "responses": "chat",
    "completions": "text_completion",
    "embeddings": "embeddings",
}
_PROVIDERS = {"openai": "openai", "anthropic": "anthropic", "together": "together_ai"}
"""Well-known names; servers of one's own go by the name that the configuration has."""


def provider_for(endpoint: str) -> "TracerProvider":
    """Sends spans to `endpoint` (OTLP over HTTP). Raises MissingRequirement without the extra."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise MissingRequirement(
            "`serve.otlp_endpoint` is set, but OpenTelemetry is not installed. "
            "Install with: pip install 'cognitive-twin[otel]'"
        ) from error
    resource = Resource.create({"service.name": "twin", "service.version": __version__})
    provider = TracerProvider(resource=resource)
    # A receiver that is down would hold the shutdown up for as long.
    exporter = OTLPSpanExporter(endpoint=endpoint.rstrip("/") + "/v1/traces", timeout=3)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


class Tracing:
    """Turns calls that are over into spans."""

    def __init__(
        self,
        provider: "TracerProvider",
        models: dict[str, ModelConfig],
        clean: Callable[[str], str],
    ) -> None:
        """`clean` takes secrets out of names that callers choose."""
        self.models = models
        self._clean = clean
        self._provider = provider
        self._tracer = provider.get_tracer("twin.serve", __version__)

    def observe(self, exchange: Exchange, outcome: CallOutcome, status: int) -> None:
        """An observer of the gateway."""
        from opentelemetry import trace

        operation = _OPERATIONS[exchange.dialect]
        asked = self._clean(exchange.asked_model)
        parent = self._tracer.start_span(
            f"{operation} {asked}",
            kind=trace.SpanKind.SERVER,
            start_time=_ns(exchange.at),
            context=_context_of(exchange.traceparent),
            attributes=_known(
                {
                    "gen_ai.operation.name": operation,
                    "gen_ai.request.model": asked,
                    "gen_ai.response.model": exchange.model,
                    "gen_ai.conversation.id": self._clean(exchange.session),
                    "http.response.status_code": status,
                    "twin.call_id": exchange.call_id,
                    "twin.outcome": outcome,
                    "twin.degraded": exchange.degraded,
                    "twin.route": exchange.route.reason if exchange.route else "",
                }
            ),
        )
        below = trace.set_span_in_context(parent)
        for attempt in exchange.attempts:
            began = exchange.at + attempt.started_ms / 1000.0
            span = self._tracer.start_span(
                f"{operation} {attempt.upstream_model}",
                kind=trace.SpanKind.CLIENT,
                start_time=_ns(began),
                context=below,
            )
            self._describe(span, attempt, operation)
            span.end(_ns(began + attempt.latency_ms / 1000.0))
        if outcome == "failed":
            parent.set_status(trace.StatusCode.ERROR)
            parent.set_attribute("error.type", str(status))
        parent.end(_ns(exchange.at + exchange.ms() / 1000.0))

    def _describe(self, span: "Span", attempt: Attempt, operation: str) -> None:
        model = self.models.get(attempt.model)
        provider = model.provider if model else ""
        span.set_attributes(
            _known(
                {
                    "gen_ai.operation.name": operation,
                    "gen_ai.provider.name": _PROVIDERS.get(provider, provider),
                    "gen_ai.request.model": attempt.upstream_model,
                    "http.response.status_code": attempt.status,
                    "twin.outcome": attempt.outcome,
                }
            )
        )
        if attempt.usage is not None:
            span.set_attribute("gen_ai.usage.input_tokens", attempt.usage.num_prompt_tokens)
            span.set_attribute("gen_ai.usage.output_tokens", attempt.usage.num_completion_tokens)
        if attempt.outcome == "failed":
            from opentelemetry.trace import StatusCode

            span.set_attribute("error.type", str(attempt.status or "no_answer"))
            span.set_status(StatusCode.ERROR, attempt.reason)

    def close(self) -> None:
        """Sends what is left."""
        self._provider.shutdown()


def _context_of(traceparent: str) -> "Context | None":
    """The caller's own span, where it sent one (W3C trace context)."""
    if not traceparent:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({"traceparent": traceparent})


def _known(attributes: Mapping[str, str | int]) -> dict[str, str | int]:
    """Without what there is nothing to say of: an empty name would be a name."""
    return {name: value for name, value in attributes.items() if value or value is False}


def _ns(unix_seconds: float) -> int:
    return int(unix_seconds * 1e9)
