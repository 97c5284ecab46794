"""Pairs of answers of which one is better: two trials at one commit, one passed and one failed.

What the failure says depends on its plan. One that fits the true change clearly less is a plan
fault: the two plans are the pair. Where the plan is as good, the fault lies in the edits, and these
can be compared only if both carried out the same plan. Everything else says nothing.
"""

from collections.abc import Iterator
from typing import Final

from twin.curate.pairs.edited import written
from twin.curate.pairs.facts import Facts, TriedPlan, steps_as_json
from twin.curate.pairs.planned import plan_prompt
from twin.errors import StoreCorrupt
from twin.records import Pair

MARGIN: Final = 0.05
"""How much less a failed plan must fit. Leaving out one symbol of ten costs 0.018 and seldom
matters; a file of ten with its symbols costs 0.05."""


def preference(facts: Facts) -> Iterator[Pair | str]:
    """Each distinct failure beside the passed trial whose plan fits best."""
    for why, count in facts.mute_trials.items():
        yield from [why] * count
    alike = [trial for trial in facts.trials if trial.context_id == facts.context_id]
    for _ in range(len(facts.trials) - len(alike)):
        yield "other_context"  # its plan answered another question
    passed = [trial for trial in alike if trial.is_solved]
    failed = [trial for trial in alike if not trial.is_solved]
    if not failed:
        return
    if not passed:
        yield "none_passed"
        return
    best = max(passed, key=lambda trial: trial.alignment)
    plans: set[str] = set()
    for trial in failed:
        if trial.alignment > best.alignment - MARGIN:
            yield from _edits(facts, passed, trial)
            continue
        rejected = steps_as_json(trial.plan)
        if rejected in plans:
            yield "same_failure"
            continue
        plans.add(rejected)
        yield facts.pair(
            "preference", plan_prompt(facts), steps_as_json(best.plan),
            rejected=rejected, stage="plan", trial=trial,
        )  # fmt: skip


def _edits(facts: Facts, passed: list[TriedPlan], failed: TriedPlan) -> Iterator[Pair | str]:
    """The files in which a failure differs from a trial that passed with the same plan."""
    same = [trial for trial in passed if steps_as_json(trial.plan) == steps_as_json(failed.plan)]
    if not same:
        yield "no_plan_fault"
        return
    try:
        good, bad = same[0].edits(), failed.edits()
    except StoreCorrupt:
        yield "artifact_damaged"
        return
    num_found = 0
    for step in failed.plan.steps:
        side = next((side for side in facts.sides if side.change.path == step.path), None)
        if good.get(step.path) == bad.get(step.path):
            continue
        if side is None:
            yield "not_in_commit"
            continue
        chosen = written(facts, step, side, good.get(step.path))
        rejected = written(facts, step, side, bad.get(step.path))
        if isinstance(chosen, str) or isinstance(rejected, str):
            yield "edits_not_comparable"
            continue
        num_found += 1
        yield facts.pair(
            "preference", chosen[0], chosen[1], rejected=rejected[1], stage="edit", trial=failed
        )
    if not num_found:
        yield "same_edits"
