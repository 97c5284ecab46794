"""What was spent this month, by model and by key, and whether one more call may be.

Counts in memory, beginning with what the store knows; the store's own sums are written by the
recorder. A call reserves its likely cost before it goes out, so that many at once cannot overrun a
budget together, and settles it afterwards.
"""

import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from twin.config import BudgetConfig, ModelConfig
from twin.records import Spend, Usage, VirtualKey
from twin.serve.refusal import Refusal

MILLION = 1_000_000.0
_ROLES_WITH_BUDGET = ("triage", "reasoning", "escalation")


def cost_usd(model: ModelConfig, usage: Usage) -> float:
    """What an answer cost by the configured price."""
    price = model.price
    if price.input == 0 and price.output == 0:
        return 0.0
    cached = min(usage.num_cached_tokens, usage.num_prompt_tokens)
    rate = price.input if price.cached is None else price.cached
    fresh = usage.num_prompt_tokens - cached
    return (fresh * price.input + cached * rate + usage.num_completion_tokens * price.output) / (
        MILLION
    )


_Sums = tuple[float, dict[str, float], dict[str, float], dict[str, float]]


USUAL_ANSWER = 1_000
"""Tokens of an answer whose length nobody has bounded: more than most have."""


def is_priced(model: ModelConfig) -> bool:
    return model.price.input != 0 or model.price.output != 0


def expected_usd(model: ModelConfig, num_prompt_tokens: int, max_tokens: int | None) -> float:
    """What a call will cost at most or about, before it is made."""
    if not is_priced(model):
        return 0.0
    num_completion = USUAL_ANSWER if max_tokens is None else max_tokens
    usage = Usage(num_prompt_tokens=num_prompt_tokens, num_completion_tokens=num_completion)
    return cost_usd(model, usage)


class Reservation:
    """What a call under way is expected to cost; `Ledger.settle` ends it."""

    __slots__ = ("amount", "key_id", "model", "month", "role")

    def __init__(self, month: str, model: str, role: str, key_id: str, amount: float) -> None:
        self.month = month
        self.model = model
        self.role = role
        self.key_id = key_id
        self.amount = amount


class Ledger:
    """This month's sums in USD. All in the event loop's thread."""

    def __init__(self, budget: BudgetConfig, now: Callable[[], float] = time.time) -> None:
        self.budget = budget
        self._has_none = budget == BudgetConfig()
        self._now = now
        self._month = ""
        self._month_ends = 0.0
        self._month_began = 0.0
        self._left: dict[str, _Sums] = {}
        self.total = 0.0
        self.by_model: dict[str, float] = {}
        self.by_role: dict[str, float] = {}
        self.by_key: dict[str, float] = {}
        self._turn()

    def begin_with(self, spends: Iterable[Spend], roles: dict[str, str]) -> None:
        """Replaces the sums by what the store holds of this month; `roles` is model -> role."""
        self._turn()
        self._clear()
        for spend in spends:
            if spend.month == self._month:
                role = roles.get(spend.model, "other")
                self._add(spend.model, role, spend.key_id, spend.cost_usd)

    def adopt(self, budget: BudgetConfig, roles: dict[str, str]) -> None:
        """New limits after a reload; what was spent stays spent, also by models that went."""
        self.budget = budget
        self._has_none = budget == BudgetConfig()
        self.by_role = {}
        for model, amount in self.by_model.items():
            role = roles.get(model, "other")
            self.by_role[role] = self.by_role.get(role, 0.0) + amount

    def why_not(self, name: str, model: ModelConfig, expected: float) -> str:
        """Why this model is over a budget; empty where it is not."""
        if self._has_none and model.monthly_usd is None:
            return ""
        self._turn()
        costs = is_priced(model)
        if model.monthly_usd is not None and self._over(
            self.by_model.get(name, 0.0), expected, model.monthly_usd, costs
        ):
            return f"the monthly budget of `{name}` ({model.monthly_usd:g} USD) is used up"
        limit = getattr(self.budget, model.role) if model.role in _ROLES_WITH_BUDGET else None
        spent = self.by_role.get(model.role, 0.0)
        if limit is not None and self._over(spent, expected, limit, costs):
            return f"the monthly budget of {model.role} models ({limit:g} USD) is used up"
        total = self.budget.total
        if total is not None and costs and self._over(self.total, expected, total, costs):
            return f"the monthly budget of all models ({total:g} USD) is used up"
        return ""

    def check_key(self, key: VirtualKey, expected: float) -> None:
        """Raises Refusal where the key's own budget is used up."""
        self._turn()
        spent = self.by_key.get(key.key_id, 0.0)
        if key.monthly_usd is not None and self._over(
            spent, expected, key.monthly_usd, expected > 0
        ):
            raise Refusal(
                429,
                "insufficient_quota",
                f"The monthly budget of the key `{key.name}` ({key.monthly_usd:g} USD) is used up. "
                "Raise it with `twin keys`, or wait for the next month (UTC).",
                retry_after_s=max(1.0, self._month_ends - self._now()),
            )

    def reserve(self, name: str, model: ModelConfig, key_id: str, expected: float) -> Reservation:
        if expected:
            self._turn()
            self._add(name, model.role, key_id, expected)
        return Reservation(self._month, name, model.role, key_id, expected)

    def settle(self, reserved: Reservation, cost: float) -> None:
        """Puts the real cost in the reservation's place. One that began last month was last
        month's."""
        if cost == reserved.amount:
            return
        self._turn()
        if reserved.month == self._month:
            change = cost - reserved.amount
            self._add(reserved.model, reserved.role, reserved.key_id, change)

    @staticmethod
    def _over(spent: float, expected: float, limit: float, costs: bool) -> bool:
        # A call that costs nothing passes until the limit itself is crossed by others. One that
        # costs does so however little is expected of it.
        return spent + expected > limit or (costs and spent >= limit)

    def _add(self, model: str, role: str, key_id: str, amount: float) -> None:
        self.total += amount
        self.by_model[model] = self.by_model.get(model, 0.0) + amount
        self.by_role[role] = self.by_role.get(role, 0.0) + amount
        self.by_key[key_id] = self.by_key.get(key_id, 0.0) + amount

    def _clear(self) -> None:
        self.total = 0.0
        self.by_model, self.by_role, self.by_key = {}, {}, {}

    def _turn(self) -> None:
        """Begins a new month when it is time. A clock that steps back a little stays in the month
        it was in: a budget must not come anew each time."""
        now = self._now()
        if now < self._month_ends and now > self._month_began - 86_400.0:
            return
        today = datetime.fromtimestamp(now, tz=UTC)
        first = today.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        after = first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
        month = f"{today:%Y-%m}"
        self._month_began, self._month_ends = first.timestamp(), after.timestamp()
        if month != self._month:
            # A clock may leap ahead and come back: the month it left must not begin anew.
            self._left[self._month] = (self.total, self.by_model, self.by_role, self.by_key)
            self._month = month
            self._clear()
            if month in self._left:
                self.total, self.by_model, self.by_role, self.by_key = self._left.pop(month)

    @property
    def month(self) -> str:
        """`2026-11`, in UTC."""
        self._turn()
        return self._month
