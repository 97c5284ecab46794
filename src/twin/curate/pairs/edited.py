"""Pairs of the stage that writes code: one step of a plan and its file -> search/replace blocks.

The blocks, applied to the file as it was at the parent, give the file as it was committed, byte for
byte; what cannot be written so is left out.
"""

from collections.abc import Iterator
from typing import Final

from twin.coding.changed import Sides
from twin.coding.edits import apply, as_text, blocks_of, text_of
from twin.coding.languages import language_of
from twin.coding.paths import role_of
from twin.coding.plan import Step
from twin.curate.pairs.facts import Facts, Prompt, sections, step_as_json
from twin.curate.pairs.located import path_before
from twin.records import Pair

EDIT: Final = (
    "You carry out one step of a plan in one file. Answer with search/replace blocks:\n"
    "<<<<<<< SEARCH\nlines of the file, exactly\n=======\nwhat takes their place\n>>>>>>> REPLACE\n"
    "Every search text must stand exactly once in the file. An empty one stands for an empty file."
)


def edit(facts: Facts) -> Iterator[Pair | str]:
    """A pair for each file of code that the commit added or changed."""
    steps = {step.path: step for step in facts.plan.steps}
    for side in facts.sides:
        path = side.change.path
        if language_of(path) is None or role_of(path) in ("vendored", "generated"):
            yield "no_code"
        elif side.change.status in ("D", "T"):
            yield "deleted" if side.change.status == "D" else "no_text"
        else:
            found = written(facts, steps[path], side, side.after)
            if isinstance(found, str):
                yield found
            else:
                yield facts.pair("edit", *found)


def written(facts: Facts, step: Step, side: Sides, after: bytes | None) -> tuple[Prompt, str] | str:
    """The prompt for a step and the blocks that make `after` of its file; or why there are none."""
    was_there = bool(path_before(side))
    if after is None or (was_there and side.before is None):
        return "unread"  # too large, missing from a partial clone, or not made at all
    return asked(facts.task, step, side.before if was_there else None, after)


def asked(task: str, step: Step, before: bytes | None, after: bytes) -> tuple[Prompt, str] | str:
    """The same for any task; a file that is not there yet is None."""
    old, new = text_of(before), text_of(after)
    if old is None or new is None:
        return "no_text"
    blocks = blocks_of(old, new)
    if not blocks:
        return "no_edit"
    assert apply(old, blocks) == new
    now = "It is not there yet." if before is None else fenced(old)
    user = sections(Task=task, Step=step_as_json(step), File=now)
    return Prompt(system=EDIT, user=user), as_text(blocks)


def fenced(text: str) -> str:
    """Text between marks that it does not hold."""
    mark = "```"
    while mark in text:
        mark += "`"
    end = "" if text.endswith("\n") else "\n"
    return f"{mark}\n{text}{end}{mark}"
