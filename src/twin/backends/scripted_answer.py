"""An answer of the scripted model in the `chat` dialect, whole and as a stream.

Owns its shape. What is said comes from the script or the demonstration; the other dialects are made
of this one by `dialects`.
"""

import hashlib
import re
import time
from typing import Any

import msgspec

from twin.backends.script import Entry

_TOKEN = re.compile(r"\s*\S+|\s+")


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """What is said to one request."""

    identity: str
    model: str
    tokens: list[str]
    calls: list[dict[str, Any]]
    finish_reason: str
    logprob: float | None
    num_prompt_tokens: int
    reports_usage: bool

    @classmethod
    def to(cls, entry: Entry, request: dict[str, Any], body: bytes) -> "Said":
        """`request` is `body`, decoded; the same body is always answered under the same id."""
        identity = hashlib.blake2b(body, digest_size=12).hexdigest()
        limit = request.get("max_completion_tokens") or request.get("max_tokens")
        tokens = _TOKEN.findall(entry.answer)
        is_cut = isinstance(limit, int) and len(tokens) > limit > 0
        reason = entry.finish_reason or ("tool_calls" if entry.tool_calls else "stop")
        return cls(
            identity=identity,
            model=str(request.get("model", "scripted")),
            tokens=tokens[:limit] if is_cut else tokens,
            calls=[
                {
                    "id": f"call_{identity[:16]}{place}",
                    "type": "function",
                    "function": {
                        "name": call.name,
                        "arguments": call.arguments
                        if isinstance(call.arguments, str)
                        else msgspec.json.encode(call.arguments).decode(),
                    },
                }
                for place, call in enumerate(entry.tool_calls)
            ],
            finish_reason="length" if is_cut else reason,
            logprob=(-0.01 if entry.logprob is None else entry.logprob)
            if request.get("logprobs")
            else None,
            num_prompt_tokens=len(body) // 4,
            reports_usage=bool((request.get("stream_options") or {}).get("include_usage")),
        )

    @property
    def usage(self) -> dict[str, int]:
        num_completion = len(self.tokens) + 8 * len(self.calls)
        return {
            "prompt_tokens": self.num_prompt_tokens,
            "completion_tokens": num_completion,
            "total_tokens": self.num_prompt_tokens + num_completion,
        }

    def whole(self) -> bytes:
        """The body of a `chat.completion`."""
        text = "".join(self.tokens)
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if self.calls:
            message |= {"content": text or None, "tool_calls": self.calls}
        choice = {
            "index": 0,
            "message": message,
            "logprobs": self._logprobs(self.tokens),
            "finish_reason": self.finish_reason,
        }
        body = {**self._top("chat.completion"), "choices": [choice], "usage": self.usage}
        return msgspec.json.encode(body)

    def events(self, *, has_usage: bool) -> list[bytes]:
        """The same as a stream: an event for each token, the closing mark included."""
        deltas = [_delta({"role": "assistant", "content": ""}, None)]
        deltas += [_delta({"content": token}, self._logprobs([token])) for token in self.tokens]
        deltas += [
            _delta({"tool_calls": [{"index": place, **call}]}, None)
            for place, call in enumerate(self.calls)
        ]
        deltas.append({**_delta({}, None), "finish_reason": self.finish_reason})
        top = self._top("chat.completion.chunk")
        chunks = [{**top, "choices": [delta]} for delta in deltas]
        if has_usage:
            chunks.append({**top, "choices": [], "usage": self.usage})
        return [b"data: %s\n\n" % msgspec.json.encode(chunk) for chunk in chunks] + [
            b"data: [DONE]\n\n"
        ]

    def _top(self, kind: str) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{self.identity}",
            "object": kind,
            "created": int(time.time()),
            "model": self.model,
        }

    def _logprobs(self, tokens: list[str]) -> dict[str, Any] | None:
        if self.logprob is None:
            return None
        return {
            "content": [
                {
                    "token": token,
                    "logprob": self.logprob,
                    "bytes": list(token.encode()),
                    "top_logprobs": [],
                }
                for token in tokens
            ],
            "refusal": None,
        }


def _delta(delta: dict[str, Any], logprobs: dict[str, Any] | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": None}
