"""Which models are asked, in which order, and why.

A call that names a model gets that model, then its fallbacks. A call to `twin` is classified and
begins at the cheapest tier that can do it; the bigger tiers stand behind it, and the emergency
model behind them all. Decides before anyone is asked; whether an answer is good enough is `judge`'s
matter.
"""

from typing import NamedTuple

from twin.config import ROUTED, RouteConfig
from twin.records import Classification, Question, RouteDecision
from twin.serve.fleet import Fleet, Member
from twin.serve.refusal import Refusal

TIERS = ("triage", "reasoning", "escalation")


class Step(NamedTuple):
    """One model to ask."""

    member: Member
    is_judged: bool = False
    """Its answer is judged before it goes out."""
    is_degraded: bool = False
    """It stands in for models that should have answered."""


class Plan(NamedTuple):
    """What was decided, and the models in the order in which they are asked."""

    decision: RouteDecision
    steps: list[Step]
    is_routed: bool


def named(fleet: Fleet, name: str) -> Plan:
    """The plan for a call that named its model."""
    member = fleet.members[name]
    others = [Step(fleet.members[other]) for other in member.config.fallback if other != name]
    decision = RouteDecision(model=name, reason="The caller named it.")
    return Plan(decision, [Step(member), *others], False)


def routed(
    fleet: Fleet, config: RouteConfig, question: Question, classification: Classification
) -> Plan:
    """The plan for a call to `twin`. Raises Refusal where no model has a tier."""
    tiers = {role: list(fleet.of_role(role)) for role in TIERS}
    emergency = [Step(member, is_degraded=True) for member in fleet.of_role("emergency")]
    if not any(tiers.values()):
        return _without_tiers(fleet, classification, emergency)
    first, reason = _first_tier(config, classification)
    order = [*TIERS[first:], *reversed(TIERS[1:first])]
    above = [member for role in TIERS[1:] for member in tiers[role]]
    steps = [
        # There is no one to hand the answer to where no bigger model is configured.
        Step(member, is_judged=config.check and role == "triage" and bool(above))
        for role in order
        for member in tiers[role]
    ]
    if not steps:  # only a triage model, and the question is above it
        steps = [Step(member) for member in tiers["triage"]]
        reason = f"{reason[:-1]}, but no bigger model is configured."
    steps = [step for step in steps if _fits(step.member, question)] or steps[-1:]
    decision = RouteDecision(
        model=steps[0].member.name, reason=reason, classification=classification
    )
    return Plan(decision, steps + emergency, True)


def _without_tiers(fleet: Fleet, classification: Classification, emergency: list[Step]) -> Plan:
    members = [m for m in fleet.members.values() if m.config.role != "emergency"]
    if len(members) > 1 or not (members or emergency):
        raise Refusal(
            404,
            "model_not_found",
            f"`{ROUTED}` chooses between tiers, and no model has one. Give models a `role` "
            "(triage, reasoning, escalation), or ask for a model by name.",
        )
    steps = [Step(member) for member in members] + emergency
    decision = RouteDecision(
        model=steps[0].member.name, reason="It is the only model.", classification=classification
    )
    return Plan(decision, steps, True)


def _first_tier(config: RouteConfig, found: Classification) -> tuple[int, str]:
    """The number of the tier to begin with, and the sentence that says why."""
    if found.type == "novel":
        return 2, "The task is novel."
    if found.complexity > config.complexity:
        return 1, f"complexity {found.complexity:.2f} above threshold {config.complexity:.2f}."
    if found.confidence <= config.confidence:
        return 1, (
            f"confidence {found.confidence:.2f} not above threshold {config.confidence:.2f}."
        )
    return 0, (
        f"confidence {found.confidence:.2f} above {config.confidence:.2f} and complexity "
        f"{found.complexity:.2f} at or under {config.complexity:.2f}."
    )


def _fits(member: Member, question: Question) -> bool:
    window = member.config.context_window
    needed = question.num_prompt_tokens + (question.max_tokens or 0)
    return window is None or needed <= window
