"""Will this answer do? Judged before its first byte goes out, so that a better model can be asked.

Owns the findings (what can be seen to be wrong with an answer) and the arithmetic that makes a
probability of them: a logistic model over findings in [0, 1], so that what was recorded can refit
it (`train.answer`). Asks no model and knows no subject: it sees answers that failed, not answers
that are false. Only token log-probabilities, where the backend gives them, say how sure the model
itself was.

The untrained weights are judgements, not measurements: a clean answer without log-probabilities is
taken to do in four cases of five, and any grave finding alone brings it below one half.
"""

import math
import re
import zlib
from collections.abc import Mapping
from typing import Final

import msgspec

from twin.errors import StoreCorrupt
from twin.records import Answer, Judgement, Question

_MAGIC: Final = b"twin-answer-check\0"
_MAX_BYTES: Final = 1_000_000
_READ_CHARS: Final = 8_000
"""Of a long answer's two ends: where refusals begin and loops end."""
_MAX_JSON: Final = 4_000_000
_SMALL_BUDGET: Final = 64
"""Tokens. Who asks for so few wants the answer cut there."""

_REFUSALS: Final = re.compile(
    r"\bi(?:'m| am)? (?:(?:really |very |so )?sorry,? (?:but )?(?:i )?)?"
    r"(?:can't|cannot|can not|am unable to|'m unable to|won't|will not|am not able to|"
    r"'m not able to|must decline to|have to decline to|am not allowed to)"
    r" (?:help|assist|provide|comply|fulfil|fulfill|answer|do that|create|generate|write|discuss|"
    r"engage|continue|support|process|share|complete)"
    r"|\bunable to (?:help|assist|comply|fulfil|fulfill) |\bas an ai\b|\bagainst my guidelines\b"
    r"|\bich kann (?:dir|ihnen|ihr|das|dabei)?\b.{0,40}\bnicht (?:helfen|beantworten|weiterhelfen)"
    r"|\btut mir leid, (?:aber )?(?:das|ich kann)|\bals ki\b"
    r"|\bje (?:ne peux pas|suis désolée?,? mais|ne suis pas en mesure)|\ben tant qu'ia\b"
    r"|\bno puedo (?:ayudar|responder|proporcionar|cumplir)|\blo siento,? pero no\b"
    r"|\bnon posso (?:aiutar|risponder|fornir)|\bmi dispiace,? ma non\b"
    r"|\bnão posso (?:ajudar|responder|fornecer)|\bdesculpe,? mas não\b"
    r"|\bik kan (?:je|u|daar|dat) (?:niet|hier niet)|\bhet spijt me,? maar\b"
    r"|не могу (?:помочь|ответить|предоставить)|к сожалению, я не"
    r"|申し訳ありませんが|お手伝いできません|抱歉,?,?我(?:无法|不能)|对不起,?,?我(?:无法|不能)|我无法提供"
)  # fmt: skip
_HEDGES: Final = re.compile(
    r"\bi (?:don't|do not) (?:actually |really )?(?:know|have (?:access|enough|information|any "
    r"information))|\bi(?:'m| am) (?:not|un)[ -]?(?:sure|certain)\b"
    r"|\b(?:it is|it's) (?:unclear|impossible to (?:say|tell|determine))"
    r"|\b(?:cannot|can't) (?:be determined|determine|tell|say for (?:sure|certain)|verify)\b"
    r"|\b(?:without|need|require) (?:more|further|additional) (?:information|context|details)"
    r"|\bplease (?:provide|share|clarify|give) (?:me )?(?:more|the|your|further)"
    r"|\bi(?:'m| am) guessing|\bmy best guess\b|\bweiß ich nicht\b|\bich weiß (?:es )?nicht"
    r"|\bje ne sais pas\b|\bno lo sé\b|\bno estoy segur|\bnon lo so\b|\bnão sei\b|не знаю"
    r"|わかりません|不知道|不确定"
)
_FENCE: Final = re.compile(r"\A```[a-zA-Z]*\n(.*)\n```\Z", re.DOTALL)

SAID: Final[Mapping[str, str]] = {
    "empty": "the answer is empty",
    "refusal": "the answer is a refusal",
    "hedge": "the answer says that it does not know",
    "truncated": "the answer was cut at the token limit",
    "broken_off": "the answer broke off",
    "filtered": "the provider's content filter stopped the answer",
    "bad_json": "the answer is not the JSON that was asked for",
    "bad_tool_call": "a tool call has arguments that are no JSON object",
    "repetition": "the answer repeats itself",
    "echo": "the answer repeats the question",
    "unsure": "the model was unsure of its words",
    "unsure_somewhere": "the model was unsure of some words",
}
"""Finding -> the reason that people read. The last two only where there are log-probabilities."""
UNTRAINED: Final[Mapping[str, float]] = {
    "empty": -9.0, "refusal": -3.5, "hedge": -2.0, "truncated": -2.5, "broken_off": -4.5,
    "filtered": -6.0, "bad_json": -5.0, "bad_tool_call": -5.0, "repetition": -4.0,
    "echo": -3.0, "unsure": -4.0, "unsure_somewhere": -3.0,
}  # fmt: skip
"""Weights before anything was recorded."""


class AnswerCheck(msgspec.Struct, frozen=True, kw_only=True):
    """A logistic model: the logit of P(the answer will do) is bias + sum of weight * finding."""

    bias: float = 1.4
    weights: dict[str, float] = msgspec.field(default_factory=lambda: dict(UNTRAINED))

    def judge(self, answer: Answer, question: Question) -> Judgement:
        """Never raises, whatever the texts."""
        found = findings(answer, question)
        parts = {name: self.weights.get(name, 0.0) * value for name, value in found.items()}
        logit = min(max(self.bias + sum(parts.values()), -30.0), 30.0)
        worst = min(parts, key=parts.__getitem__, default="")
        return Judgement(
            confidence=1 / (1 + math.exp(-logit)),
            reason=SAID.get(worst, worst) if worst and parts[worst] < -0.1 else "",
        )

    def to_bytes(self) -> bytes:
        packed = msgspec.msgpack.encode(self)
        return _MAGIC + zlib.crc32(packed).to_bytes(4, "big") + packed

    @classmethod
    def from_bytes(cls, data: bytes) -> "AnswerCheck":
        """Raises StoreCorrupt for bytes that are no answer check."""
        start = len(_MAGIC) + 4
        packed = data[start:]
        try:
            if not data.startswith(_MAGIC) or len(data) > _MAX_BYTES:
                raise ValueError("it is something else")
            if zlib.crc32(packed) != int.from_bytes(data[len(_MAGIC) : start], "big"):
                raise ValueError("its checksum does not match")
            check = msgspec.msgpack.decode(packed, type=cls)
            if not all(map(math.isfinite, (check.bias, *check.weights.values()))):
                raise ValueError("its weights are no numbers")
        except (msgspec.DecodeError, ValueError) as error:
            raise StoreCorrupt(
                f"The answer check cannot be read ({error}). Fit it again from recorded calls."
            ) from error
        return check


DEFAULT: Final = AnswerCheck()


def judge(answer: Answer, question: Question) -> Judgement:
    """By the untrained weights."""
    return DEFAULT.judge(answer, question)


def findings(answer: Answer, question: Question) -> dict[str, float]:
    """What is wrong with an answer, each in (0, 1]; what is not wrong is not in it."""
    text = answer.text
    start = _plain(text[:_READ_CHARS])
    found = {
        "empty": float(not text.strip() and not answer.tool_calls),
        "refusal": _refusal(answer, start),
        "hedge": _hedge(start, len(text)),
        "truncated": _truncated(answer, question),
        "broken_off": float(answer.finish_reason == ""),
        "filtered": float(answer.finish_reason == "content_filter"),
        "bad_json": _bad_json(answer, question),
        "bad_tool_call": float(any(_is_bad(c.arguments, c.name) for c in answer.tool_calls)),
        "repetition": _repetition(text),
        "echo": _echo(start, question),
        **_unsure(answer.logprobs),
    }  # fmt: skip
    return {name: value for name, value in found.items() if value > 0}


def _plain(text: str) -> str:
    """Lower case, one kind of apostrophe, single blanks."""
    same = text.replace("\u2019", "'").replace("\u2018", "'").replace("\0", " ")
    return " ".join(same.lower().split())


def _refusal(answer: Answer, start: str) -> float:
    if answer.is_refusal:
        return 1.0
    if answer.tool_calls:
        return 0.0
    # Refusals open an answer; further on, the words are part of a letter or a story.
    return float(_REFUSALS.search(start[:240]) is not None)


def _hedge(start: str, length: int) -> float:
    if not _HEDGES.search(start[:400]):
        return 0.0
    return 1.0 if length < 600 else 0.4


def _truncated(answer: Answer, question: Question) -> float:
    if answer.finish_reason != "length":
        return 0.0
    wanted = question.max_tokens
    return 0.0 if wanted is not None and 0 < wanted <= _SMALL_BUDGET else 1.0


def _bad_json(answer: Answer, question: Question) -> float:
    if not question.wants_json or answer.tool_calls or not answer.text.strip():
        return 0.0
    text = answer.text.strip()
    if _parses(text):
        return 0.0
    fenced = _FENCE.match(text)
    # Some callers look for the fence, most do not.
    return 0.5 if fenced and _parses(fenced[1]) else 1.0


def _is_bad(arguments: str, name: str) -> bool:
    """No arguments at all is what a tool without parameters gets from some models."""
    if not name:
        return True
    return bool(arguments.strip()) and not _parses(arguments, kind=dict)


def _parses(text: str, kind: type = object) -> bool:
    if len(text) > _MAX_JSON:
        return True  # nobody knows; not worth a second of waiting
    try:
        return isinstance(msgspec.json.decode(text.encode("utf-8", "replace")), kind)
    except (msgspec.DecodeError, RecursionError):
        return False


def _repetition(text: str) -> float:
    """Loops compress far better than any prose, code or table: English to 0.45 of its size, JSON
    records to 0.2, a sentence over and over to 0.05."""
    tail = text[-2_000:].encode("utf-8", "replace")
    if len(tail) >= 300 and len(zlib.compress(tail, 6)) / len(tail) < 0.10:
        return 1.0
    words = text[-_READ_CHARS:].split()
    return float(len(words) >= 20 and len(set(words)) / len(words) < 0.12)


def _echo(start: str, question: Question) -> float:
    asked = _plain(question.text[:_READ_CHARS])
    if len(asked) < 30 or len(start) < 30:
        return 0.0
    rest = len(start) - len(asked)
    if start.startswith(asked):
        return float(rest < 0.2 * len(asked))
    return float(start in asked and len(start) > 0.8 * len(asked))


def _unsure(logprobs: tuple[float, ...] | None) -> dict[str, float]:
    """From log-probabilities: how far the mean token lies below 0.9, and the share of tokens that
    were less likely than three in ten."""
    values = [max(value, -20.0) for value in logprobs or () if not math.isnan(value)]
    if not values:
        return {}
    typical = math.exp(min(sum(values) / len(values), 0.0))
    rare = sum(value < math.log(0.3) for value in values) / len(values)
    return {"unsure": max(0.9 - typical, 0.0) / 0.9, "unsure_somewhere": min(3 * rare, 1.0)}
