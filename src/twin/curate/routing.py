"""From recorded calls, or a file of evaluation answers, to examples that a router can learn from.

Owns what counts as a good answer of the small tier, and what is left out and why. Every example
says where it comes from and how its outcome is known:

- *feedback*: somebody scored the answer that went out; the latest score counts. A demonstration
  without a score says that the answer was not the right one.
- *escalated*: the small tier's answer was not good enough to go out; it counts as the confidence
  that the answer's check gave it, at most one half. The big one's counts as good unless scored.
- *asked again*: the same request came again in the same session within ten minutes.
- *accepted*: the answer went out and nobody complained. The weakest of the four.

Where a request was asked several times, one example stays: the best known, then the newest. Oldest
first, so that splitting by position is splitting by time.
"""

import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from twin.backends.dialects import question
from twin.errors import BadRequest, UsageError
from twin.records import Attempt, Call, Feedback, Question, RoutingExample

ASKED_AGAIN_S: Final = 600.0
MAX_LINE: Final = 4_000_000
"""Characters; a longer line is no question."""

_RANK: Final = {"feedback": 3, "measured": 3, "escalated": 2, "asked again": 1, "accepted": 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Curated:
    """Examples, oldest first, and how many candidates each reason removed."""

    examples: tuple[RoutingExample, ...]
    dropped: dict[str, int]


def from_calls(
    calls: Iterable[Call],
    feedback: Callable[[str], Sequence[Feedback]],
    *,
    small: frozenset[str],
    big: frozenset[str],
) -> Curated:
    """What recorded traffic says; `small` and `big` are names of configured models.

    `feedback` gives what was said of a call, by its id.
    """
    dropped: Counter[str] = Counter()
    found: list[RoutingExample] = []
    for call in calls:
        example = _example(call, feedback(call.call_id), small, big)
        if isinstance(example, str):
            dropped[example] += 1
        else:
            found.append(example)
    found.sort(key=lambda example: (example.at or 0.0, example.source))
    distinct = _distinct(_asked_again(found))
    if len(distinct) < len(found):
        dropped["asked before"] = len(found) - len(distinct)
    return Curated(examples=tuple(distinct), dropped=dict(dropped))


def _example(
    call: Call, said: Sequence[Feedback], small: frozenset[str], big: frozenset[str]
) -> RoutingExample | str:
    """The example, or why there is none."""
    if call.dialect == "embeddings":
        return "no question"
    if call.outcome != "ok" or call.is_degraded:
        return f"call {'degraded' if call.is_degraded else call.outcome}"
    answered = [one for one in call.attempts if one.outcome in ("ok", "escalated")]
    ours = _last(answered, small)
    theirs = _last([one for one in answered if one.outcome == "ok"], big)
    if ours is None and theirs is None:
        return "answered outside the tiers"
    try:
        asked = question(call.dialect, call.request)
    except BadRequest:
        return "unreadable request"
    if not asked.text.strip():
        return "no question"
    score = _score(said)
    weak, strong, reason = _outcome(ours, theirs, score)
    return RoutingExample(
        question=asked,
        weak=weak,
        strong=strong,
        at=call.at,
        group=call.session,
        source=call.call_id,
        reason=reason,
    )


def _last(attempts: Sequence[Attempt], models: frozenset[str]) -> Attempt | None:
    return next((one for one in reversed(attempts) if one.model in models), None)


def _score(said: Sequence[Feedback]) -> float | None:
    for one in sorted(said, key=lambda one: one.at, reverse=True):
        if one.score is not None:
            return min(max(one.score, 0.0), 1.0)
        if one.demonstration:
            return 0.0
    return None


def _outcome(
    ours: Attempt | None, theirs: Attempt | None, score: float | None
) -> tuple[float | None, float | None, str]:
    """(small answer, big answer, how it is known). The score is about what went out."""
    went_out = 1.0 if score is None else score
    if theirs is None:
        return went_out, None, "accepted" if score is None else "feedback"
    if ours is None:
        return None, went_out, "accepted" if score is None else "feedback"
    # That the check was unsure is no proof that the answer was wrong: its doubt is kept as it is.
    doubt = 0.0 if ours.confidence is None else min(ours.confidence, 0.5)
    return doubt, went_out, "escalated"


def _key(example: RoutingExample) -> bytes:
    asked = example.question
    text = f"{asked.system}\0{' '.join(asked.text.split())}\0{asked.num_messages}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _asked_again(examples: Sequence[RoutingExample]) -> Iterator[RoutingExample]:
    """Turns acceptance into its opposite where the same session asks the same soon after."""
    next_at: dict[tuple[str, bytes], float] = {}
    turned: list[RoutingExample] = []
    for example in reversed(examples):
        key = (example.group, _key(example))
        at = example.at or 0.0
        again = example.group and next_at.get(key, float("inf")) - at <= ASKED_AGAIN_S
        if again and example.reason == "accepted" and example.weak is not None:
            example = msgspec.structs.replace(example, weak=0.0, reason="asked again")
        next_at[key] = at
        turned.append(example)
    return reversed(turned)


def _distinct(examples: Iterable[RoutingExample]) -> list[RoutingExample]:
    """One example a request; the order stays by time."""
    best: dict[bytes, RoutingExample] = {}
    for example in examples:
        key = _key(example)
        before = best.get(key)
        if before is None or _RANK[example.reason] >= _RANK[before.reason]:
            best.pop(key, None)
            best[key] = example
    return sorted(best.values(), key=lambda example: (example.at or 0.0, example.source))


def read_examples(path: Path) -> Curated:
    """Evaluation answers from JSON lines, gzip or plain: `prompt`, `weak_correct` (a truth or a
    number in [0, 1]), and where known `strong_correct`, `time` (Unix seconds or ISO 8601),
    `subject`, `system`. Oldest first where every line has a time, else in the file's order.

    Raises UsageError with the line's number where one cannot be read.
    """
    found: list[RoutingExample] = []
    seen: set[bytes] = set()
    repeated = 0
    for number, line in _lines(path):
        example = _from_line(line, f"{path.name}:{number}")
        key = _key(example)
        if key in seen:
            repeated += 1
            continue
        seen.add(key)
        found.append(example)
    if found and all(example.at is not None for example in found):
        found.sort(key=lambda example: example.at or 0.0)
    return Curated(examples=tuple(found), dropped={"repeated": repeated} if repeated else {})


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open("rb") as file:
            is_gzip = file.read(2) == b"\x1f\x8b"
        with (gzip.open if is_gzip else open)(path, "rt", encoding="utf-8") as lines:
            number = 0
            while line := lines.readline(MAX_LINE + 1):
                number += 1
                if len(line) > MAX_LINE:
                    raise UsageError(
                        f"Line {number} of {path} is longer than {MAX_LINE} characters. Shorten it."
                    )
                if line.strip():
                    yield number, line
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read ({error}). Give a file of JSON lines.") from error


def _from_line(line: str, where: str) -> RoutingExample:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where} is no JSON ({error}). Mend or remove the line.") from error
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
        raise UsageError(f"{where} has no text in `prompt`. Mend or remove the line.")
    text, system = row["prompt"], row.get("system", "")
    system = system if isinstance(system, str) else ""
    return RoutingExample(
        question=Question(
            text=text,
            system=system,
            num_chars=len(text) + len(system),
            num_prompt_tokens=(len(text) + len(system)) // 4,
        ),
        weak=_quality(row, "weak_correct", where),
        strong=_quality(row, "strong_correct", where),
        at=_time(row.get("time"), where),
        group=str(row.get("subject") or ""),
        source=where,
        reason="measured",
    )


def _quality(row: dict[str, Any], name: str, where: str) -> float | None:
    value = row.get(name)
    if value is None:
        return None
    if not isinstance(value, bool | int | float) or not 0 <= value <= 1:
        raise UsageError(f"{where}: `{name}` must be true, false or a number from 0 to 1.")
    return float(value)


def _time(value: object, where: str) -> float | None:
    if value is None or value == "":
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e11:
        return float(value)
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError as error:
        raise UsageError(f"{where}: `time` must be Unix seconds or ISO 8601.") from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
