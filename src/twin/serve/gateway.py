"""Answers one call: who may ask, which models, in which order, is the answer good enough.

Owns the order of the steps and the promise that a call is recorded before its answer's last byte.
What each step does stands in the modules it calls. Runs in one event loop; nothing here blocks.
"""

import asyncio
import contextlib

import structlog

from twin.backends.dialects import (
    answer_of,
    put_before,
    question,
)
from twin.config import ROUTED, Config
from twin.errors import BackendError, BadRequest, Untranslatable
from twin.records import (
    Classification,
    DialectName,
    Judgement,
    Question,
)
from twin.serve import judge, route
from twin.serve.asking import Opened, Unanswered, ask, question_for
from twin.serve.client import Client, HangUp, Watch
from twin.serve.delivery import Delivery
from twin.serve.exchange import Exchange
from twin.serve.fleet import Fleet, Member
from twin.serve.handoff import as_prefix, handoff
from twin.serve.inject import NOTHING, Context, Injector
from twin.serve.keyring import Keyring, secret_in
from twin.serve.ledger import Ledger, cost_usd, expected_usd
from twin.serve.limits import Admission
from twin.serve.metrics import Metrics
from twin.serve.reception import read_head
from twin.serve.redact import Redactor
from twin.serve.refusal import Refusal
from twin.serve.scribe import Scribe
from twin.specialists.router import Router

log = structlog.get_logger("twin.serve")


class Gateway:
    """Everything that calls share. `adopt` exchanges what a configuration decides."""

    def __init__(
        self,
        *,
        config: Config,
        fleet: Fleet,
        keyring: Keyring,
        ledger: Ledger,
        scribe: Scribe,
        router: Router,
        injector: Injector,
        metrics: Metrics | None = None,
    ) -> None:
        self.config = config
        self.fleet = fleet
        self.keyring = keyring
        self.ledger = ledger
        self.scribe = scribe
        self.router = router
        self.injector = injector
        self.metrics = metrics or Metrics()
        self.admission = Admission(config.serve)
        self.watch = Watch()
        self.requires_keys = config.serve.require_keys
        self.delivery = Delivery(scribe, self.metrics)

    def adopt(self, config: Config, fleet: Fleet, router: Router, redactor: Redactor) -> None:
        """Goes on with another configuration; calls under way finish with the one they have."""
        self.config = config
        self.fleet = fleet
        self.router = router
        self.scribe.adopt(config.record, redactor)
        self.ledger.adopt(config.budget, fleet.roles)
        self.admission.adopt(config.serve)
        self.injector.adopt(config)

    async def answer(
        self, dialect: DialectName, body: bytes, headers: dict[bytes, bytes], client: Client
    ) -> None:
        """One call, from its body to its answer's last byte. Raises nothing but cancellation."""
        exchange = Exchange(dialect, body)
        self.metrics.began()
        self.watch.begin(client)
        entered = False
        try:
            self.scribe.check()
            self._identify(exchange, headers)  # before the queue: strangers must not fill it
            if not self.admission.try_enter():
                await self.admission.enter()
            entered = True
            await self._answer(exchange, headers, client)
        except Refusal as refusal:
            await self.delivery.refuse(exchange, refusal, client)
        except (BadRequest, Untranslatable) as error:
            said = Refusal(400, "invalid_request_error", str(error))
            await self.delivery.refuse(exchange, said, client)
        except HangUp:
            self.delivery.cancelled(exchange)
        except asyncio.CancelledError:
            self.delivery.cancelled(exchange, "" if client.is_gone else "The gateway shut down.")
            if not client.is_gone:
                raise
        except Exception as error:
            # The one edge of a request: a fault of this program must not end the connection
            # without a word, nor leave the call without a record.
            log.exception("call_failed", call_id=exchange.call_id)
            sentence = f"The gateway failed ({type(error).__name__}); its log has the details."
            await self.delivery.refuse(exchange, Refusal(500, "internal_error", sentence), client)
        finally:
            self.watch.end(client)
            if entered:
                self.admission.leave()
            self._settle(exchange)
            if exchange.holder is not None:
                exchange.holder.used(_num_completion_tokens(exchange))

    async def _answer(
        self, exchange: Exchange, headers: dict[bytes, bytes], client: Client
    ) -> None:
        head = read_head(exchange, headers)
        name = self.fleet.resolve(head.model)
        self._may_ask(exchange, name)
        asked: Question | None = None
        found: Classification | None = None
        if name == ROUTED:
            asked = question(exchange.dialect, exchange.body)
            found = self.router.classify(asked)
            plan = route.routed(self.fleet, self.config.route, asked, found)
        else:
            plan = route.named(self.fleet, name)
        exchange.route = plan.decision
        found_context = NOTHING
        wanted = headers.get(b"x-twin-context", b"").lower()
        if any(self._takes_context(step.member, exchange.dialect, wanted) for step in plan.steps):
            asked = asked or question(exchange.dialect, exchange.body)
            found_context = await self.injector.find(asked)
        await self._walk(exchange, plan, asked, client, found_context, wanted)

    def _identify(self, exchange: Exchange, headers: dict[bytes, bytes]) -> None:
        """Whose call it is. On loopback no key is needed, but one of ours counts all the same."""
        if self.requires_keys or secret_in(headers).startswith(b"twin-"):
            exchange.holder = self.keyring.find(headers)

    def _takes_context(self, member: Member, dialect: DialectName, wanted: bytes) -> bool:
        """Whether retrieved context is put before a request to this model. The header decides for
        one request; a model that is configured not to receive any never does."""
        if not member.config.inject or dialect == "embeddings" or wanted == b"off":
            return False
        return self.config.inject.enabled or wanted == b"on"

    def _prepare(self, exchange: Exchange, member: Member, found: Context, wanted: bytes) -> None:
        """The request as this model is to see it: with context, or as it came."""
        exchange.prepared, exchange.context = exchange.body, ()
        text, items = found
        if text and self._takes_context(member, exchange.dialect, wanted):
            with contextlib.suppress(BadRequest, Untranslatable):  # no place for it: then without
                exchange.prepared = put_before(exchange.dialect, exchange.body, text)
                exchange.context = items

    def _may_ask(self, exchange: Exchange, name: str) -> None:
        """Raises Refusal where the key may not ask this model, or not now."""
        holder = exchange.holder
        if holder is None:
            return
        if not holder.may_ask(name):
            raise Refusal(
                403,
                "model_not_allowed",
                f"The key `{holder.key.name}` may not ask `{exchange.asked_model}`. It may ask "
                f"{', '.join(holder.key.models)}; `twin keys` changes that.",
            )
        self.ledger.check_key(holder.key, 0.0)
        holder.begin(exchange.num_prompt_tokens)

    async def _walk(
        self,
        exchange: Exchange,
        plan: route.Plan,
        asked: Question | None,
        client: Client,
        context: Context,
        wanted: bytes,
    ) -> None:
        """Asks one model after the other until an answer goes out. Raises Refusal."""
        failures: list[Unanswered] = []
        weak: tuple[Opened, Judgement] | None = None
        for number, step in enumerate(plan.steps):
            is_last = number == len(plan.steps) - 1
            self._prepare(exchange, step.member, context, wanted)
            self._hand_over(exchange, plan, step, asked, weak, failures)
            try:
                opened = await self._ask(exchange, step)
            except Unanswered as failure:
                failures.append(failure)
                continue
            try:
                if opened.is_error:
                    if plan.is_routed and (weak is not None or not is_last):
                        failures.append(self._declined(opened))
                        continue
                    await self.delivery.error(exchange, opened, client)
                    return
                exchange.model = step.member.name
                exchange.degraded = step.is_degraded
                if step.is_judged and asked is not None:
                    judgement = await self._judged(exchange, opened, asked)
                    if judgement.confidence < self.config.route.answer_confidence:
                        self._escalated(opened, judgement)
                        weak = (opened, judgement)
                        continue
                    await self.delivery.judged(exchange, opened, judgement, client)
                elif opened.pieces is not None:
                    await self.delivery.stream(exchange, opened, client)
                else:
                    await self.delivery.whole(exchange, opened, client)
                return
            except BackendError as error:
                # Whole JSON, and yet no answer of its dialect. Nothing has gone out of it.
                if client.has_begun:
                    raise
                exchange.model = ""
                reason = f"`{step.member.name}` did not answer: {str(error).rstrip('.')}"
                exchange.attempts.append(opened.attempt("failed", reason=reason))
                failures.append(Unanswered(reason))
            finally:
                await opened.close()
        if weak is not None:
            await self.delivery.weak(exchange, weak, client)
            return
        raise _nobody(failures)

    async def _ask(self, exchange: Exchange, step: route.Step) -> Opened:
        """Puts the request to one model. Raises Unanswered, also where a budget forbids it."""
        member = step.member
        head = exchange.head
        assert head is not None
        try:
            asking = (
                judge.question_for_judging(exchange, member)
                if step.is_judged
                else question_for(exchange, member, stream=head.stream)
            )
        except Untranslatable as error:
            raise Unanswered(f"`{member.name}` cannot be asked this: {error}", 400) from error
        expected = self._expected(exchange, member)
        why = self.ledger.why_not(member.name, member.config, expected)
        if why:
            raise Unanswered(why, 429)
        if exchange.holder is not None:
            try:
                self.ledger.check_key(exchange.holder.key, expected)
            except Refusal as refusal:  # a cheaper model may still be asked
                raise Unanswered(
                    refusal.message.rstrip("."), 429, refusal.retry_after_s, refusal.code
                ) from refusal
        self._settle(exchange)
        if not member.is_free:
            exchange.reserved = self.ledger.reserve(
                member.name, member.config, exchange.key_id, expected
            )
        return await ask(exchange, member, asking)

    def _settle(self, exchange: Exchange) -> None:
        """Puts what the last model asked really cost in its reservation's place."""
        if exchange.reserved is not None:
            cost = _cost(exchange) - exchange.settled_usd
            self.ledger.settle(exchange.reserved, cost)
            exchange.settled_usd += cost
            exchange.reserved = None

    def _expected(self, exchange: Exchange, member: Member) -> float:
        """What the call will cost at most or about, in USD."""
        head = exchange.head
        max_tokens = head.max_tokens if head is not None else None
        return expected_usd(member.config, exchange.num_prompt_tokens, max_tokens)

    def _hand_over(
        self,
        exchange: Exchange,
        plan: route.Plan,
        step: route.Step,
        asked: Question | None,
        weak: tuple[Opened, Judgement] | None,
        failures: list[Unanswered],
    ) -> None:
        """Tells a bigger tier what the smaller one saw, as a prefix before the request."""
        exchange.handoff = b""
        role = step.member.config.role
        if not plan.is_routed or asked is None or not self.config.route.handoff:
            return
        before = next(
            (member for tier in route.TIERS for member in self.fleet.of_role(tier)), step.member
        )
        if before is step.member or role not in route.TIERS or role == before.config.role:
            return
        if exchange.dialect == "embeddings":
            return
        reason = plan.decision.reason
        draft = ""
        if weak is not None:
            opened, judgement = weak
            before, reason = opened.member, judgement.reason
            draft = answer_of(opened.dialect, opened.first).text
        elif failures:
            reason = failures[-1].reason
        document = handoff(
            from_model=before.name,
            to_model=step.member.name,
            task_id=exchange.task_id or exchange.call_id,
            question=asked,
            classification=plan.decision.classification,
            context=exchange.context,
            reason=reason,
            at=exchange.at,
            draft=draft,
        )
        with contextlib.suppress(BadRequest, Untranslatable):  # no place for it: then without
            prefix = as_prefix(document)
            exchange.prepared = put_before(exchange.dialect, exchange.prepared, prefix)
            exchange.handoff = document

    async def _judged(self, exchange: Exchange, opened: Opened, asked: Question) -> Judgement:
        """What the built-in check says of an answer, and the verifier where there is one."""
        judgement = judge.judged(opened, asked)
        limit = self.config.route.answer_confidence
        verifier = self.fleet.members.get(self.config.route.verifier)
        if verifier is None or judgement.confidence < limit:
            return judgement
        expected = expected_usd(verifier.config, exchange.num_prompt_tokens, judge.MAX_GRADE_TOKENS)
        if self.ledger.why_not(verifier.name, verifier.config, expected):
            return judgement
        if exchange.holder is not None:
            try:
                self.ledger.check_key(exchange.holder.key, expected)
            except Refusal:
                return judgement
        reserved = self.ledger.reserve(verifier.name, verifier.config, exchange.key_id, expected)
        before = _cost(exchange)
        try:
            return await judge.verified(exchange, verifier, asked, opened, judgement)
        finally:
            cost = _cost(exchange) - before
            self.ledger.settle(reserved, cost)
            exchange.settled_usd += cost

    def _declined(self, opened: Opened) -> Unanswered:
        reason = f"`{opened.member.name}` refused the request ({opened.status})"
        opened.exchange.attempts.append(opened.attempt("failed", reason=reason))
        return Unanswered(reason, opened.status)

    def _escalated(self, opened: Opened, judgement: Judgement) -> None:
        usage = judge.usage_of_judged(opened)
        self.metrics.escalated()
        opened.exchange.attempts.append(
            opened.attempt(
                "escalated",
                reason=judgement.reason,
                usage=usage,
                cost_usd=cost_usd(opened.member.config, usage),
                confidence=judgement.confidence,
            )
        )


def _cost(exchange: Exchange) -> float:
    return sum(attempt.cost_usd for attempt in exchange.attempts)


def _num_completion_tokens(exchange: Exchange) -> int:
    return sum(a.usage.num_completion_tokens for a in exchange.attempts if a.usage is not None)


def _nobody(failures: list[Unanswered]) -> Refusal:
    """Why no model answered: each one's reason, and when to come back."""
    reasons = "; ".join(dict.fromkeys(failure.reason for failure in failures))
    statuses = {failure.status for failure in failures}
    waits = [failure.wait_s for failure in failures if failure.wait_s is not None]
    status = statuses.pop() if len(statuses) == 1 else 502
    code = {429: "rate_limit_exceeded", 504: "timeout", 503: "unavailable", 400: "unsupported"}
    wait = min(waits) if waits else None
    named = next((failure.code for failure in failures if failure.code), "")
    if wait is None and status in (429, 503):
        wait = 1.0
    return Refusal(
        status,
        named or code.get(status, "upstream_failed"),
        f"No model could answer: {reasons or 'none is configured'}. `twin calls` shows each try.",
        retry_after_s=wait,
    )
