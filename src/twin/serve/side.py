"""What stands beside the models: their list, feedback, token counts, health and readiness."""

import os
import time
from collections.abc import Callable

import msgspec

from twin.backends.dialects import read_request
from twin.config import ROUTED
from twin.errors import BadRequest
from twin.records import Feedback
from twin.serve.gateway import Gateway
from twin.serve.keyring import Holder, secret_in
from twin.serve.refusal import Refusal

Answer = tuple[int, object]


class _FeedbackBody(msgspec.Struct, forbid_unknown_fields=True):
    call_id: str
    score: float | None = None
    comment: str = ""
    demonstration: str = ""


class Side:
    """The endpoints that ask no model."""

    def __init__(
        self,
        gateway: Gateway,
        warnings: Callable[[], list[str]],
        is_admin: Callable[[dict[bytes, bytes]], bool] = lambda headers: False,
    ) -> None:
        """`warnings` gives a sentence for everything that is wrong and stops no call; `is_admin`
        says whether a request brings the admin key."""
        self.gateway = gateway
        self.is_draining = False
        self._warnings = warnings
        self._is_admin = is_admin
        self._began = int(time.time())

    async def health(self, headers: dict[bytes, bytes], body: bytes) -> Answer:
        """The process is alive."""
        return 200, {"status": "ok"}

    async def ready(self, headers: dict[bytes, bytes], body: bytes) -> Answer:
        """Calls can be answered and recorded: in the journal, whatever the store does meanwhile. To
        strangers only yes or no."""
        problems: list[str] = []
        if self.is_draining:
            problems = ["The gateway is shutting down."]
        if self.gateway.scribe.failure:
            problems = [*problems, f"Calls cannot be recorded: {self.gateway.scribe.failure}"]
        open_breakers = [
            name
            for name, member in self.gateway.fleet.members.items()
            if member.breaker.state == "open"
        ]
        if open_breakers and len(open_breakers) == len(self.gateway.fleet.members):
            problems = [*problems, "Every model has failed repeatedly and rests."]
        status, word = (503, "not ready") if problems else (200, "ready")
        if not self._is_known(headers):
            return status, {"status": word}
        return status, {
            "status": word,
            "problems": problems,
            "warnings": self._warnings(),
            "resting": open_breakers,
        }

    async def metrics(self, headers: dict[bytes, bytes]) -> bytes:
        """Figures for Prometheus. They name models and tell what they cost: raises Refusal (401)
        where keys are needed and none is sent."""
        if not self._is_known(headers):
            self.gateway.keyring.find(headers)
        return self.gateway.metrics.exposition()

    def _is_known(self, headers: dict[bytes, bytes]) -> bool:
        if not self.gateway.requires_keys or self._is_admin(headers):
            return True
        try:
            self.gateway.keyring.find(headers)
        except Refusal:
            return False
        return True

    async def models(self, headers: dict[bytes, bytes], body: bytes) -> Answer:
        """The names that can be asked for, in the shape that the client's family expects."""
        names = self._allowed(headers)
        if b"anthropic-version" in headers:
            listed = [self._for_anthropic(name) for name in names]
            ends = {
                "first_id": names[0] if names else None,
                "last_id": names[-1] if names else None,
            }
            return 200, {"data": listed, "has_more": False, **ends}
        return 200, {"object": "list", "data": [self._for_openai(name) for name in names]}

    async def model(self, headers: dict[bytes, bytes], name: str) -> Answer:
        """One of them."""
        if name not in self._allowed(headers):
            self.gateway.fleet.resolve(name)  # says which name is near
        shape = self._for_anthropic if b"anthropic-version" in headers else self._for_openai
        return 200, shape(name)

    async def feedback(self, headers: dict[bytes, bytes], body: bytes) -> Answer:
        """What somebody thinks of a call; joined to it by its number."""
        holder = self._holder(headers)
        if holder is not None:
            holder.begin(0)  # it is written and kept as a call is
        try:
            said = msgspec.json.decode(body, type=_FeedbackBody)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Refusal(
                400,
                "invalid_request_error",
                f"{error}. Send call_id (the answer's x-request-id) and score, comment or "
                "demonstration.",
            ) from error
        if said.score is not None and not 0.0 <= said.score <= 1.0:
            raise Refusal(400, "invalid_request_error", "`score` lies between 0 and 1.")
        if said.score is None and not said.comment and not said.demonstration:
            raise Refusal(
                400, "invalid_request_error", "Say something: a score, comment or demonstration."
            )
        if not said.call_id.startswith("call_") or len(said.call_id) != 37:
            raise Refusal(
                400,
                "invalid_request_error",
                "`call_id` is the header x-request-id of the answer: `call_` and 32 digits.",
            )
        entry = Feedback(
            feedback_id="fb_" + os.urandom(16).hex(),
            call_id=said.call_id,
            at=time.time(),
            score=said.score,
            comment=said.comment,
            demonstration=said.demonstration,
            key_id=holder.key.key_id if holder else "",
        )
        self.gateway.scribe.write(entry)
        await self.gateway.scribe.durable()
        return 201, {"feedback_id": entry.feedback_id, "call_id": entry.call_id}

    async def count_tokens(self, headers: dict[bytes, bytes], body: bytes) -> Answer:
        """An estimate, a quarter of the characters: the models here have different tokenizers."""
        self._holder(headers)
        try:
            read_request("messages", body)
        except BadRequest as error:
            raise Refusal(400, "invalid_request_error", str(error)) from error
        return 200, {"input_tokens": max(1, len(body) // 4)}

    def _allowed(self, headers: dict[bytes, bytes]) -> list[str]:
        names = self.gateway.fleet.names
        if self.gateway.requires_keys:
            holder = self.gateway.keyring.find(headers)
            names = [name for name in names if holder.may_ask(name)]
        return names

    def _holder(self, headers: dict[bytes, bytes]) -> Holder | None:
        if self.gateway.requires_keys or secret_in(headers).startswith(b"twin-"):
            return self.gateway.keyring.find(headers)
        return None

    def _for_openai(self, name: str) -> dict[str, object]:
        return {"id": name, "object": "model", "created": self._began, "owned_by": "twin"}

    def _for_anthropic(self, name: str) -> dict[str, object]:
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._began))
        shown = "The router's choice" if name == ROUTED else name
        return {"type": "model", "id": name, "display_name": shown, "created_at": moment}
