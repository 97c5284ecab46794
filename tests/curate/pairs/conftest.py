"""One commit with everything that is known of it, put together by hand."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from twin.coding.changed import Sides, plan_of
from twin.coding.context import ContextPackage
from twin.coding.graph import resolve_imports
from twin.coding.index import Snapshot
from twin.coding.languages import language_of
from twin.coding.parse import parse
from twin.coding.paths import role_of
from twin.coding.plan import Plan
from twin.curate.pairs.facts import Facts, TriedPlan
from twin.records import Commit, FileChange, Message, Pair, PairOrigin, Validation

Files = Mapping[str, str | bytes]
MakeFacts = Callable[..., Facts]

BEFORE: Files = {
    "calc/core.py": (
        "class Calc(Base):\n"
        "    def add(self, a, b):\n        return checked(a) - b\n\n"
        "    def sub(self, a, b):\n        return a - b\n\n\n"
        "def checked(a):\n    return a\n\n\ndef other():\n    return 0\n"
    ),
    "calc/base.py": "class Base:\n    pass\n",
    "tests/test_core.py": "def test_sub(): pass\n",
}
AFTER: Files = {
    **BEFORE,
    "calc/core.py": str(BEFORE["calc/core.py"]).replace("checked(a) - b", "checked(a) + b"),
    "calc/late.py": "late = 1  # SENTINEL of the commit\n",
    "tests/test_core.py": "def test_sub(): pass\ndef test_add(): SENTINEL\n",
}


def snapshot(commit_id: str, files: Files) -> Snapshot:
    parsed = {
        path: parse(data.encode() if isinstance(data, str) else data, language)
        for path, data in files.items()
        if (language := language_of(path))
    }
    return Snapshot(
        commit_id=commit_id,
        files=dict.fromkeys(files, "b" * 40),
        parsed=parsed,
        imports=resolve_imports(parsed),
    )


def sides(before: Files, after: Files) -> list[Sides]:
    found = []
    for path in sorted({*before, *after}):
        old, new = before.get(path), after.get(path)
        if old != new:
            status = "A" if old is None else "D" if new is None else "M"
            change = FileChange(
                path=path,
                status=status,  # type: ignore[arg-type]
                old_blob="" if old is None else "a" * 40,
                new_blob="" if new is None else "b" * 40,
            )
            found.append(Sides(change=change, before=as_bytes(old), after=as_bytes(new)))
    return found


def as_bytes(data: str | bytes | None) -> bytes | None:
    return data.encode() if isinstance(data, str) else data


def tried(plan: Plan, *, solved: bool, alignment: float, **how: Any) -> TriedPlan:
    edits = how.pop("edits", {})
    trial = TriedPlan(
        campaign="c", number=0, context_id="k" * 64, is_solved=solved, alignment=alignment,
        plan=plan, edits=edits if callable(edits) else lambda: edits,
    )  # fmt: skip
    return replace(trial, **how)


@pytest.fixture(scope="session")
def make_facts() -> MakeFacts:
    """A commit that turns one tree into another; a subtraction into an addition, by default."""

    def make(before: Files = BEFORE, after: Files = AFTER, **more: Any) -> Facts:
        changed = sides(before, after)
        code = [side for side in changed if role_of(side.change.path) != "test"]
        facts = Facts(
            repository="ada/calc",
            commit=Commit(
                commit_id="c" * 40,
                parent_ids=("d" * 40,),
                author_name="Ada",
                author_email="ada@example.org",
                author_time=100,
                commit_time=100,
                subject="Add in add",
                body="",
            ),
            task="Add in add",
            validation=Validation(
                commit_id="c" * 40,
                parent_id="d" * 40,
                why="",
                classes={
                    "tests/test_core.py::test_add": "fail_to_pass",
                    "tests/test_core.py::test_sub": "pass_to_pass",
                },
            ),
            sides=code,
            test_sides=[side for side in changed if side not in code],
            parent=snapshot("d" * 40, before),
            after=snapshot("c" * 40, after),
            plan=plan_of(code),
            context=ContextPackage(
                task="Add in add", commit_id="d" * 40, budget_tokens=9, num_tokens=9, items=(),
                num_left_out=0,
            ),
            context_id="k" * 64,
            candidates=["calc/base.py", "calc/core.py"],
            trials=(),
            mute_trials={},
            faults=(),
            code_version="1",
        )  # fmt: skip
        return replace(facts, **more)

    return make


def pair(task: str = "Do it", completion: str = "done", **how: Any) -> Pair:
    origin = PairOrigin(
        repository=how.pop("repository", "a/b"), commit_id=how.pop("commit_id", "c" * 40),
        parent_id="d" * 40, commit_time=how.pop("commit_time", 100), source="commit",
        validity=how.pop("validity", "valid"), context_id="k", code_version="1",
    )  # fmt: skip
    return Pair(
        kind=how.pop("kind", "edit"),
        task=task,
        prompt=(Message(role="user", content=how.pop("prompt", task)),),
        completion=completion,
        num_tokens=how.pop("num_tokens", 10),
        origin=origin,
        **how,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path
