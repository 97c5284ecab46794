"""The wire formats that callers and models speak: what must be read of them, and how one is said in
another's words.

Chat is the hub: `responses` and `completions` are translated to it, it is translated to and from
Anthropic's `messages`, and answers go the same way back. Embeddings are never translated. Within
one dialect nothing is: bytes pass as they came. Each module says what its direction drops.
"""

from collections.abc import Callable
from functools import partial

import msgspec

from twin.backends.dialects import (
    answers,
    chat_to_messages,
    completions_to_chat,
    messages_to_chat,
    responses_to_chat,
)
from twin.backends.dialects.answer import answer_in, answer_of
from twin.backends.dialects.blocks import Json, answer_object
from twin.backends.dialects.estimate import estimated_tokens
from twin.backends.dialects.faults import error_body, error_event, error_type
from twin.backends.dialects.inject import put_before
from twin.backends.dialects.question import question
from twin.backends.dialects.request import RequestHead, read_request, with_model
from twin.backends.dialects.spans import object_of
from twin.backends.dialects.stream_to_chat import ChatToCompletions, MessagesToChat
from twin.backends.dialects.stream_to_messages import ChatToMessages
from twin.backends.dialects.stream_to_responses import ChatToResponses
from twin.backends.dialects.streams import AsItIs, Chain, StreamTranslator
from twin.backends.dialects.unfold import stream_from_whole
from twin.backends.dialects.usage import usage_of
from twin.backends.dialects.whole import stream_ended, whole_from_stream
from twin.errors import BackendBroken, BadRequest, Untranslatable
from twin.records import DialectName

__all__ = [
    "RequestHead",
    "StreamTranslator",
    "answer_in",
    "answer_of",
    "can_translate",
    "error_body",
    "error_event",
    "error_type",
    "estimated_tokens",
    "put_before",
    "question",
    "read_request",
    "stream_ended",
    "stream_from_whole",
    "stream_translator",
    "translate_request",
    "translate_response",
    "usage_of",
    "whole_from_stream",
    "with_model",
]

Pair = tuple[DialectName, DialectName]

REQUESTS: dict[Pair, tuple[Callable[[Json], Json], ...]] = {
    ("chat", "messages"): (chat_to_messages.request,),
    ("messages", "chat"): (messages_to_chat.request,),
    ("responses", "chat"): (responses_to_chat.request,),
    ("responses", "messages"): (responses_to_chat.request, chat_to_messages.request),
    ("completions", "chat"): (completions_to_chat.request,),
    ("completions", "messages"): (completions_to_chat.request, chat_to_messages.request),
}
"""From the caller's dialect to the model's; the steps in order."""

RESPONSES: dict[Pair, tuple[Callable[[Json, str], Json], ...]] = {
    ("messages", "chat"): (answers.messages_to_chat,),
    ("chat", "messages"): (answers.chat_to_messages,),
    ("chat", "responses"): (answers.chat_to_responses,),
    ("messages", "responses"): (answers.messages_to_chat, answers.chat_to_responses),
    ("chat", "completions"): (answers.chat_to_completions,),
    ("messages", "completions"): (answers.messages_to_chat, answers.chat_to_completions),
}
"""From the model's dialect back to the caller's."""


def can_translate(source: DialectName, target: DialectName) -> bool:
    """A caller of `source` can be answered by a model that speaks `target`."""
    return source == target or (source, target) in REQUESTS


def translate_request(source: DialectName, target: DialectName, body: bytes) -> bytes:
    """Raises Untranslatable with a sentence where `target` has no words for something in it, and
    BadRequest where it is not what `source` says. Put the model's own name in first: OpenAI's
    models call the bound on the answer otherwise than the rest."""
    if source == target:
        return body
    steps = REQUESTS.get((source, target))
    if steps is None:
        raise Untranslatable(
            f"No request of `{source}` can be asked in `{target}`; name a model that speaks"
            f" `{source}`."
        )
    request = object_of(body)
    try:
        for step in steps:
            request = step(request)
    except (TypeError, AttributeError, LookupError):
        raise BadRequest(
            f"A field of the request has another type than `{source}` documents; correct it."
        ) from None
    return msgspec.json.encode(request)


def translate_response(source: DialectName, target: DialectName, body: bytes, model: str) -> bytes:
    """A whole answer of a `source` model for a caller of `target`, with `model` as its name.
    Raises BackendBroken where it is no answer of `source`."""
    if source == target:
        return body
    steps = RESPONSES.get((source, target))
    if steps is None:
        raise Untranslatable(f"No answer of `{source}` can be given in `{target}`; ask in its own.")
    answer = answer_object(body)
    try:
        for step in steps:
            answer = step(answer, model)
    except (TypeError, AttributeError, LookupError):
        raise BackendBroken(
            f"The model's answer is none of the dialect `{source}`; check the model's provider."
        ) from None
    return msgspec.json.encode(answer)


def stream_translator(
    source: DialectName,
    target: DialectName,
    model: str,
    *,
    include_usage: bool = False,
    request_id: str = "",
) -> StreamTranslator:
    """The same for streams. `include_usage`: a caller of chat or completions asked for it;
    `request_id` goes into error events."""
    if source == target:
        return AsItIs()
    to_chat = partial(MessagesToChat, model, request_id)
    to_completions = partial(ChatToCompletions, model, request_id, include_usage=include_usage)
    makers: dict[Pair, Callable[[], StreamTranslator]] = {
        ("messages", "chat"): lambda: to_chat(include_usage=include_usage),
        ("chat", "messages"): lambda: ChatToMessages(model, request_id),
        ("chat", "responses"): lambda: ChatToResponses(model, request_id),
        ("messages", "responses"): lambda: Chain(
            to_chat(include_usage=True), ChatToResponses(model, request_id)
        ),
        ("chat", "completions"): to_completions,
        ("messages", "completions"): lambda: Chain(to_chat(include_usage=True), to_completions()),
    }
    maker = makers.get((source, target))
    if maker is None:
        raise Untranslatable(f"No stream of `{source}` can be given in `{target}`; ask in its own.")
    return maker()
