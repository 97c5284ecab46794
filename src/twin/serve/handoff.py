"""What one tier tells the next: the hand-off, as a structured prefix before the request."""

from datetime import UTC, datetime

import msgspec

from twin.records import Classification, ContextItem, Question

MAX_MESSAGE_CHARS = 4_000
"""Of the original message; the request itself follows in full anyway."""
MAX_DRAFT_CHARS = 2_000
"""Of the answer that was not good enough: it shows what was tried."""


def handoff(
    *,
    from_model: str,
    to_model: str,
    task_id: str,
    question: Question,
    classification: Classification | None,
    context: tuple[ContextItem, ...],
    reason: str,
    at: float,
    draft: str = "",
) -> bytes:
    """The hand-off as JSON, `{"handoff": {...}}`. `draft` is the answer that was judged too weak;
    empty where the request was never put to the smaller model."""
    kinds: dict[str, object] = {}
    if classification is not None:
        kinds = {
            "type": classification.type,
            "complexity": round(classification.complexity, 3),
            "confidence": round(classification.confidence, 3),
            "skill": classification.skill,
            "project": classification.project,
        }
    body: dict[str, object] = {
        "from": from_model,
        "to": to_model,
        "task_id": task_id,
        "original_message": question.text[:MAX_MESSAGE_CHARS],
        "classification": kinds,
        "context": [
            {"source": item.source, "doc_id": item.name, "relevance": round(item.relevance, 3)}
            for item in context
        ],
        "escalation_reason": reason,
        "timestamp": datetime.fromtimestamp(at, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    if draft:
        body["draft"] = draft[:MAX_DRAFT_CHARS]
    return msgspec.json.encode({"handoff": body})


def as_prefix(document: bytes) -> str:
    """How the next model reads it: the JSON, introduced by one sentence."""
    return (
        "A smaller model handed this request over to you. What it knew, as JSON; answer the "
        f"request itself:\n{document.decode('utf-8')}"
    )
