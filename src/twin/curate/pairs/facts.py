"""What is known of one commit, and the one way in which a pair is made of it.

Everything that may stand in a prompt is from the parent: `parent`, `context`, `candidates`. What is
from the commit itself (`sides`, `plan`, `after`, the validation) is for answers; where one stage of
the work hands its answer to the next, that answer stands in the next one's prompt, as it would at
work. Reads nothing itself: `cycle` brings the facts together.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from twin.coding.changed import Sides
from twin.coding.context import ContextPackage, num_tokens
from twin.coding.index import Snapshot
from twin.coding.plan import Plan, Step
from twin.coding.retrieved import encodable
from twin.records import Commit, Message, Mutant, Pair, PairKind, PairOrigin, Validation

TOKENS_PER_MESSAGE: Final = 8
"""What chat templates put around a message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TriedPlan:
    """A trial at the commit that came to an end: a plan, what was made of it, and its grade."""

    campaign: str
    number: int
    context_id: str
    """The artefact with what its planner was shown."""
    is_solved: bool
    alignment: float
    plan: Plan
    edits: Callable[[], Mapping[str, bytes | None]]
    """Path -> content after the work. Read only where it is needed; raises StoreCorrupt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlantedFault:
    """A fault in the commit's own code that its tests catch."""

    mutant: Mutant
    faulty: bytes
    whole: bytes
    """The file as the commit left it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """One commit."""

    repository: str
    commit: Commit
    task: str
    validation: Validation | None
    """None where its tests were not run."""
    sides: Sequence[Sides]
    """Of the files it changed, without tests."""
    test_sides: Sequence[Sides]
    parent: Snapshot
    after: Snapshot
    plan: Plan
    """The plan that the commit carried out."""
    context: ContextPackage
    """What was retrieved at the parent."""
    context_id: str
    candidates: Sequence[str]
    """The files that were retrieved, best first."""
    trials: Sequence[TriedPlan]
    mute_trials: Mapping[str, int]
    """Why trials say nothing (`bad_plan`) -> how many."""
    faults: Sequence[PlantedFault]
    code_version: str

    def pair(
        self,
        kind: PairKind,
        prompt: "Prompt",
        completion: str,
        *,
        rejected: str = "",
        stage: Literal["", "plan", "edit"] = "",
        trial: TriedPlan | None = None,
    ) -> Pair:
        """A pair of this commit, or of a trial at it."""
        system, user = encodable(prompt.system), encodable(prompt.user)
        answers = encodable(completion), encodable(rejected)
        tokens = sum(TOKENS_PER_MESSAGE + num_tokens(text) for text in (system, user))
        return Pair(
            kind=kind,
            stage=stage,
            task=encodable(self.task),
            prompt=(Message(role="system", content=system), Message(role="user", content=user)),
            completion=answers[0],
            rejected=answers[1],
            num_tokens=tokens + TOKENS_PER_MESSAGE + max(map(num_tokens, answers)),
            origin=PairOrigin(
                repository=self.repository,
                commit_id=self.commit.commit_id,
                parent_id=self.commit.parent_ids[0],
                commit_time=self.commit.commit_time,
                source="trial" if trial else "commit",
                validity=self.validity,
                context_id=self.context_id,
                code_version=self.code_version,
                campaign=trial.campaign if trial else "",
                trial=trial.number if trial else None,
            ),
        )

    @property
    def validity(self) -> str:
        """`valid`, `unvalidated`, or why not."""
        if self.validation is None:
            return "unvalidated"
        return self.validation.why or "valid"


Maker = Callable[[Facts], Iterator[Pair | str]]
"""The pairs of one kind, and a short reason for each that did not come about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What a stage is told: who it is, and its question in sections under headings."""

    system: str
    user: str


def sections(**parts: str) -> str:
    """The user's message; names of sections are written with `_` for spaces."""
    return "\n\n".join(f"# {name.replace('_', ' ')}\n{text}" for name, text in parts.items()) + "\n"


def as_json(value: object) -> str:
    """As a model writes it: what is empty is left out, short of the top level."""
    return json.dumps(_full(msgspec.to_builtins(value)), ensure_ascii=False)


def steps_as_json(plan: Plan) -> str:
    """A plan whose steps stand in the order in which they are done."""
    return as_json(Plan(steps=plan.ordered()))


def step_as_json(step: Step) -> str:
    """A step as whoever carries it out is told it."""
    told = msgspec.to_builtins(msgspec.structs.replace(step, depends_on=()))
    return as_json({name: value for name, value in told.items() if value})


def _full(value: Any, *, inside: bool = False) -> Any:
    if isinstance(value, dict):
        return {
            name: _full(one, inside=True)
            for name, one in value.items()
            if not inside or one not in ("", (), [], None)
        }
    if isinstance(value, list | tuple):
        return [_full(one, inside=True) for one in value]
    return value
