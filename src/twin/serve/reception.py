"""Reads what must be known of a call before anything is decided: its head, its conversation, the
headers that count. The body stays as it came.
"""

import hashlib
import zlib

from twin.backends.dialects import RequestHead, estimated_tokens, read_request
from twin.errors import BadRequest
from twin.serve.exchange import Exchange
from twin.serve.fleet import MAX_NAME
from twin.serve.refusal import Refusal

_PASSED_ON = frozenset({b"anthropic-beta", b"openai-beta"})
"""Headers by which clients switch on features of a provider."""
_NO_BODY_KEPT = 4_096
"""Bytes kept of a request that was refused for its form."""


def read_head(exchange: Exchange, headers: dict[bytes, bytes]) -> RequestHead:
    """What must be known of a request before anything is decided, put into the exchange. Raises
    Refusal (400) where the body cannot be read."""
    try:
        head = read_request(exchange.dialect, exchange.body)
    except BadRequest as error:
        exchange.body = exchange.body[:_NO_BODY_KEPT]
        raise Refusal(400, "invalid_request_error", str(error)) from error
    exchange.head = head
    exchange.asked_model = head.model[:MAX_NAME]
    exchange.num_prompt_tokens = estimated_tokens(exchange.body)
    session = headers.get(b"x-twin-session")
    exchange.session = (
        session.decode("latin-1")[:200]
        if session
        else _short(head.session) or _beginning(exchange.body)
    )
    exchange.preference = zlib.crc32(exchange.session.encode("utf-8", "replace"))
    if b"x-twin-task" in headers:
        exchange.task_id = headers[b"x-twin-task"].decode("latin-1")[:200]
    if b"traceparent" in headers:
        exchange.traceparent = headers[b"traceparent"].decode("latin-1")[:200]
    if b"user-agent" in headers:
        exchange.meta = {"user_agent": headers[b"user-agent"].decode("latin-1")[:200]}
    exchange.forwarded = tuple((name, headers[name]) for name in _PASSED_ON if name in headers)
    return head


def _short(session: str) -> str:
    """A name that a caller gave, of any length: what is long ends with a digest of it all."""
    if len(session) <= MAX_NAME:
        return session
    digest = hashlib.blake2b(session.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return f"{session[: MAX_NAME - 20]}...{digest}"


def _beginning(body: bytes) -> str:
    """A name for the conversation: a digest of how its first user message begins, since agents
    send the whole conversation with each call. Found without parsing, which would cost a large
    body 50 us; where the form is unusual, of the kilobyte that follows."""
    user = max(body.find(b'"user"'), 0)
    value = body.find(b'"content"', user, user + 64) + len(b'"content"')
    begins = body[user : user + 1_024]
    if value >= len(b'"content"'):
        if b"[" in body[value : value + 8]:  # a list of parts
            text = body.find(b'"text":', value, value + 1_024)
            value = text + len(b'"text":') if text >= 0 else value
        start = body.find(b'"', value) + 1
        # Up to a quote, escaped or not: all that counts is that it is the same each time.
        end = body.find(b'"', start, start + 512)
        begins = body[start : end if end >= 0 else start + 512]
    return hashlib.blake2b(begins, digest_size=8).hexdigest()
